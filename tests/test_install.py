"""What pip is asked for: dm-control's own needs, without the one that has no wheels for newer Pythons."""

import subprocess
import sys
import tomllib
from importlib.metadata import requires

from conftest import ROOT
from packaging.requirements import Requirement


def test_what_dm_control_needs_is_asked_for_without_it():
    """Python 3.13 gets dm-control by `--no-deps`: all that it needs but labmaze has to come with rlreg."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {r.name.lower() for r in map(Requirement, project["dependencies"]) if not r.marker}
    theirs = {r.name.lower() for r in map(Requirement, requires("dm-control")) if not r.marker}
    assert "labmaze" in theirs and theirs - {"labmaze"} <= ours | {"tqdm"}
    newest = [r for r in map(Requirement, project["dependencies"]) if r.name == "dm-control"]
    assert not newest[0].marker.evaluate({"python_version": "3.13"})


def test_a_missing_dm_control_is_one_line(tmp_path):
    (tmp_path / "dm_control.py").write_text("raise ModuleNotFoundError(name='dm_control')")
    command = [sys.executable, str(ROOT / "run.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}, cwd=tmp_path
    )
    assert done.returncode == 2 and done.stderr.startswith("error: dm-control is not installed: pip install")
    assert done.stderr.count("\n") == 1
