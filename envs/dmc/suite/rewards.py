"""Soft indicators of intervals, batched: dm_control's `tolerance` and its sigmoids, for tensors of any shape."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Sigmoid = Callable[[Tensor, float], Tensor]


def _gaussian(x: Tensor, value: float) -> Tensor:
    """exp(-(x s)^2 / 2)."""
    scale = math.sqrt(-2.0 * math.log(value))
    return torch.exp(-0.5 * (x * scale).square())


def _hyperbolic(x: Tensor, value: float) -> Tensor:
    """1 / cosh(x s)."""
    return 1.0 / torch.cosh(x * math.acosh(1.0 / value))


def _long_tail(x: Tensor, value: float) -> Tensor:
    """1 / ((x s)^2 + 1)."""
    return 1.0 / ((x * math.sqrt(1.0 / value - 1.0)).square() + 1.0)


def _reciprocal(x: Tensor, value: float) -> Tensor:
    """1 / (|x| s + 1)."""
    return 1.0 / (x.abs() * (1.0 / value - 1.0) + 1.0)


def _cosine(x: Tensor, value: float) -> Tensor:
    """(1 + cos(pi x s)) / 2 up to |x s| = 1, zero beyond."""
    scaled = (x * (math.acos(2.0 * value - 1.0) / math.pi)).abs().clamp_max(1.0)
    return (1.0 + torch.cos(math.pi * scaled)) / 2.0


def _linear(x: Tensor, value: float) -> Tensor:
    """1 - x s up to |x s| = 1, zero beyond."""
    scaled = x * (1.0 - value)
    return torch.where(scaled.abs() < 1.0, 1.0 - scaled, 0.0)


def _quadratic(x: Tensor, value: float) -> Tensor:
    """1 - (x s)^2, at least zero."""
    return (1.0 - (x * math.sqrt(1.0 - value)).square()).clamp_min(0.0)


def _tanh_squared(x: Tensor, value: float) -> Tensor:
    """1 - tanh(x s)^2."""
    return 1.0 - torch.tanh(x * math.atanh(math.sqrt(1.0 - value))).square()


SIGMOIDS: dict[str, Sigmoid] = {
    "gaussian": _gaussian,
    "hyperbolic": _hyperbolic,
    "long_tail": _long_tail,
    "reciprocal": _reciprocal,
    "cosine": _cosine,
    "linear": _linear,
    "quadratic": _quadratic,
    "tanh_squared": _tanh_squared,
}
"""f(distance in margins, value at one margin): 1 at zero, falling."""


def tolerance(
    x: Tensor,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Tensor:
    """1 where `x` is within `bounds` (inclusive), falling by `sigmoid` to `value_at_margin` at `margin` beyond them.

    With a margin of zero it is 0 outside. Infinite bounds leave an end open. Shape and dtype of `x`.
    """
    lower, upper = bounds
    if margin == 0.0:
        return ((x >= lower) & (x <= upper)).to(x.dtype)
    if lower == upper:
        distance = (x - lower).abs() if lower else x.abs()
    elif math.isinf(upper):
        distance = (lower - x).clamp_min(0.0)
    elif math.isinf(lower):
        distance = (x - upper).clamp_min(0.0)
    else:
        distance = torch.maximum(lower - x, x - upper).clamp_min(0.0)
    return SIGMOIDS[sigmoid](distance / margin, value_at_margin)
