"""PPO (Schulman et al. 2017) with a recurrent student for worlds of many levels, as in DRED (Garcin et al., ICML 2024).

One minibatch of whole sequences, LSTM states cleared at episode starts and rollout starts. What plays and what is
played is not in here: `rlreg.rollouts` plays, a curriculum chooses the levels.
Shapes: S seeds, T steps of a rollout, N worlds for each seed, H trunk features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlreg import checks
from rlreg.compilation import Function
from rlreg.level_space import Field
from rlreg.lstm import LSTMState
from rlreg.networks import Params
from rlreg.objectives import clipped_policy_loss, clipped_value_loss, gae, sampled_category, standardized
from rlreg.optim import Adam, clip_by_norm, gradients
from rlreg.recurrent import RecurrentActorCritic
from rlreg.regularizers import CriticFeatures, Metrics, Regularizer
from rlreg.rng import Rng
from rlreg.rollouts import PolicyOutput, Rollout


@dataclass
class PPOConfig:
    """The student's settings; the defaults are DRED's for MiniGrid."""

    hidden_dim: int = 256
    """Units of the LSTM."""
    filters: int = 16
    """Filters of the convolution."""
    head_dim: int = 32
    """Hidden units of the policy's and of the value's head."""
    num_envs: int = 36
    """N, worlds for each seed."""
    rollout_length: int = 256
    """T, steps of each world in a rollout."""
    epochs: int = 5
    """Passes over a rollout, each one minibatch."""
    learning_rate: float = 1e-4
    adam_eps: float = 1e-5
    discount: float = 0.995
    gae_lambda: float = 0.95
    clip: float = 0.2
    """Bound on the ratio's distance from 1, and on a value's from the old one."""
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.0
    max_grad_norm: float = 0.5
    bootstrap: str = "none"
    """What a time-out and a rollout's end are worth: none, nothing, as the released code has it; or value, V there."""

    def __post_init__(self) -> None:
        group = "agent.student"
        checks.whole(self, group, "hidden_dim", "filters", "head_dim", "num_envs", "rollout_length", "epochs")
        checks.positive(self, group, "learning_rate", "adam_eps")
        checks.positive(self, group, "clip", "max_grad_norm", or_infinite=True)
        checks.not_negative(self, group, "value_coefficient", "entropy_coefficient")
        checks.within(self, group, "discount", interval="(0, 1)")
        checks.within(self, group, "gae_lambda", interval="[0, 1]")
        checks.one_of(self, group, "bootstrap", "none", "value")


class Outputs(NamedTuple):
    """What the network makes of a rollout's observations; B = T x N, in the order of its two axes."""

    log_probs: Tensor
    """log pi(. | s), (S, B, actions)."""
    feature: Tensor
    """phi(s) of V = phi^T w + b, (S, 1, B, head_dim)."""
    value: Tensor
    """V(s), (S, B)."""


