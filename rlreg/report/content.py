"""What is told of a set of cells, as plain data: every kind of report shows the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from rlreg.config import PublishedConfig, TableConfig
from rlreg.metrics import Metric, metric
from rlreg.report.cell import Cell
from rlreg.stats import (
    Interval,
    iqm_interval,
    mean_interval,
    optimality_gap_interval,
    performance_profile,
    probability_of_improvement,
    task_mean_interval,
    task_median_interval,
)

PAIR_RESAMPLES = 5_000
THRESHOLDS = 101
AVERAGE = "average"
"""What the row of averages is called, in tables and in `PublishedConfig.figures`."""


@dataclass(frozen=True)
class Entry:
    """One cell's figure of one measure."""

    cell: Cell | None
    interval: Interval | None
    """None where the run is not complete or has no such figure."""
    instead: str
    """What is shown where there is no interval."""
    known: int = 0
    """Seeds that have the figure."""
    of: int = 0
    """Seeds of the run."""
    diverged: bool = False
    apart: bool = False
    """Whether it is the best of its row, and its interval overlaps with no other's."""
    theirs: tuple[PublishedConfig, ...] = ()
    """What others published of the same cell."""


@dataclass(frozen=True)
class Row:
    """A row of a measure's table: an environment, or a figure over some."""

    name: str
    entries: list[Entry]
    note: str = ""
    over: str = ""
    """Of a figure over rows: which ones, where not all."""
    key: str = ""
    """What `PublishedConfig.figures` calls it."""


@dataclass(frozen=True)
class MeasureTable:
    """One measure: a row an environment, a column an agent, then columns by others."""

    measure: Metric
    columns: list[str]
    others: list[PublishedConfig]
    rows: list[Row]
    """Above the figures over rows."""
    aggregates: list[Row]
    further: list[Row]
    """Below them, and no part of them."""

    @property
    def all_rows(self) -> list[Row]:
        return [*self.rows, *self.aggregates, *self.further]

    @property
    def beside(self) -> bool:
        """Whether any of its cells has a figure by others beside it."""
        return any(entry.theirs for row in self.all_rows for entry in row.entries)


@dataclass(frozen=True)
class Curve:
    """How a measure of one cell went: arrays of one length."""

    column: str
    steps: np.ndarray
    interval: Interval
    hours: np.ndarray
    """NaN where no time was recorded."""
    seeds: int


@dataclass(frozen=True)
class Panel:
    """The curves of one row."""

    row: str
    unit: str
    curves: list[Curve]


@dataclass(frozen=True)
class Comparison:
    """How the columns compare over the rows that both of two, or all, have completed."""

    measure: Metric
    improvement: dict[tuple[str, str], tuple[Interval, int]]
    """P(first column's run is above the second's), and over how many rows."""
    thresholds: np.ndarray
    profiles: dict[str, Interval]
    """Share of runs above each threshold, by column, over the rows that all have."""
    rows: list[str]
    """Those."""


@dataclass(frozen=True)
class Content:
    """A report of a table, or of a kind of runs."""

    table: TableConfig
    cells: list[Cell]
    measures: list[MeasureTable]
    panels: dict[str, list[Panel]]
    """By measure."""
    comparison: Comparison | None
    seeds: list[int] = field(default_factory=list)
    """How many seeds its runs have, each number once."""

    @property
    def done(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.complete]

    @property
    def missing(self) -> list[Cell]:
        return [cell for cell in self.cells if not cell.complete]


def content(table: TableConfig, cells: Sequence[Cell]) -> Content:
    """Everything that is told of `cells`. Places of the table without a cell are told as such."""
    measures = [_measure_table(table, cells, key) for key in table.measures]
    panels = {key: _panels(table, cells, key) for key in table.measures if metric(key).figure}
    return Content(
        table,
        list(cells),
        measures,
        {key: found for key, found in panels.items() if found},
        _comparison(table, cells),
        sorted({len(cell.seeds) for cell in cells}),
    )


