"""Does what a configuration says. Agents and environments come in through its `_target_`s."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from rlreg.buffers import Batch, DatasetBuffer
from rlreg.checkpoint import Checkpoints, copy_into
from rlreg.compilation import check_mode
from rlreg.config import Config, seed_list
from rlreg.errors import UserError
from rlreg.evaluation import evaluate
from rlreg.purpose import Purpose
from rlreg.run_folder import RunFolder
from rlreg.training.curriculum import CurriculumTraining, transfer
from rlreg.training.offline import OfflineTraining, Score, require_same_data
from rlreg.training.online import OnlineTraining


def run(cfg: DictConfig) -> None:
    """Check the whole configuration, then do what `mode` says. Raises `UserError`."""
    settings: Config = OmegaConf.to_object(cfg)
    seed_list(settings.seeds)
    check_device(settings.device)
    check_mode(settings.compile, torch.device(settings.device))
    if settings.threads:
        torch.set_num_threads(settings.threads)
    modes = {"train": train, "evaluate": evaluate_run, "export": export, "table": table}
    modes |= {"collect": collect, "levels": levels}
    modes[settings.mode](cfg)


def train(cfg: DictConfig) -> None:
    """Train, or go on with, the run of this configuration; a complete one is left as it is."""
    settings: Config = OmegaConf.to_object(cfg)
    seeds = seed_list(settings.seeds)
    agent = build_agent(cfg, seeds, settings.device)  # before the folder: a refused setting leaves none behind
    loop = _loop(cfg, agent)
    folder = RunFolder.of(cfg)
    folder.adopt(cfg)
    backends = _backends(cfg, loop)
    further = {} if folder.complete else _further(cfg, agent, loop)
    with folder.locked():
        folder.open(cfg)
        print(f"run folder: {folder.path}{backends}", flush=True)
        if folder.complete:
            check_data(cfg, folder)
            _drop_replay(folder, settings)
            if len(folder.results()["diverged"]) == len(seeds):  # of a version that took such a run for complete
                raise UserError(f"no seed is left that learns; see {folder.path}, and delete it to start anew")
            print("this run is complete; delete its folder to run it again")
            return

        def make_env(num_envs: int, purpose: Purpose, seeds: Sequence[int] = seeds) -> Any:
            return build_env(cfg, seeds, num_envs, purpose)

        results = loop(agent, make_env, settings.train, settings.eval, folder, settings.compile, **further).run()
        folder.finish(results)
        _drop_replay(folder, settings)
    for seed, final, last in zip(seeds, results["final"]["return"], results["return_last_ten"], strict=True):
        print(f"seed {seed}: return {final:.4g}, mean of the last ten evaluations {last:.4g}")
    if "score" in results["final"]:
        for seed, final, last in zip(seeds, results["final"]["score"], results["score_last_ten"], strict=True):
            print(f"seed {seed}: normalised score {final:.1f}, mean of the last ten evaluations {last:.1f}")


def _backends(cfg: DictConfig, loop: type) -> str:
    """What steps the worlds, in brackets; nothing for an environment that leaves no choice."""
    if (choose := _hook(cfg, "choose_backend")) is None:
        return ""
    used = {"evaluation by": cfg.eval.episodes}
    if issubclass(loop, OnlineTraining):
        used = {"worlds stepped by": cfg.train.num_envs} | used
    settings = _task(cfg) | {"backend": cfg.env.backend, "device": cfg.device}
    return f" ({', '.join(f'{what} {choose(**settings, num_envs=count)}' for what, count in used.items())})"


# What a loop needs of an environment, in words: what agents of that loop do, what such an environment is, and an
# example of each.
KINDS = {
    "worlds": ("learns online", "has continuous actions and no data", "env=gym/Hopper-v4", "agent=td3"),
    "dataset": ("learns from a dataset", "is a dataset", "env=d4rl/hopper-medium-v2", "agent=td3_bc"),
    "levels": ("learns from a curriculum of levels", "is a set of levels", "env=cave_escape", "agent=vae_dred"),
}


def _loop(cfg: DictConfig, agent: Any) -> type:
    """The loop that an agent names as its `Training`; the online one where it names none.

    Raises `UserError` for an environment of another kind than the loop needs.
    """
    loop = getattr(agent, "Training", OnlineTraining)
    kind = "dataset" if _hook(cfg, "dataset") else "levels" if _hook(cfg, "LEVELS") else "worlds"
    if loop.needs != kind:
        does, _, env, _ = KINDS[loop.needs]
        _, other, _, other_agent = KINDS[kind]
        raise UserError(
            f"agent={cfg.agent.name} {does}, and env={cfg.env.name} {other}; give an environment such as {env}, "
            f"or an agent such as {other_agent}"
        )
    return loop


def _further(cfg: DictConfig, agent: Any, loop: type) -> dict[str, Any]:
    """What a loop takes beside what every loop does. Raises `UserError` for what is of no use to the agent."""
    if issubclass(loop, OfflineTraining):
        return _data(cfg, agent)
    if issubclass(loop, CurriculumTraining):
        if cfg.compile not in ("auto", "eager"):
            raise UserError(f"compile={cfg.compile}: a recurrent student's updates run eagerly; give auto or eager")
        space = build_env(cfg, agent.seeds, 1, Purpose.TRAIN)
        agent.setup(space, cfg.train.total_steps)
        return {"space": space}
    return {}


def check_data(cfg: DictConfig, folder: RunFolder) -> None:
    """Raise `UserError` where a complete run learnt from a file of the user's that holds other data by now."""
    checksum = folder.results().get("dataset", {}).get("checksum")
    if checksum is None or not cfg.env.get("path"):
        return
    try:
        data = _dataset(cfg, (0,), "cpu")
    except UserError:
        return  # not there any more, or no dataset any more, which makes no result wrong
    require_same_data(data, checksum, folder)


