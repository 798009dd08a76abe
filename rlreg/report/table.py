"""The files of a report: Markdown, CSV, LaTeX, the page and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlreg.config import TableConfig
from rlreg.errors import UserError
from rlreg.files import write_atomic
from rlreg.report.cell import Cell
from rlreg.report.content import Content, content
from rlreg.report.csvs import by_cell, by_seed
from rlreg.report.figures import draw
from rlreg.report.html import html
from rlreg.report.latex import latex
from rlreg.report.markdown import markdown


def report(table: TableConfig, cells: Sequence[Cell], folder: Path) -> None:
    """Print the table and write its files into `folder`."""
    write([content(table, cells)], table.name, folder)


def write(contents: Sequence[Content], title: str, folder: Path) -> None:
    """Print a report of one or more kinds of runs and write its files into `folder`. Raises `UserError`."""
    text = markdown(contents, title)
    print("\n" + text)
    files = {
        "table.md": text,
        "table.csv": by_seed(contents),
        "cells.csv": by_cell(contents),
        "table.tex": latex(contents, title),
        "report.html": html(contents, title),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, written in files.items():
            write_atomic(folder / name, written)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    prefixes = [f"{one.table.name}-" if len(contents) > 1 else "" for one in contents]
    drawn = [name for one, prefix in zip(contents, prefixes, strict=True) for name in draw(one, folder, prefix)]
    print(f"written: {', '.join(str(folder / name) for name in (*files, *drawn))}", flush=True)
