"""Soft indicators of intervals, batched: dm_control's `tolerance` and its sigmoids, for tensors of any shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Sigmoid(NamedTuple):
    """f(z), even, 1 at zero and falling. Both functions work in place, as a batched step is paid by the operation."""

    scale: Callable[[float], float]
    """What z is at one margin from the bounds, where f is to be the given value."""
    shape: Callable[[Tensor], Tensor]
    """f, which may overwrite its argument."""


SIGMOIDS = {
    # exp(-z^2)
    "gaussian": Sigmoid(lambda v: math.sqrt(-math.log(v)), lambda z: z.square_().neg_().exp_()),
    # 1 / cosh(z)
    "hyperbolic": Sigmoid(lambda v: math.acosh(1.0 / v), lambda z: z.cosh_().reciprocal_()),
    # 1 / (1 + z^2)
    "long_tail": Sigmoid(lambda v: math.sqrt(1.0 / v - 1.0), lambda z: z.square_().add_(1.0).reciprocal_()),
    # 1 / (1 + |z|)
    "reciprocal": Sigmoid(lambda v: 1.0 / v - 1.0, lambda z: z.abs_().add_(1.0).reciprocal_()),
    # (1 + cos z) / 2 up to |z| = pi, then 0
    "cosine": Sigmoid(
        lambda v: math.acos(2.0 * v - 1.0), lambda z: z.clamp_(-math.pi, math.pi).cos_().add_(1.0).div_(2.0)
    ),
    # 1 - |z|, at least 0
    "linear": Sigmoid(lambda v: 1.0 - v, lambda z: z.abs_().neg_().add_(1.0).clamp_min_(0.0)),
    # 1 - z^2, at least 0
    "quadratic": Sigmoid(lambda v: math.sqrt(1.0 - v), lambda z: z.square_().neg_().add_(1.0).clamp_min_(0.0)),
    # 1 - tanh(z)^2
    "tanh_squared": Sigmoid(lambda v: math.atanh(math.sqrt(1.0 - v)), lambda z: z.tanh_().square_().neg_().add_(1.0)),
}


def tolerance(
    x: Tensor,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Tensor:
    """1 where `x` is within `bounds` (inclusive), falling by `sigmoid` to `value_at_margin` at `margin` beyond them.

    With a margin of zero it is 0 outside. Infinite bounds leave an end open. A fresh tensor of `x`'s shape and dtype.
    """
    lower, upper = bounds
    if margin == 0.0:
        return ((x >= lower) & (x <= upper)).to(x.dtype)
    scale, shape = SIGMOIDS[sigmoid]
    factor = scale(value_at_margin) / margin
    if lower == upper == 0.0:
        return shape(x * factor)
    if math.isinf(upper):
        distance = (x - lower).clamp_max_(0.0)
    elif math.isinf(lower):
        distance = (x - upper).clamp_min_(0.0)
    else:
        distance = x - x.clamp(lower, upper)
    return shape(distance.mul_(factor))
