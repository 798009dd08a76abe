"""DQN: one update against plain PyTorch, its exploration, and a run that finds the grid world's shortest ways."""

import csv

import pytest
import torch
from conftest import TINY, main
from scipy.stats import binom

from agents.dqn import DQN, DQNConfig
from rlreg.buffers import Batch
from rlreg.regularizers import BEER, DR3, InFeR, Regularizer

OBS, ACTIONS, B, SEEDS = 5, 3, 32, (2, 7)


def make(regularizer=None, **settings):
    return DQN(DQNConfig(hidden=[16, 12], **settings), regularizer or Regularizer(), OBS, ACTIONS, SEEDS)


def batches(count):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(len(SEEDS), B, *shape, generator=generator)

    return [
        Batch(normal(OBS), normal(ACTIONS), normal(), normal(OBS), (normal() > 1).float()) for _ in range(count)
    ]


@pytest.mark.parametrize("double", [False, True])
def test_updates_equal_plain_pytorch(double):
    agent = make(double=double)
    given = batches(3)
    plain = []
    for i in range(len(SEEDS)):
        nets = []
        for params in (agent.critic_params, agent.critic_target):
            layers = []
            for layer, (n, m) in enumerate(((OBS + ACTIONS, 16), (16, 12), (12, 1))):
                linear = torch.nn.Linear(n, m)
                linear.weight.data.copy_(params[f"{layer}.weight"][i, 0].T)
                linear.bias.data.copy_(params[f"{layer}.bias"][i, 0, 0])
                layers += [linear, torch.nn.ReLU()]
            nets.append(torch.nn.Sequential(*layers[:-1]))
        online, target = nets
        optimizer = torch.optim.Adam(online.parameters(), lr=3e-4)

        def q(net, obs, action):
            return net(torch.cat([obs, torch.eye(ACTIONS)[action]], dim=-1)).squeeze(-1)

        for batch in given:
            obs, action, reward, next_obs, end = (x[i] for x in batch)
            with torch.no_grad():
                every = [torch.full((B,), a) for a in range(ACTIONS)]
                values = {net: torch.stack([q(net, next_obs, a) for a in every], dim=1) for net in nets}
                best = values[online if double else target].argmax(dim=1)
                y = reward + 0.99 * (1 - end) * values[target][torch.arange(B), best]
            loss = torch.nn.functional.mse_loss(q(online, obs, action.argmax(dim=1)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
                slow.data.lerp_(fast.data, 0.005)
        plain.append(nets)

    for number, batch in enumerate(given, start=1):
        agent.update(batch, torch.tensor(number))
    for i, nets in enumerate(plain):
        for net, params in zip(nets, (agent.critic_params, agent.critic_target), strict=True):
            for layer, linear in enumerate(module for module in net if isinstance(module, torch.nn.Linear)):
                assert torch.allclose(linear.weight.T, params[f"{layer}.weight"][i, 0], atol=1e-6)
                assert torch.allclose(linear.bias, params[f"{layer}.bias"][i, 0, 0], atol=1e-6)


def test_exploration_is_epsilon_greedy():
    agent = make(epsilon=0.3)
    count = 20_000
    obs = torch.randn(2, 1, OBS).expand(-1, count, -1)
    greedy = agent.act(obs)
    action = agent.act(obs, torch.randn(2, count, ACTIONS, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(action.sum(dim=-1), torch.ones(2, count))
    for i in range(2):
        chosen, best = action[i].mean(dim=0), greedy[i, 0].argmax()
        for a in range(ACTIONS):  # each with 0.3 / 3, the greedy one with 0.7 more
            low, high = binom.interval(0.9999, count, 0.1 + 0.7 * (a == best))
            assert low / count <= chosen[a] <= high / count


@pytest.mark.parametrize("regularizer", [BEER(beta=10.0), DR3(coefficient=1.0), InFeR()])
def test_a_regularizer_changes_the_critic(regularizer):
    plain, regularized = make(), make(regularizer)
    for number, batch in enumerate(batches(2), start=1):
        plain.update(batch, torch.tensor(number))
        regularized.update(batch, torch.tensor(number))
    assert not torch.equal(plain.critic_params["0.weight"], regularized.critic_params["0.weight"])


def test_it_learns_the_corridor(monkeypatch, tmp_path):
    """Eleven cells in a row: from each the goal is reached, so the mean return goes from little to 1."""
    settings = [
        "agent=dqn", "env=gridworld", "env.layout=corridor", "seeds=2", "agent.hidden=[32,32]", "agent.discount=0.9",
        "agent.learning_rate=3e-3", "agent.tau=0.05", "agent.batch_size=64", "train.warmup_steps=500",
        "train.total_steps=2000",
        "eval.every=2000", "eval.samples=64", "compile=eager", "threads=1", f"run_dir={tmp_path}/run",
    ]  # fmt: skip
    assert main(monkeypatch, *settings) == 0
    rows = list(csv.DictReader((tmp_path / "run/eval.csv").read_text().splitlines()))
    assert [float(row["return"]) for row in rows[-2:]] == [1.0, 1.0]
    assert all(float(row["length"]) < 12 for row in rows[-2:])


def test_agents_of_the_other_kind_of_actions_are_refused(monkeypatch, capsys):
    continuous = ("agent=td3", "env=gridworld"), ("agent=sb3/ppo", "env=gym/CartPole-v1")
    for settings in (*continuous, ("agent=dqn", "env=gym/Pendulum-v1")):
        assert main(monkeypatch, *settings) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_stopped_run_on_the_grid_goes_on_to_the_bit(monkeypatch, tmp_path) -> None:
    run = ["agent=dqn", "env=gridworld", *TINY, "train.keep_replay=true"]
    for steps in (200, 400):
        assert main(monkeypatch, *run, f"train.total_steps={steps}", f"run_dir={tmp_path / 'parts'}") == 0
    assert main(monkeypatch, *run, f"run_dir={tmp_path / 'whole'}") == 0
    parts, whole = ((tmp_path / name / "eval.csv").read_text() for name in ("parts", "whole"))
    assert parts == whole and len(whole.splitlines()) == 6
