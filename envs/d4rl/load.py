"""From a name or a path to the arrays that an offline agent trains on."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from envs.d4rl.download import DownloadError, find_dataset
from envs.d4rl.names import MINARI, info
from envs.d4rl.packages import read_d4rl_package, read_minari
from envs.d4rl.recording import Recording, read_hdf5
from envs.d4rl.transitions import Episodes, Transitions, episodes, qlearning_transitions, stored_transitions
from rlreg.errors import UserError

D4RL = "d4rl:"
"""What a path starts with that asks the d4rl package."""


@dataclass(frozen=True)
class OfflineDataset:
    """A dataset in memory."""

    transitions: Transitions
    episodes: Episodes
    """How the behaviour policy fared, by rows of the recording."""
    source: str
    """The file, or the package and its name."""


def load_dataset(
    name: str | None = None,
    path: str | Path | None = None,
    mirror: str | None = None,
    stored_next_observations: bool = False,
    clip_actions: bool = False,
    max_episode_steps: int | None = None,
) -> OfflineDataset:
    """The dataset `name` of D4RL, or what lies at `path` in the same format, or both: a file for the task of `name`.

    `path` is an HDF5 file, a folder of files of D4RL's names, 'minari:<id>' or 'd4rl:<name>'; without it see
    `find_dataset`, for `mirror` too. What cannot be downloaded is asked of the d4rl package, where that is installed.
    A file's rows become transitions as in `qlearning_transitions`, or `stored_transitions` if asked for; Minari's
    always by their true successors. Actions beyond [-1, 1] are clipped to it only if `clip_actions` says so.
    `max_episode_steps` is for files that flag no time-outs, by default that of `name`.

    Raises `UserError` for whatever is wrong with it, among that sizes other than those of the task of `name`.
    """
    recording = load_recording(name, path, mirror, clip_actions)
    if name is not None:
        max_episode_steps = max_episode_steps or info(name).max_episode_steps
    stored = stored_next_observations or recording.source.startswith(MINARI)
    transitions = stored_transitions(recording) if stored else qlearning_transitions(recording, max_episode_steps)
    return OfflineDataset(transitions, episodes(recording, max_episode_steps), recording.source)


def load_recording(
    name: str | None = None,
    path: str | Path | None = None,
    mirror: str | None = None,
    clip_actions: bool = False,
) -> Recording:
    """The rows of a dataset as they are stored; arguments and errors as for `load_dataset`."""
    if name is None and path is None:
        raise UserError("name a D4RL dataset, or the path of one")
    task = None if name is None else info(name)
    if isinstance(path, str) and path.startswith(MINARI):
        return read_minari(path.removeprefix(MINARI), task, clip_actions)
    if isinstance(path, str) and path.startswith(D4RL):
        return read_d4rl_package(path.removeprefix(D4RL), task, clip_actions)
    file = Path(path).expanduser() if name is None else fetch_dataset(name, path, mirror)
    return read_d4rl_package(name, task, clip_actions) if file is None else read_hdf5(file, task, clip_actions)


def fetch_dataset(name: str, path: str | Path | None = None, mirror: str | None = None) -> Path | None:
    """The file that `load_dataset` would read, downloaded if need be; None where it would ask a package.

    Raises `UserError` where there is neither.
    """
    if isinstance(path, str) and path.startswith((MINARI, D4RL)):
        return None
    try:
        return find_dataset(name, path, mirror)
    except DownloadError:
        if find_spec("d4rl") is None:
            raise
        return None
