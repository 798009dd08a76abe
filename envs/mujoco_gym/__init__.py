"""Gymnasium's MuJoCo tasks in batched tensor operations, v4 and v5, by their ids."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium

from envs.mujoco_gym.ant import Ant
from envs.mujoco_gym.half_cheetah import HalfCheetah
from envs.mujoco_gym.hopper import Hopper, Walker2d
from envs.mujoco_gym.humanoid import Humanoid, HumanoidStandup
from envs.mujoco_gym.inverted_pendulum import InvertedDoublePendulum, InvertedPendulum
from envs.mujoco_gym.pusher import Pusher
from envs.mujoco_gym.reacher import Reacher
from envs.mujoco_gym.settings import IDS, check, settings
from envs.mujoco_gym.swimmer import Swimmer
from envs.physics.batched_task import BatchedTask
from rlreg.errors import UserError, unknown

_VERSIONED = (Ant, Hopper, Humanoid, HumanoidStandup, InvertedDoublePendulum, InvertedPendulum, Reacher, Walker2d)
TASKS: dict[str, Callable[..., BatchedTask]] = {
    f"{task.__name__}-v{version}": partial(task, version=version) for task in _VERSIONED for version in (4, 5)
}
TASKS |= {f"{task.__name__}-v{version}": task for task in (HalfCheetah, Swimmer) for version in (4, 5)}
TASKS |= {"Pusher-v5": Pusher}
assert set(TASKS) == set(IDS)


def make_task(
    id: str, max_episode_steps: int | None = None, of: Callable[..., BatchedTask] | None = None, **given: Any
) -> BatchedTask:
    """The task of a Gymnasium id; `given` as Gymnasium's own constructor takes them.

    `of` makes it instead of the task's own class. Raises `UserError` for an unknown id or setting, or a strange value.
    """
    if id not in TASKS:
        raise unknown("Gymnasium id", id, TASKS)
    known = settings(id)
    if strange := [name for name in given if name not in known]:
        raise UserError(f"'{id}' has no setting '{strange[0]}'; it has {', '.join(known) or 'none'}")
    try:
        task = (of or TASKS[id])(**(known | check(id, given)))
    except KeyError as error:  # of a body's name
        raise UserError(f"env.settings.main_body={given.get('main_body')} is not valid: {error.args[0]}") from None
    task.max_episode_steps = max_episode_steps or gymnasium.spec(id).max_episode_steps
    return task
