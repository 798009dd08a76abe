"""Acrobot: two links, of which only the second joint is actuated, to be swung up to a target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, load_model
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics
from envs.streams import EpisodeStreams

SUITE = Domain("acrobot")


@SUITE.add
def swingup() -> BatchedTask:
    return Balance(sparse=False)


@SUITE.add
def swingup_sparse() -> BatchedTask:
    return Balance(sparse=True)


class Balance(BatchedTask):
    """Swing up and balance the arm, its tip at the target."""

    def __init__(self, sparse: bool) -> None:
        super().__init__(load_model("acrobot"))
        self._sparse = sparse
        self._target_radius = float(self.model.site("target").size[0])

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._xmat = physics.data("xmat")
        self._arms = physics.indices("xmat", ["upper_arm", "lower_arm"])
        self._tip = physics.named("site_xpos", "tip")
        self._target = physics.named("site_xpos", "target")

    def orientations(self) -> Tensor:
        """Horizontal (xz), then vertical (zz) components of the two links' frames, (W, 4)."""
        frames = self._xmat[:, self._arms]
        return torch.cat([frames[..., 2], frames[..., 8]], dim=1)

    def to_target(self) -> Tensor:
        """Distance from the tip to the target, (W,)."""
        return torch.linalg.vector_norm(self._target - self._tip, dim=1)

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        self.physics.set_state(mask, random.uniform("angles", -math.pi, math.pi, (2,)))

    def get_observation(self) -> dict[str, Tensor]:
        return {"orientations": self.orientations(), "velocity": self.physics.qvel}

    def get_reward(self) -> Tensor:
        return tolerance(self.to_target(), (0.0, self._target_radius), margin=0.0 if self._sparse else 1.0)
