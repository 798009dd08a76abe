"""Wall-clock time to a stated return: `scale=parallel` beside the papers' protocol, each run on cores of its own.

    python benchmarks/learning.py --minutes 9 --cores 2 --out results/parallel

Every (task, protocol) is one run of three stacked seeds by `run.py`, all of them side by side, `--cores` cores each: so
the machine needs 2 * tasks * cores. A run's evaluations are stamped as they are printed, seconds since its process
began, compiling and all. Runs are stopped when the time is up; nothing is said of what they would have reached.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from rlreg.run_folder import provenance

ROOT = Path(__file__).parent.parent
PROTOCOLS = {"parallel": ["scale=parallel"], "paper": []}
RETURNS = (300, 500, 700, 900)
"""Returns whose first time is reported; the suite's best is 1000."""


@dataclass
class Run:
    """One run and what it printed."""

    task: str
    protocol: str
    cores: list[int]
    command: list[str]
    points: list[tuple[float, int, float]] = field(default_factory=list)
    """(seconds, step, mean return over the seeds) of each evaluation."""
    last: str = ""
    """Its last line."""

    def start(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(len(self.cores)), "PYTHONUNBUFFERED": "1"}
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, self.cores), start_new_session=True,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.last = line.strip() or self.last
            if found := re.match(r"step (\d+): return ([-\d.e+]+)", line):
                self.points.append((time.perf_counter() - self.began, int(found[1]), float(found[2])))

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # nothing of the run is needed any more
        self.process.wait()
        self.reader.join(timeout=5)

    def first(self, wanted: float) -> tuple[float, int] | None:
        """(seconds, step) of the first evaluation with at least that return."""
        return next(((seconds, step) for seconds, step, value in self.points if value >= wanted), None)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["walker-walk", "cheetah-run", "finger-spin"])
    parser.add_argument("--agent", default="td3")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--cores", type=int, default=2, help="of each run")
    parser.add_argument("--first-core", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/parallel"))
    parser.add_argument("--runs-root", default="runs/learning")
    parser.add_argument("overrides", nargs="*", help="further overrides of every run")
    options = parser.parse_args(given)

    runs = []
    for task in options.tasks:
        for protocol, overrides in PROTOCOLS.items():
            low = options.first_core + len(runs) * options.cores
            chosen = [
                f"agent={options.agent}", f"env=dmc/{task}", f"seeds={options.seeds}", f"threads={options.cores}",
                f"runs_root={options.runs_root}", *overrides, *options.overrides,
            ]  # fmt: skip
            command = [sys.executable, str(ROOT / "run.py"), *chosen]
            runs.append(Run(task, protocol, list(range(low, low + options.cores)), command))
    there = os.sched_getaffinity(0)
    if missing := {core for run in runs for core in run.cores} - there:
        parser.error(f"{len(runs)} runs of {options.cores} cores: cores {sorted(missing)} are not there")

    options.out.mkdir(parents=True, exist_ok=True)
    for run in runs:
        run.start()
    deadline = time.perf_counter() + 60 * options.minutes
    while time.perf_counter() < deadline and any(run.process.poll() is None for run in runs):
        time.sleep(min(20.0, max(0.1, deadline - time.perf_counter())))
        report(runs, options.out, options.minutes)
    for run in runs:
        run.stop()
    report(runs, options.out, options.minutes)
    print((options.out / "learning.md").read_text())


def report(runs: list[Run], out: Path, minutes: float) -> None:
    """Write what there is so far: every point, and the times of the first returns."""
    with (out / "learning.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "protocol", "seconds", "step", "mean_return"])
        for run in runs:
            writer.writerows([run.task, run.protocol, f"{s:.1f}", step, value] for s, step, value in run.points)
    about = provenance()
    lines = [
        f"{about['cpu']}, {len(runs[0].cores)} cores a run, commit {about['commit']}, stopped after {minutes:g} min:",
        "",
        f"| task | protocol | {' | '.join(f'{r} after' for r in RETURNS)} | last: seconds | steps | return |",
        f"|---|---|{'--:|' * (len(RETURNS) + 3)}",
    ]
    for run in runs:
        times = [f"{found[0]:.0f} s ({found[1]:,} steps)" if (found := run.first(r)) else "" for r in RETURNS]
        seconds, step, value = run.points[-1] if run.points else (float("nan"), 0, float("nan"))
        lines.append(f"| {run.task} | {run.protocol} | {' | '.join(times)} | {seconds:.0f} | {step:,} | {value:.0f} |")
    broken = [f"- {run.task} {run.protocol}: {run.last}" for run in runs if run.process.poll() not in (None, 0, -9)]
    (out / "learning.md").write_text("\n".join([*lines, "", *broken, ""]))


if __name__ == "__main__":
    main()
