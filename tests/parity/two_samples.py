"""Whether two samples of many coordinates are of one distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

ERROR = 1e-6
"""Of a coordinate's test, were both the same: some 3000 coordinates are tested, so that one fails once in 300."""


def assert_same_distribution(ours: NDArray, theirs: NDArray) -> None:
    """Of every coordinate, and of some mixtures of them, that see what belongs together."""
    spread = np.concatenate([ours, theirs]).std(axis=0)
    drawn = spread > 1e-9
    np.testing.assert_allclose(ours[:, ~drawn], np.broadcast_to(theirs[0, ~drawn], ours[:, ~drawn].shape), atol=1e-8)
    ours, theirs = ours[:, drawn] / spread[drawn], theirs[:, drawn] / spread[drawn]
    rng = np.random.default_rng(0)
    mixtures = rng.normal(size=(ours.shape[1], 10)) * (rng.random((ours.shape[1], 10)) < 3 / ours.shape[1])
    ours, theirs = np.hstack([ours, ours @ mixtures]), np.hstack([theirs, theirs @ mixtures])
    share = len(ours) / (len(ours) + len(theirs))
    for i, (one, other) in enumerate(zip(ours.T, theirs.T, strict=True)):
        assert ks_2samp(one, other).pvalue > ERROR, f"coordinate {i}"
        # So many in a row at an end of both samples together are all from one of them: where bounds differ.
        for a, b, chance in ((one, other, share), (other, one, 1 - share)):
            for beyond in (a > b.max() + 1e-9, a < b.min() - 1e-9):
                assert chance ** beyond.sum() > ERROR, f"coordinate {i}: {beyond.sum()} beyond the other's extremes"
