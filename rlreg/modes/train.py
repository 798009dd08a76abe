"""`mode=train`: train, or go on with, the run of a configuration."""

from __future__ import annotations

import shutil
import sys
from contextlib import closing, nullcontext, suppress
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlreg.build import build_agent, build_task
from rlreg.checkpoint import Checkpoints, Damaged
from rlreg.config import Config, seed_list
from rlreg.errors import UserError
from rlreg.eval_table import evaluations_text, read_evaluations
from rlreg.files import read_text, write_atomic
from rlreg.run_folder import RunFolder
from rlreg.task import Loop, Task
from rlreg.training.offline import require_same_data
from rlreg.wandb_sync import wandb_sync


def run(cfg: DictConfig) -> None:
    """Train the run of this configuration; a complete one is left as it is. Raises `UserError`."""
    settings: Config = OmegaConf.to_object(cfg)
    seeds = seed_list(settings.seeds)
    folder = RunFolder.of(cfg)
    folder.adopt(cfg)
    # Whatever a setting can be refused by comes before the folder is made, so that a refused run leaves none behind.
    task = build_task(cfg)
    agent = build_agent(cfg, task, seeds, settings.device)
    follow = wandb_sync(folder) if settings.logger == "wandb" else nullcontext()
    where = f"run folder: {folder.path}{_backends(task, settings)}"
    if not folder.complete_for(cfg):
        with closing(agent.Training.of(agent, task, settings, folder)) as loop, folder.locked():
            if not folder.complete_for(cfg):  # which another process that was waited for may have seen to
                folder.open(cfg, Checkpoints(folder.checkpoints).steps()[-1:])
                print(where, flush=True)
                loop.task = task
                with follow:
                    _train(loop, settings, folder)
                return
    with folder.locked():
        folder.open(cfg)
        print(where, flush=True)
        _leave(cfg, settings, folder)


def _train(loop: Any, settings: Config, folder: RunFolder) -> None:
    """Begin the run in the folder, or go on with it, to its end."""
    if problem := folder.problem_with_results():
        print(f"warning: {problem}; written again at the run's end", file=sys.stderr, flush=True)
    results = loop.run()
    folder.finish(results)
    _drop_replay(folder, settings)
    _print(results)


def _leave(cfg: DictConfig, settings: Config, folder: RunFolder) -> None:
    """Look after a complete run, and say that it is one."""
    repair_evaluations(folder)
    check_data(cfg, folder)
    _drop_replay(folder, settings)
    results = folder.results()
    if len(results["diverged"]) == len(results["seeds"]):  # of a version that took such a run for complete
        raise UserError(f"no seed is left that learns; see {folder.path}, and delete it to start anew")
    print(
        f"this run is complete at step {results['steps']}; a larger train.total_steps extends it, "
        "and without its folder it would run again"
    )


def repair_evaluations(folder: RunFolder) -> None:
    """Write a complete run's `eval.csv` again where it is not what its last checkpoint holds, and say so.

    Raises `UserError` where it is damaged, and there is no such checkpoint.
    """
    checkpoints, held = Checkpoints(folder.checkpoints), None
    with suppress(Damaged):
        held = next((checkpoints.info(step).get("evaluations") for step in checkpoints.steps()[-1:]), None)
    problem = None
    try:
        read_evaluations(folder.eval_csv)
        if held and read_text(folder.eval_csv) != evaluations_text(held):
            problem = f"{folder.eval_csv}: not as it was written"
    except UserError as error:
        if not held:
            raise
        problem = str(error)
    if problem:
        write_atomic(folder.eval_csv, evaluations_text(held))
        print(f"warning: {problem}; written again from the checkpoint", file=sys.stderr, flush=True)


def check_data(cfg: DictConfig, folder: RunFolder) -> None:
    """Raise `UserError` where a complete run learnt from a file of the user's that holds other data by now."""
    checksum = folder.results().get("dataset", {}).get("checksum")
    if checksum is None or not cfg.env.get("path"):
        return
    try:
        data = build_task(cfg).dataset((0,))
    except UserError:
        return  # not there any more, or no dataset any more, which makes no result wrong
    require_same_data(data, checksum, folder)


def _backends(task: Task, settings: Config) -> str:
    """What steps the worlds, in brackets; nothing for a task that leaves no choice."""
    used = {"evaluation by": settings.eval.episodes}
    if task.loop is Loop.ONLINE:
        used = {"worlds stepped by": settings.train.num_envs} | used
    found = {what: task.backend(count, settings.device) for what, count in used.items()}
    return f" ({', '.join(f'{what} {name}' for what, name in found.items())})" if all(found.values()) else ""


def _drop_replay(folder: RunFolder, settings: Config) -> None:
    if not settings.train.keep_replay:
        shutil.rmtree(folder.replay, ignore_errors=True)


def _print(results: dict[str, Any]) -> None:
    seeds, final = results["seeds"], results["final"]
    for seed, last, mean in zip(seeds, final["return"], results["return_last_ten"], strict=True):
        print(f"seed {seed}: return {last:.4g}, mean of the last ten evaluations {mean:.4g}")
    if "score" in final:
        for seed, last, mean in zip(seeds, final["score"], results["score_last_ten"], strict=True):
            print(f"seed {seed}: normalised score {last:.1f}, mean of the last ten evaluations {mean:.1f}")
