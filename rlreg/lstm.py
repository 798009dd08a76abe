"""An LSTM whose memory is cleared at episode starts, stacked over seeds, with its backward pass written out.

By hand, since autograd would add up the recurrent weight's gradient step by step, T products of which each touches the
whole matrix; here that is one product over all steps. The passes are operators of torch (`rlreg::lstm`), so that a
program which `torch.compile` makes of a student's loss has them as single calls and not as T steps unrolled.
Shapes: S seeds, T time, N worlds, I inputs, H hidden units. Sequences are (S, T, N, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlreg.compilation import compiled
from rlreg.networks import Params, linear, orthogonal_init
from rlreg.products import gradient_of_weight
from rlreg.rng import Rng


class LSTMState(NamedTuple):
    """What an LSTM remembers."""

    hidden: Tensor
    """(S, N, H)."""
    cell: Tensor
    """(S, N, H)."""


class LSTM:
    """PyTorch's LSTM of one layer, cleared wherever an episode starts. Gates in its order i, f, g, o; two biases."""

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        self.input_dim, self.hidden_dim = input_dim, hidden_dim

    def init(self, rng: Rng, name: str) -> Params:
        """Orthogonal weights (each of the two matrices as a whole) and zero biases."""
        width = 4 * self.hidden_dim
        bias = torch.zeros(len(rng.seeds), 1, width, device=rng.seeds.device)
        return {
            "input.weight": orthogonal_init(rng, f"{name}/input", self.input_dim, width),
            "input.bias": bias,
            "hidden.weight": orthogonal_init(rng, f"{name}/hidden", self.hidden_dim, width),
            "hidden.bias": bias.clone(),
        }

    def initial_state(self, num_seeds: int, num_envs: int, device: torch.device | str = "cpu") -> LSTMState:
        zeros = torch.zeros(num_seeds, num_envs, self.hidden_dim, device=device)
        return LSTMState(zeros, zeros.clone())

    def step(self, params: Mapping[str, Tensor], x: Tensor, start: Tensor, state: LSTMState) -> LSTMState:
        """The state after x (S, N, I), cleared before it where `start` (S, N) is true. For acting: plain operations."""
        keep = (~start).to(x.dtype).unsqueeze(-1)
        hidden, cell = state.hidden * keep, state.cell * keep
        total = linear(x, params["input.weight"], params["input.bias"] + params["hidden.bias"])
        i, f, g, o = (total + _product(hidden, params["hidden.weight"])).chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return LSTMState(o.sigmoid() * cell.tanh(), cell)

    def __call__(
        self, params: Mapping[str, Tensor], x: Tensor, start: Tensor, state: LSTMState
    ) -> tuple[Tensor, LSTMState]:
        """x (S, T, N, I); `start` (S, T, N) bool, True where x is an episode's first. Returns h (S, T, N, H), state.

        The state carries no gradient, neither the given one nor the returned.
        """
        bias = params["input.bias"] + params["hidden.bias"]
        keep = (~start).to(x.dtype).unsqueeze(-1)
        compiling = torch.compiler.is_compiling()
        weights = params["input.weight"], bias, params["hidden.weight"]
        hiddens, cells, _ = _forward(x, *weights, keep, state.hidden.detach(), state.cell.detach(), compiling)
        return hiddens, LSTMState(hiddens[:, -1].detach(), cells[:, -1].detach())


