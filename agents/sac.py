"""SAC (Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018), its temperature tuned automatically.

The order of an update and its constants are Stable-Baselines3's, with which it is compared in
tests/parity/test_sac_against_sb3.py. Any critic regulariser works on it, as on TD3.
Shapes: S seeds, N worlds, E critics, B batch, O and A observation and action sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlreg import checks
from rlreg.agent import AgentConfig
from rlreg.buffers import Batch
from rlreg.networks import MLP, Critic, Normalize, Params, RunningNormalizer, detached, polyak_, unchanged
from rlreg.objectives import clipped_double_q, ensemble_td_loss, squashed_gaussian, td_target
from rlreg.optim import Adam, gradients
from rlreg.q_learning import QAgent, Successor
from rlreg.regularizers import CriticFeatures, Metrics, Regularizer
from rlreg.rng import Rng
from rlreg.training.online import OnlineTraining

if TYPE_CHECKING:
    import gymnasium

    from rlreg.config import TrainConfig

LOG_STD_RANGE = (-20.0, 2.0)
"""Of the Gaussian before its squashing."""


@dataclass
class SACConfig(AgentConfig):
    """SAC's settings; the defaults are Stable-Baselines3's, with the BEER paper's step sizes."""

    _target_: str = "agents.sac.SAC"
    name: str = "sac"
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the hidden layers of policy and critics."""
    num_critics: int = 2
    """E; targets and policy take the least of them."""
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    initial_temperature: float = 1.0
    """alpha before the first update."""
    target_entropy: float | None = None
    """What the policy's entropy is steered to, in nats; by default -A."""
    discount: float = 0.99
    tau: float = 0.005
    """Step of the target critics towards the online ones."""
    batch_size: int = 256
    running_normalization: bool = False
    """Normalise observations by mean and standard deviation of those that the worlds have shown so far."""
    precision: str = "float32"
    """float32, or bfloat16: matrix products in bfloat16, parameters and Adam in float32."""

    def __post_init__(self) -> None:
        checks.widths(self, "agent", "hidden")
        checks.whole(self, "agent", "num_critics", "batch_size")
        checks.positive(self, "agent", "actor_learning_rate", "critic_learning_rate", "temperature_learning_rate")
        checks.positive(self, "agent", "initial_temperature")
        checks.within(self, "agent", "discount", interval="(0, 1)")
        checks.within(self, "agent", "tau", interval="(0, 1]")
        checks.one_of(self, "agent", "precision", "float32", "bfloat16")


