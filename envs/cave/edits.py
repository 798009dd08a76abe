"""Levels without a dataset: random ones, empty rooms, and random edits (DRED's baselines DR, RPLR, ACCEL, and EL-DRED).

Everything is batched over S seeds (the rng's) and N levels each, and a function of (seed, stream, step).
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs.cave.placement import interior
from envs.cave.tiles import EMPTY, GOAL, LAVA, MOSS, START, WALL
from rlreg.errors import require
from rlreg.rng import Rng

OBJECTS = (WALL, LAVA, MOSS)
EDITS = (WALL, EMPTY, LAVA, MOSS, START, GOAL)


def random_levels(
    rng: Rng, stream: str, step: int | Tensor, count: int, size: int = 15, max_objects: int = 60
) -> Tensor:
    """(S, count, size, size) uint8: goal and start on uniform cells, then clutter; a path between them is not promised.

    A level has 0 .. max_objects - 1 objects, a uniform number, or as many as there is room for; each is wall, lava or
    moss with equal chance, on a uniform cell that is still empty.
    """
    require(size >= 4, "size", size, "4 or more, the least with room for goal and start")
    device, inside = rng.seeds.device, (size - 2) ** 2
    # The cells in random order: the goal takes the first, the start the second, the objects those that follow.
    order = rng.bits(f"{stream}/order", step, (count, inside)).argsort(-1).argsort(-1)
    number = rng.integers(f"{stream}/number", step, (count,), max_objects)
    kinds = torch.tensor(OBJECTS, dtype=torch.uint8, device=device)
    objects = kinds[rng.integers(f"{stream}/kinds", step, (count, inside), len(OBJECTS))]
    tiles = torch.where(order < number[..., None] + 2, objects, EMPTY)
    tiles = tiles.masked_fill(order == 0, GOAL).masked_fill(order == 1, START)
    levels = torch.full((*tiles.shape[:2], size, size), WALL, dtype=torch.uint8, device=device)
    levels[..., 1:-1, 1:-1] = tiles.unflatten(-1, (size - 2, size - 2))
    return levels


def empty_rooms(rng: Rng, stream: str, step: int | Tensor, count: int, size: int = 15) -> Tensor:
    """(S, count, size, size) uint8: goal and start on uniform cells of a room without anything else."""
    return random_levels(rng, stream, step, count, size, max_objects=1)


def edit(levels: Tensor, rng: Rng, stream: str, step: int | Tensor, num_edits: int = 5) -> Tensor:
    """Edited copies of levels (S, N, G, G) uint8, still with one goal and one start each, solvable or not.

    `num_edits` cells inside the border are drawn with replacement; one drawn again is not edited again. In the order
    drawn each becomes wall, empty, lava, moss, start or goal with equal chance, where start and goal move and leave an
    empty cell behind. What was overwritten and is missing at the end, first the goal, then the start, goes to a
    uniform empty cell; in a level without one, to a uniform cell of any other kind.
    """
    seeds, count, size, _ = levels.shape
    shape, device = (count, num_edits), levels.device
    kinds = torch.tensor(EDITS, dtype=torch.uint8, device=device)
    tiles = kinds[rng.integers(f"{stream}/tiles", step, shape, len(EDITS))]
    drawn = rng.integers(f"{stream}/cells", step, shape, (size - 2) ** 2)
    cells = (drawn // (size - 2) + 1) * size + drawn % (size - 2) + 1
    edited = levels.flatten(-2)
    for j in range(num_edits):
        cell, tile = cells[..., j, None], tiles[..., j, None]
        again = (cells[..., :j] == cell).any(-1, keepdim=True)
        moves = ((tile == START) | (tile == GOAL)) & ~again
        edited = edited.masked_fill(moves & (edited == tile), EMPTY)
        edited = edited.scatter(-1, cell, torch.where(again, edited.gather(-1, cell), tile))

    outside = ~interior(size, device).flatten()
    for tile, name in ((GOAL, "goal"), (START, "start")):
        bits = rng.bits(f"{stream}/{name}", step, (count, size * size))
        chance = torch.where(edited == EMPTY, bits + (1 << 32), bits)  # an empty cell comes before any other
        chance = chance.masked_fill((edited == GOAL) | (edited == START) | outside, -1)
        cell = chance.argmax(-1, keepdim=True)
        lost = ~(edited == tile).any(-1, keepdim=True)
        edited = edited.scatter(-1, cell, torch.where(lost, tile, edited.gather(-1, cell)))
    return edited.reshape(seeds, count, size, size)
