"""Scored levels against a serial version with dictionaries and loops, and against DRED's known figures.

The serial version does what the released sampler does, in its order: one draw, one world, one episode at a time.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from rlreg.checkpoint import Checkpoints, copy_into
from rlreg.errors import UserError
from rlreg.level_buffer import LevelBufferConfig, Priority, ScoredLevels, Scores, draw, episode_scores
from rlreg.rng import Rng

SEEDS = (4, 9, 2)
SIZE = 3
"""Bytes of a level, each one of three values: 27 levels, so that equal ones come up all the time."""
WORLDS, STEPS, OFFERS = 4, 3, 8
STALE = Priority("staleness", "power", 1.0, "buffer")


def ranked(score: str, temperature: float, support: str = "buffer") -> Priority:
    return Priority(score, "rank", temperature, support)


SETTINGS = {
    "dred": LevelBufferConfig(14, 5),
    "plr": LevelBufferConfig(5, 5, secondary=None),
    "robust plr": LevelBufferConfig(
        12, 0, ranked("positive_value_loss", 0.3), None, STALE, solved_only=False
    ),
    "accel-d": LevelBufferConfig(14, 5, ranked("grounded_value_l1", 0.1), None, STALE, solved_only=False),
    "powers": LevelBufferConfig(
        13, 3, Priority("value_l1", "power", 0.5, "buffer"), Priority("uniform", "rank", 1.0, "dataset"),
        Priority("staleness", "rank", 2.0, "buffer"), rho=0.6, solved_only=False,
    ),
    "two ranks": LevelBufferConfig(
        12, 4, ranked("value_l1", 1.0), Priority("positive_value_loss", "power", 1.0, "buffer"), STALE
    ),
}  # fmt: skip


class Serial:
    """One seed's levels as the paper's text has them: one slot, one draw, one episode, one candidate at a time."""

    def __init__(self, config: LevelBufferConfig, dataset: np.ndarray) -> None:
        self.config = config
        self.slots: list[dict | None] = [self.new(level.tobytes()) for level in dataset]
        self.slots += [None] * (config.capacity - len(dataset))

    @staticmethod
    def new(level: bytes, value=0.0, positive=0.0, best=-math.inf, seen=False) -> dict:
        return {"level": level, "value": value, "positive": positive, "best": best, "seen": seen, "stale": 0}

    @staticmethod
    def score(slot: dict | None, name: str) -> float:
        if name == "uniform":
            return 1.0
        if slot is None:
            return 0.0
        if name == "grounded_value_l1":
            return slot["value"] if slot["best"] > 0 else 0.0
        return slot[{"value_l1": "value", "positive_value_loss": "positive", "staleness": "stale"}[name]]

    def term(self, priority: Priority) -> list[float]:
        c = self.config
        support = range(c.dataset_levels if priority.support == "dataset" else c.capacity)
        scores = {i: self.score(self.slots[i], priority.score) for i in support}
        if priority.score == "uniform":
            weight = dict.fromkeys(support, 1.0)
        elif priority.transform == "rank":
            order = sorted(support, key=lambda i: (-scores[i], -i))
            weight = {i: (1 + rank) ** (-1 / priority.temperature) for rank, i in enumerate(order)}
        else:
            weight = {i: scores[i] ** (1 / priority.temperature) for i in support}
        seen = [slot is not None and slot["seen"] for slot in self.slots]
        weight = {i: w if seen[i] else 0.0 for i, w in weight.items()}
        if not any(weight.values()):
            weight = {i: float(there) for i, there in enumerate(seen)}
        total = sum(weight.values())
        return [weight.get(i, 0.0) / total if total else 0.0 for i in range(c.capacity)]

    def distribution(self, eta: float) -> np.ndarray:
        c = self.config
        eta = 0.0 if c.secondary is None else eta
        terms = [((1 - c.rho) * (1 - eta), c.primary), ((1 - c.rho) * eta, c.secondary), (c.rho, c.staleness)]
        return sum(share * np.array(self.term(priority)) for share, priority in terms if priority and share)

    def draw(self, probability: np.ndarray, uniform: float) -> int:
        below, mass = 0.0, sum(probability)
        for i, p in enumerate(probability):
            below += p
            if below > uniform * mass:
                return i
        return self.config.capacity - 1

    def record(self, drawn: int) -> None:
        for i, slot in enumerate(self.slots):
            if slot is not None:
                slot["stale"] = 0 if i == drawn else slot["stale"] + 1

    def warm_up(self, uniform: np.ndarray, count: int) -> list[int]:
        n = self.config.dataset_levels
        order = sorted(range(n), key=lambda i: (self.slots[i]["seen"], uniform[i]))
        drawn = [order[i % n] for i in range(count)]
        for i in drawn:
            self.slots[i]["seen"] = True
            self.record(i)
        return drawn

    def update(self, i: int, value: float, positive: float, episode_return: float) -> None:
        best = max(self.slots[i]["best"], episode_return)
        self.slots[i] |= {"value": value, "positive": positive, "best": best, "seen": True}

    def find(self, level: bytes) -> int | None:
        return next((i for i, slot in enumerate(self.slots) if slot is not None and slot["level"] == level), None)

    def audition(self, levels: list[bytes], episodes: list[list[tuple[float, float, float]]], eta: float) -> list[bool]:
        """Level n was played in world n, whose episodes (value, positive, return) are in order of time."""
        staged: dict[bytes, int] = {}
        for number, level in enumerate(levels):
            if (there := self.find(level)) is not None:
                self.record(there)
            else:
                staged.setdefault(level, number)
        inserted = [False] * len(levels)
        for world, level in enumerate(levels):
            for value, positive, episode_return in episodes[world]:
                if level in staged:
                    slot = self.new(level, value, positive, episode_return, seen=True)
                    slot["stale"] = len(levels) - 1 - staged.pop(level)
                    inserted[world] = self.admit(slot, eta)
                elif (there := self.find(level)) is not None:
                    self.update(there, value, positive, episode_return)
        return inserted

    def admit(self, slot: dict, eta: float) -> bool:
        c = self.config
        by = (c.secondary or c.primary).score
        if c.solved_only and self.score(slot, "grounded_value_l1") <= 0:
            return False
        if None in self.slots:
            place = self.slots.index(None)
        else:
            probability = self.distribution(eta)
            place = min(range(c.dataset_levels, c.capacity), key=lambda i: (probability[i], i))
            if self.score(slot, by) < self.score(self.slots[place], by):
                return False
        self.slots[place] = slot
        return True


def dataset_of(config: LevelBufferConfig) -> torch.Tensor:
    """(dataset_levels, SIZE), all different."""
    number = torch.arange(config.dataset_levels) * 5
    return torch.stack([number // 9 % 3, number // 3 % 3, number % 3], dim=-1).to(torch.uint8)


def buffer(config: LevelBufferConfig, seeds: tuple[int, ...] = SEEDS) -> ScoredLevels:
    dataset = dataset_of(config) if config.dataset_levels else None
    return ScoredLevels(config, len(seeds), SIZE, dataset)


class Cycle:
    """The random inputs of one cycle, for all seeds: functions of seed and number."""

    def __init__(self, seeds: tuple[int, ...], number: int) -> None:
        rng = Rng(seeds)
        self.eta = float(Rng([0]).uniform("eta", number, ()))
        self.uniform = rng.uniform("draws", number, (STEPS, WORLDS))
        self.used = rng.uniform("used", number, (STEPS, WORLDS)) < 0.6
        self.episodes = self.scores(rng, "episodes", number, (STEPS, WORLDS))
        self.offers = self.scores(rng, "offers", number, (STEPS, OFFERS))
        self.levels = rng.integers("levels", number, (OFFERS, SIZE), 3).to(torch.uint8)

    @staticmethod
    def scores(rng: Rng, stream: str, number: int, shape: tuple[int, ...]) -> Scores:
        """Values in eighths, so that there are ties; a good part unsolved or not finished."""
        parts = rng.uniform(stream, number, (*shape, 4))
        eighths = (parts * 8).floor() / 8
        return Scores(eighths[..., 0], eighths[..., 1], (eighths[..., 2] - 0.375).clamp_min(0.0), parts[..., 3] < 0.7)


def run_cycle(levels: ScoredLevels, cycle: Cycle) -> tuple[torch.Tensor, ...]:
    """Draws, updates and insertions of one cycle; returns P, the slots drawn and what went in."""
    probability = levels.distribution(cycle.eta)
    slots = draw(probability, cycle.uniform)
    used = cycle.used & (probability.sum(dim=-1) > 0)[:, None, None]
    levels.record_draws(slots, used)
    levels.update(slots, cycle.episodes._replace(valid=cycle.episodes.valid & used))
    fits = levels.config.capacity > levels.config.dataset_levels
    inserted = levels.insert(cycle.levels, cycle.offers, cycle.eta) if fits else torch.zeros(1)
    return probability, slots, inserted


def episodes_of(scores: Scores, s: int) -> list[list[tuple[float, float, float]]]:
    """The finished episodes of seed number `s` in scores (S, T, N), as lists by world."""
    steps, worlds = scores.valid.shape[1:]
    return [
        [tuple(x[s, t, n].item() for x in scores[:3]) for t in range(steps) if scores.valid[s, t, n]]
        for n in range(worlds)
    ]


def check_same(levels: ScoredLevels, oracles: list[Serial]) -> None:
    for s, oracle in enumerate(oracles):
        filled = [slot is not None for slot in oracle.slots]
        assert levels.filled[s].tolist() == filled
        for i, slot in enumerate(oracle.slots):
            if slot is None:
                continue
            held = Scores(*(x[s, i].item() for x in levels.scores))
            assert levels.levels[s, i].numpy().tobytes() == slot["level"]
            assert held == (slot["value"], slot["positive"], slot["best"], slot["seen"])
            assert levels.staleness[s, i] == slot["stale"]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_long_history_equals_the_serial_version(name: str) -> None:
    config = SETTINGS[name]
    levels = buffer(config)
    oracles = [Serial(config, dataset_of(config).numpy()) for _ in SEEDS]
    went_in, held_unsolved = [], False
    for number in range(-2, 120):
        if number < 0 and config.dataset_levels:
            uniform = Rng(SEEDS).uniform("warm-up", number + 2, (config.dataset_levels,))
            drawn = levels.draw_unseen(uniform, WORLDS)
            assert [o.warm_up(u.numpy(), WORLDS) for o, u in zip(oracles, uniform, strict=True)] == drawn.tolist()
        if number < 0:
            continue  # the warm-up is two cycles
        cycle = Cycle(SEEDS, number)
        probability, slots, inserted = run_cycle(levels, cycle)
        for s, oracle in enumerate(oracles):
            expected = oracle.distribution(cycle.eta)
            np.testing.assert_allclose(probability[s], expected, rtol=1e-12, atol=1e-15)
            assert slots[s].flatten().tolist() == [
                oracle.draw(expected, u) for u in cycle.uniform[s].flatten().tolist()
            ]
            used = [(t, n) for t in range(STEPS) for n in range(WORLDS) if cycle.used[s, t, n] and expected.any()]
            for t, n in used:
                oracle.record(int(slots[s, t, n]))
            for n, t in sorted((n, t) for t, n in used):  # world by world
                value, positive, episode_return, finished = (x[s, t, n].item() for x in cycle.episodes)
                if finished:
                    oracle.update(int(slots[s, t, n]), value, positive, episode_return)
            if config.capacity > config.dataset_levels:
                offered = [level.numpy().tobytes() for level in cycle.levels[s]]
                assert oracle.audition(offered, episodes_of(cycle.offers, s), cycle.eta) == inserted[s].tolist()
        check_same(levels, oracles)
        went_in.append(inserted.sum().item())
        held_unsolved |= (levels.scores.episode_return[:, config.dataset_levels :] == 0).any().item()
    n = config.dataset_levels
    assert torch.equal(levels.levels[:, :n], dataset_of(config).expand(len(SEEDS), -1, -1))
    if config.capacity > n:
        assert levels.filled.all() and sum(went_in) > 2 * len(SEEDS) * (config.capacity - n)  # many were evicted
        assert held_unsolved is not config.solved_only


@pytest.mark.parametrize("name", SETTINGS)
def test_seeds_alone_are_as_together(name: str) -> None:
    config = SETTINGS[name]
    together, alone = buffer(config), buffer(config, SEEDS[1:2])
    for number in range(40):
        run_cycle(together, Cycle(SEEDS, number))
        run_cycle(alone, Cycle(SEEDS[1:2], number))
    for key, value in alone.state().items():
        assert torch.equal(value[0], together.state()[key][1]), key


def test_a_restored_buffer_goes_on_the_same(tmp_path) -> None:
    config = SETTINGS["dred"]
    levels = buffer(config)
    levels.draw_unseen(Rng(SEEDS).uniform("warm-up", 0, (5,)), 5)
    for number in range(20):
        run_cycle(levels, Cycle(SEEDS, number))
    Checkpoints(tmp_path).save(20, levels.state(), {})
    restored = buffer(config)
    copy_into(restored.state(), Checkpoints(tmp_path).load()[1], "checkpoint")
    for number in range(20, 40):
        for a, b in zip(*(run_cycle(x, Cycle(SEEDS, number)) for x in (levels, restored)), strict=True):
            assert torch.equal(a, b)
    assert all(torch.equal(value, restored.state()[key]) for key, value in levels.state().items())


def test_nothing_reads_a_value() -> None:
    """On the meta device there are none: a branch on one, or a shape that depends on one, would raise."""
    levels = ScoredLevels(LevelBufferConfig(40, 10), 2, SIZE, torch.zeros(10, SIZE, dtype=torch.uint8), "meta")
    scores = Scores(*(torch.zeros(2, STEPS, WORLDS, device="meta") for _ in range(3)),
                    torch.zeros(2, STEPS, WORLDS, dtype=torch.bool, device="meta"))  # fmt: skip
    levels.draw_unseen(torch.zeros(2, 10, device="meta"), WORLDS)
    slots = draw(levels.distribution(torch.zeros((), device="meta")), torch.zeros(2, STEPS, WORLDS, device="meta"))
    levels.record_draws(slots, scores.valid)
    levels.update(slots, episode_scores(scores.value_l1, scores.episode_return, scores.valid))
    offers = torch.zeros(2, WORLDS, SIZE, dtype=torch.uint8, device="meta")
    assert levels.insert(offers, scores, torch.zeros((), device="meta")).shape == (2, WORLDS)
    assert levels.take(slots).shape == (2, STEPS, WORLDS, SIZE)
    assert all(x.shape == (2,) for x in levels.statistics(levels.distribution()).values())


# ------------------------------------------------------------------------------------------- known figures


def full_size(num_seeds: int, **settings) -> ScoredLevels:
    """DRED's buffer, full: levels all seen and solved, with scores and staleness at random."""
    config = LevelBufferConfig(**settings)
    n, rng = config.dataset_levels, Rng(range(num_seeds))
    levels = ScoredLevels(config, num_seeds, 2, torch.arange(2 * n).reshape(n, 2).to(torch.uint8))
    shape = (config.capacity,)
    levels.scores.value_l1.copy_(rng.uniform("value", 0, shape))
    levels.scores.positive_value_loss.copy_(rng.uniform("positive", 0, shape))
    levels.scores.episode_return.fill_(0.5)
    levels.scores.valid.fill_(True)
    levels.staleness.copy_(rng.integers("staleness", 0, shape, 1000))
    return levels


