"""Pictures of levels in MiniGrid's look: a table of drawn tiles, indexed by the level."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from envs.cave.tiles import EMPTY, GOAL, LAVA, MOSS, START, WALL
from rlreg.errors import UserError, require

GREY, GREEN, PALE_BLUE, ORANGE, RED = (100, 100, 100), (0, 255, 0), (0, 0, 127), (255, 128, 0), (255, 0, 0)
LINE = 0.031
"""Width of the grid lines along a tile's left and upper edge, in tiles."""
GAP = 4
"""Pixels between the levels of a sheet."""
_FINE = 3
"""Tiles are drawn this many times finer than shown, and averaged."""
_AGENTS = 5
"""No agent, or one that looks in direction 0..3."""


def render(
    levels: ArrayLike | Tensor,
    position: ArrayLike | Tensor | None = None,
    direction: ArrayLike | Tensor | None = None,
    tile_size: int = 32,
) -> NDArray[np.uint8]:
    """Levels (n, G, G) as pictures (n, G * tile_size, G * tile_size, 3) uint8.

    The agent is a red triangle on cells `position` (n,), x * G + y; by default on the levels' START. It looks in
    `direction` (n,), 0..3; by default to the right. Raises `UserError` for another shape or an unknown tile.
    """
    levels = _array(levels)
    if levels.ndim != 3 or levels.shape[1] != levels.shape[2]:
        raise UserError(f"levels have shape {levels.shape}; give (n, G, G)")
    require(tile_size >= 1, "tile_size", tile_size, "a whole number >= 1")
    count, size, _ = levels.shape
    is_start = levels == START
    background = np.where(is_start, EMPTY, levels)
    unknown = background[~np.isin(background, (EMPTY, WALL, MOSS, GOAL, LAVA))]
    if unknown.size:
        raise UserError(f"levels hold tile {unknown[0]}; a level's tiles are those of envs/cave/tiles.py")
    here = is_start
    if position is not None:
        here = _array(position).reshape(-1, 1) == np.arange(size * size)
        here = here.reshape(count, size, size)
    looks = np.zeros(count, int) if direction is None else _array(direction).astype(int)
    agent = np.where(here, 1 + looks[:, None, None], 0)

    # A picture's first axis is y, a level's is x.
    kind = (background.astype(int) * _AGENTS + agent).swapaxes(1, 2)
    tiles = _tiles(tile_size)[kind]  # (n, y, x, tile_size, tile_size, 3)
    return tiles.swapaxes(2, 3).reshape(count, size * tile_size, size * tile_size, 3)


def sheet(levels: ArrayLike | Tensor, columns: int = 8, tile_size: int = 8) -> NDArray[np.uint8]:
    """Levels (n, G, G) side by side in one picture (h, w, 3) uint8, row by row, with white between them."""
    require(columns >= 1, "columns", columns, "a whole number >= 1")
    pictures = render(levels, tile_size=tile_size)
    count, edge = len(pictures), pictures.shape[1] + GAP
    rows = -(-count // columns)
    cells = np.full((rows * columns, edge, edge, 3), 255, np.uint8)
    cells[:count, :-GAP, :-GAP] = pictures
    whole = cells.reshape(rows, columns, edge, edge, 3).swapaxes(1, 2).reshape(rows * edge, columns * edge, 3)
    return whole[:-GAP, :-GAP]


def _array(values: ArrayLike | Tensor) -> NDArray:
    return values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values)


@lru_cache(maxsize=8)
def _tiles(size: int) -> NDArray[np.uint8]:
    """((START + 1) * 5, size, size, 3): every tile with no agent, and with one that looks in direction 0..3."""
    fine = size * _FINE
    middle = (np.arange(fine) + 0.5) / fine
    x, y = middle[None, :], middle[:, None]
    # A triangle that points to the right, between its two long edges.
    slope = 0.31 / 0.75
    triangle = (x >= 0.12) & (abs(y - 0.5) <= slope * (0.87 - x))

    backgrounds = {}
    lines = np.zeros((fine, fine, 3), np.uint8)
    lines[(x <= LINE) | (y <= LINE)] = GREY
    backgrounds[EMPTY] = lines
    backgrounds[MOSS] = lines.copy()
    backgrounds[MOSS][(x >= LINE) & (y >= LINE)] = PALE_BLUE
    for tile, color in ((WALL, GREY), (GOAL, GREEN), (LAVA, ORANGE)):
        backgrounds[tile] = np.full((fine, fine, 3), color, np.uint8)
    for wave in (0.3, 0.5, 0.7):  # height of a wave's crests; the troughs lie lower by 0.1
        knots = [(0.1, wave), (0.3, wave + 0.1), (0.5, wave), (0.7, wave + 0.1), (0.9, wave)]
        for start, end in pairwise(knots):
            backgrounds[LAVA][_distance(x, y, start, end) <= 0.03] = 0

    table = np.zeros((START + 1, _AGENTS, size, size, 3), np.uint8)
    for tile, background in backgrounds.items():
        for agent in range(_AGENTS):
            drawn = background.copy()
            if agent:
                drawn[np.rot90(triangle, 1 - agent)] = RED  # clockwise by a quarter a direction
            blocks = drawn.reshape(size, _FINE, size, _FINE, 3)
            table[tile, agent] = blocks.sum((1, 3), dtype=int) // _FINE**2
    return table.reshape(-1, size, size, 3)


def _distance(x: NDArray, y: NDArray, start: tuple[float, float], end: tuple[float, float]) -> NDArray:
    """From points (x, y) to the line from `start` to `end`."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
