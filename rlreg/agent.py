"""What an agent is: the contract between an agent and the loop that trains it, evaluates it, saves and exports it.

There are three kinds, by what they learn from, each with a loop of its own in `rlreg.training`:

- `BatchAgent`: batches of transitions, of its own making (`OnlineTraining`) or from a dataset (`OfflineTraining`);
- `CurriculumAgent`: levels of its own choice (`CurriculumTraining`);
- Stable-Baselines3's own algorithms, which bring their learning with them (`agents.sb3_baselines`).

An agent is a population of S independent learners, one for each seed, and S is the first axis of every tensor. To add
one is to write one file with its settings and its class, and one YAML in `configs/agent`: docs/extending.md.
Shapes: S seeds, N worlds for each seed, B batch, O and A observation and action sizes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from omegaconf import MISSING
from torch import Tensor

from rlreg.buffers import Batch, DatasetBuffer
from rlreg.checkpoint import flatten
from rlreg.compilation import Function
from rlreg.config import TrainConfig
from rlreg.errors import UserError
from rlreg.regularizers import CriticFeatures, Metrics, Regularizer

if TYPE_CHECKING:
    import gymnasium

    from rlreg.level_space import LevelSpace
    from rlreg.rng import Rng
    from rlreg.rollouts import Student


@dataclass
class AgentConfig:
    """What the settings of every agent have."""

    _target_: str = MISSING
    """The agent's class, 'package.module.Name'."""
    name: str = MISSING
    """What run folders and tables call the agent."""
    own_regularizer: str = "none"
    """The regulariser that the name says it has; a run with another one is called otherwise."""


class Agent(ABC):
    """S learners that some loop trains."""

    Config: ClassVar[type[AgentConfig]]
    """The dataclass of its settings, which checks them."""
    Training: ClassVar[type]
    """The loop that trains it, one of `rlreg.training`."""
    discrete_actions: ClassVar[bool] = False
    """Whether an action's A numbers stand for A discrete actions, of which the largest is taken."""

    config: Any
    """Its settings, a `Config`."""
    seeds: tuple[int, ...]
    """The S seeds. What a learner does is a function of its seed, whatever others are beside it."""
    device: torch.device
    """Where all of its tensors are."""
    alive: Tensor
    """(S,) bool: seeds that still learn. One whose loss turns non-finite leaves, by `Adam.step`, and stays as it is."""

    @classmethod
    def for_env(
        cls, config: Any, regularizer: Regularizer, env: Any, seeds: Sequence[int], device: torch.device | str
    ) -> Self:
        """A fresh agent of the sizes that `env`, a task's `probe`, has. Raises `UserError` for what it cannot use."""
        if env.discrete_actions is not cls.discrete_actions:
            has, lacks = ("discrete", "continuous") if cls.discrete_actions else ("continuous", "discrete")
            example = "env=gym/CartPole-v1" if cls.discrete_actions else "agent=dqn"
            raise UserError(f"agent={config.name} has {has} actions, and this environment {lacks} ones; give {example}")
        return cls(config, regularizer, env.obs_dim, env.action_dim, seeds, device)

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Every tensor that learning changes or keeps, live and nested by name: what a checkpoint holds.

        S is the first axis of all but step counts. Loading copies into these tensors, and so they must be changed in
        place only.
        """

    def to_sb3(self, i: int, env: gymnasium.Env, train: TrainConfig) -> Any:
        """Seed number `i` (its place in `seeds`) as a model of Stable-Baselines3, attached to `env`.

        `rlreg.sb3.with_networks` makes one of stacked networks. Raises `UserError` unless overridden.
        """
        raise self.no_counterpart()

    def no_counterpart(self) -> UserError:
        """What `to_sb3` says of an agent that Stable-Baselines3 has nothing like."""
        return UserError(f"agent={self.config.name} has no counterpart in Stable-Baselines3")


class Policy(ABC):
    """What an evaluation asks of who acts: `rlreg.evaluation`."""

    discount: float | None = None
    """gamma of the returns that `q_value` estimates; None where there is no such thing."""
    critic_params: Mapping[str, Tensor] = MappingProxyType({})
    """The parameters that `critic_features` takes; none without a critic."""

    @abstractmethod
    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions in [-1, 1] for raw observations: (S, N, O) -> (S, N, A).

        Without exploration; where standard normal `noise` (S, N, A) is given, with whatever exploration makes of it.
        """

    def q_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) in the units of the environment's rewards: (S, B, O), (S, B, A) -> (S, B). NaN without a Q."""
        return torch.full(obs.shape[:2], torch.nan, device=obs.device)

    def critic_features(self, params: Mapping[str, Tensor], batch: Batch) -> CriticFeatures | None:
        """phi(s, a) of the critic with `params`, and its like, for regularisers and measures; None without a critic."""
        return None