def test_the_masses_of_the_reference_sampler() -> None:
    """As measured on it with random scores, once; here the mean of 200 such buffers. A ratio of the dataset's
    512 / 4000 in P_S' alone would be .390 at eta = 1."""
    levels = full_size(200)
    dataset, top = [], []
    for eta in (0.0, 0.25, 0.5, 0.75, 1.0):
        figures = levels.statistics(levels.distribution(eta))
        dataset.append(figures["levels/dataset_mass"].mean().item())
        top.append(figures["levels/top_mass"].mean().item())
    np.testing.assert_allclose(dataset, [1.00, 0.84, 0.69, 0.53, 0.38], atol=0.015)
    np.testing.assert_allclose(top, [0.70, 0.53, 0.36, 0.20, 0.08], atol=0.015)


def test_one_level_has_nearly_all_of_a_cold_rank_distribution() -> None:
    levels = full_size(3, secondary=None, rho=0.0)
    probability = levels.distribution()
    best = levels.scores.value_l1[:, :512].argmax(dim=-1)
    assert torch.equal(probability.argmax(dim=-1), best)
    np.testing.assert_allclose(probability.amax(dim=-1), 1 / sum(r**-10.0 for r in range(1, 513)), rtol=1e-12)
    np.testing.assert_allclose(probability.amax(dim=-1), 0.999, atol=5e-5)


