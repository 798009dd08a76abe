"""Playing levels: S students in N worlds each, for a fixed number of steps, a new level wherever an episode ends.

The levels of a whole rollout are drawn beforehand, one for each step at which a world might need one, so that
playing is a fixed program. Knows nothing of what a level is or shows, nor of who learns.
Shapes: S seeds, T steps, N worlds of each seed; `*level` is a level's own shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rlreg.compilation import Function
from rlreg.level_space import LevelEnv, stacked
from rlreg.rng import Rng


class PolicyOutput(NamedTuple):
    """A student's answer to observations of (S, N) worlds."""

    action: Tensor
    """(S, N) int64."""
    log_prob: Tensor
    """(S, N)."""
    value: Tensor
    """V of the observation, (S, N)."""
    trunk: Tensor
    """What its heads see, (S, N, H)."""
    state: Any
    """Its memory after the observation."""


class Student(Protocol):
    """Who plays: `agents.ppo.PPO`."""

    seeds: Sequence[int]
    num_actions: int
    bootstraps: bool
    """Whether a time-out, and the rollout's end, are worth V there; nothing otherwise."""
    feature_dim: int
    """H, the size of `PolicyOutput.trunk`."""

    def initial_state(self, num_envs: int) -> Any: ...
    def act(self, obs: Any, start: Tensor, state: Any, uniform: Tensor) -> PolicyOutput: ...


class Rollout(NamedTuple):
    """T steps of (S, N) worlds; every world begins with a new episode."""

    obs: Any
    """What was seen: a NamedTuple of tensors (S, T, N, ...)."""
    start: Tensor
    """(S, T, N) bool: the first step of an episode."""
    action: Tensor
    """(S, T, N) int64."""
    log_prob: Tensor
    """(S, T, N), of the action when it was taken."""
    value: Tensor
    """(S, T, N)."""
    reward: Tensor
    """(S, T, N)."""
    terminated: Tensor
    """(S, T, N) bool: the task ended with this step."""
    truncated: Tensor
    """(S, T, N) bool: the time limit cut the episode after this step."""
    final_value: Tensor
    """(S, T, N): V of what a time-out, or the rollout's end, cut off; 0 where nothing is to be bootstrapped."""
    level: Tensor
    """(S, T, N) int64: which level was played."""
    trunk: Tensor | None
    """(S, T, N, H): what the student's heads saw, where asked for."""

    @property
    def done(self) -> Tensor:
        """(S, T, N): an episode ended with this step."""
        return self.terminated | self.truncated

    @property
    def finished(self) -> Tensor:
        """(S, T, N): this step is of an episode that comes to its end in the rollout."""
        return self.done.flip(1).cummax(dim=1).values.flip(1)

    @property
    def ended(self) -> Tensor:
        """(S, T, N): this step has no successor in the rollout: an episode's end, or the rollout's."""
        ended = self.done.clone()
        ended[:, -1] = True
        return ended


@torch.no_grad()
def play(
    student: Student,
    worlds: LevelEnv,
    levels: Tensor,
    schedule: Tensor,
    rng: Rng,
    stream: str,
    number: int | Tensor,
    repeat: bool = False,
    keep_trunk: bool = False,
    program: Function | None = None,
) -> Rollout:
    """Roll the student out: `levels` (S, K, *level) by index, `schedule` (S, T, N) the index of the level that begins
    at step t if one does: everywhere at t = 0, and where an episode has just ended.

    What is random about a start is drawn anew with every level. With `repeat` each world keeps both, level and start,
    that it has at t = 0. `stream` and `number` name this rollout: actions and starts are functions of them and of the
    seed. `program` is `play_steps` compiled, which takes `STEPS_PER_CALL` at once.
    """
    num_seeds, length, num_envs = schedule.shape
    device = schedule.device
    starts = worlds.draw_starts(rng, stream, number, length)
    if repeat:
        schedule, starts = (x[:, :1].expand(-1, length, *x.shape[2:]) for x in (schedule, starts))
    schedule, starts = schedule.contiguous(), starts.contiguous()  # as a program knows them
    uniform = rng.uniform(f"{stream}/action", number, (length, num_envs, student.num_actions))
    seed_index = torch.arange(num_seeds, device=device)[:, None, None]

    start = torch.ones(num_seeds, num_envs, dtype=torch.bool, device=device)
    course = Course(start, torch.zeros_like(start, dtype=torch.int64), student.initial_state(num_envs))
    parts = []
    for first in range(0, length, STEPS_PER_CALL):
        now = slice(first, first + STEPS_PER_CALL)
        steps = program if program and first + STEPS_PER_CALL <= length else play_steps
        drawn = levels[seed_index, schedule[:, now]], schedule[:, now], starts[:, now], uniform[:, now]
        part, course = steps(student, worlds, *drawn, course, keep_trunk)
        parts.append(part)
    obs, *columns = zip(*parts, strict=True)
    obs = type(obs[0])(*(torch.cat(fields, dim=1) for fields in zip(*obs, strict=True)))
    rollout = Rollout(obs, *(None if column[0] is None else torch.cat(column, dim=1) for column in columns))
    if student.bootstraps:
        after = student.act(worlds.observe(), torch.zeros_like(start), course.state, uniform[:, -1]).value
        rollout.final_value[:, -1] = torch.where(~rollout.terminated[:, -1], after, 0.0)
    return rollout


STEPS_PER_CALL = 4
"""Steps that a compiled program plays: of more there are fewer calls, and more to compile."""


class Course(NamedTuple):
    """What a step of a rollout has from the one before."""

    start: Tensor
    """(S, N) bool: an episode begins."""
    level: Tensor
    """(S, N) int64: which level is played, but where an episode begins."""
    state: Any
    """The student's memory."""


def play_steps(
    student: Student,
    worlds: LevelEnv,
    levels: Tensor,
    schedule: Tensor,
    starts: Tensor,
    uniform: Tensor,
    course: Course,
    keep_trunk: bool,
) -> tuple[Rollout, Course]:
    """Some steps: `levels` (S, T, N, *level), their indices `schedule` (S, T, N) and `starts` are what begins at step t
    if an episode does. Worth V at the rollout's end is not in here.
    """
    steps = []
    for t in range(schedule.shape[1]):
        start, level, state = course
        level = torch.where(start, schedule[:, t], level)
        worlds.set_levels(levels[:, t], starts[:, t], start)
        obs = worlds.observe()
        acted = student.act(obs, start, state, uniform[:, t])
        reward, terminated, truncated = worlds.step(acted.action)
        final_value = torch.zeros_like(reward)
        if student.bootstraps:
            after = student.act(worlds.observe(), torch.zeros_like(start), acted.state, uniform[:, t]).value
            final_value = torch.where(truncated, after, 0.0)
        came = (reward, terminated, truncated, final_value, level, acted.trunk if keep_trunk else None)
        steps.append((obs, start, acted.action, acted.log_prob, acted.value, *came))
        course = Course(terminated | truncated, level, acted.state)
    seen, *columns = zip(*steps, strict=True)
    return Rollout(stacked(seen), *(None if c[0] is None else torch.stack(c, dim=1) for c in columns)), course
