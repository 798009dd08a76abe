"""Steps a second, of the last minute: without the warm-up, in which nothing learns, and without what compiling took."""

from __future__ import annotations

import time
from collections import deque

SECONDS = 60.0


class Speed:
    """Told where the run is, says how fast it has been going of late."""

    def __init__(self, step: int) -> None:
        self._points: deque[tuple[float, int]] = deque([(time.perf_counter(), step)])

    def restart(self, step: int) -> None:
        """Forget what was before `step`: what follows is of another kind."""
        self._points = deque([(time.perf_counter(), step)])

    def at(self, step: int) -> float:
        """Steps a second over the last minute, or since the beginning where that is less."""
        now = time.perf_counter()
        while len(self._points) > 1 and self._points[1][0] <= now - SECONDS:
            self._points.popleft()
        then, before = self._points[0]
        if now - self._points[-1][0] >= 1.0:
            self._points.append((now, step))
        return (step - before) / max(now - then, 1e-9)
