"""TD3+BC (Fujimoto & Gu, "A Minimalist Approach to Offline Reinforcement Learning", NeurIPS 2021).

TD3 on a data set, whose actor also clones the data's actions, on normalised states: the actor's loss is
all that differs. Shapes: S seeds, B batch, O and A observation and action sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.td3 import TD3, TD3Config
from rlreg import checks
from rlreg.buffers import Batch, DatasetBuffer
from rlreg.config import TrainConfig
from rlreg.errors import require
from rlreg.networks import Normalizer, Params
from rlreg.objectives import cloning_loss, scaled_policy_gradient
from rlreg.regularizers import Metrics, Regularizer
from rlreg.training.offline import OfflineTraining


@dataclass
class TD3BCConfig(TD3Config):
    """TD3's settings and two more; the defaults are the paper's (its table 3)."""

    _target_: str = "agents.td3_bc.TD3BC"
    name: str = "td3_bc"
    alpha: float = 2.5
    """Weight of Q against cloning: lambda = alpha / mean |Q|. Larger trusts Q more."""
    normalize_obs: bool = True
    """Whether training fits `normalizer` to the data's states."""

    def __post_init__(self) -> None:
        super().__post_init__()
        running = self.running_normalization
        require(not running, "agent.running_normalization", running, "false: a dataset is known from the start")
        checks.not_negative(self, "agent", "alpha")


class TD3BC(TD3):
    """S independent TD3+BC learners. All observations that come in are raw."""

    Config = TD3BCConfig
    Training = OfflineTraining

    def __init__(
        self,
        config: TD3BCConfig,
        regularizer: Regularizer,
        obs_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        *,
        critic_hidden: Sequence[int] | None = None,
    ) -> None:
        self.normalizer = Normalizer(len(seeds), obs_dim, device)
        super().__init__(
            config,
            regularizer,
            obs_dim,
            action_dim,
            seeds,
            device,
            critic_hidden=critic_hidden,
            normalize=self.normalizer,
        )

    def fit(self, data: DatasetBuffer) -> None:
        if self.config.normalize_obs:
            self.normalizer.fit(data.obs)

    def actor_loss(self, params: Params, batch: Batch) -> tuple[Tensor, Metrics]:
        """-lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2, the paper's eq. 5: (S,)."""
        action = self.actor(params, batch.obs)
        policy_gradient, scale = scaled_policy_gradient(self.first_q(batch.obs, action), self.config.alpha)
        cloning = cloning_loss(action, batch.action)
        loss = policy_gradient + cloning
        metrics = {"train/actor_loss": loss, "train/lambda": scale, "behaviour/cloning_loss": cloning}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def state(self) -> dict[str, Any]:
        return super().state() | {"normalizer": self.normalizer.state()}

    def to_sb3(self, i: int, env: Any, train: TrainConfig) -> Any:
        """Seed number i as a Stable-Baselines3 TD3 on raw observations; see `with_networks`."""
        from rlreg.sb3 import NETWORKS, warn_of_one_learning_rate, with_networks

        c = self.config
        warn_of_one_learning_rate(c)
        return with_networks(
            {name: self.normalizer.fold(self.state()[name]) for name in NETWORKS},
            i,
            env,
            train,
            learning_rate=c.critic_learning_rate,
            batch_size=c.batch_size,
            tau=c.tau,
            gamma=c.discount,
            policy_delay=c.policy_delay,
            target_policy_noise=c.target_noise,
            target_noise_clip=c.target_noise_clip,
            device=self.device,
        )
