"""The figures of a table: how its measures went over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlreg.config import TableConfig
from rlreg.metrics import metric
from rlreg.report.cell import Cell
from rlreg.stats import mean_interval

# Okabe and Ito's palette, told apart by colour-blind readers; the lines differ in dashes as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
BAND_RESAMPLES = 500  # a band is looked at, not quoted; there may be tens of thousands of points


def interval_rng() -> np.random.Generator:
    """A fresh one for every interval, so that it does not depend on what else the table holds."""
    return np.random.default_rng(0)


def draw(table: TableConfig, cells: Sequence[Cell], folder: Path) -> list[str]:
    """Draw what the runs, complete or not, have measured so far; the names of the files."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no figures: matplotlib is not installed (pip install 'rlreg[plots]')")
        return []
    drawn = []
    for key in table.measures:
        measure = metric(key)
        if not measure.figure:
            continue
        figure = Figure(layout="constrained")
        if _panels(figure, cells, key, measure.title.lower()):
            figure.savefig(folder / measure.figure, dpi=150)
            drawn.append(measure.figure)
    return drawn


def _panels(figure: Any, cells: Sequence[Cell], measure: str, label: str) -> bool:
    """A panel a row: mean and 95 % interval of each column over steps. False where there is nothing to draw."""
    rows = list(dict.fromkeys(cell.row for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    across = min(4, len(rows))
    down = -(-len(rows) // across)
    figure.set_size_inches(3.2 * across + 0.6, 2.6 * down + 0.7)
    panels = figure.subplots(down, across, squeeze=False).flat
    lines: dict[str, Any] = {}
    for row, panel in zip(rows, panels, strict=False):
        panel.set_title(row, fontsize=10)
        panel.set_xlabel("steps")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
        panel.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
        for cell in (cell for cell in cells if cell.row == row):
            steps, values = cell.evaluations(measure)
            known = np.isfinite(values).all(axis=1)
            if not known.any():
                continue
            steps, mean = steps[known], mean_interval(values[known], interval_rng(), resamples=BAND_RESAMPLES)
            i = columns.index(cell.column)
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
            (lines[cell.column],) = panel.plot(steps, mean.value, linewidth=1.6, **style)
            panel.fill_between(steps, mean.low, mean.high, color=style["color"], alpha=0.18, linewidth=0)
    for panel in list(figure.axes)[len(rows) :]:
        panel.set_visible(False)
    named = {column: lines[column] for column in columns if column in lines}
    if named:
        figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=min(7, 2 * across, len(named)))
    return bool(named)
