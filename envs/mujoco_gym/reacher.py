"""Reacher: a planar arm of two links, its finger to be brought to a target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.mujoco_gym.base import BatchedGymTask
from envs.physics.base import Physics, write
from envs.streams import EpisodeStreams

ARENA = 0.2
"""Radius in which the target lies (m)."""
MAX_ATTEMPTS = 100
"""Targets tried for one within it."""


class Reacher(BatchedGymTask):
    """v5, and v4, which pays for the distance before the step and observes its height, which is always zero."""

    def __init__(
        self, version: int, reward_dist_weight: float = 1.0, reward_control_weight: float = 1.0, frame_skip: int = 2
    ) -> None:
        super().__init__("reacher.xml", frame_skip)
        self._version = version
        self._dist_weight, self._control_weight = reward_dist_weight, reward_control_weight

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._finger, self._target = physics.named("xpos", "fingertip"), physics.named("xpos", "target")
        self._distance_before = self.zeros()

    def distance(self) -> Tensor:
        """From the finger to the target, (W,)."""
        return torch.linalg.vector_norm(self._finger - self._target, dim=1)

    def state(self) -> dict[str, Tensor]:
        return {"distance": self._distance_before}

    def begin_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        super().begin_episode(mask, random)
        write(self._distance_before, mask, self.distance())

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        physics, model = self.physics, self.model
        qpos = physics.qpos + random.uniform("positions", -0.1, 0.1, (model.nq,))
        qvel = physics.qvel + random.uniform("velocities", -0.005, 0.005, (model.nv,))
        qvel[:, -2:] = 0.0  # the target's

        def attempt(k: Any, pending: Tensor) -> Tensor:
            target = random.attempt(k).uniform("target", -ARENA, ARENA, (2,))
            write(qpos[:, -2:], pending, target)
            return torch.linalg.vector_norm(target, dim=1) >= ARENA

        physics.retry(mask, attempt, MAX_ATTEMPTS)
        physics.set_state(mask, qpos, qvel)

    def get_observation(self) -> dict[str, Tensor]:
        angles, to_finger = self.physics.qpos[:, :2], self._finger - self._target
        return {
            "cosines": torch.cos(angles),
            "sines": torch.sin(angles),
            "target": self.physics.qpos[:, 2:],
            "velocities": self.physics.qvel[:, :2],
            "target_to_finger": to_finger if self._version == 4 else to_finger[:, :2],
        }

    def get_reward(self) -> Tensor:
        distance = self.distance()
        paid = self._distance_before.clone() if self._version == 4 else distance
        self._distance_before.copy_(distance)
        return -self._dist_weight * paid - self._control_weight * self.control_norm()
