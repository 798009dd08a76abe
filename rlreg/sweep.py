"""Several runs of one command line: Hydra's `--multirun`, by our launchers where `launcher.jobs` is above 1."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl  # hydra-core<1.4: it has no public place for this
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from rlreg.build import locate
from rlreg.errors import UserError
from rlreg.explain import explain
from rlreg.launchers import WAIT, Job


def is_sweep() -> bool:
    """Whether this is one of the jobs of `--multirun`."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


class Sweep:
    """The jobs of one `--multirun`, in their order. One that fails is told of, and the others follow."""

    def __init__(self) -> None:
        self.count = 0
        self.jobs: list[tuple[list[str], DictConfig]] = []
        self.refused: dict[tuple[str, ...], str] = {}
        """Jobs that Hydra cannot compose, by their overrides: why."""
        self.failed: list[str] = []

    @contextmanager
    def composing(self) -> Iterator[None]:
        """Have Hydra take a job that it cannot compose for one that fails, instead of ending the sweep with it.

        Hydra composes each job twice: all of them before the first begins, to see whether it can, then each again.
        """
        compose = ConfigLoaderImpl.load_sweep_config

        def load_sweep_config(
            loader: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]
        ) -> DictConfig:
            try:
                return compose(loader, master_config, sweep_overrides)
            except (HydraException, OmegaConfBaseException, UserError) as error:
                self.refused[tuple(sweep_overrides)] = explain(error) or str(error).splitlines()[0]
                cfg = compose(loader, master_config, [])
                with open_dict(cfg):
                    cfg.hydra.overrides.task = list(sweep_overrides)
                return cfg

        ConfigLoaderImpl.load_sweep_config = load_sweep_config
        try:
            yield
        finally:
            ConfigLoaderImpl.load_sweep_config = compose

    def take_up(self, cfg: DictConfig, do: Callable[[DictConfig], None]) -> None:
        """`do` the next job, or put it off, to be started with the others."""
        overrides = list(HydraConfig.get().overrides.task)
        self.count += 1
        if (line := self.refused.get(tuple(overrides))) is not None:
            self._fail(overrides, line)
            return
        self.jobs.append((overrides, cfg))
        if cfg.launcher.jobs > 1:
            return
        print(f"== job {self.count}: {' '.join(overrides)}", flush=True)
        os.environ[WAIT] = "1"
        try:
            do(cfg)
        except Exception as error:
            if (line := explain(error)) is None:
                raise
            self._fail(overrides, line)
        finally:
            del os.environ[WAIT]

    def _fail(self, overrides: list[str], line: str) -> None:
        self.failed.append(" ".join(overrides))
        print(f"error: job {self.count}: {line}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Start what was put off. Raises `UserError` where a job failed."""
        if self.jobs and self.jobs[0][1].launcher.jobs > 1:
            self._start()
        if self.failed:
            raise UserError(f"{len(self.failed)} of {self.count} runs failed ({'; '.join(self.failed)})")

    def _start(self) -> None:
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
        self.failed += [job.name for job in locate(launcher._target_)(started, launcher.jobs, launcher.minutes)]
