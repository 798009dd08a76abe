"""BC, TD3+BC, IQL and A2PR: every loss against numbers worked by hand, whole updates against plain PyTorch."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import stable_baselines3
import torch
import torch.nn.functional as F
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

import rlreg.sb3
from agents.a2pr import A2PR, A2PRConfig
from agents.bc import BC, BCConfig
from agents.iql import IQL, IQLConfig
from agents.td3 import TD3, TD3Config
from agents.td3_bc import TD3BC, TD3BCConfig
from rlreg.buffers import Batch
from rlreg.checkpoint import copy_into, flatten
from rlreg.compilation import prepare
from rlreg.config import TrainConfig
from rlreg.errors import UserError
from rlreg.evaluation import REPRESENTATION, representation
from rlreg.networks import Actor, Critic, Normalizer
from rlreg.objectives import (
    advantage_weight,
    cosine_decay,
    expectile_loss,
    gaussian_log_prob,
    scaled_policy_gradient,
)
from rlreg.optim import gradients
from rlreg.q_learning import Successor
from rlreg.registry import register
from rlreg.regularizers import BEER, DR3, InFeR, Regularizer
from rlreg.rng import Rng
from rlreg.vae import Clamp

OBS, ACT, BATCH = 5, 2, 16
CONFIGS = {
    "bc": BCConfig(hidden=[8, 6]),
    "td3_bc": TD3BCConfig(hidden=[8, 6]),
    "iql": IQLConfig(hidden=[8, 6]),
    "a2pr": A2PRConfig(hidden=[8, 6], critic_hidden=[8, 7, 6], vae_hidden=[12, 10], mask=1.5, vae_weight=1.2),
}
CLASSES = {"bc": BC, "td3_bc": TD3BC, "iql": IQL, "a2pr": A2PR}
WITH_CRITIC = ["td3_bc", "iql", "a2pr"]


def make(name: str, seeds=(4, 9), regularizer: Regularizer | None = None, **changes):
    """An agent on states of mean 3 and deviation 2 or so."""
    config = type(CONFIGS[name])(**vars(CONFIGS[name]) | changes)
    agent = CLASSES[name](config, regularizer or Regularizer(), OBS, ACT, seeds)
    agent.normalizer.fit(3.0 + 2.0 * torch.randn(200, OBS, generator=torch.Generator().manual_seed(0)))
    return agent


def batch_of(seeds=(4, 9), number: int = 0) -> Batch:
    """Each seed's own transitions, whatever its companions."""
    rng = Rng(seeds)
    obs, next_obs = (3.0 + 2.0 * rng.normal(name, number, (BATCH, OBS)) for name in ("obs", "next_obs"))
    action = torch.tanh(rng.normal("action", number, (BATCH, ACT)))
    terminated = (rng.uniform("terminated", number, (BATCH,)) < 0.2).float()
    return Batch(obs, action, rng.normal("reward", number, (BATCH,)), next_obs, terminated)


def always(agent) -> tuple[bool, ...]:
    """What makes every update one of the policy too."""
    return (True,) * len(agent.variant(1))


def train(agent, updates: int, first: int = 1):
    for number in range(first, first + updates):
        step = torch.tensor(number)
        metrics = agent.update(batch_of(agent.seeds, number), step, *agent.variant(number))
    return metrics


def numbers(*values: float) -> torch.Tensor:
    """(1, B)."""
    return torch.tensor([values])


# ------------------------------------------------------------------ losses by hand


def test_expectile_loss_at_known_values():
    error = numbers(2.0, -2.0)
    assert expectile_loss(error, 0.7).item() == pytest.approx((0.7 * 4 + 0.3 * 4) / 2)
    assert expectile_loss(numbers(1.0, 2.0, -4.0), 0.9).item() == pytest.approx((0.9 + 3.6 + 1.6) / 3)
    assert expectile_loss(error, 0.5).item() == pytest.approx(0.5 * torch.square(error).mean().item())


def test_the_expectile_of_a_coin_is_tau():
    """Of targets 0 and 1, equally frequent, the minimiser v solves tau (1 - v) = (1 - tau) v: it is tau."""
    v = torch.tensor(0.7, requires_grad=True)
    (slope,) = torch.autograd.grad(expectile_loss(numbers(0.0, 1.0) - v, 0.7).sum(), v)
    assert slope.item() == pytest.approx(0.0, abs=1e-7)


def test_advantage_weights_are_exponential_and_bounded():
    weight = advantage_weight(numbers(0.0, 1.0, 2.0), 3.0, 100.0)
    torch.testing.assert_close(weight, numbers(1.0, math.exp(3.0), 100.0))


def test_gaussian_log_prob_is_torchs():
    mean, log_std, x = torch.randn(2, BATCH, ACT), torch.randn(2, 1, ACT), torch.randn(2, BATCH, ACT)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(x).sum(dim=-1)
    torch.testing.assert_close(gaussian_log_prob(mean, log_std, x), expected)


def test_the_cosine_schedule_falls_from_one_to_zero():
    steps = [torch.tensor(n) for n in (0, 25, 50, 100, 150)]
    values = [cosine_decay(step, 100).item() for step in steps]
    assert values == pytest.approx([1.0, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.0, 0.0], abs=1e-6)


