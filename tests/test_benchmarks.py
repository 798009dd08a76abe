"""What the benchmarks race against computes the same updates as ours."""

from __future__ import annotations

import sys

import torch
from conftest import ROOT

from agents.a2pr import A2PR, A2PRConfig
from rlreg.buffers import Batch
from rlreg.regularizers import Regularizer
from rlreg.rng import Rng

OBS, ACT, BATCH = 5, 2, 32


def load(module: torch.nn.Module, params: dict[str, torch.Tensor], *index: int) -> None:
    """Our stacked parameters, one entry of them, into `nn.Linear` layers."""
    for layer, linear in enumerate(m for m in module if isinstance(m, torch.nn.Linear)):
        linear.weight.data.copy_(params[f"{layer}.weight"][(0, *index)].T)
        linear.bias.data.copy_(params[f"{layer}.bias"][(0, *index)].squeeze(0))


def test_the_plain_a2pr_of_the_benchmark_makes_our_updates(monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from offline import Plain

    config = A2PRConfig(hidden=[16, 16], critic_hidden=[16, 16], vae_hidden=[24], mask=0.7, vae_weight=1.5)
    ours, rng = A2PR(config, Regularizer(), OBS, ACT, [3]), Rng([3])
    theirs = Plain(config, OBS, ACT)
    vae = {
        name: {k.removeprefix(f"{name}."): v for k, v in ours.vae_params.items() if k.startswith(name)}
        for name in ("encoder", "decoder")
    }

    def pairs():
        """Their modules beside our parameters."""
        yield theirs.actor, ours.actor_params, ()
        yield theirs.actor_target, ours.actor_target, ()
        yield theirs.value, ours.value_params, ()
        yield theirs.encoder, vae["encoder"], ()
        yield theirs.decoder, vae["decoder"], ()
        for e in range(2):
            yield theirs.critics[e], ours.critic_params, (e,)
            yield theirs.critics_target[e], ours.critic_target, (e,)

    for module, params, index in pairs():
        load(module, params, *index)
    for number in range(1, 9):
        obs, next_obs = (rng.normal(name, number, (BATCH, OBS)) for name in ("obs", "next_obs"))
        action, reward = torch.tanh(rng.normal("action", number, (BATCH, ACT))), rng.normal("reward", number, (BATCH,))
        terminated = (rng.uniform("terminated", number, (BATCH,)) < 0.2).float()
        batch = Batch(obs, action, reward, next_obs, terminated)
        ours.update(batch, torch.tensor(number), number % 2 == 0)
        streams = (("target_noise", ACT), ("vae/data", 2 * ACT), ("vae/policy", 2 * ACT))
        noises = [rng.normal(stream, number, (BATCH, width))[0] for stream, width in streams]
        theirs.update(Batch(*(field[0] for field in batch)), noises, number % 2 == 0)

    for module, params, index in pairs():
        for layer, linear in enumerate(m for m in module if isinstance(m, torch.nn.Linear)):
            for part, value in (("weight", linear.weight.T), ("bias", linear.bias[None])):
                torch.testing.assert_close(params[f"{layer}.{part}"][(0, *index)], value, rtol=1e-4, atol=2e-5)
