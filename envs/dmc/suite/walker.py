"""Walker: a planar biped."""

from __future__ import annotations

import math

from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, RandomJoints, load_model
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics
from envs.streams import EpisodeStreams

CONTROL_TIMESTEP = 0.025
"""(seconds)"""
STAND_HEIGHT = 1.2
"""Height of the torso above which the standing reward is 1 (m)."""
WALK_SPEED = 1
RUN_SPEED = 8
"""Horizontal speeds above which the moving reward is 1 (m/s)."""

SUITE = Domain("walker")


@SUITE.add
def stand() -> BatchedTask:
    return PlanarWalker(move_speed=0)


@SUITE.add
def walk() -> BatchedTask:
    return PlanarWalker(move_speed=WALK_SPEED)


@SUITE.add
def run() -> BatchedTask:
    return PlanarWalker(move_speed=RUN_SPEED)


class PlanarWalker(BatchedTask):
    """Stand (`move_speed` 0) or move forward at `move_speed` (m/s)."""

    def __init__(self, move_speed: float) -> None:
        super().__init__(load_model("walker"), CONTROL_TIMESTEP)
        self._move_speed = move_speed

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self.torso_upright = physics.named("xmat", "torso")[:, 8]  # zz
        self.torso_height = physics.named("xpos", "torso")[:, 2]
        self.horizontal_velocity = physics.named("sensordata", "torso_subtreelinvel")[:, 0]
        self._bodies = physics.data("xmat")[:, 1:, 0:3:2]  # xx, xz; the world left out
        self._random_joints = RandomJoints(self)

    def orientations(self) -> Tensor:
        """Of all bodies in the plane, (W, 14)."""
        return self._bodies.flatten(1)

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        self.physics.set_state(mask, self._random_joints(random))

    def get_observation(self) -> dict[str, Tensor]:
        return {
            "orientations": self.orientations(),
            "height": self.torso_height,
            "velocity": self.physics.qvel,
        }

    def get_reward(self) -> Tensor:
        standing = tolerance(self.torso_height, (STAND_HEIGHT, math.inf), margin=STAND_HEIGHT / 2)
        upright = (1 + self.torso_upright) / 2
        stand_reward = (3 * standing + upright) / 4
        if self._move_speed == 0:
            return stand_reward
        bounds, margin = (self._move_speed, math.inf), self._move_speed / 2
        move = tolerance(self.horizontal_velocity, bounds, margin, value_at_margin=0.5, sigmoid="linear")
        return stand_reward * (5 * move + 1) / 6
