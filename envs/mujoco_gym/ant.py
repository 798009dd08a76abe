"""Ant: four legs on a sphere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.mujoco_gym.base import Healthy, Locomotion
from envs.physics.base import Physics, write
from envs.streams import EpisodeStreams


class Ant(Locomotion):
    """v4, and v5, which observes contact forces and subtracts their cost unless asked not to (v4: if asked to)."""

    num_skipped = 2
    normal_velocity = True

    def __init__(
        self,
        version: int,
        contact_cost_weight: float,
        healthy_reward: float,
        terminate_when_unhealthy: bool,
        healthy_z_range: tuple[float, float],
        contact_force_range: tuple[float, float],
        use_contact_forces: bool = False,
        include_cfrc_ext_in_observation: bool = False,
        forward_reward_weight: float = 1.0,
        main_body: int | str = 1,
        frame_skip: int = 5,
        **settings: Any,
    ) -> None:
        super().__init__("ant.xml", frame_skip, forward_reward_weight, **settings)
        self._version, self._main_body = version, self.model.body(main_body).id
        self._health = Healthy(healthy_reward, terminate_when_unhealthy, version)
        self._z_range, self._force_range = healthy_z_range, contact_force_range
        self._contact_cost_weight = contact_cost_weight
        self.contact_forces = version == 5 or use_contact_forces
        self._observes_forces = include_cfrc_ext_in_observation or use_contact_forces

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._z = physics.qpos[:, 2]
        self._x = physics.data("xpos")[:, self._main_body, 0]

    def state(self) -> dict[str, Tensor]:
        return {"x": self._x_before}

    def begin_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        super().begin_episode(mask, random)
        write(self._x_before, mask, self._x)

    def before_step(self, action: Tensor) -> None:
        super(Locomotion, self).before_step(action)  # where the body was is known from the last step

    def clipped_forces(self) -> Tensor:
        """External forces on the bodies, (W, nbody, 6)."""
        return self.physics.contact_forces().clamp(*self._force_range)

    def is_healthy(self) -> Tensor:
        """(W,) bool."""
        low, high = self._z_range
        finite = torch.isfinite(self.physics.qpos.sum(dim=1) + self.physics.qvel.sum(dim=1))
        return finite & (self._z >= low) & (self._z <= high)

    def get_observation(self) -> dict[str, Tensor]:
        parts = super().get_observation()
        if self._observes_forces:  # v5 leaves the world's out, which are zero
            parts["contact_forces"] = self.clipped_forces()[:, self._version == 5 :].flatten(1)
        return parts

    def get_reward(self) -> Tensor:
        reward = super().get_reward() + self._health.reward(self.is_healthy)
        self._x_before.copy_(self._x)
        if self.contact_forces:
            reward = reward - self._contact_cost_weight * self.clipped_forces().square().sum(dim=(1, 2))
        return reward

    def get_termination(self) -> Tensor | None:
        return ~self.is_healthy() if self._health.terminates else None
