"""Returns, Q errors and ranks on a small world whose every number can be worked by hand."""

import math

import numpy as np
import pytest
import torch

from agents.td3 import TD3, TD3Config
from rlreg.agent import Policy
from rlreg.buffers import Batch
from rlreg.evaluation import evaluate, representation
from rlreg.regularizers import Regularizer
from rlreg.rng import Rng


class Countdown:
    """World n ends after `lengths[n]` steps, by its task or by the clock; every reward is 1."""

    def __init__(self, lengths, by_task):
        self.lengths, self.by_task = torch.tensor(lengths), by_task
        self.num_envs, self.max_episode_steps = len(lengths), max(lengths)

    def load_state_dict(self, state):
        self.t = 0
        return torch.zeros(1, self.num_envs, 2)

    def step(self, action):
        self.t += 1
        done = (self.lengths == self.t)[None]
        obs = torch.full((1, self.num_envs, 2), float(self.t))
        never = torch.zeros_like(done)
        ends = (done, never) if self.by_task else (never, done)
        return obs, torch.ones(1, self.num_envs), *ends, obs, never

    def measure(self, agent):
        return {"at": torch.tensor([float(self.t)])}


class Constant(Policy):
    """Q = 2 everywhere."""

    discount = 0.5

    def act(self, obs, noise=None):
        return torch.zeros(1, obs.shape[1], 1)

    def q_value(self, obs, action):
        return torch.full(obs.shape[:2], 2.0)


def test_returns_and_q_error_of_terminating_episodes():
    got = evaluate(Constant(), Countdown([2, 4], by_task=True), {})
    assert got["return"].item() == 3.0 and got["return_std"].item() == 1.0 and got["length"].item() == 3.0
    # Returns to go: 1.5, 1 and 1.875, 1.75, 1.5, 1.
    to_go = np.array([1.5, 1, 1.875, 1.75, 1.5, 1])
    assert got["q_bias"].item() == pytest.approx((2 - to_go).mean())
    assert got["q_error"].item() == pytest.approx(np.abs(2 - to_go).mean())
    assert list(got)[-1] == "at" and got["at"].item() == 4.0  # what the worlds themselves say


def test_cut_episodes_count_only_where_the_tail_is_small():
    # gamma = 0.5: the horizon is ceil(log 0.01 / log 0.5) = 7 steps, so of 9 only the first two count.
    got = evaluate(Constant(), Countdown([9], by_task=False), {})
    to_go = np.array([2 * (1 - 0.5**9), 2 * (1 - 0.5**8)])
    assert got["q_error"].item() == pytest.approx((2 - to_go).mean(), rel=1e-5)
    short = evaluate(Constant(), Countdown([7], by_task=False), {})
    assert math.isnan(short["q_error"].item()) and short["return"].item() == 7.0


def test_rank_and_srank_of_known_matrices():
    agent = TD3(TD3Config(hidden=[8, 6], num_critics=1), Regularizer(), 3, 1, seeds=[0])
    batch = Batch(*(Rng([0]).normal(k, 0, s) for k, s in zip("oarn", [(50, 3), (50, 1), (50,), (50, 3)], strict=True)),
                  torch.zeros(1, 50))  # fmt: skip
    # Only units 0 and 1 of the last hidden layer are alive: rank at most 2.
    agent.critic_params["1.bias"][..., 2:] = -1e3
    got = representation(agent, batch, epsilon=1e-6)
    phi = agent.critic_features(agent.critic_params, batch).feature[0, 0]
    assert got["rank"].item() == np.linalg.matrix_rank(phi.numpy()) <= 2
    singular = np.linalg.svd(phi.numpy() / math.sqrt(50), compute_uv=False)
    between = float(singular[:2].mean())
    assert representation(agent, batch, epsilon=between)["rank"].item() == (singular > between).sum()
    k = int(np.argmax(np.cumsum(singular) / singular.sum() >= 0.99)) + 1
    assert got["srank"].item() == k
