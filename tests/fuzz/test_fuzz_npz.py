"""Malformed level sets and layouts end in one line, good ones are read as they are, and none costs memory, time or the
process, or runs code.

    python -m pytest tests/fuzz
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import malformed_npz
import numpy as np
import sandbox
import torch

from envs.cave import layouts
from envs.cave.level_sets import LevelSet

ROOT = Path(__file__).parents[2]
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


def main(folder: Path) -> None:
    """In a process without threads, whose children may be forked: a line of JSON for each case."""
    torch.set_num_threads(1)
    for number, case in enumerate(malformed_npz.cases(SEED)):
        print(json.dumps([case.name, verdict(case, folder / str(number))]), flush=True)


def test_no_file_is_read_wrongly_or_costs_more_than_a_line(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0, ran.stderr
    verdicts = dict(json.loads(line) for line in ran.stdout.splitlines())
    assert len(verdicts) >= 150
    assert not {name: wrong for name, wrong in verdicts.items() if wrong}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
