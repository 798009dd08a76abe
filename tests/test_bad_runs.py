"""What a run does about bad worlds: it goes on, counts, tells; a seed with too many is stopped, and no run lies."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY, main
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlreg.checkpoint import Checkpoints, ReplayLog
from rlreg.errors import UserError
from rlreg.run_folder import RunFolder


def world(kind: str) -> list[str]:
    return ["env=gym/Pendulum-v1", f"env.id=worlds:rlreg-test/{kind}-v0", "env.workers=0"]


def test_bad_steps_are_left_out_counted_and_told(monkeypatch, capsys, tmp_path) -> None:
    """One in twenty is the greatest share that is allowed; evaluations, in which every episode is cut, are told too."""
    run = tmp_path / "run"
    settings = [*TINY, *world("NanReward"), "agent=ddpg", f"run_dir={run}", "train.keep_replay=true"]
    assert main(monkeypatch, *settings, "train.buffer_capacity=400") == 0
    said = capsys.readouterr().err
    assert "reward is nan at episode step 20" in said and "their episodes are cut there, their rows left out" in said
    assert "evaluation at step 0: episodes cut by a bad step: 2 of seed 0" in said
    summary = json.loads((run / "summary.json").read_text())
    assert summary["bad_steps"] == [20] and summary["diverged"] == [] and summary["final"]["length"] == [20.0]
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [p.value for p in events.Scalars("env/bad_steps")][-1] == 20
    assert [p.value for p in events.Scalars("eval/bad_steps")][-1] == 2
    info = Checkpoints(run / "checkpoints").load()[2]
    rows = torch.cat([ReplayLog(run / "replay").read(*chunk[:2]) for chunk in info["replay"]["chunks"]], dim=1)[0]
    assert rows.isfinite().all() and len(rows) == 400
    time, duplicate = rows[:, 2], (rows[1:, :-1] == rows[:-1, :-1]).all(dim=1)  # but for what follows
    assert duplicate.sum() == 20 and (time * 50).max().round() == 18  # the step from 19 to 20 is in no row


def test_a_seed_with_too_many_bad_steps_is_stopped_and_the_others_go_on(monkeypatch, capsys, tmp_path) -> None:
    """The others' results are those that they have without it, and so are the second call's."""
    settings = [*TINY, *world("SickSeed"), "agent=ddpg", "train.log_every=20"]
    run, calm = tmp_path / "run", tmp_path / "calm"
    assert main(monkeypatch, *settings, "seeds=[0,1]", f"run_dir={run}") == 0
    said = capsys.readouterr().err
    reason = "seed 1: 11 of 160 steps were bad, more than train.max_bad_share=0.05"
    assert f"{reason}; this seed learns no more, its state is in {run}/diverged-seed-1-step-160.safetensors" in said
    assert json.loads((run / "summary.json").read_text())["diverged"] == [1]
    held, last = load_file(run / "diverged-seed-1-step-160.safetensors"), Checkpoints(run / "checkpoints").load()[1]
    assert torch.equal(held["actor/0.weight"], last["agent/actor/0.weight"][1])

    assert main(monkeypatch, *settings, "seeds=[0,2]", f"run_dir={calm}") == 0
    ours, theirs = (
        [row for row in csv.DictReader((folder / "eval.csv").open()) if row["seed"] == "0"] for folder in (run, calm)
    )
    assert ours == theirs


@pytest.mark.parametrize("agent", ["ddpg", "sb3/td3", "sb3/ppo"])
def test_a_run_whose_every_seed_was_stopped_is_never_complete(monkeypatch, capsys, tmp_path, agent) -> None:
    run = tmp_path / "run"
    tiny = [s for s in TINY if not (agent.startswith("sb3") and s.startswith("agent.batch"))]
    settings = [*tiny, *world("AlwaysBad"), f"agent={agent}", "seeds=2", f"run_dir={run}"]
    lines = []
    for _ in range(2):
        assert main(monkeypatch, *settings) == 2
        lines.append(capsys.readouterr().err.strip().splitlines()[-1])
        assert not (run / "summary.json").exists()
    assert lines[0] == lines[1] and lines[0].startswith("error: no seed is left that learns (seed 0: ")
    assert "steps were bad, more than train.max_bad_share=0.05; seed 1: " in lines[0]


def test_sb3_leaves_bad_rows_out(monkeypatch, capsys, tmp_path) -> None:
    from rlreg.training import sb3_baselines

    kept = []
    leave_out = sb3_baselines._leave_out_bad_rows
    monkeypatch.setattr(sb3_baselines, "_leave_out_bad_rows", lambda b, w: (kept.append(b), leave_out(b, w)))
    tiny = [s for s in TINY if not s.startswith("agent.batch")]
    settings = [*tiny, *world("NanReward"), "agent=sb3/td3", f"run_dir={tmp_path}/run"]
    assert main(monkeypatch, *settings) == 0
    assert kept[0].pos == 380 and (kept[0].observations[:380, 0, 2] * 50).max() < 18.5
    assert json.loads((tmp_path / "run/summary.json").read_text())["bad_steps"] == [20]
    assert " steps of seed 0 were bad, such as this one: worlds:rlreg-test" in capsys.readouterr().err


def test_a_resume_that_is_not_exact_says_so_in_one_line(monkeypatch, capsys, tmp_path) -> None:
    for kind, exact in (("Remembers", False), ("GlobalNumpy", True)):
        settings = [*TINY, *world(kind), "agent=ddpg", f"run_dir={tmp_path}/{kind}", "train.checkpoint_every=130"]
        monkeypatch.setattr("rlreg.eval_table.EvalTable.add", stop_after(3))
        assert main(monkeypatch, *settings) == 130
        monkeypatch.undo()
        capsys.readouterr()
        assert main(monkeypatch, *settings) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "not exactly as if" in line]
        assert len(said) == (0 if exact else 1)
        if not exact:
            assert "going on from step 130" in said[0] and "(seed 0, world 0): its saved state does not come" in said[0]


def stop_after(evaluations: int):
    """`EvalTable.add` that is cut off by a second Ctrl-C, which saves nothing, after so many evaluations."""
    from rlreg.eval_table import EvalTable

    made, add = [], EvalTable.add

    def cut(self, step, values) -> None:
        add(self, step, values)
        made.append(step)
        if len(made) == evaluations:
            raise KeyboardInterrupt

    return cut


def test_a_failed_job_of_a_sweep_is_told_and_the_others_run(monkeypatch, capsys, tmp_path) -> None:
    """The first job's tau is refused when its agent is built; the second has none of that."""
    settings = [*TINY, *world("Walk"), "agent=ddpg", f"runs_root={tmp_path}", "train.total_steps=100", "--multirun"]
    assert main(monkeypatch, *settings, "train.warmup_steps=100,50") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[0].startswith("error: job 1: train.warmup_steps=100 is not valid")
    assert said[-1].startswith("error: 1 of 2 runs failed (") and "train.warmup_steps=100" in said[-1]
    assert len(list(tmp_path.rglob("summary.json"))) == 1


