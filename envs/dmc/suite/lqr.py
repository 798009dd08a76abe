"""LQR: a chain of masses on springs, some of them actuated: a linear system with quadratic costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, load_model, unit
from envs.streams import EpisodeStreams

CONTROL_COST_COEF = 0.1
STIFFNESS_RANGE = (15.0, 25.0)
"""Of the springs (N/m), drawn once a seed."""
TERMINAL_TOLERANCE = 1e-6
"""Norm of the state below which the episode ends."""

SUITE = Domain("lqr")


@SUITE.add
def lqr_2_1() -> BatchedTask:
    return LQRLevel(2, 1)


@SUITE.add
def lqr_6_2() -> BatchedTask:
    return LQRLevel(6, 2)


class LQRLevel(BatchedTask):
    """Bring the masses to rest, with little control. Every seed has springs of its own, training and evaluation alike.

    They are those of `suite.load(..., task_kwargs={'random': seed})`.
    """

    model_fields = ("jnt_stiffness",)

    def __init__(self, num_bodies: int, num_actuators: int) -> None:
        generator = np.random.RandomState(0)  # any: the springs are drawn by `draw_models`
        super().__init__(load_model("lqr", n_bodies=num_bodies, n_actuators=num_actuators, random=generator))

    def draw_models(self, seeds: Sequence[int]) -> None:
        stiffness = self.physics.field("jnt_stiffness")
        drawn = {seed: self._springs(seed) for seed in set(seeds)}
        stiffness.copy_(self.tensor(np.stack([drawn[seed] for seed in seeds])))

    def _springs(self, seed: int) -> np.ndarray:
        """(njnt,): as dm_control's generator draws them, which draws the (always zero) damping of each joint too."""
        generator = np.random.RandomState(seed)
        draws = generator.uniform(size=(self.model.njnt, 2))[:, 0]
        low, high = STIFFNESS_RANGE
        return low + (high - low) * draws

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        self.physics.set_state(mask, math.sqrt(2) * unit(random.normal("direction", (self.model.nq,))))

    def get_observation(self) -> dict[str, Tensor]:
        return {"position": self.physics.qpos, "velocity": self.physics.qvel}

    def get_reward(self) -> Tensor:
        state_cost = 0.5 * self.physics.qpos.square().sum(dim=1)
        control_cost = 0.5 * self.physics.ctrl.square().sum(dim=1)
        return 1 - (state_cost + control_cost * CONTROL_COST_COEF)

    def get_termination(self) -> Tensor:
        state = torch.cat([self.physics.qpos, self.physics.qvel], dim=1)
        return torch.linalg.vector_norm(state, dim=1) < TERMINAL_TOLERANCE