def test_lambda_scales_by_the_size_of_q_and_has_no_gradient():
    q = numbers(1.0, -3.0).requires_grad_()
    loss, scale = scaled_policy_gradient(q, 2.5)
    assert scale.item() == 1.25 and loss.item() == 1.25
    (grad,) = torch.autograd.grad(loss.sum(), q)
    assert torch.equal(grad, torch.full((1, 2), -0.625))  # -lambda / B, as though lambda were a constant


# ------------------------------------------------------------------ A2PR by hand


def test_a2pr_actor_loss_and_gradient_by_hand(monkeypatch):
    """Six states, one for each way to choose and to mask; Q(s, a) = c a, pi = 0.2, a = 0.6, VAE(s, x) = 0.3 + x / 2."""
    agent = A2PR(A2PRConfig(hidden=[4], critic_hidden=[4], vae_hidden=[4], mask=1.5), Regularizer(), 1, 1, [0])
    c = numbers(1.0, -1.0, 1.0, 1.0, 0.0, 1.0)
    value = numbers(0.5, -0.5, 0.3, 0.7, 0.0, 0.6)
    monkeypatch.setattr(agent, "actor", lambda params, obs: params["pi"])
    monkeypatch.setattr(agent, "first_q", lambda obs, action: obs[..., 0] * action[..., 0])
    monkeypatch.setattr(agent, "reconstruct", lambda params, obs, action, noise: (0.3 + action / 2, None))
    data = torch.full((1, 6, 1), 0.6)
    batch = Batch(c[..., None], data, c, c[..., None], c)
    params = {"pi": torch.full((1, 6, 1), 0.2)}

    grads, _, metrics = gradients(lambda p: agent.actor_loss(p, batch, c * 0.6, value, torch.tensor(1)), params)
    # state            1     2     3     4     5     6
    # Q(s, a~)        .4   -.4    .4    .4     0    .4
    # Q(s, a)         .6   -.6    .6    .6     0    .6
    # V               .5   -.5    .3    .7     0    .6
    # a*               a    a~     a     a    a~     a      a~ where >=
    # M / mask         1     1     1     0     1     0      1 in state 3 too, where both hold; > is strict
    assert metrics["behaviour/share_of_vae_actions"].item() == pytest.approx(2 / 6)
    assert metrics["behaviour/share_constrained"].item() == pytest.approx(4 / 6)
    # mean |Q(s, pi)| = 5/6 * 0.2, mean Q(s, pi) = 3/6 * 0.2
    assert metrics["train/lambda"].item() == pytest.approx(15.0)
    assert metrics["behaviour/constraint_loss"].item() == pytest.approx(1.5 * (0.16 + 0.04 + 0.16 + 0.04) / 6)
    assert metrics["train/actor_loss"].item() == pytest.approx(-1.5 + 0.1)
    # -lambda c / 6 + M / 6 * 2 (pi - a*) (1 - da*/dpi), where da~/dpi = 1/2
    expected = numbers(-2.7, 2.5 - 0.05, -2.7, -2.5, -0.05, -2.5)
    torch.testing.assert_close(grads["pi"][..., 0], expected)


def test_a2pr_value_target_is_the_lesser_of_online_and_target(monkeypatch):
    agent = A2PR(
        A2PRConfig(hidden=[4], critic_hidden=[4], vae_hidden=[4], discount=0.5), Regularizer(), 1, 1, [0]
    )
    online = torch.tensor([[[4.0, 1.0, 8.0], [6.0, 3.0, 2.0]]])  # Q_1 and Q_2 at (s', a')
    monkeypatch.setattr(agent, "critic", lambda params, obs, action: online)
    monkeypatch.setattr(agent, "value", lambda params, obs: params["v"])
    column = torch.zeros(1, 3, 1)
    batch = Batch(column, column, numbers(1.0, 1.0, 1.0), column, numbers(0.0, 0.0, 1.0))
    successor = Successor(column, column, numbers(2.0, 9.0, 5.0))
    # r + gamma (1 - d) min Q = 3, 1.5, 1; with y = 2, 9, 5: y_V = 2, 1.5, 1
    params = {"v": numbers(1.0, 1.0, 1.0)}
    grads, _, (value, metrics) = gradients(lambda p: agent.value_loss(p, batch, successor), params)
    assert metrics["train/value_loss"].item() == pytest.approx((1.0 + 0.25 + 0.0) / 3)
    torch.testing.assert_close(grads["v"], 2 / 3 * numbers(-1.0, -0.5, 0.0))
    assert torch.equal(value, params["v"]) and not value.requires_grad


def test_a2pr_vae_loss_gates_the_reconstruction_but_not_the_kl(monkeypatch):
    agent = A2PR(
        A2PRConfig(hidden=[4], critic_hidden=[4], vae_hidden=[4], vae_weight=1.5), Regularizer(), 1, 1, [0]
    )
    monkeypatch.setattr(agent, "reconstruct", lambda params, obs, action, noise: (params["a"], params["kl"]))
    column = torch.zeros(1, 4, 1)
    batch = Batch(column, column, numbers(0.0), column, numbers(0.0))
    params = {"a": torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), "kl": torch.tensor([[[1.0, 3.0]] * 4])}
    advantage = numbers(0.1, 0.0, -1.0, 2.0)  # zero does not pass
    grads, _, metrics = gradients(lambda p: agent.vae_loss(p, batch, advantage, torch.tensor(1)), params)
    assert metrics["behaviour/reconstruction_loss"].item() == pytest.approx((1.0 + 16.0) / 4)
    assert metrics["behaviour/vae_loss"].item() == pytest.approx(1.5 * 17 / 4 + 0.5 * 2.0)
    assert metrics["behaviour/share_of_advantageous_actions"].item() == 0.5
    torch.testing.assert_close(grads["a"][..., 0], 1.5 * 2 / 4 * numbers(1.0, 0.0, 0.0, 4.0))
    torch.testing.assert_close(grads["kl"], torch.full((1, 4, 2), 0.5 / 8))