def test_uniform_is_uniform() -> None:
    levels = full_size(3, capacity=512, primary=Priority("uniform"), secondary=None, rho=0.0)
    probability = levels.distribution()
    assert torch.equal(probability, torch.full_like(probability, 1 / 512))
    np.testing.assert_allclose(levels.statistics(probability)["levels/entropy"], math.log(512), rtol=1e-12)


def test_the_warm_up_of_512_levels_in_36_worlds_is_15_cycles() -> None:
    levels = ScoredLevels(LevelBufferConfig(), 2, 1, torch.zeros(512, 1, dtype=torch.uint8))
    assert levels.warm_up_cycles(36) == 15
    drawn = []
    for cycle in range(15):
        assert not levels.scores.valid[:, :512].all(dim=-1).any()
        assert levels.scores.valid[:, :512].sum(dim=-1).tolist() == [36 * cycle] * 2
        drawn.append(levels.draw_unseen(Rng([3, 8]).uniform("warm-up", cycle, (512,)), 36))
    assert levels.scores.valid[:, :512].all() and not levels.scores.valid[:, 512:].any()
    drawn = torch.cat(drawn, dim=1)
    assert not torch.equal(drawn[0], drawn[1])
    for seed in drawn:
        assert sorted(seed[:512].tolist()) == list(range(512))  # each once, and the last cycle's others:
        assert len(set(seed[-36:].tolist())) == 36
    assert (levels.staleness[0, drawn[0, -36:]] == torch.arange(35, -1, -1)).all()


