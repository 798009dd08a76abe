"""TD3 (Fujimoto et al., ICML 2018), and DDPG (Lillicrap et al., ICLR 2016) as TD3 without its three additions.

DDPG is `num_critics=1, policy_delay=1, target_noise=0`. BEER, the paper's agent, is that DDPG with
`regularizer=beer`. Shapes: S seeds, E critics, B batch, O and A observation and action sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlreg import checks
from rlreg.agent import AgentConfig
from rlreg.buffers import Batch
from rlreg.networks import (
    Actor,
    Critic,
    Normalize,
    Params,
    RunningNormalizer,
    detached,
    first_critic,
    polyak_,
    unchanged,
)
from rlreg.objectives import clipped_double_q, ensemble_td_loss, smoothed_action, td_target
from rlreg.optim import Adam, gradients
from rlreg.q_learning import QAgent, Successor
from rlreg.regularizers import CriticFeatures, Metrics, Regularizer
from rlreg.rng import Rng
from rlreg.training.online import OnlineTraining

if TYPE_CHECKING:
    import gymnasium

    from rlreg.config import TrainConfig


@dataclass
class TD3Config(AgentConfig):
    """TD3's settings; the defaults are TD3 with the BEER paper's networks and step sizes."""

    _target_: str = "agents.td3.TD3"
    name: str = "td3"
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the hidden layers of actor and critic."""
    num_critics: int = 2
    """E; the TD target takes the least of them. 1 is DDPG."""
    policy_delay: int = 2
    """Critic updates per update of actor and targets. 1 is DDPG."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target action. 0 is DDPG."""
    target_noise_clip: float = 0.5
    """Bound on that noise."""
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    discount: float = 0.99
    tau: float = 0.005
    """Step of the target networks towards the online ones."""
    batch_size: int = 256
    exploration_noise: float = 0.1
    """Standard deviation of the Gaussian noise on actions while training."""
    running_normalization: bool = False
    """Normalise observations by mean and standard deviation of those that the worlds have shown so far."""
    precision: str = "float32"
    """float32, or bfloat16: matrix products in bfloat16, parameters and Adam in float32."""

    def __post_init__(self) -> None:
        checks.widths(self, "agent", "hidden")
        checks.whole(self, "agent", "num_critics", "policy_delay", "batch_size")
        checks.not_negative(self, "agent", "target_noise", "exploration_noise")
        checks.not_negative(self, "agent", "target_noise_clip", or_infinite=True)
        checks.positive(self, "agent", "actor_learning_rate", "critic_learning_rate")
        checks.within(self, "agent", "discount", interval="(0, 1)")
        checks.within(self, "agent", "tau", interval="(0, 1]")
        checks.one_of(self, "agent", "precision", "float32", "bfloat16")


