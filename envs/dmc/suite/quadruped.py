"""Quadruped: a four-legged walker, to walk, run, escape from a bowl and fetch a ball."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, compiled, suite, unit
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics, write
from envs.streams import EpisodeStreams

EPISODE_SECONDS = 20
CONTROL_TIMESTEP = 0.02
"""(seconds)"""
WALK_SPEED = 0.5
RUN_SPEED = 5
"""Forward speeds above which the moving reward is 1 (m/s)."""
TERRAIN_SMOOTHNESS = 0.15
"""0 is as bumpy as can be, 1 is smooth."""
TERRAIN_BUMP_SCALE = 2
"""Size of the terrain's bumps (m)."""
LIFT = 0.01
"""Steps in which the body is lifted out of the ground (m)."""
MAX_LIFTS = 10_000

SUITE = Domain("quadruped")


@SUITE.add
def walk() -> BatchedTask:
    return Move(WALK_SPEED)


@SUITE.add
def run() -> BatchedTask:
    return Move(RUN_SPEED)


@SUITE.add
def escape() -> BatchedTask:
    return Escape()


@SUITE.add
def fetch() -> BatchedTask:
    return Fetch()


class Quadruped(BatchedTask):
    """What all tasks read, and how they begin: just above the ground."""

    def __init__(self, **model: Any) -> None:
        """`model`: what dm_control's `make_model` takes."""
        super().__init__(compiled(suite.quadruped.make_model(**model)), CONTROL_TIMESTEP)

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        model, sensor = self.model, mujoco.mjtSensor
        hinges = model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE
        self._hinge_qpos = self.tensor(model.jnt_qposadr[hinges], torch.int64)
        self._hinge_qvel = self.tensor(model.jnt_dofadr[hinges], torch.int64)
        self.torso_upright = physics.named("xmat", "torso")[:, 8]  # zz
        self.torso_velocity = physics.named("sensordata", "velocimeter")
        self._torso_frame = physics.named("xmat", "torso").unflatten(1, (3, 3))
        self._torso_pos = physics.named("xpos", "torso")
        self._sensors, self._ncon = physics.data("sensordata"), physics.data("ncon")
        self._force_torque = self._of_types(sensor.mjSENS_FORCE, sensor.mjSENS_TORQUE)
        self._imu = self._of_types(sensor.mjSENS_GYRO, sensor.mjSENS_ACCELEROMETER)
        self._root = physics.index("qpos", "root")
        # Added up as in dm_control, as the last bit decides whether what just touches the ground does.
        self._heights = self.tensor(np.cumsum(np.r_[0.0, np.full(MAX_LIFTS - 1, LIFT)]))

    def _of_types(self, *types: mujoco.mjtSensor) -> Tensor:
        """Where in 'sensordata' the sensors of `types` are, in the model's order."""
        sensors = np.isin(self.model.sensor_type, [int(kind) for kind in types]).nonzero()[0]
        return self.physics.indices("sensordata", [self.model.sensor(i).name for i in sensors])

    # ------------------------------------------------------------- readings

    def egocentric_state(self) -> Tensor:
        """Angles and velocities of the hinges, and the actuators' states, (W, 44)."""
        physics = self.physics
        return torch.cat([physics.qpos[:, self._hinge_qpos], physics.qvel[:, self._hinge_qvel], physics.act], dim=1)

    def in_torso_frame(self, vectors: Tensor) -> Tensor:
        """(W, n, 3) in the world's frame to (W, 3 n) in the torso's."""
        return (vectors @ self._torso_frame).flatten(1)

    def upright_reward(self, deviation_angle: float = 0.0) -> Tensor:
        """1 within `deviation_angle` (degrees) of upright, falling to 0 upside down, (W,)."""
        deviation = math.cos(math.radians(deviation_angle))
        bounds = (deviation, math.inf)
        return tolerance(self.torso_upright, bounds, margin=1 + deviation, sigmoid="linear", value_at_margin=0)

    def get_observation(self) -> dict[str, Tensor]:
        return {
            "egocentric_state": self.egocentric_state(),
            "torso_velocity": self.torso_velocity,
            "torso_upright": self.torso_upright,
            "imu": self._sensors[:, self._imu],
            "force_torque": torch.asinh(self._sensors[:, self._force_torque]),
        }

    # ------------------------------------------------------------- episodes

    def lift_off_the_ground(self, mask: Tensor, quaternion: Tensor, xy: Tensor | float = 0.0) -> None:
        """Place the worlds of `mask` at `xy` (W, 2), turned by `quaternion` (W, 4), as low as nothing touches."""
        x = self._root.start

        def attempt(k: Any, pending: Tensor) -> Tensor:
            self.physics.reset(pending)
            qpos = self.physics.qpos.clone()
            qpos[:, x : x + 2] = xy
            qpos[:, x + 2] = self._heights.index_select(0, torch.as_tensor(k, device=qpos.device).view(1))
            qpos[:, x + 3 : x + 7] = quaternion
            self.physics.set_state(pending, qpos)
            self.physics.forward(pending)
            return self._ncon > 0

        self.physics.retry(mask, attempt, MAX_LIFTS)


class Move(Quadruped):
    """Move forward at `desired_speed` (m/s)."""

    def __init__(self, desired_speed: float) -> None:
        super().__init__(floor_size=EPISODE_SECONDS * desired_speed)
        self._desired_speed = desired_speed

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        self.lift_off_the_ground(mask, unit(random.normal("orientation", (4,))))

    def get_reward(self) -> Tensor:
        bounds, margin = (self._desired_speed, math.inf), self._desired_speed
        move = tolerance(self.torso_velocity[:, 0], bounds, margin, value_at_margin=0.5, sigmoid="linear")
        return self.upright_reward() * move


