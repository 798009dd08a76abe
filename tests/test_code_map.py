"""docs/code_map.md names every file of the packages, and nothing that is not there."""

import importlib
import re

import pytest
from conftest import ROOT

TEXT = (ROOT / "docs" / "code_map.md").read_text()


def test_every_file_has_a_line_and_every_line_a_file():
    listed = re.findall(r"^\| `([\w/]+\.py)` \| \S", TEXT, re.M)
    paths = [path for package in ("rlreg", "agents", "envs") for path in (ROOT / package).rglob("*.py")]
    there = {path.relative_to(ROOT).as_posix() for path in paths}
    there = {path for path in there if (ROOT / path).read_text().strip()} | {"run.py"}
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize("name", re.findall(r"^\| `([A-Z]\w+\.\w+)` \| ", TEXT, re.M))
def test_the_calls_of_a_batchs_way_exist(name):
    holders = {
        "OnlineTraining": "rlreg.training.online",
        "BatchTraining": "rlreg.training.base",
        "Learner": "rlreg.learner",
        "TD3": "agents.td3",
    }
    owner, _, method = name.partition(".")
    assert callable(getattr(getattr(importlib.import_module(holders[owner]), owner), method))
