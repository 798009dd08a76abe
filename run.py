"""The one runner: `python run.py agent=... env=...`. Hydra composes the configuration, rlreg.command obeys it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands its exceptions on, for `one_line_errors` to word
warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing.*")  # glfw, not needed

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rlreg.command import run
from rlreg.config import check_optional
from rlreg.describe import describe
from rlreg.explain import explain
from rlreg.interrupts import Interrupted
from rlreg.registry import register
from rlreg.sweep import Sweep, is_sweep
from rlreg.typed import as_hydra_reads, check_arguments, check_typed


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with 2 and one line for a user's mistake, with 130 for an interrupted run."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


DESCRIBE = "--describe" in sys.argv
"""`--describe`: print every setting of the composition with what it means, and do nothing else."""
SWEEP = Sweep()
# Flags may stand anywhere: argparse takes overrides before them only.
_FLAGS = [argument for argument in sys.argv[1:] if argument in ("--multirun", "-m")]
sys.argv = [as_hydra_reads(argument) for argument in sys.argv if argument not in ("--describe", *_FLAGS)] + _FLAGS


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    with one_line_errors():
        if is_sweep() and not DESCRIBE:
            SWEEP.take_up(cfg, do)
        else:
            do(cfg)


def do(cfg: DictConfig) -> None:
    """What was typed, once it is known to mean something."""
    typed = HydraConfig.get().overrides.task
    check_optional("protocol", typed)
    check_typed(cfg, typed, is_sweep())
    if DESCRIBE:
        print(describe(cfg, ("", "agent", "regularizer", "env", "train", "eval", *_mode_sections(cfg))), end="")
    else:
        run(cfg)


def _mode_sections(cfg: DictConfig) -> tuple[str, ...]:
    """The sections that a mode reads beside those of a run."""
    sections = {"collect": ("collect", "mixture"), "level_set": ("level_set",), "table": ("table", "launcher")}
    return sections.get(cfg.mode, ())


if __name__ == "__main__":
    with one_line_errors():
        register()  # here, where a package that is missing is said in one line
        check_arguments(sys.argv[1:])
        with SWEEP.composing():
            main()
        SWEEP.finish()
