"""Malformed level sets and layouts end in one line, good ones are read as they are, and none costs memory, time or the
process, or runs code.

    python -m pytest tests/fuzz
"""

from __future__ import annotations

import sys
from pathlib import Path

import malformed_npz
import numpy as np
import sandbox
import torch

from envs.cave import layouts
from envs.cave.level_sets import LevelSet

SEED = 20240402
MOST = 1 << 30
"""Bytes that no file may cost."""


def read(path: Path, kind: str) -> bool:
    """Whether `path` is read as what was written there. Raises `UserError`."""
    if kind == "levels":
        found, wanted = LevelSet.load(path), malformed_npz.good_levels()
        return np.array_equal(found.levels, wanted.levels) and found.structure == wanted.structure
    found, wanted = layouts.read(path), malformed_npz.good_layouts()
    if found.keys() == {("x", 15)}:
        return not found["x", 15][:, 1:-1, 1:-1].any() and found["x", 15].shape == (700_000, 15, 15)
    return all(np.array_equal(found[key], walls) for key, walls in wanted.items()) and found.keys() == wanted.keys()


def verdict(case: malformed_npz.Case, folder: Path) -> str | None:
    """What is wrong with how a case ended; None where all is well."""
    folder.mkdir()
    path = folder / "mine.npz"
    case.make(path)
    outcome = sandbox.run(lambda: read(path, case.kind))
    if (folder / "it ran").exists():
        return "ran code"
    if outcome.grown > MOST:
        return f"took {outcome.grown / 1e6:.0f} MB"
    if outcome.ended == "value":
        return None if outcome.value and case.readable else "was read wrongly" if case.readable else "was read"
    if outcome.ended != "one line":
        return f"{outcome.ended}: {outcome.text}"
    if case.name.startswith("good") or str(folder) not in outcome.text:
        return f"was refused: {outcome.text}"
    return None


def test_no_level_set_or_layouts_file_is_read_wrongly_or_costs_more_than_a_line(tmp_path):
    verdicts = sandbox.verdicts(__file__, tmp_path)
    assert len(verdicts) >= 150
    assert not {name: wrong for name, wrong in verdicts.items() if wrong}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sandbox.judge(malformed_npz.cases(SEED), verdict, Path(sys.argv[1]))
