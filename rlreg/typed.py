"""What a user typed is what happens: numbers as people write them, keys that exist, no settings that contradict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass

from omegaconf import DictConfig, OmegaConf

from rlreg.build import locate
from rlreg.config import CONFIGS, Config
from rlreg.errors import UserError
from rlreg.explain import unknown_key

_NUMBERS = re.compile(r"[\d\s,.\[\]eE+_-]+")
_WHOLE = re.compile(r"(?<![\w.])(\d+)(?:\.(\d+))?[eE]\+?(\d+)(?![\w.])")
OF_A_RUN = ("agent", "env", "regularizer", "seeds")
"""Settings that a run folder has, and that `run_dir=` therefore decides."""


def as_hydra_reads(argument: str) -> str:
    """An argument of the command line with whole numbers as Hydra reads them: `1e6` is `1000000`, `hidden=256` `[256]`.

    Anything else is returned as it is.
    """
    key, equals, value = argument.partition("=")
    if not equals or not _NUMBERS.fullmatch(value):
        return argument
    value = _WHOLE.sub(_digits, value)
    if key.rpartition(".")[2] == "hidden" and value.strip().isdecimal():
        value = f"[{value.strip()}]"
    return f"{key}={value}"


def _digits(number: re.Match) -> str:
    """`1.5e3` -> `1500`; what is no whole number, or none that anybody means, stays."""
    whole, fraction, exponent = number.group(1), (number.group(2) or "").rstrip("0"), int(number.group(3))
    if len(fraction) > exponent or exponent > 18:
        return number.group(0)
    return str(int(whole + fraction.ljust(exponent, "0")))


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise `UserError` for arguments that Hydra cannot make sense of, or takes for something else, before it tries."""
    groups = {argument.partition("=")[0].lstrip("+") for argument in arguments if "=" in argument}
    for argument in arguments:
        key, _, value = argument.partition("=")
        name = key.lstrip("+~")
        top = name.partition(".")[0]
        if key.startswith("~") and name in NEEDED:
            raise UserError(f"{argument}: a run needs its {name}; to change it give {name}.<setting>=<value>")
        if top in OPTIONAL and top not in groups and (name != top or value.startswith("{")):
            there = ", ".join(sorted(path.stem for path in (CONFIGS / top).glob("*.yaml")))
            raise UserError(f"{argument}: which {top}? give {top}=<one of {there}> too, whose settings it changes")
        if name in CHOSEN and value.startswith("{"):
            raise UserError(f"{argument}: give {name}=<a choice by its name>, and its settings by {name}.<setting>=")


OPTIONAL = ("table", "mixture")
"""Groups of which nothing is chosen by default."""
CHOSEN = (*OF_A_RUN[:3], *OPTIONAL, "collect", "launcher", "level_set")
"""Groups whose choices have names."""
NEEDED = ("agent", "env", "regularizer", "train", "eval", "seeds", "collect", "launcher", "level_set")
"""What cannot be taken out of a configuration."""
BELONG = {
    "table": ("table",),
    "dry": ("table",),
    "runs": ("report",),
    "launcher": ("table",),
    "mixture": ("collect",),
    "collect": ("collect",),
    "level_set": ("level_set",),
    "episodes": ("video",),
    "out": ("collect", "video", "report", "runs"),
    "checkpoint": ("evaluate", "export", "video", "collect"),
    "run_dir": ("train", "evaluate", "export", "video", "collect", "table"),  # which says what to give instead
}
"""Settings that mean something in some modes only."""
USE_A_RUN = ("evaluate", "export", "video", "collect")
"""Modes that work on the run of `run_dir=`."""


def check_typed(cfg: DictConfig, overrides: Sequence[str], sweep: bool = False) -> None:
    """Raise `UserError` for keys added by `+` that mean nothing, and for settings that contradict each other."""
    typed = [override.partition("=")[0] for override in overrides]
    for key in typed:
        if key.startswith("+"):
            _require_key(cfg, key.lstrip("+"))
    keys = [key.lstrip("+~").split("@")[0] for key in typed]
    for key in keys:
        modes = BELONG.get(key.split(".")[0])
        if modes and cfg.mode not in modes and not (sweep and key.startswith("launcher")):
            belongs = " or ".join(f"mode={mode}" for mode in modes)
            raise UserError(f"{key}=... belongs to {belongs}, not to mode={cfg.mode}; leave it out")
    if cfg.mode == "train":
        _require_of_use(cfg, keys)
    if cfg.mode in USE_A_RUN and cfg.run_dir:
        _require_the_runs_own(cfg, keys)


def unused_settings(cfg: DictConfig) -> set[str]:
    """The settings of `train` that mean nothing to the agent's loop, by dotted key."""
    return {f"train.{name}" for name in locate(cfg.agent._target_).Training.unused}


def _require_of_use(cfg: DictConfig, keys: Sequence[str]) -> None:
    """Raise `UserError` for settings that the agent's loop would not look at."""
    for key in keys:
        if key in unused_settings(cfg):
            loop = locate(cfg.agent._target_).Training.loop
            raise UserError(f"{key} means nothing to agent={cfg.agent.name}, which {loop.agent_does}; leave it out")


def _require_key(cfg: DictConfig, key: str) -> None:
    """Raise `UserError` where a schema on the way to `key` does not have it."""
    node, walked = cfg, ""
    for part in key.split("@")[0].replace("/", ".").split("."):
        schema = Config if node is cfg else OmegaConf.get_type(node)
        if not is_dataclass(schema):
            return  # somebody's own, without a schema: whatever it is built by has a say
        valid = [field.name for field in fields(schema) if not field.name.startswith("_")]
        if part not in valid and not (node is cfg and part == "hydra"):
            raise unknown_key(f"{walked}{part}", valid)
        node, walked = OmegaConf.select(node, part), f"{walked}{part}."
        if not OmegaConf.is_dict(node):
            return


def _require_the_runs_own(cfg: DictConfig, keys: Sequence[str]) -> None:
    """Raise `UserError` for settings of a run, typed where the run in `run_dir` has its own, and another value."""
    from rlreg.run_folder import RunFolder  # here: it reads what this module checks

    kept = RunFolder.given(cfg).read_config()
    # What a curriculum is evaluated on may be given with the run's own `env=`.
    free = getattr(locate(cfg.env._target_), "measured_on", ()) if cfg.mode == "evaluate" and "env" in keys else ()
    for key in keys:
        group, _, rest = key.partition(".")
        if group not in (*OF_A_RUN, "train") or rest in free:
            continue
        given, there = OmegaConf.select(cfg, key), OmegaConf.select(kept, key)
        if key in CHOSEN:
            same = all(OmegaConf.select(given, part) == OmegaConf.select(there, part) for part in ("name", "_target_"))
            given, there = (_called(node) for node in (given, there))
        else:
            same = given == there
        if not same:
            raise UserError(
                f"{key}={given}: mode={cfg.mode} takes the run's own, which is {key}={there}; leave {key}= out"
            )


def _called(node: DictConfig | None) -> str | None:
    return OmegaConf.select(node, "name") or OmegaConf.select(node, "_target_") if node is not None else None
