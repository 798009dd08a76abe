"""Tables: rows (environments) x columns (agents) x seeds as resumable sets of runs, and their report.

`python run.py mode=table table=beer_dmc device=cuda` runs what is missing and writes `<runs_root>/tables/beer_dmc/`:
`table.md`, `table.csv` and the figures. A cell is the run that `env=<row> agent=<column>` with the table's
overrides, then the user's, would be by itself: it lives in the same folder and is run once.
"""

from __future__ import annotations

import csv
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlreg.build import build_task, locate
from rlreg.config import Config, TableConfig, explain, seed_list
from rlreg.errors import UserError, unknown
from rlreg.files import write_atomic
from rlreg.launch import Job
from rlreg.logger import read_evaluations
from rlreg.modes.train import check_data
from rlreg.run_folder import RunFolder
from rlreg.stats import Interval, iqm_interval, mean_interval, task_mean_interval
from rlreg.training.base import EVAL_TAGS
from rlreg.training.curriculum import TAGS


class Measure(NamedTuple):
    """What a table can report of a run: a figure of its results, by its key there."""

    title: str
    meaning: str
    decimals: int
    is_goal: bool = False
    """The larger the better: the best is marked, and averages are taken over the rows."""
    figure: str | None = None
    """The file its curve is drawn in; only figures that are a column of eval.csv have one."""


MEASURES = {
    "return": Measure("Final return", "the last evaluation's mean return", 1, True, "curves.png"),
    "return_last_ten": Measure(
        "Return, last ten evaluations", "the mean of the last ten evaluations' returns", 1, True
    ),
    "score": Measure(
        "Final score", "D4RL's normalised score of the last evaluation's mean return", 1, True, "scores.png"
    ),
    "score_last_ten": Measure("Score, last ten evaluations", "the mean of the last ten evaluations' scores", 1, True),
    "rank": Measure("Representation rank", "at the last evaluation", 1, figure="rank.png"),
    "q_error": Measure(
        "Q-value error",
        "|Q - Monte-Carlo return| along the last evaluation's episodes",
        2,
        figure="q_error.png",
    ),
    "solved": Measure("Solve rate, held out", "the share of the first evaluation set's levels", 3, True, "solved.png"),
    "train_solved": Measure("Solve rate, training levels", "at the last evaluation", 3, figure="train_solved.png"),
    "gap": Measure("Generalisation gap", "training levels' mean return less the held-out ones'", 3, figure="gap.png"),
    "shift_gap": Measure("Shift gap", "sum_l P_l V_l - mean_l V_l over the training levels", 3),
    "information": Measure(
        "I(L; b)", "a lower bound on what features tell of the level, in nats", 3, figure="information.png"
    ),
}
"""Another key of a run's final figures, such as `solved/<set>`, is reported as it stands, as a goal."""


def measure_of(key: str) -> Measure:
    """How a figure is reported."""
    return MEASURES.get(key, Measure(key, "at the last evaluation", 3, is_goal=True))


# Okabe and Ito's palette, told apart by colour-blind readers; the lines differ in dashes as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
BAND_RESAMPLES = 500  # a band is looked at, not quoted; there may be tens of thousands of points


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
        """The results of a complete run: `seeds`, `steps`, `diverged` and a list a seed of each figure."""
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


def run_table(cfg: DictConfig) -> None:
    """Run the missing cells of `cfg.table`, then report. To be called in Hydra's job of `mode=table`.

    Raises `UserError` before anything runs where a cell cannot be composed or its data cannot be had, and after the
    report where a run failed.
    """
    table: TableConfig = OmegaConf.to_object(cfg.table)
    _require_measures(table)
    cells = compose_cells(table, _users_overrides())
    missing = [cell for cell in cells if not cell.complete]
    if not table.only_report:
        _fetch_data(table, missing)
    folder = Path(cfg.runs_root) / "tables" / table.name
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"runs_root={cfg.runs_root}: cannot be written ({error.strerror})") from None
    print(f"table {table.name}: {len(cells)} runs, {len(cells) - len(missing)} complete", flush=True)
    if not table.only_report:
        for cell in cells:
            if cell.complete:
                check_data(cell.cfg, cell.folder)
    failed: list[Job] = []
    if missing and not table.only_report:
        failed = _launch(cfg, missing, folder / "logs")
    report(table, cells, folder)
    if failed:
        names = ", ".join(run.name for run in failed)
        raise UserError(f"{len(failed)} of {len(missing)} runs failed ({names}); their logs are in {folder / 'logs'}")


