"""Updates of our DQN against Stable-Baselines3's `train`, and its export: the same weights, batches and values."""

from itertools import pairwise

import gymnasium
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from conftest import TINY, main
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from test_td3_against_sb3 import BATCH, HIDDEN, OBS, SEEDS, difference, random_batch, to_sb3

from agents.dqn import DQN, DQNConfig
from rlreg.config import TrainConfig
from rlreg.regularizers import BEER, InFeR, Regularizer

ACTIONS = 3


class Space(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
    action_space = gymnasium.spaces.Discrete(ACTIONS)


class OneForAll(torch.nn.Module):
    """Our critic as a network of SB3's kind: s -> Q(s, a) of every action, which is an input, one-hot."""

    def __init__(self):
        super().__init__()
        widths = (OBS + ACTIONS, *HIDDEN, 1)
        layers = [torch.nn.Linear(n, m) for n, m in pairwise(widths)]
        self.mlp = torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.ReLU())))[:-1]

    def forward(self, obs):
        every = [torch.eye(ACTIONS)[a].expand(len(obs), -1) for a in range(ACTIONS)]
        return torch.cat([self.mlp(torch.cat([obs, action], dim=1)) for action in every], dim=1)

    def set_training_mode(self, mode):
        pass


def test_updates_equal_sb3(monkeypatch):
    """SB3 trains our critic: its targets, its loss and its Adam make the same of it as our update."""
    agent = DQN(DQNConfig(hidden=HIDDEN, clip_error=True), Regularizer(), OBS, ACTIONS, SEEDS)
    batches = random_batch(torch.Generator().manual_seed(0), 4)
    models = []
    for i in range(len(SEEDS)):
        unclipped = {"max_grad_norm": float("inf")}
        model = sb3.DQN("MlpPolicy", Space(), learning_rate=3e-4, gamma=0.99, buffer_size=10, **unclipped)
        model.set_logger(configure(None, []))
        for name, params in (("q_net", agent.critic_params), ("q_net_target", agent.critic_target)):
            network = OneForAll()
            to_sb3(network.mlp, params, i, 0)
            setattr(model.policy, name, network)
        model._create_aliases()
        model.policy.optimizer = torch.optim.Adam(model.q_net.parameters(), lr=3e-4)
        for batch in batches:
            sample = ReplayBufferSamples(
                batch.obs[i], batch.action[i].argmax(dim=1, keepdim=True), batch.next_obs[i],
                batch.terminated[i][:, None], 3 * batch.reward[i][:, None],
            )  # fmt: skip
            monkeypatch.setattr(model.replay_buffer, "sample", lambda *a, sample=sample, **k: sample)
            model.train(gradient_steps=1, batch_size=BATCH)
            polyak_update(model.q_net.parameters(), model.q_net_target.parameters(), 0.005)
        models.append(model)

    for number, batch in enumerate(batches, start=1):
        agent.update(batch._replace(reward=3 * batch.reward), torch.tensor(number))
    for i, model in enumerate(models):
        assert difference(model.q_net.mlp, agent.critic_params, i, 0) < 1e-6
        assert difference(model.q_net_target.mlp, agent.critic_target, i, 0) < 1e-6
    squared = DQN(DQNConfig(hidden=HIDDEN), Regularizer(), OBS, ACTIONS, SEEDS)
    squared.update(batches[0]._replace(reward=3 * batches[0].reward), torch.tensor(1))
    assert any(not torch.equal(squared.critic_params[k], agent.critic_params[k]) for k in squared.critic_params)


@pytest.mark.parametrize("regularizer", [BEER(), InFeR()])
def test_the_exported_network_has_our_values(regularizer):
    agent = DQN(DQNConfig(hidden=HIDDEN), regularizer, OBS, ACTIONS, SEEDS)
    for number, batch in enumerate(random_batch(torch.Generator().manual_seed(1), 3), start=1):
        agent.update(batch, torch.tensor(number))
    obs = torch.randn(len(SEEDS), 50, OBS, generator=torch.Generator().manual_seed(2))
    for i in range(len(SEEDS)):
        model = agent.to_sb3(i, Space(), TrainConfig())
        for network, params in ((model.q_net, agent.critic_params), (model.q_net_target, agent.critic_target)):
            with torch.no_grad():
                assert torch.allclose(network(obs[i]), agent.action_values(params, obs)[i], atol=1e-6)
        chosen = model.predict(obs[i].numpy(), deterministic=True)[0]
        assert (chosen == agent.act(obs)[i].argmax(dim=-1).numpy()).all()


def test_a_run_on_cartpole_resumes_is_evaluated_and_exported(monkeypatch, tmp_path, capsys):
    """In two parts as in one; its zip opens with SB3 alone and has the run's evaluated return."""
    settings = [*TINY, "agent=dqn", "regularizer=beer", "env=gym/CartPole-v1", "train.checkpoint_every=100"]
    for name, *more in (("whole",), ("parts", "train.total_steps=300"), ("parts",)):
        keep = ["train.keep_replay=true", f"run_dir={tmp_path}/{name}"]
        assert main(monkeypatch, *settings, *keep, *more) == 0
    rows = (tmp_path / "whole/eval.csv").read_text().splitlines()
    assert (tmp_path / "parts/eval.csv").read_text().splitlines()[-2:] == rows[-2:]

    assert main(monkeypatch, "mode=evaluate", f"run_dir={tmp_path}/whole", "eval.episodes=2") == 0
    assert "seed 0: return" in capsys.readouterr().out
    assert main(monkeypatch, "mode=export", f"run_dir={tmp_path}/whole") == 0
    model = sb3.DQN.load(tmp_path / "whole/sb3/seed-0.zip")
    env = gymnasium.make("CartPole-v1")
    model.set_env(env)
    assert evaluate_policy(model, Monitor(env), n_eval_episodes=2)[0] >= 8  # CartPole takes as long to fall
    model.learn(50, reset_num_timesteps=False)
    assert model.num_timesteps >= 50
    assert main(monkeypatch, "mode=collect", f"run_dir={tmp_path}/whole", f"out={tmp_path}/x.hdf5") == 2
    assert "discrete actions" in capsys.readouterr().err