def fetch_data(cfg: DictConfig) -> None:
    """Have the file that a run will learn from here, where it learns from one. Raises `UserError`."""
    if (fetch := _hook(cfg, "fetch")) is not None:
        fetch(**_task(cfg))


def _dataset(cfg: DictConfig, seeds: Sequence[int], device: torch.device | str) -> DatasetBuffer:
    found = _hook(cfg, "dataset")(**_task(cfg))
    return DatasetBuffer(seeds, Batch(*found.transitions), device, found.source, found.episodes.returns)


def _data(cfg: DictConfig, agent: Any) -> dict[str, Any]:
    """A dataset, and its score where it has one."""
    data = _dataset(cfg, agent.seeds, agent.device)
    sizes = agent.obs_dim, agent.action_dim
    for kind, size, right in zip(("observations", "actions"), data.widths[:2], sizes, strict=True):
        if size != right:
            raise UserError(
                f"dataset {data.source}: {kind} of {size} numbers, but those of env={cfg.env.name} have {right}"
            )
    return {"data": data, "score": task_score(cfg)}


def _drop_replay(folder: RunFolder, settings: Config) -> None:
    if not settings.train.keep_replay:
        shutil.rmtree(folder.replay, ignore_errors=True)


def evaluate_run(cfg: DictConfig) -> None:
    """Evaluate a run's checkpoint: `mode=evaluate run_dir=...`, `eval.episodes` episodes a seed.

    A curriculum's is evaluated once on each level of the run's sets; where the run's `env=` is given too, on what that
    one's `evaluate_on`, `evaluate_count` and `layouts` say. Training levels and time limit are always the run's.
    """
    folder = _given_run(cfg)
    run_cfg = folder.load_config()
    agent, step = load_agent(folder, cfg.device, cfg.checkpoint)
    if _loop(run_cfg, agent).needs == "levels":
        if cfg.env.name == run_cfg.env.name:
            for name in ("evaluate_on", "evaluate_count", "layouts"):
                run_cfg.env[name] = cfg.env[name]
        space = build_env(run_cfg, agent.seeds, 1, Purpose.EVALUATE, device=cfg.device)
        values = transfer(agent, space, step)
        what = "every level once"
    else:
        env = build_env(run_cfg, agent.seeds, cfg.eval.episodes, Purpose.EVALUATE, device=cfg.device)
        env.reset()
        values = evaluate(agent, env, env.state_dict(), agent.config.discount)
        if (score := task_score(run_cfg)) is not None:
            values["score"] = score(values["return"])
        env.close()
        what = f"{cfg.eval.episodes} episodes a seed"
    print(f"{folder.path} at step {step}, {what}")
    if "bad_steps" in values and not values["bad_steps"].any():
        del values["bad_steps"]
    for i, seed in enumerate(agent.seeds):
        print(f"seed {seed}: " + ", ".join(f"{name} {value[i]:.2f}" for name, value in values.items()))


def export(cfg: DictConfig) -> None:
    """Write a Stable-Baselines3 zip a seed into the run's folder: `mode=export run_dir=...`."""
    from rlreg.sb3 import export_zip

    folder = _given_run(cfg)
    for seed in seed_list(folder.load_config().seeds):
        print(export_zip(folder.path, seed, cfg.checkpoint))