def test_a2pr_has_the_released_codes_networks_and_step_sizes():
    agent = A2PR(A2PRConfig(), Regularizer(), 17, 6, [0])
    assert agent.actor.mlp.sizes == (17, 256, 256, 256, 6)
    assert agent.critic.mlp.sizes == (23, 256, 256, 256, 256, 1) and agent.critic.mlp.lead == (2,)
    assert agent.value.mlp.sizes == (17, 256, 256, 256, 256, 1)
    assert agent.vae.encoder.sizes == (23, 750, 750, 24) and agent.vae.decoder.mlp.sizes == (29, 750, 750, 6)
    assert agent.vae.log_std == Clamp(-4.0, 15.0)
    assert agent.vae_optimizer.learning_rate == 1e-3
    for optimizer in (agent.actor_optimizer, agent.critic_optimizer, agent.value_optimizer):
        assert optimizer.learning_rate == 3e-4


def test_a2pr_gate_and_first_q_look_at_the_first_critic_only():
    agent, batch = make("a2pr"), batch_of()
    q, a = agent.first_q(batch.obs, batch.action), agent.advantage(batch)
    for value in agent.critic_params.values():
        value[:, 1] += 1.0
    assert torch.equal(agent.first_q(batch.obs, batch.action), q) and torch.equal(agent.advantage(batch), a)
    torch.testing.assert_close(a, q - agent.value(agent.value_params, batch.obs))


def test_a2pr_gradient_reaches_the_actor_through_the_vae():
    """Where the VAE's action is chosen, its derivative by the actor's output is not zero."""
    agent, batch = make("a2pr"), batch_of()
    noise = Rng(agent.seeds).normal("noise", 0, (BATCH, agent.latent_dim))
    action = batch.action.clone().requires_grad_()
    proposed, _ = agent.reconstruct(agent.vae_params, batch.obs, action, noise)
    (grad,) = torch.autograd.grad(proposed.sum(), action)
    assert (grad.abs().sum(dim=-1) > 0).all()


# ------------------------------------------------------------------ A2PR against plain PyTorch


class Plain:
    """A2PR for one seed, in order and without economy: leaves, `torch.optim.Adam`, `backward`."""

    def __init__(self, agent: A2PR, i: int) -> None:
        self.c, self.agent, self.i = agent.config, agent, i
        for name in ("actor", "critic", "value", "vae", "actor_target", "critic_target"):
            held = getattr(agent, name if name.endswith("target") else f"{name}_params")
            leaf = not name.endswith("target")
            setattr(self, name, {k: v[i].clone().requires_grad_(leaf) for k, v in held.items()})
        rates = {"actor": 3e-4, "critic": 3e-4, "value": 3e-4, "vae": 1e-3}
        self.adam = {n: torch.optim.Adam(getattr(self, n).values(), lr=rate) for n, rate in rates.items()}

    @staticmethod
    def mlp(params, x, prefix=""):
        depth = sum(name.startswith(prefix) and name.endswith("weight") for name in params)
        for layer in range(depth):
            x = x @ params[f"{prefix}{layer}.weight"] + params[f"{prefix}{layer}.bias"]
            x = F.relu(x) if layer < depth - 1 else x
        return x

    def q(self, params, s, a):
        return self.mlp(params, torch.cat([s, a], -1)).squeeze(-1)  # (E, B)

    def reconstruct(self, s, a, noise):
        heads = self.mlp(self.vae, torch.cat([s, a], -1), "encoder.")
        mean, log_std = heads.chunk(2, -1)
        std = log_std.clamp(-4, 15).exp()
        z = mean + std * noise
        return torch.tanh(self.mlp(self.vae, torch.cat([s, z], -1), "decoder.")), mean, std

    def step(self, name, loss):
        self.adam[name].zero_grad()
        loss.backward()
        self.adam[name].step()

    def draw(self, stream, number, width):
        return Rng(self.agent.seeds).normal(stream, number, (BATCH, width))[self.i]

    def update(self, batch, number, update_actor):
        c, n = self.c, self.agent.normalizer
        mean, scale = n.mean[self.i], n.scale[self.i]
        s, s2 = (batch.obs[self.i] - mean) / scale, (batch.next_obs[self.i] - mean) / scale
        a, r, alive = batch.action[self.i], batch.reward[self.i], 1 - batch.terminated[self.i]

        noise = (0.2 * self.draw("target_noise", number, ACT)).clamp(-0.5, 0.5)
        a2 = (torch.tanh(self.mlp(self.actor_target, s2)) + noise).clamp(-1, 1)
        y = r + c.discount * alive * self.q(self.critic_target, s2, a2).min(0).values
        q = self.q(self.critic, s, a)
        self.step("critic", F.mse_loss(q[0], y) + F.mse_loss(q[1], y))

        online = r + c.discount * alive * self.q(self.critic, s2, a2).min(0).values.detach()
        value = self.mlp(self.value, s).squeeze(-1)
        self.step("value", F.mse_loss(value, torch.minimum(online, y)))
        value = value.detach()

        q_data = self.q(self.critic, s, a)[0].detach()
        gate = (q_data > value)[:, None]
        guess, mean, std = self.reconstruct(s, a, self.draw("vae/data", number, 2 * ACT))
        kl = -0.5 * (1 + torch.log(std**2) - mean**2 - std**2).mean()
        self.step("vae", (c.vae_weight * gate * (guess - a) ** 2).mean() + 0.5 * kl)
        if not update_actor:
            return

        pi = torch.tanh(self.mlp(self.actor, s))
        q_pi = self.q(self.critic, s, pi)[0]
        proposed, _, _ = self.reconstruct(s, pi, self.draw("vae/policy", number, 2 * ACT))
        q_proposed = self.q(self.critic, s, proposed)[0].detach()
        chosen = torch.where((q_proposed >= q_data)[:, None], proposed, a)
        weight = c.mask * ((q_proposed >= value) + (q_data > value))[:, None]  # a sum of Booleans is an "or"
        self.step(
            "actor", -c.alpha / q_pi.abs().mean().detach() * q_pi.mean() + (weight * (pi - chosen) ** 2).mean()
        )
        for name in ("actor", "critic"):
            for key, target in getattr(self, f"{name}_target").items():
                target.lerp_(getattr(self, name)[key].detach(), c.tau)


