"""Point estimates with bootstrap intervals, as Agarwal et al. (NeurIPS 2021) advise for few seeds.

Every interval is a percentile bootstrap, stratified by task (seeds are resampled within their task, and the tasks are
taken as given), and depends on nothing but the values and the generator. A single seed says nothing about its spread:
its interval is NaN. Definitions are those of their library, rliable; `tests/test_rliable.py` compares the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

BATCH = 1_000  # resamples held in memory at a time
Tasks = Sequence[ArrayLike]
"""One array (S,) a task, of its seeds' figures; S may differ between tasks."""


class Interval(NamedTuple):
    """An estimate and the two ends of its interval: numbers, or arrays of one shape."""

    value: Array
    low: Array
    high: Array


def mean_interval(
    values: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The mean over seeds of `values` (..., S), and its interval by resampling the seeds; each (...)."""
    values = np.asarray(values, float)
    seeds, value = values.shape[-1], values.mean(axis=-1)
    if seeds < 2:
        return _percentiles(value, np.zeros(0), confidence, seeds)
    resampled = np.empty((*value.shape, resamples))
    for first in range(0, resamples, BATCH):  # draws as SciPy's own, and a product in place of its copies
        drawn = rng.integers(0, seeds, (min(BATCH, resamples - first), seeds))
        places = drawn + seeds * np.arange(len(drawn))[:, None]
        times = np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)
        resampled[..., first : first + BATCH] = values @ (times.T / seeds)
    return _percentiles(value, np.moveaxis(resampled, -1, 0), confidence, seeds)


def task_mean_interval(
    tasks: Tasks, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The mean over tasks of their means over seeds."""

    def mean_of_means(*tasks: Array, axis: int) -> Array:
        return np.mean([seeds.mean(axis=axis) for seeds in tasks], axis=0)

    return _interval([np.asarray(task, float) for task in tasks], mean_of_means, rng, confidence, resamples)


def iqm_interval(
    tasks: Tasks, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The interquartile mean: the mean of the middle half of all tasks' seeds, pooled.

    A quarter of the pooled values, rounded down, is left out at each end (rliable's IQM is the same call).
    """

    from scipy import stats  # here, as in `_interval`: its import takes as long as torch's

    def trimmed_mean(*tasks: Array, axis: int) -> Array:
        return stats.trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis)

    return _interval([np.asarray(task, float) for task in tasks], trimmed_mean, rng, confidence, resamples)


def task_median_interval(
    tasks: Tasks, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The median over tasks of their means over seeds."""

    def median_of_means(*tasks: Array, axis: int) -> Array:
        return np.median([seeds.mean(axis=axis) for seeds in tasks], axis=0)

    return _interval([np.asarray(task, float) for task in tasks], median_of_means, rng, confidence, resamples)


def optimality_gap_interval(
    tasks: Tasks, optimal: float, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """How much is lacking to `optimal`, on average over tasks and their seeds; what lies above it counts as it."""
    lacking = [optimal - np.minimum(np.asarray(task, float), optimal) for task in tasks]
    return task_mean_interval(lacking, rng, confidence, resamples)


def probability_of_improvement(
    ours: Tasks, theirs: Tasks, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """P(X > Y), averaged over tasks: how likely a seed of `ours` is above one of `theirs`, a tie counting for half.

    For each task that is Mann and Whitney's U over the number of pairs. Both sides' seeds are resampled.
    """
    value, resampled = 0.0, np.zeros(resamples)
    for x, y in zip(ours, theirs, strict=True):
        x, y = np.asarray(x, float)[:, None], np.asarray(y, float)
        above = (x > y) + 0.5 * (x == y)  # (S, S')
        value += above.mean() / len(ours)
        times_x, times_y = (_times_drawn(n, resamples, rng) for n in above.shape)
        resampled += ((times_x @ above) * times_y).sum(axis=1) / above.size / len(ours)
    seeds = min(len(np.asarray(task)) for task in (*ours, *theirs))
    return _percentiles(np.asarray(value), resampled, confidence, seeds)


def performance_profile(
    tasks: Tasks, thresholds: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 2_000
) -> Interval:
    """The share of runs whose figure is above each of `thresholds` (K,), every task weighing the same; each (K,)."""
    thresholds = np.asarray(thresholds, float)
    value, resampled = np.zeros(len(thresholds)), np.zeros((resamples, len(thresholds)))
    for task in tasks:
        above = (np.asarray(task, float)[:, None] > thresholds).astype(float)  # (S, K)
        value += above.mean(axis=0) / len(tasks)
        resampled += _times_drawn(len(above), resamples, rng) @ above / len(above) / len(tasks)
    return _percentiles(value, resampled, confidence, min(len(np.asarray(task)) for task in tasks))


def _times_drawn(count: int, resamples: int, rng: np.random.Generator) -> Array:
    """(resamples, count): how often each of `count` seeds is in a resample of as many."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)


def _percentiles(value: Array, resampled: Array, confidence: float, seeds: int) -> Interval:
    """`resampled` (resamples, ...) as the interval of `value` (...); NaN where a task has a single seed."""
    if seeds < 2:
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    low, high = np.percentile(resampled, [50 * (1 - confidence), 50 * (1 + confidence)], axis=0)
    return Interval(value, np.asarray(low), np.asarray(high))


def _interval(
    samples: list[Array],
    statistic: Callable[..., Array],
    rng: np.random.Generator,
    confidence: float,
    resamples: int,
) -> Interval:
    """`statistic(*samples, axis)` over the last axis, each sample (..., S) resampled along its own."""
    from scipy import stats

    value = np.asarray(statistic(*samples, axis=-1))
    if min(sample.shape[-1] for sample in samples) < 2:
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    ends = stats.bootstrap(
        samples,
        statistic,
        axis=-1,
        n_resamples=resamples,
        batch=BATCH,
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        rng=rng,
    ).confidence_interval
    return Interval(value, np.asarray(ends.low), np.asarray(ends.high))
