"""One and several updates of our TD3 and DDPG against Stable-Baselines3's `train`, same weights, batches and noise."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from agents.td3 import TD3, TD3Config
from rlreg.buffers import Batch
from rlreg.product_choice import FORCED
from rlreg.products import using
from rlreg.regularizers import BEER, Regularizer

OBS, ACT, BATCH, SEEDS = 5, 3, 32, (4, 9)
HIDDEN = [16, 24]


class Space(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (ACT,), np.float32)


def to_sb3(mlp: torch.nn.Sequential, params: dict[str, torch.Tensor], *index: int) -> None:
    """Copy one stack entry of our parameters into SB3's Linear layers."""
    linears = [m for m in mlp if isinstance(m, torch.nn.Linear)]
    for layer, module in enumerate(linears):
        module.weight.data.copy_(params[f"{layer}.weight"][index].T)
        module.bias.data.copy_(params[f"{layer}.bias"][index].squeeze(0))


def difference(mlp: torch.nn.Sequential, params: dict[str, torch.Tensor], *index: int) -> float:
    linears = [m for m in mlp if isinstance(m, torch.nn.Linear)]
    return max(
        max(
            (module.weight.data - params[f"{layer}.weight"][index].T).abs().max().item(),
            (module.bias.data - params[f"{layer}.bias"][index].squeeze(0)).abs().max().item(),
        )
        for layer, module in enumerate(linears)
    )


def networks(model, agent, seed_index):
    """Pairs (SB3's Sequential, our parameters, index) of all four kinds of networks."""
    i = seed_index
    yield model.actor.mu, agent.actor_params, (i,)
    yield model.actor_target.mu, agent.actor_target, (i,)
    for e in range(agent.config.num_critics):
        yield model.critic.q_networks[e], agent.critic_params, (i, e)
        yield model.critic_target.q_networks[e], agent.critic_target, (i, e)


def random_batch(generator, updates):
    def normal(*shape):
        return torch.randn(len(SEEDS), *shape, generator=generator)

    return [
        Batch(
            normal(BATCH, OBS),
            normal(BATCH, ACT).clamp(-1, 1),
            normal(BATCH),
            normal(BATCH, OBS),
            (normal(BATCH) > 1.0).float(),
        )
        for _ in range(updates)
    ]


@pytest.mark.parametrize("products", ["aten", "onednn"])
@pytest.mark.parametrize("algorithm", ["td3", "ddpg"])
def test_updates_equal_sb3(algorithm, products, monkeypatch):
    updates = 4
    if algorithm == "td3":
        config, kind = TD3Config(hidden=HIDDEN), sb3.TD3
    else:
        config, kind = TD3Config(hidden=HIDDEN, num_critics=1, policy_delay=1, target_noise=0.0), sb3.DDPG
    agent = TD3(config, Regularizer(), OBS, ACT, SEEDS)
    batches = random_batch(torch.Generator().manual_seed(0), updates)

    # SB3 first, one model per seed, with our starting weights, our batches and our noise.
    models = []
    for i in range(len(SEEDS)):
        model = kind(
            "MlpPolicy", Space(), learning_rate=3e-4, batch_size=BATCH, tau=0.005, gamma=0.99,
            buffer_size=10, policy_kwargs={"net_arch": HIDDEN}, device="cpu",
        )  # fmt: skip
        model.set_logger(configure(None, []))
        for mlp, params, index in networks(model, agent, i):
            to_sb3(mlp, params, *index)
        for number, batch in enumerate(batches, start=1):
            noise = agent.rng.normal("target_noise", number, (BATCH, ACT))[i]
            sample = ReplayBufferSamples(
                batch.obs[i], batch.action[i], batch.next_obs[i], batch.terminated[i][:, None], batch.reward[i][:, None]
            )
            monkeypatch.setattr(model.replay_buffer, "sample", lambda *a, sample=sample, **k: sample)
            with monkeypatch.context() as patch:
                patch.setattr(
                    torch.Tensor, "normal_", lambda self, mean, std, noise=noise: self.copy_(mean + std * noise)
                )
                model.train(gradient_steps=1, batch_size=BATCH)
        models.append(model)

    with using({}, FORCED[products]):
        for number, batch in enumerate(batches, start=1):
            agent.update(batch, torch.tensor(number), number % config.policy_delay == 0)
    for i, model in enumerate(models):
        for mlp, params, index in networks(model, agent, i):
            assert difference(mlp, params, *index) < 1e-6


def test_the_comparison_can_fail():
    """The helper above sees a change far smaller than one update."""
    agent = TD3(TD3Config(hidden=HIDDEN), Regularizer(), OBS, ACT, SEEDS)
    model = sb3.TD3("MlpPolicy", Space(), buffer_size=10, policy_kwargs={"net_arch": HIDDEN})
    to_sb3(model.actor.mu, agent.actor_params, 0)
    agent.actor_params["1.weight"][0, 0, 0] += 1e-4
    assert difference(model.actor.mu, agent.actor_params, 0) > 5e-5


def test_beer_with_beta_zero_is_ddpg_to_the_bit():
    config = TD3Config(hidden=HIDDEN, num_critics=1, policy_delay=1, target_noise=0.0)
    plain = TD3(config, Regularizer(), OBS, ACT, SEEDS)
    beer = TD3(config, BEER(beta=0.0), OBS, ACT, SEEDS)
    for number, batch in enumerate(random_batch(torch.Generator().manual_seed(1), 20), start=1):
        plain.update(batch, torch.tensor(number), True)
        beer.update(batch, torch.tensor(number), True)
    for ours, theirs in ((plain.critic_params, beer.critic_params), (plain.actor_params, beer.actor_params)):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
