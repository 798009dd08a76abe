"""Transitions on the training device, written and sampled by index."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rlreg.rng import Rng


class Batch(NamedTuple):
    """B transitions per seed."""

    obs: Tensor
    """(S, B, O)."""
    action: Tensor
    """(S, B, A), in [-1, 1]."""
    reward: Tensor
    """(S, B)."""
    next_obs: Tensor
    """(S, B, O): the observation the action led to, never that of a following episode."""
    terminated: Tensor
    """(S, B), 1.0 where the task ended; 0.0 where a time limit cut the episode."""


class NStepBatch(NamedTuple):
    """B transitions per seed over several steps: a `Batch`, and how many steps each is of."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    """(S, B): r_1 + gamma r_2 + ... + gamma^(k-1) r_k."""
    next_obs: Tensor
    """(S, B, O): what the k steps led to."""
    terminated: Tensor
    """(S, B), 1.0 where the task ended there."""
    discount: Tensor
    """(S, B): gamma^k, the weight of the value of `next_obs`."""


GOES_ON, TRUNCATED, STANDS_IN, UNKNOWN = 0.0, 1.0, 2.0, -1.0
"""What follows a row: the world's next step; nothing, its episode was cut here; nothing, it stands for one left out;
what an earlier version did not keep."""


class Replay:
    """A ring of transitions for each of S seeds.

    A transition is one row [obs | action | reward | next_obs | terminated | what follows] of one tensor, so that a
    batch is one gather. Memory is reserved, and touched only as the ring fills.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        capacity: int,
        obs_dim: int,
        action_dim: int,
        device: torch.device | str = "cpu",
        n_step: int = 1,
        discount: float = 1.0,
        num_envs: int = 1,
    ) -> None:
        """With `n_step` above 1 samples are returns of up to so many steps, discounted by `discount`.

        Then every `add` has to be of the same `num_envs` worlds. A row's last column, `GOES_ON`, `TRUNCATED` or
        `STANDS_IN`, says how far a return may look ahead.
        """
        self.capacity, self.n_step, self.discount, self.num_envs = capacity, n_step, discount, num_envs
        self.widths = (*_widths(obs_dim, action_dim), 1)
        self.rows = torch.empty(len(seeds), capacity, sum(self.widths), device=device)
        self.rng = Rng(seeds, device)
        self.inserted = 0
        """Rows ever inserted, per seed; row i lies in slot i % capacity."""
        self.size = torch.zeros((), dtype=torch.int64, device=device)
        """min(inserted, capacity) on the device, where a compiled update reads it."""
        self.end = torch.zeros((), dtype=torch.int64, device=device)
        """`inserted` on the device."""
        self._seed_index = torch.arange(len(seeds), device=device)[:, None]
        self._ahead = torch.arange(n_step, device=device)

    def add(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        next_obs: Tensor,
        terminated: Tensor,
        left_out: Tensor | None = None,
        truncated: Tensor | None = None,
    ) -> None:
        """Insert N transitions per seed: obs (S, N, O), action (S, N, A), reward, terminated and truncated (S, N).

        Those of `left_out` (S, N) bool are not stored; the seed's transition before stands in their place once more, as
        all seeds and worlds keep in step. Such a stand-in is never sampled.
        """
        truncated = torch.zeros_like(terminated) if truncated is None else truncated
        flags = (x[..., None].to(obs.dtype) for x in (terminated, truncated))
        rows = torch.cat([obs, action, reward[..., None], next_obs, *flags], dim=-1)
        if left_out is not None:  # whether there are any is not looked at, which would hold up a GPU at every step
            rows = self._with_stand_ins(rows, left_out)
            rows[..., -1].masked_fill_(left_out, STANDS_IN)
        self.write(self.inserted, rows)

    def _with_stand_ins(self, rows: Tensor, left_out: Tensor) -> Tensor:
        count = torch.arange(rows.shape[1], device=rows.device)
        source = torch.where(left_out, -1, count).cummax(dim=1).values  # the last good one up to here; -1: none
        if self.inserted == 0:  # nothing before: the first good one of these
            source = torch.where(source < 0, (~left_out).int().argmax(dim=1, keepdim=True), source)
        before = self.rows[:, (self.inserted - 1) % self.capacity]
        candidates = torch.cat([before[:, None], rows], dim=1)
        return candidates.gather(1, (source + 1)[..., None].expand_as(rows))

    def write(self, first: int, rows: Tensor) -> None:
        """Put rows (S, n, width) at row numbers first .. first + n - 1; `inserted` becomes their end.

        Rows of an earlier version are one column narrower: it did not keep what follows them.
        """
        rows = F.pad(rows, (0, self.rows.shape[2] - rows.shape[2]), value=UNKNOWN)
        start = first % self.capacity
        head = min(rows.shape[1], self.capacity - start)
        self.rows[:, start : start + head] = rows[:, :head]
        if head < rows.shape[1]:
            self.rows[:, : rows.shape[1] - head] = rows[:, head:]
        self.inserted = first + rows.shape[1]
        self.size.fill_(min(self.inserted, self.capacity))
        self.end.fill_(self.inserted)

    def read(self, first: int, last: int) -> Tensor:
        """Rows first .. last - 1 by row number, (S, last - first, width); they must still be in the ring."""
        slots = torch.arange(first, last, device=self.rows.device) % self.capacity
        return self.rows.index_select(1, slots)

    def sample(self, stream: str, step: int | Tensor, batch_size: int) -> Batch | NStepBatch:
        """Uniform with replacement over what was stored: a function of (seed, stream, step) and what the ring holds."""
        slots = self._without_stand_ins(self.rng.integers(stream, step, (batch_size,), self.size))
        return self.returns(slots) if self.n_step > 1 else self.batch(self.rows[self._seed_index, slots])

    def of_seed(self, i: int) -> Self:
        """What seed number `i` has here, to sample from: the same memory, to which only this one adds."""
        one = copy.copy(self)
        one.rows, one.rng = self.rows[i : i + 1], self.rng.of_seed(i)
        one._seed_index = self._seed_index[:1]
        return one

    def _without_stand_ins(self, slots: Tensor) -> Tensor:
        """`slots` (S, B), each stand-in's replaced by the draw before it in the batch that is none.

        As draws are independent, each one is then uniform over the other rows; nothing is looked at, and no number
        more is drawn. A batch of stand-ins alone, of a seed that has hardly anything else, stays as it is.
        """
        good = self.rows[..., -1][self._seed_index, slots] != STANDS_IN
        count = torch.arange(slots.shape[1], device=slots.device)
        source = torch.where(good, count, -1).cummax(dim=1).values
        source = torch.where(source < 0, good.int().argmax(dim=1, keepdim=True), source)
        return slots.gather(1, source)

    def batch(self, rows: Tensor) -> Batch:
        """Name the columns of rows (S, B, width)."""
        return _batch(rows, self.widths)

    def returns(self, slots: Tensor) -> NStepBatch:
        """The n-step transitions that begin in `slots` (S, B).

        A return ends before its n steps are over with the episode, where a row was left out, and at the newest row:
        it is then of fewer steps, and its `discount` says of how many.
        """
        first = self.end - 1 - (self.end - 1 - slots) % self.capacity  # by row number
        numbers = first[..., None] + self._ahead * self.num_envs  # (S, B, n): of one world, step by step
        ahead = numbers % self.capacity
        seed = self._seed_index[..., None]
        obs_dim, action_dim = self.widths[:2]
        reward = self.rows[..., obs_dim + action_dim][seed, ahead]
        terminated, kind = (self.rows[..., column][seed, ahead] for column in (-2, -1))
        goes_on = (terminated == 0) & (kind == GOES_ON)
        follows = (numbers < self.end) & (kind != STANDS_IN)
        counts = torch.cat([torch.ones_like(goes_on[..., :1]), goes_on[..., :-1] & follows[..., 1:]], dim=-1)
        counts = counts.cumprod(dim=-1)  # (S, B, n): 1 for the steps that are part of the return
        steps = counts.sum(dim=-1)
        last = ahead.gather(-1, (steps - 1)[..., None])[..., 0]
        begins, ends = (_batch(self.rows[self._seed_index, at], self.widths) for at in (slots, last))
        return NStepBatch(
            begins.obs,
            begins.action,
            torch.where(counts > 0, self.discount**self._ahead * reward, 0.0).sum(dim=-1),
            ends.next_obs,
            ends.terminated,
            self.discount**steps,
        )


