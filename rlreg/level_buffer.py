"""Scored levels: the buffer that a curriculum draws from, with DRED's distribution over it and its baselines'.

Garcin et al., "DRED: Zero-shot transfer in reinforcement learning via data-regularised environment design", ICML
2024; the baselines are PLR (Jiang et al. 2021), robust PLR (Jiang et al. 2021) and ACCEL (Parker-Holder et al. 2022).
A level is a row of bytes, whatever it means. Every seed has a buffer of its own, and nothing waits for the host.
Shapes: S seeds, K slots, D bytes per level, N worlds, T steps of a rollout, M episodes or candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from rlreg import checks
from rlreg.errors import require
from rlreg.rng import Rng

SCORES = ("value_l1", "positive_value_loss", "grounded_value_l1", "uniform")
TRANSFORMS = ("rank", "power")
SUPPORTS = ("dataset", "buffer")


@dataclass
class Priority:
    """One term of the distribution: a score, made into weights, over some of the slots."""

    score: str = "value_l1"
    """value_l1: mean |A|; positive_value_loss: mean max(A, 0), both over the level's last episode; grounded_value_l1:
    value_l1 of a level once solved, else 0; uniform: equal weights, whatever the transform (ranks of equal scores
    would favour one level). Of the staleness term alone: staleness, the draws since the level's last."""
    transform: str = "rank"
    """rank: weight 1 / rank^(1 / temperature), rank 1 the greatest score; power: score^(1 / temperature)."""
    temperature: float = 0.1
    support: str = "dataset"
    """dataset: the dataset's slots only; buffer: all of them. Ranks are among these."""

    def check(self, name: str, scores: Sequence[str]) -> None:
        """Raises `UserError` with the field's full name."""
        checks.one_of(self, name, "score", *scores)
        checks.one_of(self, name, "transform", *TRANSFORMS)
        checks.one_of(self, name, "support", *SUPPORTS)
        checks.positive(self, name, "temperature", or_infinite=True)


@dataclass
class LevelBufferConfig:
    """P = (1 - rho) [(1 - eta) P_primary + eta P_secondary] + rho P_staleness. The defaults are DRED's."""

    capacity: int = 4000
    """K, slots."""
    dataset_levels: int = 512
    """The first so many slots hold the dataset, for good; 0 where there is none."""
    primary: Priority = field(default_factory=Priority)
    secondary: Priority | None = field(default_factory=lambda: Priority("grounded_value_l1", "rank", 1.0, "buffer"))
    """The term that takes over as eta goes from 0 to 1; null for methods without one."""
    staleness: Priority = field(default_factory=lambda: Priority("staleness", "power", 1.0, "dataset"))
    rho: float = 0.3
    """Weight of the staleness term."""
    solved_only: bool = True
    """A level enters only if its grounded_value_l1 is > 0 (DRED, EL-DRED), that is once the agent has solved it."""

    def __post_init__(self) -> None:
        checks.whole(self, "agent.levels", "capacity")
        checks.whole(self, "agent.levels", "dataset_levels", least=0)
        checks.within(self, "agent.levels", "rho", interval="[0, 1]")
        terms = {"primary": self.primary, "secondary": self.secondary, "staleness": self.staleness}
        for name, priority in terms.items():
            if priority is None:
                continue
            priority.check(f"agent.levels.{name}", ("staleness",) if name == "staleness" else SCORES)
            require(
                priority.support == "buffer" or self.dataset_levels > 0 or (name == "staleness" and self.rho == 0),
                f"agent.levels.{name}.support",
                priority.support,
                "buffer, since agent.levels.dataset_levels=0",
            )

    @property
    def admission_score(self) -> str:
        """The score by which a new level must match the one whose slot it would take: the secondary term's, the
        primary's where there is no secondary."""
        return (self.secondary or self.primary).score


