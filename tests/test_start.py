"""What a command loads before it does anything: what it does not need costs seconds of every run."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT, TINY

HEAVY = {"torch._dynamo", "scipy.stats", "matplotlib", "pandas", "ray", "sympy"}


@pytest.mark.parametrize("compile", ["eager", "auto"])
def test_a_short_run_loads_neither_a_compiler_nor_statistics(tmp_path, compile) -> None:
    run = ["agent=dqn", "env=gridworld", *TINY, f"compile={compile}", f"run_dir={tmp_path / 'run'}"]
    script = f"""
import runpy, sys
sys.argv = ["run.py", *{run!r}]
runpy.run_path("run.py", run_name="__main__")
print("loaded:", *sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded:", done.stdout + done.stderr