def test_a2pr_updates_equal_plain_pytorch():
    agent = make("a2pr")
    plain = [Plain(agent, i) for i in range(2)]
    for number in range(1, 7):
        batch, update_actor = batch_of(number=number), number % 2 == 0
        metrics = agent.update(batch, torch.tensor(number), update_actor)
        for one in plain:
            one.update(batch, number, update_actor)
        if number == 1:  # neither actor nor targets move without an actor's update
            assert "train/actor_loss" not in metrics
    assert 0 < metrics["behaviour/share_of_vae_actions"].min() < 1  # both branches were taken
    assert 0 < metrics["behaviour/share_of_advantageous_actions"].min() < 1
    for name in ("actor", "critic", "value", "vae", "actor_target", "critic_target"):
        ours = agent.state()[name]
        for i, one in enumerate(plain):
            for key, expected in getattr(one, name).items():
                torch.testing.assert_close(ours[key][i], expected.detach(), rtol=1e-4, atol=2e-6, msg=f"{name} {key}")


def test_a2pr_targets_move_with_the_actor_only():
    agent = make("a2pr")
    still, moving = ("actor", "actor_target", "critic_target"), ("critic", "value", "vae")
    before = {name: {k: v.clone() for k, v in agent.state()[name].items()} for name in (*still, *moving)}
    agent.update(batch_of(), torch.tensor(1), False)
    for name in still:
        assert all(torch.equal(v, before[name][k]) for k, v in agent.state()[name].items())
    for name in moving:
        assert all(not torch.equal(v, before[name][k]) for k, v in agent.state()[name].items())


def test_a2pr_gate_and_actor_see_the_value_from_before_its_step(monkeypatch):
    agent, batch, seen = make("a2pr"), batch_of(), {}
    vae_loss, actor_loss = agent.vae_loss, agent.actor_loss

    def spy_vae(params, batch, advantage, step):
        seen["advantage"] = advantage
        return vae_loss(params, batch, advantage, step)

    def spy_actor(params, batch, q_data, value, step):
        seen["q_data"], seen["value"] = q_data, value
        return actor_loss(params, batch, q_data, value, step)

    monkeypatch.setattr(agent, "vae_loss", spy_vae)
    monkeypatch.setattr(agent, "actor_loss", spy_actor)
    old = agent.value(agent.value_params, batch.obs)
    agent.update(batch, torch.tensor(1), True)
    torch.testing.assert_close(seen["value"], old)
    assert not torch.allclose(agent.value(agent.value_params, batch.obs), old, atol=1e-6)
    torch.testing.assert_close(seen["q_data"], agent.first_q(batch.obs, batch.action))  # the critic from after its step
    torch.testing.assert_close(seen["advantage"], seen["q_data"] - seen["value"])


# ------------------------------------------------------------------ TD3+BC


def test_td3_bc_actor_gradient_is_lambda_of_td3s_plus_bcs():
    agent, batch = make("td3_bc"), batch_of()
    grads, _, metrics = gradients(lambda p: agent.actor_loss(p, batch), agent.actor_params)
    policy, *_ = gradients(lambda p: TD3.actor_loss(agent, p, batch), agent.actor_params)
    cloning, *_ = gradients(lambda p: BC.actor_loss(agent, p, batch), agent.actor_params)
    q = agent.first_q(batch.obs, agent.act(batch.obs))
    scale = 2.5 / q.abs().mean(dim=1)
    torch.testing.assert_close(metrics["train/lambda"], scale)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, scale.view(2, 1, 1) * policy[name] + cloning[name], rtol=1e-4, atol=1e-6)


