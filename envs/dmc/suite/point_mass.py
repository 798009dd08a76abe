"""Point mass: a mass in a plane, to be brought to its middle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, RandomJoints, load_model, unit
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics, write
from envs.streams import EpisodeStreams

MAX_COSINE = 0.9
"""Of the angle between two directions of actuation; beyond they count as parallel."""
MAX_ATTEMPTS = 100
"""Second directions tried for one that is not parallel to the first."""

SUITE = Domain("point_mass")


@SUITE.add
def easy() -> BatchedTask:
    return PointMass()


@SUITE.add
def hard() -> BatchedTask:
    return RandomGains()


class PointMass(BatchedTask):
    """Reach the target and stay, with little control."""

    def __init__(self) -> None:
        super().__init__(load_model("point_mass"))
        self._target_size = float(self.model.geom("target").size[0])

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._target = physics.named("geom_xpos", "target")
        self._mass = physics.named("geom_xpos", "pointmass")
        self._random_joints = RandomJoints(self)

    def mass_to_target_dist(self) -> Tensor:
        """(W,)."""
        return torch.linalg.vector_norm(self._target - self._mass, dim=1)

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        self.physics.set_state(mask, self._random_joints(random))

    def get_observation(self) -> dict[str, Tensor]:
        return {"position": self.physics.qpos, "velocity": self.physics.qvel}

    def get_reward(self) -> Tensor:
        size = self._target_size
        near_target = tolerance(self.mass_to_target_dist(), (0.0, size), margin=size)
        small_control = tolerance(self.physics.ctrl, margin=1, value_at_margin=0, sigmoid="quadratic").mean(dim=1)
        return near_target * (small_control + 4) / 5


class RandomGains(PointMass):
    """Each control pushes in a direction of its own, drawn anew in every episode."""

    model_fields = ("wrap_prm",)  # the coefficients of the two tendons that the motors pull

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        super().initialize_episode(mask, random)
        directions = self.physics.field("wrap_prm")  # (W, 4)
        first = unit(random.normal("first direction", (2,)))
        write(directions[:, :2], mask, first)

        def attempt(k: Any, pending: Tensor) -> Tensor:
            second = unit(random.attempt(k).normal("second direction", (2,)))
            write(directions[:, 2:], pending, second)
            return (first * second).sum(dim=1).abs() > MAX_COSINE

        self.physics.retry(mask, attempt, MAX_ATTEMPTS)
