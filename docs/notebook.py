"""Makes docs/library.ipynb of docs/library.md, and runs it: `python docs/notebook.py`. Needs the extras test and plots.

Its text and its code are the page's, block by block; what it shows is what they printed and drew.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parent
PAGE, NOTEBOOK = DOCS / "library.md", DOCS / "library.ipynb"


def cells() -> list[nbformat.NotebookNode]:
    """The page's text and its python blocks, in their order."""
    found = []
    for number, part in enumerate(re.split(r"^```python\n(.*?)^```\n", PAGE.read_text(), flags=re.M | re.S)):
        if text := part.strip():
            make = nbformat.v4.new_code_cell if number % 2 else nbformat.v4.new_markdown_cell
            found.append(make(text, id=f"cell-{len(found)}"))
    return found


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook with what its cells print and draw when they are run in `folder`. Raises nbclient's errors."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(cells=cells(), metadata={"kernelspec": kernel})
    paths = [str(DOCS.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # where rlreg is not installed
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)  # clock times
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(Path(folder))
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                if "text" in output:
                    output.text = output.text.replace(str(DOCS.parent) + "/", "")
        nbformat.write(notebook, NOTEBOOK)
    print(NOTEBOOK)