def test_td3_bc_without_its_cloning_is_td3(monkeypatch):
    """On states as they are, with lambda 1 and the cloning term off: to the bit."""
    monkeypatch.setattr("agents.td3_bc.cloning_loss", lambda action, data: torch.zeros(2))
    monkeypatch.setattr("agents.td3_bc.scaled_policy_gradient", lambda q, alpha: (-q.mean(dim=-1), alpha * q[:, 0]))
    agent = TD3BC(CONFIGS["td3_bc"], BEER(), OBS, ACT, (4, 9))
    td3 = TD3(TD3Config(hidden=[8, 6]), BEER(), OBS, ACT, (4, 9))
    train(agent, 6)
    train(td3, 6)
    ours = flatten(agent.state())
    assert all(torch.equal(ours[name], value) for name, value in flatten(td3.state()).items())


def test_td3_bc_with_alpha_zero_clones():
    agent, bc, batch = make("td3_bc", alpha=0.0), make("bc"), batch_of()
    for name, value in bc.actor_params.items():
        value.copy_(agent.actor_params[name])
    grads, *_ = gradients(lambda p: agent.actor_loss(p, batch), agent.actor_params)
    expected, *_ = gradients(lambda p: bc.actor_loss(p, batch), bc.actor_params)
    assert all(torch.equal(grads[name], value) for name, value in expected.items())


def test_the_defaults_are_the_published_ones():
    c = TD3BCConfig()
    assert (c.alpha, c.hidden, c.policy_delay, c.target_noise, c.target_noise_clip) == (2.5, [256, 256], 2, 0.2, 0.5)
    c = IQLConfig()
    assert (c.expectile, c.temperature, c.learning_rate, c.tau, c.discount) == (0.7, 3.0, 3e-4, 0.005, 0.99)
    c = A2PRConfig()
    assert (c.alpha, c.mask, c.vae_weight, c.discount, c.policy_delay) == (2.5, 1.0, 1.0, 0.99, 2)


# ------------------------------------------------------------------ IQL


def test_iql_losses_by_hand(monkeypatch):
    agent = IQL(IQLConfig(hidden=[4], temperature=2.0, discount=0.5), Regularizer(), 1, 1, [0])
    column = torch.zeros(1, 2, 1)
    batch = Batch(column, column + 0.5, numbers(1.0, 1.0), column, numbers(0.0, 1.0))
    monkeypatch.setattr(agent, "value", lambda params, obs: params["v"] if "v" in params else numbers(4.0, 4.0))

    grads, _, metrics = gradients(lambda p: agent.value_loss(p, batch, numbers(3.0, 0.0)), {"v": numbers(1.0, 1.0)})
    assert metrics["train/value_loss"].item() == pytest.approx((0.7 * 4 + 0.3) / 2)
    torch.testing.assert_close(grads["v"], numbers(-0.7 * 2, 0.3))

    monkeypatch.setattr(agent, "actor", lambda params, obs: params["mean"])
    params = {"mean": column + 0.25, "log_std": torch.zeros(1, 1, 1)}
    grads, _, metrics = gradients(lambda p: agent.actor_loss(p, batch, numbers(0.0, 5.0)), params)
    log_prob = -0.5 * (0.25**2 + math.log(2 * math.pi))
    assert metrics["train/actor_loss"].item() == pytest.approx(-(1 + 100) / 2 * log_prob)
    torch.testing.assert_close(grads["mean"][..., 0], -numbers(1.0, 100.0) * 0.25 / 2)


def test_iql_begins_as_its_authors_do():
    """Every layer of every network of every seed: sqrt(2) times an orthogonal matrix, no bias; or as PyTorch does."""
    made = IQL(IQLConfig(hidden=[24, 16]), Regularizer(), 5, 3, [4, 9])
    for params, lead in ((made.actor_params, ()), (made.critic_params, (2,)), (made.value_params, ())):
        weights = {name: p for name, p in params.items() if name.endswith(".weight")}
        assert len(weights) == 3
        for name, weight in weights.items():
            assert weight.shape[:-2] == (2, *lead) and not params[name.replace("weight", "bias")].any()
            fewer = weight if weight.shape[-2] <= weight.shape[-1] else weight.mT
            eye = torch.eye(fewer.shape[-2]).expand(*weight.shape[:-2], -1, -1)
            torch.testing.assert_close(fewer @ fewer.mT, 2 * eye, atol=1e-5, rtol=1e-5)
            flat = weight.flatten(0, -3)
            assert all(not torch.equal(flat[0], other) for other in flat[1:])  # each network's its own
    assert not made.actor_params["log_std"].any()
    assert all(torch.equal(p, made.critic_target[name]) for name, p in made.critic_params.items())
    alone = IQL(IQLConfig(hidden=[24, 16]), Regularizer(), 5, 3, [9])
    for together, own in ((made.critic_params, alone.critic_params), (made.value_params, alone.value_params)):
        assert all(torch.equal(together[name][1], p[0]) for name, p in own.items())

    other = IQL(IQLConfig(hidden=[24, 16], initialization="pytorch"), Regularizer(), 5, 3, [4, 9])
    bound = 1 / 24**0.5
    assert other.value_params["1.bias"].any() and other.value_params["1.weight"].abs().max() <= bound
    with pytest.raises(UserError, match=r"agent.initialization=xavier is not valid; give orthogonal or pytorch"):
        IQLConfig(initialization="xavier")


