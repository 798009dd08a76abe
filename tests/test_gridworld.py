"""The grid world: its moves, ends and streams, and its optimal values against a breadth-first search."""

from collections import deque

import numpy as np
import pytest
import torch

from envs.gridworld import LAYOUTS, MOVES, GridWorld, cells_of, optimal_values, transitions
from rlreg.errors import UserError
from rlreg.purpose import Purpose
from rlreg.regularizers import BEER, CriticFeatures

DISCOUNT = 0.9


def distances(layout):
    """Moves from each cell to the goal, by a search from the goal over neighbouring free cells."""
    cells, goal = cells_of(layout)
    away = {cells[goal]: 0}
    queue = deque(away)
    while queue:
        r, c = queue.popleft()
        for y, x in MOVES:
            neighbour = (r + y, c + x)
            if neighbour in cells and neighbour not in away:
                away[neighbour] = away[r, c] + 1
                queue.append(neighbour)
    return np.array([away[cell] for cell in cells])


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_optimal_value_is_the_discounted_distance(name):
    away = distances(LAYOUTS[name])
    value = optimal_values(LAYOUTS[name], DISCOUNT).max(axis=1)
    assert np.allclose(value[away > 0], DISCOUNT ** (away[away > 0] - 1.0)) and value[away == 0] == 0
    assert away.max() > 5


def test_an_episode_by_hand():
    env = GridWorld("corridor", [0, 5], 3, max_episode_steps=20)
    obs = env.reset()
    cells = obs.argmax(dim=-1)
    assert torch.equal(obs.sum(dim=-1), torch.ones(2, 3)) and (cells < 11).all()
    right = torch.eye(4)[3].expand(2, 3, 4)
    for step in range(1, 12):
        now, reward, terminated, truncated, final_obs, bad = env.step(right)
        assert not bad.any()
        arrived = cells + step == 11
        before = cells + step < 11
        assert torch.equal(terminated[before | arrived], arrived[before | arrived])
        assert torch.equal(reward, terminated.float())
        assert torch.equal(final_obs.argmax(dim=-1)[before | arrived], (cells + step)[before | arrived])
        assert torch.equal(now[before], final_obs[before])
        if step == 1:
            assert not truncated.any()


def test_the_clock_cuts_and_the_wall_stops():
    env = GridWorld("corridor", [0], 50, max_episode_steps=4)
    start = env.reset()
    up = torch.eye(4)[0].expand(1, 50, 4)
    for step in range(1, 5):
        now, reward, terminated, truncated, final_obs, _ = env.step(up)
        assert torch.equal(final_obs, start) and not reward.any() and not terminated.any()
        assert truncated.all() if step == 4 else not truncated.any()
    assert not torch.equal(now, start)  # new start cells


def test_a_world_does_not_depend_on_the_other_seeds_and_goes_on_from_its_state():
    both, alone = GridWorld("open", [3, 8], 2), GridWorld("open", [8], 2)
    assert torch.equal(both.reset()[1], alone.reset()[0])
    moves = torch.randn(30, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    for move in moves[:15]:
        assert torch.equal(both.step(move).obs[1], alone.step(move[1:]).obs[0])
    state, other = both.state_dict(), GridWorld("open", [3, 8], 2)
    other.load_state_dict(state)
    for move in moves[15:]:
        assert all(torch.equal(a, b) for a, b in zip(both.step(move), other.step(move), strict=True))
    assert not torch.equal(GridWorld("open", [8], 9, Purpose.EVALUATE).reset(), GridWorld("open", [8], 9).reset())


def test_an_unknown_layout_is_one_line():
    with pytest.raises(UserError, match="four_rooms"):
        GridWorld("four_room", [0], 1)
    with pytest.raises(UserError, match="one goal"):
        cells_of("..\n..")


@pytest.mark.parametrize("name", LAYOUTS)
def test_beers_bound_holds_at_the_fixed_point_of_a_table(name):
    """One-hot features of (s, a) and w = Q*: no greedy transition exceeds the bound; with another w some do."""
    successor, goal = transitions(LAYOUTS[name])
    q = torch.from_numpy(optimal_values(LAYOUTS[name], DISCOUNT)).float()
    pairs = torch.eye(q.numel())
    state, action = (x.flatten() for x in torch.meshgrid(torch.arange(len(q)), torch.arange(4), indexing="ij"))
    kept = state != goal
    after = torch.from_numpy(successor)[state, action]
    feature = pairs[state * 4 + action][kept]
    following = pairs[after * 4 + q[after].argmax(dim=-1)][kept]
    reward, terminated = ((after == goal)[kept].float()[None] for _ in range(2))
    assert torch.allclose(feature @ q.flatten(), reward[0] + DISCOUNT * (1 - terminated[0]) * (following @ q.flatten()))

    def penalty(w, ends):
        f = CriticFeatures(
            params={}, feature=feature[None, None], next_feature_target=lambda: following[None, None],
            next_feature_online=lambda: following[None, None], features_by=lambda other: feature[None, None],
            head_weight=w[None, None], reward=reward, terminated=ends, discount=DISCOUNT,
        )  # fmt: skip
        return BEER(beta=1.0, next_feature="target").loss(f, {})[0].item()

    assert penalty(q.flatten(), terminated) == 0.0
    assert penalty(q.flatten() / 100, torch.zeros_like(terminated)) > 0.0


def test_the_error_against_the_optimal_values_by_hand():
    """An agent that holds the optimal values errs by nothing; one that is 0.25 off on one move, by a share of that."""

    class Knows:
        discount = DISCOUNT

        def __init__(self, q):
            self.q = torch.from_numpy(q).float()

        def q_value(self, obs, action):
            return self.q[obs.argmax(dim=-1), action.argmax(dim=-1)]

    env, q = GridWorld("four_rooms", [3, 4], 1), optimal_values(LAYOUTS["four_rooms"], DISCOUNT)
    assert torch.equal(env.measure(Knows(q))["value_error"], torch.zeros(2))
    q[0, 2] += 0.25
    q[env.goal] = 9.0  # nothing is asked of the goal: no move is made there
    error = env.measure(Knows(q))["value_error"]
    assert torch.allclose(error, torch.full((2,), 0.25 / (4 * (env.obs_dim - 1))))
    Knows.discount = None
    assert env.measure(Knows(q))["value_error"].isnan().all()
