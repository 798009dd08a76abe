"""Ball in cup: a cup moves in a plane, a ball hangs from it by a string."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, load_model
from envs.physics.base import Physics
from envs.streams import EpisodeStreams

CONTROL_TIMESTEP = 0.02
"""(seconds)"""
MAX_ATTEMPTS = 100
"""Random places of the ball tried for one without contacts."""

SUITE = Domain("ball_in_cup")


@SUITE.add
def catch() -> BatchedTask:
    return BallInCup()


class BallInCup(BatchedTask):
    """Put the ball into the cup."""

    def __init__(self) -> None:
        super().__init__(load_model("ball_in_cup"), CONTROL_TIMESTEP)

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        model = self.model
        self._target = physics.named("site_xpos", "target")[:, ::2]  # x, z
        self._ball = physics.named("xpos", "ball")[:, ::2]
        self._reach = self.tensor(model.site("target").size[[0, 2]] - model.geom("ball").size[0])
        self._ball_x, self._ball_z = physics.index("qpos", "ball_x"), physics.index("qpos", "ball_z")
        self._ncon = physics.data("ncon")

    def in_target(self) -> Tensor:
        """1 where the whole ball is within the target, else 0, (W,)."""
        inside = (self._target - self._ball).abs() < self._reach
        return inside.all(dim=1).to(self.physics.dtype)

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        def attempt(k: Any, pending: Tensor) -> Tensor:
            draw, qpos = random.attempt(k), self.physics.qpos.clone()
            qpos[:, self._ball_x] = draw.uniform("ball x", -0.2, 0.2, (1,))
            qpos[:, self._ball_z] = draw.uniform("ball z", 0.2, 0.5, (1,))
            self.physics.set_state(pending, qpos)
            self.physics.forward(pending)
            return self._ncon > 0

        self.physics.retry(mask, attempt, MAX_ATTEMPTS)

    def get_observation(self) -> dict[str, Tensor]:
        return {"position": self.physics.qpos, "velocity": self.physics.qvel}

    def get_reward(self) -> Tensor:
        return self.in_target()