def test_iql_bootstraps_from_v_and_never_values_another_action():
    """The critic's target is r + gamma (1 - d) V(s') with the V from after its own step."""
    agent, batch = make("iql"), batch_of()
    q = agent.critic(agent.critic_params, batch.obs, batch.action)
    metrics = agent.update(batch, torch.tensor(1))
    target = batch.reward + 0.99 * (1 - batch.terminated) * agent.value(agent.value_params, batch.next_obs)
    expected = sum(torch.square(q[:, e] - target).mean(dim=-1) for e in range(2))
    torch.testing.assert_close(metrics["train/critic_loss"], expected)
    torch.testing.assert_close(metrics["behaviour/advantage"], q.amin(dim=1).mean(dim=-1)
                               - agent.value(agent.value_params, batch.obs).mean(dim=-1))  # fmt: skip


def test_iql_scales_rewards_by_the_datas_returns_and_gives_values_in_their_own_units():
    """1000 / (best - worst return) = 5."""
    agent, batch = make("iql"), batch_of()
    agent.fit_rewards(np.array([-50.0, 150.0, 20.0]))
    assert agent.reward_scale.tolist() == [5.0, 5.0]
    scaled, _ = agent.critic_loss(agent.critic_params, batch)
    agent.reward_scale.fill_(1.0)
    expected, _ = agent.critic_loss(agent.critic_params, batch._replace(reward=5 * batch.reward))
    torch.testing.assert_close(scaled, expected)
    q = agent.q_value(batch.obs, batch.action)
    agent.fit_rewards(np.array([0.0, 200.0]))
    torch.testing.assert_close(agent.q_value(batch.obs, batch.action), q / 5)
    assert torch.equal(agent.critic_features(agent.critic_params, batch).reward, 5 * batch.reward)

    raw = make("iql", normalize_rewards=False)
    raw.fit_rewards(np.array([0.0, 200.0]))
    assert raw.reward_scale.tolist() == [1.0, 1.0]
    with pytest.raises(UserError, match=r"normalize_rewards=true is not valid; give false: .* all return 7, which"):
        agent.fit_rewards(np.array([7.0, 7.0]))


def test_iql_updates_equal_plain_pytorch():
    """With a log std under its bound, weights over theirs, and a reward scale for each seed."""
    agent = make("iql", schedule_steps=10, temperature=30.0, normalize_obs=True)
    agent.reward_scale.copy_(torch.tensor([5.0, 3.0]))
    agent.actor_params["log_std"][..., 0] = -6.0
    mlp, clipped = Plain.mlp, 0
    names = ("actor", "critic", "value", "critic_target")
    before = {name: {k: p.clone() for k, p in agent.state()[name].items()} for name in names}
    train(agent, 8)
    for i in range(2):
        pi, q, v = ({k: p[i].clone().requires_grad_() for k, p in before[name].items()} for name in names[:3])
        q_target = {k: p[i].clone() for k, p in before["critic_target"].items()}
        pi_adam, q_adam, v_adam = (torch.optim.Adam(params.values(), lr=3e-4) for params in (pi, q, v))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(pi_adam, 10)
        mean, scale = agent.normalizer.mean[i], agent.normalizer.scale[i]

        def step(loss, adam):
            adam.zero_grad()
            loss.backward()
            adam.step()

        for number in range(1, 9):
            batch = Batch(*(part[i] for part in batch_of(number=number)))
            s, s2, a = (batch.obs - mean) / scale, (batch.next_obs - mean) / scale, batch.action
            sa = torch.cat([s, a], -1)

            least = mlp(q_target, sa).squeeze(-1).min(0).values
            u = least - mlp(v, s).squeeze(-1)
            step((torch.where(u > 0, 0.7, 0.3) * u**2).mean(), v_adam)

            weight = torch.exp(30.0 * (least - mlp(v, s).squeeze(-1).detach())).clamp(max=100.0)
            clipped += (weight == 100.0).sum().item()
            network = {k: p for k, p in pi.items() if k != "log_std"}
            policy = torch.distributions.Normal(torch.tanh(mlp(network, s)), pi["log_std"].clamp(-5, 2).exp())
            step(-(weight * policy.log_prob(a).sum(-1)).mean(), pi_adam)
            schedule.step()

            reward = agent.reward_scale[i] * batch.reward
            y = reward + 0.99 * (1 - batch.terminated) * mlp(v, s2).squeeze(-1).detach()
            first, second = mlp(q, sa).squeeze(-1)
            step(F.mse_loss(first, y) + F.mse_loss(second, y), q_adam)
            for k, p in q_target.items():
                p.lerp_(q[k].detach(), 0.005)

        for name, expected in zip(names, (pi, q, v, q_target), strict=True):
            ours = agent.state()[name]
            for k, p in expected.items():
                torch.testing.assert_close(ours[k][i], p.detach(), rtol=1e-4, atol=2e-6, msg=f"{name} {k}")
    assert clipped > 0


