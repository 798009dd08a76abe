"""`eval.csv`: written, read and checked here alone. Its columns are described in `rlreg.metrics`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlreg.errors import UserError
from rlreg.files import read_text, write_atomic


class EvalTable:
    """`eval.csv`: one row per seed and evaluation, without clock times, so that equal runs give equal files."""

    def __init__(
        self,
        path: Path,
        seeds: Sequence[int],
        columns: Collection[str],
        last_step: int | None = None,
        saved: list[list[str]] | None = None,
    ) -> None:
        """Continue after `last_step`, or start a new file where that is None.

        `saved` is what `saved()` gave at that step: a file that is damaged or missing is then written again, and a line
        on stderr says so. Without it (checkpoints of earlier versions) the file itself is read. Raises `UserError`
        where that cannot be, or has other `columns` beside step and seed.
        """
        self.path, self.seeds = path, tuple(seeds)
        self.rows: list[dict[str, str]] = []
        if last_step is None:
            return
        rows = read_evaluations(path) if saved is None else [dict(zip(saved[0], row, strict=True)) for row in saved[1:]]
        self.rows = [row for row in rows if int(row["step"]) <= last_step]
        if len(self.rows) != len({row["step"] for row in self.rows}) * len(self.seeds):
            raise UserError(f"{path}: evaluations are missing; its run cannot go on, delete the folder to start anew")
        there = set(self.rows[0]) if self.rows else set()
        if there != {"step", "seed", *columns}:
            differ = ", ".join(sorted(there ^ {"step", "seed", *columns}))
            raise UserError(
                f"{path}: written by another version of rlreg (columns that differ: {differ}); go on with that "
                "one, or delete the folder to start anew"
            )
        if saved is not None and (problem := self._differs()):
            self._write()
            print(f"warning: {problem}; written again from the checkpoint", file=sys.stderr, flush=True)

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Append a row for each seed; values are (S,)."""
        columns = {name: value.tolist() for name, value in values.items()}
        for i, seed in enumerate(self.seeds):
            row = {"step": str(step), "seed": str(seed)}
            self.rows.append(row | {name: repr(column[i]) for name, column in columns.items()})
        self._write()

    def column(self, name: str) -> Tensor:
        """(evaluations, S) of one column, float64."""
        values = [float(row[name]) for row in self.rows]
        return torch.tensor(values, dtype=torch.float64).view(-1, len(self.seeds))

    def saved(self) -> list[list[str]]:
        """All rows, for a checkpoint to hold: the first has the columns' names."""
        return [list(self.rows[0]), *(list(row.values()) for row in self.rows)] if self.rows else []

    def _text(self) -> str:
        return evaluations_text(self.saved())

    def _write(self) -> None:
        write_atomic(self.path, self._text())

    def _differs(self) -> str | None:
        """What is wrong with the file; evaluations later than these are not: they come again."""
        try:
            return None if read_text(self.path).startswith(self._text()) else f"{self.path}: not as it was written"
        except UserError as error:
            return str(error)


def evaluations_text(saved: Sequence[Sequence[str]]) -> str:
    """An `eval.csv` of what `EvalTable.saved` gives."""
    return "".join(",".join(row) + "\n" for row in saved)


def read_evaluations(path: Path) -> list[dict[str, str]]:
    """The rows of an `eval.csv`, by column. Raises `UserError`, naming the line, for a file that is not whole."""
    rows, seen = [], set()
    names, *lines = [line.split(",") for line in read_text(path).split("\n")]
    if names[:2] != ["step", "seed"] or lines[-1:] != [[""]]:
        raise UserError(f"{path}: {'its last line is cut off' if names[:2] == ['step', 'seed'] else 'no evaluations'}")
    for number, fields in enumerate(lines[:-1], start=2):
        row = dict(zip(names, fields, strict=False))
        try:
            key = int(row["step"]), int(row["seed"])
            whole = len(fields) == len(names) and all(float(value) is not None for value in fields)
        except (KeyError, ValueError):
            key, whole = None, False
        if not whole or key in seen:
            problem = "is there twice" if whole else "is no evaluation"
            raise UserError(f"{path}: line {number} {problem}: '{','.join(fields)[:60]}'")
        seen.add(key)
        rows.append(row)
    return rows