class Escape(Quadruped):
    """Climb out of a bowl with bumps of its own in every episode."""

    model_fields = ("hfield_data",)

    def __init__(self) -> None:
        super().__init__(floor_size=40, terrain=True, rangefinders=True)
        self._terrain_size = float(self.model.hfield_size[0, 0])
        resolution = int(self.model.hfield_nrow[0])
        self._num_bumps = int(2 * self._terrain_size / TERRAIN_BUMP_SCALE)
        grid = np.linspace(-1, 1, resolution)
        radius = np.clip(np.sqrt(grid[:, None] ** 2 + grid**2), 0.04, 1)
        self._bowl_shape = 0.5 - np.cos(2 * np.pi * radius) / 2
        # Enlarging by splines is linear and works on each axis by itself: a matrix, from the images of unit vectors.
        self._enlarge = ndimage.zoom(np.eye(self._num_bumps), (resolution / self._num_bumps, 1))

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._rangefinders = self._of_types(mujoco.mjtSensor.mjSENS_RANGEFINDER)
        self._workspace = physics.named("site_xpos", "workspace")
        self._terrain = physics.field("hfield_data")
        self._bowl, self._splines = self.tensor(self._bowl_shape), self.tensor(self._enlarge)

    def rangefinder(self) -> Tensor:
        """Scaled readings, 1 where nothing is in sight, (W, 20)."""
        readings = self._sensors[:, self._rangefinders]
        return torch.where(readings == -1.0, 1.0, torch.tanh(readings))

    def origin(self) -> Tensor:
        """The world's origin in the torso's frame, (W, 3)."""
        return -self.in_torso_frame(self._torso_pos[:, None])

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        bumps = random.uniform("bumps", TERRAIN_SMOOTHNESS, 1.0, (self._num_bumps, self._num_bumps))
        terrain = self._bowl * (self._splines @ bumps @ self._splines.T)
        write(self._terrain, mask, terrain.flatten(1).to(self._terrain.dtype))
        self.lift_off_the_ground(mask, unit(random.normal("orientation", (4,))))

    def get_observation(self) -> dict[str, Tensor]:
        return super().get_observation() | {"origin": self.origin(), "rangefinder": self.rangefinder()}

    def get_reward(self) -> Tensor:
        distance = torch.linalg.vector_norm(self._workspace, dim=1)
        bounds, margin = (self._terrain_size, math.inf), self._terrain_size
        escape = tolerance(distance, bounds, margin, value_at_margin=0, sigmoid="linear")
        return self.upright_reward(deviation_angle=20) * escape


class Fetch(Quadruped):
    """Bring a ball to the middle of a walled arena."""

    BALL_HEIGHT = 2
    """That it falls from (m)."""
    BALL_SPEED = 5
    """Standard deviation of its horizontal velocity (m/s)."""

    def __init__(self) -> None:
        super().__init__(walls_and_ball=True)
        model = self.model
        self._spawn_radius = 0.9 * float(model.geom("floor").size[0])
        self._arena_radius = float(model.geom("floor").size[0]) * math.sqrt(2)
        self._reach = float(model.site("workspace").size[0] + model.geom("ball").size[0])
        self._target_radius = float(model.site("target").size[0])

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._ball_pos = physics.named("xpos", "ball")
        self._target_pos = physics.named("site_xpos", "target")
        self._workspace = physics.named("site_xpos", "workspace")
        self._ball_qpos = physics.index("qpos", "ball_root")
        self._ball_qvel, self._root_qvel = physics.named("qvel", "ball_root"), physics.named("qvel", "root")
        self._ball_dofs = physics.index("qvel", "ball_root")

    def ball_state(self) -> Tensor:
        """The ball's position and velocity relative to the torso, and its rotation, in the torso's frame, (W, 9)."""
        position = self._ball_pos - self._torso_pos
        velocity = self._ball_qvel[:, :3] - self._root_qvel[:, :3]
        return self.in_torso_frame(torch.stack([position, velocity, self._ball_qvel[:, 3:]], dim=1))

    def target_position(self) -> Tensor:
        """In the torso's frame, (W, 3)."""
        return self.in_torso_frame((self._target_pos - self._torso_pos)[:, None])

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        azimuth, radius = random.uniform("azimuth", 0.0, 2.0 * math.pi), self._spawn_radius
        zero = torch.zeros_like(azimuth)
        quaternion = torch.stack([torch.cos(azimuth / 2), zero, zero, torch.sin(azimuth / 2)], dim=1)
        self.lift_off_the_ground(mask, quaternion, random.uniform("place", -radius, radius, (2,)))
        qpos, qvel = self.physics.qpos.clone(), self.physics.qvel.clone()
        ball, dof = self._ball_qpos.start, self._ball_dofs.start
        qpos[:, ball : ball + 2] = random.uniform("ball place", -radius, radius, (2,))
        qpos[:, ball + 2] = self.BALL_HEIGHT
        qvel[:, dof : dof + 2] = random.normal("ball velocity", (2,), scale=self.BALL_SPEED)
        self.physics.set_state(mask, qpos, qvel)

    def get_observation(self) -> dict[str, Tensor]:
        ball = {"ball_state": self.ball_state(), "target_position": self.target_position()}
        return super().get_observation() | ball

    def get_reward(self) -> Tensor:
        def near(places: Tensor, radius: float) -> Tensor:
            distance = torch.linalg.vector_norm((places - self._ball_pos)[:, :2], dim=1)
            return tolerance(distance, (0.0, radius), self._arena_radius, sigmoid="linear", value_at_margin=0)

        reach, fetch = near(self._workspace, self._reach), near(self._target_pos, self._target_radius)
        return self.upright_reward() * reach * (0.5 + 0.5 * fetch)