def _require_measures(table: TableConfig) -> None:
    """Raise `UserError` for a measure that no run has."""
    valid = MEASURES.keys() | EVAL_TAGS.keys() | TAGS.keys() | {f"{name}_last_ten" for name in ("return", "score")}
    for measure in table.measures:
        if measure not in valid and not measure.startswith(("solved/", "return/")):
            raise unknown("measure in table.measures", measure, valid)


def _fetch_data(table: TableConfig, cells: Sequence[Cell]) -> None:
    """What the runs learn from, if from files, brought here once: each run by itself would get in the others' way."""
    for cell in cells:
        try:
            build_task(cell.cfg).fetch()
        except UserError as error:
            raise UserError(f"table {table.name}, {cell.row} {cell.column}: {error}") from None


# ------------------------------------------------------------------- cells


def _users_overrides() -> list[str]:
    """The user's command line without what is the table's own. Raises `UserError` for what a table decides."""
    instead = {"env": "table.rows", "agent": "table.columns", "run_dir": "runs_root"}
    kept = []
    for override in HydraConfig.get().overrides.task:
        key = override.split("=")[0].lstrip("+~")
        if key in instead:
            raise UserError(f"{override}: a table decides this for each of its runs; give {instead[key]}")
        if key.split(".")[0] not in ("mode", "table", "launcher"):
            kept.append(override)
    return kept


def _of_column(table: TableConfig, column: str, within: tuple[str, ...] = ()) -> list[str]:
    """The column's overrides, its agent among them; the name of another column stands for that one's."""
    if column in within:
        raise UserError(f"table.column_overrides: {' -> '.join((*within, column))} never ends")
    overrides: list[str] = []
    for override in table.column_overrides.get(column, []):
        is_name = "=" not in override and not override.startswith("~")
        overrides += _of_column(table, override, (*within, column)) if is_name else [override]
    return overrides if any(o.startswith("agent=") for o in overrides) else [f"agent={column}", *overrides]


def compose_cells(table: TableConfig, users: Sequence[str]) -> list[Cell]:
    """Every cell, row by row, its whole configuration checked. Raises `UserError`."""
    cells = []
    for row in table.rows:
        for column in table.columns:
            of_row, of_column = table.row_overrides.get(row, []), _of_column(table, column)
            env = [] if any(override.startswith("env=") for override in of_row) else [f"env={row}"]
            agent = [override for override in of_column if override.startswith("agent=")]
            rest = [override for override in of_column if not override.startswith("agent=")]
            overrides = [*env, *agent[-1:], *table.overrides, *of_row, *rest, *users]
            try:
                cfg = hydra.compose(HydraConfig.get().job.config_name, overrides)
                settings: Config = OmegaConf.to_object(cfg)
                seed_list(settings.seeds)
            except (UserError, HydraException, OmegaConfBaseException) as error:
                raise UserError(f"table {table.name}, {row} {column}: {explain(error)}") from error
            cells.append(Cell(row, column, overrides, cfg, RunFolder.of(cfg)))
    return cells


