"""What a student can do on levels it may not have seen, and how much of a level's identity its features hold.

Shapes: S seeds, L levels, T steps of a rollout, N worlds for each seed, H trunk features.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlreg.level_space import LevelEnv
from rlreg.networks import Params, linear, orthogonal_init
from rlreg.optim import Adam, clip_by_norm, gradients
from rlreg.rng import Rng
from rlreg.rollouts import Student, play

LOOK_EVERY = 32
"""Steps between two looks at whether all episodes have ended: a look makes a GPU wait."""


class Outcome(NamedTuple):
    """One episode on each level."""

    episode_return: Tensor
    """(S, L)."""
    length: Tensor
    """(S, L) steps."""

    @property
    def solved(self) -> Tensor:
        """(S, L) bool: the return is above 0, as DRED counts."""
        return self.episode_return > 0


@torch.no_grad()
def attempt(student: Student, worlds: LevelEnv, levels: Tensor, rng: Rng, stream: str, number: int) -> Outcome:
    """One episode on each of `levels` (L, *level), in as many worlds, by the stochastic policy, from any start.

    What happens is a function of (seed, stream, number).
    """
    num_levels, num_seeds = len(levels), len(student.seeds)
    starts = worlds.draw_starts(rng, stream, number, 1)
    worlds.set_levels(levels.expand(num_seeds, *levels.shape), starts[:, 0])
    state = student.initial_state(num_levels)
    running = torch.ones(num_seeds, num_levels, dtype=torch.bool, device=levels.device)
    first = running
    total, length = torch.zeros_like(running, dtype=torch.float32), torch.zeros_like(running, dtype=torch.int64)
    shape = (num_levels, student.num_actions)
    for t in range(worlds.max_episode_steps):
        uniform = rng.uniform(f"{stream}/action", number * worlds.max_episode_steps + t, shape)
        acted = student.act(worlds.observe(), first, state, uniform)
        reward, terminated, truncated = worlds.step(acted.action)
        total += torch.where(running, reward, 0.0)
        length += running
        running = running & ~(terminated | truncated)
        state, first = acted.state, torch.zeros_like(running)
        if t % LOOK_EVERY == LOOK_EVERY - 1 and not running.any():
            break
    return Outcome(total, length)


def shift_gap(outcome: Outcome, probability: Tensor | None) -> Tensor:
    """sum_l P_l V_l - mean_l V_l over the training levels, V_l the return there: (S,). NaN without a P (S, L).

    P is what the curriculum draws by, given that it draws a training level.
    """
    value = outcome.episode_return.double()
    if probability is None:
        return torch.full_like(value[:, 0], torch.nan)
    probability = probability / probability.sum(dim=1, keepdim=True)  # NaN where no training level is ever drawn
    return (probability * value).sum(dim=1) - value.mean(dim=1)


class LevelClassifier:
    """A lower bound on I(L; b), what the student's trunk features b tell of the level L they were seen on.

    One linear layer with a softmax over the levels, trained online on detached features. Where all levels are equally
    frequent, I(L; b) >= ln |L| - cross-entropy, in nats. Episodes are: levels are drawn uniformly; but long ones have
    more steps, so that the entropy of L over steps is somewhat below the ln |L| that stands for it here, as it does
    in the measurements of DRED's authors (in Procgen).
    """

    LEARNING_RATE, ADAM_EPS, MAX_GRAD_NORM, MINIBATCHES = 5e-4, 1e-5, 0.5, 8

    def __init__(self, rng: Rng, feature_dim: int, num_levels: int) -> None:
        self.rng, self.num_levels = rng, num_levels
        weight = orthogonal_init(rng, "init/level_classifier", feature_dim, num_levels, gain=0.01)
        self.params: Params = {"weight": weight, "bias": weight.new_zeros(len(weight), 1, num_levels)}
        self.optimizer = Adam(self.params, self.LEARNING_RATE, eps=self.ADAM_EPS)

    def measure(self, student: Student, worlds: LevelEnv, levels: Tensor, length: int, number: int) -> Tensor:
        """Play `length` steps in uniformly drawn `levels` (L, *level), learn from them once; the bound (S,), in nats.

        Features and levels are those of the same step: the released code's are two steps apart.
        """
        num_seeds, num_envs = len(student.seeds), worlds.num_envs
        schedule = self.rng.integers("classifier/levels", number, (length, num_envs), self.num_levels)
        maps = levels.expand(num_seeds, *levels.shape)
        rollout = play(student, worlds, maps, schedule, self.rng, "classifier", number, keep_trunk=True)
        feature, level = rollout.trunk.flatten(1, 2), rollout.level.flatten(1)
        order = self.rng.bits("classifier/order", number, level.shape[1:]).argsort(dim=-1, stable=True)
        losses = [self._learn(feature, level, index) for index in order.chunk(self.MINIBATCHES, dim=1)]
        return math.log(self.num_levels) - torch.stack(losses).mean(dim=0)

    def _learn(self, feature: Tensor, level: Tensor, index: Tensor) -> Tensor:
        """One step on a minibatch (S, B) of rows; its cross-entropy (S,) before the step."""
        feature = feature.gather(1, index.unsqueeze(-1).expand(-1, -1, feature.shape[-1]))
        level = level.gather(1, index)

        grads, entropy, _ = gradients(self.loss, self.params, feature, level)
        grads, _ = clip_by_norm(grads, self.MAX_GRAD_NORM)
        self.optimizer.step(self.params, grads, entropy, torch.ones_like(entropy, dtype=torch.bool))
        return entropy

    def loss(self, params: Params, feature: Tensor, level: Tensor) -> tuple[Tensor, None]:
        """The cross-entropy (S,) of levels (S, B), of features (S, B, H)."""
        logits = linear(feature, params["weight"], params["bias"])
        return F.cross_entropy(logits.transpose(1, 2), level, reduction="none").mean(dim=1), None

    def state(self) -> dict[str, Any]:
        return {"params": self.params, "optimizer": self.optimizer.state()}