def test_more_worlds_than_levels() -> None:
    levels = buffer(SETTINGS["plr"])
    drawn = levels.draw_unseen(Rng(SEEDS).uniform("warm-up", 0, (5,)), 12)
    assert levels.warm_up_cycles(12) == 1
    for seed in drawn:
        assert sorted(seed[:5].tolist()) == list(range(5)) and torch.equal(seed[:5], seed[5:10])


# ------------------------------------------------------------------------------------------- draws


def test_draws_follow_the_distribution() -> None:
    levels = full_size(3, capacity=40, dataset_levels=10, primary=ranked("value_l1", 1.0, "dataset"))
    levels.scores.valid[:, 7] = False
    probability = levels.distribution(0.5)
    slots = draw(probability, Rng(SEEDS).uniform("draws", 0, (400, 500)))
    for s in range(3):
        counts = torch.bincount(slots[s].flatten(), minlength=40).numpy()
        mass = probability[s].numpy()
        assert counts[7] == 0 == mass[7]
        there = mass > 0
        assert stats.chisquare(counts[there], mass[there] * 200_000).pvalue > 0.01


def test_the_ends_of_the_unit_interval_draw_slots_with_mass() -> None:
    probability = torch.tensor([[0.0, 1e-12, 0.5, 0.0, 0.5, 0.0]], dtype=torch.float64)
    ends = torch.tensor([[2.0**-24, 0.5 - 2.0**-24, 0.5 + 2.0**-24, 1 - 2.0**-24]])
    assert draw(probability, ends).tolist() == [[2, 2, 4, 4]]
    assert draw(torch.tensor([[0.0, 1e-12, 0.0]]), ends).tolist() == [[1, 1, 1, 1]]


