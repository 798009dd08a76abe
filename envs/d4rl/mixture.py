"""Mixtures: whole episodes of several datasets, drawn at random, as one dataset.

Episodes and not single transitions, so that the file is one like D4RL's: its rows are in time order, its Q-learning
view is that of the episodes drawn, one after another, and methods that look at whole episodes can read it too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.d4rl.load import load_recording
from envs.d4rl.names import info
from envs.d4rl.recording import Recording, read_attributes
from envs.d4rl.settings import MixtureConfig, SourceConfig
from envs.d4rl.transitions import Episodes, episodes
from envs.d4rl.writing import Rows, joined
from rlreg.errors import UserError
from rlreg.rng import Rng


def mix(mixture: MixtureConfig) -> tuple[Rows, dict[str, Any]]:
    """The rows of a mixture, source by source, and its file's attributes. Raises `UserError`.

    Of a source that gives only some of its rows, episodes are drawn without replacement, by the mixture's seed and the
    source's place, until there are enough; the last is cut to fit. They keep the order they had.
    """
    parts, about = [], []
    for place, source in enumerate(mixture.sources):
        recording = load_recording(source.dataset, source.path, clip_actions=source.clip_actions)
        if parts and (got := _sizes(recording)) != _sizes_of(parts[0]):
            raise UserError(
                f"dataset {recording.source}: observations of {got[0]} numbers and actions of {got[1]}, "
                f"unlike those of {about[0]['source']}"
            )
        found = episodes(recording, info(source.dataset).max_episode_steps)
        count = _count(source, recording)
        rows = draw(found, count, Rng([mixture.seed]).uniform(f"mixture/{place}", 0, (len(found.start),))[0].numpy())
        parts.append(_taken(recording, found, rows))
        about.append(_about(source, recording, found, len(rows)))
    attributes = {"kind": "mixture", "mixture": mixture.name, "seed": mixture.seed}
    return joined(parts), attributes | {"sources": json.dumps(about, default=_text)}


def draw(found: Episodes, count: int, order: NDArray) -> NDArray[np.int64]:
    """`count` row numbers, ascending: episodes by ascending `order` (E,), whole but for the last of them."""
    length = found.stop - found.start
    chosen, left = [], count
    for episode in np.argsort(order, kind="stable"):
        take = min(left, length[episode])
        chosen.append(np.arange(found.start[episode], found.start[episode] + take))
        left -= take
        if not left:
            break
    return np.sort(np.concatenate(chosen))


def _count(source: SourceConfig, recording: Recording) -> int:
    have = len(recording.rewards)
    count = source.count or (have if source.fraction is None else round(source.fraction * have))
    if not 1 <= count <= have:
        raise UserError(f"dataset {recording.source}: has {have} rows, of which a mixture asks for {count}")
    return count


def _taken(recording: Recording, found: Episodes, rows: NDArray[np.int64]) -> Rows:
    """Those rows. What no longer is followed by its successor counts as timed out, unless the task ended there."""
    ends = np.zeros(len(recording.rewards), bool)
    ends[found.stop - 1] = True
    followed = np.append(np.diff(rows) == 1, False) & ~ends[rows]
    terminals = recording.terminals[rows]
    timeouts = ~followed & ~terminals
    if recording.timeouts is not None:
        timeouts |= recording.timeouts[rows]
    taken = {
        "observations": recording.observations[rows],
        "actions": recording.actions[rows],
        "rewards": recording.rewards[rows],
        "terminals": terminals,
        "timeouts": timeouts,
    }
    if recording.next_observations is not None:
        taken["next_observations"] = recording.next_observations[rows]
    return taken


def _about(source: SourceConfig, recording: Recording, found: Episodes, taken: int) -> dict[str, Any]:
    """What the mixture's file says of a source: where it came from, and what that file says of itself."""
    about = {
        "dataset": source.dataset,
        "source": Path(recording.source).name,
        "rows": len(recording.rewards),
        "rows_taken": taken,
        "mean_return": round(float(found.returns.mean()), 2),
    }
    if Path(recording.source).is_file():
        about["attributes"] = read_attributes(Path(recording.source))
    return about


def _text(value: Any) -> str:
    """An attribute that JSON has no word for: HDF5's byte strings above all."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _sizes(recording: Recording) -> tuple[int, int]:
    return recording.observations.shape[1], recording.actions.shape[1]


def _sizes_of(rows: Rows) -> tuple[int, int]:
    return rows["observations"].shape[1], rows["actions"].shape[1]
