"""Actor and critic networks, stacked over seeds.

A network here is a stateless function of a dictionary of parameters, `net(params, x)`: the online, target
and detached versions of one network are three dictionaries. Every parameter carries its leading axes in
front, weights (S, [E,] in, out) and biases (S, [E,] 1, out), so that S independent agents with E critics
each are one batched matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rlreg import products
from rlreg.rng import Rng

Params = dict[str, Tensor]
Normalize = Callable[[Tensor], Tensor]
"""What a network does to an observation first: `Normalizer`, or nothing."""


def unchanged(obs: Tensor) -> Tensor:
    return obs


def linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool = False) -> Tensor:
    """`x @ weight + bias` over any leading axes: (..., B, in), (..., in, out), (..., 1, out) -> (..., B, out).

    With `relu`, the positive part of that: some ways of taking products do it in the same call.
    """
    *lead, fan_in, fan_out = weight.shape
    stack = math.prod(lead)
    batch = x.shape[-2]
    if stack == 1:  # one plain product: a batched one over one matrix is many times slower on some CPUs, 1x on others
        x, weight, bias = x.reshape(batch, fan_in), weight.reshape(fan_in, fan_out), bias.reshape(1, fan_out)
    else:
        x = x.expand(*lead, batch, fan_in).reshape(stack, batch, fan_in)
        weight, bias = weight.reshape(stack, fan_in, fan_out), bias.reshape(stack, 1, fan_out)
    return products.layer(x, weight, bias, relu).reshape(*lead, batch, fan_out)


def uniform_init(rng: Rng, stream: str, fan_in: int, shape: Sequence[int]) -> Tensor:
    """PyTorch's default for linear layers, weights and biases alike: uniform on +-1/sqrt(fan_in), (S, *shape)."""
    return (2.0 * rng.uniform(stream, 0, shape) - 1.0) / math.sqrt(fan_in)


def orthogonal_init(
    rng: Rng, stream: str, fan_in: int, fan_out: int, gain: float = 1.0, lead: Sequence[int] = ()
) -> Tensor:
    """`gain` times random (S, *lead, fan_in, fan_out) matrices whose rows or columns, the fewer, are orthonormal.

    Uniform over all of those, by the QR decomposition of a normal matrix (Saxe et al. 2014).
    """
    tall = max(fan_in, fan_out), min(fan_in, fan_out)
    q, r = torch.linalg.qr(rng.normal(stream, 0, (*lead, *tall)))
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    return gain * (q if fan_in >= fan_out else q.mT).contiguous()


