"""Updates of our SAC against Stable-Baselines3's `train`: the same weights, batches and noise."""

import pytest
import stable_baselines3 as sb3
import torch
from conftest import TINY, main
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from test_td3_against_sb3 import ACT, BATCH, HIDDEN, OBS, SEEDS, Space, difference, random_batch, to_sb3

from agents.sac import SAC, SACConfig
from rlreg.config import TrainConfig
from rlreg.regularizers import BEER, Regularizer


def networks(model, agent, i):
    """Pairs (SB3's linear layers, our parameters, index) of all networks."""
    actor = torch.nn.Sequential(*model.actor.latent_pi, Heads(model.actor))
    yield actor, agent.actor_params, (i,)
    for e in range(agent.config.num_critics):
        yield model.critic.q_networks[e], agent.critic_params, (i, e)
        yield model.critic_target.q_networks[e], agent.critic_target, (i, e)


class Heads(torch.nn.Linear):
    """SB3's two heads, mean and log std, as one layer of views."""

    def __init__(self, actor):
        torch.nn.Module.__init__(self)
        self.heads = (actor.mu, actor.log_std)

    @property
    def weight(self):
        return Joined([head.weight for head in self.heads])

    @property
    def bias(self):
        return Joined([head.bias for head in self.heads])


class Joined:
    """Two parameters that are copied to and compared as one."""

    def __init__(self, parts):
        self.parts = parts

    @property
    def data(self):
        return self

    def copy_(self, whole):
        for part, value in zip(self.parts, whole.chunk(2), strict=True):
            part.data.copy_(value)

    def __sub__(self, other):
        return torch.cat([part.data for part in self.parts]) - other


def test_updates_equal_sb3(monkeypatch):
    updates = 4
    agent = SAC(SACConfig(hidden=HIDDEN), Regularizer(), OBS, ACT, SEEDS)
    batches = random_batch(torch.Generator().manual_seed(0), updates)
    models = []
    for i in range(len(SEEDS)):
        model = sb3.SAC(
            "MlpPolicy", Space(), learning_rate=3e-4, batch_size=BATCH, tau=0.005, gamma=0.99,
            buffer_size=10, policy_kwargs={"net_arch": HIDDEN}, device="cpu",
        )  # fmt: skip
        model.set_logger(configure(None, []))
        for mlp, params, index in networks(model, agent, i):
            to_sb3(mlp, params, *index)
        for number, batch in enumerate(batches, start=1):
            # SB3 draws twice an update: at s, then at s'.
            draws = [agent.rng.normal(n, number, (BATCH, ACT))[i] for n in ("policy_noise", "next_policy_noise")]
            sample = ReplayBufferSamples(
                batch.obs[i], batch.action[i], batch.next_obs[i], batch.terminated[i][:, None], batch.reward[i][:, None]
            )
            monkeypatch.setattr(model.replay_buffer, "sample", lambda *a, sample=sample, **k: sample)
            with monkeypatch.context() as patch:
                patch.setattr(
                    torch.distributions.normal, "_standard_normal", lambda *a, draws=draws, **k: draws.pop(0)
                )
                model.train(gradient_steps=1, batch_size=BATCH)
            assert not draws
        models.append(model)

    for number, batch in enumerate(batches, start=1):
        agent.update(batch, torch.tensor(number))
    for i, model in enumerate(models):
        for mlp, params, index in networks(model, agent, i):
            assert difference(mlp, params, *index) < 1e-6
        log_temperature = agent.temperature_params["log_temperature"][i]
        assert (model.log_ent_coef.detach() - log_temperature).abs().item() < 1e-6 < log_temperature.abs().item()


@pytest.mark.parametrize("noisy", [False, True])
def test_actions_equal_sb3(noisy, monkeypatch):
    agent = SAC(SACConfig(hidden=HIDDEN), Regularizer(), OBS, ACT, SEEDS)
    obs, noise = torch.randn(len(SEEDS), 6, OBS), torch.randn(len(SEEDS), 6, ACT)
    for i in range(len(SEEDS)):
        model = sb3.SAC("MlpPolicy", Space(), buffer_size=10, policy_kwargs={"net_arch": HIDDEN}, device="cpu")
        for mlp, params, index in networks(model, agent, i):
            to_sb3(mlp, params, *index)
        monkeypatch.setattr(torch.distributions.normal, "_standard_normal", lambda *a, i=i, **k: noise[i])
        theirs = model.predict(obs[i].numpy(), deterministic=not noisy)[0]
        ours = agent.act(obs, noise if noisy else None)[i]
        assert (ours - torch.from_numpy(theirs)).abs().max() < 1e-6


def test_a_regularizer_changes_the_critic_and_beta_zero_does_not():
    batches = random_batch(torch.Generator().manual_seed(1), 5)
    regularizers = Regularizer(), BEER(beta=0.0), BEER(beta=10.0)
    agents = [SAC(SACConfig(hidden=HIDDEN), r, OBS, ACT, SEEDS) for r in regularizers]
    for agent in agents:
        for number, batch in enumerate(batches, start=1):
            agent.update(batch, torch.tensor(number))
    plain, nothing, strong = (agent.critic_params["0.weight"] for agent in agents)
    assert torch.equal(plain, nothing) and not torch.equal(plain, strong)


def test_an_exported_seed_acts_and_values_as_ours():
    agent = SAC(SACConfig(hidden=HIDDEN, initial_temperature=0.3), Regularizer(), OBS, ACT, SEEDS)
    for number, batch in enumerate(random_batch(torch.Generator().manual_seed(2), 3), start=1):
        agent.update(batch, torch.tensor(number))
    obs, action = torch.randn(len(SEEDS), 6, OBS), torch.rand(len(SEEDS), 6, ACT) * 2 - 1
    for i in range(len(SEEDS)):
        model = agent.to_sb3(i, Space(), TrainConfig(buffer_capacity=10))
        assert isinstance(model, sb3.SAC) and model.target_entropy == -ACT
        theirs = torch.from_numpy(model.predict(obs[i].numpy(), deterministic=True)[0])
        assert (agent.act(obs)[i] - theirs).abs().max() < 1e-6
        values = torch.cat(model.critic(obs[i], action[i]), dim=1).amin(dim=1)
        assert (agent.q_value(obs, action)[i] - values).abs().max() < 1e-6
        assert torch.equal(model.log_ent_coef.detach(), agent.temperature_params["log_temperature"][i])


def test_a_run_of_sac_with_beer_is_evaluated_again_and_exported(monkeypatch, tmp_path):
    run = f"run_dir={tmp_path}/run"
    given = ["agent=sac", "regularizer=beer", "env=gym/Pendulum-v1", "seeds=2", *TINY, run]
    assert main(monkeypatch, *given) == 0
    assert main(monkeypatch, "mode=evaluate", run, "eval.episodes=1") == 0
    assert main(monkeypatch, "mode=export", run) == 0
    assert sb3.SAC.load(tmp_path / "run/sb3/seed-1.zip")
