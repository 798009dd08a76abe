"""`times.csv`: how long a run had taken when each of its evaluations was done.

It stands apart from `eval.csv`, which has no clock times, so that equal runs give equal files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlreg.errors import UserError
from rlreg.files import read_text, write_atomic

HEAD = "step,seconds"


class RunTimes:
    """The file of a run that is going on: a row an evaluation, of the time that the run's parts took together."""

    def __init__(self, path: Path, last_step: int | None = None) -> None:
        """Continue after `last_step`, or start a new file where that is None."""
        self.path = path
        self.rows: list[tuple[int, float]] = []
        if last_step is not None:
            steps, seconds = read_times(path)
            self.rows = [(s, t) for s, t in zip(steps.tolist(), seconds.tolist(), strict=True) if s <= last_step]

    def add(self, step: int, seconds: float) -> None:
        """Append a row."""
        self.rows.append((step, seconds))
        write_atomic(self.path, "\n".join([HEAD, *(f"{step},{seconds:.2f}" for step, seconds in self.rows)]) + "\n")


def read_times(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps (T,) and seconds (T,), both rising; empty where there is no such file, or it is damaged.

    No result depends on it, so that nothing stops for its sake.
    """
    none = np.zeros(0, np.int64), np.zeros(0)
    try:
        head, *lines = read_text(path).splitlines()
        rows = [line.split(",") for line in lines]
        steps, seconds = np.array([int(row[0]) for row in rows]), np.array([float(row[1]) for row in rows])
    except (UserError, OSError, ValueError, IndexError, OverflowError):
        return none
    whole = head == HEAD and len(steps) and np.isfinite(seconds).all() and seconds[0] >= 0
    return (steps, seconds) if whole and (np.diff(steps) > 0).all() and (np.diff(seconds) >= 0).all() else none
