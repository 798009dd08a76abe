"""Behaviour cloning: a deterministic policy fitted to the data's actions by least squares.

The plainest thing to do with a data set, and the yardstick of the others. Shapes: S seeds, N worlds,
B batch, O and A observation and action sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlreg import checks
from rlreg.agent import AgentConfig, BatchAgent
from rlreg.buffers import Batch, DatasetBuffer
from rlreg.config import TrainConfig
from rlreg.errors import UserError
from rlreg.networks import Actor, Normalizer, Params
from rlreg.objectives import cloning_loss
from rlreg.optim import Adam, gradients
from rlreg.regularizers import Metrics, Regularizer
from rlreg.rng import Rng
from rlreg.training.offline import OfflineTraining


@dataclass
class BCConfig(AgentConfig):
    """Behaviour cloning's settings; network and step size are those of TD3+BC's actor."""

    _target_: str = "agents.bc.BC"
    name: str = "bc"
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the policy's hidden layers."""
    learning_rate: float = 3e-4
    batch_size: int = 256
    normalize_obs: bool = True
    """Whether training fits `normalizer` to the data's states."""

    def __post_init__(self) -> None:
        checks.widths(self, "agent", "hidden")
        checks.whole(self, "agent", "batch_size")
        checks.positive(self, "agent", "learning_rate")


class BC(BatchAgent):
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
            raise UserError(f"regularizer={regularizer.name}: agent={config.name} has no critic; give regularizer=none")
        self.config, self.device = config, torch.device(device)
        self.obs_dim, self.action_dim, self.seeds = obs_dim, action_dim, tuple(seeds)
        self.normalizer = Normalizer(len(seeds), obs_dim, device)
        self.actor = Actor(obs_dim, action_dim, config.hidden, self.normalizer)
        self.actor_params = self.actor.init(Rng(seeds, device))
        self.actor_optimizer = Adam(self.actor_params, config.learning_rate)
        self.alive = torch.ones(len(seeds), dtype=torch.bool, device=device)

    def fit(self, data: DatasetBuffer) -> None:
        if self.config.normalize_obs:
            self.normalizer.fit(data.obs)

    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """pi(s), which explores nothing whatever the noise: (S, N, O) -> (S, N, A)."""
        return self.actor(self.actor_params, obs)

    def actor_loss(self, params: Params, batch: Batch) -> tuple[Tensor, Metrics]:
        """mean (pi(s) - a)^2: (S,)."""
        loss = cloning_loss(self.actor(params, batch.obs), batch.action)
        return loss, {"train/actor_loss": loss.detach()}

    def update(self, batch: Batch, step: Tensor) -> Metrics:
        grads, losses, metrics = gradients(self.actor_loss, self.actor_params, batch)
        self.actor_optimizer.step(self.actor_params, grads, losses, self.alive)
        return metrics

    def state(self) -> dict[str, Any]:
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
