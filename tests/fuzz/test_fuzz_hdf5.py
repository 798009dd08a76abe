"""Malformed datasets end in one line, good ones are read as they are, and none costs memory, time or the process.

    python -m pytest tests/fuzz
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import malformed_hdf5
import numpy as np
import sandbox

from envs.d4rl.load import load_dataset, load_recording

SEED = 20240401
NAME = "hopper-medium-v2"
MOST = 1 << 30
"""Bytes that no file may cost."""


def same(recording, expected: dict) -> bool:
    """Whether a recording holds those numbers, as float32."""
    for key, value in expected.items():
        wanted = np.asarray(value).astype(np.float32).reshape(np.shape(value) if np.ndim(value) == 2 else -1)
        if key in ("rewards", "terminals", "timeouts"):
            wanted = wanted.reshape(-1)
        if not np.array_equal(np.asarray(getattr(recording, key), np.float32), wanted):
            return False
    return True


def read(path: Path, data: dict | None) -> bool:
    """Whether `path` is read as `data`, or, where that is not known, as plain h5py reads it. Raises `UserError`."""
    load_dataset(NAME, path)
    if data is None:
        with h5py.File(path, "r") as file:
            data = {key: file[key][()] for key in malformed_hdf5.ALL_KEYS if key in file}
    return same(load_recording(NAME, path), data)


def verdict(case: malformed_hdf5.Case, folder: Path) -> str | None:
    """What is wrong with how a case ended; None where all is well."""
    folder.mkdir()
    path = folder / "mine.hdf5"
    case.make(path)
    outcome = sandbox.run(lambda: read(path, case.data))
    if outcome.grown > MOST:
        return f"took {outcome.grown / 1e6:.0f} MB"
    if outcome.ended == "value":
        return None if outcome.value and not case.refused else "was read" if case.refused else "was read wrongly"
    if outcome.ended != "one line":
        return f"{outcome.ended}: {outcome.text}"
    if case.data is not None or "mine.hdf5" not in outcome.text:
        return f"was refused: {outcome.text}"
    if case.refused and not any(text in outcome.text for text in case.refused.split("|")):
        return f"was refused by another line: {outcome.text}"
    return None


def test_no_dataset_is_read_wrongly_or_costs_more_than_a_line(tmp_path):
    verdicts = sandbox.verdicts(__file__, tmp_path)
    assert len(verdicts) >= 200
    assert not {name: wrong for name, wrong in verdicts.items() if wrong}


if __name__ == "__main__":
    sandbox.judge(malformed_hdf5.cases(SEED), verdict, Path(sys.argv[1]))