class MLP:
    """Linear layers with ReLU between. `features` are the last hidden layer's, after its ReLU."""

    def __init__(
        self,
        sizes: Sequence[int],
        lead: Sequence[int] = (),
        activation: Callable[[Tensor], Tensor] = F.relu,
        multiple_of: int = 1,
    ) -> None:
        """`sizes`: in, hidden..., out. `lead`: axes between the seeds and the matrices, such as (E,).

        `multiple_of`: hidden widths are rounded up to a multiple of it by units that are of no effect: all their
        weights are zero and their gradients too, given an activation that keeps zero. What this is for: matrix
        products whose rows begin at round addresses are faster (752 for 750 by up to a quarter on one CPU, not at all
        on an Intel Xeon with AVX-512: benchmarks/tricks.py).
        """
        self.sizes, self.lead, self.activation = tuple(sizes), tuple(lead), activation
        self.depth = len(self.sizes) - 1
        self.multiple_of = multiple_of

    def init(self, rng: Rng, name: str) -> Params:
        """PyTorch's default initialisation."""
        params = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            rows = -fan_in % self.multiple_of if layer > 0 else 0
            columns = -fan_out % self.multiple_of if layer < self.depth - 1 else 0
            for part, shape, extra in (("weight", (fan_in, fan_out), rows), ("bias", (1, fan_out), 0)):
                drawn = uniform_init(rng, f"init/{name}/{layer}.{part}", fan_in, (*self.lead, *shape))
                params[f"{layer}.{part}"] = F.pad(drawn, (0, columns, 0, extra))
        return params

    def orthogonal_init(self, rng: Rng, name: str, gains: Sequence[float]) -> Params:
        """Orthogonal weights times a gain each layer, and biases of zero."""
        params = {}
        for layer, (fan_in, fan_out, gain) in enumerate(zip(self.sizes[:-1], self.sizes[1:], gains, strict=True)):
            weight = orthogonal_init(rng, f"init/{name}/{layer}", fan_in, fan_out, gain, self.lead)
            params[f"{layer}.weight"] = weight
            params[f"{layer}.bias"] = torch.zeros_like(weight[..., :1, :])
        return params

    def features(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """(S, [E,] B, in) -> (S, [E,] B, H)."""
        for layer in range(self.depth - 1):
            weight, bias = params[f"{layer}.weight"], params[f"{layer}.bias"]
            if self.activation is F.relu:
                x = linear(x, weight, bias, relu=True)
            else:
                x = self.activation(linear(x, weight, bias))
        return x

    def head(self, params: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """(S, [E,] B, H) -> (S, [E,] B, out)."""
        last = self.depth - 1
        return linear(features, params[f"{last}.weight"], params[f"{last}.bias"])

    def __call__(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return self.head(params, self.features(params, x))


class Actor:
    """Deterministic policy mu(s) = tanh(MLP(s)), in [-1, 1]."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        normalize: Normalize = unchanged,
        multiple_of: int = 1,
    ) -> None:
        self.mlp, self.normalize = MLP((obs_dim, *hidden, action_dim), multiple_of=multiple_of), normalize

    def init(self, rng: Rng, name: str = "actor") -> Params:
        return self.mlp.init(rng, name)

    def __call__(self, params: Mapping[str, Tensor], obs: Tensor) -> Tensor:
        """(S, B, O) -> (S, B, A)."""
        return torch.tanh(self.mlp(params, self.normalize(obs)))


class Critic:
    """E state-action values Q(s, a) = phi(s, a)^T w + b, with the features phi on request."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        num_critics: int = 1,
        normalize: Normalize = unchanged,
    ) -> None:
        self.mlp = MLP((obs_dim + action_dim, *hidden, 1), lead=(num_critics,))
        self.normalize = normalize

    def init(self, rng: Rng, name: str = "critic") -> Params:
        return self.mlp.init(rng, name)

    def features(self, params: Mapping[str, Tensor], obs: Tensor, action: Tensor) -> Tensor:
        """phi(s, a), the last hidden layer: (S, B, O), (S, B, A) -> (S, E, B, H)."""
        return self.mlp.features(params, torch.cat([self.normalize(obs), action], dim=-1).unsqueeze(1))

    def value(self, params: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """Q from its features: (S, E, B, H) -> (S, E, B)."""
        return self.mlp.head(params, features).squeeze(-1)

    def head_weight(self, params: Mapping[str, Tensor]) -> Tensor:
        """w, the last layer's weight without its bias: (S, E, H)."""
        return params[f"{self.mlp.depth - 1}.weight"].squeeze(-1)

    def __call__(self, params: Mapping[str, Tensor], obs: Tensor, action: Tensor) -> Tensor:
        """Q(s, a): (S, B, O), (S, B, A) -> (S, E, B)."""
        return self.value(params, self.features(params, obs, action))


class StateValue:
    """V(s)."""

    def __init__(self, obs_dim: int, hidden: Sequence[int] = (256, 256), normalize: Normalize = unchanged) -> None:
        self.mlp, self.normalize = MLP((obs_dim, *hidden, 1)), normalize

    def init(self, rng: Rng, name: str = "value") -> Params:
        return self.mlp.init(rng, name)

    def __call__(self, params: Mapping[str, Tensor], obs: Tensor) -> Tensor:
        """(S, B, O) -> (S, B)."""
        return self.mlp(params, self.normalize(obs)).squeeze(-1)


class Normalizer:
    """s -> (s - mean) / (std + 1e-3) by a data set's states (Fujimoto & Gu 2021, section 5); until `fit`, s itself.

    An agent that has one gives it to its networks, as the layer before their first: everything outside of
    the networks, data and environments alike, holds raw observations.
    """

    def __init__(self, num_seeds: int, obs_dim: int, device: torch.device | str = "cpu") -> None:
        self.mean = torch.zeros(num_seeds, 1, obs_dim, device=device)
        self.scale = torch.ones(num_seeds, 1, obs_dim, device=device)

    def fit(self, obs: Tensor) -> None:
        """Take mean and (population) standard deviation of the states (n, O), the same for all seeds, in place."""
        obs = obs.double()
        self.mean.copy_(obs.mean(dim=0))
        self.scale.copy_(obs.std(dim=0, correction=0) + 1e-3)

    def __call__(self, obs: Tensor) -> Tensor:
        """(S, B, O) -> (S, B, O)."""
        return (obs - self.mean) / self.scale

    def fold(self, params: Mapping[str, Tensor]) -> Params:
        """The parameters that make of raw observations what `params` make of normalised ones.

        For an MLP whose input begins with the observation: with W its rows of the first layer's weight,
        ((s - mean) / scale) W + b = s (W / scale) + (b - (mean / scale) W).
        """
        weight, bias = params["0.weight"].double(), params["0.bias"].double()
        num_seeds, _, obs_dim = self.mean.shape
        stacked = (num_seeds, *[1] * (weight.dim() - 3), 1, obs_dim)
        mean, scale = self.mean.double().view(stacked), self.scale.double().view(stacked)
        rows = weight[..., :obs_dim, :] / scale.mT
        folded = {"0.weight": torch.cat([rows, weight[..., obs_dim:, :]], dim=-2), "0.bias": bias - mean @ rows}
        return {**params, **{name: value.to(params[name].dtype) for name, value in folded.items()}}

    def state(self) -> Params:
        return {"mean": self.mean, "scale": self.scale}


class RunningNormalizer(Normalizer):
    """s -> (s - mean) / (std + 1e-2) by the states seen so far, each seed's own; before the first, s itself.

    Mean and squares are summed up in float64, a batch at a time (Chan, Golub and LeVeque 1983).
    """

    def __init__(self, num_seeds: int, obs_dim: int, device: torch.device | str = "cpu") -> None:
        super().__init__(num_seeds, obs_dim, device)
        self._mean, self._squares = self.mean.double(), torch.zeros_like(self.mean, dtype=torch.float64)
        self._count = torch.zeros(num_seeds, 1, 1, dtype=torch.float64, device=device)

    def update(self, obs: Tensor) -> None:
        """Take in states (S, N, O), in place."""
        obs, new = obs.double(), obs.shape[1]
        mean = obs.mean(dim=1, keepdim=True)
        shift, total = mean - self._mean, self._count + new
        self._squares += torch.square(obs - mean).sum(dim=1, keepdim=True)
        self._squares += torch.square(shift) * (self._count * new / total)
        self._mean += shift * (new / total)
        self._count.copy_(total)
        self.mean.copy_(self._mean)
        self.scale.copy_((self._squares / total).sqrt() + 1e-2)

    def state(self) -> Params:
        sums = {"running_mean": self._mean, "squares": self._squares, "count": self._count}
        return super().state() | sums


def part(params: Mapping[str, Tensor], name: str) -> Params:
    """The parameters of one part: {'lstm.bias': x} -> {'bias': x} for 'lstm'."""
    return {k.removeprefix(f"{name}."): v for k, v in params.items() if k.startswith(f"{name}.")}


def named(name: str, params: Mapping[str, Tensor]) -> Params:
    """The parameters of one part, by their names in the whole: `part` undone."""
    return {f"{name}.{k}": v for k, v in params.items()}


def detached(params: Mapping[str, Tensor]) -> Params:
    """The same tensors, cut from any gradient."""
    return {name: value.detach() for name, value in params.items()}


def first_critic(params: Mapping[str, Tensor]) -> Params:
    """The parameters of critic 0 alone, as an ensemble of one: (S, E, ...) -> (S, 1, ...)."""
    return {name: value[:, :1] for name, value in params.items()}


def polyak_(target: Params, online: Mapping[str, Tensor], tau: float) -> None:
    """target <- (1 - tau) target + tau online, in place."""
    torch._foreach_lerp_(list(target.values()), [online[name].detach() for name in target], tau)
