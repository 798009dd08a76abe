"""Pictures of levels against MiniGrid's own, and sheets of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.cave.rendering import GAP, render, sheet
from envs.cave.tiles import EMPTY, GOAL, LAVA, MOSS, START, WALL
from rlreg.errors import UserError


def level(size: int = 7) -> np.ndarray:
    """Every tile at least once; not symmetric, so that a swapped axis shows."""
    tiles = np.full((size, size), EMPTY, np.uint8)
    tiles[[0, -1]] = tiles[:, [0, -1]] = WALL
    tiles[1, 2], tiles[1, 3], tiles[2, 5], tiles[4, 1], tiles[5, 5] = MOSS, LAVA, GOAL, START, WALL
    return tiles


@pytest.mark.parametrize("tile_size", [8, 10, 32])
def test_pictures_equal_minigrids(tile_size: int) -> None:
    grid_module = pytest.importorskip("minigrid.core.grid", reason="needs the extra 'levels'")
    ours = level()
    colors = np.zeros(11, np.uint8)
    colors[[WALL, MOSS, GOAL]] = 5, 2, 1
    grid, _ = grid_module.Grid.decode(np.stack((ours, colors[ours], 0 * ours), -1))
    places = [(4, 1), (1, 2), (2, 5), (1, 3)]  # empty, moss, goal, lava
    for direction, place in enumerate(places):
        picture = render(ours[None], [place[0] * 7 + place[1]], [direction], tile_size)[0]
        np.testing.assert_array_equal(picture, grid.render(tile_size, place, direction))


def test_the_agent_stands_on_the_start_and_looks_right_unless_told() -> None:
    levels = np.stack([level(), level().T])
    np.testing.assert_array_equal(render(levels), render(levels, [4 * 7 + 1, 1 * 7 + 4], [0, 0]))
    moved = render(torch.from_numpy(levels), torch.tensor([8, 8]), torch.tensor([3, 1]), tile_size=9)
    red = (moved == (255, 0, 0)).all(-1)
    for picture in red:  # in cell (1, 1) and nowhere else
        assert picture[9:18, 9:18].any() and picture.sum() == picture[9:18, 9:18].sum()
    assert red[0, 9:13].sum() < red[0, 14:18].sum()  # looks up: the tip is the narrow end
    assert red[1, 9:13].sum() > red[1, 14:18].sum()


def test_sheet_lays_levels_out_in_rows() -> None:
    levels = np.stack([level(), level().T, np.where(level() == MOSS, EMPTY, level())])
    picture, edge = sheet(levels, columns=2, tile_size=4), 28 + GAP
    assert picture.shape == (2 * edge - GAP, 2 * edge - GAP, 3)
    for n, (row, column) in enumerate([(0, 0), (0, 1), (1, 0)]):
        part = picture[row * edge :, column * edge :][:28, :28]
        np.testing.assert_array_equal(part, render(levels[n : n + 1], tile_size=4)[0])
    assert (picture[28:edge] == 255).all() and (picture[edge:, edge:] == 255).all()


def test_shapes_and_tiles_that_cannot_be_drawn_are_named() -> None:
    with pytest.raises(UserError, match=r"levels have shape \(7, 7\); give \(n, G, G\)"):
        render(level())
    with pytest.raises(UserError, match="levels hold tile 77"):
        render(np.where(level() == MOSS, 77, level())[None])
    with pytest.raises(UserError, match="tile_size=0 is not valid"):
        render(level()[None], tile_size=0)
    with pytest.raises(UserError, match="columns=0 is not valid"):
        sheet(level()[None], columns=0)
