"""The VAE core against torch.distributions and against its formulas written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rlreg.networks import MLP, Actor
from rlreg.rng import Rng
from rlreg.vae import VAE, Clamp, Posterior, kl_to_standard_normal, log_softplus, squared_error

X, Z, OUT, BATCH = 5, 3, 2, 7
CLAMP = Clamp(-4.0, 15.0)


def model(log_std=CLAMP) -> VAE:
    return VAE(MLP((X, 8, 2 * Z)), Actor(Z, OUT, (8,)), log_std)


def test_kl_is_torchs():
    posterior = Posterior(torch.randn(2, BATCH, Z), torch.randn(2, BATCH, Z))
    ours = torch.distributions.Normal(posterior.mean, posterior.log_std.exp())
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(posterior), expected)
    assert kl_to_standard_normal(Posterior(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))).item() == 0.0


def test_encode_sample_and_decode_equal_the_formulas_written_out():
    vae = model()
    params = vae.init(Rng([4, 9]))
    x, noise = torch.randn(2, BATCH, X), torch.randn(2, BATCH, Z)
    posterior = vae.encode(params, x)
    out = vae.decode(params, posterior.sample(noise))
    for i in range(2):
        w = {name: value[i] for name, value in params.items()}
        hidden = F.relu(x[i] @ w["encoder.0.weight"] + w["encoder.0.bias"])
        heads = hidden @ w["encoder.1.weight"] + w["encoder.1.bias"]
        z = heads[:, :Z] + torch.exp(heads[:, Z:]) * noise[i]
        hidden = F.relu(z @ w["decoder.0.weight"] + w["decoder.0.bias"])
        expected = torch.tanh(hidden @ w["decoder.1.weight"] + w["decoder.1.bias"])
        torch.testing.assert_close(posterior.mean[i], heads[:, :Z])
        torch.testing.assert_close(out[i], expected)
    torch.testing.assert_close(squared_error(out, torch.ones(2, BATCH, OUT)), (out - 1.0) ** 2)


def test_the_log_standard_deviation_is_clamped():
    vae = model()
    params = vae.init(Rng([0]))
    params["encoder.1.bias"] = torch.tensor([0.0, 0.0, 0.0, -100.0, 0.0, 100.0]).view(1, 1, 6)
    log_std = vae.encode(params, torch.zeros(1, 1, X)).log_std
    assert log_std[..., 0].item() == -4.0 and log_std[..., 2].item() == 15.0 and -4 < log_std[..., 1].item() < 15


def test_the_standard_deviation_may_be_a_softplus():
    vae = model(log_softplus)
    params, x = vae.init(Rng([0])), torch.randn(1, BATCH, X)
    raw = vae.encoder({name.removeprefix("encoder."): p for name, p in params.items()}, x)[..., Z:]
    torch.testing.assert_close(vae.encode(params, x).log_std.exp(), F.softplus(raw))


def test_the_sample_passes_gradient_to_mean_and_deviation():
    mean, log_std = torch.zeros(1, 1, 2, requires_grad=True), torch.zeros(1, 1, 2, requires_grad=True)
    noise = torch.tensor([[[0.5, -2.0]]])
    Posterior(mean, log_std).sample(noise).sum().backward()
    assert torch.equal(mean.grad, torch.ones(1, 1, 2)) and torch.equal(log_std.grad, noise)


def test_seeds_start_alone_as_together():
    together, alone = (model().init(Rng(seeds)) for seeds in ([3, 5, 7], [5]))
    assert together.keys() == alone.keys()
    assert all(torch.equal(together[name][1], alone[name][0]) for name in alone)