class PPO:
    """S independent recurrent students."""

    def __init__(
        self,
        config: PPOConfig,
        regularizer: Regularizer,
        observation: Mapping[str, Field],
        num_actions: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        """`observation` says what the task shows: `rlreg.level_space.LevelSpace.observation`."""
        self.config, self.regularizer, self.device = config, regularizer, torch.device(device)
        self.seeds, self.num_actions = tuple(seeds), num_actions
        self.rng = Rng(seeds, device)
        self.network = RecurrentActorCritic(
            observation, num_actions, config.hidden_dim, config.filters, head_dim=config.head_dim
        )
        self.feature_dim, self.bootstraps = config.hidden_dim, config.bootstrap == "value"
        self.params = self.network.init(self.rng)
        critic = {name: p for name, p in self.params.items() if not name.startswith("policy.")}
        extra, self.constants = regularizer.init(critic, self.rng)
        self.params |= extra
        self.optimizer = Adam(self.params, config.learning_rate, eps=config.adam_eps)
        self.alive = torch.ones(len(seeds), dtype=torch.bool, device=device)
        """(S,) seeds that still learn; one whose loss turns non-finite learns no more from then on."""

    # ---------------------------------------------------------------- acting

    def initial_state(self, num_envs: int) -> LSTMState:
        """The cleared memory of (S, N) worlds."""
        return self.network.initial_state(len(self.seeds), num_envs, self.device)

    def act(self, obs: Any, start: Tensor, state: LSTMState, uniform: Tensor) -> PolicyOutput:
        """Draw actions by `uniform` (S, N, actions) in (0, 1), from what is seen (S, N, ...). `start` (S, N) is bool.

        True in `start` clears the memory.
        """
        state = self.network.trunk_step(self.params, obs, start, state)
        trunk = state.hidden
        log_probs = torch.log_softmax(self.network.logits(self.params, trunk), dim=-1)
        action = sampled_category(log_probs, uniform)
        log_prob = log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        value = self.network.value(self.params, self.network.value_features(self.params, trunk))
        return PolicyOutput(action, log_prob, value, trunk, state)

    # -------------------------------------------------------------- learning

    def advantage(self, rollout: Rollout) -> Tensor:
        """GAE of a rollout, (S, T, N); what ends an episode or the rollout is worth `rollout.final_value`."""
        ended = rollout.ended
        following = torch.cat([rollout.value[:, 1:], rollout.value[:, :1]], dim=1)  # the last is not looked at
        next_value = torch.where(ended, rollout.final_value, following)
        return gae(rollout.reward, rollout.value, next_value, ended, self.config.discount, self.config.gae_lambda)

    def update(self, rollout: Rollout) -> Metrics:
        """`epochs` steps of Adam on one rollout, in place. Returns metrics (S,) of the last, on the device."""
        advantage = self.advantage(rollout)
        target = (advantage + rollout.value).flatten(1)
        advantage = standardized(advantage).flatten(1)
        for _ in range(self.config.epochs):
            grads, losses, metrics = gradients(self.loss, self.params, rollout, advantage, target)
            norm = self.descend(grads, losses)
        return metrics | {"train/grad_norm": norm}

    def descend(self, grads: Params, losses: Tensor) -> Tensor:
        """One step of Adam, by gradients scaled down to a norm of at most `max_grad_norm`; norms (S,) before that."""
        grads, norm = clip_by_norm(grads, self.config.max_grad_norm)
        self.optimizer.step(self.params, grads, losses, self.alive)
        return norm

    def loss(self, params: Params, rollout: Rollout, advantage: Tensor, target: Tensor) -> tuple[Tensor, Metrics]:
        """Clipped policy loss + c_V clipped value loss - c_H entropy + the critic's regulariser: (S,).

        `advantage` and `target` are (S, B).
        """
        c = self.config
        out = self.outputs(params, rollout)
        log_prob = out.log_probs.gather(-1, rollout.action.flatten(1).unsqueeze(-1)).squeeze(-1)
        old_log_prob = rollout.log_prob.flatten(1)
        policy_loss = clipped_policy_loss(log_prob, old_log_prob, advantage, c.clip)
        value_loss = clipped_value_loss(out.value, rollout.value.flatten(1), target, c.clip)
        entropy = -(out.log_probs.exp() * out.log_probs).sum(dim=-1).mean(dim=-1)
        penalty, metrics = self.regularizer.loss(self.critic_features(params, rollout, out), self.constants)
        loss = policy_loss + c.value_coefficient * value_loss - c.entropy_coefficient * entropy + penalty
        losses = {
            "train/policy_gradient_loss": policy_loss,
            "train/value_loss": value_loss,
            "train/entropy": entropy,
            "train/approx_kl": (old_log_prob - log_prob).mean(dim=-1),
            "train/value": out.value.mean(dim=-1),
            "regularizer/loss": penalty,
        }
        return loss, {name: metric.detach() for name, metric in (losses | metrics).items()}

    def outputs(self, params: Params, rollout: Rollout) -> Outputs:
        """The network on whole sequences, from a cleared memory."""
        net = self.network
        memory = self.initial_state(rollout.start.shape[-1])
        trunk, _ = net.trunk(params, rollout.obs, rollout.start, memory)
        trunk = trunk.flatten(1, 2)
        feature = net.value_features(params, trunk)
        return Outputs(torch.log_softmax(net.logits(params, trunk), dim=-1), feature, net.value(params, feature))

    def critic_features(self, params: Params, rollout: Rollout, out: Outputs) -> CriticFeatures:
        """phi(s_t) and phi(s_{t+1}) of V for the regularisers, which know Bellman's equation in this form too.

        There is no target network: phi' of either kind is the same network's at the next step, in the target's
        place without gradient. Steps that end an episode or the rollout have no successor.
        """
        num_envs = rollout.start.shape[-1]
        return CriticFeatures(
            params=params,
            feature=out.feature,
            next_feature_target=lambda: out.feature.detach().roll(-num_envs, dims=2),
            next_feature_online=lambda: out.feature.roll(-num_envs, dims=2),
            features_by=lambda other: self.outputs({**params, **other}, rollout).feature,
            head_weight=self.network.value_weight(params),
            reward=rollout.reward.flatten(1),
            terminated=rollout.ended.flatten(1).to(out.value.dtype),
            discount=self.config.discount,
        )

    def compile(self, program: Callable[[Function], Function]) -> None:
        """Have `program` make faster what an epoch computes; the loss's gradient then comes from its program too."""
        self.loss, self.descend = program(self.loss), program(self.descend)

    # ----------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        """Every tensor that learning changes or keeps, live and nested by name; S first in all but step counts."""
        return {
            "student": self.params,
            "optimizer": self.optimizer.state(),
            "constants": self.constants,
            "alive": {"alive": self.alive},
        }
