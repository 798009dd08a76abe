"""A task of levels: what a curriculum asks of it. `envs.cave` is one, and docs/extending.md has a small one.

What a level is, what is seen of it and what is random about an episode's start are the task's alone: storage, loop and
students take them as they are. A level is a tensor of bytes of one shape; an observation a NamedTuple of tensors, of
which `LevelSpace.observation` says what each holds, so that a student's network can be made for it.
Shapes: S seeds, N worlds of each seed, T steps, L levels; `*level` is a level's own shape.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlreg.errors import UserError
from rlreg.rng import Rng


class Image(NamedTuple):
    """A field (S, N, height, width, channels) of numbers from 0 to about `scale`, for a 3x3 convolution."""

    height: int
    width: int
    channels: int
    scale: float = 1.0


class Category(NamedTuple):
    """A field (S, N) of whole numbers 0 .. count - 1."""

    count: int


class Vector(NamedTuple):
    """A field (S, N, size) of float32 numbers."""

    size: int


Field = Image | Category | Vector


class LevelEnv(ABC):
    """S x N worlds, each with a level of its own. There is no autoreset: who steps them decides on the next level."""

    num_envs: int
    """N."""
    max_episode_steps: int
    """Steps after which an episode is truncated."""

    @abstractmethod
    def draw_starts(self, rng: Rng, stream: str, number: int | Tensor, length: int) -> Tensor:
        """All that is random about the starts of episodes, for `length` times: (S, length, N, ...).

        A function of (seed, stream, number). `set_levels` takes what belongs to one time; zeros are a start too, that
        of films. Where nothing is random they are all there is: (S, length, N).
        """

    @abstractmethod
    def set_levels(self, levels: Tensor, start: Tensor, where: Tensor | None = None) -> None:
        """Begin an episode in `levels` (S, N, *level) uint8 as `start` (S, N, ...) has it.

        `where` (S, N) bool: only in these worlds; the others go on.
        """

    @abstractmethod
    def observe(self) -> Any:
        """What is seen now: a NamedTuple of tensors (S, N, ...)."""

    @abstractmethod
    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One action (S, N) int64 in every world: (reward float32, terminated, truncated), all (S, N), never both."""


class LevelSpace(ABC):
    """The levels of a task, and worlds to play them in. What it cannot do says so by itself."""

    observation: Mapping[str, Field]
    """What each field of an observation holds, in the order of its NamedTuple."""
    num_actions: int
    """Discrete actions, 0 .. num_actions - 1."""
    level_shape: tuple[int, ...]
    """`*level`, of training and new levels."""
    dataset: Tensor
    """(L, *level) uint8: the training levels."""
    evaluation: Mapping[str, Tensor]
    """Levels (L, ...) to measure transfer on, by the name of their set; the first set is the held-out one. Their shape
    may be another, if `worlds` has worlds of it."""
    name: ClassVar[str] = "this task"
    """For messages."""

    @abstractmethod
    def worlds(
        self, seeds: Sequence[int], num_envs: int, level_shape: tuple[int, ...] | None = None
    ) -> LevelEnv:
        """Worlds for levels of a shape, by default that of the training levels."""

    def random_levels(self, rng: Rng, stream: str, step: int, count: int) -> Tensor:
        """New levels (S, count, *level), for domain randomisation: a function of (seed, stream, step)."""
        raise UserError(f"{self.name} has no random levels, which dr and robust_plr play")

    def empty_levels(self, rng: Rng, stream: str, step: int, count: int) -> Tensor:
        """The simplest levels (S, count, *level), with which ACCEL begins."""
        raise UserError(f"{self.name} has no empty levels, with which accel begins")

    def edit(self, levels: Tensor, rng: Rng, stream: str, step: int, num_edits: int) -> Tensor:
        """Copies of levels (S, N, *level) with `num_edits` small changes each."""
        raise UserError(f"{self.name} has no edits of levels, as accel, accel_d and el_dred make them")

    def level_model(self, seeds: Sequence[int], latent: int, hidden: int) -> Any:
        """A generative model of levels, not trained yet, as `envs.cave.level_model.LevelModel`."""
        raise UserError(f"{self.name} has no model of levels, which vae_dred needs")

    def pictures(self, worlds: LevelEnv) -> np.ndarray:
        """What the first world of each seed looks like now, (S, height, width, 3) uint8, for films."""
        raise UserError(f"{self.name} has no pictures of its worlds")

    def sheet(self, levels: Tensor) -> np.ndarray | None:
        """Levels (n, *level) as one picture (height, width, 3) uint8; None where they cannot be drawn."""
        return None


def with_time(observation: Any) -> Any:
    """Observations (S, N, ...) as those of one time: (S, 1, N, ...)."""
    return type(observation)(*(field.unsqueeze(1) for field in observation))


def stacked(observations: Sequence[Any]) -> Any:
    """T observations (S, N, ...) as one (S, T, N, ...)."""
    return type(observations[0])(*(torch.stack(fields, dim=1) for fields in zip(*observations, strict=True)))