def test_a_job_that_cannot_be_composed_is_told_and_the_others_run(monkeypatch, capsys, tmp_path) -> None:
    """Such as for a choice that there is not, a value of another type, or a setting that only the other agent has."""
    settings = [*TINY, *world("Walk"), "train.total_steps=20", "train.warmup_steps=10", "--multirun"]
    others = {
        "agent=ddpg,ddgp": "job 2: unknown agent 'ddgp'; did you mean 'ddpg'?",
        "agent=ddpg agent.tau=0.005,high": "job 2: agent.tau=high is not valid; give a number",
        "agent=ddpg,sac agent.policy_delay=1": "job 2: unknown key 'agent.policy_delay'",
        "agent=sac,ddpg +agent.target_entropy=-1": "job 2: unknown key 'agent.target_entropy'",
    }
    for number, (typed, line) in enumerate(others.items()):
        assert main(monkeypatch, *settings, f"runs_root={tmp_path}/{number}", *typed.split()) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert said[0].startswith(f"error: {line}") and said[-1].startswith("error: 1 of 2 runs failed (")
        assert len(said) == 2 and len(list((tmp_path / str(number)).rglob("summary.json"))) == 1


def test_a_run_of_a_table_waits_for_the_process_that_is_in_its_folder(tmp_path, monkeypatch, capsys) -> None:
    """Such as the orphan of a table that was killed: it does not fail by what is no failure of its own."""
    monkeypatch.delenv("RLREG_WAIT", raising=False)
    folder = RunFolder(tmp_path)
    with folder.locked(), pytest.raises(UserError, match="another process is running in it"), folder.locked():
        pass
    monkeypatch.setenv("RLREG_WAIT", "1")
    order: list[str] = []

    def second() -> None:
        with folder.locked():
            order.append("second")

    with folder.locked():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.5)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"] and "waiting for another process" in capsys.readouterr().out


def test_a_table_killed_and_started_again_waits_for_its_orphans_and_takes_over_what_died(runner, tmp_path) -> None:
    """kill -9 ends the table alone. One of its runs goes on and is waited for, one dies too and is gone on with."""
    table = [
        "mode=table", "table=beer_dmc_100k", "table.rows=[gym/Pendulum-v1]", "table.columns=[ddpg,td3]",
        "table.measures=[return]", "launcher.jobs=2", *TINY, "seeds=1",
    ]  # fmt: skip
    first = runner.start(*table, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("runs/gym/Pendulum-v1/*/checkpoints/step-*1[0-9][0-9]"))) < 2:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    first.kill()
    first.wait()
    orphans = {process_of(folder): folder for folder in (tmp_path / "runs/gym/Pendulum-v1").iterdir()}
    dies, lives = sorted(orphans, key=lambda pid: "td3" not in orphans[pid].name)
    os.kill(dies, signal.SIGKILL)
    os.kill(lives, signal.SIGSTOP)  # so that it has not ended before somebody waits for it
    logs = tmp_path / "runs/tables/beer_dmc_100k/logs"
    again = runner.start(*table, stdout=subprocess.PIPE)
    while "waiting for another process" not in (logs / "gym-Pendulum-v1-ddpg.log").read_text():
        assert again.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(lives, signal.SIGCONT)
    out = again.communicate(timeout=300)[0]
    assert again.returncode == 0 and out.count(": done after") == 2 and "failed" not in out, out
    waited, went_on = ((logs / f"gym-Pendulum-v1-{agent}.log").read_text() for agent in ("ddpg", "td3"))
    assert "this run is complete at step 400" in waited and "resuming" not in waited
    assert "resuming from step" in went_on and "waiting" not in went_on
    while has_not_ended(lives):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_not_ended(process: int) -> bool:
    """Whether it is there and runs: one that has ended stays a zombie until whoever adopted it looks at it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def process_of(folder: Path) -> int:
    """The process that holds a run's folder, by Linux's list of locks."""
    inode = (folder / ".lock").stat().st_ino
    fields = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return next(int(pid) for _, kind, _, _, pid, place, *_ in fields if kind == "FLOCK" and place.endswith(f":{inode}"))
