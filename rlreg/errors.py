"""The one exception for a user's mistake, and the wording that goes with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can put right. `run.py` prints its message as one line and exits with status 2."""


class NonFiniteError(UserError):
    """An observation or reward turned NaN or infinite; the message names the field, step and seed."""


def unknown(kind: str, name: str, valid: Iterable[str]) -> UserError:
    """`unknown agent 'bear'; did you mean 'beer'? (valid: beer, ddpg, ...)`."""
    valid = sorted(valid)
    close = _closest(name, valid)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    # Of a long list, the nearest: the whole is in `--help`.
    near = difflib.get_close_matches(name, valid, 8, 0.0)
    listed = ", ".join(valid if len(valid) <= 20 else [*near, f"... {len(valid)} in all"])
    return UserError(f"unknown {kind} '{name}'{hint} (valid: {listed})")


def _closest(name: str, valid: list[str]) -> list[str]:
    """The most similar name, if any: of those of the same family, such as gym/..., by what follows it."""
    family, slash, last = name.rpartition("/")
    same = [other.removeprefix(f"{family}/") for other in valid if slash and other.startswith(f"{family}/")]
    if not same:
        return difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if found := difflib.get_close_matches(last, same, n=1, cutoff=0.5):
        return [f"{family}/{found[0]}"]
    return difflib.get_close_matches(name, valid, n=1, cutoff=0.75)  # perhaps another family's


def require(holds: bool, field: str, value: object, valid: str) -> None:
    """Raise `agent.discount=1.5 is not valid; give a number in [0, 1)` unless `holds`."""
    if not holds:
        raise UserError(f"{field}={value} is not valid; give {valid}")