class DatasetBuffer:
    """N transitions that never change, in one copy for all S seeds: rows as in `Replay`, without its seeds axis."""

    def __init__(
        self,
        seeds: Sequence[int],
        data: Batch,
        device: torch.device | str = "cpu",
        source: str = "data",
        returns: NDArray | None = None,
    ) -> None:
        """`data` are numpy arrays without a seeds axis: obs (N, O), ..., terminated (N,). `source` is for errors.

        `returns` (E,) are those of the episodes that the transitions were cut from, for agents that ask.
        """
        self.source, self.returns = source, returns
        self.inserted = len(data.obs)
        self.widths = _widths(data.obs.shape[1], data.action.shape[1])
        rows = np.empty((self.inserted, sum(self.widths)), np.float32)
        ends = np.cumsum(self.widths)
        for column, end, width in zip(data, ends, self.widths, strict=True):
            rows[:, end - width : end] = column.reshape(self.inserted, width)
        self.checksum = zlib.crc32(rows)
        """CRC-32 of all rows: tells whether two are the same."""
        self.rows = torch.from_numpy(rows).to(device)
        self.rng = Rng(seeds, device)

    @property
    def obs(self) -> Tensor:
        """(N, O)."""
        return self.rows[:, : self.widths[0]]

    def sample(self, stream: str, step: int | Tensor, batch_size: int) -> Batch:
        """Uniform with replacement, every seed for itself: a function of (seed, stream, step)."""
        index = self.rng.integers(stream, step, (batch_size,), self.inserted)
        return _batch(self.rows[index], self.widths)

    def of_seed(self, i: int) -> Self:
        """The same transitions for seed number `i` alone."""
        one = copy.copy(self)
        one.rng = self.rng.of_seed(i)
        return one


def _widths(obs_dim: int, action_dim: int) -> tuple[int, ...]:
    """Of the columns of a row, in the order of `Batch`."""
    return obs_dim, action_dim, 1, obs_dim, 1


def _batch(rows: Tensor, widths: Sequence[int]) -> Batch:
    obs, action, reward, next_obs, terminated, *_ = rows.split(widths, dim=-1)
    return Batch(obs, action, reward.squeeze(-1), next_obs, terminated.squeeze(-1))
