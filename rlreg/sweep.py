"""Several runs of one command line: Hydra's `--multirun`, by our launchers where `launcher.jobs` is above 1."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rlreg.build import locate
from rlreg.config import explain
from rlreg.errors import UserError
from rlreg.launchers import WAIT, Job


def is_sweep() -> bool:
    """Whether this is one of the jobs of `--multirun`."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


class Sweep:
    """The jobs of one `--multirun`, in their order."""

    def __init__(self) -> None:
        self.jobs: list[tuple[list[str], DictConfig]] = []
        self.failed: list[str] = []

    def add(self, cfg: DictConfig) -> bool:
        """Take a job up; True where it is to be started later, with the others."""
        overrides = list(HydraConfig.get().overrides.task)
        self.jobs.append((overrides, cfg))
        if cfg.launcher.jobs > 1:
            return True
        print(f"== job {len(self.jobs)}: {' '.join(overrides)}", flush=True)
        return False

    def run(self, job: Callable[[DictConfig], None]) -> None:
        """Do the newest job here. Where it fails, a line says so, and the others follow."""
        overrides, cfg = self.jobs[-1]
        os.environ[WAIT] = "1"
        try:
            job(cfg)
        except Exception as error:
            if (line := explain(error)) is None:
                raise
            print(f"error: job {len(self.jobs)}: {line}", file=sys.stderr, flush=True)
            self.failed.append(" ".join(overrides))
        finally:
            del os.environ[WAIT]

    def launch(self) -> None:
        """Start what was put off. Raises `UserError` where a run failed."""
        if self.failed:
            raise UserError(f"{len(self.failed)} of {len(self.jobs)} runs failed ({'; '.join(self.failed)})")
        if not self.jobs or self.jobs[0][1].launcher.jobs == 1:
            return
        launcher, root = self.jobs[0][1].launcher, Path(self.jobs[0][1].runs_root)
        logs = root / "multirun" / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        shared = set.intersection(*(set(overrides) for overrides, _ in self.jobs))
        cores = len(os.sched_getaffinity(0))
        started = []
        for overrides, cfg in self.jobs:
            name = " ".join(override for override in overrides if override not in shared) or "all alike"
            threads = cfg.threads or launcher.threads or max(1, cores // launcher.jobs)
            own = [override for override in overrides if not override.startswith(("launcher", "threads="))]
            started.append(
                Job(
                    name=name,
                    command=[sys.executable, str(Path(sys.argv[0]).resolve()), *own, f"threads={threads}"],
                    log=logs / f"{re.sub(r'[^A-Za-z0-9_.=+-]+', '-', name)}.log",
                    threads=threads,
                    gpus=launcher.gpus if cfg.device.startswith("cuda") else 0.0,
                )
            )
        failed = locate(launcher._target_)(started, launcher.jobs, launcher.minutes)
        if failed:
            raise UserError(f"{len(failed)} of {len(started)} runs failed ({', '.join(job.name for job in failed)})")
