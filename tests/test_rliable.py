"""Our estimates against rliable's, by the figures that it gave (tests/parity/rliable_figures.py) and, where it can be
imported, by itself; and tiny ones by hand."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from conftest import ROOT
from parity.rliable_figures import OPTIMAL, THRESHOLDS, figures, scores

from rlreg.stats import (
    Interval,
    iqm_interval,
    optimality_gap_interval,
    performance_profile,
    probability_of_improvement,
    task_mean_interval,
    task_median_interval,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def ours() -> dict[str, Interval]:
    x, y = (list(values.T) for values in scores().values())
    found = {"improvement": probability_of_improvement(x, y, rng())}
    for name, tasks in (("x", x), ("y", y)):
        found[f"{name} mean"] = task_mean_interval(tasks, rng())
        found[f"{name} median"] = task_median_interval(tasks, rng())
        found[f"{name} iqm"] = iqm_interval(tasks, rng())
        found[f"{name} optimality_gap"] = optimality_gap_interval(tasks, OPTIMAL, rng())
        found[f"{name} profile"] = performance_profile(tasks, THRESHOLDS, rng(), resamples=RESAMPLES)
    return found


RESAMPLES = 10_000


def compare(theirs: dict[str, list], reps: int) -> None:
    """Values are the same, and the ends of intervals as near as two bootstraps' are.

    The end of a 95 % interval by R resamples of a normal estimate has a standard error of sqrt(0.025 * 0.975 / R) /
    0.0584 standard deviations, which is 0.686 / sqrt(R) of the interval's width: four of them are allowed.
    """
    assert theirs.keys() == ours().keys()
    for name, interval in ours().items():
        value, low, high = (np.array(part) for part in theirs[name])
        np.testing.assert_allclose(interval.value, value, rtol=1e-12, atol=1e-12, err_msg=name)
        ends = np.array(interval[1:]) - np.array([low, high])
        if "profile" in name:  # shares are multiples of 1/20 or 1/40: a few ends may be the neighbour
            assert np.abs(ends).max() < 0.051 and np.abs(ends).mean() < 0.005, name
        else:
            allowed = 4 * 0.686 * np.sqrt(1 / reps + 1 / RESAMPLES) * (high - low)
            assert np.abs(ends).max() < allowed, name


def test_our_estimates_are_rliables() -> None:
    kept = json.loads((ROOT / "tests/data/rliable.json").read_text())
    assert kept["rliable"] == "1.2.0"
    compare(kept["figures"], kept["reps"])


def test_and_those_of_the_rliable_that_is_installed() -> None:
    pytest.importorskip("rliable", reason="rliable needs pandas < 3: see tests/parity/rliable_figures.py")
    np.random.seed(1)
    compare(figures(reps=2000), 2000)


def test_probability_of_improvement_by_hand() -> None:
    # of the pairs of (1, 5) and (3, 5): 1 < 3, 1 < 5, 5 > 3, 5 = 5
    assert probability_of_improvement([[1.0, 5.0]], [[3.0, 5.0]], rng()).value == 1.5 / 4
    assert probability_of_improvement([[1.0, 5.0], [9.0, 9.0]], [[3.0, 5.0], [1.0, 2.0]], rng()).value == 5.5 / 8
    assert probability_of_improvement([[7.0, 8.0]], [[1.0, 2.0, 3.0]], rng()) == (1.0, 1.0, 1.0)
    assert np.isnan(probability_of_improvement([[7.0]], [[1.0, 2.0]], rng())[1:]).all()


def test_its_interval_is_that_of_every_possible_resample() -> None:
    x, y = np.array([0.0, 4.0, 6.0]), np.array([1.0, 4.0, 5.0])
    above = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    every = [above[np.ix_(i, j)].mean() for i in product(range(3), repeat=3) for j in product(range(3), repeat=3)]
    got = probability_of_improvement([x], [y], rng(), resamples=50_000)
    np.testing.assert_allclose([got.low, got.high], np.percentile(every, [2.5, 97.5]), atol=0.02)


def test_a_profile_by_hand() -> None:
    got = performance_profile([[1.0, 3.0], [2.0, 2.0, 2.0]], [0.0, 1.0, 2.0, 3.0], rng())
    assert got.value.tolist() == [1.0, 0.75, 0.25, 0.0]  # strictly above, and each task counts for a half
    assert (got.low <= got.value).all() and (got.value <= got.high).all()
    assert (got.low[0], got.high[3]) == (1.0, 0.0)


def test_the_gap_to_what_is_optimal_by_hand() -> None:
    assert optimality_gap_interval([[5.0, 15.0], [10.0, 10.0]], 10.0, rng()).value == 1.25  # 5, 0, 0, 0
    assert task_median_interval([[1.0, 3.0], [5.0, 5.0], [9.0, 99.0]], rng()).value == 5.0
