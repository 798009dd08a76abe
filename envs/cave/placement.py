"""Goal, moss, lava and start on a wall layout, and what can be said of a level's paths (DRED, appendix on datasets).

Everything is batched over any leading axes, on any device; a cell's four neighbours are those that share a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from envs.cave.tiles import EMPTY, GOAL, LAVA, MOSS, NAVIGABLE, START, WALL
from rlreg.errors import UserError
from rlreg.rng import Rng

UNREACHABLE = 1 << 20
"""The distance of a cell that no path reaches: more than any level has cells."""
LAVA_REACH = 3
"""Lava lies at most this many cells (Manhattan) from a wall cell that touches the navigable area."""


@dataclass(frozen=True)
class Placement:
    """How much moss and lava a level gets, and how sharply distance to the goal decides where."""

    moss: tuple[float, float] = (0.1, 0.25)
    """Bounds of the share of moss candidates that become moss, drawn uniformly for each level."""
    lava: tuple[float, float] = (0.1, 0.25)
    """The same of lava candidates."""
    temperature: float = 1.0
    """T: the candidate of rank r is drawn with weight r^(-1/T)."""


def navigable(levels: Tensor) -> Tensor:
    """Cells of levels (..., G, G) one can walk on and go on from, bool."""
    return torch.isin(levels, torch.tensor(NAVIGABLE, dtype=levels.dtype, device=levels.device))


def interior(size: int, device: torch.device | str = "cpu") -> Tensor:
    """(G, G) bool: all but the outermost ring, which is wall in every level."""
    inside = torch.zeros(size, size, dtype=torch.bool, device=device)
    inside[1:-1, 1:-1] = True
    return inside


def distances(passable: Tensor, source: Tensor) -> Tensor:
    """Steps from the nearest source to each cell through passable ones, (..., G, G) int32; else `UNREACHABLE`.

    `passable` and `source` are (..., G, G) bool and broadcast. A source has distance 0, passable or not. Breadth-first
    search: the frontier grows by one step a round, in all levels at once, until no level gains a cell.
    """
    passable, source = torch.broadcast_tensors(passable, source)
    distance = torch.full(source.shape, UNREACHABLE, dtype=torch.int32, device=source.device)
    distance.masked_fill_(source, 0)
    open_cells, frontier = passable & ~source, source
    steps = 0
    while frontier.any():
        steps += 1
        frontier = _spread(frontier) & open_cells
        distance.masked_fill_(frontier, steps)
        open_cells = open_cells & ~frontier
    return distance


def largest_component(free: Tensor) -> Tensor:
    """The largest 4-connected set of free cells of each map, (..., G, G) bool; of equal ones, the first by index."""
    size = free.shape[-1]
    cells = torch.arange(size * size, device=free.device).reshape(size, size)
    # Each cell takes the lowest cell index that it can hear of; a component is the cells that agree.
    label = torch.where(free, cells, size * size)
    while True:
        lowest = torch.where(free, torch.minimum(label, _neighbour_min(label, size * size)), size * size)
        if torch.equal(lowest, label):
            break
        label = lowest
    flat = label.flatten(-2)
    counts = torch.zeros(*flat.shape[:-1], size * size + 1, dtype=torch.int64, device=free.device)
    counts.scatter_add_(-1, flat, torch.ones_like(flat))
    largest = counts[..., :-1].argmax(-1)
    return free & (label == largest[..., None, None])


def place(layouts: Tensor, rng: Rng, stream: str, step: int | Tensor, settings: Placement | None = None) -> Tensor:
    """Levels (S, L, G, G) uint8 from layouts (L, G, G) bool, True for wall; S seeds share the layouts.

    The largest connected free area stays, the rest turns into wall. Then, in this order:
    goal, uniform; moss, on the cells nearest to the goal first; lava, on wall cells near the free area and farthest
    from the goal first; start, uniform over the cells at the median distance to the goal. No lava on free cells: each
    level can be solved. The outermost ring stays wall. Level l depends on (seed, stream, step, l) and its layout only.
    Raises `UserError` where a layout has fewer than two free connected cells.
    """
    settings = settings or Placement()
    size, shape = layouts.shape[-1], (len(layouts), layouts.shape[-1] ** 2)
    free = largest_component(~layouts & interior(size, layouts.device))
    cramped = (free.sum((-2, -1)) < 2).nonzero()
    if len(cramped):
        raise UserError(f"layout {int(cramped[0])} has no two connected free cells; it needs a goal and a start")

    def bits(name: str) -> Tensor:
        return rng.bits(f"{stream}/{name}", step, shape).unflatten(-1, (size, size))

    def weighted(name: str, candidates: Tensor, order: Tensor, share: tuple[float, float]) -> Tensor:
        drawn = rng.uniform(f"{stream}/{name}/share", step, shape[:1]).double()
        count = ((share[0] + (share[1] - share[0]) * drawn) * candidates.sum((-2, -1))).long()  # rounds down
        noise = rng.uniform(f"{stream}/{name}", step, shape).unflatten(-1, (size, size))
        return _draw(candidates, order, count, settings.temperature, bits(f"{name}/ties"), noise)

    goal = _pick(free, bits("goal"))
    to_goal = distances(free, goal)
    others = free & ~goal
    moss = weighted("moss", others, to_goal, settings.moss)
    lava_order, lava_candidates = _lava_scores(free, to_goal)
    lava = weighted("lava", lava_candidates, -lava_order, settings.lava)
    start = _pick(others & (to_goal == _median(to_goal, others)[..., None, None]), bits("start"))

    levels = torch.where(free, EMPTY, WALL).to(torch.uint8).expand(goal.shape).clone()
    for cells, tile in ((moss, MOSS), (lava, LAVA), (goal, GOAL), (start, START)):
        levels.masked_fill_(cells, tile)
    return levels


def path_length(levels: Tensor) -> Tensor:
    """Steps on the shortest path from start to goal that avoids lava, (...) int32; `UNREACHABLE` where none."""
    to_goal = distances(navigable(levels), levels == GOAL)
    return to_goal.masked_fill(levels != START, UNREACHABLE).amin((-2, -1))


def solvable(levels: Tensor) -> Tensor:
    """Whether the start reaches the goal without lava, (...) bool, of levels (..., G, G)."""
    return path_length(levels) < UNREACHABLE


def statistics(levels: Tensor) -> dict[str, Tensor]:
    """Of L levels (..., L, G, G), float32 (...) each.

    Fractions count the cells inside the border. `solvable`: share of levels; `path_length`: mean over the solvable;
    `navigable`: of all cells; `moss`: of navigable ones; `lava`: of the others (each the mean over levels);
    `moss_distance`, `empty_distance`: mean steps to the goal of the cells that reach it. NaN where nothing counts.
    """
    inside = interior(levels.shape[-1], levels.device)
    walkable = navigable(levels) & inside
    to_goal = distances(walkable, levels == GOAL)
    length = to_goal.masked_fill(levels != START, UNREACHABLE).amin((-2, -1))
    solved = length < UNREACHABLE
    reaches = to_goal < UNREACHABLE

    def count(cells: Tensor) -> Tensor:
        return cells.sum((-2, -1)).float()

    def mean_distance(cells: Tensor) -> Tensor:
        cells = cells & reaches
        return (to_goal * cells).sum((-3, -2, -1)) / cells.sum((-3, -2, -1))

    walls = inside & ~walkable
    return {
        "solvable": solved.float().mean(-1),
        "path_length": (length * solved).sum(-1) / solved.sum(-1),
        "navigable": count(walkable).mean(-1) / inside.sum(),
        "moss": (count(levels == MOSS) / count(walkable)).nanmean(-1),
        "lava": (count((levels == LAVA) & inside) / count(walls)).nanmean(-1),
        "moss_distance": mean_distance(levels == MOSS),
        "empty_distance": mean_distance(levels == EMPTY),
    }


def _lava_scores(free: Tensor, to_goal: Tensor) -> tuple[Tensor, Tensor]:
    """(score, candidates): each wall cell's distance to the goal as the crow flies from the free area, and who counts.

    A wall cell with a free neighbour scores that neighbour's distance + 1; one within `LAVA_REACH` of such cells the
    least of their scores plus the Manhattan distance. The outermost ring is never a candidate.
    """
    wall = ~free & interior(free.shape[-1], free.device)
    border = _neighbour_min(to_goal, UNREACHABLE) + 1
    border = torch.where(wall & (border < UNREACHABLE), border, UNREACHABLE)
    score = border
    for _ in range(LAVA_REACH):  # by single steps across whatever lies between: Manhattan distance
        score = torch.minimum(score, _neighbour_min(score, UNREACHABLE) + 1)
    score = torch.where(border < UNREACHABLE, border, score)
    return score, wall & (score < UNREACHABLE)


def _draw(candidates: Tensor, order: Tensor, count: Tensor, temperature: float, ties: Tensor, noise: Tensor) -> Tensor:
    """`count` (...) of the candidates (..., G, G) without replacement, rank r with weight r^(-1/T); bool.

    Rank 1 has the lowest `order`; equal ones are ranked by `ties`, 32 random bits a cell. One after the other would
    take a loop; arrival times -log(noise) / weight have the same law (an exponential race, or Gumbel top-k).
    """
    shape = candidates.shape
    key = torch.where(candidates, (order.long() << 32) + ties, torch.iinfo(torch.int64).max).flatten(-2)
    rank = key.argsort().argsort() + 1
    arrival = torch.log(-torch.log(noise.double().flatten(-2))) + rank.double().log() / temperature
    arrival = arrival.masked_fill(~candidates.flatten(-2), torch.inf)
    return (arrival.argsort().argsort() < count[..., None]).reshape(shape)


def _pick(cells: Tensor, bits: Tensor) -> Tensor:
    """One of `cells` (..., G, G), uniform by 32 random bits a cell, as a map with one True."""
    flat = torch.where(cells, bits, -1).flatten(-2)
    picked = torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, flat.argmax(-1, keepdim=True), True)
    return picked.reshape(bits.shape)


def _median(values: Tensor, cells: Tensor) -> Tensor:
    """int(median) of `values` over `cells`, (...): of an even number, the mean of the middle two, rounded down."""
    ordered = torch.where(cells, values, UNREACHABLE).flatten(-2).sort(-1).values
    count = cells.sum((-2, -1))
    middle = torch.stack([(count - 1) // 2, count // 2], -1)
    return ordered.gather(-1, middle).sum(-1) // 2


def _shifts(maps: Tensor) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """For each of the four directions: (where the neighbours are read in the result, their values)."""
    yield (..., slice(1, None), slice(None)), maps[..., :-1, :]
    yield (..., slice(None, -1), slice(None)), maps[..., 1:, :]
    yield (..., slice(None), slice(1, None)), maps[..., :, :-1]
    yield (..., slice(None), slice(None, -1)), maps[..., :, 1:]


def _spread(cells: Tensor) -> Tensor:
    """Cells with a neighbour among `cells`, bool."""
    spread = torch.zeros_like(cells)
    for where, values in _shifts(cells):
        spread[where] |= values
    return spread


def _neighbour_min(values: Tensor, outside: int) -> Tensor:
    """The least of each cell's four neighbours; `outside` counts beyond the map."""
    least = torch.full_like(values, outside)
    for where, neighbours in _shifts(values):
        least[where] = torch.minimum(least[where], neighbours)
    return least
