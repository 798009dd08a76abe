"""Placement against networkx, scipy and brute force; the laws of its draws by chi-square; DRED's own statistics."""

from __future__ import annotations

from itertools import permutations

import networkx as nx
import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from envs.cave import placement
from envs.cave.level_sets import SETS, SPLITS, level_set
from envs.cave.placement import UNREACHABLE, Placement, distances, largest_component, path_length, place, solvable
from envs.cave.tiles import EMPTY, GOAL, LAVA, MOSS, NAVIGABLE, START, WALL
from rlreg.errors import UserError
from rlreg.rng import Rng

UNLIKELY = 1e-4  # chi-square tests fail below; all draws are fixed, so they fail always or never


def random_maps(count: int, size: int, wall: float, seed: int = 0) -> torch.Tensor:
    """(count, size, size) bool, True for wall, walled in."""
    walls = torch.rand(count, size, size, generator=torch.Generator().manual_seed(seed)) < wall
    return walls | ~placement.interior(size)


def graph(passable: np.ndarray) -> nx.Graph:
    grid = nx.grid_2d_graph(*passable.shape)
    return grid.subgraph([cell for cell in grid if passable[cell]])


def nx_distances(passable: np.ndarray, source: tuple[int, int]) -> np.ndarray:
    result = np.full(passable.shape, UNREACHABLE)
    for cell, steps in nx.single_source_shortest_path_length(graph(passable), source).items():
        result[cell] = steps
    return result


def where(mask: np.ndarray) -> tuple[int, int]:
    (cell,) = np.argwhere(mask)
    return tuple(int(i) for i in cell)