def test_iql_step_size_of_the_policy_falls_to_zero():
    agent = make("iql", schedule_steps=4)
    train(agent, 1)
    assert agent.actor_learning_rate.item() == pytest.approx(3e-4)
    train(agent, 2, first=2)
    assert agent.actor_learning_rate.item() == pytest.approx(1.5e-4)
    train(agent, 1, first=4)
    before = {name: value.clone() for name, value in agent.actor_params.items()}
    train(agent, 1, first=5)
    assert all(torch.equal(value, before[name]) for name, value in agent.actor_params.items())


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", CLASSES)
def test_a_seed_alone_equals_the_seed_among_three(name):
    together, alone = make(name, seeds=(3, 5, 7)), make(name, seeds=(5,))
    train(together, 20)
    train(alone, 20)
    ours, theirs = flatten(together.state()), flatten(alone.state())
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        mine = ours[key][1] if value.dim() else ours[key]
        torch.testing.assert_close(mine, value[0] if value.dim() else value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bc", {"learning_rate": 3e-3}),
        ("td3_bc", {"actor_learning_rate": 3e-3, "alpha": 0.0}),
        ("iql", {"learning_rate": 3e-3, "temperature": 0.0}),
    ],
)
def test_what_clones_learns_the_actions_of_the_data(name, changes):
    agent, batch = make(name, **changes), batch_of()
    target = torch.tanh(agent.normalizer(batch.obs)[..., :ACT])
    before = torch.square(agent.act(batch.obs) - target).mean()
    for number in range(1, 201):
        agent.update(batch._replace(action=target), torch.tensor(number), *always(agent))
    assert torch.square(agent.act(batch.obs) - target).mean() < 0.6 * before and agent.alive.all()


@pytest.mark.parametrize("name", WITH_CRITIC)
@pytest.mark.parametrize("regularizer", [BEER(), DR3(), InFeR(heads=3)], ids=["beer", "dr3", "infer"])
def test_every_regulariser_works_on_every_critic(name, regularizer):
    agent, plain = make(name, regularizer=regularizer), make(name)
    metrics = train(agent, 2)
    train(plain, 2)
    assert agent.alive.all() and "regularizer/loss" in metrics
    assert any(not torch.equal(v, agent.critic_params[k]) for k, v in plain.critic_params.items()) or (
        metrics["regularizer/loss"] == 0
    ).all()
    measured = representation(agent, batch_of(), 0.01)
    assert all(value.isfinite().all() for value in measured.values())


@pytest.mark.parametrize("name", WITH_CRITIC)
def test_q_value_is_the_least_critic_at_normalised_states(name):
    agent, batch = make(name), batch_of()
    critic = Critic(OBS, ACT, agent.critic.mlp.sizes[1:-1], 2)
    normal = (batch.obs - agent.normalizer.mean) / agent.normalizer.scale
    expected = critic(agent.critic_params, normal, batch.action).amin(dim=1)
    torch.testing.assert_close(agent.q_value(batch.obs, batch.action), expected)


def test_bc_has_no_value_and_takes_no_regulariser():
    agent, batch = make("bc"), batch_of()
    assert agent.q_value(batch.obs, batch.action).isnan().all()
    measured = representation(agent, batch, 0.01)
    assert set(measured) == set(REPRESENTATION) and all(v.isnan().all() for v in measured.values())
    with pytest.raises(UserError, match="regularizer=beer: agent=bc has no critic"):
        make("bc", regularizer=BEER())


@pytest.mark.parametrize("name", CLASSES)
def test_a_seed_whose_loss_turns_nan_stops_and_the_others_go_on(name):
    agent, healthy = make(name), make(name)
    before = agent.actor_params["0.weight"][1].clone()
    for number in range(1, 5):
        batch = batch_of(number=number)
        healthy.update(batch, torch.tensor(number), *always(agent))
        action = batch.action.clone()
        action[1] = torch.nan
        agent.update(batch._replace(action=action), torch.tensor(number), *always(agent))
    assert agent.alive.tolist() == [True, False]
    assert torch.equal(agent.actor_params["0.weight"][1], before)
    assert torch.equal(agent.actor_params["0.weight"][0], healthy.actor_params["0.weight"][0])


@pytest.mark.parametrize("name", CLASSES)
def test_state_holds_everything(name):
    """A fresh agent with the state of another, normalisation included, goes on as that one."""
    agent, fresh = make(name), CLASSES[name](CONFIGS[name], Regularizer(), OBS, ACT, (4, 9))
    train(agent, 3)
    copy_into(fresh.state(), {k: v.clone() for k, v in flatten(agent.state()).items()}, "here")
    train(agent, 3, first=4)
    train(fresh, 3, first=4)
    assert torch.equal(agent.act(batch_of().obs), fresh.act(batch_of().obs))
    ours = flatten(agent.state())
    assert all(torch.equal(value, ours[key]) for key, value in flatten(fresh.state()).items())


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_a_compiled_update_equals_the_eager_one(name):
    """State and metrics after six updates, where `update(step, variant)` is as in a run."""
    torch.compiler.reset()  # each agent's programs count as recompilations of the same function
    batches = Batch(*map(torch.stack, zip(*(batch_of(number=number) for number in range(6)), strict=True)))
    found = []
    for mode in ("compile", "eager"):
        agent, metrics = make(name), {}

        def update(step: torch.Tensor, variant: tuple[bool, ...], agent=agent) -> dict[str, torch.Tensor]:
            batch = Batch(*(column.index_select(0, step[None])[0] for column in batches))
            return agent.update(batch, step, *variant)

        program = prepare(update, mode, torch.device("cpu"))
        for number in range(6):
            metrics |= program(torch.tensor(number), always(agent))
        found.append((flatten(agent.state()), metrics))
    (state, metrics), (expected, expected_metrics) = found
    torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics, expected_metrics, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------ normalisation and export


