"""CaveEscape steps a second: our batched worlds beside Farama's MiniGrid. One run, interleaved rounds, medians.

    python benchmarks/cave_worlds.py                            # about a minute and a half
    python benchmarks/cave_worlds.py --compile --worlds 4096
    python benchmarks/cave_worlds.py --device cuda --out cave_worlds.md

A step is one random action in one world, its reward and ends, and the observation after it. "new levels": where an
episode ended the next begins, in a level drawn at random (Gymnasium's and CaveVectorEnv always do so; elsewhere the
draws are ready-made tensors). A round gives every contestant one turn, so that a disturbance of the machine meets all
alike; a figure is the median of its turns. All play DRED's training set, 512 levels of size 15. Our worlds run on
`--threads` threads; AsyncVectorEnv has a process for each of its worlds. Steps a second of processor time leave out
the waiting for a busy machine; they are blank where a GPU or other processes do part of the work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import FilterObservation
from numpy.typing import NDArray

from envs.cave.farama import FaramaCave
from envs.cave.gym_env import TRAINING_SET, CaveVectorEnv
from envs.cave.level_sets import level_set
from envs.cave.worlds import NUM_ACTIONS, CaveWorlds
from rlreg.run_folder import provenance

ACTIONS = 64
"""Steps after which the ready-made draws repeat."""
TURN_SECONDS = 0.5


@dataclass
class Contestant:
    """Somebody who steps worlds; `turn(n)` makes n steps in each of `worlds`."""

    name: str
    worlds: int
    turn: Callable[[int], None]
    close: Callable[[], None] = lambda: None
    steps: int = 1
    """Steps a turn, once it is known how many fill its time."""
    seconds: list[float] = field(default_factory=list)
    """Of a step in all worlds, one figure a round."""
    cpu_seconds: list[float] = field(default_factory=list)
    """The same in this process's processor time."""
    in_process: bool = True
    """Whether all of its work is done in this process."""

    @property
    def rate(self) -> float:
        """Env-steps a second, the median round's."""
        return self.worlds / statistics.median(self.seconds)


def ours(levels: NDArray, n: int, new_levels: bool, device: str, compiled: bool) -> Contestant:
    """`CaveWorlds`, tensors in and out."""
    generator = torch.Generator().manual_seed(0)
    pool = torch.from_numpy(levels).to(device)
    worlds = CaveWorlds([0], n, levels.shape[-1], device=device)

    def draws(high: int) -> torch.Tensor:
        return torch.randint(high, (ACTIONS, 1, n), generator=generator).to(device)

    actions, directions, choices = draws(NUM_ACTIONS), draws(4), draws(len(levels))
    worlds.set_levels(pool[choices[0]], directions[0])

    def step(action: torch.Tensor, choice: torch.Tensor, direction: torch.Tensor) -> Any:
        outcome = worlds.step(action)
        if new_levels:
            next_levels = pool.index_select(0, choice[0])[None]
            worlds.set_levels(next_levels, direction, outcome[1] | outcome[2])
        return outcome, worlds.observe()

    program = torch.compile(step, dynamic=False) if compiled else step
    made = 0

    def turn(steps: int) -> None:
        nonlocal made
        for _ in range(steps):
            made = (made + 1) % ACTIONS
            program(actions[made], choices[made], directions[made])

    mode = ", compiled" if compiled else ""
    return Contestant(f"ours{', new levels' if new_levels else ''}{mode}", n, turn)


def vector(name: str, env: gymnasium.vector.VectorEnv, in_process: bool = True) -> Contestant:
    """A Gymnasium vector environment with autoreset, numpy in and out."""
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(NUM_ACTIONS, size=(ACTIONS, env.num_envs))
    made = 0

    def turn(steps: int) -> None:
        nonlocal made
        for _ in range(steps):
            made = (made + 1) % ACTIONS
            env.step(actions[made])

    return Contestant(name, env.num_envs, turn, env.close, in_process=in_process)


def single(env: gymnasium.Env) -> Contestant:
    """One environment, reset where its episode ends."""
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(NUM_ACTIONS, size=ACTIONS)
    made = 0

    def turn(steps: int) -> None:
        nonlocal made
        for _ in range(steps):
            made = (made + 1) % ACTIONS
            _, _, terminated, truncated, _ = env.step(actions[made])
            if terminated or truncated:
                env.reset()

    return Contestant("Farama MiniGrid", 1, turn, env.close)


