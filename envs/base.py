"""The vector environment: S seeds times N worlds behind one tensor interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlreg.errors import UserError
from rlreg.purpose import Purpose

if TYPE_CHECKING:
    from rlreg.agent import Policy


class Step(NamedTuple):
    """What one step returns. `terminated` and `truncated` are never merged: only the first ends the MDP."""

    obs: Tensor
    """(S, N, O) float32. Where an episode ended: the first observation of the next (same-step autoreset)."""
    reward: Tensor
    """(S, N) float32."""
    terminated: Tensor
    """(S, N) bool: the task ended. The value of `final_obs` is zero."""
    truncated: Tensor
    """(S, N) bool: a time limit cut the episode. The value of `final_obs` is bootstrapped."""
    final_obs: Tensor
    """(S, N, O) float32: the observation this action led to; equal to `obs` where no episode ended."""
    bad: Tensor
    """(S, N) bool: nothing can be learnt from this step: the simulation diverged, or an observation or reward is no
    finite float32. Its episode is cut there: truncated, reward 0, `final_obs` the last good observation."""


class VectorEnv(ABC):
    """S x N worlds with observations `(S, N, O)` and actions `(S, N, A)` in [-1, 1], on `device`."""

    seeds: tuple[int, ...]
    """The S seeds. World n of a seed draws from a random stream keyed by (seed, n)."""
    num_envs: int
    """N, the worlds per seed."""
    obs_dim: int
    action_dim: int
    device: torch.device
    max_episode_steps: int
    """Steps after which an episode is truncated."""
    discrete_actions: bool = False
    """Whether only the place of the largest of an action's A numbers counts: the number of a discrete action."""
    reseedable: bool = False
    """Whether `reseed` works: where not, worlds keep the seeds that they were made with."""
    measures: tuple[str, ...] = ()
    """The figures that `measure` gives, by name; `rlreg.metrics` describes each."""

    @abstractmethod
    def reset(self) -> Tensor:
        """Start a new episode in every world, going on with its random stream. Returns obs (S, N, O)."""

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Act once in every world."""

    def reseed(self, seeds: Sequence[int]) -> None:
        """Give each of the S * N worlds a seed of its own, which counts from the next `reset`. Raises `UserError`."""
        raise UserError(f"reset(seed={list(seeds)}): the worlds were given seeds {list(self.seeds)} when made")

    def measure(self, agent: Policy) -> dict[str, Tensor]:
        """What only these worlds can say of an agent, (S,) each, such as how far its Q is from values they know."""
        return {}

    def problems(self) -> list[str]:
        """What went wrong since this was last asked, in a few words each: bad steps, states not restored exactly."""
        return []

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that is needed to continue exactly: JSON values and numpy arrays, nested in dicts and lists."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        """Continue from `state_dict()`. Returns the observation (S, N, O) of that moment."""

    def check(self) -> None:  # noqa: B027 (optional: most engines have nothing to run out of)
        """Raise `UserError` where steps so far are not to be trusted, for a buffer that was too small. May be slow."""

    def close(self) -> None:  # noqa: B027 (optional: most environments hold nothing to release)
        """Release worker processes and renderers."""


def world_seed(seed: int, world: int, purpose: Purpose = Purpose.TRAIN) -> int:
    """The seed of world `world`'s own random generator.

    Training world 0 of seed k is seeded with k itself, so that a run can be compared with
    `suite.load(..., task_kwargs={'random': k})` by hand.
    """
    if world == 0 and purpose is Purpose.TRAIN:
        return seed
    return int(np.random.SeedSequence(seed, spawn_key=(purpose, world)).generate_state(1)[0])