def test_a_term_without_mass_is_uniform_over_what_was_seen() -> None:
    levels = ScoredLevels(LevelBufferConfig(6, 2), 1, 1, torch.tensor([[1], [2]], dtype=torch.uint8))
    assert not levels.distribution(0.5).any()  # nothing is seen
    levels.scores.valid[0, :2] = True
    levels.scores.value_l1[0, :2] = torch.tensor([0.1, 0.2])
    by_rank = torch.tensor([[2.0**-10, 1.0, 0, 0, 0, 0]], dtype=torch.float64) / (1 + 2.0**-10)
    uniform = torch.tensor([[0.5, 0.5, 0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(levels.distribution(0.0), 0.7 * by_rank + 0.3 * uniform)  # staleness is 0 everywhere
    levels.record_draws(torch.tensor([[1]]))
    stale = torch.tensor([[1.0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(levels.distribution(0.0), 0.7 * by_rank + 0.3 * stale)


@pytest.mark.parametrize("support", ["dataset", "buffer"])
@pytest.mark.parametrize("score", ["value_l1", "grounded_value_l1"])
def test_an_empty_slot_is_never_drawn(score: str, support: str) -> None:
    """With powers of scores that are all 0, whatever the shares; it was the last slot, an empty level."""
    power = Priority(score, "power", 1.0, support)
    for secondary, rho in ((None, 0.0), (power, 0.0), (power, 0.3), (None, 1.0)):
        levels = ScoredLevels(LevelBufferConfig(9, 3, power, secondary, rho=rho, solved_only=False), 2, 1,
                              torch.arange(3, dtype=torch.uint8)[:, None])  # fmt: skip
        levels.scores.valid[0, :2] = True  # one of the dataset is unseen yet
        levels.scores.valid[1, :5] = True
        for eta in (0.0, 0.5, 1.0):
            probability = levels.distribution(eta)
            uniform = levels.scores.valid.double() / torch.tensor([[2.0], [5.0]])
            torch.testing.assert_close(probability, uniform)
            drawn = draw(probability, Rng([0, 1]).uniform("draws", 0, (300,)))
            assert set(drawn[0].tolist()) == {0, 1} and set(drawn[1].tolist()) == {0, 1, 2, 3, 4}


def test_empty_slots_rank_before_the_levels_that_score_nothing() -> None:
    """Five slots with a level of score 0.5, two of 0 and two empty ones: rank 1, ranks 5 and 4, nothing."""
    config = LevelBufferConfig(5, 0, ranked("value_l1", 1.0), None, STALE, rho=0.0, solved_only=False)
    levels = ScoredLevels(config, 1, 1)
    levels.scores.valid[0, :3] = True
    levels.scores.value_l1[0, 1] = 0.5
    expected = torch.tensor([[1 / 5, 1, 1 / 4, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(levels.distribution(), expected / expected.sum())


def test_the_highest_world_s_last_episode_scores_a_level() -> None:
    levels = ScoredLevels(LevelBufferConfig(2, 2), 1, 1, torch.tensor([[1], [2]], dtype=torch.uint8))
    value = torch.tensor([[[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]])  # 3 steps, 2 worlds
    finished = torch.tensor([[[True, True], [False, True], [True, False]]])
    slots = torch.zeros(1, 3, 2, dtype=torch.int64)
    levels.update(slots, Scores(value, value / 2, value - 0.35, finished))
    assert [x[0, 0].item() for x in levels.scores] == pytest.approx([0.4, 0.2, 0.15, True])


# ------------------------------------------------------------------------------------------- admission


def played(returns: list[list[float]], values: list[list[float]] | None = None) -> Scores:
    """One seed's episodes by step and world; NaN for none that finished. Scores are 0.5 where none are given."""
    episode_return = torch.tensor([returns])
    value = torch.full_like(episode_return, 0.5) if values is None else torch.tensor([values])
    return Scores(value, value, episode_return, ~episode_return.isnan())


def offered(*levels: int) -> torch.Tensor:
    return torch.tensor([[[0, 0, level] for level in levels]], dtype=torch.uint8)


def test_the_first_finished_episode_decides() -> None:
    """Failed and then solved stays out; solved and then failed is in, with its last score and greatest return."""
    levels = buffer(SETTINGS["dred"], (0,))
    episodes = played([[0.0, 0.7, math.nan], [0.9, 0.0, 0.8]], [[0.5, 0.5, math.nan], [0.5, 0.3, 0.2]])
    assert levels.insert(offered(1, 2, 3), episodes).tolist() == [[False, True, True]]
    assert levels.levels[0, 5:7, 2].tolist() == [2, 3]
    assert levels.scores.value_l1[0, 5:7].tolist() == pytest.approx([0.3, 0.2])
    assert levels.scores.episode_return[0, 5:7].tolist() == pytest.approx([0.7, 0.8])


def test_a_newcomer_is_as_stale_as_the_draws_since_it_was_offered() -> None:
    levels = buffer(SETTINGS["dred"], (0,))
    inserted = levels.insert(offered(1, 2, 6, 7), played([[0.5, 0.0, 0.5, 0.5]]))
    assert inserted.tolist() == [[True, False, True, True]]
    assert levels.staleness[0, 5:9].tolist() == [3, 1, 0, 0]


def test_a_level_that_is_there_counts_as_drawn_and_is_scored_again() -> None:
    levels = buffer(SETTINGS["dred"], (0,))
    levels.insert(offered(1), played([[0.5]]))
    assert levels.insert(offered(2, 1), played([[0.5, 0.9]], [[0.1, 0.8]])).tolist() == [[True, False]]
    assert levels.scores.value_l1[0, 5:7].tolist() == pytest.approx([0.8, 0.1])
    assert levels.scores.episode_return[0, 5].item() == pytest.approx(0.9)
    assert levels.staleness[0, :8].tolist() == [1, 1, 1, 1, 1, 0, 1, 0]


def test_equal_levels_in_one_rollout_are_one_level_in_more_worlds() -> None:
    """The first world with a finished episode decides for all, for the levels' one place in the buffer."""
    levels = buffer(SETTINGS["dred"], (0,))
    returns, values = [[math.nan, 0.5, 0.9, 0.0, 0.8]], [[0.1, 0.2, 0.3, 0.4, 0.5]]
    assert levels.insert(offered(1, 1, 1, 2, 2), played(returns, values)).tolist() == [[False, True] + [False] * 3]
    assert levels.levels[0, 5:7, 2].tolist() == [1, 0] and levels.staleness[0, 5] == 4
    assert [x[0, 5].item() for x in levels.scores[:3]] == pytest.approx([0.3, 0.3, 0.9])


@pytest.mark.parametrize("method", ["accel-d", "accel"])
def test_a_full_buffer_of_the_paper_s_size_admits_what_the_serial_version_does(method: str) -> None:
    """4000 slots, and 36 offers with scores as those that are held."""
    n = 512 if method == "accel-d" else 0
    score, temperature = ("grounded_value_l1", 0.1) if n else ("positive_value_loss", 0.3)
    config = LevelBufferConfig(4000, n, ranked(score, temperature), None, STALE, solved_only=False)
    rng, numbers = Rng(range(2)), torch.arange(4000)
    rows = torch.stack([numbers // 200, numbers % 200, torch.zeros_like(numbers)], dim=1).to(torch.uint8)
    levels = ScoredLevels(config, 2, 3, rows[:n] if n else None)
    levels.levels.copy_(rows)
    levels.fingerprint.copy_(levels._hash(rows.expand(2, -1, -1)))
    for score, name in zip(levels.scores[:3], ("value", "positive", "return"), strict=True):
        score.copy_(rng.uniform(name, 0, (4000,)))
    levels.scores.valid.fill_(True)
    levels.staleness.copy_(rng.integers("staleness", 0, (4000,), 4000))
    oracles = []
    for s in range(2):
        oracles.append(Serial(config, rows[:n].numpy()))
        oracles[s].slots = [
            Serial.new(rows[i].numpy().tobytes(), *(x[s, i].item() for x in levels.scores))
            | {"stale": levels.staleness[s, i].item()}
            for i in range(4000)
        ]
    offers = torch.stack([torch.full((36,), 255), torch.arange(36), torch.zeros(36)], dim=1).to(torch.uint8)
    episodes = Scores(*(rng.uniform(f"offer/{name}", 0, (2, 36)) for name in ("value", "positive", "return")),
                      torch.ones(2, 2, 36, dtype=torch.bool))  # fmt: skip
    inserted = levels.insert(offers.expand(2, -1, -1), episodes)
    for s in range(2):
        expected = oracles[s].audition([x.tobytes() for x in offers.numpy()], episodes_of(episodes, s), 0.0)
        assert inserted[s].tolist() == expected
    check_same(levels, oracles)
    assert inserted.any(dim=1).all() and not inserted.all(dim=1).any()


# ------------------------------------------------------------------------------------------- scores


def test_episode_scores_are_a_loops() -> None:
    num_steps, rng = 37, Rng(SEEDS)
    advantage = rng.normal("advantage", 0, (num_steps, WORLDS))
    done = rng.uniform("done", 0, (num_steps, WORLDS)) < 0.15
    reward = rng.uniform("reward", 0, (num_steps, WORLDS)) * (rng.uniform("solved", 0, (num_steps, WORLDS)) < 0.1)
    got = episode_scores(advantage, reward, done)
    by_first, by_all = got.of_worlds()
    assert torch.equal(got.valid, done)
    for s in range(len(SEEDS)):
        for n in range(WORLDS):
            start, best, first, last = 0, -math.inf, None, None
            for t in range(num_steps):
                if not done[s, t, n]:
                    continue
                a, r = (x[s, start : t + 1, n].double().numpy() for x in (advantage, reward))
                last = np.abs(a).mean(), np.maximum(a, 0).mean()
                first = first or (*last, r.sum())
                best = max(best, r.sum())
                np.testing.assert_allclose([x[s, t, n] for x in got[:3]], [*last, r.sum()], rtol=1e-5, atol=1e-7)
                assert (got.episode_return[s, t, n] > 0) == (r.sum() > 0)
                start = t + 1
            assert by_first.valid[s, n] == by_all.valid[s, n] == (last is not None)
            if last is not None:
                np.testing.assert_allclose([x[s, n] for x in by_first[:3]], first, rtol=1e-5)
                np.testing.assert_allclose([x[s, n] for x in by_all[:3]], [*last, best], rtol=1e-5)


def test_an_episode_without_reward_has_a_return_of_exactly_zero() -> None:
    reward = Rng([0]).uniform("reward", 0, (256, 36))
    done = torch.ones(1, 256, 36, dtype=torch.bool)
    done[:, 100:150] = False
    reward[:, 100:151] = 0.0
    reward[:, 151] = math.nan  # a neighbour's is not ours
    got = episode_scores(reward, reward, done)
    assert (got.episode_return[:, 150] == 0).all() and (got.value_l1[:, 150] == 0).all()


def test_worlds_without_a_finished_episode() -> None:
    zeros = torch.zeros(1, 5, 2)
    done = torch.zeros(1, 5, 2, dtype=torch.bool)
    done[0, 2, 1] = True
    scores = episode_scores(zeros, zeros, done)
    for by in scores.of_worlds():
        assert by.valid.tolist() == [[False, True]]
    assert by.episode_return.tolist() == [[-math.inf, 0.0]]
    levels = buffer(SETTINGS["robust plr"], (0,))
    offers = torch.tensor([[[0, 0, 1], [0, 0, 2]]], dtype=torch.uint8)
    assert levels.insert(offers, scores).tolist() == [[False, True]]


# ------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacity": 0}, "^agent.levels.capacity=0"),
        ({"dataset_levels": -1}, "levels.dataset_levels=-1 is not valid"),
        ({"rho": 1.5}, r"levels.rho=1.5 is not valid; give a number in \[0, 1\]"),
        ({"primary": Priority("td")}, "levels.primary.score=td is not valid; give value_l1, positive"),
        ({"primary": Priority("staleness")}, "levels.primary.score=staleness"),
        ({"secondary": Priority(temperature=0.0)}, "levels.secondary.temperature=0.0"),
        ({"secondary": Priority(transform="log")}, "levels.secondary.transform=log is not valid; give rank or power"),
        ({"staleness": Priority("value_l1")}, "levels.staleness.score=value_l1 is not valid; give staleness"),
        ({"primary": Priority(support="all")}, "levels.primary.support=all is not valid; give dataset or buffer"),
        ({"dataset_levels": 0}, "levels.primary.support=dataset is not valid; give buffer, since"),
    ],
)
def test_impossible_settings_are_named_in_full(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LevelBufferConfig(**settings)


def test_a_dataset_of_another_size_than_its_slots_is_refused() -> None:
    with pytest.raises(UserError, match=r"levels.dataset_levels=5 is not valid; give the number of levels"):
        ScoredLevels(SETTINGS["dred"], 1, SIZE, torch.zeros(4, SIZE, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"levels.capacity=4 .* at least the 5 levels of the dataset"):
        ScoredLevels(LevelBufferConfig(4, 5), 1, SIZE, torch.zeros(5, SIZE, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"levels.capacity=5 .* more than the dataset's 5 levels"):
        buffer(SETTINGS["plr"]).insert(*[None] * 2)
