"""Point estimates with bootstrap intervals, as Agarwal et al. (NeurIPS 2021) advise for few seeds.

Every interval is a percentile bootstrap by `scipy.stats.bootstrap`, and depends on nothing but the values and
the generator. A single seed says nothing about its spread: its interval is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

BATCH = 1_000  # resamples held in memory at a time


class Interval(NamedTuple):
    """An estimate and the two ends of its interval: numbers, or arrays of one shape."""

    value: Array
    low: Array
    high: Array


def mean_interval(
    values: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The mean over seeds of `values` (..., S), and its interval by resampling the seeds; each (...)."""
    return _interval([np.asarray(values, float)], np.mean, rng, confidence, resamples)


def task_mean_interval(
    tasks: Sequence[ArrayLike], rng: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The mean over tasks of their means over seeds; one array (S,) a task, and S may differ between tasks.

    The interval is stratified: seeds are resampled within their task, and the tasks are taken as given.
    """

    def mean_of_means(*tasks: Array, axis: int) -> Array:
        return np.mean([seeds.mean(axis=axis) for seeds in tasks], axis=0)

    return _interval([np.asarray(task, float) for task in tasks], mean_of_means, rng, confidence, resamples)


def iqm_interval(
    tasks: Sequence[ArrayLike], rng: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The interquartile mean: the mean of the middle half of all tasks' seeds, pooled.

    A quarter of the pooled values, rounded down, is left out at each end (rliable's IQM is the same call).
    Tasks and interval as in `task_mean_interval`.
    """

    from scipy import stats  # here, as in `_interval`: its import takes as long as torch's

    def trimmed_mean(*tasks: Array, axis: int) -> Array:
        return stats.trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis)

    return _interval([np.asarray(task, float) for task in tasks], trimmed_mean, rng, confidence, resamples)


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