class TD3(QAgent):
    """S independent TD3 learners."""

    Config = TD3Config
    Training = OnlineTraining

    def __init__(
        self,
        config: TD3Config,
        regularizer: Regularizer,
        obs_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        *,
        critic_hidden: Sequence[int] | None = None,
        normalize: Normalize = unchanged,
    ) -> None:
        """`critic_hidden` where the critic's layers are not the actor's; `normalize` for observations in both."""
        self.config, self.regularizer, self.device = config, regularizer, torch.device(device)
        self.obs_dim, self.action_dim, self.seeds = obs_dim, action_dim, tuple(seeds)
        self.precision = config.precision
        self.rng = Rng(seeds, device)
        if config.running_normalization:
            self.normalizer = normalize = RunningNormalizer(len(seeds), obs_dim, device)
        self.actor = Actor(obs_dim, action_dim, config.hidden, normalize)
        self.critic = Critic(obs_dim, action_dim, critic_hidden or config.hidden, config.num_critics, normalize)

        self.actor_params = self.actor.init(self.rng)
        self.critic_params = self.critic.init(self.rng)
        self.actor_target = {name: p.clone() for name, p in self.actor_params.items()}
        self.critic_target = {name: p.clone() for name, p in self.critic_params.items()}
        extra, self.constants = regularizer.init(self.critic_params, self.rng)
        self.critic_params |= extra
        self.actor_optimizer = Adam(self.actor_params, config.actor_learning_rate)
        self.critic_optimizer = Adam(self.critic_params, config.critic_learning_rate)
        self.alive = torch.ones(len(seeds), dtype=torch.bool, device=device)

    # ---------------------------------------------------------------- acting

    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """mu(s), plus exploration noise where standard normal `noise` (S, N, A) is given. (S, N, O) -> (S, N, A)."""
        action = self.actor(self.actor_params, obs)
        if noise is None:
            return action
        return (action + self.config.exploration_noise * noise).clamp(-1.0, 1.0)

    def observe(self, obs: Tensor) -> None:
        if self.config.running_normalization:
            self.normalizer.update(obs)

    # -------------------------------------------------------------- learning

    @torch.no_grad()
    def successor(self, batch: Batch, step: Tensor | int = 0) -> Successor:
        """a' = mu'(s') + clipped noise, phi'(s', a') and y = r + gamma (1 - d) min_i Q'_i(s', a').

        The noise is that of update `step`.
        """
        c = self.config
        action = self.actor(self.actor_target, batch.next_obs)
        if c.target_noise > 0:
            noise = self.rng.normal("target_noise", step, batch.action.shape[1:])
            action = smoothed_action(action, noise, c.target_noise, c.target_noise_clip)
        feature = self.critic.features(self.critic_target, batch.next_obs, action)
        next_value = clipped_double_q(self.critic.value(self.critic_target, feature).float())
        target = td_target(batch.reward, batch.terminated, next_value, self.discount_of(batch))
        return Successor(action, feature, target)

    def critic_features(self, params: Params, batch: Batch, successor: Successor | None = None) -> CriticFeatures:
        """phi at (s, a) and at (s', a'), for the TD loss and the regularisers."""
        successor = successor or self.successor(batch)

        def next_online() -> Tensor:
            action = self.actor(detached(self.actor_params), batch.next_obs)
            return self.critic.features(params, batch.next_obs, action)

        return self.features(params, batch, batch.action, lambda: successor.feature, next_online)

    def critic_loss(self, params: Params, batch: Batch, successor: Successor) -> tuple[Tensor, Metrics]:
        """Mean squared TD error of each critic plus the regulariser: (S,)."""
        f = self.critic_features(params, batch, successor)
        q = self.critic.value(params, f.feature).float()
        td_loss = ensemble_td_loss(q, successor.td_target)
        return self.with_penalty(td_loss, q, f)

    def actor_loss(self, params: Params, batch: Batch) -> tuple[Tensor, Metrics]:
        """Deterministic policy gradient, -mean Q_1(s, mu(s)): (S,)."""
        loss = -self.first_q(batch.obs, self.actor(params, batch.obs)).mean(dim=-1)
        return loss, {"train/actor_loss": loss.detach()}

    def first_q(self, obs: Tensor, action: Tensor) -> Tensor:
        """Q_1(s, a), with gradient to the action but not to the critic: (S, B, O), (S, B, A) -> (S, B)."""
        return self.critic(first_critic(detached(self.critic_params)), obs, action).float().squeeze(1)

    def variant(self, number: int) -> tuple[bool]:
        """Whether update `number` is one of the policy and the targets too."""
        return (number % self.config.policy_delay == 0,)

    def update(self, batch: Batch, step: Tensor, update_actor: bool) -> Metrics:
        # Critic
        with self.autocast():
            successor = self.successor(batch, step)
            grads, losses, metrics = gradients(self.critic_loss, self.critic_params, batch, successor)
        self.critic_optimizer.step(self.critic_params, grads, losses, self.alive)
        if not update_actor:
            return metrics

        # Actor
        with self.autocast():
            grads, losses, more = gradients(self.actor_loss, self.actor_params, batch)
        self.actor_optimizer.step(self.actor_params, grads, losses, self.alive)
        self.move_targets()
        return metrics | more

    def move_targets(self) -> None:
        polyak_(self.critic_target, self.critic_params, self.config.tau)
        polyak_(self.actor_target, self.actor_params, self.config.tau)

    # ----------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        normalizer = {"normalizer": self.normalizer.state()} if self.config.running_normalization else {}
        return normalizer | {
            "actor": self.actor_params,
            "critic": self.critic_params,
            "actor_target": self.actor_target,
            "critic_target": self.critic_target,
            "actor_optimizer": self.actor_optimizer.state(),
            "critic_optimizer": self.critic_optimizer.state(),
            "constants": self.constants,
            "alive": {"alive": self.alive},
        }

    def to_sb3(self, i: int, env: gymnasium.Env, train: TrainConfig) -> Any:
        """Seed number i as Stable-Baselines3's TD3, or DDPG where the settings amount to that, with its Adam moments.

        Raises `UserError` for a subclass whose networks see more than raw observations, and which has to say itself how
        to fold that into its first layers.
        """
        from rlreg.sb3 import td3_model

        fold = self.normalizer.fold if self.config.running_normalization else None
        if fold is None and self.actor.normalize is not unchanged:
            return super().to_sb3(i, env, train)
        return td3_model(self.config, self.state(), i, env, train, self.device, fold)
