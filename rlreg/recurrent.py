"""A recurrent trunk with its memory cleared at episode starts, and actor and value heads on it, stacked over seeds.

Shapes: S seeds, T time, N worlds, I inputs, H hidden units. Sequences are (S, T, N, ...).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlreg.errors import require
from rlreg.level_space import Category, Field, Image, Vector
from rlreg.networks import MLP, Params, linear, named, orthogonal_init, part, uniform_init
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

    def __call__(
        self, params: Mapping[str, Tensor], x: Tensor, start: Tensor, state: LSTMState
    ) -> tuple[Tensor, LSTMState]:
        """x (S, T, N, I); `start` (S, T, N) bool, True where x is an episode's first. Returns h (S, T, N, H), state."""
        bias = params["input.bias"] + params["hidden.bias"]
        keep = (~start).to(x.dtype).unsqueeze(-1)
        outputs, *state = _Recurrence.apply(x, params["input.weight"], bias, params["hidden.weight"], keep, *state)
        return outputs, LSTMState(*state)


class _Recurrence(torch.autograd.Function):
    """An LSTM on a sequence, with its backward pass written out. The final state carries no gradient.

    By hand, since autograd would add up the recurrent weight's gradient step by step, T products of which each
    touches the whole matrix; here that is one product over all steps. And since to a CPU fresh memory is dearer than
    the arithmetic done in it: the gates of all steps lie in one tensor, which changes in place, and the backward pass
    prepares as many steps at once as fit into the cache. Worth (benchmarks/tricks.py): 1.5x torch's `LSTMCell`, cleared
    step by step, on an Intel Xeon with AVX-512.
    Shapes: x (S, T, N, I), weights (S, I, 4H) and (S, H, 4H), bias (S, 1, 4H), keep (S, T, N, 1).
    """

    CHUNK = 16
    """Steps that the backward pass prepares at once."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        input_weight: Tensor,
        bias: Tensor,
        weight: Tensor,
        keep: Tensor,
        hidden: Tensor,
        cell: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        num_seeds, length, num_envs, _ = x.shape
        size = weight.shape[1]
        gates = linear(x.flatten(1, 2), input_weight, bias).view(num_seeds, length, num_envs, 4 * size)
        # Of all steps, with the state before the first in front.
        hiddens, cells = (gates.new_empty(num_seeds, length + 1, num_envs, size) for _ in range(2))
        hiddens[:, 0], cells[:, 0] = hidden, cell
        steps = (gates, *gates.split([2 * size, size, size], dim=-1), keep, cells[:, 1:], hiddens[:, 1:])
        for total, i_and_f, g, o, kept, new_cell, new_hidden in zip(*(s.unbind(1) for s in steps), strict=True):
            _add_product(total, hidden * kept, weight)
            i, f = i_and_f.sigmoid_().chunk(2, dim=-1)
            cell = torch.mul(f, cell * kept, out=new_cell).addcmul_(i, g.tanh_())
            hidden = torch.mul(o.sigmoid_(), torch.tanh(cell), out=new_hidden)
        ctx.save_for_backward(x, input_weight, weight, keep, gates, hiddens, cells)
        final = hidden.clone(), cell.clone()
        ctx.mark_non_differentiable(*final)
        return hiddens[:, 1:], *final

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_outputs: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, input_weight, weight, keep, gates, hiddens, cells = ctx.saved_tensors
        weight_transposed = weight.mT.contiguous()
        grad_gates = torch.empty_like(gates)
        grad_hidden, grad_cell = torch.zeros_like(cells[:, 0]), torch.zeros_like(cells[:, 0])
        for first in reversed(range(0, x.shape[1], _Recurrence.CHUNK)):
            chunk = slice(first, first + _Recurrence.CHUNK)
            i, f, g, o = gates[:, chunk].chunk(4, dim=-1)
            kept, tanh_cells = keep[:, chunk], torch.tanh(cells[:, 1:][:, chunk])
            # What the chain rule has beside the gradients of a step's hidden state and cell.
            cell_of_hidden, cell_of_before = o * (1 - tanh_cells.square()), f * kept
            slopes = [
                g * i * (1 - i),
                cells[:, :-1][:, chunk] * cell_of_before * (1 - f),
                i * (1 - g.square()),
                tanh_cells * o * (1 - o),
            ]
            grads = torch.cat(slopes, dim=-1, out=grad_gates[:, chunk]).unflatten(-1, (4, -1))
            for t in reversed(range(grads.shape[1])):
                grad_hidden = grad_hidden + grad_outputs[:, first + t]
                grad_cell = torch.addcmul(grad_cell, grad_hidden, cell_of_hidden[:, t])
                now = grads[:, t]
                now[..., :3, :].mul_(grad_cell.unsqueeze(-2))  # i, f, g
                now[..., 3, :].mul_(grad_hidden)  # o
                grad_hidden = _product(now.flatten(-2), weight_transposed) * kept[:, t]
                grad_cell = grad_cell * cell_of_before[:, t]
        before = (hiddens[:, :-1] * keep).flatten(1, 2)
        rows = grad_gates.flatten(1, 2)
        return (
            _product(rows, input_weight.mT).view_as(x),
            _product(x.flatten(1, 2).mT, rows),
            rows.sum(dim=1, keepdim=True),
            _product(before.mT, rows),
            *(None,) * 3,
        )


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight over S; of a single seed a plain product, as in `rlreg.networks.linear`."""
    return (x[0] @ weight[0]).unsqueeze(0) if len(x) == 1 else x @ weight


