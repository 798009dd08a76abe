"""A cell of a table: one run, and the figures that its folder holds."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from rlreg.config import seed_list
from rlreg.errors import UserError
from rlreg.eval_table import read_evaluations
from rlreg.naming import flat_settings
from rlreg.run_folder import RunFolder
from rlreg.run_times import read_times

SETTINGS = ("seeds", "device", "compile", "products", "threads", "agent", "regularizer", "env", "train", "eval")
"""The parts of a configuration that say what a run is and how it is looked at."""


@lru_cache(maxsize=1024)
def _read(path: Path, written: int, size: int) -> list[dict[str, str]]:
    """A file's evaluations, read once for all that is told of them while it stays as it is."""
    return read_evaluations(path)


@dataclass
class Cell:
    """One run of a table, and what its folder holds."""

    row: str
    column: str
    overrides: list[str]
    """The command line of the run, after `run.py`; empty where it is not known."""
    cfg: DictConfig
    folder: RunFolder

    @property
    def complete(self) -> bool:
        return self.folder.complete_for(self.cfg)

    @property
    def seeds(self) -> tuple[int, ...]:
        return seed_list(self.cfg.seeds)

    @property
    def folders(self) -> list[RunFolder]:
        """Where its figures are from."""
        return [self.folder]

    def summary(self) -> dict[str, Any]:
        """The results of a complete run: `seeds`, `steps`, `diverged`, and each figure per seed."""
        return self.folder.results()

    def values(self, measure: str) -> np.ndarray:
        """(S,) of a complete run; NaN where a seed has no such figure. A longer run's are those of this length."""
        summary = self.summary()
        if summary["steps"] >= self._end:
            name = measure.removesuffix("_last_ten")
            _, values = self.evaluations(name)
            return values[1:][-10:].mean(axis=0) if name != measure else values[-1]
        found = summary[measure] if measure in summary else summary["final"].get(measure)
        if found is None:
            return np.full(len(summary["seeds"]), np.nan)
        try:
            return np.array(found, float).reshape(len(summary["seeds"]))
        except (TypeError, ValueError):
            raise UserError(f"{self.folder.summary}: {measure} is no number for each seed") from None

    def evaluations(self, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps (T,) and values (T, S) of the evaluations so far, up to the length asked for.

        NaN where a seed has none yet, or no such figure.
        """
        rows = self._evaluations()
        steps = sorted({int(row["step"]) for row in rows})
        seeds = seed_list(self.cfg.seeds)
        values = np.full((len(steps), len(seeds)), np.nan)
        places = {step: i for i, step in enumerate(steps)}
        for row in rows:
            if int(row["seed"]) not in seeds:
                raise UserError(f"{self.folder.eval_csv}: seed {row['seed']}, which its run does not have")
            values[places[int(row["step"])], seeds.index(int(row["seed"]))] = float(row.get(measure, "nan"))
        return np.array(steps), values

    def _evaluations(self) -> list[dict[str, str]]:
        if not self.folder.begun or not self.folder.eval_csv.exists():
            return []
        path = self.folder.eval_csv
        found = _read(path, path.stat().st_mtime_ns, path.stat().st_size)
        return [row for row in found if int(row["step"]) < self._end]

    def measures(self) -> list[str]:
        """The columns of its evaluations."""
        rows = self._evaluations()
        return [name for name in (rows[0] if rows else {}) if name not in ("step", "seed")]

    def reached(self) -> int:
        """How many steps it has made, by its evaluations: of seeds that run one after another, on average."""
        steps, values = self.evaluations("return")
        # Seeds that run one after another, as Stable-Baselines3's do, are at different steps.
        return round(np.where(np.isfinite(values), steps[:, None], 0).max(axis=0).mean()) if len(steps) else 0

    @property
    def _end(self) -> int:
        """The first step beyond this length: a run ends with the iteration of all its worlds that reaches it."""
        return self.cfg.train.total_steps + OmegaConf.select(self.cfg, "train.num_envs", default=1)

    def status(self) -> str:
        """What the table shows of a run that is not complete."""
        if not len(self.evaluations("return")[0]):
            return "not run"
        return f"at step {self.reached():,} of {self.cfg.train.total_steps:,}"

    def times(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps (T,) and the seconds (T,) that the run had taken by then, up to the length asked for.

        Of a complete run of an earlier version, which has no record, only the last; empty where nothing is known.
        """
        steps, seconds = read_times(self.folder.times) if self.folder.begun else (np.zeros(0, int), np.zeros(0))
        if not len(steps) and self.folder.complete:
            summary = self.summary()
            if isinstance(summary.get("seconds"), int | float):
                steps, seconds = np.array([summary["steps"]]), np.array([float(summary["seconds"])])
        within = steps < self._end
        return steps[within], seconds[within]

    @property
    def unit(self) -> str:
        """What its steps are."""
        offline = str(self.cfg.env.name).startswith("d4rl/") or "score" in self.measures()
        return "updates" if offline or "solved" in self.measures() else "environment steps per seed"

    def settings(self) -> dict[str, Any]:
        """Every setting that it ran, or would run, with, flat, by dotted key. References are not followed."""
        cfg = self.cfg
        if self.folder.begun and self.folder.config.exists():
            with suppress(UserError):
                cfg = self.folder.read_config()
        plain = OmegaConf.to_container(cfg, resolve=False)
        return flat_settings({name: plain[name] for name in SETTINGS if name in plain})


class MergedCell(Cell):
    """Runs of equal settings and different seeds, as one."""

    def __init__(self, parts: list[Cell]) -> None:
        """Each seed is taken from the first of `parts` that has it."""
        first = parts[0]
        super().__init__(first.row, first.column, first.overrides, first.cfg, first.folder)
        self.parts = parts
        self._from: dict[int, Cell] = {}
        for part in parts:
            for seed in part.seeds:
                self._from.setdefault(seed, part)

    @property
    def complete(self) -> bool:
        return all(part.complete for part in self._used())

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(self._from))

    @property
    def folders(self) -> list[RunFolder]:
        return [part.folder for part in self._used()]

    def _used(self) -> list[Cell]:
        return [part for part in self.parts if any(part is used for used in self._from.values())]

    def summary(self) -> dict[str, Any]:
        summaries = [part.summary() for part in self._used()]
        diverged = [seed for part in self._used() for seed in part.summary()["diverged"] if self._from[seed] is part]
        return summaries[0] | {"seeds": list(self.seeds), "diverged": diverged}

    def values(self, measure: str) -> np.ndarray:
        found = {id(part): dict(zip(part.seeds, part.values(measure), strict=True)) for part in self._used()}
        return np.array([found[id(self._from[seed])][seed] for seed in self.seeds])

    def evaluations(self, measure: str) -> tuple[np.ndarray, np.ndarray]:
        found = [(part, *part.evaluations(measure)) for part in self._used()]
        steps = np.unique(np.concatenate([there for _, there, _ in found])).astype(int)
        values = np.full((len(steps), len(self.seeds)), np.nan)
        for part, there, theirs in found:
            for i, seed in enumerate(part.seeds):
                if self._from[seed] is part and len(there):
                    values[np.searchsorted(steps, there), self.seeds.index(seed)] = theirs[:, i]
        return steps, values

    def times(self) -> tuple[np.ndarray, np.ndarray]:
        """None: its seeds ran at different times."""
        return np.zeros(0, int), np.zeros(0)
