"""What agents with critics Q(s, a) share, none of it their algorithm: features for the regularisers, and measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from rlreg.agent import BatchAgent
from rlreg.buffers import Batch, NStepBatch
from rlreg.networks import Critic, Params
from rlreg.objectives import clipped_double_q
from rlreg.regularizers import CriticFeatures, Metrics


class Successor(NamedTuple):
    """What an agent makes of a batch's s'. No gradient."""

    action: Tensor
    """a', (S, B, A)."""
    feature: Tensor
    """phi'(s', a') of the target critics, (S, E, B, H)."""
    td_target: Tensor
    """y, (S, B)."""


class QAgent(BatchAgent):
    """S learners with E critics each. Settings: a `discount`."""

    critic: Critic
    critic_params: Params
    constants: Params
    """What the regulariser keeps beside the parameters."""

    @property
    def discount(self) -> float:
        return self.config.discount

    def discount_of(self, batch: Batch | NStepBatch) -> float | Tensor:
        """What the value of s' counts: gamma, or gamma^k (S, B) where rewards are of k steps."""
        return batch.discount if isinstance(batch, NStepBatch) else self.config.discount

    def q_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """min_i Q_i(s, a): (S, B, O), (S, B, A) -> (S, B)."""
        return clipped_double_q(self.critic(self.critic_params, obs, action))

    def features(
        self,
        params: Params,
        batch: Batch,
        action: Tensor,
        next_target: Callable[[], Tensor],
        next_online: Callable[[], Tensor],
    ) -> CriticFeatures:
        """phi(s, a) with `params`, float32, and what the regularisers ask of s': target features, and online ones."""
        return CriticFeatures(
            params=params,
            feature=self.critic.features(params, batch.obs, action).float(),
            next_feature_target=lambda: next_target().float(),
            next_feature_online=lambda: next_online().float(),
            features_by=lambda other: self.critic.features(other, batch.obs, action).float(),
            head_weight=self.critic.head_weight(params),
            reward=batch.reward,
            terminated=batch.terminated,
            discount=self.discount_of(batch),
        )

    def with_penalty(self, td_loss: Tensor, q: Tensor, f: CriticFeatures) -> tuple[Tensor, Metrics]:
        """A TD loss (S,) plus the regulariser's penalty, and what is shown of both and of Q (S, E, B)."""
        penalty, metrics = self.regularizer.loss(f, self.constants)
        losses = {"train/critic_loss": td_loss, "train/q": q.mean(dim=(1, 2)), "regularizer/loss": penalty}
        return td_loss + penalty, {name: value.detach() for name, value in (losses | metrics).items()}
