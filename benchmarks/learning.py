"""Wall-clock time to a stated return: `scale=parallel` beside the papers' protocol, each run on cores of its own.

    python benchmarks/learning.py --cores 2 --minutes 30 --until 500 --out results/parallel

Every (task, protocol) is one run of three stacked seeds by `run.py` on `--cores` cores of its own: as many at once as
the machine has cores for, the others after them. A run's evaluations are stamped as they are printed, seconds since its
process began, compiling and all. It is stopped once it has reached the return of `--until`, or when its `--minutes` are
up; nothing is said of what it would have reached.
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
    command: list[str]
    cores: list[int] = field(default_factory=list)
    """Those that it has, once started."""
    points: list[tuple[float, int, float]] = field(default_factory=list)
    """(seconds, step, mean return over the seeds) of each evaluation."""
    last: str = ""
    """Its last line."""
    stopped: bool = False
    """By `stop`, while it ran."""

    def start(self, cores: list[int]) -> None:
        self.cores = cores
        environment = os.environ | {"OMP_NUM_THREADS": str(len(cores)), "PYTHONUNBUFFERED": "1"}
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

    def over(self, minutes: float, until: float) -> bool:
        """Whether it has ended, has had its time, or has reached that return."""
        late = time.perf_counter() - self.began > 60 * minutes
        return late or self.process.poll() is not None or self.first(until) is not None

    def stop(self) -> None:
        if self.process.poll() is None:
            self.stopped = True
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
    parser.add_argument("--minutes", type=float, default=30.0, help="the most that a run may take")
    parser.add_argument("--until", type=float, default=max(RETURNS), help="the return at which a run is stopped")
    parser.add_argument("--cores", type=int, default=2, help="of each run")
    parser.add_argument("--first-core", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/parallel"))
    parser.add_argument("--runs-root", default="runs/learning")
    parser.add_argument("overrides", nargs="*", help="further overrides of every run")
    options = parser.parse_args(given)

    runs = []
    for task in options.tasks:
        for protocol, overrides in PROTOCOLS.items():
            chosen = [
                f"agent={options.agent}", f"env=dmc/{task}", f"seeds={options.seeds}", f"threads={options.cores}",
                f"runs_root={options.runs_root}", *overrides, *options.overrides,
            ]  # fmt: skip
            runs.append(Run(task, protocol, [sys.executable, str(ROOT / "run.py"), *chosen]))
    there = [core for core in sorted(os.sched_getaffinity(0)) if core >= options.first_core]
    free = [there[i : i + options.cores] for i in range(0, len(there) - options.cores + 1, options.cores)]
    if not free:
        parser.error(f"--cores {options.cores}: from core {options.first_core} on there are {len(there)}")

    options.out.mkdir(parents=True, exist_ok=True)
    waiting, going, told = list(runs), [], 0.0
    while waiting or going:
        while waiting and free:
            going.append(waiting.pop(0))
            going[-1].start(free.pop(0))
        time.sleep(0.2)
        for run in [run for run in going if run.over(options.minutes, options.until)]:
            run.stop()
            going.remove(run)
            free.append(run.cores)
        if time.perf_counter() - told > 20.0:
            report(runs, options)
            told = time.perf_counter()
    report(runs, options)
    print((options.out / "learning.md").read_text())


def report(runs: list[Run], options: argparse.Namespace) -> None:
    """Write what there is so far: every point, and the times of the first returns."""
    with (options.out / "learning.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "protocol", "seconds", "step", "mean_return"])
        for run in runs:
            writer.writerows([run.task, run.protocol, f"{s:.1f}", step, value] for s, step, value in run.points)
    about = provenance()
    given = "".join(f", {override}" for override in options.overrides)
    lines = [
        f"{about['cpu']}, {options.cores} cores a run, {options.seeds} seeds, commit {about['commit']}{given}; "
        f"stopped at a return of {options.until:g} or after {options.minutes:g} min:",
        "",
        f"| task | protocol | {' | '.join(f'{r} after' for r in RETURNS)} | last: seconds | steps | return |",
        f"|---|---|{'--:|' * (len(RETURNS) + 3)}",
    ]
    for run in runs:
        times = [f"{found[0]:.0f} s ({found[1]:,} steps)" if (found := run.first(r)) else "" for r in RETURNS]
        seconds, step, value = run.points[-1] if run.points else (float("nan"), 0, float("nan"))
        lines.append(f"| {run.task} | {run.protocol} | {' | '.join(times)} | {seconds:.0f} | {step:,} | {value:.0f} |")
    ended = [run for run in runs if run.cores and not run.stopped]
    broken = [f"- {run.task} {run.protocol}: {run.last}" for run in ended if run.process.poll() not in (None, 0)]
    (options.out / "learning.md").write_text("\n".join([*lines, "", *broken, ""]))


if __name__ == "__main__":
    main()
