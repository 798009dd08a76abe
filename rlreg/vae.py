"""A variational autoencoder (Kingma & Welling 2014) stacked over seeds: encode, sample, decode, the ELBO's parts.

The encoder and decoder are any two networks and the likelihood is the caller's: A2PR's behaviour policy
is this with MLPs and a squared error, a model of levels with other networks and another likelihood.
Shapes: S seeds, B batch, Z latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rlreg.networks import Params, named, part
from rlreg.rng import Rng


class Network(Protocol):
    """A function of a dictionary of parameters, such as `rlreg.networks.MLP`.

    `x` is whatever the network reads, a tensor or more; `mode` what it has to know beside, such as
    `training=True` for batch normalisation.
    """

    def init(self, rng: Rng, name: str) -> Params: ...
    def __call__(self, params: Mapping[str, Tensor], x: Any, **mode: Any) -> Tensor: ...


class Posterior(NamedTuple):
    """q(z | x) = N(mean, diag exp(log_std)^2)."""

    mean: Tensor
    """(S, B, Z)."""
    log_std: Tensor
    """(S, B, Z)."""

    def sample(self, noise: Tensor) -> Tensor:
        """z = mean + std noise with standard normal `noise` (S, B, Z), and gradient to mean and std."""
        return self.mean + self.log_std.exp() * noise


@dataclass(frozen=True)
class Clamp:
    """The encoder's second half is log std, held to [low, high]."""

    low: float
    high: float

    def __call__(self, raw: Tensor) -> Tensor:
        return raw.clamp(self.low, self.high)


def log_softplus(raw: Tensor) -> Tensor:
    """The encoder's second half is softplus^-1(std): log std = log softplus(raw)."""
    return F.softplus(raw).log()


class VAE:
    """Encoder and decoder in one dictionary of parameters, under `encoder.` and `decoder.`."""

    def __init__(self, encoder: Network, decoder: Network, log_std: Callable[[Tensor], Tensor]) -> None:
        """`encoder` gives 2 Z numbers a row: means, and then what `log_std` makes log standard deviations of."""
        self.encoder, self.decoder, self.log_std = encoder, decoder, log_std

    def init(self, rng: Rng, name: str = "vae") -> Params:
        encoder, decoder = self.encoder.init(rng, f"{name}/encoder"), self.decoder.init(rng, f"{name}/decoder")
        return named("encoder", encoder) | named("decoder", decoder)

    def encode(self, params: Mapping[str, Tensor], x: Any, **mode: Any) -> Posterior:
        """(S, B, in) -> q(z | x)."""
        mean, raw = self.encoder(part(params, "encoder"), x, **mode).float().chunk(2, dim=-1)
        return Posterior(mean, self.log_std(raw))

    def decode(self, params: Mapping[str, Tensor], z: Tensor, **mode: Any) -> Tensor:
        """(S, B, Z), after whatever else the decoder looks at -> (S, B, out)."""
        return self.decoder(part(params, "decoder"), z, **mode)


def kl_to_standard_normal(posterior: Posterior) -> Tensor:
    """KL(q(z | x) || N(0, I)) of each latent dimension, -(1 + log std^2 - mean^2 - std^2) / 2: (S, B, Z)."""
    mean, log_std = posterior
    return -0.5 * (1.0 + 2.0 * log_std - torch.square(mean) - torch.exp(2.0 * log_std))


def squared_error(reconstruction: Tensor, x: Tensor) -> Tensor:
    """The reconstruction term of a Gaussian likelihood of fixed width, each entry's: (S, B, out)."""
    return torch.square(reconstruction.float() - x)
