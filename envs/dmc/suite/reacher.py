"""Reacher: a planar arm of two links, its finger to be brought to a target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, RandomJoints, load_model
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics, write
from envs.streams import EpisodeStreams

BIG_TARGET = 0.05
SMALL_TARGET = 0.015
"""Radii (m)."""

SUITE = Domain("reacher")


@SUITE.add
def easy() -> BatchedTask:
    return Reacher(BIG_TARGET)


@SUITE.add
def hard() -> BatchedTask:
    return Reacher(SMALL_TARGET)


class Reacher(BatchedTask):
    """Reach a target that lies elsewhere in every episode."""

    model_fields = ("geom_pos",)

    def __init__(self, target_size: float) -> None:
        super().__init__(load_model("reacher"))
        self.model.geom("target").size[0] = target_size

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._target = physics.named("geom_xpos", "target")[:, :2]
        self._finger = physics.named("geom_xpos", "finger")[:, :2]
        self._target_pos = physics.named("geom_pos", "target")[:, :2]
        self._radii = float(self.model.geom("target").size[0] + self.model.geom("finger").size[0])
        self._random_joints = RandomJoints(self)

    def finger_to_target(self) -> Tensor:
        """The vector from the finger to the target, (W, 2)."""
        return self._target - self._finger

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        self.physics.set_state(mask, self._random_joints(random))
        angle = random.uniform("target angle", 0.0, 2.0 * math.pi)
        radius = random.uniform("target radius", 0.05, 0.20)
        write(self._target_pos, mask, torch.stack([radius * torch.sin(angle), radius * torch.cos(angle)], dim=1))

    def get_observation(self) -> dict[str, Tensor]:
        return {
            "position": self.physics.qpos,
            "to_target": self.finger_to_target(),
            "velocity": self.physics.qvel,
        }

    def get_reward(self) -> Tensor:
        return tolerance(torch.linalg.vector_norm(self.finger_to_target(), dim=1), (0.0, self._radii))
