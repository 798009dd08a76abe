"""Where the time of a training run goes: updates, worlds, acting and storage, logging, evaluation, checkpoints.

    python benchmarks/end_to_end.py                     # cheetah-run, BEER, one seed, about three minutes
    python benchmarks/end_to_end.py --agent td3 --seeds 4 --steps 20000
    python benchmarks/end_to_end.py --peers sb3 sbx --lengths 20000        # whole runs of TD3 instead, by the clock

A true run (`rlreg.training.online`) with every part timed where it is called, from the first update on,
compilation left out. The parts but the updates are to cost under 20 percent of a step's time.

With `--peers`, whole runs of TD3 in turn, one process each, from its start to its end: ours by `run.py`, with an empty
cache of compiled programs and with the one that this left; Stable-Baselines3's and sbx-rl's `learn` in the same worlds.
All act and update alike (256x256, batch 256, an update a step after 1000 random ones); ours also evaluates and saves.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import peers
import torch
from omegaconf import OmegaConf

from rlreg.build import build_agent, build_task
from rlreg.registry import register
from rlreg.run_folder import RunFolder, provenance
from rlreg.training.online import OnlineTraining

FIRST = 1200
"""The first step measured: 1000 of warm-up, 200 for the compiler."""
CONFIGS = Path(__file__).parent.parent / "configs"


def timed(spent: dict[str, float], part: str, function: Callable, device: torch.device) -> Callable:
    """`function`, with its wall time added to `spent[part]`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        out = function(*args, **kwargs)
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent[part] += time.perf_counter() - start
        return out

    return call


def measure(agent_name: str, env_name: str, seeds: int, steps: int, device: str, threads: int) -> dict[str, float]:
    """Milliseconds a step, by part; 'everything' is the loop's own clock."""
    overrides = [
        f"agent={agent_name}", f"env={env_name}", f"seeds={seeds}", f"device={device}", f"threads={threads}",
        "train.warmup_steps=1000", f"train.total_steps={FIRST + steps}", "compile=compile",
        f"eval.every={FIRST + steps}", f"train.checkpoint_every={FIRST + steps}",
    ]  # fmt: skip
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose("config", overrides)
    if threads:
        torch.set_num_threads(threads)
    settings = OmegaConf.to_object(cfg)
    spent: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as work:
        folder = RunFolder(Path(work))
        folder.open(cfg)
        chosen = tuple(range(seeds))
        task = build_task(cfg)
        agent = build_agent(cfg, task, chosen, device)
        training = OnlineTraining.of(agent, task, settings, folder)
        iterate = training._iterate
        started = 0.0

        def step() -> None:
            nonlocal started
            if training.step == FIRST:
                spent.clear()
                started = time.perf_counter()
            iterate()

        training._iterate = step
        for part, owner, name in (
            ("updates", training, "update"),
            ("worlds", training.env, "step"),
            ("acting", training.agent, "act"),
            ("storage", training.replay, "add"),
            ("logging", training, "_log"),
            ("evaluation", training, "_evaluate"),
            ("checkpoints", training, "save"),
        ):
            setattr(owner, name, timed(spent, part, getattr(owner, name), agent.device))
        # Evaluation steps its own worlds and acts for itself: counted once, as evaluation.
        evaluate, inside = training._evaluate, ("acting",)

        def evaluation(bar: Any) -> None:
            before = {part: spent[part] for part in inside}
            evaluate(bar)
            spent.update(before)

        training._evaluate = evaluation
        training.run()
        spent["everything"] = time.perf_counter() - started
    return {part: seconds / steps * 1e3 for part, seconds in spent.items()}


def whole_runs(peers: list[str], env_name: str, lengths: list[int], threads: int, rounds: int) -> str:
    """Markdown: seconds by the clock and of CPU time, medians over the rounds, of every contestant and length."""
    lines = ["| who | steps | seconds | CPU seconds |", "|---|--:|--:|--:|"]
    for steps in lengths:
        took: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as work:
                ours = ["run.py", "agent=td3", f"env={env_name}", f"threads={threads}"]
                ours += [f"train.total_steps={steps}", "train.warmup_steps=1000"]
                for who, name in (("ours, empty cache", "first"), ("ours, warm cache", "second")):
                    took[who].append(seconds_of([*ours, f"run_dir={work}/{name}"], threads, Path(work)))
                for peer in peers:
                    command = ["benchmarks/peers.py", peer, env_name, str(steps)]
                    took[peer].append(seconds_of(command, threads, Path(work)))
        for who, figures in took.items():
            wall, cpu = (statistics.median(column) for column in zip(*figures, strict=True))
            lines.append(f"| {who} | {steps:,} | {wall:.1f} | {cpu:.1f} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def seconds_of(command: list[str], threads: int, work: Path) -> tuple[float, float]:
    """What a Python process of this checkout takes: by the clock, and of CPU time, its children's too."""
    there = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(work / "programs"), "PYTHONPATH": str(CONFIGS.parent)}
    there |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    before, started = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=CONFIGS.parent, env=there, capture_output=True, text=True)
    wall, after = time.perf_counter() - started, os.times()
    if done.returncode:
        sys.exit(f"{' '.join(command)}: ended with status {done.returncode}\n{done.stderr}")
    children = [after.children_user - before.children_user, after.children_system - before.children_system]
    return wall, sum(children)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="beer")
    parser.add_argument("--env", default="dmc/cheetah-run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10_000, help="steps measured, with one evaluation in them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--peers", nargs="+", choices=("sb3", "sbx"), help="whole runs beside theirs (extra bench)")
    parser.add_argument("--lengths", nargs="+", type=int, default=[20_000, 100_000], help="steps of whole runs")
    parser.add_argument("--rounds", type=int, default=1, help="of whole runs")
    args = parser.parse_args()
    if args.peers:
        if "sbx" in args.peers:
            peers.modules("sbx")
        machine = provenance()
        print(f"TD3 on {args.env}; {machine['cpu']}, {machine['cores']} cores,", end=" ")
        print(f"torch {machine['versions']['torch']},", end=" ")
        print(f"commit {machine['commit']}, load average {os.getloadavg()[0]:.1f}; medians of {args.rounds} rounds\n")
        whole_runs(args.peers, args.env, args.lengths, args.threads, args.rounds)
        return
    register()
    spent = measure(args.agent, args.env, args.seeds, args.steps, args.device, args.threads)
    whole = spent.pop("everything")
    machine = provenance()
    print(f"\n{args.agent} on {args.env}, seeds={args.seeds}; {machine['cpu']}, {machine['threads']} threads,", end=" ")
    print(f"torch {machine['versions']['torch']}, commit {machine['commit']}\n")
    print("| part | ms per step | share |\n|---|--:|--:|")
    spent["the rest of the loop"] = whole - sum(spent.values())
    for part, ms in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"| {part} | {ms:.3f} | {ms / whole:.1%} |")
    print(f"| **a step** | **{whole:.3f}** | |")
    print(f"\nall but the updates: {1 - spent['updates'] / whole:.1%} of a step's time; {1e3 / whole:.0f} steps/s")


if __name__ == "__main__":
    main()
