"""Measuring transfer: episodes against one-by-one play, gaps by hand, and information where it is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agents.ppo import PPO, PPOConfig
from envs.cave.edits import random_levels
from envs.cave.space import CaveEscape
from envs.cave.tiles import EMPTY, GOAL, START, WALL
from envs.cave.worlds import CaveWorlds
from rlreg.checkpoint import copy_into, flatten
from rlreg.regularizers import Regularizer
from rlreg.rng import Rng
from rlreg.rollouts import PolicyOutput
from rlreg.transfer import LevelClassifier, Outcome, attempt, shift_gap

SMALL = {"hidden_dim": 16, "filters": 4, "head_dim": 8}


def student(seeds):
    return PPO(PPOConfig(**SMALL), Regularizer(), CaveEscape.observation, 7, seeds)


class Straight:
    """Walks on, whatever it sees."""

    seeds, num_actions = (0,), 7

    def initial_state(self, num_envs):
        return None

    def act(self, obs, start, state, uniform):
        action = torch.full(obs.direction.shape, 2)
        return PolicyOutput(action, action.float(), action.float(), None, None)


def corridor(length, size=9):
    """A level with the goal `length` cells to the right of the start, and nothing else."""
    level = torch.full((size, size), WALL, dtype=torch.uint8)
    level[1:-1, 1:-1] = EMPTY
    level[1, 4], level[1 + length, 4] = START, GOAL
    return level


def test_a_walk_that_is_known_has_the_return_length_and_solve_rate_it_must():
    """One of four directions leads to the goal; its return is MiniGrid's."""
    levels = torch.stack([corridor(1 + i % 6) for i in range(240)])
    worlds = CaveWorlds([0], 240, 9, 20)
    outcome = attempt(Straight(), worlds, levels, Rng([5]), "t", 0)
    steps = torch.arange(240) % 6 + 1
    expected = 1 - 0.9 * steps / 20
    solved = outcome.solved[0]
    torch.testing.assert_close(outcome.episode_return[0][solved], expected[solved])
    assert torch.equal(outcome.length[0][solved], steps[solved])
    assert (outcome.length[0][~solved] == 20).all() and (outcome.episode_return[0][~solved] == 0).all()
    assert abs(solved.float().mean() - 0.25) < 4 * (0.25 * 0.75 / 240) ** 0.5


def test_a_seed_fares_the_same_beside_others():
    levels = random_levels(Rng([0]), "levels", 0, 30, 9)[0]
    both = attempt(student((3, 7)), CaveWorlds((3, 7), 30, 9, 40), levels, Rng((3, 7)), "t", 2)
    alone = attempt(student((7,)), CaveWorlds((7,), 30, 9, 40), levels, Rng((7,)), "t", 2)
    assert torch.equal(both.length[1], alone.length[0])
    assert torch.equal(both.episode_return[1], alone.episode_return[0])
    again = attempt(student((7,)), CaveWorlds((7,), 30, 9, 40), levels, Rng((7,)), "t", 3)
    assert not torch.equal(again.length, alone.length)


def test_shift_gap_by_hand():
    outcome = Outcome(torch.tensor([[1.0, 0.5, 0.0]]), torch.ones(1, 3))
    probability = torch.tensor([[0.2, 0.2, 0.0]])  # the rest of the mass is on levels that are no training levels
    torch.testing.assert_close(shift_gap(outcome, probability).float(), torch.tensor([0.75 - 0.5]))
    torch.testing.assert_close(shift_gap(outcome, torch.ones(1, 3)).float(), torch.tensor([0.0]), rtol=0, atol=1e-6)
    assert shift_gap(outcome, None).isnan().all()
    assert shift_gap(outcome, torch.zeros(1, 3)).isnan().all()


class Telling(PPO):
    """A student whose trunk's output is the level's number, one-hot, or noise; the goal's row is the number."""

    def __init__(self, worlds, tells):
        super().__init__(PPOConfig(**SMALL), Regularizer(), CaveEscape.observation, 7, worlds.seeds)
        self.worlds, self.tells = worlds, tells

    def act(self, obs, start, state, uniform):
        number = (self.worlds.levels == GOAL).any(dim=-2).int().argmax(dim=-1)
        told = torch.nn.functional.one_hot(number, 16).float()
        trunk = told if self.tells else uniform[..., :1].expand_as(told)
        return super().act(obs, start, state, uniform)._replace(trunk=trunk)


@pytest.mark.parametrize("tells", [True, False])
def test_information_of_known_features(tells):
    """Features that are the level's number hold ln |L| nats, noise holds none."""
    levels = torch.full((7, 9, 9), WALL, dtype=torch.uint8)
    levels[:, 1:-1, 1:-1] = EMPTY
    levels[:, 1, 1] = START
    levels[torch.arange(7), 7, torch.arange(1, 8)] = GOAL
    worlds = CaveWorlds((0, 1), 4, 9, 10)
    agent, classifier = Telling(worlds, tells), LevelClassifier(Rng((0, 1)), 16, 7)
    classifier.optimizer.learning_rate = 0.1
    bounds = torch.stack([classifier.measure(agent, worlds, levels, 128, number) for number in range(8)])
    assert (bounds <= math.log(7)).all()
    if tells:
        assert (bounds[-1] > 0.95 * math.log(7)).all(), bounds
    else:
        assert (bounds < 0.1).all(), bounds  # a bound from below: learning noise costs it something


def test_the_classifier_learns_online_and_is_restorable():
    levels = random_levels(Rng([0]), "levels", 0, 5, 9)[0]
    worlds = CaveWorlds((0,), 4, 9, 40)
    agent = student((0,))
    one, two, fresh = (LevelClassifier(Rng((0,)), 16, 5) for _ in range(3))
    bounds = [one.measure(agent, worlds, levels, 64, n).item() for n in range(2)]
    assert np.isfinite(bounds).all()
    copy_into(two.state(), {name: value.clone() for name, value in flatten(one.state()).items()}, "saved")
    goes_on, restored, begins = (c.measure(agent, worlds, levels, 64, 2).item() for c in (one, two, fresh))
    assert goes_on == restored != begins
    assert all(torch.equal(value, two.params[name]) for name, value in one.params.items())
