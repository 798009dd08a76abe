"""`mode=runs`: the runs that there are, and their seeds one by one for TensorBoard."""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rlreg.by_seed import write_seeds
from rlreg.config import seed_list
from rlreg.errors import UserError
from rlreg.eval_table import read_evaluations
from rlreg.naming import agent_name, read_config, run_folders
from rlreg.run_folder import RunFolder

COLUMNS = ("run", "env", "seeds", "steps", "return", "when", "folder")
IN_COLUMNS = ("seeds", "train.total_steps")


@dataclass
class Found:
    """One run."""

    cfg: DictConfig
    folder: Path
    steps: int
    """Of its last evaluation of every seed."""
    last_return: float
    """The mean over the seeds there."""
    written: float
    """When, in seconds since 1970."""
    complete: bool

    def row(self) -> tuple[str, ...]:
        differs = (self.cfg.get("differs") or {}).items()
        named = ", ".join(f"{k.rpartition('.')[2]}={v}" for k, v in differs if k not in IN_COLUMNS)
        total = self.cfg.train.total_steps
        return (
            agent_name(self.cfg) + (f" ({named})" if named else ""),
            self.cfg.env.name,
            str(len(seed_list(self.cfg.seeds))),
            f"{self.steps:,} of {total:,}" if self.steps < total or not self.complete else f"{self.steps:,}",
            "" if math.isnan(self.last_return) else f"{self.last_return:.4g}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(self.written)),
            str(self.folder),
        )


def find(root: Path) -> list[Found]:
    """Every run below `root`, the one written last first. What cannot be read is no run."""
    found = []
    for folder in run_folders(root):
        with suppress(OSError, UserError, ValueError, TypeError, OmegaConfBaseException):
            if (cfg := read_config(folder / "config.yaml")) is not None:
                run = _found(cfg, RunFolder(folder))
                run.row()
                found.append(run)
    return sorted(found, key=lambda run: -run.written)


def _found(cfg: DictConfig, folder: RunFolder) -> Found:
    returns: dict[int, list[float]] = defaultdict(list)
    if folder.eval_csv.exists():
        for row in read_evaluations(folder.eval_csv):
            returns[int(row["step"])].append(float(row.get("return", "nan")))
    seeds, total = len(seed_list(cfg.seeds)), int(cfg.train.total_steps)
    whole = [step for step, values in returns.items() if len(values) == seeds]
    steps = max(whole, default=0)
    mean = sum(returns[steps]) / seeds if whole else math.nan
    complete = folder.complete and folder.results()["steps"] >= total
    parts = (folder.config, folder.eval_csv, folder.summary)
    written = max(part.stat().st_mtime for part in parts if part.exists())
    return Found(cfg, folder.path, steps, mean, written, complete)


def run(cfg: DictConfig) -> None:
    """List the runs below `runs_root`, newest first; `agent=` and `env=` on the command line choose among them.

    With `out`, a folder, TensorBoard streams of their single seeds are written there, by `rlreg.by_seed`.
    """
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    given = {override.partition("=")[0] for override in typed}
    found = [
        run
        for run in find(Path(cfg.runs_root))
        if ("agent" not in given or run.cfg.agent.name == cfg.agent.name)
        and ("env" not in given or run.cfg.env.name == cfg.env.name)
    ]
    if not found:
        print(f"no such run below runs_root={cfg.runs_root}")
        return
    rows = [COLUMNS, *(run.row() for run in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if cfg.out:
        root, out, count = Path(cfg.runs_root), Path(cfg.out), 0
        for one in found:
            try:
                count += write_seeds(one.folder, out / one.folder.relative_to(root))
            except UserError as error:
                print(f"warning: {error}", file=sys.stderr, flush=True)
        print(f"{count} seeds of {len(found)} runs written; look at them by: tensorboard --logdir {out}")
