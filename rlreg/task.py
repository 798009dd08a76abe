"""`Task`: what the `_target_` of `env=` names, the one thing that loops, tables and tools ask of an environment.

A task of one's own is a class here: docs/extending.md has one. Nothing in this file imports torch, so that worker
processes, which import a task's module, start quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rlreg.errors import UserError
from rlreg.purpose import Purpose

if TYPE_CHECKING:
    import gymnasium
    import torch
    from torch import Tensor

    from rlreg.agent import Policy
    from rlreg.buffers import DatasetBuffer
    from rlreg.level_space import LevelSpace

    Score = Callable[[Tensor], Tensor]
    """Turns returns into a task's normalised scores, in any shape."""


class Loop(Enum):
    """The kinds of training loop, each with its words for messages."""

    ONLINE = "learns online", "has no data", "env=gym/Hopper-v4", "agent=td3"
    OFFLINE = "learns from a dataset", "is a dataset", "env=d4rl/hopper-medium-v2", "agent=td3_bc"
    CURRICULUM = "learns from a curriculum of levels", "is a set of levels", "env=cave_escape", "agent=vae_dred"

    def __init__(self, agent_does: str, task_is: str, env: str, agent: str) -> None:
        """What agents of the loop do, what its tasks are, and an example of each."""
        self.agent_does, self.task_is, self.env, self.agent = agent_does, task_is, env, agent


class VectorEnv(Protocol):
    """S x N worlds, as far as loops and evaluation need them: `envs.base.VectorEnv`, where each member is described."""

    seeds: tuple[int, ...]
    num_envs: int
    obs_dim: int
    action_dim: int
    device: torch.device
    max_episode_steps: int
    discrete_actions: bool
    reseedable: bool
    measures: tuple[str, ...]

    def reseed(self, seeds: Sequence[int]) -> None: ...
    def reset(self) -> Tensor: ...
    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Tensor: ...
    def measure(self, agent: Policy) -> dict[str, Tensor]: ...
    def check(self) -> None: ...
    def close(self) -> None: ...


class Task:
    """One task and all that it offers. Its constructor takes the settings of `env`, without `_target_` and `name`.

    The constructor is cheap: no worlds, no files. Every member may raise `UserError`. What a task has not got says so
    by itself: only what it has needs to be written.
    """

    name: str = ""
    """What run folders, tables and messages call it: the setting `env.name`."""
    loop: ClassVar[Loop] = Loop.ONLINE
    """The kind of loop that it is for. `ONLINE` needs `vector_env`; `OFFLINE` `dataset` too; `CURRICULUM`
    `level_space`."""
    measured_on: ClassVar[tuple[str, ...]] = ()
    """Of a task of levels: the settings that say what a student is measured on, which mode=evaluate may change."""

    @classmethod
    def names_code(cls, settings: dict[str, Any]) -> str | None:
        """The one of its settings, as 'key=value', by which it would import a user's code; None where there is none.

        A run folder's configuration with such a setting is not followed unless the user trusts it.
        """
        return None

    def vector_env(
        self, seeds: Sequence[int], num_envs: int, purpose: Purpose, device: torch.device | str = "cpu"
    ) -> VectorEnv:
        """S x N worlds on `device`; those of two purposes draw from different random streams."""
        raise UserError(f"env={self.name} has no worlds to act in")

    def backend(self, num_envs: int, device: torch.device | str) -> str | None:
        """What would step `num_envs` worlds per seed on `device`, by name; None where there is no choice."""
        return None

    def single_env(self, seed: int | None = None, render_mode: str | None = None) -> gymnasium.Env:
        """One world as a `gymnasium.Env`, with flat float32 observations and actions in [-1, 1]: for films, for
        collecting data and for other libraries."""
        raise UserError(f"env={self.name} has no single environment")

    def probe(self) -> VectorEnv | LevelSpace:
        """What tells an agent the sizes of its networks. It is not stepped."""
        if self.loop is Loop.CURRICULUM:
            return self.level_space()
        env = self.vector_env((0,), 1, Purpose.EVALUATE)
        env.close()
        return env

    def dataset(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> DatasetBuffer:
        """The transitions to learn from, one copy for all seeds, on `device`."""
        raise UserError(f"env={self.name} is no dataset")

    def fetch(self) -> None:
        """Have the file of `dataset` here, without reading it: a table does this once for all of its runs."""

    def score(self) -> Score | None:
        """What normalises returns, as D4RL's scores; None where there is nothing to measure them by."""
        return None

    def level_space(self, device: torch.device | str = "cpu") -> LevelSpace:
        """The levels to train and to be measured on, with the worlds to play them in."""
        raise UserError(f"env={self.name} has no levels")


def require_loop(agent_name: str, loop: Loop, task: Task) -> None:
    """Raise `UserError` unless `task` is one for the loop of the agent."""
    if loop is not task.loop:
        raise UserError(
            f"agent={agent_name} {loop.agent_does}, and env={task.name} {task.loop.task_is}; "
            f"give an environment such as {loop.env}, or an agent such as {task.loop.agent}"
        )
