"""Updates a second of two checkouts of this project, turn by turn in one run: whether a change made learning slower.

    git worktree add ../before <commit>
    python benchmarks/before_and_after.py ../before . --out ratios.md

Each learner of each checkout is a process of its own on one thread, made by that checkout's `benchmarks/updates.py`
(A2PR's by its `offline.py`). All are kept ready, and one at a time makes a turn of updates, the two of a pair right
after each other and in changing order, so that a disturbance of the machine meets both alike. What is counted is CPU
time. A figure is the median over the rounds of the pair's own ratio; beside it the range that holds its middle half.
`--idle 0.1` makes learners as long runs leave them: that share of the hidden units is switched off, and Adam's moments
of their weights have decayed to subnormal numbers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

LEARNERS = ("ddpg", "beer", "td3", "a2pr")
WORKER = """
import gc, sys, time
checkout, name, mode, idle = sys.argv[1:]
sys.path[:0] = [checkout, checkout + "/benchmarks"]
import torch
torch.set_num_threads(1)
import offline, updates
made = offline.ours(offline.random_data(), 1, mode, "cpu") if name == "a2pr" else updates.ours(name, 1, mode, "cpu")
learner = next(found for found in gc.get_objects() if isinstance(found, updates.BatchAgent))
for group, tensors in learner.state().items() if float(idle) else ():
    moments = [tensors["exp_avg"], tensors["exp_avg_sq"]] if group.endswith("optimizer") else []
    for name, x in (pair for held in moments or [tensors] for pair in held.items()):
        if x.shape[-1] >= 64 and (moments or name.endswith("bias")):
            x[..., :: round(1 / float(idle))] = 1e-41 if moments else -1e4
print("ready", flush=True)
for line in sys.stdin:
    start = time.process_time()
    made.turn(int(line))
    print(time.process_time() - start, flush=True)
"""


class Learner:
    """One learner of one checkout, in a process of its own."""

    def __init__(self, checkout: Path, name: str, mode: str, idle: float) -> None:
        command = [sys.executable, "-c", WORKER, str(checkout.resolve()), name, mode, str(idle)]
        pipe, threads = subprocess.PIPE, os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=checkout, env=threads)
        self._answer()

    def turn(self, updates: int) -> float:
        """Seconds of CPU time of so many updates."""
        self.process.stdin.write(f"{updates}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(self.process.args[3:])}: ended with status {self.process.wait()}")
        return line


def ratios(before: Learner, after: Learner, rounds: int, seconds: float) -> tuple[list[float], float]:
    """Speed after / speed before of every round, and the median rate after, in updates a second."""
    updates = max(1, round(seconds / (before.turn(4) / 4)))
    found, rates = [], []
    for k in range(rounds):
        order = (before, after) if k % 2 else (after, before)
        took = {learner: learner.turn(updates) for learner in order}
        found.append(took[before] / took[after])
        rates.append(updates / took[after])
    return found, statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--modes", nargs="+", choices=("eager", "compile"), default=["eager", "compile"])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=0.4, help="of a turn")
    parser.add_argument("--idle", type=float, default=0.0, help="share of the hidden units that are switched off")
    parser.add_argument("--out", type=Path, help="also write to this file")
    args = parser.parse_args()
    describe = ["git", "describe", "--always", "--dirty"]
    commits = [subprocess.run(describe, cwd=c, capture_output=True, text=True) for c in (args.before, args.after)]
    names = " to ".join(commit.stdout.strip() or "?" for commit in commits)
    lines = [f"{names}; {args.rounds} rounds, one thread, idle units {args.idle:.0%}", ""]
    lines += ["| agent | mode | updates per CPU second | after / before | middle half |", "|---|---|--:|--:|--:|"]
    for name in args.learners:
        for mode in args.modes:
            pair = [Learner(checkout, name, mode, args.idle) for checkout in (args.before, args.after)]
            found, rate = ratios(*pair, args.rounds, args.seconds)
            low, middle, high = statistics.quantiles(found, n=4)
            lines.append(f"| {name} | {mode} | {rate:,.0f} | {middle:.3f} | {low:.3f} to {high:.3f} |")
            print(lines[-1], flush=True)
            for learner in pair:
                learner.process.stdin.close()
                learner.process.wait()
    lines += ["", f"Load average at the end {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
