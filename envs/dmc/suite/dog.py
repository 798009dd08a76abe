"""Dog: a dog with a spine, a neck and a tail, to stand, walk, trot, run and fetch a ball."""

from __future__ import annotations

import math

import mujoco
import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, load_model
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics
from envs.streams import EpisodeStreams

EPISODE_SECONDS = 15
CONTROL_TIMESTEP = 0.015
"""(seconds)"""
MAX_UPRIGHT_ANGLE = 30
"""Of a body's vertical axis from the world's, below which it counts as upright (degrees)."""
MIN_UPRIGHT_COSINE = math.cos(math.radians(MAX_UPRIGHT_ANGLE))
STAND_HEIGHT_FRACTION = 0.9
"""Of the height in the default pose, above which the standing reward is 1."""
WALK_SPEED = 1
TROT_SPEED = 3
RUN_SPEED = 9
"""Forward speeds above which the moving reward is 1 (m/s)."""
BITE_MARGIN = 2
"""Distance of the mouth from the ball at which reaching it is worth a tenth (m)."""

SUITE = Domain("dog")


@SUITE.add
def stand() -> BatchedTask:
    return Stand(_on_floor(WALK_SPEED))


@SUITE.add
def walk() -> BatchedTask:
    return Move(_on_floor(WALK_SPEED), WALK_SPEED)


@SUITE.add
def trot() -> BatchedTask:
    return Move(_on_floor(TROT_SPEED), TROT_SPEED)


@SUITE.add
def run() -> BatchedTask:
    return Move(_on_floor(RUN_SPEED), RUN_SPEED)


@SUITE.add
def fetch() -> BatchedTask:
    return Fetch(load_model("dog", remove_ball=False))


def _on_floor(speed: float) -> mujoco.MjModel:
    """The dog alone, on a floor large enough to move at `speed` (m/s) for an episode."""
    return load_model("dog", floor_size=speed * EPISODE_SECONDS)


