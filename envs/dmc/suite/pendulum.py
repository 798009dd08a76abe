"""Pendulum: a pole to be swung up by a motor that is too weak to lift it directly."""

from __future__ import annotations

import math

from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, load_model
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics
from envs.streams import EpisodeStreams

ANGLE_BOUND = 8
"""Closer to upright than this counts as balanced (degrees)."""
COSINE_BOUND = math.cos(math.radians(ANGLE_BOUND))

SUITE = Domain("pendulum")


@SUITE.add
def swingup() -> BatchedTask:
    return SwingUp()


class SwingUp(BatchedTask):
    """Swing up and balance the pole."""

    def __init__(self) -> None:
        super().__init__(load_model("pendulum"))

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._pole = physics.named("xmat", "pole")
        self.pole_vertical = self._pole[:, 8]  # zz

    def pole_orientation(self) -> Tensor:
        """Vertical (zz) and horizontal (xz) component of the pole's frame, (W, 2)."""
        return self._pole[:, [8, 2]]

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        self.physics.set_state(mask, random.uniform("angle", -math.pi, math.pi, (1,)))

    def get_observation(self) -> dict[str, Tensor]:
        return {"orientation": self.pole_orientation(), "velocity": self.physics.qvel}

    def get_reward(self) -> Tensor:
        return tolerance(self.pole_vertical, (COSINE_BOUND, 1.0))
