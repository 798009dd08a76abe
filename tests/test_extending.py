"""docs/extending.md: the files of each example, written into a folder outside the repository, and its commands."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY

TEXT = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))
SMALL = [*(s for s in TINY if "total_steps" not in s and "warmup" not in s), "train.total_steps=200"]
SMALL += ["train.warmup_steps=100", "seeds=1"]


def write_files(section: str, folder: Path) -> None:
    """The files of a section: each is a block of code under a line that is its name and nothing else."""
    for name, text in re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", SECTIONS[section], re.M | re.S):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def commands(section: str) -> list[list[str]]:
    """The arguments of every `python ... run.py ...` of a section."""
    blocks = re.findall(r"^```sh\n(.*?)^```", SECTIONS[section], re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line.split("run.py", 1)[1]) for line in lines if "run.py" in line]


@pytest.fixture
def run(tmp_path, forks):
    """`run(setting, ...)`: `python run.py` in `tmp_path`, which is on the path as PYTHONPATH=. has it; what it prints.

    With `refused=True` what it says where it ends with 2.
    """

    def run(*given: str, refused: bool = False) -> str:
        env = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = forks.run([sys.executable, str(ROOT / "run.py"), *given], cwd=tmp_path, env=env, timeout=600)
        assert done.returncode == (2 if refused else 0), done.stderr
        return done.stderr if refused else done.stdout

    return run


def small(given: list[str]) -> list[str]:
    """A command of the docs, at the size of a test."""
    return [*(o for o in given if not o.startswith(("train.total_steps", "launcher"))), *SMALL]


AGENT, REGULARIZER, LEVELS, TASK, SUITE, TABLE, MEASURE = (
    "An agent",
    "A regulariser",
    "A level task of your own",
    "A task of your own on dm_control",
    "A suite of tasks",
    "A table",
    "A new measure",
)


def test_an_agent_is_one_file_and_one_yaml(run, tmp_path):
    """It learns with a regulariser, goes on after half of its run to the same curve, and has no export."""
    write_files(AGENT, tmp_path)
    (given,) = commands(AGENT)
    settings = [o for o in small(given) if not o.startswith("seeds")]
    settings += ["seeds=2", "train.warmup_steps=50", "train.keep_replay=true"]
    run(*settings, "run_dir=whole")
    summary = json.loads((tmp_path / "whole/summary.json").read_text())
    assert summary["steps"] == 200 and summary["diverged"] == [] and summary["final"]["rank"][0] > 0
    run(*settings, "train.total_steps=100", "run_dir=half")
    run(*settings, "run_dir=half", "trust=true")
    assert (tmp_path / "half/eval.csv").read_text() == (tmp_path / "whole/eval.csv").read_text()
    refused = run("mode=export", "run_dir=whole", "trust=true", refused=True)
    assert "agent=no_target has no counterpart in Stable-Baselines3" in refused


def test_a_regulariser_is_one_class_and_one_yaml(run, tmp_path):
    write_files(REGULARIZER, tmp_path)
    (given,) = commands(REGULARIZER)
    printed = run(*small(given))
    assert re.search(r"run folder: runs/gym/Pendulum-v1/td3\+small_features-", printed)
    refused = run(*small(given), "regularizer.weight=-1", refused=True)
    assert refused.strip() == "error: regularizer.weight=-1.0 is not valid; give a number >= 0"
    # What its own agent is called: by its plain name.
    (tmp_path / "agent").mkdir()
    own = "defaults:\n  - td3\n  - override /regularizer@_global_.regularizer: small_features\n"
    (tmp_path / "agent/smooth.yaml").write_text(own + "name: smooth\nown_regularizer: small_features\n")
    mine = [o for o in small(given) if not o.startswith(("agent=", "regularizer="))]
    assert "runs/gym/Pendulum-v1/smooth-" in run(*mine, "agent=smooth")


@pytest.mark.parametrize("agent", ["uniform", "plr", "dr"])
def test_a_level_task_is_one_file_and_one_yaml_and_its_students_learn(run, tmp_path, agent):
    """Its observations, levels and starts are nothing like MiniGrid's. Levels of lengths that were never played."""
    write_files(LEVELS, tmp_path)
    given = [o for o in commands(LEVELS)[0] if not o.startswith(("agent=", "train."))]
    student = ["hidden_dim=16", "head_dim=8", "num_envs=16", "learning_rate=5e-3", "discount=0.9"]
    small_run = ["train.total_steps=40", "train.log_every=20", "train.checkpoint_every=20", "eval.every=20"]
    run(
        *given, f"agent={agent}", *(f"agent.student.{setting}" for setting in student), *small_run,
        "agent.information.every=20", "agent.information.length=64", "threads=1", "run_dir=run",
    )  # fmt: skip
    final = json.loads((tmp_path / "run/summary.json").read_text())["final"]
    assert final["solved/longer"] == final["solved"] and final["solved"][0] > 0.9
    found = run("mode=evaluate", "run_dir=run", "trust=true")
    assert f"solved/longer {final['solved'][0]:.2f}" in found


