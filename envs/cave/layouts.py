"""Wall layouts: the file of them that comes with the package, and files of one's own in the same format.

A file is an npz archive. `<structure>/<size>` is (n, bytes) uint8: n layouts of m x m cells, m = size - 2 (without the
border), 1 for wall, packed eight cells a byte in a picture's row-major order; `<structure>/<size>/count` is [n, m].
"""

from __future__ import annotations

import os
import zipfile
import zlib
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from rlreg.errors import UserError

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
    """All arrays of an npz, without pickles. Raises `UserError` that says what `kind` of file was expected."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise UserError(f"{path} is not a {kind} but one array")
        with archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such {kind}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: damaged or cut off; a {kind} was expected") from error
    except (ValueError, EOFError, KeyError, NotImplementedError, zlib.error) as error:
        raise UserError(f"{path} is not a readable {kind} (an npz archive)") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _read_file(path: Path) -> Layouts:
    arrays = load_npz(path, "layouts file")
    layouts: Layouts = {}
    for name, packed in arrays.items():
        structure, _, size = name.rpartition("/")
        if size == "count":
            continue
        count = arrays.get(f"{name}/count", np.zeros(0))
        if not structure or not size.isdecimal() or count.shape != (2,):
            raise UserError(f"{path} is not a layouts file: it holds '{name}', not <structure>/<size> with its count")
        n, m = (int(number) for number in count)
        if int(size) != m + 2 or packed.dtype != np.uint8 or packed.shape != (n, -(-m * m // 8)):
            raise UserError(f"{path}: '{name}' does not hold {n} packed layouts of {m} x {m} cells, as its count says")
        pictures = np.unpackbits(packed, axis=1, count=m * m).reshape(n, m, m).astype(bool)
        walls = np.ones((n, m + 2, m + 2), bool)
        walls[:, 1:-1, 1:-1] = pictures.transpose(0, 2, 1)
        layouts[structure, m + 2] = walls
    if not layouts:
        raise UserError(f"{path} is not a layouts file: it holds no layouts")
    return layouts
