"""Behaviour cloning: a deterministic policy fitted to the data's actions by least squares.

The plainest thing to do with a data set, and the yardstick of the others. Shapes: S seeds, N worlds,
B batch, O and A observation and action sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.td3 import descend
from rlreg.buffers import Batch
from rlreg.config import TrainConfig
from rlreg.errors import UserError, require
from rlreg.networks import Actor, Normalizer, Params
from rlreg.objectives import cloning_loss
from rlreg.optim import Adam
from rlreg.regularizers import Metrics, Regularizer
from rlreg.rng import Rng
from rlreg.training.offline import OfflineTraining


@dataclass
class BCConfig:
    """Behaviour cloning's knobs; network and step size are those of TD3+BC's actor."""

    _target_: str = "agents.bc.BC"
    name: str = "bc"
    """What run folders and tables call the agent."""
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the policy's hidden layers."""
    learning_rate: float = 3e-4
    batch_size: int = 256
    normalize_obs: bool = True
    """Whether training fits `normalizer` to the data's states."""
    policy_delay: ClassVar[int] = 1
    """Every update is one of the policy."""
    discount: ClassVar[float] = 0.99
    """Of no effect: there is no value function."""

    def __post_init__(self) -> None:
        require(
            bool(self.hidden) and min(self.hidden) >= 1,
            "agent.hidden",
            list(self.hidden),
            "widths >= 1, such as [256,256]",
        )
        require(self.batch_size >= 1, "agent.batch_size", self.batch_size, "a whole number >= 1")
        require(self.learning_rate > 0, "agent.learning_rate", self.learning_rate, "a number > 0")


class BC:
    """S independent policies. All observations that come in are raw."""

    Config = BCConfig
    Training = OfflineTraining

    def __init__(
        self,
        config: BCConfig,
        regularizer: Regularizer,
        obs_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        """Raises `UserError` for a regulariser."""
        if type(regularizer) is not Regularizer:
            kind = type(regularizer).__name__.lower()
            raise UserError(f"regularizer={kind}: agent={config.name} has no critic; give regularizer=none")
        self.config, self.device = config, torch.device(device)
        self.obs_dim, self.action_dim, self.seeds = obs_dim, action_dim, tuple(seeds)
        self.normalizer = Normalizer(len(seeds), obs_dim, device)
        self.actor = Actor(obs_dim, action_dim, config.hidden, self.normalizer)
        self.actor_params = self.actor.init(Rng(seeds, device))
        self.actor_optimizer = Adam(self.actor_params, config.learning_rate)
        self.alive = torch.ones(len(seeds), dtype=torch.bool, device=device)
        """(S,) seeds that still learn; one whose loss turns non-finite learns no more from then on."""

    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """pi(s), which explores nothing whatever the noise: (S, N, O) -> (S, N, A)."""
        return self.actor(self.actor_params, obs)

    def actor_loss(self, params: Params, batch: Batch) -> tuple[Tensor, Metrics]:
        """mean (pi(s) - a)^2: (S,)."""
        loss = cloning_loss(self.actor(params, batch.obs), batch.action)
        return loss, {"train/actor_loss": loss.detach()}

    def update(self, batch: Batch, step: Tensor, update_actor: bool = True) -> Metrics:
        """One update in place; step and flag play no part. Returns metrics (S,), on the device."""
        return descend(lambda p: self.actor_loss(p, batch), self.actor_params, self.actor_optimizer, self.alive)

    def q_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """There is none: NaN, (S, B)."""
        return torch.full(obs.shape[:2], torch.nan, device=obs.device)

    def state(self) -> dict[str, Params | dict[str, Params]]:
        """Every tensor that learning changes or keeps, live and nested by name; S first in all but step counts."""
        return {
            "actor": self.actor_params,
            "actor_optimizer": self.actor_optimizer.state(),
            "normalizer": self.normalizer.state(),
            "alive": {"alive": self.alive},
        }

    def to_sb3(self, i: int, env: Any, train: TrainConfig) -> Any:
        """Seed number i as a Stable-Baselines3 TD3 on raw observations, its critics untrained; see `with_networks`."""
        from rlreg.sb3 import with_networks

        actor = self.normalizer.fold(self.actor_params)
        c = self.config
        settings = {"learning_rate": c.learning_rate, "batch_size": c.batch_size, "device": self.device}
        return with_networks({"actor": actor, "actor_target": actor}, i, env, train, **settings)
