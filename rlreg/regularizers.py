"""Regularisers of a critic's last hidden layer: BEER (on the cosine and on the inner product), DR3, InFeR, none.

Each is a dataclass of its settings with `loss(features, constants) -> ((S,), metrics)`, which is added to the TD loss.
With E critics the loss is their sum, as the TD loss is. One of one's own is a class and a YAML: docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rlreg import checks
from rlreg.networks import Params
from rlreg.rng import Rng

Metrics = dict[str, Tensor]


@dataclass
class CriticFeatures:
    """What a regulariser may look at, for one batch of transitions (s, a, r, s')."""

    params: Mapping[str, Tensor]
    """The critic's parameters, with a regulariser's own among them; gradients flow to these."""
    feature: Tensor
    """phi_theta(s, a), (S, E, B, H), with gradient."""
    next_feature_target: Callable[[], Tensor]
    """phi_theta-(s', a'), (S, E, B, H): the target network's, as in the TD's; computed when called, no gradient."""
    next_feature_online: Callable[[], Tensor]
    """phi_theta(s', mu(s')), (S, E, B, H), by online critic and actor; computed when called."""
    features_by: Callable[[Mapping[str, Tensor]], Tensor]
    """phi(s, a), (S, E, B, H), by other parameters of the same network."""
    head_weight: Tensor
    """w of Q = phi^T w, (S, E, H)."""
    reward: Tensor
    """(S, B)."""
    terminated: Tensor
    """(S, B), 1.0 at the end of the task, where there is no phi'."""
    discount: float | Tensor
    """gamma, or (S, B) where `reward` is of several steps; see `rlreg.buffers.NStepBatch`."""


@dataclass(kw_only=True)
class Regularizer:
    """No regulariser, and the base of the others."""

    _target_: str = "rlreg.regularizers.Regularizer"
    name: str = "none"
    """What run folders and messages call it."""

    def init(self, critic: Mapping[str, Tensor], rng: Rng) -> tuple[Params, Params]:
        """Extra parameters trained with the critic, and constants kept with it. Both empty unless overridden."""
        return {}, {}

    def loss(self, f: CriticFeatures, constants: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        """The penalty (S,), its weight included, and metrics (S,) to log."""
        return torch.zeros_like(f.reward[:, 0]), {}


@dataclass(kw_only=True)
class BEER(Regularizer):
    """Bellman-equation bound on the cosine of consecutive features (He et al., ICLR 2024, eq. 12).

    From phi(s, a)^T w = r + gamma phi(s', a')^T w follows (Theorem 1, Remark 1)

        cos(phi, phi')  <=  (|phi|^2 + gamma^2 |phi'|^2 - r^2 / |w|^2) / (2 gamma |phi| |phi'|)  =: bound

    and the penalty is beta mean(relu(cos(phi, sg phi') - sg bound)). Two readings of phi':

    - `target`: the target network's throughout, as the paper derives it. The bound is then at least 1
      wherever r = 0.
    - `released`: as the authors' code, which made the published results: |phi'| in the numerator is
      the online network's at the online actor's action, everything else the target network's.
    """

    _target_: str = "rlreg.regularizers.BEER"
    name: str = "beer"
    beta: float = 1e-3
    """The penalty's weight; the paper's for all tasks."""
    next_feature: str = "released"
    """The reading of phi': released or target."""

    def __post_init__(self) -> None:
        checks.not_negative(self, "regularizer", "beta")
        checks.one_of(self, "regularizer", "next_feature", "target", "released")

    def loss(self, f: CriticFeatures, constants: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        with torch.no_grad():
            target = f.next_feature_target()
            numerator, discount = self._numerator(f, target)
            norms = f.feature.detach().norm(dim=-1) * target.norm(dim=-1)
            # A dead feature has no direction, and a terminal transition no phi': neither is constrained.
            constrained = (norms > 1e-12) & (f.terminated == 0).unsqueeze(1)
            bound = numerator / (2 * discount * norms.clamp_min(1e-12))
        cosine = F.cosine_similarity(f.feature, target, dim=-1, eps=1e-6)
        return self._penalty("cosine", cosine, bound, constrained)

    def _numerator(self, f: CriticFeatures, target: Tensor) -> tuple[Tensor, float | Tensor]:
        """|phi|^2 + gamma^2 |phi'|^2 - r^2 / |w|^2, (S, E, B), by the reading of phi'; and gamma, broadcast to it."""
        numerator_next = target if self.next_feature == "target" else f.next_feature_online()
        reward_term = torch.square(f.reward).unsqueeze(1) / _squared_norm(f.head_weight).unsqueeze(-1)
        discount = f.discount.unsqueeze(1) if isinstance(f.discount, Tensor) else f.discount
        return _squared_norm(f.feature.detach()) + discount**2 * _squared_norm(numerator_next) - reward_term, discount

    def _penalty(self, name: str, side: Tensor, bound: Tensor, constrained: Tensor) -> tuple[Tensor, Metrics]:
        """beta mean(relu(side - bound)) over a batch, (S, E, B) each, of what is constrained."""
        excess = torch.where(constrained, F.relu(side - bound), 0.0)
        loss = self.beta * excess.mean(dim=-1).sum(dim=-1)
        count = constrained.sum(dim=(1, 2))  # means over what is constrained; NaN where nothing is
        return loss, {
            f"regularizer/{name}": torch.where(constrained, side.detach(), 0.0).sum(dim=(1, 2)) / count,
            "regularizer/bound": torch.where(constrained, bound, 0.0).sum(dim=(1, 2)) / count,
            "regularizer/active": (excess > 0).float().mean(dim=(1, 2)),
        }


@dataclass(kw_only=True)
class BEERInner(BEER):
    """The bound on the inner product of consecutive features (He et al., ICLR 2024, Theorem 1 and eq. 19).

        <phi, phi'>  <=  (|phi|^2 + gamma^2 |phi'|^2 - r^2 / |w|^2) / (2 gamma)  =: bound

    with the penalty beta mean(relu(<phi, sg phi'> - sg bound)), in the two readings of phi' that `BEER` has. Both
    penalties act on the same transitions: this one is |phi| |phi'| times the other, and moves phi along phi' where
    that one only turns it.
    """

    _target_: str = "rlreg.regularizers.BEERInner"
    name: str = "beer_inner"
    beta: float = 1e-3
    """The penalty's weight. The paper's for this version is not known; this one is that of the cosine's."""

    def loss(self, f: CriticFeatures, constants: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        with torch.no_grad():
            target = f.next_feature_target()
            numerator, discount = self._numerator(f, target)
            bound = numerator / (2 * discount)
            constrained = (f.terminated == 0).unsqueeze(1).expand_as(bound)  # a dead feature has an inner product
        return self._penalty("inner_product", (f.feature * target).sum(dim=-1), bound, constrained)


@dataclass(kw_only=True)
class DR3(Regularizer):
    """Penalty on the inner product of consecutive features (Kumar et al., ICLR 2022, section 5).

    coefficient * mean(phi(s, a)^T phi(s', a')), both by the online network and both with gradient.
    """

    _target_: str = "rlreg.regularizers.DR3"
    name: str = "dr3"
    coefficient: float = 1e-3
    """The penalty's weight. What the BEER paper used on DMC is not known; this one is ours."""

    def __post_init__(self) -> None:
        checks.not_negative(self, "regularizer", "coefficient")

    def loss(self, f: CriticFeatures, constants: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        inner = (f.feature * f.next_feature_online()).sum(dim=-1)  # (S, E, B)
        inner = inner * (1.0 - f.terminated).unsqueeze(1)
        cosine = F.cosine_similarity(f.feature.detach(), f.next_feature_target(), dim=-1, eps=1e-6)
        return self.coefficient * inner.mean(dim=-1).sum(dim=-1), {
            "regularizer/inner_product": inner.mean(dim=(1, 2)),
            "regularizer/cosine": cosine.mean(dim=(1, 2)),
        }


@dataclass(kw_only=True)
class InFeR(Regularizer):
    """Initial feature regularisation (Lyle et al., ICLR 2022, eq. 4).

    k extra linear heads g on the features are kept near `scale` times what they said at initialisation:
    alpha * mean_B sum_k (g(s, a; theta) - scale * g(s, a; theta_0))^2. Features and heads are both trained.
    """

    _target_: str = "rlreg.regularizers.InFeR"
    name: str = "infer"
    heads: int = 10
    """k, extra linear heads."""
    alpha: float = 0.1
    """The penalty's weight."""
    scale: float = 100.0
    """What the heads' initial outputs are multiplied by."""

    def __post_init__(self) -> None:
        checks.whole(self, "regularizer", "heads")
        checks.not_negative(self, "regularizer", "alpha")

    def init(self, critic: Mapping[str, Tensor], rng: Rng) -> tuple[Params, Params]:
        *_, last = (name for name in critic if name.endswith(".weight"))
        *lead, width, _ = critic[last].shape
        unit = rng.uniform("init/infer", 0, (*lead[1:], width, self.heads))
        heads = (2.0 * unit - 1.0) / width**0.5
        # The head of Q itself plays no part in the features: no copy of it is kept.
        prefix = last.removesuffix("weight")
        initial = {name: value.clone() for name, value in critic.items() if not name.startswith(prefix)}
        return {"infer.weight": heads}, {**initial, "infer.weight": heads.clone()}

    def loss(self, f: CriticFeatures, constants: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        with torch.no_grad():
            initial = f.features_by(constants) @ constants["infer.weight"]  # (S, E, B, k)
        now = f.feature @ f.params["infer.weight"]
        error = torch.square(now - self.scale * initial).sum(dim=-1).mean(dim=-1)  # (S, E)
        return self.alpha * error.sum(dim=-1), {}


def _squared_norm(x: Tensor) -> Tensor:
    return torch.square(x).sum(dim=-1)


SCHEMAS = {
    "none_schema": Regularizer,
    "beer_schema": BEER,
    "beer_inner_schema": BEERInner,
    "dr3_schema": DR3,
    "infer_schema": InFeR,
}