class Scores(NamedTuple):
    """Scores of episodes, or of levels by their episodes; all of one shape (S, ...)."""

    value_l1: Tensor
    """mean_t |A_t|, A the generalised advantage estimate; of a level: its last episode's."""
    positive_value_loss: Tensor
    """mean_t max(A_t, 0); of a level: its last episode's."""
    episode_return: Tensor
    """The undiscounted sum of rewards; of a level: the greatest so far, R*, and -inf before any."""
    valid: Tensor
    """Whether there is anything here: an episode that finished, or a level that P may draw."""

    def by(self, name: str) -> Tensor:
        """One of `SCORES`, float32."""
        if name == "grounded_value_l1":
            return torch.where(self.episode_return > 0, self.value_l1, 0.0)
        if name == "uniform":
            return torch.ones_like(self.value_l1)
        return getattr(self, name)

    def at(self, index: Tensor) -> Scores:
        """Those at `index` (S, M, ...) along the second axis."""
        return Scores(*(x.gather(1, index) for x in self))

    def of_worlds(self) -> tuple[Scores, Scores]:
        """From (S, T, N) to twice (S, N), for worlds that keep one level throughout a rollout: by each world's first
        finished episode, and by all of them, which is its last one's scores with the greatest return."""
        length = self.valid.shape[1]
        steps = torch.arange(length, device=self.valid.device)[:, None]
        first = torch.where(self.valid, steps, length - 1).amin(dim=1, keepdim=True)
        last = torch.where(self.valid, steps, 0).amax(dim=1, keepdim=True)
        by_first, by_last = (Scores(*(x.squeeze(1) for x in self.at(index))) for index in (first, last))
        greatest = torch.where(self.valid, self.episode_return, -math.inf).amax(dim=1)
        return by_first, by_last._replace(episode_return=greatest)


def episode_scores(advantage: Tensor, reward: Tensor, done: Tensor) -> Scores:
    """Scores of the episodes that finish in a rollout, each at its last step; all (S, T, N), `done` bool.

    Worlds are reset when the rollout starts. Steps after a world's last `done` are of an episode that the rollout
    cut: they count nowhere. Elsewhere the values mean nothing.
    """
    advantage = advantage.float()
    sums = torch.stack([advantage.abs(), advantage.clamp_min(0.0), reward.float(), torch.ones_like(advantage)])
    # A segmented prefix sum, by doubling: after a round, `sums` at t goes back `reach` steps, or to the episode's
    # start where that is nearer, and `begun` says which. Differences of cumulative sums would leave rounding
    # errors, by which an episode without a reward could pass for a solved one.
    begun = torch.cat([torch.ones_like(done[:, :1]), done[:, :-1]], dim=1)
    reach, num_steps = 1, done.shape[1]
    while reach < num_steps:
        earlier = torch.where(begun[:, reach:], 0.0, sums[:, :, :-reach])
        sums = torch.cat([sums[:, :, :reach], sums[:, :, reach:] + earlier], dim=2)
        begun = torch.cat([begun[:, :reach], begun[:, reach:] | begun[:, :-reach]], dim=1)
        reach *= 2
    value_l1, positive_value_loss, episode_return, length = sums
    return Scores(value_l1 / length, positive_value_loss / length, episode_return, done)


def draw(probability: Tensor, uniform: Tensor) -> Tensor:
    """Slots (S, ...) by inverse CDF, from P (S, K) and numbers (S, ...) uniform on (0, 1).

    A slot without mass is never drawn. P has mass unless no slot holds a level that was seen: then there is nothing to
    draw, and the last slot comes out.
    """
    # Whole numbers add up to the same on every device, in whatever order.
    cdf = (probability.double() * 2.0**48).round().long().cumsum(dim=-1)
    target = (uniform.flatten(1).double() * cdf[:, -1:]).long()
    slot = torch.searchsorted(cdf, target, right=True).clamp_max(cdf.shape[1] - 1)
    return slot.reshape(uniform.shape)


