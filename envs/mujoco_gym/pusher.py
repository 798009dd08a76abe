"""Pusher: an arm of seven joints, to push a cylinder to its goal. Gymnasium's v4 needs a MuJoCo older than 3."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.mujoco_gym.base import BatchedGymTask
from envs.physics.base import Physics, write
from envs.streams import EpisodeStreams

NEAREST = 0.17
"""Distance from the goal beyond which the cylinder begins (m)."""
MAX_ATTEMPTS = 100
"""Places of the cylinder tried for one beyond it."""


class Pusher(BatchedGymTask):
    """v5."""

    def __init__(
        self, reward_near_weight: float, reward_dist_weight: float, reward_control_weight: float, frame_skip: int = 5
    ) -> None:
        super().__init__("pusher_v5.xml", frame_skip)
        self._near_weight, self._dist_weight = reward_near_weight, reward_dist_weight
        self._control_weight = reward_control_weight

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._tip, self._object, self._goal = (physics.named("xpos", name) for name in ("tips_arm", "object", "goal"))
        corners = self.tensor([[-0.3, -0.2], [0.0, 0.2]])
        self._lowest_place, self._highest_place = corners

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        physics = self.physics
        qpos, qvel = physics.qpos.clone(), physics.qvel + random.uniform("velocities", -0.005, 0.005, (self.model.nv,))
        qpos[:, -2:], qvel[:, -4:] = 0.0, 0.0  # the goal, and the velocities of cylinder and goal

        def attempt(k: Any, pending: Tensor) -> Tensor:
            draw = random.attempt(k)
            place = draw.uniform("cylinder", self._lowest_place, self._highest_place, (2,))
            write(qpos[:, -4:-2], pending, place)
            return torch.linalg.vector_norm(place, dim=1) <= NEAREST

        physics.retry(mask, attempt, MAX_ATTEMPTS)
        physics.set_state(mask, qpos, qvel)

    def get_observation(self) -> dict[str, Tensor]:
        return {
            "position": self.physics.qpos[:, :7],
            "velocity": self.physics.qvel[:, :7],
            "tip": self._tip,
            "object": self._object,
            "goal": self._goal,
        }

    def get_reward(self) -> Tensor:
        near = torch.linalg.vector_norm(self._object - self._tip, dim=1)
        distance = torch.linalg.vector_norm(self._object - self._goal, dim=1)
        control = self._control_weight * self.control_norm()
        return -self._dist_weight * distance - control - self._near_weight * near
