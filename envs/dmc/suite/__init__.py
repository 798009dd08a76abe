"""The suite's tasks in batched tensor operations, file for file as in dm_control."""

from __future__ import annotations

from envs.dmc.suite import cartpole, cheetah, humanoid, reacher
from envs.physics.task import Task
from rlreg.errors import unknown

_DOMAINS = (cartpole, cheetah, humanoid, reacher)
TASKS = {f"{domain.SUITE.name}-{name}": make for domain in _DOMAINS for name, make in domain.SUITE.tasks.items()}
"""What makes each task, by the name 'domain-task'."""


def make_task(name: str) -> Task:
    """Raises `UserError` for an unknown task."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]()
