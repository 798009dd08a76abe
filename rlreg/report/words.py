"""The words of a report: its numbers as text, and what is said of where they are from. All kinds of report use them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlreg.config import PublishedConfig
from rlreg.metrics import Metric
from rlreg.report.cell import Cell
from rlreg.report.content import Content, Entry, MeasureTable, Row
from rlreg.stats import Interval

DIVERGED = "\u2020"
APART = "Bold: the best of its row where every cell is complete, if its interval overlaps with no other's."


def number(value: float, decimals: int) -> str:
    return f"{float(value):.{decimals}f}"


def ends(interval: Interval, decimals: int) -> str:
    """`[577.6, 847.8]`; '' of a single seed."""
    if np.isnan(interval.low):
        return ""
    return f"[{number(interval.low, decimals)}, {number(interval.high, decimals)}]"


def remarks(entry: Entry) -> str:
    """What else is said of an entry: seeds that lack the figure, or diverged."""
    if entry.interval is None or entry.of == 0:
        return ""
    lacking = f"(n = {entry.known})" if entry.known < entry.of else ""
    return " ".join(filter(None, (lacking, DIVERGED if entry.diverged else "")))


def their_figure(them: PublishedConfig, row: str, decimals: int) -> str:
    """`106.2 \u00b1 22.6`, with no fewer digits than they give; '' where they have none."""
    texts = [str(float(value)) for value in them.numbers(row)[:2]]
    shown = [max(decimals, len(text.partition(".")[2]) if not text.endswith(".0") else 0) for text in texts]
    return " \u00b1 ".join(f"{float(text):.{digits}f}" for text, digits in zip(texts, shown, strict=True))


def their_heading(them: PublishedConfig) -> str:
    return f"{them.name} (others)"


def about(them: PublishedConfig) -> str:
    """What is known of figures by others, in a sentence."""
    parts = [them.source]
    if them.steps:
        parts.append(f"{them.steps:,} steps")
    seeds = sorted({int(numbers[2]) for row in them.figures if len(numbers := them.numbers(row)) == 3})
    seeds = sorted({*seeds, *([them.seeds] if them.seeds else [])})
    parts.append(f"{' or '.join(map(str, seeds))} seeds" if seeds else "number of seeds not known")
    if any(len(them.numbers(row)) > 1 for row in them.figures):
        parts.append("\u00b1: standard deviation over seeds")
    return "; ".join(filter(None, (*parts, them.settings)))


def row_name(row: Row) -> str:
    said = ", ".join(filter(None, (row.note, row.over)))
    return f"{row.name} ({said})" if said else row.name


def meaning(table: MeasureTable) -> str:
    """What a measure's figures are, in a sentence."""
    text = table.measure.mean_of
    return f"{text[0].upper()}{text[1:]}."


def along(measure: Metric) -> str:
    """What a measure's curve shows: `return` of `Final return`, which is only its end."""
    title = measure.title.removeprefix("Final ")
    return title if title[:1].isupper() and title[1:2].isupper() else f"{title[0].lower()}{title[1:]}"


def introduction(content: Content) -> str:
    return (
        f"Means over the seeds (n = {', '.join(map(str, content.seeds))}), their 95 % bootstrap intervals in brackets. "
        f"{APART}"
    )


def cell_command(cell: Cell) -> str:
    """The command line of a cell's run; '' where it is not known."""
    return shlex.join(["python", "run.py", *cell.overrides]) if cell.overrides else ""


def hardware(provenance: dict[str, Any]) -> str:
    p = provenance
    return f"{p.get('gpu') or 'no GPU'}, {p.get('cpu')}, {p.get('cores')} cores"


def versions(provenance: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in (provenance.get("versions") or {}).items() if v)


def provenance(content: Content) -> Iterator[str]:
    """Commits and machines of the complete runs; seeds that diverged."""
    done = content.done
    found = [p for cell in done if isinstance(p := cell.summary().get("provenance"), dict)]
    yield f"runs: {len(done)} of {len(content.cells)} complete"
    if found:
        yield f"commit: {_each(str(p.get('commit')) for p in found)}"
        yield f"hardware: {_each(map(hardware, found), '; ')}"
        yield f"versions: {_each(map(versions, found), '; ')}"
    if any(table.aggregates for table in content.measures):
        yield "figures over rows take the measure as it is: they mean something for rows of one scale"
    for cell in done:
        for seed in cell.summary().get("diverged", ()):
            yield f"{DIVERGED} {cell.row} {cell.column}: seed {seed} diverged: its loss turned non-finite"


def _each(texts: Iterator[str], separator: str = ", ") -> str:
    return separator.join(sorted(set(texts)))


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3.4 h`, `2.1 days`."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= (2 * unit if unit == 86400 else unit):
            value = seconds / unit
            return f"{value:.0f} {name}" if unit == 60 else f"{value:.1f} {name}"
    return f"{seconds:.0f} s"


def all_published(contents: Sequence[Content]) -> list[PublishedConfig]:
    """What by others is shown anywhere, each once."""
    tables = [table for content in contents for table in content.measures]
    found: list[PublishedConfig] = []
    for table in tables:
        beside = [them for row in table.all_rows for entry in row.entries for them in entry.theirs]
        for them in (*beside, *table.others):
            if them not in found:
                found.append(them)
    return found
