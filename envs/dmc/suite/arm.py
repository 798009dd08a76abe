"""The planar arm with a hand that `manipulator` and `stacker` share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask
from envs.physics.base import Physics
from envs.streams import EpisodeStreams

CONTROL_TIMESTEP = 0.01
"""(seconds)"""
CLOSE = 0.01
"""Distance below which a thing is considered close (m)."""
MAX_ATTEMPTS = 1000
"""Random configurations tried for one without contacts."""
ARM_JOINTS = ("arm_root", "arm_shoulder", "arm_elbow", "arm_wrist", "finger", "fingertip", "thumb", "thumbtip")


class Arm(BatchedTask):
    """What is read of the arm and of bodies in its plane."""

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model, CONTROL_TIMESTEP)

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._arm_qpos = physics.indices("qpos", ARM_JOINTS)
        self._arm_qvel = physics.indices("qvel", ARM_JOINTS)
        self._finger, self._thumb = physics.index("qpos", "finger"), physics.index("qpos", "thumb")
        self._xpos, self._xquat = physics.data("xpos"), physics.data("xquat")
        self._sites, self._ncon = physics.data("site_xpos"), physics.data("ncon")
        joints = [self.model.joint(name) for name in ARM_JOINTS]
        ranges = [joint.range if joint.limited[0] else (-math.pi, math.pi) for joint in joints]
        self._arm_low, self._arm_high = self.tensor(np.array(ranges)).T

    def arm_pos(self) -> Tensor:
        """Sine and cosine of each joint's angle, (W, 16)."""
        angles = self.physics.qpos[:, self._arm_qpos]
        return torch.stack([torch.sin(angles), torch.cos(angles)], dim=2).flatten(1)

    def arm_vel(self) -> Tensor:
        """(W, 8)."""
        return self.physics.qvel[:, self._arm_qvel]

    def body_2d_pose(self, bodies: Tensor) -> Tensor:
        """(x, z) of `bodies` (n,) and the two parts of their quaternions that turn in the plane, (W, 4 n)."""
        return torch.cat([self._xpos[:, bodies, ::2], self._xquat[:, bodies, ::2]], dim=2).flatten(1)

    def site_distance(self, first: int, second: int) -> Tensor:
        """Between two sites, (W,)."""
        return torch.linalg.vector_norm(self._sites[:, first] - self._sites[:, second], dim=1)

    def site_ids(self, names: Sequence[str]) -> list[int]:
        return [self.model.site(name).id for name in names]

    def random_arm(self, random: EpisodeStreams) -> Tensor:
        """The physics' present positions (W, nq) with the arm's drawn anew, its hand symmetric."""
        qpos = self.physics.qpos.clone()
        qpos[:, self._arm_qpos] = random.uniform("arm", self._arm_low, self._arm_high, (len(ARM_JOINTS),))
        qpos[:, self._finger] = qpos[:, self._thumb]
        return qpos
