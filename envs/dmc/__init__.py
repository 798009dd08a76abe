"""The DeepMind Control Suite: every task by the name 'domain-task'. `DMControlTask` is what a configuration names.

`dm_control_env` steps a task with dm_control itself, the reference; `suite` has the tasks in batched tensor operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from envs.dmc.task_names import check, task_names
from rlreg.purpose import Purpose
from rlreg.task import Task

if TYPE_CHECKING:
    import torch

    from envs.base import VectorEnv
    from envs.dmc.dm_control_env import DMControlEnv

__all__ = ["DMControlEnv", "DMControlTask", "choose_backend", "make", "make_single", "task_names"]


def __getattr__(name: str) -> Any:
    """`DMControlEnv`, imported with dm_control when it is first asked for."""
    if name == "DMControlEnv":
        from envs.dmc.dm_control_env import DMControlEnv

        return DMControlEnv
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def make_single(task: str, *args: Any, **kwargs: Any) -> DMControlEnv:
    """One task as a `gymnasium.Env`, for video and for other libraries; see `DMControlEnv`."""
    from envs.dmc.dm_control_env import DMControlEnv

    return DMControlEnv(task, *args, **kwargs)


REFERENCE = "dm_control"
"""The backend that is dm_control's own stepping: the same seed gives the same trajectory as `suite.load`."""


def choose_backend(task: str, num_envs: int, device: str | torch.device, backend: str = "auto") -> str:
    """What `make` steps `num_envs` worlds per seed with; see `envs.backends.choose`. Raises `UserError`."""
    from envs.backends import choose
    from envs.dmc.suite import TASKS

    return choose(backend, REFERENCE, task in TASKS, num_envs, device, lambda: TASKS[task]().model_fields)


def make(
    task: str,
    seeds: Sequence[int],
    num_envs: int = 1,
    purpose: Purpose = Purpose.TRAIN,
    action_repeat: int = 1,
    backend: str = "auto",
    spread: bool = False,
    workers: int | str = 0,
    device: str | torch.device = "cpu",
    deterministic: bool = False,
    nconmax: int | None = None,
    njmax: int | None = None,
) -> VectorEnv:
    """S x N worlds of `task` for one purpose, batched (`envs.batched.BatchedEnv`) or each on its own.

    `backend`: auto, mujoco, warp or dm_control, see `envs.backends`; `spread`, of batched worlds: first episodes are
    cut at different times; `deterministic`, `nconmax` and `njmax`: see `envs.physics.mujoco_warp`. Raises `UserError`.
    """
    check(task, action_repeat)
    chosen = choose_backend(task, num_envs, device, backend)
    if chosen == REFERENCE:
        from envs.dmc.dm_control_env import DMControlEnv
        from envs.gym_vector import GymVectorEnv  # here: worker processes, which import this module, load no torch

        single = partial(DMControlEnv, task, action_repeat=action_repeat)
        return GymVectorEnv(single, task, seeds, num_envs, purpose, workers, device)
    from envs.backends import make_batched
    from envs.dmc.suite import TASKS

    warp = {"deterministic": deterministic, "nconmax": nconmax, "njmax": njmax}
    return make_batched(TASKS[task], chosen, seeds, num_envs, purpose, action_repeat, spread, workers, device, **warp)


class DMControlTask(Task):
    """A task of the suite; see `envs.registry.DMCConfig` for the settings."""

    def __init__(self, task: str, action_repeat: int = 1, backend: str = "auto", **worlds: Any) -> None:
        """`worlds`: the other settings of `make`, which only its worlds have."""
        self.task, self.action_repeat, self.chosen, self.worlds = task, action_repeat, backend, worlds

    def vector_env(
        self, seeds: Sequence[int], num_envs: int, purpose: Purpose, device: torch.device | str = "cpu"
    ) -> VectorEnv:
        settings = {"action_repeat": self.action_repeat, "backend": self.chosen, "device": device, **self.worlds}
        return make(self.task, seeds, num_envs, purpose, **settings)

    def single_env(self, seed: int | None = None, render_mode: str | None = None) -> DMControlEnv:
        return make_single(self.task, seed, self.action_repeat, render_mode)

    def probe(self) -> VectorEnv:
        env = make(self.task, (0,), action_repeat=self.action_repeat)  # by the backend that is quickest to be made
        env.close()
        return env

    def backend(self, num_envs: int, device: torch.device | str) -> str:
        return choose_backend(self.task, num_envs, device, self.chosen)