@torch.library.custom_op("rlreg::lstm", mutates_args=())
def _forward(
    x: Tensor,
    input_weight: Tensor,
    bias: Tensor,
    weight: Tensor,
    keep: Tensor,
    hidden: Tensor,
    cell: Tensor,
    compile_steps: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states and cells (S, T, N, H), and the gates (S, T, N, 4H) that led to them.

    x (S, T, N, I), weights (S, I, 4H) and (S, H, 4H), bias (S, 1, 4H), keep (S, T, N, 1). `compile_steps` is for the
    backward pass. The gates of all steps lie in one tensor, which changes in place: to a CPU fresh memory is dearer
    than the arithmetic that is done in it.
    """
    num_seeds, length, num_envs, _ = x.shape
    size = weight.shape[1]
    gates = linear(x.flatten(1, 2), input_weight, bias).view(num_seeds, length, num_envs, 4 * size)
    hiddens, cells = (gates.new_empty(num_seeds, length, num_envs, size) for _ in range(2))
    steps = (gates, *gates.split([2 * size, size, size], dim=-1), keep, cells, hiddens)
    for total, i_and_f, g, o, kept, new_cell, new_hidden in zip(*(s.unbind(1) for s in steps), strict=True):
        _add_product(total, hidden * kept, weight)
        i, f = i_and_f.sigmoid_().chunk(2, dim=-1)
        cell = torch.mul(f, cell * kept, out=new_cell).addcmul_(i, g.tanh_())
        hidden = torch.mul(o.sigmoid_(), torch.tanh(cell), out=new_hidden)
    return hiddens, cells, gates


@_forward.register_fake
def _(x: Tensor, input_weight: Tensor, bias: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    lead, size = x.shape[:3], weight.shape[1]
    return tuple(x.new_empty(*lead, width) for width in (size, size, 4 * size))


CHUNK = 8
"""Steps that the backward pass takes at once: as a compiled program, or with what they share prepared together."""


@torch.library.custom_op("rlreg::lstm_backward", mutates_args=())
def _backward(
    grad_hiddens: Tensor,
    x: Tensor,
    input_weight: Tensor,
    weight: Tensor,
    keep: Tensor,
    hidden: Tensor,
    cell: Tensor,
    hiddens: Tensor,
    cells: Tensor,
    gates: Tensor,
    compile_steps: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, the input's weight, the bias and the recurrent weight."""
    length = x.shape[1]
    weight_transposed = weight.mT.contiguous()
    cells_before = torch.cat([cell.unsqueeze(1), cells[:, :-1]], dim=1)
    grad_gates = torch.empty_like(gates)
    grad_state = torch.zeros_like(hidden), torch.zeros_like(cell)
    for first in reversed(range(0, length, CHUNK)):
        chunk = slice(first, first + CHUNK)
        whole = first + CHUNK <= length
        steps_backward = _compiled_steps() if compile_steps and whole else _steps_backward
        given = (grad_hiddens, gates, cells, cells_before, keep)
        of_chunk = (g[:, chunk] for g in given)
        grad_gates[:, chunk], *grad_state = steps_backward(*of_chunk, weight_transposed, *grad_state)
    before = torch.cat([hidden.unsqueeze(1), hiddens[:, :-1]], dim=1).mul_(keep)
    rows = grad_gates.flatten(1, 2)
    of_weights = gradient_of_weight(torch.cat([x, before], dim=-1).flatten(1, 2), rows)  # of both by one product
    of_input, of_hidden = (part.clone() for part in of_weights.split([x.shape[-1], weight.shape[1]], dim=1))
    return _product(rows, input_weight.mT).view_as(x), of_input, rows.sum(dim=1, keepdim=True), of_hidden


@_backward.register_fake
def _(grad_hiddens: Tensor, x: Tensor, input_weight: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, ...]:
    bias = weight.new_empty(len(weight), 1, weight.shape[-1])
    return tuple(torch.empty_like(t) for t in (x, input_weight, bias, weight))


def _steps_backward(
    grad_hiddens: Tensor,
    gates: Tensor,
    cells: Tensor,
    cells_before: Tensor,
    keep: Tensor,
    weight_transposed: Tensor,
    grad_hidden: Tensor,
    grad_cell: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """A few steps back: the gradients of their gates, and of hidden state and cell before the first of them."""
    i, f, g, o = gates.chunk(4, dim=-1)
    tanh_cells = torch.tanh(cells)
    # What the chain rule has beside the gradients of a step's hidden state and cell.
    cell_of_hidden, cell_of_before = o * (1 - tanh_cells.square()), f * keep
    slopes = (g * i * (1 - i), cells_before * cell_of_before * (1 - f), i * (1 - g.square()), tanh_cells * o * (1 - o))
    slopes_of = [slope.unbind(1) for slope in slopes]
    grad_gates = []
    for t in reversed(range(gates.shape[1])):
        grad_hidden = grad_hidden + grad_hiddens[:, t]
        grad_cell = torch.addcmul(grad_cell, grad_hidden, cell_of_hidden[:, t])
        grads = (grad_cell, grad_cell, grad_cell, grad_hidden)
        now = torch.cat([slope[t] * grad for slope, grad in zip(slopes_of, grads, strict=True)], dim=-1)
        grad_gates.append(now)
        grad_hidden = _product(now, weight_transposed) * keep[:, t]
        grad_cell = grad_cell * cell_of_before[:, t]
    return torch.stack(grad_gates[::-1], dim=1), grad_hidden, grad_cell


@cache
def _compiled_steps() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    return compiled(_steps_backward)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, input_weight, _, weight, keep, hidden, cell, ctx.compile_steps = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, input_weight, weight, keep, hidden, cell, *output)


def _gradients(ctx: Any, grad_hiddens: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    return *_backward(grad_hiddens, *ctx.saved_tensors, ctx.compile_steps), *(None,) * 4


_forward.register_autograd(_gradients, setup_context=_setup_context)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight over S; of a single seed a plain product, as in `rlreg.networks.linear`."""
    return (x[0] @ weight[0]).unsqueeze(0) if len(x) == 1 else x @ weight


def _add_product(total: Tensor, x: Tensor, weight: Tensor) -> None:
    """total += x @ weight over S, in place."""
    if len(x) == 1:
        total[0].addmm_(x[0], weight[0])
    else:
        total.baddbmm_(x, weight)
