"""Run folders: one folder a run, holding its configuration, results, events and checkpoints."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from rlreg.errors import UserError
from rlreg.files import read_text, write_atomic
from rlreg.launchers import WAIT
from rlreg.machine import cpu
from rlreg.naming import differences, existing, flat_settings, identity, latest, new_folder, parse_config
from rlreg.old_names import renamed, with_new_names, with_old_names
from rlreg.registry import checked

PACKAGES = ("torch", "numpy", "mujoco", "dm-control", "gymnasium", "stable-baselines3")


OWN = (
    *("config.yaml", "eval.csv", "times.csv", "transfer.csv", "summary.json", "wandb-id.txt"),
    *("tensorboard", "checkpoints", "replay", "sb3", "wandb"),
)
"""What a run writes in its folder, beside hidden files."""


def _part(name: str) -> property:
    return property(lambda folder: folder.path / name)


class RunFolder:
    """`config.yaml`, `eval.csv`, `summary.json`, `tensorboard/`, `checkpoints/`, `replay/` and more in one folder."""

    config, eval_csv, times, summary = map(_part, ("config.yaml", "eval.csv", "times.csv", "summary.json"))
    tensorboard, checkpoints, best, replay = map(_part, ("tensorboard", "checkpoints", "best", "replay"))

    def __init__(self, path: Path | Callable[[], Path]) -> None:
        """`path` may be what makes up the name of a folder that is not there, for whoever asks for it."""
        self._path = path
        self.begun = isinstance(path, Path)
        """Whether the run may be there. While it is not, nothing of it is looked for, and its name is not made up."""

    @cached_property
    def path(self) -> Path:
        return self._path if isinstance(self._path, Path) else self._path()

    @property
    def complete(self) -> bool:
        """Whether a run has come to its end here, of whatever length, and its figures can be read."""
        return self.problem_with_results() is None

    def problem_with_results(self) -> str | None:
        """What is wrong with `summary.json`; None for a complete run. '' where it is just not there yet."""
        if not self.begun or not os.path.lexists(self.summary):
            return ""
        try:
            self.results()
        except UserError as error:
            return str(error)
        return None

    def complete_for(self, cfg: DictConfig) -> bool:
        """Whether the run has as many steps as a configuration asks for."""
        return self.complete and self.results()["steps"] >= cfg.train.total_steps

    @classmethod
    def of(cls, cfg: DictConfig, choices: Mapping[str, Any] | None = None) -> RunFolder:
        """The folder of a configuration: `run_dir` where given (`latest` is the newest run's), else the one that has
        its run, or a new one; `choices` as `naming.differences` has them."""
        if cfg.run_dir == "latest":
            return cls(latest(Path(cfg.runs_root)))
        return cls(Path(cfg.run_dir) if cfg.run_dir else existing(cfg) or partial(new_folder, cfg, choices))

    @classmethod
    def given(cls, cfg: DictConfig) -> RunFolder:
        """The folder of a run that a mode works on, `run_dir`. Raises `UserError` without one."""
        if not cfg.run_dir:
            raise UserError(f"mode={cfg.mode} needs run_dir=<the folder of a run>")
        return cls.of(cfg)

    def open(self, cfg: DictConfig, steps: Sequence[int] = ()) -> None:
        """Write the configuration, or check that the run in the folder, at `steps`' last, has the same.

        What may change in a run is taken up, and `history` in `config.yaml` says what it was before.
        Raises `UserError`.
        """
        if not self.config.exists():
            whole = OmegaConf.to_container(cfg, resolve=True) | {"differs": differences(cfg)}
            write_atomic(self.config, OmegaConf.to_yaml(OmegaConf.create(whole)))
            return
        kept = self.read_config()
        there, here = (with_old_names(identity(settings)) for settings in (kept, cfg))
        if there != here:
            key = next(k for k in sorted(there.keys() | here.keys()) if there.get(k) != here.get(k))
            raise UserError(
                f"run_dir={self.path}: holds a run with {renamed(key) or key}={there.get(key)}, not {here.get(key)}; "
                "give another run_dir or delete it"
            )
        before, now = (flat_settings({k: c[k] for k in ("train", "eval")}) for c in map(_plain, (kept, cfg)))
        changed = {key: before.get(key) for key in now if before.get(key) != now[key]}
        if changed:
            history = [*_plain(kept).get("history", []), {"until_step": steps[-1] if steps else 0, "was": changed}]
            extra = {"differs": _plain(kept).get("differs", {}), "history": history}
            write_atomic(self.config, OmegaConf.to_yaml(OmegaConf.create(_plain(cfg) | extra)))

    def adopt(self, cfg: DictConfig) -> None:
        """Let `env.backend=auto` be what the run in the folder has: of an earlier version's, what it had then."""
        if self.config.exists() and cfg.env.get("backend") == "auto":
            cfg.env.backend = OmegaConf.select(self.read_config(), "env.backend", default="auto")

    def load_config(self, trust: bool = False) -> DictConfig:
        """The configuration of the run in this folder, to build from: what it names is only what the package knows.

        `trust` is the user's own word that the folder may name more; see `rlreg.registry.checked`. Raises `UserError`.
        """
        return checked(self.read_config(), self.config, trust)

    def read_config(self) -> DictConfig:
        """What `config.yaml` says, to compare or to show, not to build from. Raises `UserError` without one."""
        if not self.config.exists():
            raise UserError(f"run_dir={self.path}: no run there (no config.yaml); give the folder of a run")
        return parse_config(read_text(self.config), self.config)

    def results(self) -> dict[str, Any]:
        """The final figures of a complete run. Raises `UserError` where they cannot be read."""
        try:
            found = json.loads(read_text(self.summary))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.summary}: cannot be read ({str(error).splitlines()[0]})") from None
        lacks = [name for name in ("seeds", "steps", "final") if not isinstance(found, dict) or name not in found]
        if lacks:
            raise UserError(f"{self.summary}: no final figures of a run ('{lacks[0]}' is missing)")
        count = len(found["seeds"]) if isinstance(found["seeds"], list) else -1
        columns = found["final"].values() if isinstance(found["final"], dict) else [None]
        if type(found["steps"]) is not int or not all(_is_column(column, count) for column in columns):
            raise UserError(f"{self.summary}: no final figures of a run (of {count} seeds each)")
        return with_new_names(found)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep a second process out of it; the lock dies with its process."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.begun = True
            self.refuse_links()
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            file = open(os.open(self.path / ".lock", flags, 0o666), "r+b", buffering=0)  # noqa: SIM115  held below
        except OSError as error:
            reason = f"cannot be written ({error.strerror}); give a writable folder"
            raise UserError(f"run_dir={self.path}: {reason}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if os.environ.get(WAIT) != "1":
                    raise UserError(f"run_dir={self.path}: another process is running in it") from None
                print(f"run_dir={self.path}: waiting for another process that is running in it", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def refuse_links(self) -> None:
        """Raise `UserError` for a link where a run writes: what it points to is not the run's to change."""
        for folder in (self.path, self.tensorboard, self.checkpoints, self.replay, self.path / "sb3"):
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.is_symlink() and (folder != self.path or path.name in OWN or path.name.startswith(".")):
                    raise UserError(f"{path}: a link, which a run does not write through; put the thing itself there")

    def finish(self, results: dict[str, Any]) -> None:
        """Mark the run complete with its final figures."""
        write_atomic(self.summary, json.dumps(results | {"provenance": provenance()}, indent=2) + "\n")


def _is_column(values: Any, count: int) -> bool:
    """Whether these are `count` numbers."""
    return isinstance(values, list) and len(values) == count and all(isinstance(x, int | float) for x in values)


def provenance() -> dict[str, Any]:
    """Commit, package versions and hardware, to stand beside any figure."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    gpu = torch.cuda.get_device_name(torch.cuda.current_device()) if torch.cuda.is_available() else None
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": versions,
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def _commit() -> str | None:
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True)
