"""TD3 (Fujimoto et al., ICML 2018), and DDPG (Lillicrap et al., ICLR 2016) as TD3 without its three additions.

DDPG is `num_critics=1, policy_delay=1, target_noise=0`. BEER, the paper's agent, is that DDPG with
`regularizer=beer`. Shapes: S seeds, E critics, B batch, O and A observation and action sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlreg.buffers import Batch
from rlreg.errors import require
from rlreg.networks import Actor, Critic, Params, detached, first_critic, polyak_
from rlreg.objectives import clipped_double_q, ensemble_td_loss, smoothed_action, td_target
from rlreg.optim import Adam, gradients
from rlreg.regularizers import CriticFeatures, Metrics, Regularizer
from rlreg.rng import Rng

Loss = Callable[[Params], tuple[Tensor, Metrics]]


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


class TD3:
    """S independent TD3 learners."""

    Config = TD3Config

    def __init__(
        self,
        config: TD3Config,
        regularizer: Regularizer,
        obs_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.regularizer, self.device = config, regularizer, torch.device(device)
        self.obs_dim, self.action_dim, self.seeds = obs_dim, action_dim, tuple(seeds)
        self.rng = Rng(seeds, device)
        self.actor = Actor(obs_dim, action_dim, config.hidden)
        self.critic = Critic(obs_dim, action_dim, config.hidden, config.num_critics)

        self.actor_params = self.actor.init(self.rng)
        self.critic_params = self.critic.init(self.rng)
        self.actor_target = {name: p.clone() for name, p in self.actor_params.items()}
        self.critic_target = {name: p.clone() for name, p in self.critic_params.items()}
        extra, self.constants = regularizer.init(self.critic_params, self.rng)
        self.critic_params |= extra
        self.actor_optimizer = Adam(self.actor_params, config.actor_learning_rate)
        self.critic_optimizer = Adam(self.critic_params, config.critic_learning_rate)
        self.alive = torch.ones(len(seeds), dtype=torch.bool, device=device)
        """(S,) seeds that still learn; one whose loss turns non-finite is frozen from then on."""

    # ---------------------------------------------------------------- acting

    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """mu(s), plus exploration noise where standard normal `noise` (S, N, A) is given. (S, N, O) -> (S, N, A)."""
        action = self.actor(self.actor_params, obs)
        if noise is None:
            return action
        return (action + self.config.exploration_noise * noise).clamp(-1.0, 1.0)

    # -------------------------------------------------------------- learning

    def critic_features(self, params: Params, batch: Batch, step: Tensor | int = 0) -> CriticFeatures:
        """phi at (s, a) and at (s', a'), for the TD loss and the regularisers."""
        c = self.config
        with torch.no_grad():
            # a' = mu'(s') + clipped noise
            next_action = self.actor(self.actor_target, batch.next_obs)
            if c.target_noise > 0:
                noise = self.rng.normal("target_noise", step, batch.action.shape[1:])
                next_action = smoothed_action(next_action, noise, c.target_noise, c.target_noise_clip)
            next_feature = self.critic.features(self.critic_target, batch.next_obs, next_action)
        return CriticFeatures(
            params=params,
            feature=self.critic.features(params, batch.obs, batch.action).float(),
            next_feature_target=next_feature.float(),
            next_feature_online=lambda: self.critic.features(
                params, batch.next_obs, self.actor(detached(self.actor_params), batch.next_obs)
            ).float(),
            features_by=lambda other: self.critic.features(other, batch.obs, batch.action).float(),
            head_weight=self.critic.head_weight(params),
            reward=batch.reward,
            terminated=batch.terminated,
            discount=c.discount,
        )

    def critic_loss(self, params: Params, batch: Batch, step: Tensor) -> tuple[Tensor, Metrics]:
        """Mean squared TD error of each critic plus the regulariser: (S,)."""
        f = self.critic_features(params, batch, step)
        # y = r + gamma (1 - d) min_i Q'_i(s', a')
        with torch.no_grad():
            next_value = clipped_double_q(self.critic.value(self.critic_target, f.next_feature_target).float())
            target = td_target(batch.reward, batch.terminated, next_value, self.config.discount)
        q = self.critic.value(params, f.feature).float()
        td_loss = ensemble_td_loss(q, target)
        penalty, metrics = self.regularizer.loss(f, self.constants)
        losses = {"train/critic_loss": td_loss, "train/q": q.mean(dim=(1, 2)), "regularizer/loss": penalty}
        return td_loss + penalty, {name: value.detach() for name, value in (losses | metrics).items()}

    def actor_loss(self, params: Params, batch: Batch) -> tuple[Tensor, Metrics]:
        """Deterministic policy gradient, -mean Q_1(s, mu(s)): (S,)."""
        action = self.actor(params, batch.obs)
        q = self.critic(first_critic(detached(self.critic_params)), batch.obs, action)
        loss = -q.float().mean(dim=(1, 2))
        return loss, {"train/actor_loss": loss.detach()}

    def update(self, batch: Batch, step: Tensor, update_actor: bool) -> Metrics:
        """One update in place; `step` numbers it from 1. A pure tensor program but for the flag.

        `update_actor` is true every `policy_delay`-th time. Returns metrics (S,), on the device.
        """
        # Critic
        grads, metrics = self._gradients(lambda p: self.critic_loss(p, batch, step), self.critic_params)
        self._freeze_non_finite(metrics["train/critic_loss"] + metrics["regularizer/loss"])
        self.critic_optimizer.step(self.critic_params, grads, self.alive)
        if not update_actor:
            return metrics

        # Actor
        grads, actor_metrics = self._gradients(lambda p: self.actor_loss(p, batch), self.actor_params)
        self._freeze_non_finite(actor_metrics["train/actor_loss"])
        self.actor_optimizer.step(self.actor_params, grads, self.alive)

        # Targets
        polyak_(self.critic_target, self.critic_params, self.config.tau)
        polyak_(self.actor_target, self.actor_params, self.config.tau)
        return metrics | actor_metrics

    def _gradients(self, loss: Loss, params: Params) -> tuple[Params, Metrics]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            return gradients(loss, params)

    def _freeze_non_finite(self, loss: Tensor) -> None:
        self.alive.logical_and_(torch.isfinite(loss))

    # ------------------------------------------------------------- measuring

    def q_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """min_i Q_i(s, a), the value the TD target trusts: (S, B, O), (S, B, A) -> (S, B)."""
        return clipped_double_q(self.critic(self.critic_params, obs, action))

    # ----------------------------------------------------------------- state

    def state(self) -> dict[str, Params | dict[str, Params]]:
        """Every tensor that learning changes or keeps, live and nested by name; S first in all but step counts."""
        return {
            "actor": self.actor_params,
            "critic": self.critic_params,
            "actor_target": self.actor_target,
            "critic_target": self.critic_target,
            "actor_optimizer": self.actor_optimizer.state(),
            "critic_optimizer": self.critic_optimizer.state(),
            "constants": self.constants,
            "alive": {"alive": self.alive},
        }
