"""IQL (Kostrikov, Nair & Levine, "Offline Reinforcement Learning with Implicit Q-Learning", ICLR 2022).

No action outside of the data is ever valued: V is an upper expectile of Q over the data's actions, Q
bootstraps from V, and the policy is the data's actions weighted by their advantage. Order and constants
are those of the authors' code. So is the scaling of rewards, but that returns are of whole episodes here: there
one that the time limit cut lacks its last reward, some tenths of a percent.

Shapes: S seeds, N worlds, E critics, B batch, O and A observation and action sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from rlreg import checks
from rlreg.agent import AgentConfig
from rlreg.buffers import Batch, DatasetBuffer
from rlreg.config import TrainConfig
from rlreg.errors import require
from rlreg.networks import Actor, Critic, Normalizer, Params, StateValue, polyak_
from rlreg.objectives import (
    advantage_weight,
    clipped_double_q,
    cosine_decay,
    ensemble_td_loss,
    expectile_loss,
    gaussian_log_prob,
    td_target,
)
from rlreg.optim import Adam, gradients
from rlreg.q_learning import QAgent
from rlreg.regularizers import CriticFeatures, Metrics, Regularizer
from rlreg.rng import Rng
from rlreg.training.offline import OfflineTraining

LOG_STD_RANGE = (-5.0, 2.0)
INITIALIZATIONS = ("orthogonal", "pytorch")
WEIGHT_LIMIT = 100.0
"""No transition counts more than this in the policy's loss."""


@dataclass
class IQLConfig(AgentConfig):
    """IQL's settings; the defaults are the paper's for locomotion (AntMaze there: expectile 0.9, temperature 10)."""

    _target_: str = "agents.iql.IQL"
    name: str = "iql"
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the hidden layers of policy, critics and value."""
    num_critics: int = 2
    """E; V looks at the least of them."""
    expectile: float = 0.7
    """tau: 0.5 values the data's policy; towards 1, the best of its actions."""
    temperature: float = 3.0
    """beta: 0 clones the data; larger follows the advantage more."""
    learning_rate: float = 3e-4
    """Of all networks; the policy's falls to 0 along a cosine."""
    schedule_steps: int = 1_000_000
    """Updates over which it falls."""
    discount: float = 0.99
    tau: float = 0.005
    """Step of the target critics towards the online ones."""
    batch_size: int = 256
    normalize_obs: bool = False
    """Whether training fits `normalizer` to the data's states; the authors do not."""
    initialization: str = "orthogonal"
    """orthogonal: weights sqrt(2) times an orthogonal matrix in every layer, the last ones too, and biases of 0, as in
    the authors' code; pytorch: PyTorch's default for linear layers."""
    normalize_rewards: bool = True
    """Whether training multiplies rewards by 1000 / (best - worst return of the data's episodes), for which temperature
    and weight limit are meant. The authors do it in Gym-MuJoCo only; for Adroit give false."""

    def __post_init__(self) -> None:
        checks.widths(self, "agent", "hidden")
        checks.whole(self, "agent", "num_critics", "batch_size", "schedule_steps")
        checks.within(self, "agent", "expectile", "discount", interval="(0, 1)")
        checks.not_negative(self, "agent", "temperature")
        checks.positive(self, "agent", "learning_rate")
        checks.within(self, "agent", "tau", interval="(0, 1]")
        checks.one_of(self, "agent", "initialization", *INITIALIZATIONS)


