"""TensorBoard with Stable-Baselines3's tags, a dashboard for the paper's figures, and `eval.csv`."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from rlreg.checkpoint import write_atomic
from rlreg.errors import UserError

DASHBOARD = {
    "return": {"evaluation": ["eval/mean_reward"], "training": ["rollout/ep_rew_mean"]},
    "regulariser": {
        "cosine of consecutive features": ["representation/cosine"],
        "its bound": ["representation/bound"],
        "penalty": ["regularizer/loss"],
    },
    "representation": {"rank": ["representation/rank"]},
    "value": {"error": ["value/error"], "bias": ["value/bias"], "estimate": ["train/q"]},
    "offline": {
        "normalised score": ["eval/score"],
        "loss of the behaviour policy": ["behaviour/vae_loss"],
        "share of VAE actions": ["behaviour/share_of_vae_actions"],
        "state value": ["train/value"],
    },
    "curriculum": {
        "solve rate, held out": ["eval/solved"],
        "solve rate, training levels": ["transfer/train_solved"],
        "generalisation gap": ["transfer/generalisation_gap"],
        "shift gap": ["transfer/shift_gap"],
        "mutual information of features and levels": ["transfer/mutual_information"],
        "new levels solved": ["levels/new_solved"],
        "share of the dataset in what is drawn": ["levels/dataset_mass"],
    },
}


class Logger:
    """One event file for all seeds together, means with a band, and one a seed.

    TensorBoard then shows each seed as a run of its own, and the bands as a custom-scalars dashboard.
    """

    def __init__(self, folder: Path, seeds: Sequence[int], first_step: int = 0) -> None:
        """Points from `first_step` on that an earlier, killed process wrote are hidden."""
        self._all = SummaryWriter(str(folder / "all"), purge_step=first_step)
        self._seeds = [SummaryWriter(str(folder / f"seed-{seed}"), purge_step=first_step) for seed in seeds]
        charts = {
            title: {
                name: ["Margin", [f"{tag}/{part}" for tag in tags for part in ("mean", "low", "high")]]
                for name, tags in group.items()
            }
            for title, group in DASHBOARD.items()
        }
        self._all.add_custom_scalars(charts)

    def scalars(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Metrics (S,) at `step`. A NaN (nothing to report yet) is left out."""
        for tag, per_seed in values.items():
            per_seed = per_seed.detach().float().cpu()
            for writer, value in zip(self._seeds, per_seed.tolist(), strict=True):
                if value == value:
                    writer.add_scalar(tag, value, step)
            present = per_seed[~per_seed.isnan()]
            if len(present):
                mean, spread = present.mean().item(), present.std(correction=0).item()
                self._all.add_scalar(tag, mean, step)
                for part, value in (("mean", mean), ("low", mean - spread), ("high", mean + spread)):
                    self._all.add_scalar(f"{tag}/{part}", value, step)

    def histograms(self, step: int, tag: str, values: Tensor) -> None:
        """Values (S, n) at `step`, a histogram a seed. What is not finite is left out."""
        for writer, own in zip(self._seeds, values.detach().float().cpu(), strict=True):
            if (own := own[own.isfinite()]).numel():
                writer.add_histogram(tag, own, step)

    def image(self, step: int, tag: str, picture: np.ndarray) -> None:
        """A picture (height, width, 3) uint8."""
        self._all.add_image(tag, picture, step, dataformats="HWC")

    def scalar(self, step: int, tag: str, value: float) -> None:
        """One number for the whole process, such as `time/fps`."""
        self._all.add_scalar(tag, value, step)

    def hparams(self, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """The run's settings and final figures in TensorBoard's HParams view."""
        flat = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in settings.items()}
        self._all.add_hparams(flat, dict(metrics), run_name="hparams")

    def flush(self) -> None:
        for writer in (self._all, *self._seeds):
            writer.flush()

    def close(self) -> None:
        for writer in (self._all, *self._seeds):
            writer.close()


class EvalTable:
    """`eval.csv`: one row a seed and evaluation, without clock times, so that equal runs give equal files."""

    def __init__(
        self, path: Path, seeds: Sequence[int], columns: Collection[str], last_step: int | None = None
    ) -> None:
        """Continue an existing file after `last_step`, or start a new one where that is None.

        Raises `UserError` where an existing one is missing, or has other `columns` beside step and seed.
        """
        self.path, self.seeds = path, tuple(seeds)
        self.rows: list[dict[str, str]] = []
        if last_step is not None:
            if not path.exists():
                raise UserError(f"{path}: missing; its run cannot go on without, delete the folder to start anew")
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                there = set(reader.fieldnames or ())
                if there != {"step", "seed", *columns}:
                    differ = ", ".join(sorted(there ^ {"step", "seed", *columns}))
                    raise UserError(
                        f"{path}: written by another version of rlreg (columns that differ: {differ}); go on with that "
                        "one, or delete the folder to start anew"
                    )
                self.rows = [row for row in reader if int(row["step"]) <= last_step]

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Append a row a seed; values are (S,)."""
        columns = {name: value.tolist() for name, value in values.items()}
        for i, seed in enumerate(self.seeds):
            row = {"step": str(step), "seed": str(seed)}
            self.rows.append(row | {name: repr(column[i]) for name, column in columns.items()})
        lines = [",".join(self.rows[0]), *(",".join(row.values()) for row in self.rows)]
        write_atomic(self.path, "\n".join(lines) + "\n")

    def column(self, name: str) -> Tensor:
        """(evaluations, S) of one column, float64."""
        values = [float(row[name]) for row in self.rows]
        return torch.tensor(values, dtype=torch.float64).view(-1, len(self.seeds))