def _add_product(total: Tensor, x: Tensor, weight: Tensor) -> None:
    """total += x @ weight over S, in place."""
    if len(x) == 1:
        total[0].addmm_(x[0], weight[0])
    else:
        total.baddbmm_(x, weight)


class Encoder:
    """Observations of a task's own fields as one vector, for the LSTM: each field by its kind, one after the other.

    An `Image` by one 3x3 convolution with ReLU, a `Category` by a linear layer of its one-hot vector, a `Vector` as it
    is.
    """

    KERNEL = 3

    def __init__(self, observation: Mapping[str, Field], filters: int = 16, category_dim: int = 5) -> None:
        """Raises `UserError` for an image that is smaller than the convolution's kernel."""
        self.observation, self.filters, self.category_dim = dict(observation), filters, category_dim
        for name, field in self.observation.items():
            if isinstance(field, Image):
                valid = f"at least {self.KERNEL} x {self.KERNEL}"
                size = f"{field.height} x {field.width}"
                require(min(field.height, field.width) >= self.KERNEL, f"observation.{name}", size, valid)
        self.out_dim = sum(self._width(field) for field in self.observation.values())

    def _positions(self, image: Image) -> int:
        """Where the kernel fits into an image."""
        return (image.height - self.KERNEL + 1) * (image.width - self.KERNEL + 1)

    def _width(self, field: Field) -> int:
        if isinstance(field, Image):
            return self.filters * self._positions(field)
        return self.category_dim if isinstance(field, Category) else field.size

    def init(self, rng: Rng) -> Params:
        params: Params = {}
        for name, field in self.observation.items():
            if isinstance(field, Image):
                patch = self.KERNEL**2 * field.channels
                xavier = math.sqrt(6.0 / (patch + self.KERNEL**2 * self.filters))
                weight = xavier * (2.0 * rng.uniform(f"init/{name}", 0, (patch, self.filters)) - 1.0)
                params[f"{name}.weight"] = weight
                params[f"{name}.bias"] = weight.new_zeros(len(weight), 1, self.filters)
            elif isinstance(field, Category):
                for part_name, rows in (("weight", field.count), ("bias", 1)):
                    stream = f"init/{name}.{part_name}"
                    params[f"{name}.{part_name}"] = uniform_init(rng, stream, field.count, (rows, self.category_dim))
        return params

    def __call__(self, params: Mapping[str, Tensor], observation: Any) -> Tensor:
        """Fields (S, T, N, ...) -> (S, T, N, out_dim)."""
        encoded = []
        for (name, field), x in zip(self.observation.items(), observation, strict=True):
            if isinstance(field, Vector):
                encoded.append(x)
                continue
            weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
            lead = x.shape[:3]
            if isinstance(field, Image):
                patches = (x / field.scale).unfold(3, self.KERNEL, 1).unfold(4, self.KERNEL, 1)
                patches = patches.reshape(lead[0], lead[1] * lead[2] * self._positions(field), -1)
                encoded.append(F.relu(linear(patches, weight, bias).view(*lead, -1)))
            else:
                one_hot = F.one_hot(x, field.count).to(weight.dtype).flatten(1, 2)
                encoded.append(linear(one_hot, weight, bias).view(*lead, -1))
        return torch.cat(encoded, dim=-1)


