"""A2PR (Liu et al., "Adaptive Advantage-Guided Policy Regularization for Offline RL", ICML 2024), as released.

TD3+BC whose actor is held to the better of two actions: the data's, or one that a VAE proposes which has
learned from the data's advantageous actions only; and held only where one of the two is worth it.
Shapes: S seeds, B batch, O, A and Z observation, action and latent sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from agents.td3_bc import TD3BC, TD3BCConfig
from rlreg import checks
from rlreg.buffers import Batch
from rlreg.networks import MLP, Actor, Params, StateValue
from rlreg.objectives import clipped_double_q, scaled_policy_gradient, td_target
from rlreg.optim import Adam, gradients
from rlreg.q_learning import Successor
from rlreg.regularizers import Metrics, Regularizer
from rlreg.vae import VAE, Clamp, kl_to_standard_normal, squared_error

KL_WEIGHT = 0.5
LOG_STD = Clamp(-4.0, 15.0)


@dataclass
class A2PRConfig(TD3BCConfig):
    """TD3+BC's settings and A2PR's; networks and step sizes are the released code's."""

    _target_: str = "agents.a2pr.A2PR"
    name: str = "a2pr"
    hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    """Widths of the actor's hidden layers."""
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256, 256, 256])
    """Widths of the hidden layers of the critics and of V."""
    vae_hidden: list[int] = field(default_factory=lambda: [750, 750])
    """Widths of the hidden layers of the VAE's encoder and decoder."""
    mask: float = 1.0
    """Weight of the term that holds the actor, where it applies. Larger constrains more."""
    vae_weight: float = 1.0
    """Weight of the VAE's reconstruction against its prior."""
    value_learning_rate: float = 3e-4
    vae_learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.widths(self, "agent", "critic_hidden", "vae_hidden")
        checks.not_negative(self, "agent", "mask", "vae_weight")
        checks.positive(self, "agent", "value_learning_rate", "vae_learning_rate")