def race(contestants: list[Contestant], rounds: int, device: str) -> None:
    """A round to warm up and to find how many steps fill a turn, then `rounds` that count."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None

    def timed(c: Contestant, steps: int) -> tuple[float, float]:
        synchronize()
        start, cpu_start = time.perf_counter(), time.process_time()
        c.turn(steps)
        synchronize()
        return (time.perf_counter() - start) / steps, (time.process_time() - cpu_start) / steps

    for c in contestants:
        timed(c, 10)
        c.steps = max(5, int(TURN_SECONDS / timed(c, 20)[0]))
    for _ in range(rounds):
        for c in contestants:
            seconds, cpu_seconds = timed(c, c.steps)
            c.seconds.append(seconds)
            c.cpu_seconds.append(cpu_seconds)


def figures(contestants: list[Contestant], device: str) -> list[dict[str, Any]]:
    farama = next(c.rate for c in contestants if c.name == "Farama MiniGrid")
    return [
        {
            "environment": c.name,
            "worlds": c.worlds,
            "steps_per_second": c.rate,
            "best_round": c.worlds / min(c.seconds),
            "times_farama": c.rate / farama,
            "us_a_call": statistics.median(c.seconds) * 1e6,
            "steps_per_cpu_second": c.worlds / statistics.median(c.cpu_seconds)
            if c.in_process and device == "cpu"
            else None,
        }
        for c in contestants
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    columns = {
        "environment": ("environment", "{}"),
        "worlds": ("worlds", "{:,}"),
        "steps_per_second": ("env-steps/s", "{:,.0f}"),
        "best_round": ("best round", "{:,.0f}"),
        "times_farama": ("x Farama", "{:,.1f}"),
        "steps_per_cpu_second": ("a second of processor time", "{:,.0f}"),
        "us_a_call": ("us a step of all", "{:,.0f}"),
    }
    lines = ["| " + " | ".join(title for title, _ in columns.values()) + " |", "|---|" + "--:|" * (len(columns) - 1)]
    for row in rows:
        cells = ("" if row[key] is None else form.format(row[key]) for key, (_, form) in columns.items())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", type=int, default=[64, 1024, 4096, 16384])
    parser.add_argument("--workers", nargs="*", type=int, default=[2, 4], help="worlds of AsyncVectorEnv")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also ours through torch.compile")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="also write to this file: .md or .json")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is available")
    torch.set_num_threads(args.threads)

    levels = level_set(TRAINING_SET).levels
    limit = CaveWorlds([0], 1, levels.shape[-1]).max_episode_steps
    contestants = [single(FaramaCave(levels, limit))]
    for n in args.workers:
        # Without the mission, a text, observations can travel in shared memory, which is faster.
        fns = [lambda: FilterObservation(FaramaCave(levels, limit), ["image", "direction"])] * n
        name = f"Farama in AsyncVectorEnv, {n} processes"
        contestants.append(vector(name, AsyncVectorEnv(fns, autoreset_mode=AutoresetMode.SAME_STEP), False))
    for n in args.worlds:
        contestants += [ours(levels, n, new, args.device, False) for new in (False, True)]
        if args.compile:  # without new levels: on the CPU the worlds that want one are found by a search
            contestants.append(ours(levels, n, False, args.device, True))
        contestants.append(vector("ours, CaveVectorEnv", CaveVectorEnv(n, levels, device=args.device)))

    load = os.getloadavg()[0]
    try:
        race(contestants, args.rounds, args.device)
    finally:
        for c in contestants:
            c.close()
    rows, machine = figures(contestants, args.device), provenance()
    device = machine["gpu"] if args.device == "cuda" else f"{machine['cpu']}, {machine['threads']} thread(s)"
    text = (
        f"{device}; {machine['cores']} cores, load average {load:.1f} before and {os.getloadavg()[0]:.1f} after; "
        f"torch {machine['versions']['torch']}, commit {machine['commit']}; medians of {args.rounds} rounds.\n\n"
        f"{table(rows)}\n"
    )
    print(text)
    if args.out:
        record = {"machine": machine, "rows": rows}
        args.out.write_text(json.dumps(record, indent=2) + "\n" if args.out.suffix == ".json" else text)


if __name__ == "__main__":
    main()
