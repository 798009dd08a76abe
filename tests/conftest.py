"""Helpers for tests that run the command line as a user does."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import forking
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "tests" / "data" / "hopper_medium_expert.hdf5"
"""A small dataset in D4RL's format, made by mode=collect as its attributes say."""
SHIPPED_REPLAY = SHIPPED.with_name("halfcheetah_medium_replay.hdf5")
"""Another: 20 of the first 50 episodes of a TD3 run, bad ones and good ones."""
SHIPPED_MEDIUM = SHIPPED.with_name("halfcheetah_medium.hdf5")
"""Another: 20 episodes of that run's medium policy, with noise of 0.2 on its actions."""

MAX_WORKERS = 8
"""Each imports torch and a simulator: some 600 MB."""

# A run of seconds: every part of a true one, at a tiny size.
TINY = [
    "train.total_steps=400",
    "train.warmup_steps=100",
    "train.checkpoint_every=100",
    "train.log_every=50",
    "eval.every=100",
    "eval.episodes=2",
    "eval.samples=64",
    "agent.hidden=[16,16]",
    "agent.batch_size=16",
    "compile=eager",
    "threads=1",
]



def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process per core, one thread each; a single process for what shares one GPU."""
    on_gpu = "gpu" in config.option.markexpr.replace("not gpu", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if on_gpu else min(cores, MAX_WORKERS)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors: a second thread only costs, above all where other work runs beside."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def forks():
    """`python run.py ...` in processes that need not import anything."""
    server = forking.Server()
    yield server
    server.close()


@pytest.fixture
def forked_launches(monkeypatch, forks):
    """What tables and sweeps start from this process are forks."""
    forking.share(forks, monkeypatch.setattr)


@pytest.fixture
def runner(tmp_path, forks):
    """`runner('agent=beer', ...)` is `python run.py ...` with run folders under tmp_path, in a process of its own."""

    def command(*overrides: str) -> list[str]:
        return [sys.executable, str(ROOT / "run.py"), f"runs_root={tmp_path / 'runs'}", *overrides]

    def run(*overrides: str, timeout: float = 300) -> subprocess.CompletedProcess:
        return forks.run(command(*overrides), timeout=timeout, cwd=tmp_path, env=env)

    def start(*overrides: str, **settings) -> forking.Fork:
        """As `subprocess.Popen`; `settings` such as stdout=subprocess.PIPE."""
        return forks.start(command(*overrides), cwd=tmp_path, env=env, **settings)

    env = os.environ | {"OMP_NUM_THREADS": "1"}
    run.command, run.start, run.env = command, start, env
    return run


class NoLooks(TorchDispatchMode):
    """Fails at what a GPU is waited for: `.item()`, a branch on a tensor, shapes that depend on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITS, f"{name} looks at a value"
        return func(*args, **(kwargs or {}))


def main(monkeypatch, *overrides: str) -> int:
    """`python run.py ...` within this process, which spares its imports; returns the exit status."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py"), *overrides])
    GlobalHydra.instance().clear()
    try:
        runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    except SystemExit as stop:
        return stop.code or 0
    return 0
