"""Our worlds for everybody: Gymnasium ids with a single and a vector entry point.

    import envs
    gymnasium.make("rlreg/cheetah-run-v0")                        # one world, stepped by dm_control
    gymnasium.make_vec("rlreg/cheetah-run-v0", num_envs=256)      # as many, batched
"""

from __future__ import annotations

from typing import Any

import gymnasium

DMC = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}
"""The suite's tasks, written out so that importing `envs` does not load dm_control."""


def register() -> None:
    """Make every task known to Gymnasium as `rlreg/<task>-v0`."""
    for domain, tasks in DMC.items():
        for task in tasks:
            gymnasium.register(
                f"rlreg/{domain}-{task}-v0",
                entry_point="envs.dmc:make_single",
                vector_entry_point="envs.gymnasium_ids:make_vector",
                kwargs={"task": f"{domain}-{task}"},
                disable_env_checker=True,  # it would warn of observations in float32 that are not bounded
                order_enforce=False,
            )


def make_vector(task: str, num_envs: int = 1, backend: str = "mujoco", **settings: Any) -> gymnasium.vector.VectorEnv:
    """`num_envs` batched worlds of a task of the suite, as a Gymnasium vector environment with same-step autoreset.

    `reset(seed=k)` seeds world i with k + i, or with the i-th of a list. `settings` go to `envs.dmc.make`.
    """
    from envs import dmc
    from envs.adapters import ToGymnasium, world_seeds

    env = dmc.make(task, [0], num_envs, backend=backend, **settings)
    if hasattr(env, "reseed"):
        env.reseed(world_seeds(None, num_envs))
    return ToGymnasium(env)
