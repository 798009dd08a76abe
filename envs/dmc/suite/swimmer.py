"""Swimmer: a planar chain of links in a fluid."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, RandomJoints, load_model
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics, write
from envs.streams import EpisodeStreams

CONTROL_TIMESTEP = 0.03
"""(seconds)"""
CLOSE_PROBABILITY = 0.2
"""Of a target close to the start."""
CLOSE_BOX = 0.3
FAR_BOX = 2.0
"""Half the side of the square in which the target is drawn (m)."""

SUITE = Domain("swimmer")


@SUITE.add
def swimmer6() -> BatchedTask:
    return Swimmer(6)


@SUITE.add
def swimmer15() -> BatchedTask:
    return Swimmer(15)


class Swimmer(BatchedTask):
    """Bring the nose to a target, which lies elsewhere in every episode."""

    model_fields = ("geom_pos",)

    def __init__(self, num_links: int) -> None:
        super().__init__(load_model("swimmer", n_joints=num_links), CONTROL_TIMESTEP)
        self._target_size = float(self.model.geom("target").size[0])

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self.joints = physics.qpos[:, 3:]  # without the root
        self._target = physics.named("geom_xpos", "target")
        self._nose = physics.named("geom_xpos", "nose")
        self._head_frame = physics.named("xmat", "head").unflatten(1, (3, 3))
        self._target_pos = physics.named("geom_pos", "target")[:, :2]
        # After the head's own, a velocimeter and a gyro a link: x and y of the first, z of the second.
        links = physics.data("sensordata")[:, 12:].unflatten(1, (-1, 6))
        self._link_velocities, self._vx_vy_wz = links, self.tensor([0, 1, 5], torch.int64)
        self._random_joints = RandomJoints(self)

    def nose_to_target(self) -> Tensor:
        """The vector from nose to target as seen from the head, (W, 2)."""
        return ((self._target - self._nose)[:, None] @ self._head_frame)[:, 0, :2]

    def body_velocities(self) -> Tensor:
        """Velocities of the links in their own frames: x, y and around z, (W, 3 a link)."""
        return self._link_velocities[..., self._vx_vy_wz].flatten(1)

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        self.physics.set_state(mask, self._random_joints(random))
        close = random.uniform("target is close", shape=(1,)) < CLOSE_PROBABILITY
        box = torch.where(close, CLOSE_BOX, FAR_BOX)
        write(self._target_pos, mask, box * random.uniform("target", -1.0, 1.0, (2,)))

    def get_observation(self) -> dict[str, Tensor]:
        return {
            "joints": self.joints,
            "to_target": self.nose_to_target(),
            "body_velocities": self.body_velocities(),
        }

    def get_reward(self) -> Tensor:
        size, distance = self._target_size, torch.linalg.vector_norm(self.nose_to_target(), dim=1)
        return tolerance(distance, (0.0, size), margin=5 * size, sigmoid="long_tail")