class Stand(BatchedTask):
    """Stand upright."""

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model, CONTROL_TIMESTEP)
        default = mujoco.MjData(model)
        mujoco.mj_forward(model, default)
        self._stand_heights = [STAND_HEIGHT_FRACTION * default.body(name).xpos[2] for name in ("torso", "pelvis")]
        self._body_weight = float(-model.opt.gravity[2] * model.body_subtreemass[model.body("torso").id])

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        model = self.model
        hinges = model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE
        self._angles = self.tensor(model.jnt_qposadr[hinges], torch.int64)
        self._velocities = self.tensor(model.jnt_dofadr[hinges], torch.int64)
        self._xpos, self._xmat = physics.data("xpos"), physics.data("xmat")
        self._trunk = physics.indices("xpos", ["torso", "pelvis"])
        self._upright_bodies = physics.indices("xmat", ["skull", "torso", "pelvis"])
        self._torso_frame = physics.named("xmat", "torso").unflatten(1, (3, 3))
        self.center_of_mass_velocity = physics.named("sensordata", "torso_linvel")
        self._sensors = physics.data("sensordata")
        self._inertial = physics.indices("sensordata", ["accelerometer", "velocimeter", "gyro"])
        self._touch = physics.indices("sensordata", ["palm_L", "palm_R", "sole_L", "sole_R"])
        self._forces = physics.indices("sensordata", ["foot_L", "foot_R", "hand_L", "hand_R"])
        self._root = physics.index("qpos", "root")
        self._control_low, self._control_high = self.tensor(model.actuator_ctrlrange).T

    # ------------------------------------------------------------- readings

    def torso_pelvis_height(self) -> Tensor:
        """(W, 2)."""
        return self._xpos[:, self._trunk, 2]

    def z_projection(self) -> Tensor:
        """The world's vertical in the frames of skull, torso and pelvis, (W, 3, 3)."""
        return self._xmat[:, self._upright_bodies, 6:]

    def torso_com_velocity(self) -> Tensor:
        """Velocity of the centre of mass as seen from the torso, (W, 3)."""
        return (self.center_of_mass_velocity[:, None] @ self._torso_frame)[:, 0]

    def touch_sensors(self) -> Tensor:
        """(W, 4)."""
        return self._sensors[:, self._touch]

    # ------------------------------------------------------------- episodes

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        physics = self.physics
        qpos, qvel = physics.qpos.clone(), physics.qvel.clone()
        azimuth = random.uniform("azimuth", 0.0, 2.0 * math.pi)
        zero = torch.zeros_like(azimuth)
        quaternion = torch.stack([torch.cos(azimuth / 2), zero, zero, torch.sin(azimuth / 2)], dim=1)
        qpos[:, self._root.start + 3 : self._root.stop] = quaternion
        drift = random.normal("drift", (3,), scale=2.0)
        qvel[:, :2], qvel[:, 5] = drift[:, :2], drift[:, 2]  # in the horizontal plane, and around the vertical
        act = random.uniform("actuators", self._control_low, self._control_high, (self.model.na,))
        physics.set_state(mask, qpos, qvel, act)

    def get_observation(self) -> dict[str, Tensor]:
        physics, sensors = self.physics, self._sensors
        return {
            "joint_angles": physics.qpos[:, self._angles],
            "joint_velocites": physics.qvel[:, self._velocities],  # dm_control's spelling
            "torso_pelvis_height": self.torso_pelvis_height(),
            "z_projection": self.z_projection().flatten(1),
            "torso_com_velocity": self.torso_com_velocity(),
            "inertial_sensors": sensors[:, self._inertial],
            "foot_forces": sensors[:, self._forces],
            "touch_sensors": self.touch_sensors(),
            "actuator_state": physics.act,
        }

    def get_reward(self) -> Tensor:
        height = self.torso_pelvis_height()
        reward = self._upright_reward()
        for part, stand_height in enumerate(self._stand_heights):
            reward = reward * tolerance(height[:, part], (stand_height, math.inf), margin=stand_height)
        weight = self._body_weight  # borne by the feet
        touch = self.touch_sensors().sum(dim=1)
        return reward * tolerance(touch, (weight, math.inf), margin=weight, sigmoid="linear", value_at_margin=0.9)

    def _upright_reward(self) -> Tensor:
        bounds, margin = (MIN_UPRIGHT_COSINE, math.inf), MIN_UPRIGHT_COSINE + 1
        upright = tolerance(self.z_projection()[..., 2], bounds, margin, sigmoid="linear", value_at_margin=0)
        return upright.prod(dim=1)


class Move(Stand):
    """Move forward at `move_speed` (m/s)."""

    def __init__(self, model: mujoco.MjModel, move_speed: float) -> None:
        super().__init__(model)
        self._move_speed = move_speed

    def get_reward(self) -> Tensor:
        bounds, margin = (self._move_speed, 2 * self._move_speed), max(1.0, self._move_speed)
        speed = self.torso_com_velocity()[:, 0]
        forward = tolerance(speed, bounds, margin, value_at_margin=0, sigmoid="linear")
        return super().get_reward() * (4 * forward + 1) / 5


