"""Tables: real runs through run.py, the report from results written by hand, and a user's mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import hydra
import numpy as np
import pytest
from conftest import ROOT
from hydra.core.hydra_config import HydraConfig

from envs.d4rl.names import Info
from rlreg import tables
from rlreg.checkpoint import Checkpoints
from rlreg.errors import UserError
from rlreg.interrupts import Interrupted
from rlreg.registry import register
from rlreg.report.cell import Cell
from rlreg.tables import compose_cells, run_table

TABLE = [
    "mode=table",
    "table=beer_dmc_100k",
    "table.name=tiny",
    "table.rows=[dmc/cartpole-balance,gym/Pendulum-v1]",
    "table.columns=[ddpg,beer]",
    "launcher.jobs=2",
]
RUN = [
    "seeds=2",
    "train.total_steps=200",
    "train.warmup_steps=100",
    "train.keep_replay=true",
    "eval.every=200",
    "eval.episodes=1",
    "eval.samples=64",
    "agent.hidden=[8,8]",
    "agent.batch_size=8",
    "compile=eager",
    "threads=1",
]


def in_process(*overrides: str) -> None:
    """`run_table` as run.py calls it, without the seconds that a new process takes to start."""
    with composing(*overrides):
        run_table(hydra.compose("config", [*overrides]))


@contextmanager
def composing(*overrides: str) -> Iterator[None]:
    """Hydra's state inside a job of run.py with these overrides."""
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        HydraConfig.instance().set_config(hydra.compose("config", [*overrides], return_hydra_config=True))
        yield
    HydraConfig.instance().cfg = None


@pytest.fixture(autouse=True)
def as_run_py(monkeypatch) -> None:
    register()
    monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py")])


def cells_of(*overrides: str) -> dict[tuple[str, str], Cell]:
    """The cells of the tiny table, by row and column."""
    with composing(*TABLE, *overrides):
        table = hydra.compose("config", [*TABLE, *overrides]).table
        cells = compose_cells(tables.OmegaConf.to_object(table), tables._users_overrides())
        for cell in cells:
            assert cell.folder.path  # named here, where Hydra knows what was chosen
    return {(cell.row, cell.column): cell for cell in cells}


# -------------------------------------------------------------- real runs


@pytest.fixture(scope="module")
def first(tmp_path_factory, forks) -> tuple[Path, subprocess.CompletedProcess]:
    """A table by `python run.py`, of which one run cannot start: its folder's place is taken."""
    root = tmp_path_factory.mktemp("table") / "runs"
    register()
    blocked = cells_of(*RUN, f"runs_root={root}")["gym/Pendulum-v1", "ddpg"].folder.path
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    command = [sys.executable, str(ROOT / "run.py"), *TABLE, *RUN, f"runs_root={root}"]
    return root, forks.run(command)


def test_missing_runs_are_run_and_a_failing_one_does_not_stop_them(first) -> None:
    root, done = first
    out = root / "tables" / "tiny"
    assert done.returncode == 2, done.stderr
    line = "error: 1 of 4 runs failed (gym/Pendulum-v1 ddpg); their logs are in"
    assert done.stderr.strip() == f"{line} {out / 'logs'}"
    assert "failed: gym/Pendulum-v1 ddpg (status 2): error: run_dir=" in done.stdout
    text = (out / "table.md").read_text()
    assert text in done.stdout
    (pendulum,) = [line for line in text.split("## Final return")[1].splitlines() if "Pendulum" in line][:1]
    assert pendulum.split("|")[2].strip() == "not run"
    assert "| average (1 of 2 rows) " in text
    assert "- runs: 3 of 4 complete" in text
    rows = (out / "table.csv").read_text().splitlines()
    assert rows[0] == "env,agent,seed,return,return_last_ten,rank,q_error,steps,commit"
    assert [row.split(",")[:3] for row in rows[1:3]] == [["dmc/cartpole-balance", "ddpg", s] for s in "01"]
    assert len(rows) == 1 + 3 * 2
    pytest.importorskip("matplotlib")
    for figure in ("curves.png", "rank.png", "q_error.png"):
        assert (out / figure).read_bytes().startswith(b"\x89PNG")


