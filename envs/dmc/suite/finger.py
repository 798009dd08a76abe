"""Finger: two links flick a freely hinged body."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, RandomJoints, load_model
from envs.physics.base import Physics, write
from envs.streams import EpisodeStreams

CONTROL_TIMESTEP = 0.02
"""(seconds)"""
EASY_TARGET_SIZE = 0.07
HARD_TARGET_SIZE = 0.03
"""Radii of the sphere that the tip of the body is to enter (m)."""
SPIN_VELOCITY = 15.0
"""Turning faster than this counts as spinning (rad/s)."""
SPIN_DAMPING = 0.03
"""Of the body's hinge in the spin task (N m s/rad)."""
MAX_ATTEMPTS = 1000
"""Random poses tried for one without contacts."""

SUITE = Domain("finger")


@SUITE.add
def spin() -> BatchedTask:
    return Spin()


@SUITE.add
def turn_easy() -> BatchedTask:
    return Turn(EASY_TARGET_SIZE)


@SUITE.add
def turn_hard() -> BatchedTask:
    return Turn(HARD_TARGET_SIZE)


class Finger(BatchedTask):
    """What both tasks read, and how they begin: in a random pose without contacts."""

    def __init__(self) -> None:
        super().__init__(load_model("finger"), CONTROL_TIMESTEP)

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._sensors = physics.data("sensordata")
        self._angles = physics.indices("sensordata", ["proximal", "distal"])
        self._velocities = physics.indices("sensordata", ["proximal_velocity", "distal_velocity", "hinge_velocity"])
        self._touch = physics.indices("sensordata", ["touchtop", "touchbottom"])
        self.hinge_velocity = physics.named("sensordata", "hinge_velocity")[:, 0]
        self._tip, self._spinner, self._target = (
            physics.named("sensordata", name)[:, ::2] for name in ("tip", "spinner", "target")
        )  # x, z
        self._ncon = physics.data("ncon")
        self._random_joints = RandomJoints(self)

    def touch(self) -> Tensor:
        """Log-scaled signals of the two touch sensors, (W, 2)."""
        return torch.log1p(self._sensors[:, self._touch])

    def tip_position(self) -> Tensor:
        """(x, z) of the body's tip as seen from its hinge, (W, 2)."""
        return self._tip - self._spinner

    def bounded_position(self) -> Tensor:
        """The finger's two angles, and the tip in place of the hinge's angle, (W, 4)."""
        return torch.cat([self._sensors[:, self._angles], self.tip_position()], dim=1)

    def target_position(self) -> Tensor:
        """(x, z) of the target as seen from the hinge, (W, 2)."""
        return self._target - self._spinner

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        def attempt(k: Any, pending: Tensor) -> Tensor:
            self.physics.set_state(pending, self._random_joints(random.attempt(k)))
            self.physics.forward(pending)
            return self._ncon > 0

        self.physics.retry(mask, attempt, MAX_ATTEMPTS)

    def get_observation(self) -> dict[str, Tensor]:
        return {
            "position": self.bounded_position(),
            "velocity": self._sensors[:, self._velocities],
            "touch": self.touch(),
        }


class Spin(Finger):
    """Spin the body."""

    def __init__(self) -> None:
        super().__init__()
        self.model.dof_damping[self.model.joint("hinge").dofadr] = SPIN_DAMPING

    def get_reward(self) -> Tensor:
        return (self.hinge_velocity <= -SPIN_VELOCITY).to(self.physics.dtype)


class Turn(Finger):
    """Turn the body so that its tip is in a target, which lies elsewhere in every episode."""

    model_fields = ("site_pos",)

    def __init__(self, target_radius: float) -> None:
        super().__init__()
        self._target_radius = target_radius
        self._reach = float(self.model.geom("cap1").size.sum())
        hinge = self.model.joint("hinge")
        self._hinge_x, _, self._hinge_z = (self.model.body(hinge.bodyid[0]).pos + hinge.pos).tolist()

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._target_pos = physics.named("site_pos", "target")[:, ::2]

    def dist_to_target(self) -> Tensor:
        """Signed distance from the tip to the target's surface, negative inside, (W,)."""
        to_target = self.target_position() - self.tip_position()
        return torch.linalg.vector_norm(to_target, dim=1) - self._target_radius

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        angle = random.uniform("target angle", -math.pi, math.pi)
        x = self._hinge_x + self._reach * torch.sin(angle)
        z = self._hinge_z + self._reach * torch.cos(angle)
        write(self._target_pos, mask, torch.stack([x, z], dim=1))
        super().initialize_episode(mask, random)

    def get_observation(self) -> dict[str, Tensor]:
        target = {"target_position": self.target_position(), "dist_to_target": self.dist_to_target()}
        return super().get_observation() | target

    def get_reward(self) -> Tensor:
        return (self.dist_to_target() <= 0).to(self.physics.dtype)
