"""What earlier versions called settings and classes. Their run folders and commands are understood by these names.

A new name or setting is added here once; a run's fingerprint goes on using the old ones, so that folders keep their
names.
"""

from __future__ import annotations

from typing import Any

KEYS = {"num_worlds": "num_envs", "frozen": "diverged"}
"""The last part of a setting's dotted key, or a figure's name in summary.json: then and now."""
SECTIONS = {"levels": "level_set"}
"""A section of the whole configuration: then and now. Further in, a key of the old name is another setting."""
MODES = {"levels": "level_set"}
"""A choice of `mode=`: then and now."""
TARGETS = {
    "agents.sb3.SB3": "agents.sb3_baselines.SB3",
    "envs.dmc.make": "envs.dmc.DMControlTask",
    "envs.gym.make": "envs.gym.GymTask",
    "envs.d4rl.make": "envs.d4rl.D4RLTask",
    "envs.cave.space.make": "envs.cave.space.CaveTask",
    "envs.cave.level_set_tool.levels": "envs.cave.level_set_tool.run",
    "rlreg.launch.local": "rlreg.launchers.local",
    "rlreg.launch.ray": "rlreg.launchers.ray",
}
"""A `_target_`: then and now."""
BACKENDS = {"envs.dmc.make": "dm_control", "envs.gym.make": "gymnasium", "envs.d4rl.make": "gymnasium"}
"""What stepped the worlds of each `_target_` when there was no `backend` to choose."""
ADDED = {"env.backend": "auto", "env.spread": False, "env.deterministic": False}
ADDED |= {"env.nconmax": None, "env.njmax": None, "agent.running_normalization": False}
ADDED |= {"train.updates_per_iteration": None, "train.n_step": 1, "train.least_noise": 1.0}
ADDED |= {"train.most_noise": 1.0}
ADDED |= {"env.clip_actions": False, "agent.initialization": "pytorch", "agent.clip_error": False}
ADDED |= {"products": "auto"}
"""Settings that came later, and the values that leave a run's fingerprint as it was before them."""


def with_new_names(settings: Any) -> Any:
    """A whole configuration of an earlier version, nested, with the keys and targets of today."""
    if not isinstance(settings, dict):
        return settings
    return _of_today({SECTIONS.get(key, key): value for key, value in settings.items()})


def _of_today(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    named = {
        KEYS.get(key, key): TARGETS.get(value, value) if key == "_target_" else _of_today(value)
        for key, value in settings.items()
    }
    target = settings.get("_target_")
    if target in BACKENDS:
        named.setdefault("backend", BACKENDS[target])
    if target == "agents.iql.IQL":
        named.setdefault("initialization", "pytorch")  # before there was a choice
    return named


def with_old_names(flat: dict[str, Any]) -> dict[str, Any]:
    """Flat settings by the first name that each ever had, without those added later that say nothing new."""
    keys = {new: old for old, new in KEYS.items()}
    targets = {new: old for old, new in TARGETS.items()}
    named = {}
    for key, value in flat.items():
        if (key in ADDED and value == ADDED[key]) or (key.startswith("env.settings.") and value is None):
            continue
        head, dot, last = key.rpartition(".")
        named[head + dot + keys.get(last, last)] = targets.get(value, value) if last == "_target_" else value
    return named


def renamed(key: str) -> str | None:
    """Today's name of a dotted key; None where it never had another."""
    section, dot, rest = key.partition(".")
    if section in SECTIONS:
        return SECTIONS[section] + dot + (renamed(rest) or rest)
    head, dot, last = key.rpartition(".")
    return head + dot + KEYS[last] if last in KEYS else None
