"""Which settings make a run what it is, what a run is called, and where the run of a configuration lies.

A run is the one of a configuration when their settings are equal, whatever its folder is called: names are for people.
What says only how long a run lasts and how often one looks at it is no part of what it is, so that it can be extended.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlreg.errors import UserError
from rlreg.files import read_text
from rlreg.old_names import with_new_names, with_old_names

LENGTH_AND_LOOKS = {"eval", "train.total_steps"}
"""How long a run lasts, and how it is evaluated: its folder and its table remember them, but they may change."""
LOOKS = {f"train.{name}" for name in ("log_every", "checkpoint_every", "keep_checkpoints", "keep_replay", "keep_best")}
LOOKS |= {"train.video_every"}
NOT_IDENTITY = {
    *("mode", "run_dir", "runs_root", "checkpoint", "table", "launcher", "threads", "trust"),
    *("collect", "mixture", "out", "level_set", "episodes", "history", "differs", "runs", "report", "dry"),
    "logger",
    *("train.updates_per_call", "train.max_bad_share", "env.workers"),
    *("regularizer.name", "agent.own_regularizer"),
    *LENGTH_AND_LOOKS,
    *LOOKS,
}
"""Settings, or whole groups of them, that may differ between the parts of one run."""
MAX_NAME = 60
"""Letters of what differs from the defaults in a folder's name."""


