"""Humanoid CMU: a humanoid with the joints of the CMU motion capture database, to stand, walk and run."""

from __future__ import annotations

from envs.dmc.suite.base import BatchedTask, Domain
from envs.dmc.suite.humanoid import RUN_SPEED, WALK_SPEED, Humanoid

SUITE = Domain("humanoid_CMU")


@SUITE.add
def stand() -> BatchedTask:
    return HumanoidCMU(move_speed=0)


@SUITE.add
def walk() -> BatchedTask:
    return HumanoidCMU(move_speed=WALK_SPEED)


@SUITE.add
def run() -> BatchedTask:
    return HumanoidCMU(move_speed=RUN_SPEED)


class HumanoidCMU(Humanoid):
    """`Humanoid`'s task with another body."""

    body = "humanoid_CMU"
    control_timestep = 0.02
    max_attempts = 1000  # about one random pose in eight has no contacts
    torso = "thorax"
    torso_upward = 7  # zy: lying, the thorax's frame has y upward
    limbs = "lhand", "lfoot", "rhand", "rfoot"
