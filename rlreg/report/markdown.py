"""A report as Markdown that reads well in a terminal too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlreg.report.content import Comparison, Content, Entry, MeasureTable, Row
from rlreg.report.words import (
    about,
    all_published,
    ends,
    introduction,
    meaning,
    number,
    provenance,
    remarks,
    row_name,
    their_figure,
    their_heading,
)
from rlreg.stats import Interval


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table whose columns line up in a terminal as well."""
    rows = [[text.replace("|", "\\|") for text in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(*rows, strict=True)]
    for i, row in enumerate(rows):
        yield "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        if i == 0:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"


def markdown(contents: Sequence[Content], title: str, command: str) -> str:
    """The whole report."""
    return "\n".join(_lines(contents, title, command)) + "\n"


def _lines(contents: Sequence[Content], title: str, command: str) -> Iterator[str]:
    yield f"# {title}"
    for content in contents:
        if len(contents) > 1:
            yield f"\n# {content.table.name}"
        if content.table.note:
            yield f"\n{content.table.note}"
        yield f"\n{introduction(content)}"
        for table in content.measures:
            yield f"\n## {table.measure.title}\n"
            yield meaning(table) + (" After the slash: as published." if table.beside else "")
            yield ""
            yield from aligned(list(_rows(table)))
        if content.comparison is not None:
            yield from _improvement(content.comparison, content.table.columns)
    published = all_published(contents)
    if published:
        yield "\n## By others\n"
        for them in published:
            name = f"{them.name}, beside {them.column}" if them.column else their_heading(them)
            yield f"- {name}: {about(them)}"
    yield "\n## Provenance\n"
    yield f"- command: `{command}`"
    for content in contents:
        yield from (f"- {line}" for line in provenance(content))


def _rows(table: MeasureTable) -> Iterator[list[str]]:
    decimals = table.measure.decimals
    yield ["", *table.columns, *map(their_heading, table.others)]
    for row in table.all_rows:
        ours = [_entry(entry, row, decimals) for entry in row.entries]
        yield [row_name(row), *ours, *(their_figure(them, row.key, decimals) for them in table.others)]


def _entry(entry: Entry, row: Row, decimals: int) -> str:
    if entry.interval is None:
        text = entry.instead
    else:
        value = number(entry.interval.value, decimals)
        parts = [f"**{value}**" if entry.apart else value, ends(entry.interval, decimals), remarks(entry)]
        text = " ".join(filter(None, parts))
    return " / ".join([text, *(their_figure(them, row.key, decimals) for them in entry.theirs)])


def _improvement(comparison: Comparison, columns: Sequence[str]) -> Iterator[str]:
    yield f"\n## Probability of improvement: {comparison.measure.title.lower()}\n"
    yield "How likely a run of the row's agent is above one of the column's (Agarwal et al. 2021), averaged over rows."
    yield ""
    rows = [["", *columns]]
    for x in columns:
        rows.append([x, *(_pair(comparison.improvement.get((x, y))) if x != y else "" for y in columns)])
    yield from aligned(rows)


def _pair(found: tuple[Interval, int] | None) -> str:
    return " ".join(filter(None, (number(found[0].value, 2), ends(found[0], 2)))) if found else "none"
