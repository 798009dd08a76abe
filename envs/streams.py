"""Random numbers of episodes: every draw is a function of (seed, world, episode, name), and of nothing else."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlreg.purpose import Purpose
from rlreg.rng import philox4x32, stream_id


class EpisodeStreams:
    """Draws for W = S * N worlds, world n of seed s in row s * N + n, keyed by its seed, world and episode numbers.

    Computed in float64 whatever the device, and handed out in `dtype`: a world begins the same episode among any
    others and on any engine. All results are (W, *shape); `low`, `high` and `scale` are numbers or broadcast to it.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        num_envs: int,
        purpose: Purpose = Purpose.TRAIN,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        seed = torch.tensor(list(seeds), dtype=torch.int64, device=device)
        self._seed = seed.repeat_interleave(num_envs)[:, None]
        self._world = torch.arange(num_envs, device=device).repeat(len(seeds))[:, None]
        self.episode = torch.full((len(seeds) * num_envs,), -1, dtype=torch.int64, device=device)
        """(W,) the number of each world's episode, from 0; -1 before the first."""
        self.dtype = dtype
        self._purpose, self._attempt = int(purpose), 0
        self._rows: Tensor | None = None

    def reseed(self, seeds: Sequence[int]) -> None:
        """A seed for each world (W,), whose world 0 it becomes; its next episode is the first."""
        self._seed.copy_(torch.tensor(list(seeds), dtype=torch.int64)[:, None])
        self._world.zero_()
        self.episode.fill_(-1)

    def state(self) -> dict[str, Tensor]:
        """The live tensors that decide what is drawn."""
        return {"seed": self._seed, "world": self._world, "episode": self.episode}

    def of(self, mask: Tensor) -> EpisodeStreams:
        """The same streams, for use in the worlds of `mask` alone: on a CPU other rows are not computed but zero."""
        view = copy.copy(self)
        view._rows = mask.nonzero()[:, 0] if mask.device.type == "cpu" else None
        return view

    def attempt(self, k: int | Tensor) -> EpisodeStreams:
        """The same streams, drawing anew for attempt `k` of a rejection loop."""
        view = copy.copy(self)
        view._attempt = k
        return view

    def uniform(
        self, name: str, low: float | Tensor = 0.0, high: float | Tensor = 1.0, shape: Sequence[int] = ()
    ) -> Tensor:
        """Uniform on [low, high), with 53 random bits in float64."""
        return low + (high - low) * self._all_rows(self._uniform(name, shape)).to(self.dtype)

    def normal(self, name: str, shape: Sequence[int] = (), scale: float | Tensor = 1.0) -> Tensor:
        """Normal with mean zero and standard deviation `scale`, by Box-Muller."""
        radius, angle = self._uniform(name, (2, *shape)).unbind(1)
        values = torch.sqrt(-2.0 * torch.log1p(-radius)) * torch.cos((2.0 * math.pi) * angle)
        return scale * self._all_rows(values).to(self.dtype)

    def integers(self, name: str, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Uniform on 0 .. high - 1, int64; high at most 2^31."""
        words = torch.as_tensor(self._bits(name, math.prod(shape))[0])
        return self._all_rows((words * high >> 32).reshape(len(words), *shape))

    # ------------------------------------------------------------ the words

    def _bits(self, name: str, size: int) -> tuple[Tensor | NDArray, Tensor | NDArray]:
        """Two random 32-bit words for each of `size` positions, (rows, size) int64 each.

        On a CPU in numpy, whose operations on few numbers take a fifth of torch's time.
        """
        seed, world, episode = self._seed, self._world, self.episode[:, None]
        if self._rows is not None:
            seed, world, episode = (x[self._rows] for x in (seed, world, episode))
        blocks = torch.arange((size + 1) // 2, device=seed.device)  # four words a counter, two a position
        stack = torch.stack
        if seed.device.type == "cpu":
            seed, world, episode, blocks = (x.numpy() for x in (seed, world, episode, blocks))
            stack = np.stack
        key = (seed, stream_id(f"episode/{self._purpose}/{name}"))
        words = philox4x32((blocks, world, episode, self._attempt), key)
        first, second = (stack(pair, -1).reshape(len(seed), -1) for pair in (words[:2], words[2:]))
        return first[:, :size], second[:, :size]

    def _uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        high, low = self._bits(name, math.prod(shape))
        bits = (high >> 5) * 2**26 + (low >> 6)
        fraction = bits.double() * 2.0**-53 if isinstance(bits, Tensor) else torch.from_numpy(bits * 2.0**-53)
        return fraction.reshape(len(high), *shape)

    def _all_rows(self, values: Tensor) -> Tensor:
        if self._rows is None:
            return values
        full = values.new_zeros(len(self.episode), *values.shape[1:])
        full[self._rows] = values
        return full
