"""What a dataset file holds, row by row in time order, read from HDF5 and checked.

A file may come from anyone. Only numbers that lie in the file itself are read, under its own names; what it claims to
hold is compared with its size, with the task and with the memory at hand before any of it is read.
"""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from envs.d4rl.names import Info
from rlreg.errors import UserError
from rlreg.memory import available

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

ANY_FILE = 256 << 20
"""Bytes that a file of any size may unpack to."""
PACKED = 50
"""How many times its own size a file may unpack to beyond that. Recordings pack four times at best."""
COPIES = 3
"""Of the numbers in memory while a dataset is loaded: as read, as transitions, as rows of the buffer."""
CHUNK = 64 << 20
"""Bytes of a chunk that any dataset may be cut into."""
SMALL_CHUNK = 64 << 10
"""Stored bytes that cannot unpack to more than some 64 MiB, whatever they are: gzip packs a thousand times at most."""
LZF_CHUNK = 8 << 20
"""Bytes of a chunk packed by lzf, of which no more than can be told beforehand; h5py's own are 1 MiB at most."""
FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_LZF: "lzf",
}
"""Ways of packing that are read."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What the system holds against reading `path` is a user's mistake: `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"dataset {path}: cannot be read ({error.strerror})") from None


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """What HDF5 holds against a file is a user's mistake: `UserError`."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, UnicodeError, ArithmeticError) as error:
        if not h5py.is_hdf5(path):
            raise UserError(f"dataset {path}: not an HDF5 file") from None
        text = " ".join(str(error).replace('"', "").split())
        raise UserError(f"dataset {path}: cut off or damaged ({text})") from None
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"dataset {path}: holds something else than numbers ({text})") from None
    except MemoryError:
        raise UserError(f"dataset {path}: more than fits into memory") from None


def read_hdf5(path: Path, task: Info | None = None, clip_actions: bool = False) -> Recording:
    """Read D4RL's keys of an HDF5 file; others (`infos/...`, `metadata/...`) stay unread.

    `task` says how many numbers observations and actions have, where that is known. `clip_actions` is as in `checked`.
    Raises `UserError`, naming the file: not there, empty, not HDF5, cut off, a missing key, one that is not stored in
    this very file, more than can be in it or in memory, or as `checked`.
    """
    with readable(path):
        require_file(path)
        there = path.stat()
        if there.st_size == 0:
            raise UserError(f"dataset {path}: an empty file")
        path.open("rb").close()
    with _whole(path), h5py.File(path, "r") as file:
        found = {key: value for key in (*KEYS, *OPTIONAL_KEYS) if (value := _array(file, key, path)) is not None}
        _check_shapes({key: dataset.shape for key, dataset in found.items()}, str(path), task)
        # A file may have holes, which take no room on the disk. Some file systems do not tell.
        taken = min(there.st_size, 512 * getattr(there, "st_blocks", 0) or there.st_size)
        _require_room(found, path, taken)
        for key, dataset in found.items():
            if problem := _not_stored(dataset, there.st_size):
                raise UserError(f"dataset {path}: key '{key}' {problem}")
        # float32 as it is read: the replay sets are float64, and twice as large.
        arrays = {key: dataset.astype(np.float32)[()] for key, dataset in found.items()}
    return checked(arrays, str(path), task, clip_actions)


def read_attributes(path: Path) -> dict[str, Any]:
    """What an HDF5 file says of itself: text, numbers and lists of them by name. Raises `UserError` as `read_hdf5`."""
    with readable(path):
        require_file(path)
    with _whole(path), h5py.File(path, "r") as file:
        small = [key for key in file.attrs if file.attrs.get_id(key).get_storage_size() < ANY_FILE >> 8]
        return {key: np.asarray(file.attrs[key]).tolist() for key in small}


def require_file(path: Path) -> None:
    """Raises `UserError` unless `path` is a file: a pipe or a device would be waited for, or never end."""
    if not path.is_file():
        problem = "not a file but a folder, pipe or device" if path.exists() else "no such file"
        raise UserError(f"dataset {path}: {problem}")


