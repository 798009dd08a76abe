"""The suite's tasks in batched tensor operations, file for file as in dm_control."""

from __future__ import annotations

from envs.dmc.suite import (
    acrobot,
    ball_in_cup,
    cartpole,
    cheetah,
    dog,
    finger,
    fish,
    hopper,
    humanoid,
    humanoid_CMU,
    lqr,
    manipulator,
    pendulum,
    point_mass,
    quadruped,
    reacher,
    stacker,
    swimmer,
    walker,
)
from envs.physics.batched_task import BatchedTask
from rlreg.errors import unknown

_DOMAINS = (
    acrobot,
    ball_in_cup,
    cartpole,
    cheetah,
    dog,
    finger,
    fish,
    hopper,
    humanoid,
    humanoid_CMU,
    lqr,
    manipulator,
    pendulum,
    point_mass,
    quadruped,
    reacher,
    stacker,
    swimmer,
    walker,
)
TASKS = {f"{domain.SUITE.name}-{name}": make for domain in _DOMAINS for name, make in domain.SUITE.tasks.items()}
"""What makes each task, by the name 'domain-task'."""


def make_task(name: str) -> BatchedTask:
    """Raises `UserError` for an unknown task."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]()
