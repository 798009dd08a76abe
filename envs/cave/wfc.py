"""New wall layouts with MiniGrid's Wave Function Collapse solver, from a small template that the user names.

The solver cuts the template into N x N patterns, with their rotations and mirror images, and fills a level with them
so that neighbours agree. MiniGrid's releases ship the solver but none of the template pictures (they are in its git
repository); any picture of light free cells and dark walls, one pixel a cell, will do, and so will a text file.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rlreg.errors import UserError, require, unknown

FREE, WALLS = ".", "#"
"""The cells of a text template."""
PATIENCE = 200
"""Failures in a row after which a template is given up. About one attempt in three fails for the worst of DRED's."""


@dataclass(frozen=True)
class Structure:
    """How DRED uses a template."""

    template: str
    """The picture's name in MiniGrid's repository, minigrid/envs/wfc/patterns."""
    pattern_width: int = 3
    """N."""
    periodic: bool = True
    """Whether the template and the level wrap around."""


STRUCTURES = {
    "maze_wall": Structure("SimpleWall.png", 2),
    "obstacles_hogs3": Structure("Hogs.png"),
    "maze_paths": Structure("Paths.png"),
    "rooms_office": Structure("Office.png"),
    "obstacles_blackdots": Structure("Blackdots.png", 2, periodic=False),
    "obstacles_hogs2": Structure("Hogs.png", 2),
    "obstacles_angular": Structure("Angular.png"),
    "dungeon_mazescaled": Structure("ScaledMaze.png", 2),
    "maze_simple": Structure("SimpleMaze.png", 2, periodic=False),
    "rooms_fabric": Structure("Fabric.png", periodic=False),
    "skew_2": Structure("Skew2.png"),
    "maze_knot": Structure("Knot.png"),
    "dungeon_rooms": Structure("Rooms.png"),
    "maze_spirals": Structure("Spirals.png"),
    "dungeon_spirals_neg": Structure("SpiralsNeg.png"),
    "dungeon_lessrooms": Structure("LessRooms.png"),
    "rooms_magicoffice": Structure("MagicOffice.png"),
    "dungeon_": Structure("DungeonExtr.png"),
    "skew_cave": Structure("Cave.png", periodic=False),
    "maze_like": Structure("Mazelike.png"),
    "skew_lake": Structure("Lake.png"),
    "maze_": Structure("Maze.png"),
}
"""DRED's 22 task structures by its names."""


def read_template(path: str | Path) -> np.ndarray:
    """(h, w) bool, True for wall, in a picture's order: from a text file (`.txt`; '#' wall, '.' free) or a picture.

    Pixels of a picture are cells, walls where darker than half. Raises `UserError` for what cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such template; give a picture, or a .txt file of '{WALLS}' and '{FREE}'")
    if path.suffix == ".txt":
        return _read_text(path)
    try:
        import imageio.v3 as imageio
    except ImportError:
        raise _needs_extra() from None
    try:
        picture = imageio.imread(path, plugin="pillow", mode="L", index=0)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} is not a readable picture, nor a .txt file of '{WALLS}' and '{FREE}'") from error
    return picture < 128


def generate(
    structure: str, template: str | Path, size: int, count: int, seed: int = 0, workers: int | None = None
) -> np.ndarray:
    """(count, G, G) bool new layouts, True for wall, x first, with the border; on `workers` processes (all cores).

    `structure` gives N and whether levels wrap (`STRUCTURES`). Attempt k is a function of the seed and k, and one that
    ends in a contradiction, or without two connected free cells, is dropped, so the result does not depend on
    `workers`. Raises `UserError`: unknown structure, bad template or number, the extra is not there, or no success.
    """
    if structure not in STRUCTURES:
        raise unknown("structure", structure, STRUCTURES)
    settings = STRUCTURES[structure]
    least = settings.pattern_width + 2
    valid = f"{least} or more: '{structure}' has patterns of {settings.pattern_width}"
    require(size >= least, "level_set.size", size, valid)
    require(count >= 1, "level_set.count", count, "1 or more")
    require(seed >= 0, "level_set.seed", seed, "0 or more")
    require(workers is None or workers >= 1, "level_set.workers", workers, "1 or more")
    walls = read_template(template)
    if min(walls.shape) < settings.pattern_width:
        raise UserError(
            f"{template}: {walls.shape[1]} x {walls.shape[0]} cells are fewer than the pattern width of "
            f"'{structure}', {settings.pattern_width}"
        )
    _solver()  # a missing extra shows here, in one line, rather than in a worker

    workers = workers or os.cpu_count() or 1
    found: list[np.ndarray] = []
    failures = 0
    context = multiprocessing.get_context("forkserver")  # torch's threads must not be forked
    context.set_forkserver_preload(["__main__", __name__])  # imported once for all workers
    pool = ProcessPoolExecutor(workers, mp_context=context)
    running: deque[Future[np.ndarray | None]] = deque()
    try:
        with tqdm(total=count, desc=f"{structure} {size}x{size}", unit="layout", disable=None) as bar:
            attempt = 0
            while len(found) < count:
                while len(running) < 2 * workers:
                    running.append(pool.submit(_attempt, walls, settings, size, (seed, attempt)))
                    attempt += 1
                layout = running.popleft().result()
                if layout is not None:
                    found.append(layout)
                    bar.update()
                failures = 0 if layout is not None else failures + 1
                if failures == PATIENCE:
                    raise UserError(
                        f"no layout of '{structure}' from {template} in {PATIENCE} attempts in a row; try another "
                        "template or a smaller size"
                    )
    finally:
        pool.shutdown(cancel_futures=True)
    return np.stack(found)


def _attempt(walls: np.ndarray, settings: Structure, size: int, key: tuple[int, int]) -> np.ndarray | None:
    """One layout (G, G) of the template, or None."""
    picture = np.repeat(np.where(walls, 0, 255).astype(np.uint8)[..., None], 3, -1)
    solved, _ = _solver()(
        picture,
        pattern_width=settings.pattern_width,
        output_size=(size - 2, size - 2),
        attempt_limit=1,
        output_periodic=settings.periodic,
        input_periodic=settings.periodic,
        np_random=np.random.default_rng(key),
    )
    if solved is None:
        return None
    layout = np.ones((size, size), bool)
    layout[1:-1, 1:-1] = solved[..., 0].T == 0
    free = ~layout
    roomy = (free[1:] & free[:-1]).any() or (free[:, 1:] & free[:, :-1]).any()
    return layout if roomy else None


def _solver() -> Callable[..., Any]:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # which MiniGrid's import would print in each worker
    try:
        from minigrid.envs.wfc.wfclogic.control import execute_wfc
    except ImportError:
        raise _needs_extra() from None
    return execute_wfc


def _needs_extra() -> UserError:
    return UserError("new layouts need MiniGrid's solver and imageio: pip install 'rlreg[levels]'")


def _read_text(path: Path) -> np.ndarray:
    try:
        rows = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable text file") from error
    if not rows or set("".join(rows)) - {FREE, WALLS} or len({len(row) for row in rows}) > 1:
        raise UserError(f"{path} is not a template: give lines of equal length of '{WALLS}' (wall) and '{FREE}' (free)")
    return np.array([[cell == WALLS for cell in row] for row in rows])