class RecurrentActorCritic:
    """DRED's student (section 5.1 of its specification as released): what is seen -> one LSTM -> two heads.

    The `Encoder` of the task's observations, an LSTM, and on its output a policy and a value with one tanh layer each.
    On MiniGrid's view (5x5x3, values / 10) and direction 433,953 parameters at the defaults.
    """

    def __init__(
        self,
        observation: Mapping[str, Field],
        num_actions: int,
        hidden_dim: int = 256,
        filters: int = 16,
        category_dim: int = 5,
        head_dim: int = 32,
    ) -> None:
        self.encoder = Encoder(observation, filters, category_dim)
        self.lstm = LSTM(self.encoder.out_dim, hidden_dim)
        self.policy_head = MLP((hidden_dim, head_dim, num_actions), activation=torch.tanh)
        self.value_head = MLP((hidden_dim, head_dim, 1), lead=(1,), activation=torch.tanh)
        """Stacked as an ensemble of one critic, so that any critic regulariser takes its features."""

    def init(self, rng: Rng) -> Params:
        params = self.encoder.init(rng)
        params |= named("lstm", self.lstm.init(rng, "init/lstm"))
        params |= named("policy", self.policy_head.orthogonal_init(rng, "policy", (math.sqrt(2.0), 0.01)))
        return params | named("value", self.value_head.orthogonal_init(rng, "value", (math.sqrt(2.0), 1.0)))

    def initial_state(self, num_seeds: int, num_envs: int, device: torch.device | str = "cpu") -> LSTMState:
        return self.lstm.initial_state(num_seeds, num_envs, device)

    def trunk(
        self, params: Mapping[str, Tensor], observation: Any, start: Tensor, state: LSTMState
    ) -> tuple[Tensor, LSTMState]:
        """b, what both heads see, of observations (S, T, N, ...): (S, T, N, H), state. `start` (S, T, N) is bool."""
        return self.lstm(part(params, "lstm"), self.encoder(params, observation), start, state)

    def logits(self, params: Mapping[str, Tensor], trunk: Tensor) -> Tensor:
        """(S, B, H) -> (S, B, actions)."""
        return self.policy_head(part(params, "policy"), trunk)

    def value_features(self, params: Mapping[str, Tensor], trunk: Tensor) -> Tensor:
        """phi of V = phi^T w + b: (S, B, H) -> (S, 1, B, head_dim)."""
        return self.value_head.features(part(params, "value"), trunk.unsqueeze(1))

    def value(self, params: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """V from its features: (S, 1, B, head_dim) -> (S, B)."""
        return self.value_head.head(part(params, "value"), features).squeeze(-1).squeeze(1)

    def value_weight(self, params: Mapping[str, Tensor]) -> Tensor:
        """w of V = phi^T w + b: (S, 1, head_dim)."""
        return params["value.1.weight"].squeeze(-1)