def _launch(cfg: DictConfig, cells: Sequence[Cell], logs: Path) -> list[Job]:
    """Start the cells' runs with the launcher; those that failed."""
    launcher = cfg.launcher
    cores = len(os.sched_getaffinity(0))
    runs = []
    for cell in cells:
        threads = cell.cfg.threads or launcher.threads or max(1, cores // launcher.jobs)
        runs.append(
            Job(
                name=f"{cell.row} {cell.column}",
                command=[*_program(), *cell.overrides, f"threads={threads}"],
                log=logs / f"{cell.row}-{cell.column}.log".replace("/", "-"),
                threads=threads,
                gpus=launcher.gpus if cell.cfg.device.startswith("cuda") else 0.0,
            )
        )
    return locate(launcher._target_)(runs, launcher.jobs)


def _program() -> list[str]:
    """This process's own command, up to the overrides."""
    sources = HydraConfig.get().runtime.config_sources
    folders = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
    return [sys.executable, str(Path(sys.argv[0]).resolve()), *folders]


# ------------------------------------------------------------------ report


def report(table: TableConfig, cells: Sequence[Cell], folder: Path) -> None:
    """Print the table and write `table.md`, `table.csv` and the figures into `folder`."""
    text = "\n".join(_markdown(table, cells)) + "\n"
    print("\n" + text)
    write_atomic(folder / "table.md", text)
    write_atomic(folder / "table.csv", _csv(table, cells))
    drawn = _draw(table, cells, folder)
    print(f"written: {', '.join(str(folder / name) for name in ('table.md', 'table.csv', *drawn))}", flush=True)


def _markdown(table: TableConfig, cells: Sequence[Cell]) -> Iterator[str]:
    yield f"# {table.name}\n"
    if table.note:
        yield f"{table.note}\n"
    seeds = sorted({len(seed_list(cell.cfg.seeds)) for cell in cells})
    yield (
        f"Means over the seeds (n = {', '.join(map(str, seeds))}), their 95 % bootstrap intervals in brackets. "
        "Bold: the best of its row where every cell is complete."
    )
    for key in table.measures:
        measure = measure_of(key)
        yield f"\n## {measure.title}\n"
        published = table.published if key == table.measures[0] else {}
        meaning = f"{measure.meaning[0].upper()}{measure.meaning[1:]}."
        yield meaning + (" After the slash: as published." if published else "")
        yield ""
        rows = list(_measure_rows(table, cells, key, measure.decimals, measure.is_goal, published))
        if measure.is_goal and len(table.rows) > 1:
            rows += _aggregate_rows(table, cells, key, measure.decimals, published.get("average", {}))
        yield from aligned([["", *table.columns], *rows])
    yield "\n## Provenance\n"
    yield from _provenance(cells)


def _measure_rows(
    table: TableConfig,
    cells: Sequence[Cell],
    measure: str,
    decimals: int,
    best: bool,
    published: dict[str, Any],
) -> Iterator[list[str]]:
    for row in table.rows:
        here = [cell for cell in cells if cell.row == row]
        texts = []
        means = []
        for cell in here:
            if not cell.complete:
                texts.append(cell.status())
                continue
            values = cell.values(measure)
            known = values[np.isfinite(values)]
            texts.append(_interval_text(mean_interval(known, _rng()), decimals) if len(known) else "none")
            means.append(known.mean() if len(known) else -np.inf)
            if 0 < len(known) < len(values):
                texts[-1] += f" (n = {len(known)})"
            if cell.summary()["diverged"]:
                texts[-1] += " †"
        if best and len(means) == len(here) > 1:
            winner = int(np.argmax(means))
            number, *rest = texts[winner].split(" ", 1)
            texts[winner] = " ".join([f"**{number}**", *rest])
        theirs = published.get(row, {})
        yield [row, *(_beside(text, theirs.get(cell.column)) for text, cell in zip(texts, here, strict=True))]


def _aggregate_rows(
    table: TableConfig, cells: Sequence[Cell], measure: str, decimals: int, published: dict[str, Any]
) -> Iterator[list[str]]:
    """Average and interquartile mean over the rows of which every cell is complete: the same rows for all columns."""
    shared = [row for row in table.rows if all(cell.complete for cell in cells if cell.row == row)]
    over = "" if len(shared) == len(table.rows) else f" ({len(shared)} of {len(table.rows)} rows)"
    estimates: tuple[tuple[str, Callable[..., Interval], dict[str, Any]], ...] = (
        ("average", task_mean_interval, published),
        ("interquartile mean", iqm_interval, {}),
    )
    for name, estimate, theirs in estimates:
        texts = [name + over]
        for column in table.columns:
            tasks = [cell.values(measure) for cell in cells if cell.column == column and cell.row in shared]
            tasks = [values[np.isfinite(values)] for values in tasks]
            known = bool(tasks) and all(len(values) for values in tasks)
            text = _interval_text(estimate(tasks, _rng()), decimals) if known else "none"
            texts.append(_beside(text, theirs.get(column)))
        yield texts


def _rng() -> np.random.Generator:
    """A fresh one for every interval, so that it does not depend on what else the table holds."""
    return np.random.default_rng(0)


def _interval_text(interval: Interval, decimals: int) -> str:
    if np.isnan(interval.low):
        return f"{interval.value:.{decimals}f}"
    return f"{interval.value:.{decimals}f} [{interval.low:.{decimals}f}, {interval.high:.{decimals}f}]"


def _beside(ours: str, published: Any) -> str:
    return ours if published is None else f"{ours} / {published}"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table whose columns line up in a terminal as well."""
    widths = [max(len(text) for text in column) for column in zip(*rows, strict=True)]
    for i, row in enumerate(rows):
        yield "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        if i == 0:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"


def _provenance(cells: Sequence[Cell]) -> Iterator[str]:
    """Command, commits and machines of the complete runs; seeds that diverged."""
    command = shlex.join(["python", Path(sys.argv[0]).name, *HydraConfig.get().overrides.task])
    done = [cell for cell in cells if cell.complete]
    found = [cell.summary()["provenance"] for cell in done]
    yield f"- command: `{command}`"
    yield f"- runs: {len(done)} of {len(cells)} complete"
    if found:
        yield f"- commit: {', '.join(sorted({str(p['commit']) for p in found}))}"
        machines = sorted({f"{p['gpu'] or 'no GPU'}, {p['cpu']}, {p['cores']} cores" for p in found})
        yield f"- hardware: {'; '.join(machines)}"
        versions = sorted({", ".join(f"{k} {v}" for k, v in p["versions"].items() if v) for p in found})
        yield f"- versions: {'; '.join(versions)}"
    yield "- average and interquartile mean take returns as they are: they mean something for rows of one scale"
    for cell in done:
        for seed in cell.summary()["diverged"]:
            yield f"- † {cell.row} {cell.column}: seed {seed} diverged: its loss turned non-finite"


def _csv(table: TableConfig, cells: Sequence[Cell]) -> str:
    """A row an environment, agent and seed of the complete runs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["env", "agent", "seed", *table.measures, "steps", "commit"])
    for cell in cells:
        if cell.complete:
            summary = cell.summary()
            columns = [cell.values(measure).tolist() for measure in table.measures]
            for seed, *values in zip(summary["seeds"], *columns, strict=True):
                end = [summary["steps"], summary["provenance"]["commit"]]
                writer.writerow([cell.row, cell.column, seed, *values, *end])
    return out.getvalue()