def _array(file: h5py.File, key: str, path: Path) -> h5py.Dataset | None:
    """The numbers under `key`, unread; None where there is no such key. Raises `UserError`."""
    link = file.get(key, getlink=True)
    if link is None:
        return None
    problem = None
    if not isinstance(link, h5py.HardLink):
        problem = "is a link to somewhere else; only what the file holds under this name is read"
    elif not isinstance(dataset := file[key], h5py.Dataset):
        problem = "is no array of numbers but a group or a type"
    elif dataset.is_virtual or dataset.external:
        problem = "is put together from other files; only what lies in this one is read"
    elif dataset.shape is None:
        problem = "holds nothing"
    elif dataset.dtype.kind not in "biuf":
        problem = f"holds something else than numbers ({dataset.dtype})"
    if problem:
        raise UserError(f"dataset {path}: key '{key}' {problem}")
    return dataset


def _require_room(found: Mapping[str, h5py.Dataset], path: Path, size: int) -> None:
    """Raises `UserError` for more float32 numbers than can be in a file of `size` bytes, or in memory."""
    claimed = 4 * sum(math.prod(dataset.shape) for dataset in found.values())
    what = f"{found['observations'].shape[0]} rows, {claimed / 1e9:.2f} GB of numbers"
    if claimed > max(ANY_FILE, PACKED * size):
        raise UserError(f"dataset {path}: claims {what}, in {size} bytes; no recording packs so well")
    if COPIES * claimed > (free := available()):
        raise UserError(f"dataset {path}: {what}, {COPIES} times which do not fit into the {free / 1e9:.2f} GB free")


