"""Random levels, empty rooms and edits: laws by chi-square, edits against a loop over levels and edits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from envs.cave.edits import EDITS, edit, empty_rooms, random_levels
from envs.cave.placement import interior
from envs.cave.tiles import EMPTY, GOAL, LAVA, MOSS, START, TILES, WALL
from rlreg.errors import UserError
from rlreg.rng import Rng

UNLIKELY = 1e-4
SEEDS = [5, 2]


def require_levels(levels: torch.Tensor) -> None:
    """One goal and one start each, known tiles, a whole border."""
    assert levels.dtype == torch.uint8
    assert np.isin(levels.numpy(), TILES).all()
    for tile in (GOAL, START):
        assert ((levels == tile).sum((-2, -1)) == 1).all()
    assert (levels[..., ~interior(levels.shape[-1])] == WALL).all()


def positions(levels: torch.Tensor, tile: int) -> np.ndarray:
    """How often each cell inside the border has the tile."""
    return (levels == tile).sum((0, 1))[1:-1, 1:-1].flatten().numpy()


def test_random_levels_have_uniform_parts():
    levels = random_levels(Rng(SEEDS), "random", 3, 5_000)
    assert levels.shape == (2, 5_000, 15, 15)
    require_levels(levels)
    for tile in (GOAL, START):
        assert stats.chisquare(positions(levels, tile)).pvalue > UNLIKELY
    inside = levels[..., 1:-1, 1:-1].flatten(2)
    number = 167 - (inside == EMPTY).sum(-1)
    counts = np.bincount(number.flatten().numpy(), minlength=60)
    assert len(counts) == 60
    assert stats.chisquare(counts).pvalue > UNLIKELY
    kinds = np.array([int((inside == tile).sum()) for tile in (WALL, LAVA, MOSS)])
    assert kinds.sum() == number.sum()
    assert stats.chisquare(kinds).pvalue > UNLIKELY
    together = sum(positions(levels, tile) for tile in (WALL, LAVA, MOSS))
    # Without replacement cells vary less than chi-square has it: only too much spread would be wrong.
    assert stats.chisquare(together).pvalue > UNLIKELY


def test_random_levels_of_any_size_are_levels_even_where_objects_do_not_fit():
    crowded = random_levels(Rng(SEEDS), "random", 0, 500, size=6)  # 16 cells for up to 59 objects
    require_levels(crowded)
    assert ((crowded == EMPTY).sum((-2, -1)) == 0).any()
    require_levels(random_levels(Rng(SEEDS), "random", 0, 3, size=45))
    require_levels(empty_rooms(Rng(SEEDS), "random", 0, 50, size=4))
    with pytest.raises(UserError, match="size=3 is not valid; give 4 or more"):
        empty_rooms(Rng(SEEDS), "random", 0, 1, size=3)


def test_empty_rooms_hold_goal_and_start_only():
    rooms = empty_rooms(Rng(SEEDS), "rooms", 0, 4_000)
    require_levels(rooms)
    assert ((rooms == EMPTY).sum((-2, -1)) == 167).all()
    assert stats.chisquare(positions(rooms, GOAL)).pvalue > UNLIKELY
    pairs = positions(torch.where(rooms == GOAL, START, EMPTY), START)  # both are drawn from the same cells
    assert (pairs == positions(rooms, GOAL)).all()


@pytest.mark.parametrize("num_edits", [1, 5, 40])
def test_edits_are_those_of_a_loop(num_edits):
    """The same draws, applied one by one with plain Python."""
    rng, count, size = Rng(SEEDS), 150, 7
    levels = random_levels(rng, "base", 0, count, size=size, max_objects=12)
    edited = edit(levels, rng, "edit", 4, num_edits)
    require_levels(edited)
    tiles = rng.integers("edit/tiles", 4, (count, num_edits), 6)
    cells = rng.integers("edit/cells", 4, (count, num_edits), (size - 2) ** 2)
    lost = 0
    for s in range(len(SEEDS)):
        for n in range(count):
            level = levels[s, n].numpy().copy()
            done = set()
            for cell, kind in zip(cells[s, n].tolist(), tiles[s, n].tolist(), strict=True):
                x, y = cell // (size - 2) + 1, cell % (size - 2) + 1
                if (x, y) in done:
                    continue
                done.add((x, y))
                if EDITS[kind] in (START, GOAL):
                    level[level == EDITS[kind]] = EMPTY
                level[x, y] = EDITS[kind]
            ours = edited[s, n].numpy()
            missing = [tile for tile in (GOAL, START) if not (level == tile).any()]
            lost += len(missing)
            changed = np.argwhere(ours != level)
            assert len(changed) == len(missing)
            free = (level == EMPTY).sum()
            for x, y in changed:
                assert ours[x, y] in missing
                assert level[x, y] == EMPTY or free < len(missing)
    assert lost > 0


def test_edits_are_uniform():
    rng, count = Rng([1]), 30_000
    room = empty_rooms(rng, "room", 0, 1)
    edited = edit(room.expand(-1, count, -1, -1), rng, "edit", 0, num_edits=1)
    before = room[0, 0]
    untouched = (before != GOAL) & (before != START) & interior(15)
    tiles = [int((edited[0][:, untouched] == tile).sum()) for tile in (WALL, LAVA, MOSS)]
    assert stats.chisquare(tiles).pvalue > UNLIKELY
    walls = (edited[0] == WALL).sum(0)[untouched].numpy()
    assert stats.chisquare(walls).pvalue > UNLIKELY
    # The goal moves where another cell becomes the goal, or its own something else.
    moved = edited[0][(edited[0] == GOAL).flatten(1).int().argmax(1) != int((before == GOAL).flatten().int().argmax())]
    assert (moved[:, before == GOAL] != GOAL).all()
    share = (len(moved) / count, 1 / 6 * 168 / 169 + 5 / 6 / 169)
    assert share[0] == pytest.approx(share[1], abs=4 * (share[1] / count) ** 0.5)


def test_what_was_overwritten_returns_to_a_uniform_empty_cell():
    """A corridor of four empty cells and a moss between goal and start, where a wall took the goal's place."""
    count = 60_000
    level = torch.full((1, 1, 9, 9), WALL, dtype=torch.uint8)
    level[0, 0, 1:8, 2] = torch.tensor([GOAL, EMPTY, EMPTY, MOSS, EMPTY, EMPTY, START])
    edited = edit(level.expand(-1, count, -1, -1), Rng([9]), "edit", 0, num_edits=1)[0, :, 1:8, 2]
    taken = edited[edited[:, 0] == WALL]
    assert len(taken) > 150
    spots = (taken == GOAL).sum(0).numpy()
    assert spots[[0, 3, 6]].sum() == 0
    assert stats.chisquare(spots[[1, 2, 4, 5]]).pvalue > UNLIKELY


def test_without_an_empty_cell_any_other_takes_what_is_missing():
    level = torch.full((1, 1, 5, 5), WALL, dtype=torch.uint8)
    level[0, 0, 1, 1:3] = torch.tensor([START, GOAL])
    edited = edit(level.expand(-1, 500, -1, -1), Rng([9]), "edit", 0, num_edits=9)
    require_levels(edited)
    full = edit(level.expand(-1, 500, -1, -1), Rng([9]), "other", 0, num_edits=1)
    require_levels(full)
    assert ((full != level).sum((-2, -1)) >= 2).any()


def test_levels_depend_on_their_seed_only_and_input_is_left_alone():
    both, alone = Rng(SEEDS), Rng(SEEDS[1:])
    levels = random_levels(both, "r", 7, 6)
    assert torch.equal(random_levels(alone, "r", 7, 6)[0], levels[1])
    assert not torch.equal(levels[0], levels[1])
    assert not torch.equal(random_levels(both, "r", 8, 6), levels)
    copy = levels.clone()
    edited = edit(levels, both, "e", torch.tensor(3))
    assert torch.equal(levels, copy)
    assert torch.equal(edit(levels[1:], alone, "e", 3)[0], edited[1])
