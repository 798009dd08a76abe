"""Starting runs: how many at a time, failures, Ctrl-C. The runs are tiny Python programs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from rlreg import launchers
from rlreg.checkpoint import Checkpoints
from rlreg.errors import UserError
from rlreg.interrupts import Interrupted
from rlreg.launchers import Job, local

# A run that saves when it is told to stop: it leaves the file named last, and exits with 130 as run.py does.
SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(0.3)
    open(sys.argv[1], "w").close()
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
print("training", flush=True)
time.sleep(60)
"""
NEVER_STOPS = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: None); print('training', flush=True)\n"
NEVER_STOPS += "while True: time.sleep(1)"


def python(folder: Path, name: str, program: str, *arguments: str) -> Job:
    return Job(name, [sys.executable, "-S", "-c", program, *arguments], folder / f"{name}.log")


def when(condition: Callable[[], bool], do: Callable[[], None]) -> None:
    """Do it from another thread as soon as the condition holds."""

    def watch() -> None:
        while not condition():
            time.sleep(0.02)
        do()

    threading.Thread(target=watch, daemon=True).start()


def test_a_failed_run_is_reported_at_the_end_and_the_others_go_on(tmp_path, capsys) -> None:
    runs = [
        python(tmp_path, "first", "print('one'); print('two')"),
        python(tmp_path, "second", "import sys; print('working'); sys.exit('error: agent.tau=2 is not valid')"),
        python(tmp_path, "third", "print('fine')"),
    ]
    assert local(runs, jobs=1) == [runs[1]]
    assert runs[0].log.read_text() == "one\ntwo\n"
    assert runs[2].log.read_text() == "fine\n"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"[1/3] first: started; log: {tmp_path / 'first.log'}"
    assert lines[1].startswith("[1/3] first: done after")
    assert lines[3].startswith("[2/3] second: ended with status 1 after")
    assert lines[-1] == f"failed: second (status 1): error: agent.tau=2 is not valid; log: {runs[1].log}"


@pytest.mark.parametrize("jobs", [1, 2])
def test_as_many_at_a_time_as_asked_for(tmp_path, jobs) -> None:
    """Each run writes when it began and ended; the most that overlap are `jobs`."""
    program = "import time; print(time.time()); time.sleep(0.5); print(time.time())"
    runs = [python(tmp_path, str(i), program) for i in range(3)]
    assert local(runs, jobs) == []
    spans = [tuple(map(float, run.log.read_text().split())) for run in runs]
    assert max(sum(begin <= at < end for begin, end in spans) for at, _ in spans) == jobs