class Fetch(Stand):
    """Fetch a thrown ball and bring it to the target."""

    THROW_HEIGHT = 3
    """The highest that the ball is thrown (m)."""
    THROW_SPEED = 5
    """The fastest that it is thrown, horizontally (m/s)."""

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model)
        self._floor_size = float(model.geom("floor").size[0])
        self._target_radius = float(model.geom("target").size[0])
        self._bite_radius = float(model.site("upper_bite").size[0])

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        model = self.model
        self._head_frame = physics.named("site_xmat", "head").unflatten(1, (3, 3))
        self._head_pos = physics.named("site_xpos", "head")
        self._ball_pos = physics.named("geom_xpos", "ball")
        self._target_pos = physics.named("geom_xpos", "target")
        self._bite = physics.data("site_xpos"), physics.indices("site_xpos", ["upper_bite", "lower_bite"])
        self._cvel, self._subtree_com = physics.data("cvel"), physics.data("subtree_com")
        self._head_body, self._ball_body = int(model.site("head").bodyid[0]), int(model.geom("ball").bodyid[0])
        self._ball_qpos, self._ball_qvel = physics.index("qpos", "ball_root"), physics.index("qvel", "ball_root")

    def _velocity(self, body: int, point: Tensor) -> Tensor:
        """Of `point` (W, 3), fixed to `body`, in the world's frame (W, 3): mj_objectVelocity's linear part.

        MuJoCo keeps a body's (angular, linear) velocity for the point where its tree's centre of mass is.
        """
        angular, linear = self._cvel[:, body, :3], self._cvel[:, body, 3:]
        centre = self._subtree_com[:, int(self.model.body_rootid[body])]
        return linear + torch.linalg.cross(angular, point - centre)

    def ball_in_head_frame(self) -> Tensor:
        """Position and velocity of the ball as seen from the head, (W, 6)."""
        head_vel = self._velocity(self._head_body, self._head_pos)
        ball_vel = self._velocity(self._ball_body, self._ball_pos)
        both = torch.stack([self._ball_pos - self._head_pos, ball_vel - head_vel], dim=1)
        return (both @ self._head_frame).flatten(1)

    def target_in_head_frame(self) -> Tensor:
        """(W, 3)."""
        return ((self._target_pos - self._head_pos)[:, None] @ self._head_frame)[:, 0]

    def ball_to_mouth_distance(self) -> Tensor:
        """The mean of the distances to the upper and the lower bite, (W,)."""
        sites, bites = self._bite
        return torch.linalg.vector_norm(self._ball_pos[:, None] - sites[:, bites], dim=2).mean(dim=1)

    def ball_to_target_distance(self) -> Tensor:
        """(W,)."""
        return torch.linalg.vector_norm(self._ball_pos - self._target_pos, dim=1)

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        super().initialize_episode(mask, random)
        physics = self.physics
        qpos, qvel = physics.qpos.clone(), physics.qvel.clone()
        # Thrown from far out towards the middle, more or less, and upwards.
        azimuth = random.uniform("ball azimuth", 0.0, 2.0 * math.pi)
        outward = torch.stack([torch.sin(azimuth), torch.cos(azimuth)], dim=1)
        ball = self._ball_qpos.start
        qpos[:, ball : ball + 2] = 0.75 * self._floor_size * outward
        qpos[:, ball + 2] = 0.05
        height = random.uniform("ball height", 0.0, self.THROW_HEIGHT)
        speed = random.uniform("ball speed", 0.0, self.THROW_SPEED, (1,))
        ball = self._ball_qvel.start
        qvel[:, ball : ball + 2] = speed * (random.normal("ball direction", (2,), scale=0.05) - outward)
        qvel[:, ball + 2] = torch.sqrt(-2.0 * float(self.model.opt.gravity[2]) * height)  # m v^2 / 2 = m g h
        physics.set_state(mask, qpos, qvel)

    def get_observation(self) -> dict[str, Tensor]:
        ball = {"ball_state": self.ball_in_head_frame(), "target_position": self.target_in_head_frame()}
        return super().get_observation() | ball

    def get_reward(self) -> Tensor:
        distance = self.ball_to_mouth_distance()
        reach_ball = tolerance(distance, (0.0, self._bite_radius), BITE_MARGIN, sigmoid="reciprocal")
        reach_ball = (6 * reach_ball + 1) / 7
        distance = self.ball_to_target_distance()
        near_target = tolerance(distance, (0.0, self._target_radius), self._floor_size, sigmoid="reciprocal")
        fetch_ball = (near_target + 1) / 2
        # A ball that has been fetched may be let go.
        reach_ball = torch.where(distance < 2 * self._target_radius, 1.0, reach_ball)
        return super().get_reward() * reach_ball * fetch_ball