class IQL(QAgent):
    """S independent IQL learners. All observations that come in are raw."""

    Config = IQLConfig
    Training = OfflineTraining

    def __init__(
        self,
        config: IQLConfig,
        regularizer: Regularizer,
        obs_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.regularizer, self.device = config, regularizer, torch.device(device)
        self.obs_dim, self.action_dim, self.seeds = obs_dim, action_dim, tuple(seeds)
        rng = Rng(seeds, device)
        self.normalizer = Normalizer(len(seeds), obs_dim, device)
        self.actor = Actor(obs_dim, action_dim, config.hidden, self.normalizer)
        self.critic = Critic(obs_dim, action_dim, config.hidden, config.num_critics, self.normalizer)
        self.value = StateValue(obs_dim, config.hidden, self.normalizer)

        # pi(a | s) = N(tanh(MLP(s)), diag std^2), std the same in all states and 1 at first
        self.actor_params = self._init(self.actor, rng, "actor")
        self.actor_params["log_std"] = torch.zeros(len(seeds), 1, action_dim, device=device)
        self.critic_params = self._init(self.critic, rng, "critic")
        self.critic_target = {name: p.clone() for name, p in self.critic_params.items()}
        extra, self.constants = regularizer.init(self.critic_params, rng)
        self.critic_params |= extra
        self.value_params = self._init(self.value, rng, "value")
        self.actor_learning_rate = torch.tensor(config.learning_rate, device=device)
        self.actor_optimizer = Adam(self.actor_params, self.actor_learning_rate)
        self.critic_optimizer = Adam(self.critic_params, config.learning_rate)
        self.value_optimizer = Adam(self.value_params, config.learning_rate)
        self.reward_scale = torch.ones(len(seeds), device=device)
        """(S,) what rewards are multiplied by."""
        self.alive = torch.ones(len(seeds), dtype=torch.bool, device=device)

    def fit(self, data: DatasetBuffer) -> None:
        if self.config.normalize_obs:
            self.normalizer.fit(data.obs)
        self.fit_rewards(data.returns)

    def _init(self, network: Actor | Critic | StateValue, rng: Rng, name: str) -> Params:
        if self.config.initialization == "pytorch":
            return network.init(rng, name)
        return network.mlp.orthogonal_init(rng, name, [math.sqrt(2.0)] * network.mlp.depth)

    def fit_rewards(self, returns: NDArray) -> None:
        """Scale rewards by the data's returns (E,), if configured. Raises `UserError` where these are all equal."""
        if self.config.normalize_rewards:
            spread = float(returns.max() - returns.min())
            valid = f"false: the data's episodes all return {float(returns.max()):g}, which gives no scale"
            require(spread > 0, "agent.normalize_rewards", "true", valid)
            self.reward_scale.fill_(1000.0 / spread)

    # ---------------------------------------------------------------- acting

    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """The policy's mean, or a draw from it by standard normal `noise` (S, N, A). (S, N, O) -> (S, N, A)."""
        mean = self.actor(self.actor_params, obs)
        if noise is None:
            return mean
        return (mean + self.actor_params["log_std"].clamp(*LOG_STD_RANGE).exp() * noise).clamp(-1.0, 1.0)

    # -------------------------------------------------------------- learning

    def value_loss(self, params: Params, batch: Batch, q: Tensor) -> tuple[Tensor, Metrics]:
        """V(s) towards the expectile tau of q = min_i Q'_i(s, a) over the data's actions, eq. 5: (S,)."""
        value = self.value(params, batch.obs)
        loss = expectile_loss(q - value, self.config.expectile)
        return loss, {"train/value_loss": loss.detach(), "train/value": value.detach().mean(dim=-1)}

    def actor_loss(self, params: Params, batch: Batch, advantage: Tensor) -> tuple[Tensor, Metrics]:
        """-mean min(exp(beta A), 100) log pi(a | s), eq. 7: (S,)."""
        weight = advantage_weight(advantage, self.config.temperature, WEIGHT_LIMIT)
        mean, log_std = self.actor(params, batch.obs), params["log_std"].clamp(*LOG_STD_RANGE)
        loss = -(weight * gaussian_log_prob(mean, log_std, batch.action)).mean(dim=-1)
        return loss, {
            "train/actor_loss": loss.detach(),
            "behaviour/advantage": advantage.mean(dim=-1),
            "behaviour/weight": weight.mean(dim=-1),
            "behaviour/std": log_std.detach().exp().mean(dim=(1, 2)),
        }

    def critic_loss(self, params: Params, batch: Batch) -> tuple[Tensor, Metrics]:
        """Squared error of each Q_i(s, a) to r + gamma (1 - d) V(s'), eq. 6, plus the regulariser: (S,)."""
        f = self.critic_features(params, batch)
        with torch.no_grad():
            next_value = self.value(self.value_params, batch.next_obs)
            target = td_target(f.reward, f.terminated, next_value, f.discount)
        q = self.critic.value(params, f.feature)
        td_loss = ensemble_td_loss(q, target)
        return self.with_penalty(td_loss, q, f)

    def critic_features(self, params: Params, batch: Batch) -> CriticFeatures:
        """phi at (s, a), and at (s', a') with a' the policy's mean, which IQL itself has no use for."""

        def next_feature(critic_params: Params) -> Tensor:
            with torch.no_grad():
                next_action = self.actor(self.actor_params, batch.next_obs)
            return self.critic.features(critic_params, batch.next_obs, next_action)

        scaled = batch._replace(reward=self.reward_scale[:, None] * batch.reward)
        return self.features(
            params, scaled, batch.action, lambda: next_feature(self.critic_target), lambda: next_feature(params)
        )

    def update(self, batch: Batch, step: Tensor) -> Metrics:
        # Value
        with torch.no_grad():
            q = self._target_q(batch.obs, batch.action)
        grads, losses, metrics = gradients(self.value_loss, self.value_params, batch, q)
        self.value_optimizer.step(self.value_params, grads, losses, self.alive)

        # Policy, by the new value
        with torch.no_grad():
            advantage = q - self.value(self.value_params, batch.obs)
        self.actor_learning_rate.copy_(self.config.learning_rate * cosine_decay(step - 1, self.config.schedule_steps))
        grads, losses, more = gradients(self.actor_loss, self.actor_params, batch, advantage)
        self.actor_optimizer.step(self.actor_params, grads, losses, self.alive)
        metrics |= more

        # Critic, by the new value
        grads, losses, more = gradients(self.critic_loss, self.critic_params, batch)
        self.critic_optimizer.step(self.critic_params, grads, losses, self.alive)
        polyak_(self.critic_target, self.critic_params, self.config.tau)
        return metrics | more

    def _target_q(self, obs: Tensor, action: Tensor) -> Tensor:
        return clipped_double_q(self.critic(self.critic_target, obs, action))

    # ------------------------------------------------------------- measuring

    def q_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """min_i Q_i(s, a) in units of the data's own rewards: (S, B, O), (S, B, A) -> (S, B)."""
        return clipped_double_q(self.critic(self.critic_params, obs, action)) / self.reward_scale[:, None]

    @torch.no_grad()
    def advantage(self, batch: Batch) -> Tensor:
        """A(s, a) = min_i Q'_i(s, a) - V(s), as the policy's weights have it: (S, B)."""
        return self._target_q(batch.obs, batch.action) - self.value(self.value_params, batch.obs)

    # ----------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        return {
            "actor": self.actor_params,
            "critic": self.critic_params,
            "critic_target": self.critic_target,
            "value": self.value_params,
            "actor_optimizer": self.actor_optimizer.state(),
            "critic_optimizer": self.critic_optimizer.state(),
            "value_optimizer": self.value_optimizer.state(),
            "constants": self.constants,
            "normalizer": self.normalizer.state(),
            "rewards": {"scale": self.reward_scale},
            "alive": {"alive": self.alive},
        }

    def _unscaled(self, critic_params: Params) -> Params:
        """The critics' parameters with a last layer that gives Q in units of the data's own rewards."""
        last = self.critic.mlp.depth - 1
        scale = self.reward_scale.view(-1, 1, 1, 1)
        return critic_params | {name: critic_params[name] / scale for name in (f"{last}.weight", f"{last}.bias")}

    def to_sb3(self, i: int, env: Any, train: TrainConfig) -> Any:
        """Seed number i, acting by its mean, as a Stable-Baselines3 TD3 on raw observations and rewards."""
        from rlreg.sb3 import with_networks

        fold, c = self.normalizer.fold, self.config
        actor = fold(self.actor_params)
        critic, critic_target = (fold(self._unscaled(p)) for p in (self.critic_params, self.critic_target))
        return with_networks(
            {"actor": actor, "actor_target": actor, "critic": critic, "critic_target": critic_target},
            i,
            env,
            train,
            learning_rate=c.learning_rate,
            batch_size=c.batch_size,
            tau=c.tau,
            gamma=c.discount,
            device=self.device,
        )
