"""What the package knows: the constructors that a configuration may name, by group, found where they are registered.

A configuration that was read from a file is data: it may only choose among these (`checked`). What a user types, or
has in YAML of their own, may name anything that Python can import.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlreg.config import CONFIGS, Config, register_schemas, seed_list
from rlreg.errors import UserError, unknown
from rlreg.explain import explain
from rlreg.schemas import Schema

PACKAGES = ("agents", "envs.registry")
"""What comes with rlreg: modules that make known what they have by `register_schemas()`; imported by name alone."""
CONSTRUCTED = ("agent", "regularizer", "env")
"""The groups of a run's configuration whose `_target_` is called."""
KEPT = (*CONSTRUCTED, "train", "eval", "seeds", "device", "compile", "products")
"""What is taken of a run's configuration: all that says what the run computes."""


@cache
def register() -> None:
    """Make every schema known to Hydra, once: rlreg's own, the agents', the environments', and those of packages that
    are installed with an entry point of the group `rlreg`."""
    register_schemas()
    for package in (*PACKAGES, *(entry.module for entry in entry_points(group="rlreg"))):
        importlib.import_module(package).register_schemas()
    # Hydra copies its sources for each composition, and with them all that is stored here, some 400 schemas: 150 ms, of
    # 250 in all. What it takes out of the store it copies by itself.
    store = ConfigStore.instance()
    store.__deepcopy__ = lambda memo: store


def known(group: str) -> dict[str, type | None]:
    """The `_target_`s of a group with their schemas: those registered with Hydra, and of the package's own YAML."""
    found: dict[str, type | None] = {}
    for path in (CONFIGS / group).rglob("*.yaml"):
        if target := re.search(r"^_target_: *(\S+)", path.read_text(), re.M):
            found[target.group(1)] = None
    for node in _nodes(ConfigStore.instance().repo.get(group, {})):
        if isinstance(node, Schema):
            target, kind = getattr(node.kind, "_target_", None), node.kind
        else:
            target, kind = OmegaConf.to_container(node.node).get("_target_"), OmegaConf.get_type(node.node)
        if target:
            found[target] = kind
    return found


def _nodes(tree: dict[str, Any] | ConfigNode) -> Iterator[ConfigNode]:
    if isinstance(tree, ConfigNode):
        yield tree
    else:
        for branch in tree.values():
            yield from _nodes(branch)


def checked(cfg: DictConfig, origin: str | Path, trust: bool = False) -> DictConfig:
    """The run's configuration that was read from `origin`, complete and of the right types, or `UserError`.

    Unless the user trusts it, it can name nothing to import or to call. What looks something up is no configuration of
    a run; see `rlreg.naming.parse_config`.
    """
    register()
    if not trust:
        _refuse_code(cfg, origin)
    read = OmegaConf.masked_copy(cfg, [key for key in KEPT if key in cfg])
    for group in CONSTRUCTED:
        if group not in cfg or not OmegaConf.is_dict(cfg[group]) or "_target_" not in cfg[group]:
            raise UserError(f"{origin}: {group}._target_ is missing; give the folder of a run")
    try:
        whole = OmegaConf.merge(OmegaConf.structured(Config), read)
        for group in CONSTRUCTED:
            if schema := known(group).get(cfg[group]._target_):
                whole[group] = OmegaConf.merge(OmegaConf.structured(schema), read[group])
                OmegaConf.to_object(whole[group])
        OmegaConf.to_object(whole.train), OmegaConf.to_object(whole.eval), seed_list(whole.seeds)
    except (UserError, OmegaConfBaseException) as error:
        raise UserError(f"{origin}: {explain(error)}") from None
    return whole


def _refuse_code(cfg: DictConfig, origin: str | Path) -> None:
    """Raise `UserError` where a configuration names code that is not the package's."""
    advice = "a file's settings only choose among what rlreg knows; where you trust this one, give trust=true"
    for key, value in _leaves(cfg):
        group, _, last = key.partition(".")
        if group not in CONSTRUCTED:
            continue
        if last == "_target_":
            names = known(group)
            if value not in names:
                raise UserError(f"{origin}: {unknown(f'{group}._target_', str(value), names)}; {advice}")
        elif key.endswith("._target_"):
            raise UserError(f"{origin}: {key}={value} names code; {advice}")
    if OmegaConf.is_dict(cfg.get("env")) and isinstance(target := cfg.env.get("_target_"), str):
        module, _, name = target.rpartition(".")
        task = getattr(importlib.import_module(module), name)  # one that is known
        if code := task.names_code(OmegaConf.to_container(cfg.env)):
            raise UserError(f"{origin}: env.{code} names code; {advice}")


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and raw values, interpolations as they are written; those in lists too."""
    pairs: Any = ()
    if OmegaConf.is_dict(node):
        pairs = ((str(key), node._get_node(key)) for key in node)
    elif OmegaConf.is_list(node):
        pairs = ((str(i), node._get_node(i)) for i in range(len(node)))
    else:
        yield prefix, node._value()
        return
    for key, child in pairs:
        yield from _leaves(child, f"{prefix}.{key}" if prefix else key)
