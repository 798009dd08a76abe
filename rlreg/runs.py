"""Run folders: one folder a run, holding its configuration, results, events and checkpoints."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from rlreg.checkpoint import write_atomic
from rlreg.errors import UserError

# What may change between the two parts of a resumed run without changing what it computes.
_NOT_IDENTITY = ("mode", "run_dir", "runs_root", "checkpoint", "table", "launcher", "threads")
PACKAGES = ("torch", "numpy", "mujoco", "dm-control", "gymnasium", "stable-baselines3")


class RunFolder:
    """`config.yaml`, `eval.csv`, `summary.json`, `tensorboard/`, `checkpoints/`, `replay/` in one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.eval_csv = path / "eval.csv"
        self.summary = path / "summary.json"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.replay = path / "replay"

    @property
    def complete(self) -> bool:
        return self.summary.exists()

    @classmethod
    def of(cls, cfg: DictConfig) -> RunFolder:
        """The folder of a configuration: `run_dir` where given, else a name that its contents decide."""
        if cfg.run_dir:
            return cls(Path(cfg.run_dir))
        return cls(Path(cfg.runs_root) / cfg.env.name / cfg.agent.name / _fingerprint(cfg))

    def open(self, cfg: DictConfig) -> None:
        """Create the folder, or check that the run in it has this configuration. Raises `UserError`."""
        if self.config.exists():
            there, here = _identity(OmegaConf.load(self.config)), _identity(cfg)
            if there != here:
                key = next(k for k in sorted(there.keys() | here.keys()) if there.get(k) != here.get(k))
                raise UserError(
                    f"run_dir={self.path}: holds a run with {key}={there.get(key)}, not {here.get(key)}; "
                    "give another run_dir or delete it"
                )
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.config, OmegaConf.to_yaml(cfg, resolve=True))
        except OSError as error:
            reason = f"cannot be written ({error.strerror}); give a writable folder"
            raise UserError(f"run_dir={self.path}: {reason}") from None

    def load_config(self) -> DictConfig:
        """The configuration of the run in this folder. Raises `UserError` where there is none."""
        if not self.config.exists():
            raise UserError(f"run_dir={self.path}: no run there (no config.yaml); give the folder of a run")
        return OmegaConf.load(self.config)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process out of the folder; the lock dies with its process."""
        with open(self.path / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"run_dir={self.path}: another process is running in it") from None
            yield

    def finish(self, results: dict[str, Any]) -> None:
        """Mark the run complete with its final figures."""
        write_atomic(self.summary, json.dumps(results | {"provenance": provenance()}, indent=2) + "\n")


def provenance() -> dict[str, Any]:
    """Commit, package versions and hardware, to stand beside any figure."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": versions,
        "cpu": _cpu(),
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


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _identity(cfg: DictConfig) -> dict[str, Any]:
    """The settings that decide a run's results, flat, by dotted key."""
    tree = OmegaConf.to_container(cfg, resolve=True)
    return flat_settings({k: v for k, v in tree.items() if k not in _NOT_IDENTITY})


def flat_settings(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'agent': {'tau': 1}} -> {'agent.tau': 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flat_settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _fingerprint(cfg: DictConfig) -> str:
    return hashlib.sha256(json.dumps(_identity(cfg), sort_keys=True).encode()).hexdigest()[:10]
