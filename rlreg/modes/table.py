"""`mode=table`: a comparison, run where it is missing, and its report."""

from __future__ import annotations

from omegaconf import DictConfig

from rlreg.errors import UserError
from rlreg.tables import run_table


def run(cfg: DictConfig) -> None:
    """Run what is missing of a table and print it: `mode=table table=...`."""
    if cfg.table is None:
        raise UserError("mode=table needs a table, as in table=beer_dmc")
    run_table(cfg)
