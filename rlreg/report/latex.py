"""A report's tables as LaTeX with booktabs, to be taken into a paper by `\\input`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlreg.report.content import Content, Entry, MeasureTable, Row
from rlreg.report.words import (
    about,
    all_published,
    ends,
    meaning,
    number,
    remarks,
    row_name,
    their_figure,
    their_heading,
)

ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "\u00b1": r"$\pm$", "\u2020": r"$^\dagger$",
}  # fmt: skip


def escape(text: str) -> str:
    """Text as LaTeX prints it. What its usual fonts have no letter for becomes a question mark."""
    return "".join(ESCAPES.get(c, c if " " <= c <= "~" else " " if c.isspace() else "?") for c in text)


def latex(contents: Sequence[Content], title: str) -> str:
    """A `table` for each measure."""
    return "\n".join(_lines(contents, title)) + "\n"


def _lines(contents: Sequence[Content], title: str) -> Iterator[str]:
    yield r"% \usepackage{booktabs}, and \usepackage[T1]{fontenc} for names with quotation marks"
    for content in contents:
        for table in content.measures:
            yield from _table(table, content, title)
    for them in all_published(contents):
        yield f"% {_comment(them.name)}: {_comment(about(them))}"


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _table(table: MeasureTable, content: Content, title: str) -> Iterator[str]:
    decimals = table.measure.decimals
    columns = [*table.columns, *map(their_heading, table.others)]
    seeds = ", ".join(map(str, content.seeds))
    caption = f"{table.measure.title}: {meaning(table)} Means over n = {seeds} seeds with 95 % bootstrap intervals."
    label = "".join(c if c.isalnum() else "-" for c in f"{title}-{table.measure.column}" if c.isascii())
    yield ""
    yield r"\begin{table}"
    yield r"  \centering"
    yield rf"  \caption{{{escape(caption)}}}"
    yield rf"  \label{{tab:{label}}}"
    yield rf"  \begin{{tabular}}{{l{'r' * len(columns)}}}"
    yield r"    \toprule"
    yield _row(["", *map(escape, columns)])
    yield r"    \midrule"
    for i, part in enumerate((table.rows, table.aggregates, table.further)):
        if i and part:
            yield r"    \midrule"
        for row in part:
            ours = [_entry(entry, row, decimals) for entry in row.entries]
            theirs = [escape(their_figure(them, row.key, decimals)) for them in table.others]
            yield _row([escape(row_name(row)), *ours, *theirs])
    yield r"    \bottomrule"
    yield r"  \end{tabular}"
    yield r"\end{table}"


def _row(texts: Sequence[str]) -> str:
    first, *others = texts
    guarded = f"{{}}{first}" if first[:1] in ("[", "*") else first  # else the row before would take it for its own
    return f"    {' & '.join([guarded, *others])} \\\\"


def _entry(entry: Entry, row: Row, decimals: int) -> str:
    if entry.interval is None:
        text = escape(entry.instead)
    else:
        value = number(entry.interval.value, decimals)
        interval = ends(entry.interval, decimals)
        parts = [
            rf"\textbf{{{value}}}" if entry.apart else value,
            rf"{{\scriptsize {escape(interval)}}}" if interval else "",
            escape(remarks(entry)),
        ]
        text = " ".join(filter(None, parts))
    return " / ".join([text, *(escape(their_figure(them, row.key, decimals)) for them in entry.theirs)])
