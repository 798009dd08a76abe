from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from rlreg import checks
from rlreg.errors import UserError

WHOLE, POSITIVE, NOT_NEGATIVE = (checks.whole, {}), (checks.positive, {}), (checks.not_negative, {})
NO_LIMIT = (checks.positive, {"or_infinite": True})
FROM_2 = (checks.whole, {"least": 2})
OPEN, HALF_OPEN, CLOSED = (
    (checks.within, {"interval": interval}) for interval in ("(0, 1)", "(0, 1]", "[0, 1]")
)
SEED, WIDTHS = (checks.random_seed, {}), (checks.widths, {})


@pytest.mark.parametrize(
    ("check", "good"),
    [
        (WHOLE, [1, 7]),
        (FROM_2, [2, 64]),
        (POSITIVE, [1e-9, 3]),
        (NO_LIMIT, [1e-9, math.inf]),
        (NOT_NEGATIVE, [0, 0.0, 2.5]),
        (OPEN, [0.5, 1e-9]),
        (HALF_OPEN, [0.5, 1]),
        (CLOSED, [0, 1, 0.5]),
        (SEED, [0, 2**31 - 1]),
        (WIDTHS, [[1], [256, 256]]),
    ],
)
def test_values_in_range_pass(check, good):
    checker, options = check
    for value in good:
        checker(SimpleNamespace(x=value, y=value), "agent", "x", "y", **options)


@pytest.mark.parametrize(
    ("check", "bad", "valid"),
    [
        (WHOLE, [0, -1, 1.5, True, "1", None], "a whole number >= 1"),
        (FROM_2, [1], "a whole number >= 2"),
        (WHOLE, [2**63], "a whole number < 2^63"),
        (POSITIVE, [0, -1.0, math.nan, "fast", False], "a number > 0"),
        (POSITIVE, [math.inf], "a finite number > 0"),
        (NO_LIMIT, [0, math.nan], "a number > 0"),
        (NOT_NEGATIVE, [-1e-9, math.nan, "0"], "a number >= 0"),
        (NOT_NEGATIVE, [math.inf], "a finite number >= 0"),
        (OPEN, [0, 1, math.nan], "a number in (0, 1)"),
        (HALF_OPEN, [0, 1.1], "a number in (0, 1]"),
        (CLOSED, [-0.1, 1.1], "a number in [0, 1]"),
        (SEED, [-1, 2**31, 0.5], "a whole number in [0, 2^31)"),
        (WIDTHS, [[], [256, 0], [1.5], [2**63]], "whole numbers in [1, 2^63), such as [256,256]"),
    ],
)
def test_values_out_of_range_are_one_line_that_names_field_value_and_what_is_valid(check, bad, valid):
    checker, options = check
    for value in bad:
        with pytest.raises(UserError) as error:
            checker(SimpleNamespace(y=value), "agent", "y", **options)
        assert str(error.value) == f"agent.y={value} is not valid; give {valid}"


def test_a_choice_names_all_that_there_are():
    checks.one_of(SimpleNamespace(precision="float32"), "agent", "precision", "float32", "bfloat16")
    with pytest.raises(UserError, match=r"^agent.precision=half is not valid; give float32 or bfloat16$"):
        checks.one_of(SimpleNamespace(precision="half"), "agent", "precision", "float32", "bfloat16")
    with pytest.raises(UserError, match=r"^a.x=d is not valid; give a, b or c$"):
        checks.one_of(SimpleNamespace(x="d"), "a", "x", "a", "b", "c")


def test_a_multiple_names_what_it_is_one_of():
    settings = SimpleNamespace(log_every=10, num_envs=4)
    checks.multiple_of(SimpleNamespace(log_every=12, num_envs=4), "train", "log_every", stride="num_envs")
    with pytest.raises(UserError, match=r"^train.log_every=10 is not valid; give a multiple of train.num_envs=4$"):
        checks.multiple_of(settings, "train", "log_every", stride="num_envs")
