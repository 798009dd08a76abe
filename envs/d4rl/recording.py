"""What a dataset file holds, row by row in time order, read from HDF5 and checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from rlreg.errors import UserError

ACTION_TOLERANCE = 1e-5
"""Actions may lie this far outside [-1, 1]: what float32 rounding can do to a tanh."""


class Recording(NamedTuple):
    """N rows in time order: in row i the action was taken at the observation, and the flags say how it ended."""

    observations: NDArray[np.float32]
    """(N, O)."""
    actions: NDArray[np.float32]
    """(N, A), in [-1, 1]."""
    rewards: NDArray[np.float32]
    """(N,)."""
    terminals: NDArray[np.bool_]
    """(N,): the task ended with this action."""
    timeouts: NDArray[np.bool_] | None
    """(N,): the episode was cut off after this action; None in old files, which do not say."""
    next_observations: NDArray[np.float32] | None
    """(N, O): what the action led to; None where the file does not store it."""
    source: str
    """Where it came from, for errors."""


KEYS = ("observations", "actions", "rewards", "terminals")
OPTIONAL_KEYS = ("timeouts", "next_observations")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What the system holds against reading `path` is a user's mistake: `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"dataset {path}: cannot be read ({error.strerror})") from None


def read_hdf5(path: Path) -> Recording:
    """Read D4RL's keys of an HDF5 file; others (`infos/...`, `metadata/...`) stay unread.

    Raises `UserError`, naming the file: not there, empty, not HDF5, cut off, a missing key, or as `checked`.
    """
    with readable(path):
        if not path.is_file():
            raise UserError(f"dataset {path}: no such file")
        if path.stat().st_size == 0:
            raise UserError(f"dataset {path}: an empty file")
        path.open("rb").close()
    try:
        with h5py.File(path, "r") as file:
            found = {key: file[key] for key in (*KEYS, *OPTIONAL_KEYS) if isinstance(file.get(key), h5py.Dataset)}
            nothing = [key for key, dataset in found.items() if dataset.shape is None]
            if nothing:
                raise UserError(f"dataset {path}: key '{nothing[0]}' holds nothing")
            # float32 as it is read: the replay sets are float64, and twice as large.
            arrays = {key: dataset.astype(np.float32)[()] for key, dataset in found.items()}
    except OSError as error:
        if not h5py.is_hdf5(path):
            raise UserError(f"dataset {path}: not an HDF5 file") from None
        raise UserError(f"dataset {path}: cut off or damaged ({' '.join(str(error).split())})") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"dataset {path}: holds something else than numbers ({error})") from None
    return checked(arrays, str(path))


def checked(arrays: dict[str, NDArray], source: str) -> Recording:
    """The recording in float32 `arrays` by D4RL's keys. `source` is for errors.

    Raises `UserError` for a missing key, no rows, wrong shapes, lengths that differ, a NaN or infinity (which key and
    row), actions outside [-1, 1] and flags other than 0 and 1.
    """
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise UserError(f"dataset {source}: key '{missing[0]}' is missing (has: {', '.join(arrays) or 'none'})")
    arrays = {key: _shaped(key, value, source) for key, value in arrays.items()}
    rows = len(arrays["observations"])
    for key, value in arrays.items():
        if len(value) != rows:
            raise UserError(f"dataset {source}: {rows} observations but {len(value)} {key}")
    if rows < 2:  # the last row has no successor
        raise UserError(f"dataset {source}: {rows} rows; at least 2 are needed")
    for key, value in arrays.items():
        _reject(~np.isfinite(value), value, key, "is not finite", source)
    outside = np.abs(arrays["actions"]) > 1 + ACTION_TOLERANCE
    _reject(outside, arrays["actions"], "actions", "is outside [-1, 1]", source)
    for key in ("terminals", "timeouts"):
        if key in arrays:
            _reject((arrays[key] != 0) & (arrays[key] != 1), arrays[key], key, "is neither 0 nor 1", source)
            arrays[key] = arrays[key] == 1
    following = arrays.get("next_observations")
    if following is not None and following.shape != arrays["observations"].shape:
        raise UserError(
            f"dataset {source}: next_observations {following.shape} unlike observations {arrays['observations'].shape}"
        )
    return Recording(*(arrays[key] for key in KEYS), arrays.get("timeouts"), following, source)


def _shaped(key: str, value: NDArray, source: str) -> NDArray:
    """Vectors for the observations and actions of a row, scalars for the rest, which some files keep as (N, 1)."""
    vectors = key in ("observations", "next_observations", "actions")
    if not vectors and value.ndim == 2 and value.shape[1] == 1:
        return value[:, 0]
    if value.ndim != (2 if vectors else 1):
        raise UserError(f"dataset {source}: {key} has shape {value.shape}, not {'(N, size)' if vectors else '(N,)'}")
    return value


def _reject(bad: NDArray[np.bool_], value: NDArray, key: str, problem: str, source: str) -> None:
    """Raise a `UserError` that names the first row of `bad`."""
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        column = f", column {where[1]}" if len(where) == 2 else ""
        raise UserError(f"dataset {source}: {key} in row {where[0]}{column} is {value[where]}: {problem}")
