"""The transitions that Q-learning trains on, cut from a recording exactly as D4RL's `qlearning_dataset` does."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.d4rl.recording import Recording
from rlreg.errors import UserError


class Transitions(NamedTuple):
    """N transitions, float32 throughout; the fields are those of `rlreg.buffers.Batch`."""

    obs: NDArray[np.float32]
    """(N, O)."""
    action: NDArray[np.float32]
    """(N, A), in [-1, 1]."""
    reward: NDArray[np.float32]
    """(N,)."""
    next_obs: NDArray[np.float32]
    """(N, O). Where `terminated`, possibly the first of the next episode: never bootstrapped from."""
    terminated: NDArray[np.float32]
    """(N,): 1.0 where the task ended. A time-out is not an end."""


class Episodes(NamedTuple):
    """E episodes of a recording: rows start .. stop - 1."""

    start: NDArray[np.int64]
    """(E,)."""
    stop: NDArray[np.int64]
    """(E,)."""
    returns: NDArray[np.float64]
    """(E,): sums of rewards, undiscounted."""
    complete: NDArray[np.bool_]
    """(E,): ended by itself or by a time limit; False for a last one that the recording breaks off."""


def qlearning_transitions(recording: Recording, max_episode_steps: int | None = None) -> Transitions:
    """D4RL's `qlearning_dataset(env, terminate_on_end=False)`, in one piece instead of row by row.

    Row i < N - 1 becomes a transition to observations[i + 1]; stored `next_observations` are not used. Rows flagged
    as time-outs are dropped: their successor belongs to another episode. A recording without `timeouts` counts the
    last step of an episode of `max_episode_steps` as one. (There the original starts its count at 1 after a terminal,
    and then drops the last but one row of a full episode instead; that slip is not copied.)

    Raises `UserError` for neither `timeouts` nor `max_episode_steps`, and where no transition is left.
    """
    kept = np.flatnonzero(~_timeouts(recording, max_episode_steps)[:-1])
    if not len(kept):
        raise UserError(f"dataset {recording.source}: every row is a time-out, which leaves no transition")
    return Transitions(
        recording.observations[kept],
        recording.actions[kept],
        recording.rewards[kept],
        recording.observations[kept + 1],
        recording.terminals[kept].astype(np.float32),
    )


def stored_transitions(recording: Recording) -> Transitions:
    """Every row with the `next_observations` stored in it: time-outs too, as their true successor is known.

    Unlike `qlearning_transitions`, good for rows in any order. Raises `UserError` where none are stored.
    """
    if recording.next_observations is None:
        raise UserError(f"dataset {recording.source}: key 'next_observations' is missing")
    return Transitions(
        recording.observations,
        recording.actions,
        recording.rewards,
        recording.next_observations,
        recording.terminals.astype(np.float32),
    )


def episodes(recording: Recording, max_episode_steps: int | None = None) -> Episodes:
    """Where the episodes of a recording lie, and what they returned. Raises `UserError` as `qlearning_transitions`."""
    ends = recording.terminals | _timeouts(recording, max_episode_steps)
    stop = np.flatnonzero(ends) + 1
    if not ends[-1]:
        stop = np.append(stop, len(ends))
    start = np.concatenate([[0], stop[:-1]])
    returns = np.add.reduceat(recording.rewards, start, dtype=np.float64)
    return Episodes(start, stop, returns, ends[stop - 1])


def _timeouts(recording: Recording, max_episode_steps: int | None) -> NDArray[np.bool_]:
    """(N,): the recording's own flags, else the last step of every episode of full length."""
    if recording.timeouts is not None:
        return recording.timeouts
    if max_episode_steps is None:
        raise UserError(f"dataset {recording.source}: key 'timeouts' is missing; give max_episode_steps instead")
    row = np.arange(len(recording.terminals))
    after_terminal = np.concatenate([[0], np.where(recording.terminals, row + 1, 0)[:-1]])
    # A time-out restarts the count as well, hence the remainder.
    step = (row - np.maximum.accumulate(after_terminal)) % max_episode_steps
    return step == max_episode_steps - 1