class SAC(QAgent):
    """S independent SAC learners. Their Q counts the entropy bonus of the steps to come."""

    Config = SACConfig
    Training = OnlineTraining

    def __init__(
        self,
        config: SACConfig,
        regularizer: Regularizer,
        obs_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.regularizer, self.device = config, regularizer, torch.device(device)
        self.obs_dim, self.action_dim, self.seeds = obs_dim, action_dim, tuple(seeds)
        self.precision = config.precision
        self.rng = Rng(seeds, device)
        self.target_entropy = -float(action_dim) if config.target_entropy is None else config.target_entropy
        self.normalize: Normalize = unchanged
        if config.running_normalization:
            self.normalizer = self.normalize = RunningNormalizer(len(seeds), obs_dim, device)
        self.actor = MLP((obs_dim, *config.hidden, 2 * action_dim))
        """s to the mean and the logarithm of the standard deviation of the Gaussian that tanh squashes."""
        self.critic = Critic(obs_dim, action_dim, config.hidden, config.num_critics, self.normalize)

        self.actor_params = self.actor.init(self.rng, "actor")
        self.critic_params = self.critic.init(self.rng)
        self.critic_target = {name: p.clone() for name, p in self.critic_params.items()}
        extra, self.constants = regularizer.init(self.critic_params, self.rng)
        self.critic_params |= extra
        log_temperature = torch.full((len(seeds), 1), math.log(config.initial_temperature), device=device)
        self.temperature_params = {"log_temperature": log_temperature}
        self.actor_optimizer = Adam(self.actor_params, config.actor_learning_rate)
        self.critic_optimizer = Adam(self.critic_params, config.critic_learning_rate)
        self.temperature_optimizer = Adam(self.temperature_params, config.temperature_learning_rate)
        self.alive = torch.ones(len(seeds), dtype=torch.bool, device=device)

    # ---------------------------------------------------------------- acting

    def policy(self, params: Params, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """a ~ pi(s) by standard normal `noise` (S, B, A), and log pi(a | s): (S, B, O) -> (S, B, A), (S, B)."""
        mean, log_std = self.actor(params, self.normalize(obs)).float().chunk(2, dim=-1)
        return squashed_gaussian(mean, log_std.clamp(*LOG_STD_RANGE), noise)

    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """A draw from the policy by `noise` (S, N, A), or tanh of its mean: (S, N, O) -> (S, N, A)."""
        if noise is not None:
            return self.policy(self.actor_params, obs, noise)[0]
        return torch.tanh(self.actor(self.actor_params, self.normalize(obs))[..., : self.action_dim])

    def observe(self, obs: Tensor) -> None:
        if self.config.running_normalization:
            self.normalizer.update(obs)

    # -------------------------------------------------------------- learning

    def temperature_loss(self, params: Params, log_prob: Tensor) -> tuple[Tensor, Metrics]:
        """-mean log alpha (log pi(a | s) + H), with H the target entropy: (S,). (The paper has alpha for log alpha.)"""
        loss = -params["log_temperature"].squeeze(-1) * (log_prob + self.target_entropy).mean(dim=-1)
        return loss, {"train/temperature_loss": loss.detach(), "train/entropy": -log_prob.mean(dim=-1)}

    @torch.no_grad()
    def successor(self, batch: Batch, temperature: Tensor, noise: Tensor) -> Successor:
        """a' ~ pi(s'), phi'(s', a') and y = r + gamma (1 - d) (min_i Q'_i(s', a') - alpha log pi(a' | s')).

        `temperature` is alpha, (S, 1).
        """
        action, log_prob = self.policy(self.actor_params, batch.next_obs, noise)
        feature = self.critic.features(self.critic_target, batch.next_obs, action)
        value = clipped_double_q(self.critic.value(self.critic_target, feature).float()) - temperature * log_prob
        target = td_target(batch.reward, batch.terminated, value, self.discount_of(batch))
        return Successor(action, feature, target)

    def critic_features(self, params: Params, batch: Batch, successor: Successor | None = None) -> CriticFeatures:
        """phi at (s, a) and at (s', a'); without a `successor`, a' is the policy's mean."""

        def next_feature(critic_params: Params) -> Tensor:
            with torch.no_grad():
                action = self.act(batch.next_obs) if successor is None else successor.action
            return self.critic.features(critic_params, batch.next_obs, action)

        def next_target() -> Tensor:
            return next_feature(self.critic_target).detach() if successor is None else successor.feature

        return self.features(params, batch, batch.action, next_target, lambda: next_feature(params))

    def critic_loss(self, params: Params, batch: Batch, successor: Successor) -> tuple[Tensor, Metrics]:
        """Half the mean squared TD error of each critic, plus the regulariser: (S,)."""
        f = self.critic_features(params, batch, successor)
        q = self.critic.value(params, f.feature).float()
        td_loss = 0.5 * ensemble_td_loss(q, successor.td_target)
        return self.with_penalty(td_loss, q, f)

    def actor_loss(self, params: Params, batch: Batch, temperature: Tensor, noise: Tensor) -> tuple[Tensor, Metrics]:
        """mean (alpha log pi(a | s) - min_i Q_i(s, a)), with a ~ pi(s): (S,)."""
        action, log_prob = self.policy(params, batch.obs, noise)
        q = clipped_double_q(self.critic(detached(self.critic_params), batch.obs, action).float())
        loss = (temperature * log_prob - q).mean(dim=-1)
        return loss, {"train/actor_loss": loss.detach()}

    def update(self, batch: Batch, step: Tensor) -> Metrics:
        shape = batch.action.shape[1:]
        noise, next_noise = (self.rng.normal(name, step, shape) for name in ("policy_noise", "next_policy_noise"))

        # Temperature; the losses below use alpha as it was before
        temperature = self.temperature_params["log_temperature"].exp()
        metrics = {"train/temperature": temperature.squeeze(-1)}
        with torch.no_grad(), self.autocast():
            _, log_prob = self.policy(self.actor_params, batch.obs, noise)
        grads, losses, more = gradients(self.temperature_loss, self.temperature_params, log_prob)
        self.temperature_optimizer.step(self.temperature_params, grads, losses, self.alive)
        metrics |= more

        # Critic
        with self.autocast():
            successor = self.successor(batch, temperature, next_noise)
            grads, losses, more = gradients(self.critic_loss, self.critic_params, batch, successor)
        self.critic_optimizer.step(self.critic_params, grads, losses, self.alive)
        metrics |= more

        # Actor
        with self.autocast():
            grads, losses, more = gradients(self.actor_loss, self.actor_params, batch, temperature, noise)
        self.actor_optimizer.step(self.actor_params, grads, losses, self.alive)
        polyak_(self.critic_target, self.critic_params, self.config.tau)
        return metrics | more

    # ----------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        normalizer = {"normalizer": self.normalizer.state()} if self.config.running_normalization else {}
        return normalizer | {
            "actor": self.actor_params,
            "critic": self.critic_params,
            "critic_target": self.critic_target,
            "temperature": self.temperature_params,
            "actor_optimizer": self.actor_optimizer.state(),
            "critic_optimizer": self.critic_optimizer.state(),
            "temperature_optimizer": self.temperature_optimizer.state(),
            "constants": self.constants,
            "alive": {"alive": self.alive},
        }

    def to_sb3(self, i: int, env: gymnasium.Env, train: TrainConfig) -> Any:
        """Seed number i as Stable-Baselines3's SAC, with its temperature; Adam begins afresh in `learn`."""
        import stable_baselines3

        from rlreg.sb3 import warn_of_one_learning_rate, with_networks

        c = self.config
        warn_of_one_learning_rate(c)
        networks = {"actor": self.actor_params, "critic": self.critic_params, "critic_target": self.critic_target}
        if c.running_normalization:
            networks = {name: self.normalizer.fold(params) for name, params in networks.items()}
        model = with_networks(
            networks,
            i,
            env,
            train,
            algorithm=stable_baselines3.SAC,
            learning_rate=c.critic_learning_rate,
            batch_size=c.batch_size,
            tau=c.tau,
            gamma=c.discount,
            target_entropy=self.target_entropy,
            device=self.device,
        )
        with torch.no_grad():
            model.log_ent_coef.copy_(self.temperature_params["log_temperature"][i])
        return model