def test_again_only_what_is_missing_runs_and_then_nothing(first, capsys, forked_launches) -> None:
    root, _ = first
    overrides = [*TABLE, *RUN, f"runs_root={root}"]
    cells = cells_of(*RUN, f"runs_root={root}")
    before = {key: cell.folder.summary.stat().st_mtime_ns for key, cell in cells.items() if cell.complete}
    assert len(before) == 3  # the runs lie where the cells look for them
    killed = cells["dmc/cartpole-balance", "beer"]
    finished = json.loads(killed.folder.summary.read_text())
    killed.folder.summary.unlink()
    cells["gym/Pendulum-v1", "ddpg"].folder.path.unlink()
    fill(cells["gym/Pendulum-v1", "ddpg"], [[-900.0, -700.0]], 200)

    in_process(*overrides)
    out = capsys.readouterr().out
    assert "table tiny: 4 runs, 3 complete" in out
    assert "[1/1] dmc/cartpole-balance beer: done" in out
    assert "- runs: 4 of 4 complete" in out
    for key in (("dmc/cartpole-balance", "ddpg"), ("gym/Pendulum-v1", "beer")):
        assert cells[key].folder.summary.stat().st_mtime_ns == before[key]
    # It went on from its last checkpoint, the final one.
    assert json.loads(killed.folder.summary.read_text())["final"] == finished["final"]
    assert "step 200:" not in (root / "tables/tiny/logs/dmc-cartpole-balance-beer.log").read_text()

    in_process(*overrides)
    out = capsys.readouterr().out
    assert "table tiny: 4 runs, 4 complete" in out
    assert "started" not in out


# ------------------------------------------- the report of given results


def fill(cell: Cell, returns: list[list[float]], total: int | None, diverged: tuple[int, ...] = ()) -> None:
    """Results of a run: `returns` an evaluation and seed, every 100 steps; complete where `total` is given."""
    cell.folder.path.mkdir(parents=True)
    cell.folder.open(cell.cfg)  # by which the run is found
    rows = [
        f"{100 * i},{seed},{value},{2.0 * value},{'nan' if i == 0 else 7.0}"
        for i, values in enumerate(returns)
        for seed, value in enumerate(values)
    ]
    cell.folder.eval_csv.write_text("\n".join(["step,seed,return,q_error,rank", *rows]) + "\n")
    if total is not None:
        final = {"return": returns[-1], "q_error": [np.nan] + [2.0 * v for v in returns[-1][1:]], "rank": [7.0, 8.0]}
        results = {"seeds": [0, 1], "steps": total, "final": final, "return_last_ten": returns[-1]}
        machine = {"commit": "abc1234", "gpu": None, "cpu": "A CPU", "cores": 2, "versions": {"torch": "2.0"}}
        cell.folder.summary.write_text(json.dumps(results | {"diverged": list(diverged), "provenance": machine}))


@pytest.fixture
def given(tmp_path) -> Iterator[list[str]]:
    """Three complete runs and a part of one."""
    overrides = [*RUN, f"runs_root={tmp_path}", "train.total_steps=300"]
    cells = cells_of(*overrides)
    fill(cells["dmc/cartpole-balance", "ddpg"], [[0.0, 0.0], [100.0, 200.0]], 300)
    fill(cells["dmc/cartpole-balance", "beer"], [[0.0, 0.0], [300.0, 500.0]], 300, diverged=(1,))
    fill(cells["gym/Pendulum-v1", "ddpg"], [[0.0, 0.0], [-900.0, -700.0]], 300)
    fill(cells["gym/Pendulum-v1", "beer"], [[0.0, 0.0], [-9.0, -7.0], [-8.0, -6.0]], None)
    yield overrides


