"""Counter-based random numbers: every draw is a function of (seed, stream name, step, position).

There is no generator state, so nothing needs saving for an exact resume, and a seed's draws do not
depend on which other seeds share its process. The generator is Philox4x32-10 (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011) in torch integer operations: the same bits on any device,
and fused into the update by `torch.compile`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32(
    counter: Sequence[Tensor | int], key: Sequence[Tensor | int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words from a 128-bit counter and a 64-bit key.

    All are in [0, 2^32): int64 tensors that broadcast, or plain ints but for words 0 and 2 of the counter.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # A 32 x 32 bit product wraps around int64 at worst into the sign: its two halves stay right. Bits
        # above the 32nd are cut only where they would matter, before a product: ten operations a round.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = ((p1 >> 32) ^ c1 ^ k0) & _MASK, p1
        c2, c3 = ((p0 >> 32) ^ c3 ^ k1) & _MASK, p0
        k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return c0, c1 & _MASK, c2, c3 & _MASK


def stream_id(name: str) -> int:
    """A 32-bit number for a stream's name: its FNV-1a hash, in arithmetic that torch.compile can fold."""
    number = 0x811C9DC5
    for character in name:
        number = ((number ^ ord(character)) * 0x01000193) & _MASK
    return number


class Rng:
    """Random tensors for S seeds, the seeds axis first.

    `step` is an int, a 0-d int64 tensor (a compiled update can then count without recompiling), or a 1-d
    tensor of K steps, which puts an axis of K in front: a block of future draws at the price of one.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seeds = torch.tensor(list(seeds), dtype=torch.int64, device=device)

    def of_seed(self, i: int) -> Rng:
        """The draws of seed number `i` alone."""
        return Rng(self.seeds[i : i + 1].tolist(), self.seeds.device)

    def bits(self, stream: str, step: int | Tensor, shape: Sequence[int]) -> Tensor:
        """Integers in [0, 2^32), shape ([K,] S, *shape), int64."""
        size = math.prod(shape)
        device = self.seeds.device
        step = torch.as_tensor(step, dtype=torch.int64, device=device)
        steps = step[..., None, None]  # ([K,] 1, 1)
        block = torch.arange((size + 3) // 4, device=device)  # four words a counter
        words = philox4x32((block, steps & _MASK, steps >> 32, 0), (self.seeds[:, None], stream_id(stream)))
        flat = torch.stack(words, dim=-1).flatten(-2)[..., :size]
        return flat.reshape(*step.shape, len(self.seeds), *shape)

    def uniform(self, stream: str, step: int | Tensor, shape: Sequence[int]) -> Tensor:
        """Uniform on the open interval (0, 1), float32: 2^23 evenly spaced values, never 0 or 1."""
        return ((self.bits(stream, step, shape) >> 9).float() + 0.5) * 2.0**-23

    def normal(self, stream: str, step: int | Tensor, shape: Sequence[int]) -> Tensor:
        """Standard normal, float32, by Box-Muller."""
        radius, angle = self.uniform(stream, step, (2, *shape)).unbind(-len(shape) - 1)
        return torch.sqrt(-2.0 * torch.log(radius)) * torch.cos((2.0 * math.pi) * angle)

    def integers(self, stream: str, step: int | Tensor, shape: Sequence[int], high: int | Tensor) -> Tensor:
        """Integers uniform on 0 .. high - 1, int64; high at most 2^31."""
        return (self.bits(stream, step, shape) * high) >> 32


class Block:
    """One stream's draws for an acting loop, made `length` steps at a time and handed out step by step."""

    def __init__(self, rng: Rng, kind: str, stream: str, shape: Sequence[int], length: int = 512) -> None:
        self._draw = getattr(rng, kind)
        self._stream, self._shape, self._length = stream, tuple(shape), length
        self._device = rng.seeds.device
        self._first = -1
        self._values: Tensor | None = None

    def at(self, step: int) -> Tensor:
        """The draw of `step`, (S, *shape): the same as `Rng` gives for that step alone."""
        first = step - step % self._length
        if first != self._first:
            steps = torch.arange(first, first + self._length, device=self._device)
            self._values, self._first = self._draw(self._stream, steps, self._shape), first
        return self._values[step - first]
