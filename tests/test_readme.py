"""The commands and code of README.md and docs/: every setting exists, every link leads somewhere, the code runs."""

import importlib
import os
import re
import shlex
import subprocess

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from test_runner import main

from rlreg.build import build_task, load_agent
from rlreg.config import check_optional
from rlreg.run_folder import RunFolder

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, *languages: str) -> list[str]:
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", page.read_text(), re.M | re.S)


def commands() -> list[list[str]]:
    """The arguments of every `python run.py ...` in the pages' blocks, each once."""
    text = "\n".join(block for page in PAGES for block in blocks(page, "sh", "bash")).replace("\\\n", " ")
    lines = dict.fromkeys(line.split("python run.py", 1)[1] for line in text.splitlines() if "python run.py" in line)
    found = [shlex.split(line, comments=True) for line in lines]
    return [given for given in found if not {"--cfg", "--help"} & set(given) and "..." not in " ".join(given)]


def test_the_pages_commands_are_found_at_all():
    assert len(commands()) > 40


@pytest.mark.parametrize("given", commands(), ids=" ".join)
def test_a_command_is_one_that_the_runner_takes(monkeypatch, capsys, given):
    # Of a sweep, its first run. Composing checks names and choices, not values.
    one = [re.sub(r"^(\w+)=([\w/]+),.*", r"\1=\2", a) for a in given if a != "--multirun"]
    check_optional("protocol", one)
    assert main(monkeypatch, *one, "--cfg", "job") == 0
    printed = capsys.readouterr()
    assert not printed.err and "total_steps" in printed.out


def test_the_snippet_evaluates_and_goes_on_training(monkeypatch, capsys, tmp_path):
    settings = [*TINY, "env=gym/Pendulum-v1", "agent=beer", f"run_dir={tmp_path}/run"]
    assert main(monkeypatch, *settings) == 0
    (snippet,) = blocks(ROOT / "docs" / "sb3.md", "python")
    for there, here in (
        ("models/cartpole-swingup", f"{tmp_path}/run"),
        ("n_eval_episodes=10", "n_eval_episodes=1"),
        ("model.learn(10_000", "before = [p.clone() for p in model.actor.parameters()]; model.learn(20"),
    ):
        assert snippet.count(there) == 1
        snippet = snippet.replace(there, here)
    names = {}
    capsys.readouterr()
    exec(snippet, names)
    mean, _ = eval(capsys.readouterr().out.strip(), {"np": np})
    assert -2000 < mean < 0
    model = names["model"]
    assert model.num_timesteps == 420
    assert not any(torch.equal(a, b) for a, b in zip(names["before"], model.actor.parameters(), strict=True))


def test_the_library_notebook_runs_as_it_stands(monkeypatch, tmp_path):
    """Its code is the page's, each block runs, and what was drawn when it was made is drawn again."""
    nbformat = pytest.importorskip("nbformat", reason="nbclient and ipykernel come with the extra test")
    pytest.importorskip("ipykernel")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    notebook = importlib.import_module("notebook")
    kept = nbformat.read(ROOT / "docs" / "library.ipynb", as_version=4)
    assert [(cell.cell_type, cell.source) for cell in kept.cells] == [
        (cell.cell_type, cell.source) for cell in notebook.cells()
    ], "docs/library.md has changed: python docs/notebook.py"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run = notebook.executed(tmp_path)
    both = {"run": run, "kept": kept}
    shown = {name: [o for cell in nb.cells for o in cell.get("outputs", [])] for name, nb in both.items()}
    pictures = {name: sum("image/png" in output.get("data", {}) for output in found) for name, found in shown.items()}
    assert pictures == {"run": 2, "kept": 2}
    printed = "".join(output.text for output in shown["run"] if output.output_type == "stream")
    assert "resuming from step 300" in printed and "my_run at step 600, 1 episodes per seed" in printed
    assert "global_step=72, episodic_return=" in printed and "(8, 5) (8,)" in printed
    assert "speed: 0.2" in (tmp_path / "point/config.yaml").read_text() and (tmp_path / "point/summary.json").exists()
    assert (tmp_path / "my_run/sb3/seed-0.zip").exists() and (tmp_path / "films/seed-0.mp4").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_picture_is_there(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_tour_is_its_page():
    page, script = ((ROOT / "docs" / name).read_text() for name in ("tour.md", "tour.sh"))
    told = [line for block in blocks(ROOT / "docs/tour.md", "sh") for line in block.splitlines() if "run.py" in line]
    sizes = dict(re.findall(r"(\w+)=\$\{\1:-([^}]+)\}", script))
    done = []
    for line in script.splitlines():
        if line.startswith("$RUN"):
            line = line.removesuffix(" &").removesuffix(" ${EXTRA:-}")
            done.append(re.sub(r"\$(\w+)", lambda name: sizes[name.group(1)], line))
    assert done == told and len(told) > 8 and "resuming from step" in page


def test_the_tour_from_its_beginning_to_its_end(tmp_path, forks):
    """The script itself, at a small size: a run is stopped, goes on, is extended, compared, filmed and exported."""
    sizes = {"STEPS": "600", "MORE": "800", "WARMUP": "100", "EVERY": "200", "FILM": "cave_escape", "STOP_AT": "0"}
    small = "agent.hidden=[16,16] agent.batch_size=16 eval.episodes=2 eval.samples=64 compile=eager threads=1"
    given = {"RUN": f"{forks.client} {ROOT / 'run.py'}", "EXTRA": small, "OMP_NUM_THREADS": "1"}
    (tmp_path / "models").symlink_to(ROOT / "models")
    tour, env = ["bash", str(ROOT / "docs/tour.sh")], os.environ | sizes | given
    done = subprocess.run(tour, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    out = done.stdout
    assert "the same command goes on from there" in done.stderr
    at = -1
    for place in (
        *("resuming from step", "5 episodes per seed", "resuming from step 600", "ddpg", "4 seeds of 2 runs written"),
        *("report/report.html", "films/seed-0.mp4", "sb3/seed-0.zip"),
    ):
        at = out.find(place, at + 1)
        assert at >= 0, (place, out)
    beer, ddpg = (next((tmp_path / "runs/gym/Pendulum-v1").glob(f"{name}-*")) for name in ("beer", "ddpg"))
    for run in (beer, ddpg):
        steps = [int(row.split(",")[0]) for row in (run / "eval.csv").read_text().splitlines()[1:]]
        assert steps == sorted(2 * [0, 200, 400, 600, 800])
    assert len(list((tmp_path / "runs/by-seed").rglob("events.out.tfevents.*"))) == 4
    assert (tmp_path / "films/seed-0.mp4").stat().st_size > 1000 and (tmp_path / "films/seed-0.png").exists()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "models").iterdir()))
def test_the_trained_policies_load_and_act(name):
    folder = RunFolder(ROOT / "models" / name)
    agent, step = load_agent(folder)
    assert step == folder.results()["steps"]
    if name != "cave_escape":
        obs = torch.zeros(1, 1, build_task(folder.load_config()).probe().obs_dim)
        assert agent.act(obs).abs().max() <= 1
    assert sum(path.stat().st_size for path in (ROOT / "models").rglob("*")) < 5e6
