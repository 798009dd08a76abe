"""Build, inspect and draw level sets, and generate new wall layouts: what `mode=level_set` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from envs.cave import layouts as layouts_files
from envs.cave.level_sets import LevelSet, level_set
from envs.cave.placement import statistics
from envs.cave.rendering import sheet
from envs.cave.tiles import EMPTY, WALL
from envs.cave.wfc import generate
from rlreg.errors import UserError, require
from rlreg.report.markdown import aligned

_ON_SHEET = 64


@dataclass
class LevelSetOptions:
    """A level set to look at or to write; with `structure`, wall layouts to generate instead."""

    _target_: str = "envs.cave.level_set_tool.run"
    set: str = "cave_escape_512_4ts_varp"
    """One of DRED's level sets by name, or a level-set file."""
    split: str = "train"
    """train or test."""
    count: int | None = None
    """Levels, balanced over the structures, all where empty; or layouts to generate."""
    layouts: str | None = None
    """A file or folder of wall layouts that stand in for the packaged ones; or the file that new layouts go to."""
    out: str | None = None
    """Write the set to this level-set file."""
    sheet: str | None = None
    """Draw the first 64 levels (balanced over the structures), or new layouts, into this PNG file."""
    structure: str | None = None
    """Generate layouts of this structure, as maze_wall."""
    template: str | None = None
    """The picture, or the text file of '#' and '.', to generate from."""
    size: int = 15
    """Of new layouts, with the border."""
    seed: int = 0
    """Of new layouts."""
    workers: int | None = None
    """Processes that generate; one per core where empty."""


def run(options: LevelSetOptions) -> None:
    """Print the statistics of a set, and write and draw it where asked; or generate layouts. Raises `UserError`."""
    for name, suffix in (("out", ".npz"), ("sheet", ".png")):  # before work of minutes
        value = getattr(options, name)
        valid = f"a file name that ends in {suffix}"
        require(value is None or value.endswith(suffix), f"level_set.{name}", value, valid)
    if options.structure is None:
        _show(options)
    else:
        _generate(options)


def table(levels: LevelSet) -> str:
    """Statistics of each structure and of all, as a Markdown table; see `placement.statistics`."""
    structures = np.array(levels.structure)
    names = list(dict.fromkeys(levels.structure))
    groups = [(name, levels.levels[structures == name]) for name in names] + [("all", levels.levels)]
    rows = [["structure", "levels"]]
    for name, group in groups:
        numbers = statistics(torch.from_numpy(group))
        rows.append([name, str(len(group)), *(f"{float(number):.3g}" for number in numbers.values())])
    rows[0] += [name.replace("_", " ") for name in numbers]
    return "\n".join(aligned(rows))


def _show(options: LevelSetOptions) -> None:
    found = level_set(options.set, options.split, layouts=options.layouts)
    if options.count is not None:
        found = found.first(options.count, "level_set.count")
    print(table(found))
    if options.out:
        found.save(options.out)
        print(f"{len(found)} levels written to {options.out}")
    if options.sheet:
        _draw(found.first(min(_ON_SHEET, len(found))).levels, options.sheet)


def _generate(options: LevelSetOptions) -> None:
    structure, path = str(options.structure), Path(options.layouts or "")
    for field, value, good, valid in (
        ("template", options.template, options.template is not None, f"the template of '{structure}', a file"),
        ("layouts", options.layouts, path.suffix == ".npz", "the file that the layouts go to, ending in .npz"),
        ("count", options.count, options.count is not None, "the number of layouts to generate"),
    ):
        require(good, f"level_set.{field}", value, valid)
    there = layouts_files.read(path) if path.exists() else {}
    new = generate(structure, options.template, options.size, options.count, options.seed, options.workers)
    layouts_files.write(path, there | {(structure, options.size): new})
    print(f"{len(new)} layouts '{structure}/{options.size}' written to {path}")
    if options.sheet:
        _draw(np.where(new[:_ON_SHEET], WALL, EMPTY).astype(np.uint8), options.sheet)


def _draw(levels: ArrayLike, path: str) -> None:
    try:
        import imageio.v3 as imageio
    except ImportError:
        raise UserError("drawing needs imageio: pip install 'rlreg[levels]'") from None
    picture = sheet(levels, columns=8, tile_size=12)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        imageio.imwrite(path, picture)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    print(f"drawn in {path}")
