"""Hopper and Walker2d: planar, on one leg and on two; their episodes end when they fall."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.mujoco_gym.base import Healthy, Locomotion, within
from envs.physics.base import Physics

MAX_VELOCITY = 10.0
"""Beyond which velocities are observed clipped (m/s, rad/s)."""


class Upright(Locomotion):
    """What both have in common: height and angle of the torso have to stay in range."""

    def __init__(
        self,
        version: int,
        xml_file: str,
        frame_skip: int,
        healthy_reward: float,
        terminate_when_unhealthy: bool,
        healthy_z_range: tuple[float, float],
        healthy_angle_range: tuple[float, float],
        **settings: Any,
    ) -> None:
        super().__init__(xml_file, frame_skip, **settings)
        self._health = Healthy(healthy_reward, terminate_when_unhealthy, version)
        self._z_range, self._angle_range = healthy_z_range, healthy_angle_range

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._z, self._angle = physics.qpos[:, 1], physics.qpos[:, 2]

    def is_healthy(self) -> Tensor:
        """(W,) bool."""
        return within(self._z, self._z_range) & within(self._angle, self._angle_range)

    def get_observation(self) -> dict[str, Tensor]:
        return {"position": self.position, "velocity": self.velocity.clamp(-MAX_VELOCITY, MAX_VELOCITY)}

    def get_reward(self) -> Tensor:
        return super().get_reward() + self._health.reward(self.is_healthy)

    def get_termination(self) -> Tensor | None:
        return ~self.is_healthy() if self._health.terminates else None


class Hopper(Upright):
    """v4, and v5, which does not pay the step of the fall."""

    def __init__(
        self, version: int, healthy_state_range: tuple[float, float], frame_skip: int = 4, **settings: Any
    ) -> None:
        super().__init__(version, "hopper.xml", frame_skip, **settings)
        self._state_range = healthy_state_range

    def is_healthy(self) -> Tensor:
        """Also all other numbers of the state have to stay in range."""
        state = torch.cat([self.physics.qpos[:, 2:], self.physics.qvel], dim=1)
        return super().is_healthy() & within(state, self._state_range).all(dim=1)


class Walker2d(Upright):
    """v4, and v5, whose feet have the same friction and which does not pay the step of the fall."""

    def __init__(self, version: int, frame_skip: int = 4, **settings: Any) -> None:
        super().__init__(version, "walker2d.xml" if version == 4 else "walker2d_v5.xml", frame_skip, **settings)
