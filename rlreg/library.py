"""The package without a command line: compose a configuration as `run.py` does, and what to do with it.

    from rlreg.library import compose, run

    run(compose("agent=beer", "env=gym/Pendulum-v1", "run_dir=my/run"))      # whatever `python run.py` does

docs/library.md has more.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from rlreg.command import run
from rlreg.config import CONFIGS
from rlreg.registry import register

__all__ = ["compose", "run"]


def compose(*overrides: str) -> DictConfig:
    """The configuration that `python run.py <overrides>` would run. Raises Hydra's errors and `UserError`."""
    register()
    with hydra.initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        return hydra.compose("config", list(overrides))