def test_news_of_a_long_run_are_passed_on_once(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(launchers, "NEWS_SECONDS", 0.1)
    local([python(tmp_path, "long", "import time; print('step 100: return 1.0', flush=True); time.sleep(1)")], jobs=1)
    assert capsys.readouterr().out.count("[1/1] long: step 100: return 1.0\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_has_the_runs_save_and_starts_no_more(tmp_path, capsys, number) -> None:
    runs = [python(tmp_path, name, SAVES, str(tmp_path / f"{name}.saved")) for name in ("first", "second", "third")]
    training = [tmp_path / "first.log", tmp_path / "second.log"]
    when(
        lambda: all(log.exists() and "training" in log.read_text() for log in training),
        lambda: os.kill(os.getpid(), number),
    )
    with pytest.raises(Interrupted, match="the same command goes on"):
        local(runs, jobs=2)
    assert sorted(path.name for path in tmp_path.glob("*.saved")) == ["first.saved", "second.saved"]
    assert capsys.readouterr().out.count("ended with status 130") == 2
    assert not runs[2].log.exists()


def test_a_second_ctrl_c_does_not_wait(tmp_path, capsys) -> None:
    run = python(tmp_path, "stubborn", f"import os; print(os.getpid())\n{NEVER_STOPS}")

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    when(lambda: run.log.exists() and "training" in run.log.read_text(), twice)
    with pytest.raises(KeyboardInterrupt):
        local([run], jobs=1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(run.log.read_text().split()[0]), 0)


def test_minutes_start_what_fits_and_stop_what_is_left(tmp_path, capsys) -> None:
    runs = [
        Job("too long", [sys.executable, "-c", ""], tmp_path / "0.log", seconds=3600.0),
        python(tmp_path, "short", "print('done')"),
        python(tmp_path, "endless", SAVES, str(tmp_path / "endless.saved")),
        python(tmp_path, "later", SAVES, str(tmp_path / "later.saved")),
    ]
    with pytest.raises(launchers.TimeIsUp) as up:
        local(runs, jobs=1, minutes=0.1)
    assert [run.name for run in up.value.stopped] == ["endless"] and (tmp_path / "endless.saved").exists()
    assert [run.name for run in up.value.left] == ["too long", "later"] and up.value.failed == []
    assert str(up.value) == "launcher.minutes=0.1: 1 stopped, 2 not started; the same command goes on from there"
    out = capsys.readouterr().out
    assert "[1/4] too long: not started: it would take some 60.0 minutes more" in out and "[2/4] short: done" in out
    assert not runs[0].log.exists() and not runs[3].log.exists()
    fitting = Job("fits", [sys.executable, "-c", ""], tmp_path / "fits.log", seconds=1.0)
    assert local([fitting], jobs=1, minutes=5) == []


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"launcher=ray needs Ray: pip install 'rlreg\[ray\]', or give launcher=local"):
        launchers.ray([python(tmp_path, "any", "")], jobs=1)


class TestRay:
    """With Ray itself (pip install 'rlreg[ray]')."""

    @pytest.fixture(autouse=True, scope="class")
    def cluster(self):
        ray = pytest.importorskip("ray")
        # As a shell starts a script's background jobs; Ray and its workers inherit that.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        finally:
            signal.signal(signal.SIGINT, before)
        yield
        ray.shutdown()

    def test_rays_runs_start_in_this_folder_and_those_that_fail_are_returned(self, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        runs = [
            python(tmp_path, "good", "import os; print(os.getcwd())"),
            python(tmp_path, "bad", "raise SystemExit(3)"),
        ]
        assert launchers.ray(runs, jobs=2) == [runs[1]]
        assert runs[0].log.read_text() == f"{tmp_path}\n"

    def test_ctrl_c_has_the_runs_save(self, tmp_path) -> None:
        run = python(tmp_path, "long", SAVES, str(tmp_path / "long.saved"))
        when(
            lambda: run.log.exists() and "training" in run.log.read_text(),
            lambda: os.kill(os.getpid(), signal.SIGINT),
        )
        with pytest.raises(Interrupted):
            launchers.ray([run], jobs=1)
        assert (tmp_path / "long.saved").exists()


# Begins a run, and keeps count of it.
BEGINS = "import os, sys; open(sys.argv[1], 'a').write('.'); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"


@pytest.mark.cluster
def test_a_cell_of_a_lost_node_completes_on_another(tmp_path, monkeypatch, capsys) -> None:
    """Two nodes, each with a run of the same settings; one is lost when both have saved. Both complete, once, and the
    one that was lost is as the one that nothing happened to, to the bit."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny = [
        "agent=ddpg", "env=gym/Pendulum-v1", "train.total_steps=1200", "train.warmup_steps=100", "threads=1",
        "train.checkpoint_every=100", "train.log_every=600", "eval.every=600", "eval.episodes=1", "eval.samples=16",
        "agent.hidden=[16,16]", "agent.batch_size=16", "compile=eager",
    ]  # fmt: skip
    folders = [tmp_path / "one", tmp_path / "other"]
    counts = [folder.with_suffix(".begun") for folder in folders]
    cells = []
    for folder, count in zip(folders, counts, strict=True):
        command = [sys.executable, "-c", BEGINS, str(count), str(ROOT / "run.py"), *tiny, f"run_dir={folder}"]
        cells.append(Job(folder.name, command, folder.with_suffix(".log")))

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        when(
            lambda: all(any(folder.glob("checkpoints/step-*")) for folder in folders),
            lambda: cluster.remove_node(node, allow_graceful=False),
        )
        assert launchers.ray(cells, jobs=2) == []
    finally:
        ray.shutdown()
        cluster.shutdown()

    told = capsys.readouterr().out
    assert [told.count(f"{cell.name}: done") for cell in cells] == [1, 1]
    undisturbed, lost = sorted(folders, key=lambda folder: len(folder.with_suffix(".begun").read_text()))
    assert [len(folder.with_suffix(".begun").read_text()) for folder in (undisturbed, lost)] == [1, 2]
    assert (lost / "summary.json").is_file()
    assert (lost / "eval.csv").read_text() == (undisturbed / "eval.csv").read_text()
    ours, theirs = (Checkpoints(folder / "checkpoints").load() for folder in (lost, undisturbed))
    assert ours[0] == theirs[0] == 1200 and ours[1].keys() == theirs[1].keys()
    assert all(torch.equal(tensor.nan_to_num(), theirs[1][name].nan_to_num()) for name, tensor in ours[1].items())
