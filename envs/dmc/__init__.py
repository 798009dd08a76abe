"""The DeepMind Control Suite: every task by the name 'domain-task'.

`dm_control_env` steps a task with dm_control itself, the reference for any other backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from envs.dmc.dm_control_env import DMControlEnv, task_names
from rlreg.purpose import Purpose

if TYPE_CHECKING:
    import torch

    from envs.base import VectorEnv

__all__ = ["DMControlEnv", "make", "make_single", "task_names"]

make_single = DMControlEnv
"""One task as a `gymnasium.Env`, for video and for other libraries."""


def make(
    task: str,
    seeds: Sequence[int],
    num_envs: int = 1,
    purpose: Purpose = Purpose.TRAIN,
    action_repeat: int = 1,
    workers: int | str = 0,
    device: str | torch.device = "cpu",
) -> VectorEnv:
    """S x N worlds of `task` for one purpose. See `envs.gym_vector.GymVectorEnv`. Raises `UserError`."""
    from envs.gym_vector import GymVectorEnv  # here, so that worker processes, which import this module, load no torch

    single = partial(DMControlEnv, task, action_repeat=action_repeat)
    return GymVectorEnv(single, task, seeds, num_envs, purpose, workers, device)