def collect(cfg: DictConfig) -> None:
    """Write a dataset made from a run, or of other datasets: `mode=collect collect.kind=medium out=...`."""
    locate(cfg.collect._target_)(cfg)


def levels(cfg: DictConfig) -> None:
    """Build, look at or draw a set of levels, or generate wall layouts: `mode=levels levels.set=... levels.out=...`."""
    locate(cfg.levels._target_)(OmegaConf.to_object(cfg.levels))


def table(cfg: DictConfig) -> None:
    """Run what is missing of a table and print it: `mode=table table=...`."""
    from rlreg.tables import run_table

    if cfg.table is None:
        raise UserError("mode=table needs a table, as in table=beer_dmc")
    run_table(cfg)


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
        torch.cuda.set_device(device)  # streams and graphs are made on the current device


def build_env(
    cfg: DictConfig,
    seeds: Sequence[int],
    num_envs: int,
    purpose: Purpose,
    device: str | None = None,
    backend: str | None = None,
) -> Any:
    """The worlds of a configuration for one purpose; `backend` instead of its own, where it has one."""
    settings = _settings(cfg.env)
    if backend and "backend" in settings:
        settings["backend"] = backend
    make = locate(settings.pop("_target_"))
    settings.pop("name")
    return make(**settings, seeds=seeds, num_envs=num_envs, purpose=purpose, device=device or cfg.device)


def build_single(cfg: DictConfig, seed: int, render_mode: str | None = None) -> Any:
    """The task of a configuration as one `gymnasium.Env`: the `make_single` beside its `make`."""
    module = cfg.env._target_.rpartition(".")[0]
    return locate(f"{module}.make_single")(**_task(cfg), seed=seed, render_mode=render_mode)


def task_score(cfg: DictConfig) -> Score | None:
    """What normalises returns of a configuration's task: the `scorer` beside its `make`; None where there is none."""
    scorer = _hook(cfg, "scorer")
    return scorer and scorer(**_task(cfg))


def _hook(cfg: DictConfig, name: str) -> Any:
    """What goes by `name` beside an environment's `make`; None where there is no such thing."""
    locate(cfg.env._target_)  # a module that cannot be imported is a user's mistake
    return getattr(importlib.import_module(cfg.env._target_.rpartition(".")[0]), name, None)


def _task(cfg: DictConfig) -> dict[str, Any]:
    """An environment's settings that say which task it is, without those of the vector environment only."""
    not_task = ("_target_", "name", "workers", "backend", "spread", "deterministic", "nconmax", "njmax")
    return {k: v for k, v in _settings(cfg.env).items() if k not in not_task}


def build_agent(cfg: DictConfig, seeds: Sequence[int], device: str) -> Any:
    """The S learners of a configuration, sized by its environment."""
    probe = build_env(cfg, seeds[:1], 1, Purpose.EVALUATE, device="cpu", backend="auto")  # the quickest to be made
    obs_dim, action_dim = probe.obs_dim, probe.action_dim
    probe.close()
    settings = _settings(cfg.regularizer)
    regularizer = locate(settings.pop("_target_"))(**settings)
    agent = locate(cfg.agent._target_)
    schema = OmegaConf.structured(agent.Config)  # which nests dataclasses, and checks them
    config = OmegaConf.to_object(OmegaConf.merge(schema, _settings(cfg.agent)))
    return agent(config, regularizer, obs_dim, action_dim, seeds, device)


def load_agent(folder: RunFolder, device: str = "cpu", step: int | None = None) -> tuple[Any, int]:
    """The agent of a run's newest checkpoint (or that of `step`), and the checkpoint's step."""
    cfg = folder.load_config()
    found = Checkpoints(folder.checkpoints).load(step)
    if found is None:
        raise UserError(f"run_dir={folder.path}: no checkpoint yet")
    step, tensors, _ = found
    agent = build_agent(cfg, seed_list(cfg.seeds), device)
    held = {k.removeprefix("agent/"): v for k, v in tensors.items() if k.startswith("agent/")}
    copy_into(agent.state(), held, str(folder.checkpoints))
    return agent, step


def locate(target: str) -> Any:
    """The object that a `_target_` names, 'package.module.name'."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_={target} cannot be imported ({error})") from None


def _settings(node: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(node, resolve=True)


def _given_run(cfg: DictConfig) -> RunFolder:
    if not cfg.run_dir:
        raise UserError(f"mode={cfg.mode} needs run_dir=<the folder of a run>")
    return RunFolder.of(cfg)