class A2PR(TD3BC):
    """S independent A2PR learners. All observations that come in are raw."""

    Config = A2PRConfig

    def __init__(
        self,
        config: A2PRConfig,
        regularizer: Regularizer,
        obs_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            config, regularizer, obs_dim, action_dim, seeds, device, critic_hidden=config.critic_hidden
        )
        self.latent_dim = 2 * action_dim
        self.value = StateValue(obs_dim, config.critic_hidden, self.normalizer)
        self.vae = VAE(
            encoder=MLP((obs_dim + action_dim, *config.vae_hidden, 2 * self.latent_dim), multiple_of=8),
            decoder=Actor(obs_dim + self.latent_dim, action_dim, config.vae_hidden, multiple_of=8),
            log_std=LOG_STD,
        )
        self.value_params = self.value.init(self.rng)
        self.vae_params = self.vae.init(self.rng)
        self.value_optimizer = Adam(self.value_params, config.value_learning_rate)
        self.vae_optimizer = Adam(self.vae_params, config.vae_learning_rate)

    # -------------------------------------------------------------- learning

    def update(self, batch: Batch, step: Tensor, update_actor: bool) -> Metrics:
        # Critic: TD3's
        with self.autocast():
            successor = self.successor(batch, step)
            grads, losses, metrics = gradients(self.critic_loss, self.critic_params, batch, successor)
        self.critic_optimizer.step(self.critic_params, grads, losses, self.alive)

        # Value, by the new critics; `value` is V(s) from before this step, here and below
        with self.autocast():
            grads, losses, (value, more) = gradients(self.value_loss, self.value_params, batch, successor)
        self.value_optimizer.step(self.value_params, grads, losses, self.alive)
        metrics |= more

        # Behaviour policy: a VAE of the data's actions that are better than V
        with self.autocast():
            with torch.no_grad():
                q_data = self.first_q(batch.obs, batch.action)
            grads, losses, more = gradients(self.vae_loss, self.vae_params, batch, q_data - value, step)
        self.vae_optimizer.step(self.vae_params, grads, losses, self.alive)
        metrics |= more
        if not update_actor:
            return metrics

        # Actor
        with self.autocast():
            grads, losses, more = gradients(self.actor_loss, self.actor_params, batch, q_data, value, step)
        self.actor_optimizer.step(self.actor_params, grads, losses, self.alive)
        self.move_targets()
        return metrics | more

    def value_loss(
        self, params: Params, batch: Batch, successor: Successor
    ) -> tuple[Tensor, tuple[Tensor, Metrics]]:
        """mean (V(s) - y_V)^2 with y_V = min(r + gamma (1 - d) min_i Q_i(s', a'), y), and V(s): (S,), (S, B).

        a' and y are those of the critic's step, the Q_i the online critics after it.
        """
        with torch.no_grad():
            next_value = clipped_double_q(self.critic(self.critic_params, batch.next_obs, successor.action).float())
            online = td_target(batch.reward, batch.terminated, next_value, self.config.discount)
            target = torch.minimum(online, successor.td_target)
        value = self.value(params, batch.obs).float()
        loss = torch.square(value - target).mean(dim=-1)
        metrics = {"train/value_loss": loss.detach(), "train/value": value.detach().mean(dim=-1)}
        return loss, (value.detach(), metrics)

    def vae_loss(
        self, params: Params, batch: Batch, advantage: Tensor, step: Tensor
    ) -> tuple[Tensor, Metrics]:
        """mean [w g (a^ - a)^2] + mean KL / 2 with g = 1{Q_1(s, a) > V(s)}: (S,).

        The means are over batch and dimensions: what the gate shuts out still counts in the first, and
        the KL is not gated.
        """
        noise = self.rng.normal("vae/data", step, (batch.obs.shape[1], self.latent_dim))
        reconstruction, kl = self.reconstruct(params, batch.obs, batch.action, noise)
        gate = (advantage > 0).float()
        error = (gate.unsqueeze(-1) * squared_error(reconstruction, batch.action)).mean(dim=(1, 2))
        kl = kl.mean(dim=(1, 2))
        loss = self.config.vae_weight * error + KL_WEIGHT * kl
        metrics = {
            "behaviour/vae_loss": loss,
            "behaviour/reconstruction_loss": error,
            "behaviour/kl": kl,
            "behaviour/advantage": advantage.mean(dim=-1),
            "behaviour/share_of_advantageous_actions": gate.mean(dim=-1),
        }
        return loss, {name: metric.detach() for name, metric in metrics.items()}

    def actor_loss(
        self, params: Params, batch: Batch, q_data: Tensor, value: Tensor, step: Tensor
    ) -> tuple[Tensor, Metrics]:
        """-lambda mean Q_1(s, pi) + mean [M (pi - a*)^2] with lambda = alpha / mean |Q_1(s, pi)|: (S,).

            a~ = VAE(s, pi)
            a* = a~ where Q_1(s, a~) >= Q_1(s, a), else a
            M  = mask where Q_1(s, a~) >= V(s) or Q_1(s, a) > V(s), else 0

        a~ is not detached: through the frozen VAE's reconstruction of pi the gradient reaches the actor.
        `q_data` is Q_1(s, a), `value` V(s), both (S, B).
        """
        action = self.actor(params, batch.obs)
        policy_gradient, scale = scaled_policy_gradient(self.first_q(batch.obs, action), self.config.alpha)

        noise = self.rng.normal("vae/policy", step, (batch.obs.shape[1], self.latent_dim))
        proposed, _ = self.reconstruct(self.vae_params, batch.obs, action, noise)
        with torch.no_grad():
            q_proposed = self.first_q(batch.obs, proposed)
            is_better = q_proposed >= q_data
            held = (q_proposed >= value) | (q_data > value)
        better = torch.where(is_better.unsqueeze(-1), proposed, batch.action)
        weight = self.config.mask * held.float()
        constraint = (weight.unsqueeze(-1) * torch.square(action - better)).mean(dim=(1, 2))

        loss = policy_gradient + constraint
        metrics = {
            "train/actor_loss": loss,
            "train/lambda": scale,
            "behaviour/constraint_loss": constraint,
            "behaviour/share_of_vae_actions": is_better.float().mean(dim=-1),
            "behaviour/share_constrained": held.float().mean(dim=-1),
        }
        return loss, {name: metric.detach() for name, metric in metrics.items()}

    def reconstruct(self, params: Params, obs: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (s, a), draw z by standard normal `noise` (S, B, Z), decode (s, z): a^ (S, B, A) and KL (S, B, Z)."""
        obs = self.normalizer(obs)
        posterior = self.vae.encode(params, torch.cat([obs, action], dim=-1))
        reconstruction = self.vae.decode(params, torch.cat([obs, posterior.sample(noise)], dim=-1))
        return reconstruction, kl_to_standard_normal(posterior)

    # ------------------------------------------------------------- measuring

    @torch.no_grad()
    def advantage(self, batch: Batch) -> Tensor:
        """A(s, a) = Q_1(s, a) - V(s), as the VAE's gate has it: (S, B)."""
        return self.first_q(batch.obs, batch.action) - self.value(self.value_params, batch.obs)

    # ----------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "value": self.value_params,
            "value_optimizer": self.value_optimizer.state(),
            "vae": self.vae_params,
            "vae_optimizer": self.vae_optimizer.state(),
        }