def interval_rng() -> np.random.Generator:
    """A fresh one for every interval, so that it does not depend on what else the table holds."""
    return np.random.default_rng(0)


# ------------------------------------------------------------------- tables


def _measure_table(table: TableConfig, cells: Sequence[Cell], key: str) -> MeasureTable:
    measure = metric(key)
    published = [them for them in table.published if (them.measure or table.measures[0]) == key]
    at = {(cell.row, cell.column): cell for cell in cells}
    rows = {row: _row(table, at, row, measure, published) for row in table.rows}
    others = [them for them in published if them.column not in table.columns]
    shown = {name for them in others for name in (*table.rows, AVERAGE) if them.numbers(name)}
    return MeasureTable(
        measure,
        list(table.columns),
        [them for them in others if any(them.numbers(name) for name in shown)],
        [rows[row] for row in table.averaged_rows],
        _aggregates(table, at, measure, published) if measure.is_goal and len(table.averaged_rows) > 1 else [],
        [rows[row] for row in table.rows if row in table.further_rows],
    )


def _row(
    table: TableConfig,
    at: dict[tuple[str, str], Cell],
    row: str,
    measure: Metric,
    published: Sequence[PublishedConfig],
) -> Row:
    entries = [_entry(at.get((row, column)), measure.column) for column in table.columns]
    if measure.is_goal and len(entries) > 1 and all(entry.cell and entry.cell.complete for entry in entries):
        entries = _mark(entries)
    entries = [_with(entry, column, row, published) for entry, column in zip(entries, table.columns, strict=True)]
    return Row(row, entries, table.row_notes.get(row, ""), key=row)


def _entry(cell: Cell | None, measure: str) -> Entry:
    if cell is None:
        return Entry(None, None, "no run")
    if not cell.complete:
        return Entry(cell, None, cell.status())
    values = cell.values(measure)
    known = values[np.isfinite(values)]
    interval = mean_interval(known, interval_rng()) if len(known) else None
    return Entry(cell, interval, "none", len(known), len(values), bool(cell.summary().get("diverged")))


def _mark(entries: list[Entry]) -> list[Entry]:
    """The best is apart where its interval's lower end is above every other's upper end."""
    if not all(entry.interval for entry in entries):
        return entries
    best = max(range(len(entries)), key=lambda i: float(entries[i].interval.value))
    others = [float(entry.interval.high) for i, entry in enumerate(entries) if i != best]
    apart = float(entries[best].interval.low) > max(others) if np.isfinite(others).all() else False
    return [_changed(entry, apart=apart) if i == best else entry for i, entry in enumerate(entries)]


def _changed(entry: Entry, **values: Any) -> Entry:
    return Entry(**(entry.__dict__ | values))


def _with(entry: Entry, column: str, row: str, published: Sequence[PublishedConfig]) -> Entry:
    theirs = tuple(them for them in published if them.column == column and them.numbers(row))
    return _changed(entry, theirs=theirs) if theirs else entry


def _aggregates(
    table: TableConfig, at: dict[tuple[str, str], Cell], measure: Metric, published: Sequence[PublishedConfig]
) -> list[Row]:
    """Figures over the rows of which every cell is complete: the same rows for all columns."""
    averaged = table.averaged_rows
    shared = _shared(table, at, measure.column)
    over = "" if len(shared) == len(averaged) else f"{len(shared)} of {len(averaged)} rows"
    estimates: list[tuple[str, Callable[..., Interval], tuple[Any, ...]]] = [
        (AVERAGE, task_mean_interval, ()),
        ("interquartile mean", iqm_interval, ()),
        ("median of the rows' means", task_median_interval, ()),
    ]
    if table.optimal is not None and measure.column.removesuffix("_last_ten") == table.measures[0]:
        estimates.append((f"lacking to {table.optimal:g}", optimality_gap_interval, (table.optimal,)))
    rows = []
    for name, estimate, more in estimates:
        entries = []
        for column in table.columns:
            tasks = [shared[row][column] for row in shared]
            interval = estimate(tasks, *more, interval_rng()) if tasks else None
            entry = Entry(None, interval, "none")
            entries.append(_with(entry, column, AVERAGE, published) if name == AVERAGE else entry)
        rows.append(Row(name, entries, over=over, key=name))
    return rows


