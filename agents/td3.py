"""TD3 (Fujimoto et al., ICML 2018), and DDPG (Lillicrap et al., ICLR 2016) as TD3 without its three additions.

DDPG is `num_critics=1, policy_delay=1, target_noise=0`. BEER, the paper's agent, is that DDPG with
`regularizer=beer`. Shapes: S seeds, E critics, B batch, O and A observation and action sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlreg.buffers import Batch, NStepBatch
from rlreg.errors import require
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
from rlreg.regularizers import CriticFeatures, Metrics, Regularizer
from rlreg.rng import Rng
from rlreg.training.online import OnlineTraining

Loss = Callable[[Params], tuple[Tensor, Any]]
"""Parameters to losses (S,) and whatever else is wanted of their computation, metrics above all."""


@dataclass
class TD3Config:
    """TD3's knobs; the defaults are TD3 with the BEER paper's networks and step sizes."""

    _target_: str = "agents.td3.TD3"
    name: str = "td3"
    """What run folders and tables call the agent."""
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
        require(
            bool(self.hidden) and min(self.hidden) >= 1,
            "agent.hidden",
            list(self.hidden),
            "widths >= 1, such as [256,256]",
        )
        for name in ("num_critics", "policy_delay", "batch_size"):
            require(getattr(self, name) >= 1, f"agent.{name}", getattr(self, name), "a whole number >= 1")
        for name in ("target_noise", "target_noise_clip", "exploration_noise"):
            require(getattr(self, name) >= 0, f"agent.{name}", getattr(self, name), "a number >= 0")
        for name in ("actor_learning_rate", "critic_learning_rate"):
            require(getattr(self, name) > 0, f"agent.{name}", getattr(self, name), "a number > 0")
        require(0 < self.discount < 1, "agent.discount", self.discount, "a number in (0, 1)")
        require(0 < self.tau <= 1, "agent.tau", self.tau, "a number in (0, 1]")
        require(
            self.precision in ("float32", "bfloat16"), "agent.precision", self.precision, "float32 or bfloat16"
        )


def descend(loss: Loss, params: Params, optimizer: Adam, alive: Tensor) -> Any:
    """One step of Adam, in place, on `loss(params) -> ((S,), aux)`; returns aux.

    A seed whose loss is not finite is first struck from `alive` (S,), and so keeps its parameters.
    """

    def with_value(params: Params) -> tuple[Tensor, tuple[Tensor, Any]]:
        losses, aux = loss(params)
        return losses, (losses.detach(), aux)

    grads, (value, aux) = gradients(with_value, params)
    alive.logical_and_(torch.isfinite(value))
    optimizer.step(params, grads, alive)
    return aux


class Successor(NamedTuple):
    """What the target networks make of a batch's s'. No gradient."""

    action: Tensor
    """a' = mu'(s') + clipped noise, (S, B, A)."""
    feature: Tensor
    """phi'(s', a'), (S, E, B, H)."""
    td_target: Tensor
    """y = r + gamma (1 - d) min_i Q'_i(s', a'), (S, B)."""


class TD3:
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
        """(S,) seeds that still learn; one whose loss turns non-finite learns no more from then on."""

    # ---------------------------------------------------------------- acting

    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """mu(s), plus exploration noise where standard normal `noise` (S, N, A) is given. (S, N, O) -> (S, N, A)."""
        action = self.actor(self.actor_params, obs)
        if noise is None:
            return action
        return (action + self.config.exploration_noise * noise).clamp(-1.0, 1.0)

    def observe(self, obs: Tensor) -> None:
        """Take note of what the worlds show, (S, N, O), before acting on it."""
        if self.config.running_normalization:
            self.normalizer.update(obs)

    # -------------------------------------------------------------- learning

    @torch.no_grad()
    def successor(self, batch: Batch, step: Tensor | int = 0) -> Successor:
        """The target action, its features and the TD target; update `step` draws the noise."""
        c = self.config
        action = self.actor(self.actor_target, batch.next_obs)
        if c.target_noise > 0:
            noise = self.rng.normal("target_noise", step, batch.action.shape[1:])
            action = smoothed_action(action, noise, c.target_noise, c.target_noise_clip)
        feature = self.critic.features(self.critic_target, batch.next_obs, action)
        next_value = clipped_double_q(self.critic.value(self.critic_target, feature).float())
        target = td_target(batch.reward, batch.terminated, next_value, self.discount(batch))
        return Successor(action, feature, target)

    def discount(self, batch: Batch | NStepBatch) -> float | Tensor:
        """What the value of s' counts: gamma, or gamma^k (S, B) where rewards are of k steps."""
        return batch.discount if isinstance(batch, NStepBatch) else self.config.discount

    def critic_features(self, params: Params, batch: Batch, successor: Successor | None = None) -> CriticFeatures:
        """phi at (s, a) and at (s', a'), for the TD loss and the regularisers."""
        successor = successor or self.successor(batch)
        return CriticFeatures(
            params=params,
            feature=self.critic.features(params, batch.obs, batch.action).float(),
            next_feature_target=lambda: successor.feature.float(),
            next_feature_online=lambda: self.critic.features(
                params, batch.next_obs, self.actor(detached(self.actor_params), batch.next_obs)
            ).float(),
            features_by=lambda other: self.critic.features(other, batch.obs, batch.action).float(),
            head_weight=self.critic.head_weight(params),
            reward=batch.reward,
            terminated=batch.terminated,
            discount=self.discount(batch),
        )

    def critic_loss(self, params: Params, batch: Batch, successor: Successor) -> tuple[Tensor, Metrics]:
        """Mean squared TD error of each critic plus the regulariser: (S,)."""
        f = self.critic_features(params, batch, successor)
        q = self.critic.value(params, f.feature).float()
        td_loss = ensemble_td_loss(q, successor.td_target)
        penalty, metrics = self.regularizer.loss(f, self.constants)
        losses = {"train/critic_loss": td_loss, "train/q": q.mean(dim=(1, 2)), "regularizer/loss": penalty}
        return td_loss + penalty, {name: value.detach() for name, value in (losses | metrics).items()}

    def actor_loss(self, params: Params, batch: Batch) -> tuple[Tensor, Metrics]:
        """Deterministic policy gradient, -mean Q_1(s, mu(s)): (S,)."""
        loss = -self.first_q(batch.obs, self.actor(params, batch.obs)).mean(dim=-1)
        return loss, {"train/actor_loss": loss.detach()}

    def first_q(self, obs: Tensor, action: Tensor) -> Tensor:
        """Q_1(s, a), with gradient to the action but not to the critic: (S, B, O), (S, B, A) -> (S, B)."""
        return self.critic(first_critic(detached(self.critic_params)), obs, action).float().squeeze(1)

    def update(self, batch: Batch, step: Tensor, update_actor: bool) -> Metrics:
        """One update in place; `step` numbers it from 1. A pure tensor program but for the flag.

        `update_actor` is true every `policy_delay`-th time. Returns metrics (S,), on the device.
        """
        # Critic
        with self.autocast():
            successor = self.successor(batch, step)
        metrics = self.descend(
            lambda p: self.critic_loss(p, batch, successor), self.critic_params, self.critic_optimizer
        )
        if not update_actor:
            return metrics

        # Actor
        metrics |= self.descend(lambda p: self.actor_loss(p, batch), self.actor_params, self.actor_optimizer)
        self.move_targets()
        return metrics

    def move_targets(self) -> None:
        polyak_(self.critic_target, self.critic_params, self.config.tau)
        polyak_(self.actor_target, self.actor_params, self.config.tau)

    def descend(self, loss: Loss, params: Params, optimizer: Adam) -> Any:
        """`descend` above, in this agent's precision."""
        with self.autocast():
            return descend(loss, params, optimizer, self.alive)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    # ------------------------------------------------------------- measuring

    def q_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """min_i Q_i(s, a), the value the TD target trusts: (S, B, O), (S, B, A) -> (S, B)."""
        return clipped_double_q(self.critic(self.critic_params, obs, action))

    # ----------------------------------------------------------------- state

    def state(self) -> dict[str, Params | dict[str, Params]]:
        """Every tensor that learning changes or keeps, live and nested by name; S first in all but step counts."""
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
