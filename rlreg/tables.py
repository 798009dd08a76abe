"""Tables: rows (environments) x columns (agents) x seeds as resumable sets of runs; `rlreg.report` tells of them.

`python run.py mode=table table=beer_dmc device=cuda` runs what is missing and writes `<runs_root>/tables/beer_dmc/`:
`table.md`, CSV, LaTeX, `report.html` and the figures. A cell is the run that `env=<row> agent=<column>` with the
table's overrides, then the user's, would be by itself: it lives in the same folder and is run once.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlreg.build import build_task, locate
from rlreg.config import Config, TableConfig, seed_list
from rlreg.errors import UserError, unknown
from rlreg.explain import choices_of, explain
from rlreg.launchers import Job, TimeIsUp
from rlreg.metrics import require_known
from rlreg.modes.train import check_data
from rlreg.report.cell import Cell
from rlreg.report.content import AVERAGE, content
from rlreg.report.files import write
from rlreg.report.words import cell_command, duration
from rlreg.run_folder import RunFolder
from rlreg.time_left import time_left, together


def run_table(cfg: DictConfig) -> None:
    """Run the missing cells of `cfg.table`, then report. To be called in Hydra's job of `mode=table`.

    Raises `UserError` before anything runs where a cell cannot be composed or its data cannot be had, and after the
    report where a run failed.
    """
    table: TableConfig = OmegaConf.to_object(cfg.table)
    require_known(table.measures)
    check_published(table)
    print(f"table {table.name}: composing {len(table.rows) * len(table.columns)} runs", flush=True)
    users = _users_overrides()
    table.note = note_of(table, users)
    cells = compose_cells(table, users)
    missing = [cell for cell in cells if not cell.complete]
    if cfg.dry:
        _list(cells, cfg.launcher.jobs)
        return
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
    up: TimeIsUp | None = None
    if missing and not table.only_report:
        try:
            failed = _launch(cfg, cells, folder / "logs")
        except TimeIsUp as error:
            failed, up = error.failed, error
    write([content(table, cells)], table.name, folder, own_command())
    if up is not None and not failed:
        raise up
    if failed:
        names = ", ".join(run.name for run in failed)
        also = f"; {up}" if up else ""
        logs = f"their logs are in {folder / 'logs'}{also}"
        raise UserError(f"{len(failed)} of {len(missing)} runs failed ({names}); {logs}")


NO_OTHER_RUNS = ("runs_root", "threads", "device", "compile", "products", "dry")
"""What changes where and how fast the runs of a table run, not what they are."""


def note_of(table: TableConfig, users: Sequence[str]) -> str:
    """The table's note, which says of what it is said where the user's overrides make other runs of it."""
    changed = [override for override in users if override.split("=")[0] not in NO_OTHER_RUNS]
    if not table.note or not changed:
        return table.note
    return f"With {' '.join(changed)}, of which this, said of the table as it is written, knows nothing: {table.note}"


def check_overrides(table: TableConfig) -> None:
    """Raise `UserError` for overrides of rows or columns that neither the user's choice nor the table itself has."""
    for kind, names, overrides in (
        ("row", table.rows, table.row_overrides),
        ("column", table.columns, table.column_overrides),
    ):
        if set(overrides) <= set(names):
            continue
        whole = hydra.compose(HydraConfig.get().job.config_name, _choice_of_table()).table
        known = [*names, *(name for name in whole.get(f"{kind}s", ()) if name not in names)]
        for name in overrides:
            if name not in known:
                raise unknown(f"{kind} in table.{kind}_overrides", name, known)


def _choice_of_table() -> list[str]:
    """What was typed to choose the table, without what was typed to change it."""
    return [typed for typed in HydraConfig.get().overrides.task if re.match(r"\+?table=", typed)]


def check_published(table: TableConfig) -> None:
    """Raise `UserError` for figures by others of tasks, columns or measures that there are not."""
    tasks = {*table.rows, *table.row_overrides, *choices_of("env")}
    columns = {*table.columns, *table.column_overrides, *choices_of("agent")}
    for them in table.published:
        where = f"table.published ({them.name})"
        for row in them.figures:
            if row not in tasks and row != AVERAGE:
                raise unknown(f"task in {where}.figures", row, {*tasks, AVERAGE})
        if them.column is not None and them.column not in columns:
            raise unknown(f"column in {where}.column", them.column, columns)
        if them.measure is not None:
            require_known([them.measure], f"{where}.measure")
    for name in ("further_rows", "row_notes"):
        for row in getattr(table, name):
            if row not in tasks:
                raise unknown(f"row in table.{name}", row, tasks)


def _list(cells: Sequence[Cell], jobs: int) -> None:
    """What `dry=true` prints: each run with what is done of it, what is left and its command; then all together."""
    every = time_left(cells)
    for one in every:
        cell = one.cell
        status = "complete" if cell.complete else cell.status()
        if not cell.complete:
            left = "time left unknown: nothing like it has been measured"
            if one.seconds is not None:
                left = f"about {duration(one.seconds)} left (measured on {one.measured_on})"
            status = f"{status}; {left}"
        print(f"{cell.row} {cell.column}: {status}\n    {cell_command(cell)}")
    missing = [one for one in every if not one.cell.complete]
    unknown_ones = [one for one in missing if one.seconds is None]
    known = f"about {duration(together(missing, jobs))} left with launcher.jobs={jobs}" if missing else "nothing left"
    if missing and len(unknown_ones) == len(missing):
        known = "time left unknown"
    elif unknown_ones:
        known += f", and {len(unknown_ones)} of unknown length"
    print(f"{len(every)} runs, {len(every) - len(missing)} complete; {known}")


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
        if key.split(".")[0] not in ("mode", "table", "launcher", "dry"):
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


CHOICES = ("agent", "regularizer", "env", "protocol")
"""The groups whose choice decides what a run's defaults are."""


def compose_cells(table: TableConfig, users: Sequence[str]) -> list[Cell]:
    """Every cell, row by row, its whole configuration checked. Raises `UserError`."""
    check_overrides(table)
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
            pairs = (override.partition("=") for override in overrides)
            choices = {group: choice for group, _, choice in pairs if group in CHOICES}
            cells.append(Cell(row, column, overrides, cfg, RunFolder.of(cfg, choices)))
    return cells


def _launch(cfg: DictConfig, cells: Sequence[Cell], logs: Path) -> list[Job]:
    """Start the runs that are not complete with the launcher; those that failed."""
    launcher = cfg.launcher
    cores = len(os.sched_getaffinity(0))
    runs = []
    for one in time_left(cells):
        cell = one.cell
        if cell.complete:
            continue
        threads = cell.cfg.threads or launcher.threads or max(1, cores // launcher.jobs)
        runs.append(
            Job(
                name=f"{cell.row} {cell.column}",
                command=[*_program(), *cell.overrides, f"threads={threads}"],
                log=logs / f"{cell.row}-{cell.column}.log".replace("/", "-"),
                threads=threads,
                gpus=launcher.gpus if cell.cfg.device.startswith("cuda") else 0.0,
                seconds=one.seconds,
            )
        )
    try:
        return locate(launcher._target_)(runs, launcher.jobs, launcher.minutes)
    finally:
        for cell in cells:
            cell.folder.begun = True


def own_command() -> str:
    """The command line of this process."""
    return shlex.join(["python", Path(sys.argv[0]).name, *HydraConfig.get().overrides.task])


def _program() -> list[str]:
    """This process's own command, up to the overrides."""
    sources = HydraConfig.get().runtime.config_sources
    folders = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
    return [sys.executable, str(Path(sys.argv[0]).resolve()), *folders]
