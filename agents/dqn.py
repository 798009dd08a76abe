"""DQN (Mnih et al., Nature 2015), with double Q (van Hasselt et al., AAAI 2016) as an option: for BEER's illustrations.

The critic is that of the other agents, Q(s, a) = phi(s, a)^T w, which takes an action as a one-hot vector: so the last
hidden layer is a feature of state and action, as the BEER paper's theorem has it, and every critic regulariser works.
(The usual DQN has one feature of the state and weights for each action.) Targets follow by Polyak averaging.
Shapes: S seeds, N worlds, B batch, O observation size, A number of actions, H features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlreg import checks
from rlreg.agent import AgentConfig
from rlreg.buffers import Batch
from rlreg.networks import Critic, Params, polyak_
from rlreg.objectives import ensemble_td_loss, td_target
from rlreg.optim import Adam, gradients
from rlreg.q_learning import QAgent, Successor
from rlreg.regularizers import CriticFeatures, Metrics, Regularizer
from rlreg.rng import Rng
from rlreg.training.online import OnlineTraining

if TYPE_CHECKING:
    import gymnasium
    import stable_baselines3

    from rlreg.config import TrainConfig


@dataclass
class DQNConfig(AgentConfig):
    """DQN's settings."""

    _target_: str = "agents.dqn.DQN"
    name: str = "dqn"
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the critic's hidden layers."""
    double: bool = False
    """Whether the online critic chooses the next action that the target critic values."""
    clip_error: bool = False
    """Whether the loss is Huber's, as in the paper: its gradient is that of a TD error of 1 at most. Otherwise it is
    the mean squared error, as for the other agents."""
    learning_rate: float = 3e-4
    discount: float = 0.99
    tau: float = 0.005
    """Step of the target network towards the online one."""
    batch_size: int = 256
    epsilon: float = 0.1
    """Share of random actions while training."""

    def __post_init__(self) -> None:
        checks.widths(self, "agent", "hidden")
        checks.whole(self, "agent", "batch_size")
        checks.positive(self, "agent", "learning_rate")
        checks.within(self, "agent", "discount", interval="(0, 1)")
        checks.within(self, "agent", "tau", interval="(0, 1]")
        checks.within(self, "agent", "epsilon", interval="[0, 1]")


