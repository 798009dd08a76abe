"""Manipulator: a planar arm with a hand, to bring a ball or a peg to its place."""

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

P_IN_HAND = 0.1
P_IN_TARGET = 0.1
"""Probabilities of an episode that begins with the object in the hand, and at its target."""
OBJECT_SPEED = 5.0
"""The largest horizontal speed that an object elsewhere begins with (m/s)."""
TOUCH_SENSORS = ("palm_touch", "finger_touch", "thumb_touch", "fingertip_touch", "thumbtip_touch")

SUITE = Domain("manipulator")


@SUITE.add
def bring_ball() -> BatchedTask:
    return Bring(use_peg=False, insert=False)


@SUITE.add
def bring_peg() -> BatchedTask:
    return Bring(use_peg=True, insert=False)


@SUITE.add
def insert_ball() -> BatchedTask:
    return Bring(use_peg=False, insert=True)


@SUITE.add
def insert_peg() -> BatchedTask:
    return Bring(use_peg=True, insert=True)


class Bring(Arm):
    """Bring the object, a ball or a peg, to its target; to `insert` it, into a cup or a slot that is there."""

    model_fields = ("body_pos", "body_quat")

    def __init__(self, use_peg: bool, insert: bool) -> None:
        super().__init__(compiled(*suite.manipulator.make_model(use_peg, insert)))
        self._use_peg, self._insert = use_peg, insert
        self._object = "peg" if use_peg else "ball"
        self._receptacle = "slot" if use_peg else "cup"

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        target = f"target_{self._object}"
        joints = [f"{self._object}_{axis}" for axis in "xzy"]
        self._object_qpos, self._object_qvel = physics.indices("qpos", joints), physics.indices("qvel", joints)
        self._hand, self._object_body, self._target_body = (
            physics.indices("xpos", [name]) for name in ("hand", self._object, target)
        )
        self._sensors, self._touch = physics.data("sensordata"), physics.indices("sensordata", TOUCH_SENSORS)
        self._grasp_pos = physics.named("site_xpos", "grasp")[:, ::2]
        self._grasp_frame = physics.named("site_xmat", "grasp")
        placed = [target, self._receptacle] if self._insert else [target]
        self._places = [
            (physics.named("body_pos", name)[:, ::2], physics.named("body_quat", name)[:, ::2]) for name in placed
        ]
        pairs = [("peg_grasp", "grasp"), ("peg_pinch", "pinch"), ("peg", "target_peg"), ("target_peg_tip", "peg_tip")]
        self._pairs = [self.site_ids(pair) for pair in (pairs if self._use_peg else [("ball", "target_ball")])]

    def touch(self) -> Tensor:
        """Log-scaled signals of the hand's touch sensors, (W, 5)."""
        return torch.log1p(self._sensors[:, self._touch])

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        widest = math.pi / 3 if self._insert else math.pi

        def attempt(k: Any, pending: Tensor) -> Tensor:
            physics, draw = self.physics, random.attempt(k)
            qpos, qvel = self.random_arm(draw), physics.qvel.clone()
            target = torch.stack([draw.uniform("target x", -0.4, 0.4), draw.uniform("target z", 0.1, 0.4)], dim=1)
            target_angle = draw.uniform("target angle", -widest, widest)
            half = target_angle / 2
            for position, quaternion in self._places:
                write(position, pending, target)
                write(quaternion, pending, torch.stack([torch.cos(half), torch.sin(half)], dim=1))

            kind = draw.uniform("where the object is", shape=(1,))
            in_hand, in_target = kind < P_IN_HAND, (kind >= P_IN_HAND) & (kind < P_IN_HAND + P_IN_TARGET)
            physics.set_state(pending, qpos)
            physics.forward(pending)  # for the grasp
            grasp_angle = math.pi - torch.atan2(self._grasp_frame[:, 6], self._grasp_frame[:, 0])  # zx, xx
            elsewhere = [draw.uniform("object x", -0.5, 0.5), draw.uniform("object z", 0.0, 0.7)]
            elsewhere = torch.stack([*elsewhere, draw.uniform("object angle", 0.0, 2 * math.pi)], dim=1)
            place = torch.where(in_target, torch.cat([target, target_angle[:, None]], dim=1), elsewhere)
            place = torch.where(in_hand, torch.cat([self._grasp_pos, grasp_angle[:, None]], dim=1), place)
            qpos[:, self._object_qpos] = place
            # As in dm_control, an object in its place or in the hand keeps the speed of a rejected attempt.
            x = self._object_qvel[:1]
            speed = draw.uniform("object speed", -OBJECT_SPEED, OBJECT_SPEED, (1,))
            qvel[:, x] = torch.where(in_hand | in_target, qvel[:, x], speed)
            physics.set_state(pending, qpos, qvel)
            physics.forward(pending)
            return self._ncon > 0

        self.physics.retry(mask, attempt, MAX_ATTEMPTS)

    def get_observation(self) -> dict[str, Tensor]:
        return {
            "arm_pos": self.arm_pos(),
            "arm_vel": self.arm_vel(),
            "touch": self.touch(),
            "hand_pos": self.body_2d_pose(self._hand),
            "object_pos": self.body_2d_pose(self._object_body),
            "object_vel": self.physics.qvel[:, self._object_qvel],
            "target_pos": self.body_2d_pose(self._target_body),
        }

    def get_reward(self) -> Tensor:
        close = [tolerance(self.site_distance(*pair), (0.0, CLOSE), margin=2 * CLOSE) for pair in self._pairs]
        if not self._use_peg:
            return close[0]
        grasp, pinch, bring, bring_tip = close
        return torch.maximum((bring + bring_tip) / 2, (grasp + pinch) / 2 / 3)