def _shared(table: TableConfig, at: dict[tuple[str, str], Cell], measure: str) -> dict[str, dict[str, np.ndarray]]:
    """The rows of which every cell is complete: row -> column -> the figures of its seeds, those that are known."""
    found = {}
    for row in table.averaged_rows:
        cells = {column: at.get((row, column)) for column in table.columns}
        if all(cell is not None and cell.complete for cell in cells.values()):
            values = {column: cell.values(measure) for column, cell in cells.items()}
            found[row] = {column: value[np.isfinite(value)] for column, value in values.items()}
    return {row: values for row, values in found.items() if all(len(value) for value in values.values())}


# --------------------------------------------------------------- comparison


def _comparison(table: TableConfig, cells: Sequence[Cell]) -> Comparison | None:
    """By the first measure that is a goal; None where there are no two columns to compare."""
    goal = next((key for key in table.measures if metric(key).is_goal), None)
    if goal is None or len(table.columns) < 2:
        return None
    values: dict[str, dict[str, np.ndarray]] = {column: {} for column in table.columns}
    for cell in cells:
        if cell.row in table.averaged_rows and cell.complete:
            known = cell.values(goal)
            known = known[np.isfinite(known)]
            if len(known):
                values[cell.column][cell.row] = known
    improvement = {}
    for x, y in combinations(table.columns, 2):
        rows = [row for row in table.averaged_rows if row in values[x] and row in values[y]]
        if rows:
            pair = [values[x][row] for row in rows], [values[y][row] for row in rows]
            found = probability_of_improvement(*pair, interval_rng(), resamples=PAIR_RESAMPLES)
            improvement[x, y] = found, len(rows)
            improvement[y, x] = Interval(1 - found.value, 1 - found.high, 1 - found.low), len(rows)
    if not improvement:
        return None
    rows = [row for row in table.averaged_rows if all(row in values[column] for column in table.columns)]
    thresholds, profiles = np.zeros(0), {}
    if rows:
        every = np.concatenate([values[column][row] for column in table.columns for row in rows])
        low, high = min(0.0, every.min()), max(0.0, every.max())
        thresholds = np.linspace(low, high if high > low else low + 1.0, THRESHOLDS)
        for column in table.columns:
            tasks = [values[column][row] for row in rows]
            profiles[column] = performance_profile(tasks, thresholds, interval_rng())
    return Comparison(metric(goal), improvement, thresholds, profiles, rows)


# ------------------------------------------------------------------- curves


def _panels(table: TableConfig, cells: Sequence[Cell], measure: str) -> list[Panel]:
    """A panel a row, of what the runs, complete or not, have measured so far."""
    found = []
    for row in table.rows:
        here = [cell for column in table.columns for cell in cells if (cell.row, cell.column) == (row, column)]
        curves = [curve for cell in here if (curve := _curve(cell, measure)) is not None]
        if curves:
            found.append(Panel(row, here[0].unit, curves))
    return found


def _curve(cell: Cell, measure: str) -> Curve | None:
    """The mean of all seeds and its interval, where every seed has been measured."""
    steps, values = cell.evaluations(measure)
    known = np.isfinite(values).all(axis=1)
    if not known.any():
        return None
    steps, values = steps[known], values[known]
    at, seconds = cell.times()
    taken = dict(zip(at.tolist(), seconds.tolist(), strict=True))
    hours = np.array([taken.get(step, np.nan) / 3600 for step in steps.tolist()])
    interval = mean_interval(values, interval_rng())
    return Curve(cell.column, steps, interval, hours, values.shape[1])
