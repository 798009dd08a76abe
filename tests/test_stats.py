"""Intervals, against values worked by hand, a full enumeration, and SciPy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from rlreg.stats import iqm_interval, mean_interval, task_mean_interval


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_mean_of_two_seeds_by_hand() -> None:
    # Resampled means of {0, 10} are 0, 5, 10 with chances 1/4, 1/2, 1/4: half of them lie strictly inside.
    assert mean_interval([0.0, 10.0], rng()) == (5.0, 0.0, 10.0)
    assert mean_interval([0.0, 10.0], rng(), confidence=0.4) == (5.0, 5.0, 5.0)


def test_mean_interval_is_scipys_and_goes_over_the_last_axis() -> None:
    values = rng(1).normal(100.0, 20.0, size=(4, 10))
    ours = mean_interval(values, rng())
    theirs = stats.bootstrap((values,), np.mean, axis=-1, method="percentile", n_resamples=20_000, rng=rng(2))
    np.testing.assert_allclose(ours.value, values.mean(axis=1))
    np.testing.assert_allclose(ours.low, theirs.confidence_interval.low, atol=1.0)
    np.testing.assert_allclose(ours.high, theirs.confidence_interval.high, atol=1.0)


def test_mean_interval_draws_what_scipy_draws() -> None:
    values = rng(1).normal(100.0, 20.0, size=(3, 7))
    theirs = stats.bootstrap((values,), np.mean, axis=-1, method="percentile", n_resamples=2500, batch=1000, rng=rng())
    ours = mean_interval(values, rng(), resamples=2500)
    np.testing.assert_allclose([ours.low, ours.high], theirs.confidence_interval, rtol=1e-12)


def test_iqm_by_hand() -> None:
    # Pooled and sorted: 1 2 | 3 4 5 6 | 7 100. The outlier does not count.
    assert iqm_interval([[1.0, 100.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]], rng()).value == 4.5
    # Of 6 values int(6 / 4) = 1 falls off at each end.
    assert iqm_interval([[1.0, 2.0, 3.0], [4.0, 5.0, 60.0]], rng()).value == 3.5
    values = rng(3).normal(size=(5, 7))
    assert iqm_interval(values, rng()).value == stats.trim_mean(values, 0.25, axis=None)


@pytest.mark.parametrize("estimate", [iqm_interval, task_mean_interval])
def test_stratified_interval_is_that_of_every_possible_resample(estimate) -> None:
    """Two tasks of three seeds have 27 x 27 resamples within their tasks: all of them, in a plain loop."""
    tasks = np.array([[0.0, 10.0, 40.0], [500.0, 700.0, 900.0]])
    every = []
    for first, second in product(product(range(3), repeat=3), repeat=2):
        pooled = np.concatenate([tasks[0, list(first)], tasks[1, list(second)]])
        every.append(stats.trim_mean(pooled, 0.25) if estimate is iqm_interval else pooled.mean())
    exact = np.percentile(every, [2.5, 97.5])
    got = estimate(tasks, rng(), resamples=50_000)
    # A resample across tasks would reach from far below 250 to far above 450.
    np.testing.assert_allclose([got.low, got.high], exact, atol=4.0)


def test_tasks_with_different_numbers_of_seeds_weigh_the_same() -> None:
    got = task_mean_interval([[0.0, 0.0], [1.0, 1.0, 1.0, 1.0]], rng())
    assert got == (0.5, 0.5, 0.5)


def test_same_generator_same_interval() -> None:
    values = rng(4).normal(size=(3, 5))
    assert iqm_interval(values, rng(7)) == iqm_interval(values, rng(7))
    assert iqm_interval(values, rng(7)) != iqm_interval(values, rng(8))


def test_one_seed_has_no_interval() -> None:
    assert mean_interval([3.0], rng()).value == 3.0
    assert np.isnan(mean_interval([[3.0], [4.0]], rng()).low).tolist() == [True, True]
    assert np.isnan(iqm_interval([[3.0], [4.0, 5.0]], rng())[1:]).all()
