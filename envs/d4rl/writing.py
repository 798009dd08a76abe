"""Dataset files in D4RL's format, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from envs.d4rl.recording import KEYS, OPTIONAL_KEYS, Recording, checked
from rlreg.errors import UserError
from rlreg.files import written_beside

Rows = dict[str, NDArray]
"""N rows in time order by D4RL's keys, `infos/qpos` and `infos/qvel` perhaps among them: (N, ...) each."""


def target(out: str | None) -> Path:
    """The file to write: its folder is made. Raises `UserError` for one that cannot be, or is there already."""
    if not out:
        raise UserError("mode=collect needs out=<the file to write>, such as out=my_dataset.hdf5")
    path = Path(out).expanduser()
    if path.exists():
        raise UserError(f"out={out}: is there already; delete it or give another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(beside := _beside(path), os.O_CREAT | os.O_WRONLY))
        os.unlink(beside)
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror})") from None
    return path


def write_hdf5(path: Path, rows: Rows, attributes: Mapping[str, Any]) -> Recording:
    """Write `rows` gzipped, with `attributes` of the file's root: text, numbers or lists of them.

    The file gets its name when it is whole. Returns what a reader will find in it. Raises `UserError` for rows that
    a reader would refuse (see `recording.checked`), and where the disk is full.
    """
    known = {key: value.astype(np.float32) for key, value in rows.items() if key in (*KEYS, *OPTIONAL_KEYS)}
    recording = checked(known, str(path))
    try:
        # In memory first: where the disk is full, HDF5 leaves its library in a state that ends in a crash.
        with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
            for key, value in rows.items():
                # Neighbouring bytes of floats differ, those of equal weight less so: shuffled they pack better.
                file.create_dataset(key, data=value, compression="gzip", shuffle=True)
            for key, value in attributes.items():
                file.attrs[key] = value
            file.flush()
            image = file.id.get_file_image()
        with written_beside(path) as beside:
            beside.write_bytes(image)
    except OSError as error:
        raise UserError(f"out={path}: cannot be written ({' '.join(str(error).split())})") from None
    return recording


def joined(parts: Sequence[Rows]) -> Rows:
    """One part's rows after another's, with the keys that all have."""
    keys = [key for key in parts[0] if all(key in part for part in parts)]
    return {key: np.concatenate([part[key] for part in parts]) for key in keys}


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.writing")
