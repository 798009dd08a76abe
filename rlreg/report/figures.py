"""The figures of a report as PNG: how its measures went over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from rlreg.metrics import metric
from rlreg.report.content import Content, Panel
from rlreg.report.words import along

# Okabe and Ito's palette, told apart by colour-blind readers; the lines differ in dashes as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")


def draw(content: Content, folder: Path, prefix: str = "") -> list[str]:
    """Draw what the runs, complete or not, have measured so far; the names of the files, which begin with `prefix`."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no figures: matplotlib is not installed (pip install 'rlreg[plots]')")
        return []
    drawn = []
    for key, panels in content.panels.items():
        measure = metric(key)
        figure = Figure(layout="constrained")
        _draw_panels(figure, panels, content.table.columns, along(measure))
        figure.savefig(folder / f"{prefix}{measure.figure}", dpi=150)
        drawn.append(f"{prefix}{measure.figure}")
    return drawn


def _draw_panels(figure: Any, panels: Sequence[Panel], columns: Sequence[str], label: str) -> None:
    """A panel a row: mean and 95 % interval of each column over steps."""
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    figure.set_size_inches(3.2 * across + 0.6, 2.6 * down + 0.9)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    lines: dict[str, Any] = {}
    for panel, axis in zip(panels, axes, strict=False):
        axis.set_title(panel.row, fontsize=10)
        axis.set_xlabel(panel.unit)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
        for curve in panel.curves:
            i = columns.index(curve.column)
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
            value, low, high = curve.interval
            (lines[curve.column],) = axis.plot(curve.steps, value, linewidth=1.6, **style)
            axis.fill_between(curve.steps, low, high, color=style["color"], alpha=0.18, linewidth=0)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    named = {column: lines[column] for column in columns if column in lines}
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=min(7, 2 * across, len(named)))
    seeds = sorted({curve.seeds for panel in panels for curve in panel.curves})
    says = f"mean over {' or '.join(map(str, seeds))} seeds; band: 95 % bootstrap interval of that mean"
    figure.supxlabel(fill(says, int(14 * figure.get_figwidth())), fontsize=9)  # some 15 letters an inch
