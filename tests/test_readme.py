"""The README's own commands and snippet: every setting in them exists, and the snippet does what it says."""

import re
import shlex

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from test_runner import main

from rlreg.config import check_optional

README = (ROOT / "README.md").read_text()


def commands() -> list[list[str]]:
    """The arguments of every `python run.py ...` in the README's blocks."""
    blocks = "\n".join(re.findall(r"^```(?:sh|bash)\n(.*?)^```", README, re.M | re.S)).replace("\\\n", " ")
    found = [shlex.split(line.split("python run.py", 1)[1], comments=True) for line in blocks.splitlines()
             if "python run.py" in line]  # fmt: skip
    return [given for given in found if "--cfg" not in given]


def test_commands_are_found():
    assert len(commands()) > 15


@pytest.mark.parametrize("given", commands(), ids=" ".join)
def test_a_command_is_one_that_the_runner_takes(monkeypatch, capsys, given):
    # Of a sweep, its first run. Composing checks names and choices, not values.
    one = [re.sub(r"^(\w+)=([\w/]+),.*", r"\1=\2", a).replace("<hash>", "hash") for a in given if a != "--multirun"]
    check_optional("protocol", one)
    assert main(monkeypatch, *one, "--cfg", "job") == 0
    printed = capsys.readouterr()
    assert not printed.err and "total_steps" in printed.out


def test_the_snippet_evaluates_and_goes_on_training(monkeypatch, capsys, tmp_path):
    settings = [*TINY, "env=gym/Pendulum-v1", "agent=beer", f"run_dir={tmp_path}/run"]
    assert main(monkeypatch, *settings) == 0
    snippet = re.search(r"^```python\n(.*?)^```", README, re.M | re.S).group(1)
    for there, here in (
        ("runs/dmc/cheetah-run/beer/<hash>", f"{tmp_path}/run"),
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