class ScoredLevels:
    """K slots of levels for each of S seeds; the dataset's come first and stay."""

    def __init__(
        self,
        config: LevelBufferConfig,
        num_seeds: int,
        level_size: int,
        dataset: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """`dataset` (dataset_levels, D) for all seeds, or (S, dataset_levels, D); None where there is none.

        Raises `UserError` for a dataset of another number of levels, or of more than there are slots.
        """
        n = config.dataset_levels
        given = 0 if dataset is None else dataset.shape[-2]
        require(given == n, "agent.levels.dataset_levels", n, f"the number of levels in the dataset, {given}")
        valid = f"at least the {n} levels of the dataset"
        require(config.capacity >= n, "agent.levels.capacity", config.capacity, valid)
        self.config = config
        shape = num_seeds, config.capacity
        self.levels = torch.zeros(*shape, level_size, dtype=torch.uint8, device=device)
        """(S, K, D)."""
        self.scores = Scores(
            torch.zeros(shape, device=device),
            torch.zeros(shape, device=device),
            torch.full(shape, -math.inf, device=device),
            torch.zeros(shape, dtype=torch.bool, device=device),
        )
        """(S, K). `valid`: levels that were drawn in the warm-up, scored or inserted."""
        self.staleness = torch.zeros(shape, dtype=torch.int64, device=device)
        """(S, K): draws since a slot's level was last drawn; where it was not since it was offered, since then."""
        self.fingerprint = torch.zeros(shape, dtype=torch.int64, device=device)
        """(S, K): 64-bit hashes of the levels, to find equal ones."""
        words = Rng([0], device).bits("levels/fingerprint", 0, (2, level_size))
        self._hash_weights = words[0, 0] << 32 | words[0, 1]
        self._seed = torch.arange(num_seeds, device=device)[:, None]
        self._slot = torch.arange(config.capacity, device=device)
        terms = [config.primary, config.secondary or config.primary, config.staleness]
        self._rank_weights = {p.temperature: (self._slot + 1).double() ** (-1.0 / p.temperature) for p in terms}
        if dataset is not None:
            self.levels[:, :n] = dataset.to(device)
            self.fingerprint[:, :n] = self._hash(self.levels[:, :n])

    @property
    def filled(self) -> Tensor:
        """(S, K): slots that hold a level. They fill in order."""
        return self.scores.valid | (self._slot < self.config.dataset_levels)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that changes, live, for checkpoints."""
        return {
            "levels": self.levels,
            "fingerprint": self.fingerprint,
            "staleness": self.staleness,
            **self.scores._asdict(),
        }

    # ---------------------------------------------------------------- drawing

    def distribution(self, eta: float | Tensor = 0.0) -> Tensor:
        """P (S, K), float64; `eta` in [0, 1] has no meaning without a secondary term.

        Each term's weights are zero on slots that are empty or unseen, and are normalised. A term without any mass, as
        of scores that are all 0, is uniform over the seen slots of the whole buffer, whatever its support. Where no
        slot is seen P is zero.
        """
        return self._mix(self._terms(eta))

    def take(self, slots: Tensor) -> Tensor:
        """The levels (S, ..., D) of slots (S, ...)."""
        return self.levels[self._seed, slots.flatten(1)].reshape(*slots.shape, -1)

    def record_draws(self, slots: Tensor, where: Tensor | None = None) -> None:
        """Count the draws (S, ...) as made one by one in this order; those where `where` is false never happened.

        Each adds 1 to every level's staleness and sets its own to 0. The reference recomputes P after each; here
        P stands still for a cycle, and only the counts are exact.
        """
        slots = slots.flatten(1)
        where = torch.ones_like(slots, dtype=torch.bool) if where is None else where.flatten(1)
        number = where.cumsum(dim=1)  # from 1
        last = torch.zeros_like(self.staleness).scatter_reduce_(1, slots, torch.where(where, number, 0), "amax")
        total = number[:, -1:]
        self.staleness.copy_(torch.where(last > 0, total - last, self.staleness + total * self.filled))

    def warm_up_cycles(self, num_envs: int) -> int:
        """Calls of `draw_unseen` after which every dataset level is seen: 15 for 512 levels and 36 worlds."""
        return -(-self.config.dataset_levels // num_envs)

    def draw_unseen(self, uniform: Tensor, count: int) -> Tensor:
        """Draw `count` dataset slots a seed, (S, count), uniformly without replacement among the unseen; record it.

        `uniform` (S, dataset_levels) is on (0, 1). When fewer unseen are left than asked for, the rest come from
        the seen, also without replacement; past the whole dataset, all comes again. What is drawn is seen from
        now on, even if no episode of it finishes: the warm-up is as long as `warm_up_cycles` says, provided that
        worlds keep their level when an episode ends during it.
        """
        n = self.config.dataset_levels
        order = (uniform.double() + self.scores.valid[:, :n]).argsort(dim=-1, stable=True)
        slots = order[:, torch.arange(count, device=order.device) % n]
        self.scores.valid.scatter_(1, slots, True)
        self.record_draws(slots)
        return slots

    # ---------------------------------------------------------------- learning of scores

    def update(self, slots: Tensor, episodes: Scores) -> None:
        """Score the levels in `slots` by the episodes on them in a rollout, all (S, T, N).

        As in the reference, the worlds' episodes count one world after another, each world's in order of time: where
        several worlds were on a level, the highest one's last episode overwrites the scores. R* is the greatest return.
        Steps that are not valid may name any slot. To be called before an `insert`, which may put other levels into
        the slots.
        """
        slots, *columns = (x.transpose(1, 2).flatten(1) for x in (slots, *episodes))
        episodes = Scores(*columns)
        row = torch.where(episodes.valid, torch.arange(slots.shape[1], device=slots.device), -1)
        last = torch.full_like(self.staleness, -1).scatter_reduce_(1, slots, row, "amax")
        for score, new in zip(self.scores[:2], episodes[:2], strict=True):  # value_l1, positive_value_loss
            score.copy_(torch.where(last >= 0, new.gather(1, last.clamp_min(0)), score))
        returns = torch.where(episodes.valid, episodes.episode_return, -math.inf)
        self.scores.episode_return.scatter_reduce_(1, slots, returns, "amax")
        self.scores.valid.logical_or_(last >= 0)

    def insert(self, levels: Tensor, episodes: Scores, eta: float | Tensor = 0.0) -> Tensor:
        """Offer new levels (S, N, D) after a rollout in which world n kept level n, with its episodes (S, T, N).

        World by world, as in the reference. A level's first finished episode decides: it goes to the first empty slot,
        else to the one outside the dataset where P is least (the first such) if its admission score is at least that
        slot's level's, and is discarded otherwise. Its further episodes, those of other worlds with an equal level
        among them, only score it. It comes with as many draws' staleness as there were since it was offered, and each
        offer counts as one. A level that is in the buffer when it is offered counts as drawn, and is scored too.

        Returns which worlds' levels went in, (S, N). Unlike here, the reference goes on scoring a slot by a level that
        another one has just pushed out of it.
        """
        c, first = self.config, self.config.dataset_levels
        require(c.capacity > first, "agent.levels.capacity", c.capacity, f"more than the dataset's {first} levels")
        by_first, by_all = episodes.of_worlds()
        num_worlds = levels.shape[1]
        allowed = by_first.valid & (by_first.by("grounded_value_l1") > 0) if c.solved_only else by_first.valid

        fingerprint = self._hash(levels)
        equal = fingerprint[:, :, None] == fingerprint[:, None, :]
        waited = num_worlds - 1 - equal.int().argmax(dim=-1)  # offers since the first of this level
        known = self.fingerprint[:, None, :] == fingerprint[:, :, None]
        # (S, N): the slot that holds a world's level now; -1 for none.
        place = torch.where(known.any(dim=-1), known.int().argmax(dim=-1), -1)
        self.record_draws(place.clamp_min(0), place >= 0)
        undecided = place < 0

        # A term on the dataset alone is zero outside it, and has no say in where P is least there.
        terms = [(share, priority) for share, priority in self._terms(eta) if priority.support == "buffer"]
        num_filled = self.filled.sum(dim=-1, keepdim=True)
        inserted = torch.zeros_like(by_first.valid)
        for n in range(num_worlds):
            # All (S, 1) but for P, (S, K), and `same`, (S, N).
            here, same = slice(n, n + 1), equal[:, n]
            offer, scored = (Scores(*(x[:, here] for x in scores)) for scores in (by_first, by_all))

            least = self._mix(terms)[:, first:].argmin(dim=-1, keepdim=True) + first
            empty = num_filled < c.capacity
            slot = torch.where(empty, num_filled, least)
            good = empty | (offer.by(c.admission_score) >= self.scores.at(slot).by(c.admission_score))
            decided = undecided[:, here] & offer.valid
            enters = decided & allowed[:, here] & good

            level = torch.where(enters[..., None], levels[:, here], self.take(slot))
            self.levels[self._seed, slot] = level
            for kept, new in ((self.fingerprint, fingerprint), (self.staleness, waited)):
                kept.scatter_(1, slot, torch.where(enters, new[:, here], kept.gather(1, slot)))
            place = torch.where(enters & same, slot, torch.where(enters & (place == slot), -1, place))
            undecided = undecided & ~(decided & same)
            num_filled = num_filled + (enters & empty)
            inserted[:, here] = enters

            present = offer.valid & (place[:, here] >= 0)
            slot = place[:, here].clamp_min(0)
            held = self.scores.at(slot)
            greatest = torch.where(enters, -math.inf, held.episode_return).maximum(scored.episode_return)
            for kept, new, old in zip(self.scores, scored._replace(episode_return=greatest), held, strict=True):
                kept.scatter_(1, slot, torch.where(present, new, old))
        return inserted

    # ---------------------------------------------------------------- looking in

    def statistics(self, probability: Tensor) -> dict[str, Tensor]:
        """Figures (S,) to log, of the buffer and P (S, K): masses, entropy in nats, staleness in draws."""
        seen, filled = self.scores.valid, self.filled
        num_seen, num_filled = seen.sum(dim=-1).clamp_min(1), filled.sum(dim=-1).clamp_min(1)
        return {
            "levels/dataset_mass": probability[:, : self.config.dataset_levels].sum(dim=-1),
            "levels/top_mass": probability.amax(dim=-1),
            "levels/entropy": -torch.special.xlogy(probability, probability).sum(dim=-1),
            "levels/fill": filled.double().mean(dim=-1),
            "levels/solved": (seen & (self.scores.episode_return > 0)).sum(dim=-1) / num_seen,
            "levels/value_l1": torch.where(seen, self.scores.value_l1, 0.0).sum(dim=-1) / num_seen,
            "levels/staleness": self.staleness.sum(dim=-1) / num_filled,
            "levels/staleness_max": self.staleness.amax(dim=-1),
        }

    # ---------------------------------------------------------------- parts

    def _terms(self, eta: float | Tensor) -> list[tuple[float | Tensor, Priority]]:
        """The terms of P and their shares."""
        c = self.config
        if c.secondary is None:
            terms = [(1.0 - c.rho, c.primary)]
        else:
            terms = [((1.0 - c.rho) * (1.0 - eta), c.primary), ((1.0 - c.rho) * eta, c.secondary)]
        return [*terms, (c.rho, c.staleness)] if c.rho > 0 else terms

    def _mix(self, terms: Sequence[tuple[float | Tensor, Priority]]) -> Tensor:
        """`distribution` of these terms."""
        seen = self.scores.valid
        mixture = torch.zeros(seen.shape, dtype=torch.float64, device=seen.device)
        without = torch.zeros_like(mixture[:, :1])  # the shares of the terms that have no mass
        for share, priority in terms:
            weights = self._weights(priority)
            mass = weights.sum(dim=-1, keepdim=True)
            mixture[:, : weights.shape[1]] += (share / mass.where(mass > 0, 1.0)) * weights
            without += share * (mass == 0).double()
        return mixture + without * seen / seen.sum(dim=-1, keepdim=True).clamp_min(1)

    def _weights(self, priority: Priority) -> Tensor:
        """A term's weights, not normalised, over the slots of its support: (S, dataset_levels or K), float64."""
        n = self.config.dataset_levels if priority.support == "dataset" else self.config.capacity
        seen = self.scores.valid[:, :n]
        if priority.score == "uniform":
            return seen.double()
        score = (self.staleness if priority.score == "staleness" else self.scores.by(priority.score))[:, :n]
        if priority.transform == "rank":
            # Empty and unseen slots score 0 and are ranked too. Of equal scores the higher slot ranks first, as in the
            # reference, so that empty slots come before the levels that score 0.
            order = score.argsort(dim=-1, stable=True).flip(-1)
            by_rank = self._rank_weights[priority.temperature][:n].expand_as(order)
            weights = torch.empty_like(order, dtype=torch.float64).scatter_(1, order, by_rank)
        else:
            score = score.double()
            greatest = score.amax(dim=-1, keepdim=True)
            weights = (score / greatest.where(greatest > 0, 1.0)) ** (1.0 / priority.temperature)
        return torch.where(seen, weights, 0.0)

    def _hash(self, levels: Tensor) -> Tensor:
        """(S, M, D) bytes -> (S, M): a random linear form modulo 2^64, and not the 0 of an empty slot."""
        return ((levels.long() + 1) * self._hash_weights).sum(dim=-1)
