"""`scale=parallel`: many worlds per seed, n-step returns and observations normalised as they come."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from conftest import TINY, main
from omegaconf import OmegaConf
from stable_baselines3 import DDPG
from stable_baselines3 import SAC as SB3SAC
from test_no_looks import ACT, OBS, SEEDS, Drift
from test_runner import kill_after, start

from agents.td3 import TD3, TD3Config
from rlreg.buffers import Batch, NStepBatch
from rlreg.config import EvalConfig, TrainConfig
from rlreg.networks import RunningNormalizer
from rlreg.purpose import Purpose
from rlreg.regularizers import BEER, DR3, InFeR, Regularizer
from rlreg.run_folder import RunFolder
from rlreg.training.online import OnlineTraining
from rlreg.training.speed import Speed

SMALL = [*TINY, "scale=parallel", "env=dmc/reacher-easy", "env.action_repeat=20", "train.num_envs=8", "eval.every=160"]
SMALL += ["train.total_steps=800", "train.warmup_steps=80", "train.log_every=160", "train.checkpoint_every=160"]
SMALL += ["train.updates_per_iteration=2"]


def test_running_normalisation_is_that_of_all_states_at_once() -> None:
    normalizer = RunningNormalizer(2, 3)
    states = torch.randn(2, 60, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 50.0, 1e-4]) + 7
    torch.testing.assert_close(normalizer(states), states)
    for first, last in ((0, 1), (1, 13), (13, 60)):
        normalizer.update(states[:, first:last])
    numpy = states.double().numpy()
    np.testing.assert_allclose(normalizer.mean[:, 0], numpy.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(normalizer.scale[:, 0], numpy.std(axis=1) + 1e-2, rtol=1e-5)
    other = RunningNormalizer(2, 3)
    for name, tensor in other.state().items():
        tensor.copy_(normalizer.state()[name])
    for one in (normalizer, other):
        one.update(states[:, :5] * 2)
    assert torch.equal(normalizer(states), other(states))


@pytest.mark.parametrize("regularizer", [Regularizer(), BEER(), BEER(next_feature="target"), DR3(), InFeR()], ids=repr)
def test_every_regulariser_takes_n_step_batches(regularizer: Regularizer) -> None:
    """Rewards of one step by `discount` give what no `discount` gives; of several, other finite losses."""
    torch.manual_seed(0)
    config = TD3Config(hidden=[8, 8], running_normalization=True)
    agent = TD3(config, regularizer, 3, 2, [0, 1])
    agent.observe(torch.randn(2, 10, 3))
    rows = torch.randn(2, 16, 3), torch.rand(2, 16, 2), torch.rand(2, 16), torch.randn(2, 16, 3), torch.zeros(2, 16)
    losses = []
    for discount in (None, torch.full((2, 16), 0.99), torch.full((2, 16), 0.99**3)):
        batch = Batch(*rows) if discount is None else NStepBatch(*rows, discount)
        loss, _ = agent.critic_loss(agent.critic_params, batch, agent.successor(batch, 1))
        losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1])
    assert torch.isfinite(losses[2]).all() and (losses[2] != losses[0]).all()


@pytest.mark.parametrize(("agent", "least", "most"), [("td3", 0.02, 0.4), ("sac", 0.2, 1.0)])
def test_worlds_explore_more_and_less(monkeypatch, capsys, agent: str, least: float, most: float) -> None:
    """TD3's in units of the actions; SAC's in those of its policy's own spread."""
    for scale in ("parallel", "parallel_gpu"):
        assert main(monkeypatch, f"agent={agent}", f"scale={scale}", "--cfg", "job") == 0
        config = OmegaConf.create(capsys.readouterr().out)
        own = config.agent.get("exploration_noise", 1.0)
        assert own * config.train.least_noise == pytest.approx(least)
        assert own * config.train.most_noise == pytest.approx(most)


def test_each_world_acts_by_its_own_share_of_the_noise(tmp_path) -> None:
    """Of four worlds from 0 to 2: the first acts as the policy says, the last by twice the agent's noise."""
    agent = TD3(TD3Config(hidden=[8], batch_size=4, exploration_noise=0.01), Regularizer(), OBS, ACT, SEEDS)
    train = TrainConfig(total_steps=100, warmup_steps=4, num_envs=4, least_noise=0.0, most_noise=2.0)
    worlds = {}

    def make_env(num_envs: int, purpose: Purpose) -> Drift:
        return worlds.setdefault(purpose, Drift(num_envs))

    loop = OnlineTraining(agent, make_env, train, EvalConfig(episodes=1), RunFolder(tmp_path), "eager")
    loop.speed = Speed(0)
    loop._begin()
    loop._iterate()  # of the warm-up
    done, step = [], worlds[Purpose.TRAIN].step
    worlds[Purpose.TRAIN].step = lambda action: done.append(action) or step(action)
    without = agent.act(loop.obs)
    loop._iterate()
    share = torch.tensor([0.0, 2 / 3, 4 / 3, 2.0])[:, None]
    torch.testing.assert_close(done[0], without + 0.01 * share * agent.rng.normal("act/noise", 1, (4, ACT)))


@pytest.mark.parametrize("noise", ["train.least_noise=-0.1", "train.most_noise=0.5", "train.most_noise=inf"])
def test_noise_that_is_none_is_refused_in_a_line(monkeypatch, capsys, noise: str) -> None:
    assert main(monkeypatch, "env=gym/Pendulum-v1", noise) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and noise in said


def test_an_agent_without_what_the_scale_sets_is_refused_in_a_line(monkeypatch, capsys) -> None:
    assert main(monkeypatch, "agent=dqn", "env=gym/CartPole-v1", "scale=parallel") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "scale=parallel sets 'agent.running_normalization'" in said


@pytest.mark.parametrize("agent", ["beer", "sac"])
def test_a_parallel_run_resumes_to_the_same_curve_and_its_export_acts_alike(runner, tmp_path, agent: str) -> None:
    settings = [*SMALL, f"agent={agent}", "seeds=2", "agent.batch_size=32"]
    whole = runner(*settings, f"run_dir={tmp_path}/whole")
    assert whole.returncode == 0, whole.stderr
    assert "worlds stepped by mujoco" in whole.stdout
    assert json.loads((tmp_path / "whole/summary.json").read_text())["steps"] == 800
    process = start(runner, *settings, f"run_dir={tmp_path}/half")
    kill_after(process, tmp_path / "half", 320, signal.SIGKILL)
    resumed = runner(*settings, f"run_dir={tmp_path}/half")
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "half/eval.csv").read_text() == (tmp_path / "whole/eval.csv").read_text()

    from rlreg.build import load_agent
    from rlreg.run_folder import RunFolder

    exported = runner("mode=export", f"run_dir={tmp_path}/whole")
    assert exported.returncode == 0, exported.stderr
    ours, _ = load_agent(RunFolder(tmp_path / "whole"))
    assert (ours.normalizer.scale != 1).all()
    obs = torch.randn(2, 20, ours.obs_dim)
    for i, path in enumerate(exported.stdout.split()):
        theirs = {"sac": SB3SAC, "beer": DDPG}[agent].load(path)
        action, _ = theirs.predict(obs[i].numpy(), deterministic=True)
        np.testing.assert_allclose(action, ours.act(obs)[i].detach().numpy(), atol=1e-5)