class DQN(QAgent):
    """S independent DQN learners. Actions are (..., A) numbers of which the largest is the one taken."""

    Config = DQNConfig
    Training = OnlineTraining
    discrete_actions = True

    def __init__(
        self,
        config: DQNConfig,
        regularizer: Regularizer,
        obs_dim: int,
        num_actions: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.regularizer, self.device = config, regularizer, torch.device(device)
        self.obs_dim, self.action_dim, self.seeds = obs_dim, num_actions, tuple(seeds)
        self.critic = Critic(obs_dim, num_actions, config.hidden)
        rng = Rng(seeds, device)
        self.critic_params = self.critic.init(rng)
        self.critic_target = {name: p.clone() for name, p in self.critic_params.items()}
        extra, self.constants = regularizer.init(self.critic_params, rng)
        self.critic_params |= extra
        self.critic_optimizer = Adam(self.critic_params, config.learning_rate)
        from scipy.special import chdtri  # here, as only this agent pays for its import

        self.explores_above = float(chdtri(num_actions, config.epsilon)) if config.epsilon else float("inf")
        self.alive = torch.ones(len(seeds), dtype=torch.bool, device=device)

    # ---------------------------------------------------------------- acting

    def action_values(self, params: Params, obs: Tensor) -> Tensor:
        """Q(s, a) of every action: (S, B, O) -> (S, B, A)."""
        pairs = obs.unsqueeze(2).expand(-1, -1, self.action_dim, -1).flatten(1, 2)
        actions = torch.eye(self.action_dim, device=obs.device).repeat(obs.shape[1], 1).expand(len(obs), -1, -1)
        return self.critic(params, pairs, actions).view(*obs.shape[:2], self.action_dim)

    def greedy(self, params: Params, obs: Tensor) -> Tensor:
        """argmax_a Q(s, a), one-hot: (S, B, O) -> (S, B, A)."""
        return one_hot(self.action_values(params, obs))

    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """The greedy action; with standard normal `noise` (S, N, A) epsilon-greedy. (S, N, O) -> (S, N, A), one-hot.

        A Gaussian vector's length says nothing of its direction: the length decides whether to explore (it is beyond
        the chi-squared distribution's upper epsilon-quantile with probability epsilon), the direction which action.
        """
        action = self.greedy(self.critic_params, obs)
        if noise is None:
            return action
        explores = torch.square(noise).sum(dim=-1, keepdim=True) > self.explores_above
        return torch.where(explores, one_hot(noise), action)

    # -------------------------------------------------------------- learning

    @torch.no_grad()
    def successor(self, batch: Batch) -> Successor:
        """The best next action by the target network (with double Q: by the online one), and its value."""
        chooser = self.critic_params if self.config.double else self.critic_target
        action = self.greedy(chooser, batch.next_obs)
        feature = self.critic.features(self.critic_target, batch.next_obs, action)
        value = self.critic.value(self.critic_target, feature).squeeze(1)
        return Successor(action, feature, td_target(batch.reward, batch.terminated, value, self.discount_of(batch)))

    def critic_features(self, params: Params, batch: Batch, successor: Successor | None = None) -> CriticFeatures:
        """phi at (s, a) and at (s', a')."""
        successor = successor or self.successor(batch)
        action = one_hot(batch.action)

        def next_feature_online() -> Tensor:
            return self.critic.features(params, batch.next_obs, self.greedy(self.critic_params, batch.next_obs))

        return self.features(params, batch, action, lambda: successor.feature, next_feature_online)

    def critic_loss(self, params: Params, batch: Batch, successor: Successor) -> tuple[Tensor, Metrics]:
        """Mean squared TD error, or Huber's loss, plus the regulariser: (S,)."""
        f = self.critic_features(params, batch, successor)
        q = self.critic.value(params, f.feature)
        if self.config.clip_error:
            td_loss = F.smooth_l1_loss(q.squeeze(1), successor.td_target, reduction="none").mean(dim=-1)
        else:
            td_loss = ensemble_td_loss(q, successor.td_target)
        return self.with_penalty(td_loss, q, f)

    def update(self, batch: Batch, step: Tensor) -> Metrics:
        successor = self.successor(batch)
        grads, losses, metrics = gradients(self.critic_loss, self.critic_params, batch, successor)
        self.critic_optimizer.step(self.critic_params, grads, losses, self.alive)
        polyak_(self.critic_target, self.critic_params, self.config.tau)
        return metrics

    # ------------------------------------------------------------- measuring

    def q_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) of the largest number of each action: (S, B, O), (S, B, A) -> (S, B)."""
        return self.critic(self.critic_params, obs, one_hot(action)).squeeze(1)

    # ------------------------------------------------- Stable-Baselines3

    def to_sb3(self, i: int, env: gymnasium.Env, train: TrainConfig) -> stable_baselines3.DQN:
        """Seed number i as SB3's DQN, whose network has a value for each action: ours once for each, side by side.

        It has the same values, but more weights than ours: `learn` goes on without their ties, with Huber's loss,
        without double Q and with Adam anew.
        """
        from rlreg.sb3 import dqn_model  # here: SB3 takes a second to load

        networks = {"q_net": self.critic_params, "q_net_target": self.critic_target}
        return dqn_model(
            {name: self.side_by_side(params) for name, params in networks.items()},
            i,
            env,
            train,
            learning_rate=self.config.learning_rate,
            batch_size=self.config.batch_size,
            tau=self.config.tau,
            gamma=self.config.discount,
            exploration_initial_eps=self.config.epsilon,
            exploration_final_eps=self.config.epsilon,
            device=self.device,
        )

    def side_by_side(self, params: Params) -> Params:
        """The critic as a network s -> (Q(s, a) for every a): (S, in, out) weights of its A copies, widths times A.

        In the first layer the weights of the copy's one-hot action become part of its bias; later layers are
        block-diagonal.
        """
        copies, layers = self.action_dim, self.critic.mlp.depth
        first, bias = params["0.weight"][:, 0], params["0.bias"][:, 0]
        own = bias + first[:, self.obs_dim :]  # (S, A, H)
        networks = {
            "0.weight": first[:, : self.obs_dim].repeat(1, 1, copies),
            "0.bias": own.flatten(1).unsqueeze(1),
        }
        each = torch.eye(copies, device=self.device)
        for layer in range(1, layers):
            weight, bias = params[f"{layer}.weight"][:, 0], params[f"{layer}.bias"][:, 0]
            networks[f"{layer}.weight"] = torch.stack([torch.kron(each, seed) for seed in weight])
            networks[f"{layer}.bias"] = bias.repeat(1, 1, copies)
        return networks

    # ----------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        return {
            "critic": self.critic_params,
            "critic_target": self.critic_target,
            "critic_optimizer": self.critic_optimizer.state(),
            "constants": self.constants,
            "alive": {"alive": self.alive},
        }


def one_hot(preference: Tensor) -> Tensor:
    """1 at the largest of each A numbers, 0 elsewhere: (..., A) -> (..., A)."""
    return F.one_hot(preference.argmax(dim=-1), preference.shape[-1]).to(preference.dtype)
