"""A report as one page of HTML that needs nothing else: no network, no other file, no script to be read by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlreg.config import PublishedConfig
from rlreg.report import words
from rlreg.report.cell import Cell
from rlreg.report.content import Comparison, Content, Curve, Panel
from rlreg.report.plot import HEIGHT, WIDTH, Line, Plot
from rlreg.stats import Interval

PAGE = Path(__file__).parent / "page"
"""The template, with the style and the script that are put into it."""


def html(contents: Sequence[Content], title: str, command: str) -> str:
    """The whole page. Whatever runs and tables say is escaped: it is text, never markup."""
    import jinja2  # here: only a report pays for it

    loader = jinja2.FileSystemLoader(PAGE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"words": words, "width": WIDTH, "height": HEIGHT, "zip": zip, "isnan": np.isnan}
    page = environment.get_template("page.html")
    return page.render(
        title=title,
        command=command,
        sections=[_section(content) for content in contents],
        published=[_published(them) for them in words.all_published(contents)],
    )


def _section(content: Content) -> dict[str, Any]:
    goal = next((table.measure.column for table in content.measures if table.measure.is_goal), None)
    curves = {key: [_against_steps(content, key)] for key in content.panels}
    if goal in curves and (clock := _against_time(content, goal)):
        curves[goal].append(clock)
    return {
        "content": content,
        "tables": content.measures,
        "legend": list(enumerate(content.table.columns)),
        "curves": curves,
        "comparison": content.comparison and _comparison(content.comparison, content.table.columns),
        "provenance": list(words.provenance(content)),
        **_runs(content),
    }


# ------------------------------------------------------------------- curves


def _against_steps(content: Content, key: str) -> dict[str, Any]:
    measure = next(table.measure for table in content.measures if table.measure.column == key)
    plots = [
        Plot(
            panel.row,
            panel.unit,
            words.along(measure),
            [_line(curve, content, curve.steps) for curve in panel.curves],
            measure.decimals,
        )
        for panel in content.panels[key]
    ]
    what = f"Up: {words.along(measure)}, the mean over the seeds; band: the 95 % bootstrap interval of that mean."
    title = f"{_capital(words.along(measure))} against steps"
    return {"title": title, "says": f"{what} Across: {_units(content.panels[key])}.", "plots": plots}


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _units(panels: Sequence[Panel]) -> str:
    return " or ".join(sorted({panel.unit for panel in panels}))


def _against_time(content: Content, key: str) -> dict[str, Any] | None:
    """The goal's curves over the hours that the runs took. Of a run without a record only its end is known."""
    measure = next(table.measure for table in content.measures if table.measure.column == key)
    plots, ends = [], False
    for panel in content.panels[key]:
        lines = []
        for curve in panel.curves:
            timed = np.isfinite(curve.hours)
            if timed.any():
                lines.append(_line(_of(curve, timed), content, curve.hours[timed]))
                ends |= timed.sum() == 1
        if lines:
            plots.append(Plot(panel.row, "hours", words.along(measure), lines, measure.decimals))
    if not plots:
        return None
    says = (
        f"Up: {words.along(measure)}, mean and 95 % bootstrap interval. Across: hours that the whole run took, all of "
        "its seeds together and evaluations included, on the machine that is named with its settings."
    )
    if ends:
        says += " A cross is a run that recorded only its whole time: its last evaluation."
    return {"title": f"{_capital(words.along(measure))} against wall-clock time", "says": says, "plots": plots}


def _of(curve: Curve, which: np.ndarray) -> Curve:
    interval = Interval(*(part[which] for part in curve.interval))
    return Curve(curve.column, curve.steps[which], interval, curve.hours[which], curve.seeds)


def _line(curve: Curve, content: Content, x: np.ndarray) -> Line:
    style = content.table.columns.index(curve.column)
    return Line(curve.column, style, x, *curve.interval, remark=f"n = {curve.seeds}")


# --------------------------------------------------------------- comparison


def _comparison(comparison: Comparison, columns: Sequence[str]) -> dict[str, Any]:
    measure = comparison.measure
    lines = [
        Line(column, columns.index(column), comparison.thresholds, *profile)
        for column, profile in comparison.profiles.items()
    ]
    label = f"{measure.title.lower()} above which"
    profile = Plot("share of runs above a figure", label, "share of runs", lines, 3) if lines else None
    return {"of": comparison, "title": measure.title.lower(), "profile": profile}


# --------------------------------------------------------------------- runs


def _runs(content: Content) -> dict[str, Any]:
    """Each cell's command, folder, machine and settings; what all have alike is said once."""
    settings = [cell.settings() for cell in content.cells]
    keys = sorted(set().union(*settings)) if settings else []
    alike = {key for key in keys if all(key in s and s[key] == settings[0][key] for s in settings)}
    if len(settings) < 2:
        alike = set()
    return {
        "alike": [(key, _shown(settings[0][key])) for key in keys if key in alike],
        "runs": [_run(cell, own, alike) for cell, own in zip(content.cells, settings, strict=True)],
    }


def _run(cell: Cell, settings: dict[str, Any], alike: set[str]) -> dict[str, Any]:
    facts = [("status", "complete" if cell.complete else cell.status())]
    facts.append(("seeds", ", ".join(map(str, cell.seeds))))
    if there := [str(folder.path) for folder in cell.folders if folder.begun]:
        facts.append(("folder", ", ".join(there)))
    steps, seconds = cell.times()
    if len(steps) and seconds[-1] > 0:
        speed = steps[-1] / seconds[-1]
        facts.append(("time", f"{words.duration(seconds[-1])} to step {steps[-1]:,}: {speed:,.3g} steps/s"))
    if cell.complete and isinstance(p := cell.summary().get("provenance"), dict):
        facts.append(("hardware", f"{words.hardware(p)}, {p.get('threads')} threads"))
        facts.append(("commit", str(p.get("commit"))))
        facts.append(("versions", f"Python {p.get('python')}, {words.versions(p)}"))
    own = [(key, _shown(value)) for key, value in sorted(settings.items()) if key not in alike]
    name = f"{cell.row} \u00b7 {cell.column}"
    return {"name": name, "cell": cell, "command": words.cell_command(cell), "facts": facts, "own": own}


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _published(them: PublishedConfig) -> dict[str, str]:
    beside = f"{them.name}, beside our {them.column}" if them.column else them.name
    return {"name": beside, "about": words.about(them)}
