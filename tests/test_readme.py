"""The commands and code of README.md and docs/: every setting exists, every link leads somewhere, the code runs."""

import re
import shlex

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from hydra.core.global_hydra import GlobalHydra
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


def test_the_library_page_runs_as_it_stands(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    names = {"__name__": "docs"}
    for block in blocks(ROOT / "docs" / "library.md", "python"):
        exec(block, names)
    printed = capsys.readouterr().out
    assert "resuming from step 300" in printed and "my_run at step 600, 1 episodes per seed" in printed
    assert names["action"].shape == (1, 4, 1) and len(names["results"]["final"]["return"]) == 2
    assert printed.rstrip().endswith("(8, 5) (8,)") and (tmp_path / "my_run/sb3/seed-0.zip").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_picture_is_there(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_tour_is_its_page_and_composes():
    page, script = ((ROOT / "docs" / name).read_text() for name in ("tour.md", "tour.sh"))
    (block,) = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    told = [line for line in block.splitlines() if line.startswith("python")]
    assert [line for line in script.splitlines() if line.startswith("python")] == told and len(told) == 8


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "models").iterdir()))
def test_the_trained_policies_load_and_act(name):
    folder = RunFolder(ROOT / "models" / name)
    agent, step = load_agent(folder)
    assert step == folder.results()["steps"]
    if name != "cave_escape":
        obs = torch.zeros(1, 1, build_task(folder.load_config()).probe().obs_dim)
        assert agent.act(obs).abs().max() <= 1
    assert sum(path.stat().st_size for path in (ROOT / "models").rglob("*")) < 5e6
