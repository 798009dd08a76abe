"""The suite's tasks by name, known without importing dm_control: that takes a second, and a usable `MUJOCO_GL`."""

from __future__ import annotations

from rlreg.errors import UserError, unknown

EPISODE_STEPS = 1000
"""Control steps an episode. The suite's own time limits all come to this, save `lqr`'s, which has none."""
TASKS = {
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
"""By domain, in the order of `dm_control.suite.ALL_TASKS`."""


def task_names() -> tuple[str, ...]:
    """All tasks of the suite as 'domain-task', such as 'humanoid-stand', 'lqr-lqr_2_1'."""
    return tuple(f"{domain}-{task}" for domain, tasks in TASKS.items() for task in tasks)


def check(task: str, action_repeat: int = 1) -> None:
    """Raises `UserError` for an unknown task or an impossible repeat."""
    if task not in task_names():
        raise unknown("task", task, task_names())
    if not 1 <= action_repeat <= EPISODE_STEPS:
        raise UserError(f"action_repeat={action_repeat}: give 1 (none) to {EPISODE_STEPS}")