def lava_scores(free: np.ndarray, to_goal: np.ndarray) -> dict[tuple[int, int], int]:
    """Candidate -> score, by the definition, cell by cell."""
    size = len(free)
    inner = [(x, y) for x in range(1, size - 1) for y in range(1, size - 1) if not free[x, y]]
    border = {}
    for x, y in inner:
        near = [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
        scores = [int(to_goal[cell]) + 1 for cell in near if free[cell]]
        if scores:
            border[x, y] = min(scores)
    result = dict(border)
    for x, y in inner:
        if (x, y) not in border:
            reach = [(abs(x - a) + abs(y - b), score) for (a, b), score in border.items()]
            scores = [manhattan + score for manhattan, score in reach if manhattan <= 3]
            if scores:
                result[x, y] = min(scores)
    return result


@pytest.mark.parametrize("size, wall", [(7, 0.2), (15, 0.4), (15, 0.6), (45, 0.35)])
def test_distances_are_networkxs(size, wall):
    free = ~random_maps(8 if size < 45 else 2, size, wall)
    source = torch.zeros_like(free)
    cells = [np.argwhere(f.numpy())[len(np.argwhere(f.numpy())) // 2] for f in free]
    for level, (x, y) in enumerate(cells):
        source[level, x, y] = True
    ours = distances(free[:, None], source[:, None])[:, 0]  # any leading axes
    assert (ours == UNREACHABLE).any()
    for level, cell in enumerate(cells):
        assert (ours[level].numpy() == nx_distances(free[level].numpy(), tuple(cell))).all()


def test_distances_to_the_nearest_of_two_and_to_none():
    corridor = torch.ones(1, 9, dtype=torch.bool)
    source = torch.zeros(1, 9, dtype=torch.bool)
    assert (distances(corridor, source) == UNREACHABLE).all()
    source[0, [0, 6]] = True
    assert distances(corridor, source).tolist() == [[0, 1, 2, 3, 2, 1, 0, 1, 2]]
    corridor[0, 3] = False
    assert distances(corridor, source).tolist() == [[0, 1, 2, UNREACHABLE, 2, 1, 0, 1, 2]]


@pytest.mark.parametrize("size, wall", [(6, 0.5), (15, 0.5), (45, 0.4)])
def test_largest_component_is_scipys(size, wall):
    free = ~random_maps(20, size, wall)
    for level, ours in zip(free.numpy(), largest_component(free).numpy(), strict=True):
        labels, _ = ndimage.label(level)  # numbered by their first cell
        sizes = np.bincount(labels.flat, minlength=2)
        assert (ours == (labels == sizes[1:].argmax() + 1)).all()
    assert not largest_component(torch.zeros(2, 5, 5, dtype=torch.bool)).any()


def test_lava_candidates_and_scores_are_the_definitions():
    free = largest_component(~random_maps(30, 15, 0.75, seed=1))  # small free areas: some walls are out of reach
    goal = torch.zeros_like(free)
    out_of_reach = 0
    for level in range(len(free)):
        x, y = np.argwhere(free[level].numpy())[0]
        goal[level, x, y] = True
    to_goal = distances(free, goal)
    scores, candidates = placement._lava_scores(free, to_goal)
    for level in range(len(free)):
        expected = lava_scores(free[level].numpy(), to_goal[level].numpy())
        assert {tuple(map(int, cell)) for cell in candidates[level].nonzero()} == expected.keys()
        assert all(int(scores[level][cell]) == score for cell, score in expected.items())
        out_of_reach += 169 - int(free[level].sum()) - len(expected)
    assert out_of_reach > 0


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_have_the_law_of_one_after_the_other(temperature):
    """Probability of each set of two among five, by summing over both orders of drawing."""
    levels, cells = 40_000, 5
    candidates = torch.zeros(levels, 3, 3, dtype=torch.bool)
    candidates.flatten(1)[:, :cells] = True
    rng = Rng([3])
    order = torch.arange(9).reshape(3, 3).expand(levels, 3, 3)
    ties = rng.bits("ties", 0, (levels, 3, 3))[0]
    noise = rng.uniform("noise", 0, (levels, 3, 3))[0]
    drawn = placement._draw(candidates, order, torch.full((levels,), 2), temperature, ties, noise).flatten(1)
    assert (drawn.sum(1) == 2).all()
    assert not drawn[:, cells:].any()

    weight = np.arange(1, cells + 1) ** (-1 / temperature)
    expected = np.zeros((cells, cells))
    for a, b in permutations(range(cells), 2):
        expected[min(a, b), max(a, b)] += weight[a] / weight.sum() * weight[b] / (weight.sum() - weight[a])
    pairs = drawn.nonzero()[:, 1].reshape(levels, 2).numpy()
    counts = np.zeros((cells, cells))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    above = np.triu_indices(cells, 1)
    assert stats.chisquare(counts[above], levels * expected[above]).pvalue > UNLIKELY


def test_ties_are_broken_at_random():
    levels = 20_000
    rng = Rng([4])
    same = torch.zeros(levels, 2, 2, dtype=torch.int64)
    ties, noise = rng.bits("ties", 0, (levels, 2, 2))[0], rng.uniform("noise", 0, (levels, 2, 2))[0]
    drawn = placement._draw(torch.ones(levels, 2, 2, dtype=torch.bool), same, torch.ones(levels), 1.0, ties, noise)
    assert stats.chisquare(drawn.sum(0).flatten().numpy()).pvalue > UNLIKELY


def test_moss_lava_and_start_follow_their_laws():
    """One moss and one lava a level, of ranks 1/rank; sets of equal rank share the weights of the ranks they take."""
    layout = random_maps(1, 9, 0.45, seed=6)
    free = largest_component(~layout)[0].numpy()
    cells, levels = int(free.sum()), 20_000
    assert 15 <= cells <= 40
    walls = len(lava_scores(free, np.zeros_like(free)))
    one = Placement(moss=(1.5 / (cells - 1),) * 2, lava=(1.5 / walls,) * 2)  # int(1.5) = 1
    placed = place(layout.expand(levels, -1, -1), Rng([0]), "law", 0, one)[0].numpy()

    goals = np.stack(np.nonzero(placed == GOAL), 1)[:, 1:]
    goal_counts = np.zeros(free.shape)
    np.add.at(goal_counts, tuple(goals.T), 1)
    assert goal_counts[~free].sum() == 0
    assert stats.chisquare(goal_counts[free]).pvalue > UNLIKELY

    spread, freedom = {MOSS: 0.0, LAVA: 0.0, START: 0.0}, {MOSS: 0, LAVA: 0, START: 0}
    for goal in map(tuple, np.argwhere(free)):
        chosen = placed[(goals == goal).all(1)]
        to_goal = nx_distances(free, goal)
        others = {tuple(cell): int(to_goal[tuple(cell)]) for cell in np.argwhere(free) if tuple(cell) != goal}
        median = int(np.median(list(others.values())))
        starts = [cell for cell, steps in others.items() if steps == median]
        groups = {START: ([[cell] for cell in starts], np.ones(len(starts)))}
        for tile, order in ((MOSS, others), (LAVA, {cell: -s for cell, s in lava_scores(free, to_goal).items()})):
            values, sizes = np.unique(list(order.values()), return_counts=True)
            weights = np.split(1 / np.arange(1, len(order) + 1), np.cumsum(sizes)[:-1])
            same = [[cell for cell, value in order.items() if value == v] for v in values]
            groups[tile] = same, np.array([weight.sum() for weight in weights])
        for tile, (cells_of, weight) in groups.items():
            seen = np.array([sum((chosen[:, x, y] == tile).sum() for x, y in group) for group in cells_of])
            if tile == MOSS:  # the start hides moss under it, and lies in one group only
                seen[[starts[0] in group for group in cells_of]] += len(chosen) - seen.sum()
            assert seen.sum() == len(chosen)
            mean = len(chosen) * weight / weight.sum()
            spread[tile] += ((seen - mean) ** 2 / mean).sum()
            freedom[tile] += len(seen) - 1
    for tile, degrees in freedom.items():
        assert degrees >= 25
        assert stats.chi2.sf(spread[tile], degrees) > UNLIKELY, tile


def test_a_levels_parts_are_where_they_belong():
    found = level_set("cave_escape_512_4ts_varp", count=64)
    for level in found.levels:
        walkable = np.isin(level, NAVIGABLE)
        goal, start = where(level == GOAL), where(level == START)
        to_goal = nx_distances(walkable, goal)
        assert nx.is_connected(graph(walkable))
        others = walkable.copy()
        others[goal] = False
        assert to_goal[start] == int(np.median(to_goal[others]))
        candidates = lava_scores(walkable, to_goal)
        lava = {tuple(cell) for cell in np.argwhere(level == LAVA)}
        assert lava <= candidates.keys()
        assert int(0.1 * len(candidates)) <= len(lava) <= 0.25 * len(candidates)
        moss = (level == MOSS).sum()  # one may lie under the start
        assert int(0.1 * others.sum()) - 1 <= moss <= 0.25 * others.sum()


def test_fixed_shares_round_down():
    found = level_set("cave_escape_112_14ts_p50l_p5m", count=56)
    for level in found.levels:
        walkable = np.isin(level, NAVIGABLE)
        to_goal = nx_distances(walkable, where(level == GOAL))
        assert (level == LAVA).sum() == int(0.5 * len(lava_scores(walkable, to_goal)))
        moss = int(0.05 * (walkable.sum() - 1))
        assert (level == MOSS).sum() in (moss - 1, moss)


@pytest.mark.filterwarnings("ignore:built without some structures")
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", SETS)
def test_every_dataset_level_can_be_solved(name, split):
    levels = torch.from_numpy(level_set(name, split).levels)
    assert solvable(levels).all()
    assert (path_length(levels) >= 1).all()


def test_path_length_is_networkxs_and_lava_is_no_path():
    levels = torch.from_numpy(level_set("cave_escape_112_14ts_varp", "test").levels)
    for level, ours in zip(levels.numpy()[::4], path_length(levels)[::4].tolist(), strict=True):
        passable = np.isin(level, NAVIGABLE)
        assert ours == nx.shortest_path_length(graph(passable), where(level == START), where(level == GOAL))
    corridor = torch.full((2, 3, 6), WALL, dtype=torch.uint8)
    corridor[:, 1, 1:5] = torch.tensor([START, MOSS, EMPTY, GOAL])
    corridor[1, 1, 2] = LAVA
    assert path_length(corridor).tolist() == [3, UNREACHABLE]
    assert solvable(corridor).tolist() == [True, False]


def test_statistics_by_hand():
    levels = torch.full((2, 5, 5), WALL, dtype=torch.uint8)
    levels[0, 1:4, 1:4] = torch.tensor([[START, EMPTY, MOSS], [LAVA, WALL, EMPTY], [EMPTY, WALL, GOAL]])
    levels[1, 1:4, 1:4] = torch.tensor([[START, WALL, GOAL], [LAVA, LAVA, MOSS], [WALL, WALL, WALL]])
    expected = {
        "solvable": 1 / 2,
        "path_length": 4.0,
        "navigable": (6 / 9 + 3 / 9) / 2,
        "moss": (1 / 6 + 1 / 3) / 2,
        "lava": (1 / 3 + 2 / 6) / 2,
        "moss_distance": (2 + 1) / 2,
        "empty_distance": (3 + 1) / 2,  # the third empty cell does not reach the goal
    }
    ours = placement.statistics(levels)
    assert {name: pytest.approx(float(value)) for name, value in ours.items()} == expected
    stacked = placement.statistics(torch.stack([levels, levels[[1, 1]]]))
    assert stacked["solvable"].tolist() == [0.5, 0.0]
    assert stacked["path_length"].isnan().tolist() == [False, True]


@pytest.mark.parametrize("split", SPLITS)
def test_statistics_are_those_of_dreds_generator(split):
    """Figures measured on 512 levels of DRED's own code. Tolerances: three standard errors of 512 levels or more."""
    ours = placement.statistics(torch.from_numpy(level_set("cave_escape_512_4ts_varp", split).levels))
    calibration = {  # value, tolerance
        "solvable": (1.0, 0.0),
        "path_length": (9.8, 0.5),
        "navigable": (0.54, 0.02),
        "moss": (0.165, 0.008),
        "lava": (0.158, 0.009),
        "moss_distance": (5.9, 0.4),
        "empty_distance": (10.5, 0.5),
    }
    for name, (value, tolerance) in calibration.items():
        assert float(ours[name]) == pytest.approx(value, abs=tolerance), name


def test_a_level_depends_on_its_seed_and_number_only():
    layouts = random_maps(6, 15, 0.3)
    together = place(layouts, Rng([7, 3]), "p", 2)
    assert together.shape == (2, 6, 15, 15)
    assert together.dtype == torch.uint8
    assert torch.equal(place(layouts[:4], Rng([3]), "p", 2)[0], together[1, :4])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(place(layouts, Rng([3]), "p", 3)[0], together[1])


def test_a_layout_without_room_is_refused():
    layouts = torch.ones(3, 5, 5, dtype=torch.bool)
    layouts[:, 1:3, 1] = False
    layouts[1, 2, 1] = True
    with pytest.raises(UserError, match="layout 1 has no two connected free cells"):
        place(layouts, Rng([0]), "p", 0)
    level = place(layouts[:1], Rng([0]), "p", 0)[0, 0]
    assert sorted(level[1:3, 1].tolist()) == [GOAL, START]
