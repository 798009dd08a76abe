"""Schemas that Hydra knows by name, each built when it is chosen: OmegaConf takes milliseconds for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, OmegaConf


class Schema(ConfigNode):
    """What Hydra's ConfigStore holds of a choice; its `node` is made on first use."""

    def __init__(self, name: str, group: str, package: str | None, kind: type, make: Callable[[], Any]) -> None:
        self.kind = kind
        """The dataclass of its settings."""
        self._make = make
        super().__init__(name=name, node=None, group=group, package=package, provider=None)

    @property
    def node(self) -> DictConfig:
        if self._node is None:
            self._node = OmegaConf.structured(self._make())
        return self._node

    @node.setter
    def node(self, node: DictConfig | None) -> None:
        self._node = node


def store(
    group: str, name: str, kind: type, make: Callable[[], Any] | None = None, package: str | None = None
) -> None:
    """As `ConfigStore.store`, for a dataclass, or for the instance of it that `make` returns."""
    branch = ConfigStore.instance().repo
    for part in group.split("/"):
        branch = branch.setdefault(part, {})
    name = f"{name}.yaml"
    branch[name] = Schema(name, group, package, kind, make or (lambda: kind))
