"""Wall layouts: the file of them that comes with the package, and files of one's own in the same format.

A file is an npz archive. `<structure>/<size>` is (n, bytes) uint8: n layouts of m x m cells, m = size - 2 (without the
border), 1 for wall, packed eight cells a byte in a picture's row-major order; `<structure>/<size>/count` is [n, m].
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from rlreg.errors import UserError
from rlreg.memory import available

LEAST_SIZE = 4
"""Of levels, with the border: the least with room for goal and start."""

Layouts = dict[tuple[str, int], np.ndarray]
"""(structure, size G) -> (n, G, G) bool, True for wall, with the border; x first, as in a level."""


@cache
def packaged() -> Layouts:
    """The layouts that come with the package."""
    with as_file(files(__package__).joinpath("layouts.npz")) as path:
        return _read_file(path)


def read(path: str | Path) -> Layouts:
    """Layouts of a file, or of all `*.npz` of a folder in alphabetical order, one after the other.

    Raises `UserError` for what is missing, damaged, or no layouts file.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_file(path)
    found = sorted(path.glob("*.npz"))
    if not found:
        raise UserError(f"{path}: no layouts files (*.npz) in this folder")
    joined: Layouts = {}
    for file in found:
        for key, layouts in _read_file(file).items():
            joined[key] = np.concatenate([joined[key], layouts]) if key in joined else layouts
    return joined


def write(path: str | Path, layouts: Layouts) -> None:
    """Write a layouts file, beside and renamed."""
    arrays = {}
    for (structure, size), walls in layouts.items():
        pictures = walls[:, 1:-1, 1:-1].transpose(0, 2, 1).reshape(len(walls), -1)
        arrays[f"{structure}/{size}"] = np.packbits(pictures, axis=1)
        arrays[f"{structure}/{size}/count"] = np.array([len(walls), size - 2])
    save_npz(path, arrays)


def save_npz(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """A compressed npz, written beside and renamed. Raises `UserError` where the folder does not allow it."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def load_npz(path: str | Path, kind: str) -> dict[str, np.ndarray]:
    """All arrays of an npz, of numbers only. Raises `UserError` that says what `kind` of file was expected.

    A file may come from anyone: what its headers claim is compared with what is in it before anything is unpacked.
    """
    path = Path(path)
    if not path.is_file():
        problem = f"cannot read a folder, pipe or device; a {kind} was expected" if path.exists() else f"no such {kind}"
        raise UserError(f"{path}: {problem}")
    try:
        with path.open("rb") as file:
            if (begins := file.read(len(_NPY))) == _NPY:
                raise UserError(f"{path} is not a {kind} but one array")
            if not begins.startswith(b"PK"):
                raise ValueError("no zip archive")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            claimed = sum(entry.file_size for entry in entries)
            most = max(_ANY_FILE, _PACKED * path.stat().st_size)
            if claimed > most or _UNPACKED * claimed > available():
                raise UserError(f"{path}: claims {claimed} bytes in {path.stat().st_size}; no {kind} packs so well")
            return {entry.filename.removesuffix(".npy"): _array(archive, entry, path, kind) for entry in entries}
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: damaged or cut off; a {kind} was expected") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except _UNREADABLE as error:
        raise UserError(f"{path} is not a readable {kind} (an npz archive)") from error


_NPY = b"\x93NUMPY"
_ANY_FILE = 16 << 20
"""Bytes that a file of any size may unpack to."""
_PACKED = 10
"""How many times its own size a file may unpack to beyond that."""
_UNPACKED = 24
"""How many times as large arrays get on their way to levels: a byte for a bit, and three of them at a time."""
_HEADER = 4096
"""Characters that describe an array: its type and shape."""
_UNREADABLE = (
    ValueError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
"""What numpy, zipfile and zlib raise for nonsense."""


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, kind: str) -> np.ndarray:
    """One array of numbers. Raises `UserError`, or one of `_UNREADABLE`."""
    if archive.NameToInfo[entry.filename] is not entry:
        raise UserError(f"{path}: '{entry.filename}' is in it twice")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError("packed by another method than numpy's, which may unpack to anything")
    with archive.open(entry) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, fortran, dtype = read(file, max_header_size=_HEADER)
        except Exception as error:  # numpy has Python's own parser read it, which fails in many ways
            raise ValueError("no description of an array") from error
        if dtype.kind not in "biuf":
            raise UserError(f"{path} is not a readable {kind}: '{entry.filename}' holds no numbers but {dtype}")
        data = bytearray(file.read(entry.file_size))
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
            raise UserError(f"{path}: '{entry.filename}' does not hold the numbers that it claims; the file is damaged")
    return np.ndarray(shape, dtype, data, order="F" if fortran else "C")


def _read_file(path: Path) -> Layouts:
    arrays = load_npz(path, "layouts file")
    layouts: Layouts = {}
    for name, packed in arrays.items():
        structure, _, size = name.rpartition("/")
        if size == "count":
            continue
        count = arrays.get(f"{name}/count", np.zeros(0))
        numbered = size.isascii() and size.isdecimal() and len(size) < 6
        if not structure or not numbered or count.shape != (2,):
            raise UserError(f"{path} is not a layouts file: it holds '{name}', not <structure>/<size> with its count")
        if int(size) < LEAST_SIZE:
            raise UserError(f"{path}: '{name}': the least size with room for goal and start is {LEAST_SIZE}")
        n, m = count.tolist()
        if m != int(size) - 2 or packed.dtype != np.uint8 or packed.shape != (n, -(-m * m // 8)):
            raise UserError(f"{path}: '{name}' does not hold {n} packed layouts of {m} x {m} cells, as its count says")
        n, m = int(n), int(m)
        pictures = np.unpackbits(packed, axis=1, count=m * m).reshape(n, m, m).astype(bool)
        walls = np.ones((n, m + 2, m + 2), bool)
        walls[:, 1:-1, 1:-1] = pictures.transpose(0, 2, 1)
        layouts[structure, m + 2] = walls
    if not layouts:
        raise UserError(f"{path} is not a layouts file: it holds no layouts")
    return layouts
