"""Construction from a configuration: the task, the regulariser and the agent that its `_target_`s name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf

from rlreg.agent import Agent
from rlreg.checkpoint import Checkpoints, copy_into
from rlreg.config import seed_list
from rlreg.errors import UserError, require
from rlreg.regularizers import Regularizer
from rlreg.run_folder import RunFolder
from rlreg.task import Task, require_loop

T = TypeVar("T")


def locate(target: str) -> Any:
    """The object that a `_target_` names, 'package.module.name'.

    This imports what it is told to. A configuration that comes from a file has passed `rlreg.registry.check` before.
    """
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_={target} cannot be imported ({error})") from None


def build_task(cfg: DictConfig) -> Task:
    """The task of a configuration. Raises `UserError`."""
    settings = _settings(cfg.env)
    del settings["_target_"]
    name, kind = settings.pop("name"), _class(cfg, "env", Task)
    task = kind(**_accepted("env", kind, settings))
    task.name = name
    return task


def build_agent(cfg: DictConfig, task: Task, seeds: Sequence[int], device: str) -> Agent:
    """The S learners of a configuration, sized by its task. Raises `UserError`."""
    kind = _class(cfg, "agent", Agent)
    require_loop(cfg.agent.name, kind.Training.loop, task)
    regularizer = _described(cfg.regularizer, _class(cfg, "regularizer", Regularizer))
    return kind.for_env(_described(cfg.agent, kind.Config), regularizer, task.probe(), seeds, device)


def load_agent(
    folder: RunFolder, device: str = "cpu", step: int | str | None = None, trust: bool = False
) -> tuple[Agent, int]:
    """The agent of a run's newest checkpoint, or of that of `step`, 'best' or 'last', and the checkpoint's step.

    `trust` as in `RunFolder.load_config`. Raises `UserError`.
    """
    cfg = folder.load_config(trust)
    checkpoints, best = Checkpoints(folder.checkpoints), Checkpoints(folder.best)
    number = checkpoint_step(folder, step)
    if step in (None, "last"):
        found = checkpoints.newest_whole()
    else:
        of_best = step == "best" or (number in best.steps() and number not in checkpoints.steps())
        found = (best if of_best else checkpoints).load(number)
    if found is None:
        raise UserError(f"run_dir={folder.path}: no checkpoint yet")
    step, tensors, _ = found
    agent = build_agent(cfg, build_task(cfg), seed_list(cfg.seeds), device)
    held = {k.removeprefix("agent/"): v for k, v in tensors.items() if k.startswith("agent/")}
    copy_into(agent.state(), held, str(folder.checkpoints))
    return agent, step


def checkpoint_step(folder: RunFolder, checkpoint: int | str | None) -> int | None:
    """The step that `checkpoint=` means: `best`, `last` (None too) or a step; None where there is no last one yet.

    Raises `UserError` for anything else, and where no best one was kept.
    """
    if checkpoint in (None, "last"):
        return next(iter(Checkpoints(folder.checkpoints).steps()[-1:]), None)
    if checkpoint == "best":
        kept = Checkpoints(folder.best).steps()
        if not kept:
            raise UserError(f"run_dir={folder.path}: checkpoint=best is kept by runs with train.keep_best=true only")
        return kept[-1]
    valid = isinstance(checkpoint, int) and not isinstance(checkpoint, bool)
    require(valid, "checkpoint", checkpoint, "last, best or the step of a checkpoint")
    return checkpoint


def check_device(device: str) -> None:
    """Make a device the current one. Raises `UserError` for one that is not there."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = None
    if kind not in ("cpu", "cuda"):
        raise UserError(f"device={device} is not valid; give cpu, cuda or cuda:<index>")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device}: torch finds no CUDA device here; give device=cpu")
    if kind == "cuda" and (torch.device(device).index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if kind == "cuda":
        torch.cuda.set_device(torch.device(device).index or 0)  # streams and graphs are made on the current device


def _class(cfg: DictConfig, group: str, base: type[T]) -> type[T]:
    """The class that a group's `_target_` names. Raises `UserError` for one of another kind."""
    kind = locate(cfg[group]._target_)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise UserError(f"{group}._target_={cfg[group]._target_} is not a {base.__module__}.{base.__name__}")
    return kind


def _described(node: DictConfig, schema: type[T]) -> T:
    """Settings as the dataclass that describes them, nested ones too, which checks them."""
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), _settings(node)))


def _settings(node: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(node, resolve=True)


def _accepted(group: str, kind: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, once `kind` is known to take them. Raises `UserError` for one too many or too few."""
    try:
        inspect.signature(kind).bind(**settings)
    except TypeError as error:
        raise UserError(f"{group}: {kind.__name__} takes other settings ({error})") from None
    return settings