def flat_settings(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'agent': {'tau': 1}} -> {'agent.tau': 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flat_settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _flat(cfg: DictConfig) -> dict[str, Any]:
    return flat_settings(OmegaConf.to_container(cfg, resolve=True))


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The settings that decide what a run computes, flat, by dotted key."""
    return {k: v for k, v in _flat(cfg).items() if NOT_IDENTITY.isdisjoint((k, k.split(".")[0]))}


def _same(kept: dict[str, Any], asked: dict[str, Any], here: DictConfig) -> bool:
    """Whether a run with identity `kept` is the one that the configuration `here`, with identity `asked`, asks for."""
    if here.env.get("backend") == "auto":  # then the run goes on with what it has
        kept = {key: value for key, value in kept.items() if key != "env.backend"}
    return kept == asked


def agent_name(cfg: DictConfig) -> str:
    """`beer`, `td3`; `td3+beer` where the name lacks the regulariser, `beer-none`, `beer-dr3` where it has another."""
    own, used = cfg.agent.get("own_regularizer") or "none", regularizer_name(cfg)
    if used == own:
        return cfg.agent.name
    return f"{cfg.agent.name}{'+' if own == 'none' else '-'}{used}"


def regularizer_name(cfg: DictConfig) -> str:
    """Its setting `name`; where there is none, as in runs of earlier versions, its class's in small letters."""
    name = cfg.regularizer.get("name") or cfg.regularizer._target_.rpartition(".")[2].lower()
    return "none" if name == "regularizer" else name


def differences(cfg: DictConfig, choices: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a run that are not the defaults of its agent, regulariser and environment, by dotted key.

    To be called in Hydra's job, which knows what was chosen; elsewhere nothing is known to differ. A protocol is a
    choice of its own: `{'protocol': 'short'}`, and what it sets is no difference. `choices` of groups are those of a
    table's cell; by default they are the job's own.
    """
    if not (HydraConfig.initialized() and GlobalHydra.instance().is_initialized()):
        return {}
    choices = HydraConfig.get().runtime.choices if choices is None else choices
    named: dict[str, Any] = {}
    chosen = [f"{group}={choices[group]}" for group in ("agent", "env") if choices.get(group)]
    if (regularizer := choices.get("regularizer")) is not None:
        chosen.append(f"regularizer={regularizer}")
    protocol = choices.get("protocol")
    if protocol not in (None, "null", choices.get("env")):
        chosen.append(f"protocol={protocol}")
        named["protocol"] = protocol
    try:
        default = hydra.compose(HydraConfig.get().job.config_name, chosen)
    except (HydraException, OmegaConfBaseException, UserError):
        return {}  # a choice by another road, such as a table's
    for key in default.env:
        if OmegaConf.is_missing(default.env, key):  # such as the id of env=gym, which has no default to differ from
            default.env[key] = cfg.env[key]
    without = {"agent.name", "env.name", "agent._target_", "device", "compile", "products"}
    usual, here = _flat(default), _flat(cfg)
    for key in sorted(here):
        counts = NOT_IDENTITY.isdisjoint((key, key.split(".")[0])) or key == "train.total_steps"
        if counts and key not in without and here[key] != usual.get(key):
            named[key] = here[key]
    return named


def hparams_of(kept: DictConfig) -> dict[str, Any]:
    """What TensorBoard's HParams tab says of the run whose `config.yaml` is `kept`."""
    named = {
        "agent": kept.agent.name,
        "regularizer": regularizer_name(kept),
        "env": kept.env.name,
        "seeds": " ".join(map(str, kept.seeds)) if OmegaConf.is_list(kept.seeds) else f"0 .. {kept.seeds - 1}",
    }
    differs = OmegaConf.to_container(kept.differs) if "differs" in kept else {}
    return named | {key: value for key, value in differs.items() if key != "seeds"}


def folder_name(cfg: DictConfig, choices: Mapping[str, Any] | None = None) -> str:
    """`<agent>-<what differs from the defaults>-<short hash>`, such as `beer-seeds10-tau0.01-3fa2c1`."""
    words = [
        re.sub(r"[^\w.+-]+", "x", f"{key.rpartition('.')[2]}{_short(value)}").strip("x")
        for key, value in differences(cfg, choices).items()
        if key != "train.total_steps" and isinstance(value, str | int | float | list)
    ]
    kept: list[str] = []
    for word in words:
        if len("-".join([*kept, word])) > MAX_NAME:
            break
        kept.append(word)
    return "-".join([agent_name(cfg), *kept, fingerprint(cfg)])


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def fingerprint(cfg: DictConfig) -> str:
    """Six hexadecimal digits that tell runs of different settings apart."""
    return hashlib.sha256(json.dumps(with_old_names(identity(cfg)), sort_keys=True).encode()).hexdigest()[:6]


def run_folders(root: Path) -> Iterator[Path]:
    """Every folder below `root` with a `config.yaml` of a run, sorted. A run's own folders are not looked into."""
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            if (folder / "config.yaml").is_file():
                yield folder
                continue
            pending += sorted((path for path in folder.iterdir() if path.is_dir()), reverse=True)
        except OSError:
            continue


def read_config(path: Path) -> DictConfig | None:
    """What a run's `config.yaml` says, by today's names; None where it is none."""
    try:
        found = parse_config(read_text(path), path)
    except UserError:
        return None
    known = all(OmegaConf.is_dict(found.get(group)) for group in ("agent", "env", "train"))
    return found if known and "name" in found.agent and "name" in found.env else None


DEEPEST = 20
"""Levels of a configuration, one within another."""


def parse_config(text: str, origin: Path) -> DictConfig:
    """A run's `config.yaml`, by today's names. Raises `UserError` for what is none; `origin` is for errors.

    What looks something up (`${oc.env:HOME}`) is none either: a run writes values.
    """
    try:
        depth = 0
        # Before anything is built: some lines can stand for gigabytes.
        for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
                raise UserError(f"{origin}: cannot be read (no settings that a run writes)")
        found = OmegaConf.create(text)
        if not OmegaConf.is_dict(found) or not len(found):
            raise UserError(f"{origin}: cannot be read (no settings)")
        tree = with_new_names(OmegaConf.to_container(found))
        for key, value in flat_settings(tree).items():
            if "${" in str(value):
                raise UserError(f"{origin}: {key}={value} looks something up; a run's settings are plain values")
        return OmegaConf.create(tree)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{origin}: cannot be read ({reason}); repair or delete it") from None


def existing(cfg: DictConfig) -> Path | None:
    """The folder that has a configuration's run, under whatever name; None where none does.

    Where several have it, as earlier versions gave runs of each length a folder, it is the one of the length asked
    for, or else the longest of the shorter ones, which can be extended.
    """
    asked, own = with_old_names(identity(cfg)), fingerprint(cfg)
    found: list[tuple[tuple[bool, bool, int, bool], Path]] = []
    for folder in run_folders(Path(cfg.runs_root) / cfg.env.name):
        there, kept = _kept(folder / "config.yaml", (folder / "config.yaml").stat().st_mtime_ns)
        if there is not None and _same(kept, asked, cfg):
            steps, wanted = there.train.total_steps, cfg.train.total_steps
            rank = (steps == wanted, steps <= wanted, steps if steps <= wanted else -steps, folder.name.endswith(own))
            found.append((rank, folder))
    return max(found, key=lambda pair: pair[0])[1] if found else None


@lru_cache(maxsize=1000)
def _kept(path: Path, _changed: int) -> tuple[DictConfig | None, dict[str, Any]]:
    """A run's configuration and its identity by old names, read once by all the cells of a table that look for theirs.
    """
    there = read_config(path)
    return there, with_old_names(identity(there)) if there is not None else {}


def new_folder(cfg: DictConfig, choices: Mapping[str, Any] | None = None) -> Path:
    """The folder of a configuration whose run is nowhere. Its name takes the defaults' composition, 0.1 s."""
    return Path(cfg.runs_root) / cfg.env.name / folder_name(cfg, choices)


def latest(root: Path) -> Path:
    """The run below `root` that something was last written of. Raises `UserError` where there is none."""

    def written(folder: Path) -> float:
        parts = (folder / name for name in ("config.yaml", "eval.csv", "summary.json", "checkpoints"))
        return max(part.stat().st_mtime for part in parts if part.exists())

    found = [folder for folder in run_folders(root) if read_config(folder / "config.yaml") is not None]
    if not found:
        raise UserError(f"run_dir=latest: no run below runs_root={root}")
    return max(found, key=written)
