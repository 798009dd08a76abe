"""Runs as TensorBoard streams of single seeds, made of what their folders hold: a curve and a row of HParams for each.

A run itself has one stream, of means: with one for each seed a few runs would be more than TensorBoard's Custom
Scalars tab shows of its own accord. `python run.py mode=runs out=seeds` makes these for a closer look, of finished runs
and of unfinished ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from rlreg.config import seed_list
from rlreg.errors import UserError
from rlreg.eval_table import read_evaluations
from rlreg.logger import Logger
from rlreg.metrics import metric
from rlreg.naming import hparams_of, read_config
from rlreg.run_folder import RunFolder
from rlreg.task import Loop


def write_seeds(run: Path, target: Path) -> int:
    """Write `<target>/seed-<k>` for each seed of the run in the folder `run`; returns how many. Raises `UserError`."""
    cfg = RunFolder(run).read_config()
    seeds = seed_list(cfg.seeds)
    for seed in seeds:
        write_stream(run, target / f"seed-{seed}", (seed,))
    return len(seeds)


def write_stream(run: Path, target: Path, seeds: Sequence[int] | None = None) -> None:
    """Write what a run's `eval.csv` and `config.yaml` say as one event stream, of all its seeds or of some.

    One that lies there already is replaced. Raises `UserError`.
    """
    folder = RunFolder(run)
    cfg = read_config(folder.config)
    if cfg is None:
        raise UserError(f"{folder.config}: cannot be read")
    seeds = seed_list(cfg.seeds) if seeds is None else seeds
    rows = [row for row in read_evaluations(folder.eval_csv) if int(row["seed"]) in seeds]
    loop = loop_of(cfg, rows)
    try:
        for old in target.glob("events.out.tfevents.*"):
            old.unlink()
        logger = Logger(target, seeds, loop)
    except OSError as error:
        raise UserError(f"out={target}: cannot be written ({error.strerror})") from None
    settings = hparams_of(cfg)
    if len(seeds) == 1:
        settings = {name: value for name, value in settings.items() if name != "seeds"} | {"seed": seeds[0]}
    logger.hparams(settings)
    tags = {name: metric(name).tag for name in (rows[0] if rows else ()) if name not in ("step", "seed")}
    for step in sorted({int(row["step"]) for row in rows}):
        here = {int(row["seed"]): row for row in rows if int(row["step"]) == step}
        values = {
            tag: torch.tensor([float(here[seed][name]) if seed in here else math.nan for seed in seeds])
            for name, tag in tags.items()
            if tag
        }
        logger.scalars(step, values)
    if folder.complete:
        logger.hparams(settings, done=True)
    logger.close()


def loop_of(cfg: DictConfig, rows: Sequence[dict[str, str]]) -> Loop:
    """The kind of loop that a run's evaluations are of."""
    columns = rows[0] if rows else {}
    return Loop.CURRICULUM if "solved" in columns else Loop.OFFLINE if "score" in columns else Loop.ONLINE
