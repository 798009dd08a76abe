"""A report's figures as CSV: one file of every seed's, one of the cells'."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rlreg.report.content import Content


def by_seed(contents: Sequence[Content]) -> str:
    """A row an environment, agent and seed of the complete runs."""
    measures = list(dict.fromkeys(key for content in contents for key in content.table.measures))
    rows = []
    for content in contents:
        for cell in content.done:
            summary = cell.summary()
            columns = [cell.values(m).tolist() if m in content.table.measures else [""] * len(cell.seeds)
                       for m in measures]  # fmt: skip
            commit = (summary.get("provenance") or {}).get("commit")
            for seed, *values in zip(summary["seeds"], *columns, strict=True):
                rows.append([cell.row, cell.column, seed, *values, summary["steps"], commit])
    return _text([["env", "agent", "seed", *measures, "steps", "commit"], *rows])


def by_cell(contents: Sequence[Content]) -> str:
    """A row a measure, environment (or figure over them) and agent: mean, interval, seeds; and those by others."""
    rows: list[Sequence[Any]] = []
    for content in contents:
        for table in content.measures:
            for row in table.all_rows:
                for column, entry in zip(table.columns, row.entries, strict=True):
                    mean, low, high = _numbers(entry.interval) if entry.interval else ("", "", "")
                    cell = entry.cell
                    seeds = " ".join(map(str, cell.seeds)) if cell else ""
                    status = "complete" if cell and cell.complete else entry.instead if cell or not mean else row.over
                    steps = cell.cfg.train.total_steps if cell else ""
                    rows.append([table.measure.column, row.name, column, mean, low, high, entry.known or "", seeds,
                                 steps, status, ""])  # fmt: skip
                    for them in entry.theirs:
                        rows.append(_others(table.measure.column, row.name, row.key, column, them))
                for them in table.others:
                    if them.numbers(row.key):
                        rows.append(_others(table.measure.column, row.name, row.key, them.name, them))
    head = ["measure", "env", "agent", "mean", "low", "high", "n", "seeds", "steps", "status", "by"]
    return _text([head, *rows])


def _others(measure: str, name: str, row: str, column: str, them: Any) -> list[Any]:
    mean, *more = them.numbers(row)
    status = f"standard deviation {more[0]:g}" if more else ""
    n = int(more[1]) if len(more) > 1 else them.seeds or ""
    return [measure, name, column, mean, "", "", n, "", them.steps or "", status, them.source]


def _numbers(interval: Iterable[Any]) -> list[Any]:
    return ["" if np.isnan(value) else float(value) for value in interval]


def _text(rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