# ----------------------------------------------------------------- figures


def _draw(table: TableConfig, cells: Sequence[Cell], folder: Path) -> list[str]:
    """Draw what the runs, complete or not, have measured so far; the names of the files."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no figures: matplotlib is not installed (pip install 'rlreg[plots]')")
        return []
    drawn = []
    for key in table.measures:
        measure = measure_of(key)
        if measure.figure is None:
            continue
        figure = Figure(layout="constrained")
        if _panels(figure, cells, key, measure.title.lower()):
            figure.savefig(folder / measure.figure, dpi=150)
            drawn.append(measure.figure)
    return drawn


def _panels(figure: Any, cells: Sequence[Cell], measure: str, label: str) -> bool:
    """A panel a row: mean and 95 % interval of each column over steps. False where there is nothing to draw."""
    rows = list(dict.fromkeys(cell.row for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    across = min(4, len(rows))
    down = -(-len(rows) // across)
    figure.set_size_inches(3.2 * across + 0.6, 2.6 * down + 0.7)
    panels = figure.subplots(down, across, squeeze=False).flat
    lines: dict[str, Any] = {}
    for row, panel in zip(rows, panels, strict=False):
        panel.set_title(row, fontsize=10)
        panel.set_xlabel("steps")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
        panel.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
        for cell in (cell for cell in cells if cell.row == row):
            steps, values = cell.evaluations(measure)
            known = np.isfinite(values).all(axis=1)
            if not known.any():
                continue
            steps, mean = steps[known], mean_interval(values[known], _rng(), resamples=BAND_RESAMPLES)
            i = columns.index(cell.column)
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
            (lines[cell.column],) = panel.plot(steps, mean.value, linewidth=1.6, **style)
            panel.fill_between(steps, mean.low, mean.high, color=style["color"], alpha=0.18, linewidth=0)
    for panel in list(figure.axes)[len(rows) :]:
        panel.set_visible(False)
    named = {column: lines[column] for column in columns if column in lines}
    if named:
        figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=min(7, 2 * across, len(named)))
    return bool(named)
