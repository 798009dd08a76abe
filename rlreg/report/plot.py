"""Line plots as SVG: where a panel's axes, ticks, lines and bands lie, for the page's template to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH, HEIGHT = 320, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 302, 8, 176
TICKS = 5


@dataclass(frozen=True)
class Line:
    """One curve with its band: arrays of one length."""

    name: str
    style: int
    """Which of the page's colours and dashes."""
    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    remark: str = ""


class Plot:
    """One panel."""

    def __init__(self, title: str, x_label: str, y_label: str, lines: Sequence[Line], decimals: int = 1) -> None:
        """`x_label` of hours begins at 0."""
        self.title, self.x_label, self.y_label, self.decimals = title, x_label, y_label, decimals
        self.lines = list(lines)
        self.x0, self.x1 = _span([line.x for line in lines] + ([np.zeros(1)] if x_label == "hours" else []))
        self.y0, self.y1 = _span([a for line in lines for a in (line.value, line.low, line.high)], room=0.04)

    def across(self, x: Any) -> Any:
        return LEFT + (x - self.x0) / (self.x1 - self.x0) * (RIGHT - LEFT)

    def down(self, y: Any) -> Any:
        return BOTTOM - (y - self.y0) / (self.y1 - self.y0) * (BOTTOM - TOP)

    def x_ticks(self) -> list[tuple[float, str]]:
        return [(float(self.across(at)), _short(at)) for at in ticks(self.x0, self.x1)]

    def y_ticks(self) -> list[tuple[float, str]]:
        return [(float(self.down(at)), _short(at)) for at in ticks(self.y0, self.y1)]

    def path(self, line: Line) -> str:
        """A line through the points; of a single one its mark."""
        points = self._points(line.x, line.value)
        if len(line.x) > 1:
            return "M" + "L".join(points)
        x, y = float(self.across(line.x[0])), float(self.down(line.value[0]))
        mark = f"M{x - 4:.1f},{y:.1f}h8M{x:.1f},{y - 4:.1f}v8"
        if np.isfinite(line.low[0]):
            mark += f"M{x:.1f},{self.down(line.low[0]):.1f}V{self.down(line.high[0]):.1f}"
        return mark

    def band(self, line: Line) -> str:
        """The outline of a band; '' where there is none."""
        if len(line.x) < 2 or not np.isfinite(line.low).all():
            return ""
        upper, lower = self._points(line.x, line.high), self._points(line.x, line.low)
        return "M" + "L".join([*upper, *reversed(lower)]) + "Z"

    def _points(self, x: np.ndarray, y: np.ndarray) -> list[str]:
        return [f"{a:.1f},{b:.1f}" for a, b in zip(self.across(x), self.down(y), strict=True)]

    def data(self) -> dict[str, Any]:
        """What the page's script shows of the point under a finger."""
        return {
            "box": [LEFT, RIGHT, TOP, BOTTOM],
            "x": [_rounded(self.x0), _rounded(self.x1)],
            "y": [_rounded(self.y0), _rounded(self.y1)],
            "unit": self.x_label,
            "decimals": self.decimals,
            "lines": [
                {
                    "name": line.name,
                    "style": line.style,
                    "remark": line.remark,
                    "points": [
                        [_rounded(v) for v in point]
                        for point in zip(line.x, line.value, line.low, line.high, strict=True)
                    ],
                }
                for line in self.lines
            ],
        }


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two: multiples of 1, 2 or 5 times a power of ten, some `TICKS` of them."""
    rough = (high - low) / TICKS
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    return [float(step * i) + 0.0 for i in range(int(first), int(last) + 1)]


def _span(arrays: Sequence[np.ndarray], room: float = 0.0) -> tuple[float, float]:
    """The least and the greatest of finite values, apart from each other, with some room around."""
    values = np.concatenate([np.asarray(array, float) for array in arrays]) if arrays else np.zeros(1)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        low, high = low - max(abs(low) * 0.1, 1e-6), high + max(abs(high) * 0.1, 1e-6)
    around = room * (high - low)
    return low - around, high + around


def _short(value: float) -> str:
    """`0.25`, `500`, `50k`, `1M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _rounded(value: float) -> float | None:
    """Six digits; None, JSON's null, for what is no number."""
    return float(f"{value:.6g}") if np.isfinite(value) else None
