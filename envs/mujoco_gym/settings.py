"""The settings of Gymnasium's MuJoCo tasks, as their own constructors have them. Nothing of torch is imported here."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

_NAMES = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum")
IDS = tuple(f"{name}-v{version}" for name in (*_NAMES, "Reacher", "Swimmer", "Walker2d") for version in (4, 5))
IDS += ("Pusher-v5",)
"""The ids that have a batched version. Pusher-v4 needs a MuJoCo older than 3."""
_NOT_OURS = {"self", "kwargs", "xml_file", "default_camera_config"}
"""Parameters that are none of the task's: another model and cameras are for Gymnasium's own stepping."""


def settings(id: str) -> dict[str, Any]:
    """The settings of task `id`, one of `IDS`, by name, with Gymnasium's defaults."""
    parameters = inspect.signature(load_env_creator(gymnasium.spec(id).entry_point).__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name not in _NOT_OURS}
