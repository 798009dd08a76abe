"""Datasets from other packages, where a user has them: Minari, and the original d4rl."""

from __future__ import annotations

import importlib
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np

from envs.d4rl.names import Info
from envs.d4rl.recording import KEYS, OPTIONAL_KEYS, Recording, checked
from rlreg.errors import UserError


def read_minari(id: str, task: Info | None = None, clip_actions: bool = False) -> Recording:
    """A Minari dataset, such as 'D4RL/pen/human-v2', with the true successor of every row; downloaded if need be.

    These are new recordings on newer environments: no results on them belong beside D4RL's. Raises `UserError`
    without the package, for an unknown or unreachable dataset, for spaces that are not flat, and as `checked`.
    """
    try:
        import minari
    except ImportError:
        raise UserError(f"'minari:{id}' needs Minari: pip install 'rlreg[minari]'") from None
    try:
        data = minari.load_dataset(id, download=True)
    except Exception as error:  # a wrong id, no network, a missing part of it: many kinds, of several packages
        raise UserError(f"cannot load the Minari dataset '{id}': {' '.join(str(error).split())}") from error
    for space in (data.observation_space, data.action_space):
        if space.shape is None or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
            raise UserError(f"the Minari dataset '{id}' has {space}; only vectors of real numbers will do")
    parts: dict[str, list[Any]] = {key: [] for key in (*KEYS, *OPTIONAL_KEYS)}
    for episode in data.iterate_episodes():
        parts["observations"].append(episode.observations[:-1])
        parts["next_observations"].append(episode.observations[1:])
        parts["actions"].append(episode.actions)
        parts["rewards"].append(episode.rewards)
        parts["terminals"].append(episode.terminations)
        # An episode may just stop: what follows it in the recording is another one all the same.
        cut = np.array(episode.truncations)
        cut[-1:] |= not episode.terminations[-1:].any()
        parts["timeouts"].append(cut)
    if not parts["rewards"]:
        raise UserError(f"the Minari dataset '{id}' holds no episodes")
    arrays = {key: np.concatenate(value).astype(np.float32) for key, value in parts.items()}
    return checked(arrays, f"minari:{id}", task, clip_actions)


def read_d4rl_package(name: str, task: Info | None = None, clip_actions: bool = False) -> Recording:
    """`name` through the d4rl package and its Gym environment. Raises `UserError` where they do not work."""
    try:
        with redirect_stdout(StringIO()):  # it prints as it imports and loads
            importlib.import_module("d4rl")
            arrays = importlib.import_module("gym").make(name).get_dataset()
    except Exception as error:  # mujoco_py raises a bare Exception where MuJoCo 2.1 is not installed
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        instead = "rlreg reads D4RL's own files without it: leave env.path out"
        raise UserError(f"the d4rl package cannot give '{name}': {first}; {instead}") from error
    kept = {key: np.asarray(arrays[key], np.float32) for key in (*KEYS, *OPTIONAL_KEYS) if key in arrays}
    return checked(kept, f"d4rl:{name}", task, clip_actions)