def test_the_normaliser_is_the_papers():
    data = torch.tensor([[1.0, -2.0], [3.0, -2.0]])
    normalizer = Normalizer(2, 2)
    obs = torch.randn(2, 3, 2)
    assert torch.equal(normalizer(obs), obs)
    normalizer.fit(data)
    expected = (obs - torch.tensor([2.0, -2.0])) / (torch.tensor([1.0, 0.0]) + 1e-3)
    torch.testing.assert_close(normalizer(obs), expected)


@pytest.mark.parametrize("network", [Actor(OBS, ACT, (8,)), Critic(OBS, ACT, (8,), 2)])
def test_folded_parameters_take_raw_observations(network):
    normalizer, batch = Normalizer(2, OBS), batch_of()
    normalizer.fit(batch.obs[0])
    params = network.init(Rng((4, 9)))
    rest = (batch.action,) if isinstance(network, Critic) else ()
    expected = network(params, normalizer(batch.obs), *rest)
    torch.testing.assert_close(network(normalizer.fold(params), batch.obs, *rest), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CLASSES)
def test_a_plain_td3_load_acts_on_raw_observations(name, tmp_path):
    agent = make(name, regularizer=None if name == "bc" else InFeR(heads=3))
    train(agent, 4)
    if name == "iql":
        agent.fit_rewards(np.array([0.0, 400.0]))
    obs, action = batch_of().obs, batch_of().action
    for i in range(2):
        model = agent.to_sb3(i, rlreg.sb3.Spaces(OBS, ACT), TrainConfig(buffer_capacity=1))
        model.save(tmp_path / "model.zip")
        loaded = stable_baselines3.TD3.load(tmp_path / "model.zip")
        theirs = rlreg.sb3.Models([loaded])
        torch.testing.assert_close(theirs.act(obs[i : i + 1])[0], agent.act(obs)[i], rtol=0, atol=1e-6)
        if name != "bc":
            value = theirs.q_value(obs[i : i + 1], action[i : i + 1])[0]
            torch.testing.assert_close(value, agent.q_value(obs, action)[i], rtol=1e-5, atol=1e-5)
        if name == "a2pr":
            target = torch.stack(loaded.critic_target(obs[i], action[i])).squeeze(-1)
            expected = agent.critic(agent.critic_target, obs, action)[i]
            torch.testing.assert_close(target, expected, rtol=1e-5, atol=1e-5)
            assert (loaded.gamma, loaded.tau, loaded.policy_delay) == (0.99, 0.005, 2)


# ------------------------------------------------------------------ settings


def settings(*overrides: str) -> SimpleNamespace:
    """The `agent` that these overrides make, checked."""
    register()
    node = {"defaults": [{"agent": "a2pr"}, {"env": "d4rl/hopper-medium-v2"}, "_self_"], "train": {"total_steps": 500}}
    ConfigStore.instance().store(name="offline_test", node=node)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return OmegaConf.to_object(compose("offline_test", overrides=list(overrides)).agent)


def test_configured_defaults_are_the_classes():
    for name, config in CONFIGS.items():
        expected = type(config)()
        if name == "iql":
            expected.schedule_steps = 500  # the run's length
        assert settings(f"agent={name}") == expected


def test_published_settings_follow_the_data_set():
    fixed, published = settings(), settings("agent=a2pr_published")
    assert (fixed.name, fixed.mask, fixed.discount) == ("a2pr", 1.0, 0.99)
    assert (published.alpha, published.mask, published.vae_weight, published.discount) == (2.5, 0.4, 1.0, 0.995)
    walker = settings("agent=a2pr_published", "env=d4rl/walker2d-medium-replay-v2", "agent.alpha=3")
    assert (walker.alpha, walker.mask, walker.vae_weight, walker.discount) == (3.0, 1.2, 1.5, 0.995)
    other = settings("agent=a2pr_published", "agent/published/a2pr@agent=d4rl/halfcheetah-medium-expert-v2")
    assert (other.alpha, other.mask) == (40.0, 15.0) and other.name == "a2pr_published"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (BCConfig, {"hidden": []}, "agent.hidden"),
        (BCConfig, {"learning_rate": 0.0}, "agent.learning_rate"),
        (TD3BCConfig, {"alpha": -1.0}, "agent.alpha=-1.0"),
        (TD3BCConfig, {"discount": 1.0}, "agent.discount"),
        (IQLConfig, {"expectile": 1.0}, "agent.expectile=1.0"),
        (IQLConfig, {"schedule_steps": 0}, "agent.schedule_steps=0"),
        (A2PRConfig, {"mask": -0.1}, "agent.mask"),
        (A2PRConfig, {"vae_hidden": [0]}, "agent.vae_hidden"),
        (A2PRConfig, {"tau": 0.0}, "agent.tau"),
        (A2PRConfig, {"vae_learning_rate": 0.0}, "agent.vae_learning_rate"),
    ],
)
def test_impossible_settings_are_one_line(kind, changes, message):
    with pytest.raises(UserError, match=message):
        kind(**changes)
