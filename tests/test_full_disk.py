"""A disk that is full while a run goes on: one line, nothing half-written, and the run goes on when there is room."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import TINY, main

SETTINGS = [*TINY, "env=gym/Pendulum-v1", "env.id=worlds:rlreg-test/Walk-v0", "env.workers=0", "agent=ddpg"]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: what is written then fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*writing*") if path.exists()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert main(patch, *SETTINGS, f"run_dir={folder}") == 0
    return folder


# What does not fit is the events, or a checkpoint's tensors.
@pytest.mark.parametrize("size", [1_000, 9_000])
def test_a_full_disk_is_one_line_and_the_run_goes_on(monkeypatch, capfd, tmp_path, undisturbed, size) -> None:
    run = tmp_path / "run"
    with room_for(size):
        assert main(monkeypatch, *SETTINGS, f"run_dir={run}") == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "no room on the disk (File too large); the same command goes on when there is" in said[0]
    assert not half_written(run) and not (run / "summary.json").exists()
    assert main(monkeypatch, *SETTINGS, f"run_dir={run}") == 0
    assert (run / "eval.csv").read_bytes() == (undisturbed / "eval.csv").read_bytes()


def test_a_full_disk_while_a_dataset_is_written(monkeypatch, capfd, tmp_path) -> None:
    out = tmp_path / "data.hdf5"
    settings = [*SETTINGS, "mode=collect", "collect.kind=random", "collect.steps=5000", f"out={out}"]
    with room_for(20_000):
        assert main(monkeypatch, *settings) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "cannot be written" in said[0] and not list(tmp_path.iterdir())
    assert main(monkeypatch, *settings) == 0 and out.exists()