def test_what_a_level_task_has_not_is_one_line(run, tmp_path):
    write_files(LEVELS, tmp_path)
    given = [o for o in commands(LEVELS)[0] if not o.startswith("agent=")]
    given += ["agent=vae_dred", "agent.pairs=4", "agent.interpolations=9"]
    assert run(*given, refused=True).strip() == "error: corridor has no model of levels, which vae_dred needs"


def test_a_task_of_ones_own_is_one_file_and_one_yaml(run, tmp_path):
    write_files(TASK, tmp_path)
    (given,) = commands(TASK)
    run(*small(given), "run_dir=run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert 0 < summary["final"]["return"][0] < 1000 and summary["final"]["length"] == [1000.0]
    found = run("mode=evaluate", "run_dir=run", "trust=true", "eval.episodes=2")
    assert f"seed 0: return {summary['final']['return'][0]:.2f}" in found


def test_a_suite_is_one_package_that_an_entry_point_names(run, tmp_path):
    write_files(SUITE, tmp_path)
    # What `pip install` leaves of a package's entry points.
    entry = re.search(r"\[project.entry-points.(\w+)\]\n(.*)\n", (tmp_path / "pyproject.toml").read_text())
    info = tmp_path / "pendula-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pendula\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[{entry.group(1)}]\n{entry.group(2).replace(chr(34), '')}\n")
    (given,) = commands(SUITE)
    run(*small(given), "run_dir=run")
    # A registered suite is known to whoever reads its run folders: no trust is asked for.
    assert "seed 0: return -" in run("mode=evaluate", "run_dir=run", "eval.episodes=1")


def test_a_table_is_one_yaml(run, tmp_path):
    write_files(TASK, tmp_path)
    write_files(TABLE, tmp_path)
    (given,) = commands(TABLE)
    run(*small(given), "table.rows=[spin]", "table.columns=[td3,quiet]")
    text = (tmp_path / "runs/tables/spinning/table.md").read_text()
    assert "What the pole does" in text and re.search(r"\| spin \| \S+ +\| \S+", text) and "not run" not in text


def test_a_measure_is_two_files(tmp_path):
    """In a copy of the package, to which the lines of the docs are added."""
    for part in ("rlreg", "agents", "envs", "configs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", tmp_path)
    columns, value, line = re.findall(r"^```python\n(.*?)^```", SECTIONS[MEASURE], re.M | re.S)
    evaluation, metrics = tmp_path / "rlreg/evaluation.py", tmp_path / "rlreg/metrics.py"
    text = re.sub(r"^COLUMNS = .*\n", columns, evaluation.read_text(), count=1, flags=re.M)
    evaluation.write_text(text.replace('        "return_std": returns', value + '        "return_std": returns'))
    metrics.write_text(metrics.read_text().replace("METRICS = (\n", "METRICS = (\n" + line))
    (given,) = commands(MEASURE)
    given += ["table.rows=[gym/Pendulum-v1]", "table.columns=[ddpg]"]
    command = [sys.executable, "run.py", *small(given)]
    env = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "runs/tables/beer_dmc_100k/table.md").read_text()
    mean, worst = (float(text.split(f"## {title}\n")[1].split("gym/Pendulum-v1 |")[1].split()[0].strip("*"))
                   for title in ("Final return", "Worst return"))  # fmt: skip
    assert worst < mean < 0
    (summary,) = tmp_path.glob("runs/gym/Pendulum-v1/ddpg-*/summary.json")
    assert json.loads(summary.read_text())["final"]["worst_return"][0] == pytest.approx(worst, abs=0.06)


def test_the_examples_import_what_there_is():
    for module, names in re.findall(r"^from ((?:rlreg|envs|agents)[\w.]*) import (.*)$", TEXT, re.M):
        for name in names.split(", "):
            is_module = (ROOT / module.replace(".", "/") / f"{name}.py").exists()
            assert is_module or hasattr(importlib.import_module(module), name), f"{module}.{name}"