def section(text: str, title: str) -> dict[str, list[str]]:
    """The rows of a table in the report: name -> cells."""
    lines = text.split(f"## {title}\n")[1].split("\n## ")[0].splitlines()
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_a_report_has_means_intervals_what_is_published_and_where_it_was_measured(given, tmp_path, capsys) -> None:
    paper = "{name:BEER,column:beer,source:a paper,figures:{dmc/cartpole-balance:983.6,average:535.8}}"
    other = "{name:DDPG,column:ddpg,source:another,seeds:8,figures:{average:[12,3.25]}}"
    others = "{name:SAC,source:a third,steps:5,figures:{gym/Pendulum-v1:[1,2,7]}}"
    published = f"table.published=[{paper},{other},{others}]"
    in_process(*TABLE, *given, "table.only_report=true", "table.note=A note.", published)
    text = (tmp_path / "tables" / "tiny" / "table.md").read_text()
    assert section(text, "Final return") == {
        "": ["ddpg", "beer", "SAC (others)"],
        "dmc/cartpole-balance": ["150.0 [100.0, 200.0]", "**400.0** [300.0, 500.0] † / 983.6", ""],
        "gym/Pendulum-v1": ["-800.0 [-900.0, -700.0]", "at step 200 of 300", "1.0 ± 2.0"],
        # over the row that both columns have
        "average (1 of 2 rows)": ["150.0 [100.0, 200.0] / 12.0 ± 3.25", "400.0 [300.0, 500.0] / 535.8", ""],
        "interquartile mean (1 of 2 rows)": ["150.0 [100.0, 200.0]", "400.0 [300.0, 500.0]", ""],
        "median of the rows' means (1 of 2 rows)": ["150.0 [100.0, 200.0]", "400.0 [300.0, 500.0]", ""],
        "lacking to 1000 (1 of 2 rows)": ["850.0 [800.0, 900.0]", "600.0 [500.0, 700.0]", ""],
    }
    assert section(text, "Probability of improvement: final return")["beer"] == ["1.00 [1.00, 1.00]", ""]
    assert section(text, "Representation rank")["dmc/cartpole-balance"] == ["7.5 [7.0, 8.0]", "7.5 [7.0, 8.0] †"]
    # One seed of two has no error of Q: no interval, and it is said.
    assert section(text, "Q-value error")["gym/Pendulum-v1"] == ["-1400.00 (n = 1)", "at step 200 of 300"]
    for line in (
        "A note.",
        "Means over the seeds (n = 2)",
        "- command: `python run.py mode=table",
        "- BEER, beside beer: a paper; number of seeds not known",
        "- SAC (others): a third; 5 steps; 7 seeds; ±: standard deviation over seeds",
        "- commit: abc1234",
        "- hardware: no GPU, A CPU, 2 cores",
        "- † dmc/cartpole-balance beer: seed 1 diverged",
    ):
        assert line in text
    assert (
        "dmc/cartpole-balance,beer,1,500.0,500.0,8.0,1000.0,300,abc1234\n"
        in (tmp_path / "tables" / "tiny" / "table.csv").read_text()
    )
    assert "started" not in capsys.readouterr().out


def test_seeds_that_run_one_after_another_are_in_progress_together(given, tmp_path) -> None:
    cell = cells_of(*given)["gym/Pendulum-v1", "beer"]
    lines = cell.folder.eval_csv.read_text().splitlines()
    cell.folder.eval_csv.write_text("\n".join(lines[:2] + lines[3:4] + lines[5:6]) + "\n")  # seed 0 alone
    assert cell.status() == "at step 100 of 300"
    steps, values = cell.evaluations("return")
    assert steps.tolist() == [0, 100, 200]
    assert np.isnan(values[:, 1]).all()


