"""What a user typed is what happens: numbers as people write them, keys that exist, no settings that contradict."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass

from omegaconf import DictConfig, OmegaConf

from rlreg.build import locate
from rlreg.config import Config
from rlreg.errors import UserError

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


def check_typed(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Raise `UserError` for keys added by `+` that mean nothing, and for settings that contradict each other."""
    keys = [override.split("=")[0] for override in overrides]
    for key in keys:
        if key.startswith("+"):
            _require_key(cfg, key.lstrip("+"))
    chosen = {key.lstrip("+~").split(".")[0].split("@")[0] for key in keys}
    for key, mode in (("table", "table"), ("dry", "table"), ("runs", "report")):
        if key in chosen and cfg.mode != mode:
            raise UserError(f"{key}=... belongs to mode={mode}, not to mode={cfg.mode}; give mode={mode}")
    if cfg.mode == "train":
        _require_of_use(cfg, keys)
    if cfg.mode in ("evaluate", "export", "video") and cfg.run_dir:
        # What a curriculum is evaluated on may be given with the run's own `env=`.
        _require_the_runs_own(cfg, chosen)


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
            close = difflib.get_close_matches(part, valid, n=1, cutoff=0.5)
            hint = f"; did you mean '{walked}{close[0]}'?" if close else ""
            raise UserError(f"unknown key '{walked}{part}'{hint} (valid: {', '.join(sorted(valid))})")
        node, walked = OmegaConf.select(node, part), f"{walked}{part}."
        if not OmegaConf.is_dict(node):
            return


def _require_the_runs_own(cfg: DictConfig, chosen: set[str]) -> None:
    from rlreg.run_folder import RunFolder  # here: it reads what this module checks

    kept = RunFolder.given(cfg).read_config()
    for group in sorted(chosen.intersection(OF_A_RUN)):
        given, there = OmegaConf.select(cfg, group), OmegaConf.select(kept, group)
        if group == "seeds":
            same = given == there
        else:
            same = OmegaConf.select(given, "name") == OmegaConf.select(there, "name")
            same = same and OmegaConf.select(given, "_target_") == OmegaConf.select(there, "_target_")
            given, there = (_called(node) for node in (given, there))
        if not same:
            raise UserError(
                f"{group}={given}: mode={cfg.mode} takes the run's own, which is {group}={there}; leave {group}= out"
            )


def _called(node: DictConfig) -> str:
    return OmegaConf.select(node, "name") or OmegaConf.select(node, "_target_")
