"""Matrix products in several ways: which of them a layer takes, forward and for either gradient, is for a run to say.

The plain way is torch's own product, which Inductor fuses with what follows. On some CPUs another one is faster for
some shapes: torch's MKL may do without instructions that oneDNN uses, a batched product be slower than its parts.
`rlreg.product_choice` finds out which. All ways give the same to rounding.
Shapes: a stack of Z products (Z, m, k) @ (Z, k, n); or a single one (m, k) @ (k, n).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Way = Callable[[Tensor, Tensor, Tensor | None, bool], Tensor]
"""a @ b + bias, and ReLU of it where asked for. Contiguous."""


class Layer(NamedTuple):
    """What decides how fast the products of a layer are."""

    dtype: str
    stack: int
    """Z."""
    batch: int
    fan_in: int
    fan_out: int
    relu: bool

    @property
    def size(self) -> int:
        """Numbers in its input, weight and output."""
        return self.stack * (self.batch * self.fan_in + self.fan_in * self.fan_out + self.batch * self.fan_out)


class Ways(NamedTuple):
    """Names of `WAYS`: for a layer's output, for the gradient of its input and for that of its weight."""

    forward: str = "plain"
    input: str = "plain"
    weight: str = "plain"


PLAIN = Ways()


def plain(a: Tensor, b: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """As torch does it."""
    if bias is None:
        out = a @ b
    elif torch.compiler.is_compiling():  # Inductor makes one pass of the sum and whatever follows
        out = a @ b + bias
    else:
        out = torch.addmm(bias, a, b) if a.dim() == 2 else torch.baddbmm(bias, a, b)
    return F.relu(out) if relu else out


def transposed(a: Tensor, b: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """(b^T a^T)^T: with few columns a few long rows instead of many short ones."""
    return plain(b.mT, a.mT, None if bias is None else bias.mT, relu).mT.contiguous()


def loop(a: Tensor, b: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """A stack's products one by one, each as torch does it."""
    if a.dim() == 2:
        return plain(a, b, bias, relu)
    biases = [None] * len(a) if bias is None else bias.unbind()
    return torch.stack([plain(*parts, relu) for parts in zip(a.unbind(), b.unbind(), biases, strict=True)])


def onednn(a: Tensor, b: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """By oneDNN, one by one, with bias and ReLU in the same call."""
    if not has_onednn(a):
        return loop(a, b, bias, relu)
    if a.dim() == 2:
        return torch.ops.rlreg.onednn_product(a, b.mT, None if bias is None else bias.reshape(-1), relu)
    biases = [None] * len(a) if bias is None else bias.unbind()
    return torch.stack([onednn(*parts, relu) for parts in zip(a.unbind(), b.unbind(), biases, strict=True)])


def onednn_transposed(a: Tensor, b: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """`transposed` by oneDNN; without a bias, which it would have to add to every column."""
    if bias is not None:
        return onednn(a, b, bias, relu)
    out = onednn(b.mT, a.mT).mT.contiguous()
    return F.relu(out) if relu else out


WAYS: dict[str, Way] = {
    "plain": plain,
    "transposed": transposed,
    "loop": loop,
    "onednn": onednn,
    "onednn transposed": onednn_transposed,
}


# ---------------------------------------------------------------- oneDNN

_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
"""oneDNN's x @ weight^T + bias, an operator of torch since 2.0; None where this torch was built without it."""
_NO_SCALARS: list[float] = []


def has_onednn(x: Tensor) -> bool:
    """Whether oneDNN can take a product of this tensor's kind."""
    return _LINEAR is not None and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


# An operator of our own, which Inductor calls as it is. Its lowering of oneDNN's takes constant weights only. By
# `Library.impl` it costs 2 us a call, by `torch.library.custom_op` 10 (Intel Xeon).
_library = torch.library.Library("rlreg", "FRAGMENT")
_library.define("onednn_product(Tensor x, Tensor weight, Tensor? bias, bool relu) -> Tensor")


def _onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """x (m, k), weight (n, k), bias (n,) -> (m, n)."""
    return _LINEAR.default(x, weight, bias, "relu" if relu else "none", _NO_SCALARS, "")


_library.impl("onednn_product", _onednn_product, "CPU")


@torch.library.register_fake("rlreg::onednn_product", lib=_library)
def _shape_of_onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


# ---------------------------------------------------------------- choice

_chosen: Mapping[Layer, Ways] = {}
_otherwise = PLAIN
_seen: dict[Layer, tuple[bool, bool]] | None = None


@contextmanager
def using(chosen: Mapping[Layer, Ways], otherwise: Ways = PLAIN) -> Iterator[None]:
    """Layers take their products in the ways `chosen`, and where none is, `otherwise`; before and after, the plain one.

    A compiled program has the ways of its first call.
    """
    global _chosen, _otherwise
    before = _chosen, _otherwise
    _chosen, _otherwise = chosen, otherwise
    try:
        yield
    finally:
        _chosen, _otherwise = before


@contextmanager
def watching() -> Iterator[dict[Layer, tuple[bool, bool]]]:
    """The layers that are computed meanwhile, and whether gradients of their input and weight may be asked for."""
    global _seen
    before, _seen = _seen, {}
    try:
        yield _seen
    finally:
        _seen = before


def _ways(x: Tensor, fan_out: int, dtype: torch.dtype, relu: bool, of_input: bool, of_weight: bool) -> Ways:
    """What is chosen for a layer, of which this is taken note of where that is asked for."""
    stack = x.shape[0] if x.dim() == 3 else 1
    key = (str(dtype).removeprefix("torch."), stack, x.shape[-2], x.shape[-1], fan_out, relu)
    if _seen is not None and not torch.compiler.is_compiling():
        before = _seen.get(Layer(*key), (False, False))
        _seen[Layer(*key)] = before[0] or of_input, before[1] or of_weight
    return _chosen.get(key, _otherwise)


def layer(x: Tensor, weight: Tensor, bias: Tensor, relu: bool = False) -> Tensor:
    """x @ weight + bias, and ReLU of it where asked for: (m, k), (k, n), (1, n), or a stack of those."""
    if x.device.type != "cpu":
        return plain(x, weight, bias, relu)
    dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype
    ways = _ways(x, weight.shape[-1], dtype, relu, x.requires_grad, weight.requires_grad)
    if ways == PLAIN:
        return plain(x, weight, bias, relu)
    return _by_ways(x.to(dtype), weight.to(dtype), bias.to(dtype), relu, *ways)


def gradient_of_weight(x: Tensor, grad: Tensor) -> Tensor:
    """x^T @ grad, of a layer without ReLU whose backward pass is written out: (Z, m, k), (Z, m, n) -> (Z, k, n)."""
    if len(x) == 1:  # as in `rlreg.networks.linear`
        return _gradient_of_weight(x[0], grad[0]).unsqueeze(0)
    return _gradient_of_weight(x, grad)


def _gradient_of_weight(x: Tensor, grad: Tensor) -> Tensor:
    if x.device.type != "cpu":
        return plain(x.mT, grad)
    return WAYS[_ways(x, grad.shape[-1], x.dtype, False, False, True).weight](x.mT, grad, None, False)


def _by_ways(x: Tensor, weight: Tensor, bias: Tensor, relu: bool, forward: str, input: str, weight_way: str) -> Tensor:
    return _Layer.apply(x, weight, bias, relu, forward, input, weight_way)


def tell_compiler() -> None:
    """Have Dynamo leave `_by_ways` in its graphs as it is, before anything is compiled.

    Looking into it, it would give `torch.func.grad` the gradient of what `forward` does, not `backward` (torch 2.13).
    """
    torch.compiler.allow_in_graph(_by_ways)


class _Layer(torch.autograd.Function):
    """A layer whose output and gradients are taken in ways of their own."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, relu: bool, forward: str, input: str, gradient: str) -> Tensor:
        return WAYS[forward](x, weight, bias, relu)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
        x, weight, _, ctx.relu, _, ctx.input, ctx.weight = inputs
        ctx.save_for_backward(x, weight, *[output] * ctx.relu)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *output = ctx.saved_tensors
        if output:
            grad = torch.where(output[0] <= 0, 0.0, grad)
        of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
        return (
            WAYS[ctx.input](grad, weight.mT, None, False) if of_x else None,
            WAYS[ctx.weight](x.mT, grad, None, False) if of_weight else None,
            grad.sum(dim=-2, keepdim=True) if of_bias else None,
            *[None] * 4,
        )