def _not_stored(dataset: h5py.Dataset, size: int) -> str | None:
    """What is wrong with a dataset that is not wholly in its file of `size` bytes, or unpacks to more than it claims.

    HDF5 makes up zeros for what was never written, and unpacks whatever a chunk holds.
    """
    itemsize = dataset.id.get_type().get_size()
    claimed = math.prod(dataset.shape) * itemsize
    if dataset.chunks is None:
        stored = min(dataset.id.get_storage_size(), size)
        return None if stored == claimed else f"claims {claimed} bytes, of which {stored} are in the file"

    chunk = math.prod(dataset.chunks) * itemsize
    if chunk > max(CHUNK, claimed):
        return f"holds {claimed} bytes in chunks of {chunk}; chunks of {CHUNK} are the largest that are read"
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    if strange := [code for code in filters if code not in FILTERS]:
        names = ", ".join(FILTERS.values())
        return f"is packed by HDF5's filter {strange[0]}; only {names} are read (h5repack -f GZIP=4 packs it anew)"
    if len(set(filters)) < len(filters):
        return "is packed twice over"
    if h5py.h5z.FILTER_LZF in filters and chunk > LZF_CHUNK:
        return f"is packed by lzf in chunks of {chunk} bytes; at most {LZF_CHUNK} are read"

    pieces: list[Any] = []
    dataset.id.chunk_iter(pieces.append)
    wanted = math.prod(-(-length // part) for length, part in zip(dataset.shape, dataset.chunks, strict=True))
    if len(pieces) != wanted:
        return f"claims {wanted} chunks, of which {len(pieces)} were ever written"
    sizes = [piece.size for piece in pieces]
    if sum(sizes) > size or max(sizes) > chunk + chunk // 8 + 1024:
        return "has chunks that are larger than they can be; the file is damaged"
    gzipped = h5py.h5z.FILTER_DEFLATE in filters
    if gzipped and not all(_unpacks(dataset, piece, filters, chunk) for piece in pieces if piece.size > SMALL_CHUNK):
        return "has chunks that do not unpack to what they claim; the file is damaged"
    return None


def _unpacks(dataset: h5py.Dataset, piece: Any, filters: list[int], chunk: int) -> bool:
    """Whether a gzipped chunk unpacks, to no more than its `chunk` bytes; it is unpacked as far as need be to tell."""
    mask, raw = dataset.id.read_direct_chunk(piece.chunk_offset)
    if mask >> filters.index(h5py.h5z.FILTER_DEFLATE) & 1:  # this one is not packed
        return True
    with_checksum = chunk + 4 * filters.count(h5py.h5z.FILTER_FLETCHER32)
    try:
        return len(zlib.decompressobj().decompress(raw, with_checksum + 1)) <= with_checksum
    except zlib.error:
        return False


def checked(
    arrays: dict[str, NDArray], source: str, task: Info | None = None, clip_actions: bool = False
) -> Recording:
    """The recording in float32 `arrays` by D4RL's keys. `source` is for errors.

    Actions beyond [-1, 1] are clipped to it where `clip_actions` says so, and stderr how many and how far.
    Raises `UserError` for a missing key, too few rows, wrong shapes, lengths that differ, a NaN or infinity (which key
    and row), other actions beyond [-1, 1] and flags other than 0 and 1.
    """
    _check_shapes({key: value.shape for key, value in arrays.items()}, source, task)
    arrays = {key: value if key in VECTORS else value.reshape(-1) for key, value in arrays.items()}
    for key, value in arrays.items():
        _reject(~np.isfinite(value), value, key, "is not finite", source)
    arrays["actions"] = _within(arrays["actions"], source, clip_actions)
    for key in ("terminals", "timeouts"):
        if key in arrays:
            _reject((arrays[key] != 0) & (arrays[key] != 1), arrays[key], key, "is neither 0 nor 1", source)
            arrays[key] = arrays[key] == 1
    return Recording(*(arrays[key] for key in KEYS), *(arrays.get(key) for key in OPTIONAL_KEYS), source)


VECTORS = ("observations", "next_observations", "actions")


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], source: str, task: Info | None) -> None:
    """Vectors for the observations and actions of a row, scalars for the rest, which some files keep as (N, 1)."""
    missing = [key for key in KEYS if key not in shapes]
    if missing:
        raise UserError(f"dataset {source}: key '{missing[0]}' is missing (has: {', '.join(shapes) or 'none'})")
    for key, shape in shapes.items():
        right = len(shape) == 2 and shape[1] >= 1 if key in VECTORS else shape[1:] in ((), (1,)) and len(shape) >= 1
        if not right:
            wanted = "(N, size)" if key in VECTORS else "(N,)"
            raise UserError(f"dataset {source}: {key} has shape {shape}, not {wanted}")
    rows = shapes["observations"][0]
    for key, shape in shapes.items():
        if shape[0] != rows:
            raise UserError(f"dataset {source}: {rows} observations but {shape[0]} {key}")
    if rows < 2:  # the last row has no successor
        raise UserError(f"dataset {source}: {rows} rows; at least 2 are needed")
    following = shapes.get("next_observations", shapes["observations"])
    if following != shapes["observations"]:
        raise UserError(
            f"dataset {source}: next_observations {following} unlike observations {shapes['observations']}"
        )
    if task is not None:
        for kind, right in (("observations", task.obs_dim), ("actions", task.action_dim)):
            if (found := shapes[kind][1]) != right:
                raise UserError(
                    f"dataset {source}: {kind} of {found} numbers, but those of {task.task} have {right}"
                )


def _within(actions: NDArray, source: str, clip: bool) -> NDArray:
    """Actions in [-1, 1]. Raises `UserError` for others unless they are to be clipped."""
    outside = np.abs(actions) > 1 + ACTION_TOLERANCE
    if not outside.any():
        return actions.clip(-1.0, 1.0) if clip else actions
    count, worst = int(outside.sum()), float(actions.flat[np.abs(actions).argmax()])
    how_many = f"{count} of {actions.size} numbers in actions"
    if clip:
        print(f"dataset {source}: clipped {how_many} to [-1, 1]; the farthest was {worst:g}", file=sys.stderr)
        return actions.clip(-1.0, 1.0)
    row, column = (int(i) for i in np.argwhere(outside)[0])
    raise UserError(
        f"dataset {source}: {how_many} {'is' if count == 1 else 'are'} outside [-1, 1], the first in row {row}, column "
        f"{column} ({actions[row, column]:g}), the farthest {worst:g}; env.clip_actions=true clips them, as most "
        f"environments do (in a mixture: its source's clip_actions)"
    )


def _reject(bad: NDArray[np.bool_], value: NDArray, key: str, problem: str, source: str) -> None:
    """Raise a `UserError` that names the first row of `bad`."""
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        column = f", column {where[1]}" if len(where) == 2 else ""
        raise UserError(f"dataset {source}: {key} in row {where[0]}{column}: {value[where]} {problem}")
