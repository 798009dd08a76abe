"""Runs an action in a process of its own, and says how it ended: with a value, a user's error, a traceback, a crash, or
not at all, and how much memory it took at its peak.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlreg.errors import UserError

SECONDS = 10
"""After so many an action counts as hanging."""


@dataclass
class Outcome:
    ended: str
    """value, one line, lines, traceback, killed by signal <n>, hung."""
    text: str
    value: Any
    grown: int
    """Bytes that the process grew by at its peak."""
    seconds: float


def run(action: Callable[[], Any]) -> Outcome:
    """`action` in a forked child. Its value has to be picklable; that is for a test's own values only."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            before = _resident()
            try:
                result = ("value", "", action())
            except UserError as error:
                result = ("one line" if "\n" not in str(error) else "lines", str(error), None)
            except BaseException:
                result = ("traceback", traceback.format_exc(), None)
            report.write_bytes(pickle.dumps((*result, before)))
            os._exit(0)
        _, status, usage = os.wait4(child, 0)
        seconds = time.monotonic() - began
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            return Outcome("hung" if number == signal.SIGALRM else f"killed by signal {number}", "", None, 0, seconds)
        ended, text, value, before = pickle.loads(report.read_bytes())
        return Outcome(ended, text, value, usage.ru_maxrss * 1024 - before, seconds)


def judge(cases: Iterable[Any], verdict: Callable[[Any, Path], str | None], folder: Path) -> None:
    """In a process without threads, whose children may be forked: print a line of JSON for each case."""
    for number, case in enumerate(cases):
        print(json.dumps([case.name, verdict(case, folder / str(number))]), flush=True)


def verdicts(script: str, folder: Path) -> dict[str, str | None]:
    """What is wrong with how each case ended, by its name, as `judge` in a process of `script` says."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, script, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(line) for line in ran.stdout.splitlines())


def _resident() -> int:
    """Bytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
