"""The settings of Gymnasium's MuJoCo tasks, as their own constructors have them. Nothing of torch is imported here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from numbers import Integral, Real
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from rlreg.errors import require

_NAMES = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum")
IDS = tuple(f"{name}-v{version}" for name in (*_NAMES, "Reacher", "Swimmer", "Walker2d") for version in (4, 5))
IDS += ("Pusher-v5",)
"""The ids that have a batched version. Pusher-v4 needs a MuJoCo older than 3."""
_NOT_OURS = {"self", "kwargs", "xml_file", "default_camera_config"}
"""Parameters that are none of the task's: another model and cameras are for Gymnasium's own stepping."""


@cache
def settings(id: str) -> dict[str, Any]:
    """The settings of task `id`, one of `IDS`, by name, with Gymnasium's defaults."""
    parameters = inspect.signature(load_env_creator(gymnasium.spec(id).entry_point).__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name not in _NOT_OURS}


def check(id: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` as Gymnasium takes it, ranges as pairs; names that the task does not have are left as they are.

    Raises `UserError` for a value of another kind than the default's.
    """
    return {name: _checked(name, value, settings(id).get(name)) for name, value in given.items()}


def _checked(name: str, value: Any, default: Any) -> Any:
    field, number = f"env.settings.{name}", isinstance(value, Real) and not isinstance(value, bool)
    if isinstance(default, bool):
        require(isinstance(value, bool), field, value, "true or false")
    elif name == "frame_skip":
        require(number and isinstance(value, Integral) and value >= 1, field, value, "a whole number >= 1")
    elif name != "main_body" and isinstance(default, Real):
        require(number, field, value, "a number")
    elif isinstance(default, tuple):
        pair = isinstance(value, list | tuple) and len(value) == 2
        pair = pair and all(isinstance(end, Real) and not isinstance(end, bool) for end in value)
        require(pair and value[0] < value[1], field, value, "two numbers, the lower first, such as [0.5,.inf]")
        return tuple(map(float, value))
    return value
