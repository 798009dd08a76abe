"""Humanoid: a simplified human body, to stand, walk and run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, RandomJoints, load_model
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics
from envs.streams import EpisodeStreams

STAND_HEIGHT = 1.4
"""Height of the head above which the standing reward is 1 (m)."""
WALK_SPEED = 1
RUN_SPEED = 10
"""Horizontal speeds above which the moving reward is 1 (m/s)."""

SUITE = Domain("humanoid")


@SUITE.add
def stand() -> BatchedTask:
    return Humanoid(move_speed=0)


@SUITE.add
def walk() -> BatchedTask:
    return Humanoid(move_speed=WALK_SPEED)


@SUITE.add
def run() -> BatchedTask:
    return Humanoid(move_speed=RUN_SPEED)


@SUITE.add
def run_pure_state() -> BatchedTask:
    return Humanoid(move_speed=RUN_SPEED, pure_state=True)


class Humanoid(BatchedTask):
    """Stand still (`move_speed` 0) or move at `move_speed` (m/s), in any direction."""

    body = "humanoid"
    control_timestep = 0.025
    """(seconds)"""
    max_attempts = 200
    """Random poses tried for one without contacts."""
    torso = "torso"
    torso_upward = 8
    """Which entry of the torso's rotation matrix is 1 when it stands: zz."""
    limbs = "left_hand", "left_foot", "right_hand", "right_foot"

    def __init__(self, move_speed: float, pure_state: bool = False) -> None:
        """`pure_state`: observe positions and velocities instead of features of them."""
        super().__init__(load_model(self.body), self.control_timestep)
        self._move_speed, self._pure_state = move_speed, pure_state

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        rotation = physics.named("xmat", self.torso)
        self.torso_upright = rotation[:, self.torso_upward]
        self.head_height = physics.named("xpos", "head")[:, 2]
        self.center_of_mass_velocity = physics.named("sensordata", f"{self.torso}_subtreelinvel")
        self.torso_vertical_orientation = rotation[:, 6:]  # zx, zy, zz
        self.joint_angles = physics.qpos[:, 7:]  # without the free root joint
        self._xpos, self._ncon = physics.data("xpos"), physics.data("ncon")
        self._torso_frame = rotation.unflatten(1, (3, 3))
        self._torso_pos = physics.named("xpos", self.torso)[:, None]
        self._limbs = physics.indices("xpos", self.limbs)
        self._random_joints = RandomJoints(self)

    def extremities(self) -> Tensor:
        """Hands and feet as seen from the torso, (W, 12)."""
        return ((self._xpos[:, self._limbs] - self._torso_pos) @ self._torso_frame).flatten(1)

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        def attempt(k: Any, pending: Tensor) -> Tensor:
            self.physics.set_state(pending, self._random_joints(random.attempt(k)))
            self.physics.forward(pending)
            return self._ncon > 0

        self.physics.retry(mask, attempt, self.max_attempts)

    def get_observation(self) -> dict[str, Tensor]:
        if self._pure_state:
            return {"position": self.physics.qpos, "velocity": self.physics.qvel}
        return {
            "joint_angles": self.joint_angles,
            "head_height": self.head_height,
            "extremities": self.extremities(),
            "torso_vertical": self.torso_vertical_orientation,
            "com_velocity": self.center_of_mass_velocity,
            "velocity": self.physics.qvel,
        }

    def get_reward(self) -> Tensor:
        standing = tolerance(self.head_height, (STAND_HEIGHT, math.inf), margin=STAND_HEIGHT / 4)
        upright = tolerance(self.torso_upright, (0.9, math.inf), margin=1.9, value_at_margin=0, sigmoid="linear")
        small_control = tolerance(self.physics.ctrl, margin=1, value_at_margin=0, sigmoid="quadratic").mean(dim=1)
        reward = (4 + small_control) / 5 * standing * upright
        velocity = self.center_of_mass_velocity[:, :2]
        if self._move_speed == 0:
            return reward * tolerance(velocity, margin=2).mean(dim=1)
        bounds = (self._move_speed, math.inf)
        speed = torch.linalg.vector_norm(velocity, dim=1)
        move = tolerance(speed, bounds, margin=self._move_speed, value_at_margin=0, sigmoid="linear")
        return reward * (5 * move + 1) / 6
