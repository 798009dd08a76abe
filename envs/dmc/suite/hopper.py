"""Hopper: a planar one-legged hopper."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, RandomJoints, load_model
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics
from envs.streams import EpisodeStreams

CONTROL_TIMESTEP = 0.02
"""(seconds)"""
STAND_HEIGHT = 0.6
"""Height of the torso over the foot above which the standing reward is 1 (m)."""
HOP_SPEED = 2
"""Above this the hopping reward is 1 (m/s)."""

SUITE = Domain("hopper")


@SUITE.add
def stand() -> BatchedTask:
    return Hopper(hopping=False)


@SUITE.add
def hop() -> BatchedTask:
    return Hopper(hopping=True)


class Hopper(BatchedTask):
    """Stand in balance, or hop forward."""

    def __init__(self, hopping: bool) -> None:
        super().__init__(load_model("hopper"), CONTROL_TIMESTEP)
        self._hopping = hopping

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self.position = physics.qpos[:, 1:]  # without the horizontal position, to be invariant to translations
        self.speed = physics.named("sensordata", "torso_subtreelinvel")[:, 0]
        self._torso_z = physics.named("xipos", "torso")[:, 2]
        self._foot_z = physics.named("xipos", "foot")[:, 2]
        self._sensors = physics.data("sensordata")
        self._touch = physics.indices("sensordata", ["touch_toe", "touch_heel"])
        self._random_joints = RandomJoints(self)

    def height(self) -> Tensor:
        """Of the torso over the foot, (W,)."""
        return self._torso_z - self._foot_z

    def touch(self) -> Tensor:
        """Log-scaled signals of the foot's two touch sensors, (W, 2)."""
        return torch.log1p(self._sensors[:, self._touch])

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        self.physics.set_state(mask, self._random_joints(random))

    def get_observation(self) -> dict[str, Tensor]:
        return {"position": self.position, "velocity": self.physics.qvel, "touch": self.touch()}

    def get_reward(self) -> Tensor:
        standing = tolerance(self.height(), (STAND_HEIGHT, 2.0))
        if self._hopping:
            bounds = (HOP_SPEED, math.inf)
            return standing * tolerance(self.speed, bounds, HOP_SPEED / 2, sigmoid="linear", value_at_margin=0.5)
        small_control = tolerance(self.physics.ctrl, margin=1, value_at_margin=0, sigmoid="quadratic").mean(dim=1)
        return standing * (small_control + 4) / 5
