"""How long the runs of a table are still going to take, by the times that they and their like have recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlreg.report.cell import Cell


@dataclass(frozen=True)
class TimeLeft:
    """Of one run."""

    cell: Cell
    reached: int
    """The step that it has come to."""
    seconds: float | None
    """None where nothing like it has been measured."""
    measured_on: str
    """Whose times that is from."""


def time_left(cells: Sequence[Cell]) -> list[TimeLeft]:
    """For each cell, by its own record; else by that of the cell that is most like it: of the same row, or of the same
    column, or any other, the slowest of them. A complete cell has nothing left."""
    return [_of(cell, cells) for cell in cells]


def together(left: Sequence[TimeLeft], jobs: int) -> float:
    """Seconds until all are done, `jobs` at a time, each begun as soon as there is room; without unknown ones."""
    free = [0.0] * jobs
    for one in left:
        free.sort()
        free[0] += one.seconds or 0.0
    return max(free)


def _of(cell: Cell, cells: Sequence[Cell]) -> TimeLeft:
    reached, total = cell.reached(), cell.cfg.train.total_steps
    if cell.complete:
        return TimeLeft(cell, total, 0.0, "")
    like: list[tuple[str, Callable[[Cell], bool]]] = [
        ("itself", lambda other: other is cell),
        ("", lambda other: other.row == cell.row and len(other.seeds) == len(cell.seeds)),
        ("", lambda other: other.column == cell.column and len(other.seeds) == len(cell.seeds)),
        ("", lambda other: True),
    ]
    for name, is_like in like:
        found = []
        for other in filter(is_like, cells):
            steps, seconds = other.times()
            if len(steps) and steps[-1] > 0:
                found.append((seconds_between(steps, seconds, reached, total), name or f"{other.row} {other.column}"))
        if found:
            seconds, where = max(found)
            return TimeLeft(cell, reached, seconds, where)
    return TimeLeft(cell, reached, None, "")


def seconds_between(steps: np.ndarray, seconds: np.ndarray, begin: int, end: int) -> float:
    """How long from step `begin` to `end` takes, by a record of steps (T,) and seconds (T,).

    Between its points a record is straight; beyond its last it goes on as between its last two.
    """
    if steps[0] > 0:
        steps, seconds = np.concatenate([[0], steps]), np.concatenate([[0.0], seconds])
    slope = (seconds[-1] - seconds[-2]) / (steps[-1] - steps[-2])

    def at(step: int) -> float:
        beyond = max(0, step - int(steps[-1]))
        return float(np.interp(step, steps, seconds)) + beyond * slope

    return at(end) - at(begin)