def test_a_report_of_nothing_and_without_matplotlib_is_written_all_the_same(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    in_process(*TABLE, *RUN, f"runs_root={tmp_path}", "table.only_report=true")
    out = capsys.readouterr().out
    assert "- runs: 0 of 4 complete" in out
    assert "no figures: matplotlib is not installed (pip install 'rlreg[plots]')" in out
    there = sorted(path.name for path in (tmp_path / "tables" / "tiny").iterdir())
    assert there == ["cells.csv", "logs", "report.html", "table.csv", "table.md", "table.tex"]


# ------------------------------------------------------------------- time


def test_dry_lists_what_is_done_and_left_and_starts_none(given, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("rlreg.launchers.local", lambda runs, jobs, minutes: pytest.fail("a run was started"))
    going = cells_of(*given)["gym/Pendulum-v1", "beer"].folder
    (going.path / "times.csv").write_text("step,seconds\n0,0\n100,60\n200,180\n")
    in_process(*TABLE, *given, "dry=true")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "dmc/cartpole-balance ddpg: complete"
    assert lines[7] == "gym/Pendulum-v1 beer: at step 200 of 300; about 2 min left (measured on itself)"
    assert lines[8].startswith("    python run.py env=gym/Pendulum-v1 agent=beer ")
    assert lines[9] == "4 runs, 3 complete; about 2 min left with launcher.jobs=2"
    assert not (tmp_path / "tables").exists()
    (going.path / "times.csv").unlink()
    in_process(*TABLE, *given, "dry=true")
    out = capsys.readouterr().out
    assert "at step 200 of 300; time left unknown: nothing like it has been measured" in out
    assert out.endswith("4 runs, 3 complete; time left unknown\n")


def test_a_run_that_is_stopped_when_the_minutes_are_over_has_saved_and_goes_on(tmp_path, capsys, monkeypatch) -> None:
    """A real run, whose minutes are over once it has made its second evaluation; a new `python`, no fork."""
    settings = [*TABLE, *RUN, f"runs_root={tmp_path}", "table.rows=[gym/Pendulum-v1]", "table.columns=[ddpg]"]
    settings += ["train.total_steps=1000000", "train.checkpoint_every=1000000", "launcher.minutes=60"]
    cell = cells_of(*settings)["gym/Pendulum-v1", "ddpg"]
    cell.folder.begun = True  # looked for while the table runs

    def clock() -> float:
        return time.monotonic() + 3600.0 * (cell.folder.eval_csv.exists() and cell.reached() >= 200)

    monkeypatch.setattr("rlreg.launchers.time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    with pytest.raises(Interrupted, match=r"launcher\.minutes=60: 1 stopped; the same command goes on from there"):
        in_process(*settings)
    out = capsys.readouterr().out
    assert "the 60 minutes are over" in out and "ended with status 130" in out and "- runs: 0 of 1 complete" in out
    (step,) = Checkpoints(cell.folder.checkpoints).steps()
    assert step >= 200 and cell.status().startswith(f"at step {step // 200 * 200:,} of")
    steps, seconds = cell.times()
    assert steps.tolist() == list(range(0, step + 1, 200)) and (np.diff(seconds) > 0).all()
    in_process(*settings, "dry=true")
    assert "left (measured on itself)" in capsys.readouterr().out


# ------------------------------------------------ what the runs are given


def test_runs_get_the_tables_overrides_then_the_users_and_a_share_of_the_cores(tmp_path, monkeypatch) -> None:
    started = []
    monkeypatch.setattr("rlreg.launchers.local", lambda runs, jobs, minutes: started.extend(runs) or [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    in_process(*TABLE, f"runs_root={tmp_path}", "seeds=[4]", "agent.tau=0.01")
    assert started[1].command == [
        sys.executable,
        str(ROOT / "run.py"),
        "env=dmc/cartpole-balance",
        "agent=beer",
        "seeds=3",
        "train.total_steps=100000",
        f"runs_root={tmp_path}",
        "seeds=[4]",
        "agent.tau=0.01",
        "threads=4",
    ]
    started.clear()
    in_process(*TABLE, f"runs_root={tmp_path}", "threads=3")
    assert {run.command[-1] for run in started} == {"threads=3"}
    assert {run.gpus for run in started} == {0.0}


@pytest.mark.parametrize(
    ("override", "cell", "message"),
    [
        ("table.columns=[ddpg,bear]", "dmc/cartpole-balance bear", "unknown agent 'bear'; did you mean 'beer'?"),
        (
            "table.rows=[dmc/cartpole-fly]",
            "dmc/cartpole-fly ddpg",
            "unknown env 'dmc/cartpole-fly'; did you mean 'dmc/cartpole-",
        ),
        ('table.overrides=["agent.discount=1.5"]', "dmc/cartpole-balance ddpg", "agent.discount=1.5 is not valid"),
        (
            'table.overrides=["agent.taw=1"]',
            "dmc/cartpole-balance ddpg",
            "unknown key 'agent.taw'; did you mean 'agent.tau'?",
        ),
        ('table.overrides=["seeds=0"]', "dmc/cartpole-balance ddpg", "seeds=0 is not valid"),
    ],
)
def test_a_cell_that_cannot_run_is_named_before_anything_runs(override, cell, message, tmp_path, monkeypatch) -> None:
    assert mistake(override, tmp_path, monkeypatch).startswith(f"table tiny, {cell}: {message}")


def test_a_dataset_that_is_not_there_is_named_before_anything_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # the table's files are asked for in a folder of the working one
    hopper, cells = "d4rl/hopper-medium-v2", [*TABLE, f"runs_root={tmp_path}/runs"]
    cells += [f"table.rows=[{hopper},d4rl/walker2d-medium-v2]", "table.columns=[bc,td3_bc]"]
    cells += ["table.overrides=['env.path=datasets']", "table.measures=[return]"]  # as table=a2pr_collected has it
    monkeypatch.setattr("rlreg.launchers.local", lambda runs, jobs, minutes: pytest.fail("a run was started"))
    with pytest.raises(UserError, match=rf"table tiny, {hopper} bc: dataset .*: no such file") as error:
        in_process(*cells)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    in_process(*cells, "table.only_report=true")  # which needs no data


def test_what_a_tables_runs_learn_from_is_downloaded_once_before_they_start(tmp_path, monkeypatch) -> None:
    cells = ["table.rows=[d4rl/hopper-medium-v2]", "table.columns=[bc,td3_bc]"]
    asked = []

    def download(url: str, target: Path, wanted: Info) -> None:
        asked.append(url)
        target.touch()
        os.truncate(target, wanted.size)

    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    monkeypatch.setattr("envs.d4rl.download._download", download)
    launched = lambda runs, jobs, minutes: [] if asked else pytest.fail("no data yet")  # noqa: E731
    monkeypatch.setattr("rlreg.launchers.local", launched)
    in_process(*TABLE, *cells, f"runs_root={tmp_path}/runs", 'table.overrides=["env.mirror=http://here"]')
    assert asked == ["http://here/hopper_medium-v2.hdf5"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env=dmc/cheetah-run", "env=dmc/cheetah-run: a table decides this for each of its runs; give table.rows"),
        ("run_dir=here", "run_dir=here: a table decides this for each of its runs; give runs_root"),
        ("table.rows=[]", "table.rows=[] is not valid; give at least one, each once"),
        ("table.name=../up", "table.name=../up is not valid; give a name"),
        ("runs_root=/proc/nowhere", "runs_root=/proc/nowhere: cannot be written"),
    ],
)
def test_mistakes_end_in_one_line(override, message, tmp_path, monkeypatch) -> None:
    assert mistake(override, tmp_path, monkeypatch).startswith(message)


def mistake(override: str, folder: Path, monkeypatch) -> str:
    """The line that a table with this override ends in; nothing may have been started or written."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("rlreg.launchers.local", lambda runs, jobs, minutes: pytest.fail("a run was started"))
    with pytest.raises(UserError) as error:
        in_process(*TABLE, override)
    assert "\n" not in str(error.value)
    assert not list(folder.iterdir())
    return str(error.value)


def test_a_launcher_takes_at_least_one_job() -> None:
    from rlreg.config import LauncherConfig

    with pytest.raises(UserError, match=r"launcher.jobs=0 is not valid; give a whole number >= 1"):
        LauncherConfig(jobs=0)


def test_rows_with_overrides_of_their_own_and_measures(tmp_path, capsys) -> None:
    """A row may be an environment under another name; what is reported is the table's choice."""
    rows = "+table.row_overrides={short:['env=dmc/cartpole-balance','train.total_steps=500']}"
    given = ["table.rows=[dmc/cartpole-balance,short]", rows, f"runs_root={tmp_path}"]
    cells = cells_of(*given)
    assert {row for row, _ in cells} == {"dmc/cartpole-balance", "short"}
    assert cells["short", "ddpg"].cfg.env.name == "dmc/cartpole-balance"
    steps = [cells[row, "ddpg"].cfg.train.total_steps for row in ("short", "dmc/cartpole-balance")]
    assert steps[0] == 500 != steps[1]
    in_process(*TABLE, *given, "table.measures=[q_error,solved/none]", "table.only_report=true")
    text = (tmp_path / "tables" / "tiny" / "table.md").read_text()
    assert list(section(text, "solved/none")) == ["", "dmc/cartpole-balance", "short", *AGGREGATES]
    assert section(text, "Q-value error")["short"] == ["not run", "not run"] and "Final return" not in text
    with pytest.raises(UserError, match=r"unknown row in table\.row_overrides 'lon'"):
        cells_of(*given, "+table.row_overrides.lon=[]")


@pytest.mark.parametrize("table", ["beer_beta", "beer_illustrations", "a2pr_d4rl", "dred_1600"])
def test_a_table_may_be_narrowed_to_one_row_and_column(tmp_path, table) -> None:
    """Whatever its YAML says of the others; what it has no row or column for is an error all the same."""
    with composing(f"table={table}"):
        whole = hydra.compose("config", [f"table={table}"]).table
        row, column = whole.rows[-1], whole.columns[-1]
    given = [f"table={table}", f"table.rows=[{row}]", f"table.columns=[{column}]", f"runs_root={tmp_path}"]

    def compose(*overrides: str) -> list[Cell]:
        with composing(*given, *overrides):
            cfg = hydra.compose("config", [*given, *overrides])
            return compose_cells(tables.OmegaConf.to_object(cfg.table), [])

    assert [(cell.row, cell.column) for cell in compose()] == [(row, column)]
    for kind in ("row", "column"):
        with pytest.raises(UserError, match=rf"unknown {kind} in table\.{kind}_overrides 'lon'"):
            compose(f"+table.{kind}_overrides.lon=[]")


def test_columns_with_overrides_of_their_own(tmp_path) -> None:
    """A column may be an agent under another name; its overrides come after its row's, before the user's."""
    rows = "+table.row_overrides={dmc/cartpole-balance:['agent.tau=0.3','agent.discount=0.9']}"
    columns = "+table.column_overrides={slow:['agent=ddpg','agent.tau=0.1','train.total_steps=500']}"
    given = ["table.columns=[ddpg,slow]", "table.rows=[dmc/cartpole-balance]", rows, columns, f"runs_root={tmp_path}"]
    found = {column: cell.cfg for (_, column), cell in cells_of(*given).items()}
    assert found["slow"].agent.name == found["ddpg"].agent.name == "ddpg"
    assert (found["ddpg"].agent.tau, found["slow"].agent.tau) == (0.3, 0.1)
    assert found["slow"].agent.discount == 0.9 and found["slow"].train.total_steps == 500
    assert cells_of(*given, "train.total_steps=600")["dmc/cartpole-balance", "slow"].cfg.train.total_steps == 600
    like = "+table.column_overrides={ddpg:['agent.tau=0.2'],slow:[ddpg,'agent.discount=0.8']}"
    slow = cells_of(*given[:3], like, given[4])["dmc/cartpole-balance", "slow"]
    assert (slow.cfg.agent.name, slow.cfg.agent.tau, slow.cfg.agent.discount) == ("ddpg", 0.2, 0.8)
    with pytest.raises(UserError, match=r"table\.column_overrides: ddpg -> slow -> ddpg never ends"):
        cells_of(*given[:3], "+table.column_overrides={ddpg:[slow],slow:[ddpg]}", given[4])
    with pytest.raises(UserError, match=r"unknown column in table\.column_overrides 'slo'"):
        cells_of(*given, "+table.column_overrides.slo=[]")


AGGREGATES = (
    "average (0 of 2 rows)",
    "interquartile mean (0 of 2 rows)",
    "median of the rows' means (0 of 2 rows)",
)


@pytest.mark.parametrize("table", [path.stem for path in (ROOT / "configs/table").glob("*.yaml")])
def test_the_tables_that_come_with_it_compose(table) -> None:
    """Every row and every column, each with one of the other kind: what they set is set apart."""
    with composing(f"table={table}"):
        settings = tables.OmegaConf.to_object(hydra.compose("config", [f"table={table}"]).table)
        rows, columns = settings.rows, settings.columns
        for i in range(max(len(rows), len(columns))):
            settings.rows, settings.columns = [rows[i % len(rows)]], [columns[i % len(columns)]]
            (cell,) = compose_cells(settings, [])
            assert cell.cfg.env.name and cell.cfg.agent.name


def test_a_note_does_not_speak_of_runs_that_the_user_changed() -> None:
    """100k steps are not spoken of beside others as if they were these."""
    table = tables.TableConfig("t", ["a"], ["b"], note="100k steps are few.")
    assert tables.note_of(table, ["device=cuda", "threads=1"]) == "100k steps are few."
    said = tables.note_of(table, ["train.total_steps=5000", "device=cuda"])
    assert said.startswith("With train.total_steps=5000, of which this, ") and said.endswith(": 100k steps are few.")
