"""What `python run.py --describe agent=... env=...` prints: every setting of a composition, as its schema has it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlreg.build import locate
from rlreg.typed import unused_settings

NOT_TOLD = ("_target_", "name")
WIDTH = 100


def describe(cfg: DictConfig, sections: tuple[str, ...]) -> str:
    """The settings of a composition, section by section: value, what it means, and the schema's default if another.

    Those of `train` that the agent's loop does not look at are left out.
    """
    unused = unused_settings(cfg)
    lines: list[str] = []
    for name in sections:
        node = cfg if name == "" else cfg.get(name)
        if not isinstance(node, DictConfig):
            continue
        lines += ["", f"== {name or 'the runner'}" + (f": {said}" if (said := _about(name, node)) else "")]
        lines += _settings(node, f"{name}." if name else "", unused, nested=bool(name))
    return "\n".join(lines).strip() + "\n"


def _about(name: str, node: DictConfig) -> str:
    """What stands behind a section: the class that it configures, and the module's first sentence, which cites the
    paper."""
    target = node.get("_target_") if name else None
    if not target:
        return ""
    module = inspect.getmodule(locate(target))
    sentence = " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split())
    return f"{node.get('name') or target}. {sentence}"


def _settings(node: DictConfig, prefix: str, unused: set[str], nested: bool) -> Iterator[str]:
    schema = OmegaConf.get_type(node)
    docs, defaults = (field_docs(schema), _defaults(schema)) if is_dataclass(schema) else ({}, {})
    for key in node:
        if key in NOT_TOLD or f"{prefix}{key}" in unused or OmegaConf.is_missing(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig):
            if nested:
                yield from _settings(value, f"{prefix}{key}.", unused, nested)
            continue
        shown = f"{prefix}{key}={OmegaConf.to_container(value) if OmegaConf.is_list(value) else value}"
        plain = OmegaConf.to_container(value) if OmegaConf.is_list(value) else value
        other = f" (schema's default: {defaults[key]})" if key in defaults and defaults[key] != plain else ""
        yield shown.replace("None", "null") + other
        if text := docs.get(str(key)):
            yield textwrap.indent(textwrap.fill(text, WIDTH - 4), "    ")


def _defaults(schema: type) -> dict[str, Any]:
    found = {}
    for field in fields(schema):
        if field.default is not MISSING:
            found[field.name] = field.default
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
    return {key: value for key, value in found.items() if not is_dataclass(value) and value != "???"}


def field_docs(schema: type) -> dict[str, str]:
    """The string below each field of a dataclass, its bases' too."""
    docs: dict[str, str] = {}
    for cls in reversed(schema.__mro__):
        if not is_dataclass(cls):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
        for statement, following in pairwise(body):
            is_field = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
            if is_field and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs
