"""The files of a report: Markdown, CSV, LaTeX, the page and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlreg.errors import UserError
from rlreg.files import write_atomic
from rlreg.report.content import Content
from rlreg.report.csvs import by_cell, by_seed
from rlreg.report.figures import draw
from rlreg.report.html import html
from rlreg.report.latex import latex
from rlreg.report.markdown import markdown


def write(contents: Sequence[Content], title: str, folder: Path, command: str) -> None:
    """Print a report of one or more kinds of runs and write its files into `folder`; `command` is what it is made by.

    Raises `UserError`.
    """
    text = markdown(contents, title, command)
    print("\n" + text)
    files = {
        "table.md": text,
        "table.csv": by_seed(contents),
        "cells.csv": by_cell(contents),
        "table.tex": latex(contents, title),
        "report.html": html(contents, title, command),
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
