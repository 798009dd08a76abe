"""Stacker: a planar arm with a hand, to stack boxes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from envs.dmc.suite.arm import CLOSE, MAX_ATTEMPTS, Arm
from envs.dmc.suite.base import BatchedTask, Domain, compiled, suite
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics, write
from envs.streams import EpisodeStreams

HAND_DISTANCE = 0.1
"""Of the hand from the target, above which it has let go (m)."""

SUITE = Domain("stacker")


@SUITE.add
def stack_2() -> BatchedTask:
    return Stack(2)


@SUITE.add
def stack_4() -> BatchedTask:
    return Stack(4)


class Stack(Arm):
    """Put a box to the target, on top of others as high as the target is, and take the hand away."""

    model_fields = ("body_pos",)

    def __init__(self, num_boxes: int) -> None:
        super().__init__(compiled(*suite.stacker.make_model(num_boxes)))
        self._boxes = [f"box{i}" for i in range(num_boxes)]
        self._box_size = float(self.model.geom("target").size[0])

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._box_x, self._box_z, self._box_y = (
            physics.indices("qpos", [f"{box}_{axis}" for box in self._boxes]) for axis in "xzy"
        )
        self._box_qvel = physics.indices("qvel", [f"{box}_{axis}" for box in self._boxes for axis in "xyz"])
        self._hand, self._box_bodies = physics.indices("xpos", ["hand"]), physics.indices("xpos", self._boxes)
        self._target_pos = physics.named("xpos", "target")[:, ::2]
        self._target_place = physics.named("body_pos", "target")[:, ::2]
        self._sensors = physics.data("sensordata")
        self._box_sites, (self._grasp, self._target) = self.site_ids(self._boxes), self.site_ids(["grasp", "target"])

    def touch(self) -> Tensor:
        """Log-scaled signals of the hand's touch sensors, (W, 5)."""
        return torch.log1p(self._sensors)

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        boxes = (len(self._boxes),)

        def attempt(k: Any, pending: Tensor) -> Tensor:
            physics, draw = self.physics, random.attempt(k)
            qpos = self.random_arm(draw)
            height = 2 * draw.integers("target height", len(self._boxes)) + 1
            z = self._box_size * height.to(physics.dtype)
            write(self._target_place, pending, torch.stack([draw.uniform("target x", -0.37, 0.37), z], dim=1))
            qpos[:, self._box_x] = draw.uniform("box x", 0.1, 0.3, boxes)
            qpos[:, self._box_z] = draw.uniform("box z", 0.0, 0.7, boxes)
            qpos[:, self._box_y] = draw.uniform("box angle", 0.0, 2 * math.pi, boxes)
            physics.set_state(pending, qpos)
            physics.forward(pending)
            return self._ncon > 0

        self.physics.retry(mask, attempt, MAX_ATTEMPTS)

    def get_observation(self) -> dict[str, Tensor]:
        return {
            "arm_pos": self.arm_pos(),
            "arm_vel": self.arm_vel(),
            "touch": self.touch(),
            "hand_pos": self.body_2d_pose(self._hand),
            "box_pos": self.body_2d_pose(self._box_bodies),
            "box_vel": self.physics.qvel[:, self._box_qvel],
            "target_pos": self._target_pos,
        }

    def get_reward(self) -> Tensor:
        distances = torch.stack([self.site_distance(box, self._target) for box in self._box_sites], dim=1)
        box_is_close = tolerance(distances.amin(dim=1), margin=2 * self._box_size)
        hand_distance = self.site_distance(self._grasp, self._target)
        return box_is_close * tolerance(hand_distance, (HAND_DISTANCE, math.inf), margin=CLOSE)
