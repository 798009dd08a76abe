"""Small checkers for settings: each raises `UserError` naming the field, its value and what would be valid.

A dataclass calls them in `__post_init__`: `positive(self, "agent", "learning_rate")` looks at `self.learning_rate` and
calls it `agent.learning_rate`, as a user wrote it.
"""

from __future__ import annotations

import math
import re
from numbers import Integral, Real
from typing import Any

from rlreg.errors import require


def whole(settings: Any, group: str, *names: str, least: int = 1) -> None:
    """Whole numbers, `least` or more, that tensors can hold."""
    for name, value in _values(settings, names):
        require(_is(value, Integral) and value >= least, f"{group}.{name}", value, f"a whole number >= {least}")
        require(value < 2**63, f"{group}.{name}", value, "a whole number < 2^63")


def whole_or_null(settings: Any, group: str, *names: str) -> None:
    """Whole numbers, 1 or more, that tensors can hold, or nothing at all."""
    for name, value in _values(settings, names):
        good = value is None or (_is(value, Integral) and value >= 1)
        require(good, f"{group}.{name}", value, "a whole number >= 1, or null")
        require(value is None or value < 2**63, f"{group}.{name}", value, "a whole number < 2^63, or null")


def positive(settings: Any, group: str, *names: str, or_infinite: bool = False) -> None:
    """Numbers above 0; infinity too where it stands for no limit."""
    for name, value in _values(settings, names):
        require(_is(value, Real) and value > 0, f"{group}.{name}", value, "a number > 0")
        require(or_infinite or value < math.inf, f"{group}.{name}", value, "a finite number > 0")


def not_negative(settings: Any, group: str, *names: str, or_infinite: bool = False) -> None:
    """Numbers from 0 on; infinity too where it stands for no limit."""
    for name, value in _values(settings, names):
        require(_is(value, Real) and value >= 0, f"{group}.{name}", value, "a number >= 0")
        require(or_infinite or value < math.inf, f"{group}.{name}", value, "a finite number >= 0")


def within(settings: Any, group: str, *names: str, interval: str) -> None:
    """Numbers in an interval as mathematics writes it: "(0, 1)" without its ends, "[0, 1]" with them, "(0, 1]"."""
    left, low, high, right = re.fullmatch(r"([\[(])(.+), (.+)([\])])", interval).groups()
    least, greatest = float(low), float(high)
    for name, value in _values(settings, names):
        inside = (
            _is(value, Real)
            and (value > least or (left == "[" and value == least))
            and (value < greatest or (right == "]" and value == greatest))
        )
        require(inside, f"{group}.{name}", value, f"a number in {interval}")


def one_of(settings: Any, group: str, name: str, *choices: str) -> None:
    """One of some words."""
    value = getattr(settings, name)
    valid = f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else choices[0]
    require(value in choices, f"{group}.{name}", value, valid)


def random_seed(settings: Any, group: str, *names: str) -> None:
    """Whole numbers that may seed a generator."""
    for name, value in _values(settings, names):
        require(
            _is(value, Integral) and 0 <= value < 2**31, f"{group}.{name}", value, "a whole number in [0, 2^31)"
        )


def widths(settings: Any, group: str, *names: str) -> None:
    """Lists of layers' widths: at least one, each at least 1."""
    for name, value in _values(settings, names):
        good = bool(value) and all(_is(width, Integral) and 1 <= width < 2**63 for width in value)
        require(good, f"{group}.{name}", list(value), "whole numbers in [1, 2^63), such as [256,256]")


def multiple_of(settings: Any, group: str, *names: str, stride: str) -> None:
    """Whole multiples of another setting of the same group."""
    step = getattr(settings, stride)
    for name, value in _values(settings, names):
        require(value % step == 0, f"{group}.{name}", value, f"a multiple of {group}.{stride}={step}")


def _values(settings: Any, names: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [(name, getattr(settings, name)) for name in names]


def _is(value: object, kind: type) -> bool:
    """Whether a value is a number of a kind; true and false are none."""
    return isinstance(value, kind) and not isinstance(value, bool)
