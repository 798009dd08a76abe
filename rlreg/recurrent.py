"""A recurrent trunk with its memory cleared at episode starts, and actor and value heads on it, stacked over seeds.

Shapes: S seeds, T time, N worlds, H hidden units. Sequences are (S, T, N, ...).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlreg.errors import require
from rlreg.level_space import Category, Field, Image, Vector, with_time
from rlreg.lstm import LSTM, LSTMState
from rlreg.networks import MLP, Params, linear, named, part, uniform_init
from rlreg.rng import Rng


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

    def trunk_step(self, params: Mapping[str, Tensor], observation: Any, start: Tensor, state: LSTMState) -> LSTMState:
        """`trunk` of one time, for acting: of observations (S, N, ...) the state, whose hidden part the heads see."""
        encoded = self.encoder(params, with_time(observation)).squeeze(1)
        return self.lstm.step(part(params, "lstm"), encoded, start, state)

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
