"""Our worlds for everybody: Gymnasium ids with a single and a vector entry point.

    import envs
    gymnasium.make("rlreg/cheetah-run-v0")                        # one world, stepped by dm_control
    gymnasium.make_vec("rlreg/cheetah-run-v0", num_envs=256)      # as many, batched
    gymnasium.make_vec("rlreg/Hopper-v5", num_envs=256)           # Gymnasium's own task, batched
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium

from envs.dmc.task_names import TASKS

if TYPE_CHECKING:
    from envs.base import VectorEnv

GYM = (
    *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum"),
    *("Reacher", "Swimmer", "Walker2d"),
)
"""Gymnasium's MuJoCo tasks that have batched worlds as v4 and as v5; so that it does not load torch."""


def register() -> None:
    """Make every batched task known to Gymnasium: the suite's as `rlreg/<task>-v0`, its own as `rlreg/<id>`."""
    for domain, tasks in TASKS.items():
        for task in tasks:
            _register(f"rlreg/{domain}-{task}-v0", "envs.dmc:make_single", "make_suite", {"task": f"{domain}-{task}"})
    for id in (*(f"{name}-v{version}" for name in GYM for version in (4, 5)), "Pusher-v5"):
        _register(f"rlreg/{id}", "envs.gymnasium_ids:make_gymnasium_single", "make_gymnasium", {"task": id})


def _register(id: str, single: str, vector: str, kwargs: dict[str, str]) -> None:
    gymnasium.register(
        id,
        entry_point=single,
        vector_entry_point=f"envs.gymnasium_ids:{vector}",
        kwargs=kwargs,
        disable_env_checker=True,  # it would warn of observations in float32 that are not bounded
        order_enforce=False,
    )


def make_suite(task: str, num_envs: int = 1, backend: str = "mujoco", **settings: Any) -> gymnasium.vector.VectorEnv:
    """`num_envs` batched worlds of a task of the suite, as a Gymnasium vector environment with same-step autoreset.

    `reset(seed=k)` seeds world i with k + i, or with the i-th of a list. `settings` go to `envs.dmc.make`.
    """
    from envs import dmc

    return _vector(dmc.make, task, num_envs, backend=backend, **settings)


def make_gymnasium(
    task: str, num_envs: int = 1, backend: str = "mujoco", **settings: Any
) -> gymnasium.vector.VectorEnv:
    """The same of one of Gymnasium's MuJoCo tasks, by its id; `settings` go to `envs.gym.make`, its own among them."""
    from envs import gym

    return _vector(gym.make, task, num_envs, backend=backend, **settings)


def make_gymnasium_single(task: str, **settings: Any) -> gymnasium.Env:
    """See `envs.gym.make_single`, whose `id` Gymnasium does not let pass under that name."""
    from envs import gym

    return gym.make_single(task, **settings)


def _vector(make: Callable[..., VectorEnv], name: str, num_envs: int, **settings: Any) -> gymnasium.vector.VectorEnv:
    from envs.adapters import ToGymnasium, world_seeds

    env = make(name, [0], num_envs, **settings)
    if env.reseedable:
        env.reseed(world_seeds(None, num_envs))
    return ToGymnasium(env)
