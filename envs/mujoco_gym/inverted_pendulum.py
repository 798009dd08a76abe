"""InvertedPendulum and InvertedDoublePendulum: poles to be balanced on a cart."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.mujoco_gym.base import BatchedGymTask
from envs.physics.base import Physics
from envs.streams import EpisodeStreams

MAX_ANGLE = 0.2
"""From upright, beyond which the episode of the single pole ends (rad)."""
MIN_HEIGHT = 1.0
"""Of the tip, at which the episode of the double pole ends (m)."""
CLIP = 10.0
"""Beyond which velocities and constraint forces are observed clipped."""


class InvertedPendulum(BatchedGymTask):
    """v4, and v5, which does not pay the step of the fall."""

    def __init__(self, version: int, reset_noise_scale: float = 0.01, frame_skip: int = 2) -> None:
        super().__init__("inverted_pendulum.xml", frame_skip)
        self._version, self._reset_noise_scale = version, reset_noise_scale

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._angle = physics.qpos[:, 1]

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        physics, scale = self.physics, self._reset_noise_scale
        qpos = physics.qpos + random.uniform("positions", -scale, scale, (self.model.nq,))
        physics.set_state(mask, qpos, physics.qvel + random.uniform("velocities", -scale, scale, (self.model.nv,)))

    def get_observation(self) -> dict[str, Tensor]:
        return {"position": self.physics.qpos, "velocity": self.physics.qvel}

    def get_reward(self) -> Tensor:
        if self._version == 4:
            return torch.ones_like(self._angle)
        return (~self.get_termination()).to(self.physics.dtype)

    def get_termination(self) -> Tensor:
        return ~(self._angle.abs() <= MAX_ANGLE)  # a number that is none has fallen, too


class InvertedDoublePendulum(BatchedGymTask):
    """v4, and v5, which does not pay the step of the fall and observes the forces on the cart alone."""

    def __init__(
        self, version: int, healthy_reward: float = 10.0, reset_noise_scale: float = 0.1, frame_skip: int = 5
    ) -> None:
        super().__init__("inverted_double_pendulum.xml", frame_skip)
        self._version, self._healthy_reward = version, healthy_reward
        self._reset_noise_scale = reset_noise_scale

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        tip = physics.data("site_xpos")[:, 0]
        self._x, self._height = tip[:, 0], tip[:, 2]
        self._constraint_forces = physics.data("qfrc_constraint")[:, : 3 if self._version == 4 else 1]

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        physics, scale = self.physics, self._reset_noise_scale
        qpos = physics.qpos + random.uniform("positions", -scale, scale, (self.model.nq,))
        physics.set_state(mask, qpos, physics.qvel + random.normal("velocities", (self.model.nv,), scale))

    def get_observation(self) -> dict[str, Tensor]:
        angles = self.physics.qpos[:, 1:]
        return {
            "cart": self.physics.qpos[:, :1],
            "sines": torch.sin(angles),
            "cosines": torch.cos(angles),
            "velocity": self.physics.qvel.clamp(-CLIP, CLIP),
            "constraint_forces": self._constraint_forces.clamp(-CLIP, CLIP),
        }

    def get_reward(self) -> Tensor:
        distance = 0.01 * self._x.square() + (self._height - 2).square()
        velocity = 0.001 * self.physics.qvel[:, 1].square() + 0.005 * self.physics.qvel[:, 2].square()
        alive = self._healthy_reward if self._version == 4 else self._healthy_reward * ~self.get_termination()
        return alive - distance - velocity

    def get_termination(self) -> Tensor:
        return self._height <= MIN_HEIGHT
