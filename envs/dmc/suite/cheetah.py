"""Cheetah: a planar runner."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, load_model
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics, write
from envs.streams import EpisodeStreams

RUN_SPEED = 10
"""Above this the reward is 1 (m/s)."""
SETTLING_STEPS = 200
"""Physics steps in which a random pose comes to rest before an episode."""

SUITE = Domain("cheetah")


@SUITE.add
def run() -> BatchedTask:
    return Cheetah()


class Cheetah(BatchedTask):
    """Run forward."""

    def __init__(self) -> None:
        super().__init__(load_model("cheetah"))

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self.speed = physics.named("sensordata", "torso_subtreelinvel")[:, 0]
        self.position = physics.qpos[:, 1:]  # without the horizontal position, to be invariant to translations
        limited = self.model.jnt_limited.astype(bool)  # every joint has one degree of freedom
        self._limited = self.tensor(limited.nonzero()[0], torch.int64)
        self._low, self._high = self.tensor(self.model.jnt_range[limited]).T

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        qpos = self.physics.qpos.clone()
        qpos[:, self._limited] = random.uniform("joints", self._low, self._high, self._limited.shape)
        self.physics.set_state(mask, qpos)
        self.physics.step(mask, SETTLING_STEPS)
        write(self.physics.time, mask, 0.0)

    def get_observation(self) -> dict[str, Tensor]:
        return {"position": self.position, "velocity": self.physics.qvel}

    def get_reward(self) -> Tensor:
        bounds = (RUN_SPEED, math.inf)
        return tolerance(self.speed, bounds, margin=RUN_SPEED, value_at_margin=0, sigmoid="linear")
