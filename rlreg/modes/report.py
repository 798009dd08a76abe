"""`mode=report`: the report of any runs."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from rlreg.errors import UserError
from rlreg.report.content import content
from rlreg.report.files import write
from rlreg.report.runs import find_runs, tables_of
from rlreg.tables import own_command


def run(cfg: DictConfig) -> None:
    """Report on the runs that `runs` names, into `out` or `<runs_root>/report`: `mode=report runs=runs/dmc`."""
    if not cfg.runs:
        raise UserError("mode=report needs runs=<folders of runs, or a pattern>, as in runs='runs/dmc/*/beer*'")
    folders = find_runs(cfg.runs)
    print(f"{len(folders)} runs", flush=True)
    tables = tables_of(folders, "report")
    folder = Path(cfg.out) if cfg.out else Path(cfg.runs_root) / "report"
    write([content(table, cells) for table, cells in tables], "Report", folder, own_command())