class BatchAgent(Agent, Policy):
    """S learners that learn from batches of transitions.

    Made by `Class(config, regularizer, obs_dim, action_dim, seeds, device)`. Its settings are an `AgentConfig` with a
    `batch_size` and, where it has a Q, a `discount`.
    """

    obs_dim: int
    """O."""
    action_dim: int
    """A."""
    regularizer: Regularizer = Regularizer()
    """Of its critic; one that does nothing, for an agent without a critic."""
    precision: str = "float32"
    """In which its updates compute matrix products, float32 or bfloat16."""

    @abstractmethod
    def update(self, batch: Batch, step: Tensor, *variant: Hashable) -> Metrics:
        """One update from a batch, in place. Returns metrics (S,) to log, on the device, by TensorBoard's tags.

        `step` (0-d int64) numbers updates from 1: random numbers are a function of it and the seed. A pure tensor
        program of static shapes, without a look at any value, so that it compiles and can be captured in a CUDA graph.
        """

    @property
    def batch_size(self) -> int:
        """B, transitions of each seed in a batch."""
        return self.config.batch_size

    def variant(self, number: int) -> tuple[Hashable, ...]:
        """What update `number` (from 1) has beside batch and step, such as whether a delayed policy moves too.

        These are further arguments of `update` that its program is allowed to branch on: there is a compiled program
        for each. Most agents have none.
        """
        return ()

    def autocast(self) -> AbstractContextManager[Any]:
        """Where matrix products are computed in `precision`, while parameters and Adam stay in float32."""
        if self.precision == "float32":  # nothing to switch: PyTorch keeps no program that does, for runs to come
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def of_seed(self, i: int) -> Self | None:
        """Seed number `i` (its place in `seeds`) as an agent of one seed, whose tensors are its slices of this one's.

        What either of them changes in place, the other has: but the step counts, which all seeds share; those of the
        last seed are this one's, and the others keep their own. None of an agent that is made in a way of its own
        (`for_env`), or whose `state` is not what it promises.
        """
        if type(self).for_env.__func__ is not Agent.for_env.__func__:
            return None
        sizes = self.obs_dim, self.action_dim
        one = type(self)(self.config, self.regularizer, *sizes, self.seeds[i : i + 1], self.device)
        own, shared = flatten(one.state()), flatten(self.state())
        slices = {name: tensor[i : i + 1] if tensor.dim() else tensor for name, tensor in shared.items()}
        if {name: x.shape for name, x in own.items()} != {name: x.shape for name, x in slices.items()}:
            return None
        for name, tensor in own.items():
            if tensor.dim() or i == len(self.seeds) - 1:
                tensor.set_(slices[name])
            else:
                tensor.copy_(slices[name])
        return one

    def observe(self, obs: Tensor) -> None:
        """Take note of what the worlds show, (S, N, O), before acting on it: for agents that keep count of it."""

    def fit(self, data: DatasetBuffer) -> None:
        """Take up what a dataset decides before the first update: how observations and rewards are scaled.

        Not called when a run is resumed: `state` holds it. Raises `UserError` for data that it cannot use.
        """

    def advantage(self, batch: Batch) -> Tensor | None:
        """A(s, a) of a dataset's actions as the agent weighs them, (S, B), to be shown; None for an agent without."""
        return None


class CurriculumAgent(Agent):
    """S learners, each with a curriculum of levels of its own: `agents.level_replay`."""

    student: Student
    """Who plays and learns."""
    rng: Rng
    """What is drawn for measurements."""
    uses_dataset: ClassVar[bool] = True
    """Whether the training levels are the curriculum's to begin with."""
    cycles: int
    """Cycles so far."""
    env_steps: int
    """Environment steps so far, for each seed."""
    new_levels: Tensor | None
    """The newest levels that are none of the dataset's, (S, n, *level), to be shown."""

    @classmethod
    def for_env(
        cls, config: Any, regularizer: Regularizer, env: LevelSpace, seeds: Sequence[int], device: torch.device | str
    ) -> Self:
        """A fresh agent whose students see what the task shows, and have its discrete actions."""
        return cls(config, regularizer, env.observation, env.num_actions, seeds, device)

    @property
    def information(self) -> Any:
        """How to measure what features tell of levels: settings `every`, `num_envs`, `length`; see `rlreg.transfer`."""
        return self.config.information

    @abstractmethod
    def setup(self, space: LevelSpace, num_updates: int) -> None:
        """Take up the levels of `space`, for a run of `num_updates` updates of the student."""

    def begin(self, report: Callable[[str], None]) -> None:
        """What has to be done before the first cycle; `report(text)` tells the user of slow parts."""

    @abstractmethod
    def cycle(self) -> Metrics | None:
        """One cycle; the student's metrics (S,), or None if it made no gradient step."""

    @abstractmethod
    def compile(self, program: Callable[[Function], Function]) -> None:
        """Have `program` make faster what plays and learns: it compiles functions of tensors of fixed shapes."""

    @abstractmethod
    def practise(self) -> None:
        """A rollout on a training level and an update by it, beside the run: to compile and time the programs.

        What it changes is in `state`, which who calls puts back.
        """

    def distribution(self) -> Tensor | None:
        """P over stored levels now, (S, K), the dataset's first; None where levels are not drawn from storage."""
        return None

    def stored_levels(self, i: int, slots: Tensor) -> Tensor:
        """Seed number `i`'s levels in some slots (n,) of `distribution`: (n, *level)."""
        raise NotImplementedError

    def statistics(self) -> Metrics:
        """What there is to log beside the student's metrics, (S,) each."""
        return {}

    @abstractmethod
    def progress(self) -> dict[str, Any]:
        """The tensors of the curriculum, by name: what a checkpoint holds beside `state`."""
