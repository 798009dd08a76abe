"""Stacked networks against torch.nn's, one seed and one critic at a time."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from rlreg.networks import MLP, Actor, Critic, Params, detached, first_critic, linear, polyak_
from rlreg.optim import Adam, gradients
from rlreg.rng import Rng

OBS, ACT, BATCH = 5, 2, 7


@pytest.mark.parametrize("fan_out", [1, 6, 33])
@pytest.mark.parametrize("lead", [(1,), (3,), (1, 1), (1, 2), (3, 2)])
def test_linear_equals_torchs(lead: tuple[int, ...], fan_out: int) -> None:
    x = torch.randn(*lead, BATCH, 4)
    weight, bias = torch.randn(*lead, 4, fan_out), torch.randn(*lead, 1, fan_out)
    out = linear(x, weight, bias)
    assert out.shape == (*lead, BATCH, fan_out)
    assert out.is_contiguous()
    for index in torch.cartesian_prod(*map(torch.arange, lead)).reshape(-1, len(lead)).tolist():
        i = tuple(index)
        torch.testing.assert_close(out[i], F.linear(x[i], weight[i].T, bias[i].squeeze(0)))


def test_units_that_round_a_width_up_are_of_no_effect() -> None:
    exact, rounded = MLP((OBS, 6, 11, ACT)), MLP((OBS, 6, 11, ACT), multiple_of=8)

    def loss(net: MLP, params: Params, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.square(net(params, x) - target).mean(dim=(1, 2)), None

    params, wider = exact.init(Rng([4, 9]), "net"), rounded.init(Rng([4, 9]), "net")
    assert [tuple(wider[f"{k}.weight"].shape) for k in range(3)] == [(2, OBS, 8), (2, 8, 16), (2, 16, ACT)]
    alive, optimizers = torch.ones(2, dtype=torch.bool), (Adam(params, 0.01), Adam(wider, 0.01))
    for _ in range(3):
        x, target = torch.randn(2, BATCH, OBS), torch.randn(2, BATCH, ACT)
        torch.testing.assert_close(rounded(wider, x), exact(params, x))
        for net, p, optimizer in zip((exact, rounded), (params, wider), optimizers, strict=True):
            grads, losses, _ = gradients(partial(loss, net, x=x, target=target), p)
            optimizer.step(p, grads, losses, alive)
    for name, value in params.items():
        rows, columns = value.shape[-2:]
        torch.testing.assert_close(wider[name][:, :rows, :columns], value)
        assert not wider[name][:, rows:].any()
        assert not wider[name][..., columns:].any()


def test_linear_shares_one_input_among_critics() -> None:
    x, weight, bias = torch.randn(3, 1, BATCH, 4), torch.randn(3, 2, 4, 6), torch.randn(3, 2, 1, 6)
    torch.testing.assert_close(linear(x, weight, bias), linear(x.expand(3, 2, BATCH, 4), weight, bias))


def test_actor_and_critic_equal_plain_modules() -> None:
    rng = Rng([4, 9])
    actor, critic = Actor(OBS, ACT, (8, 6)), Critic(OBS, ACT, (8, 6), num_critics=2)
    actor_params, critic_params = actor.init(rng), critic.init(rng)
    obs, action = torch.randn(2, BATCH, OBS), torch.randn(2, BATCH, ACT)

    def plain(params: dict[str, torch.Tensor], x: torch.Tensor, *index: int) -> torch.Tensor:
        for layer in range(3):
            x = F.linear(x, params[f"{layer}.weight"][index].T, params[f"{layer}.bias"][index].squeeze(0))
            x = F.relu(x) if layer < 2 else x
        return x

    mu, q = actor(actor_params, obs), critic(critic_params, obs, action)
    for seed in range(2):
        torch.testing.assert_close(mu[seed], torch.tanh(plain(actor_params, obs[seed], seed)))
        for e in range(2):
            expected = plain(critic_params, torch.cat([obs[seed], action[seed]], dim=-1), seed, e).squeeze(-1)
            torch.testing.assert_close(q[seed, e], expected)
    torch.testing.assert_close(critic(first_critic(critic_params), obs, action), q[:, :1])
    features = critic.features(critic_params, obs, action)
    linear_part = torch.einsum("sebh,seh->seb", features, critic.head_weight(critic_params))
    torch.testing.assert_close(linear_part + critic_params["2.bias"].squeeze(-1), q)


def test_initialisation_is_torchs() -> None:
    """Uniform on +-1/sqrt(fan_in), weights and biases."""
    params = Critic(60, 40, (256, 256)).init(Rng([0]))
    for layer, fan_in in enumerate((100, 256, 256)):
        bound = 1 / math.sqrt(fan_in)
        assert params[f"{layer}.weight"].abs().max() <= bound
        assert params[f"{layer}.bias"].abs().max() <= bound
    weight = params["1.weight"]
    assert abs(weight.std() * math.sqrt(3 * 256) - 1) < 0.01 and abs(weight.mean()) < 1e-3


def test_targets_move_by_tau_and_detached_parameters_get_no_gradient() -> None:
    online = {"w": torch.tensor([2.0], requires_grad=True)}
    target = {"w": torch.tensor([1.0])}
    polyak_(target, online, 0.25)
    assert target["w"].item() == 1.25
    assert not detached(online)["w"].requires_grad
