"""A cell of a table: one run, and the figures that its folder holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig

from rlreg.config import seed_list
from rlreg.eval_table import read_evaluations
from rlreg.run_folder import RunFolder


@dataclass
class Cell:
    """One run of a table, and what its folder holds."""

    row: str
    column: str
    overrides: list[str]
    """The command line of the run, after `run.py`."""
    cfg: DictConfig
    folder: RunFolder

    @property
    def complete(self) -> bool:
        return self.folder.complete_for(self.cfg)

    def summary(self) -> dict[str, Any]:
        """The results of a complete run: `seeds`, `steps`, `diverged`, and each figure per seed."""
        return self.folder.results()

    def values(self, measure: str) -> np.ndarray:
        """(S,) of a complete run; NaN where a seed has no such figure. A longer run's are those of this length."""
        summary = self.summary()
        if summary["steps"] > self.cfg.train.total_steps:
            name = measure.removesuffix("_last_ten")
            _, values = self.evaluations(name)
            return values[1:][-10:].mean(axis=0) if name != measure else values[-1]
        found = summary[measure] if measure in summary else summary["final"].get(measure)
        return np.full(len(summary["seeds"]), np.nan) if found is None else np.array(found, float)

    def evaluations(self, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps (T,) and values (T, S) of the evaluations so far, up to the length asked for.

        NaN where a seed has none yet, or no such figure.
        """
        rows: list[dict[str, str]] = []
        if self.folder.eval_csv.exists():
            found = read_evaluations(self.folder.eval_csv)
            rows = [row for row in found if int(row["step"]) <= self.cfg.train.total_steps]
        steps = sorted({int(row["step"]) for row in rows})
        seeds = seed_list(self.cfg.seeds)
        values = np.full((len(steps), len(seeds)), np.nan)
        for row in rows:
            values[steps.index(int(row["step"])), seeds.index(int(row["seed"]))] = float(row.get(measure, "nan"))
        return np.array(steps), values

    def status(self) -> str:
        """What the table shows of a run that is not complete."""
        steps, values = self.evaluations("return")
        if not len(steps):
            return "not run"
        # Seeds that run one after another, as Stable-Baselines3's do, are at different steps.
        reached = np.where(np.isfinite(values), steps[:, None], 0).max(axis=0).mean()
        return f"at step {reached:,.0f} of {self.cfg.train.total_steps:,}"
