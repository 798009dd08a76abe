"""Steps a second of many worlds: dm_control, EnvPool, Gymnasium's own vector and ours, on the same random actions.

    python benchmarks/worlds.py                                         # the BEER table's tasks; some ten minutes
    python benchmarks/worlds.py --tasks cheetah-run Hopper-v4 --num-envs 1 64 512 --threads 1 2 --out worlds.md

Contestants take short turns, so that a slow moment of the machine falls on all of them; figures are medians over the
rounds. What is counted is steps of single worlds a second of CPU time, over all threads of the process, and of
wall-clock time in brackets where there are several threads. dm_control steps one world beside every N; `today` are
single worlds stepped one by one in this process; EnvPool takes part where it is installed (extra `bench`), with
at most 512 worlds. The second table says where a batched step's time goes: physics, observation, reward, the rest
(ends and tensors), and the beginning of episodes, shared out over 1000 steps; microseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import gymnasium
import numpy as np
import torch

import envs.dmc
import envs.gym
from envs.batched import BatchedEnv
from rlreg.run_folder import provenance

TASKS = (
    *("acrobot-swingup", "cartpole-swingup_sparse", "finger-spin", "hopper-hop", "cheetah-run", "finger-turn_hard"),
    *("fish-swim", "humanoid-stand", "humanoid-walk", "humanoid-run", "quadruped-run", "walker-run"),
)
MOST_SINGLE = 10
"""Beyond so many worlds, single ones are not measured: their rate no longer changes."""
MOST_ENVPOOL = 512
"""EnvPool builds a model for each world, of some 10 MB and in 40 ms: 4096 of them take over 40 GB, and minutes."""
ACTIONS = 32
"""Different actions, taken in turn."""


@dataclass
class Contestant:
    """Something that steps `num_envs` worlds."""

    name: str
    num_envs: int
    threads: int
    step: Callable[[int], Any]
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def turn(self, seconds: float) -> None:
        steps, cpu, wall = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - wall < seconds:
            self.step(steps % ACTIONS)
            steps += 1
        self.cpu.append(steps * self.num_envs / (time.process_time() - cpu))
        self.wall.append(steps * self.num_envs / (time.perf_counter() - wall))


def make(task: str, num_envs: int, backend: str, threads: int) -> Any:
    """Our worlds of a task of the suite, or of one of Gymnasium's by its id."""
    module = envs.gym if "-v" in task else envs.dmc
    env = module.make(task, [0], num_envs, backend=backend, workers=threads if backend == "mujoco" else 0)
    env.reset()
    return env


def contestants(task: str, num_envs: int, threads: int) -> list[Contestant]:
    of_gym = "-v" in task
    single = "gymnasium" if of_gym else "dm_control"
    ours = make(task, num_envs, "mujoco", threads)
    numpy = np.random.default_rng(0).uniform(-1, 1, (ACTIONS, num_envs, ours.action_dim)).astype(np.float32)
    tensors = torch.from_numpy(numpy)[:, None]
    found = [Contestant("ours", num_envs, threads, lambda i: ours.step(tensors[i]))]
    if threads == 1 and num_envs <= MOST_SINGLE:
        today = make(task, num_envs, single, 0)
        found.append(Contestant("today", num_envs, 1, lambda i: today.step(tensors[i])))
    if threads == 1 and not of_gym:
        bare = envs.dmc.make_single(task, 0)._env
        found.append(Contestant("dm_control", 1, 1, lambda i: bare.step(numpy[i, 0])))
    if threads == 1 and of_gym and num_envs <= 64:
        vector = gymnasium.make_vec(task, num_envs=num_envs, vectorization_mode="sync")
        vector.reset(seed=0)
        theirs = scaled(numpy, vector.action_space)
        found.append(Contestant("make_vec", num_envs, 1, lambda i: vector.step(theirs[i])))
    if find_spec("envpool") and num_envs <= MOST_ENVPOOL:
        pool = envpool(task, num_envs, threads)
        given = scaled(numpy, pool.action_space)
        found.append(Contestant("envpool", num_envs, threads, lambda i: pool.step(given[i])))
    return found


def scaled(actions: np.ndarray, space: gymnasium.spaces.Box) -> np.ndarray:
    """Actions in [-1, 1] within the bounds of `space`, in its precision."""
    return ((space.low + space.high + actions * (space.high - space.low)) / 2).astype(space.dtype)


def envpool(task: str, num_envs: int, threads: int) -> Any:
    import envpool

    name = task if "-v" in task else "".join(part.capitalize() for part in task.replace("-", "_").split("_")) + "-v1"
    pool = envpool.make(name, env_type="gymnasium", num_envs=num_envs, num_threads=threads, seed=0)
    pool.reset()
    return pool


def shares(task: str, num_envs: int, seconds: float) -> dict[str, float]:
    """Where a step of our `num_envs` worlds on one thread spends its time, in microseconds of CPU time."""
    env: BatchedEnv = make(task, num_envs, "mujoco", 1)
    actions = torch.rand(ACTIONS, 1, num_envs, env.action_dim) * 2 - 1
    parts = {
        "whole": lambda i: env.step(actions[i]),
        "physics": lambda i: env.physics.control_step(),
        "observation": lambda i: env._observe(),
        "reward": lambda i: env.task.get_reward(),
        "begin": lambda i: env._begin(env._all),
    }
    taken: dict[str, float] = {}
    for name, part in parts.items():
        part(0)
        count, started, cpu = 0, time.perf_counter(), time.process_time()
        while count == 0 or time.perf_counter() - started < seconds:
            part(count % ACTIONS)
            count += 1
        taken[name] = 1e6 * (time.process_time() - cpu) / count
    taken["begin"] /= env.task.max_episode_steps
    taken["rest"] = taken["whole"] - taken["physics"] - taken["observation"] - taken["reward"]
    return taken


def measure(task: str, num_envs: int, threads: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    racing = contestants(task, num_envs, threads)
    for each in racing:
        each.turn(seconds)
        each.cpu.clear(), each.wall.clear()
    for _ in range(rounds):
        for each in racing:
            each.turn(seconds)
    return [
        {
            "task": task,
            "num_envs": num_envs,
            "threads": threads,
            "contestant": each.name,
            "steps_per_cpu_second": statistics.median(each.cpu),
            "steps_per_second": statistics.median(each.wall),
        }
        for each in racing
    ]


NAMES = ("dm_control", "today", "make_vec", "envpool", "ours")


def table(rows: list[dict[str, Any]], parts: dict[tuple[str, int], dict[str, float]]) -> str:
    by = {(row["task"], row["num_envs"], row["threads"], row["contestant"]): row for row in rows}
    singles = {key[:2]: row["steps_per_cpu_second"] for key, row in by.items() if key[3] == "dm_control"}
    lines = [f"| task | N | threads | {' | '.join(NAMES)} | ours / dm_control | ours / envpool |"]
    lines.append("|---|--:|--:|" + "--:|" * (len(NAMES) + 2))
    for task, num_envs, threads in dict.fromkeys(key[:3] for key in by):
        found = {name: by.get((task, num_envs, threads, name)) for name in NAMES}
        ours = found["ours"]["steps_per_cpu_second"]
        pool = found["envpool"]
        single = singles.get((task, num_envs))
        ratios = [f"{ours / single:.2f}" if single else ""]
        ratios.append(f"{ours / pool['steps_per_cpu_second']:.2f}" if pool else "")
        shown = [_shown(found[name]) for name in NAMES]
        lines.append(f"| {task} | {num_envs} | {threads} | {' | '.join(shown + ratios)} |")
    names = ("whole", "physics", "observation", "reward", "rest", "begin")
    lines += ["", f"| task | N | {' | '.join(names)} |", "|---|--:|" + "--:|" * len(names)]
    for (task, num_envs), taken in parts.items():
        lines.append(f"| {task} | {num_envs} | {' | '.join(f'{taken[name]:.0f}' for name in names)} |")
    return "\n".join(lines) + "\n"


def _shown(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    wall = f" ({row['steps_per_second']:,.0f})" if row["threads"] > 1 else ""
    return f"{row['steps_per_cpu_second']:,.0f}{wall}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--num-envs", nargs="+", type=int, default=[1, 10, 64, 512, 4096])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a turn")
    parser.add_argument("--out", type=Path, help="also write to this file: .md or .json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rows: list[dict[str, Any]] = []
    parts: dict[tuple[str, int], dict[str, float]] = {}
    for task in args.tasks:
        for num_envs in args.num_envs:
            for threads in args.threads:
                rows += measure(task, num_envs, threads, args.rounds, args.seconds)
            parts[task, num_envs] = shares(task, num_envs, args.seconds)
            print(table([row for row in rows if row["task"] == task and row["num_envs"] == num_envs],
                        {(task, num_envs): parts[task, num_envs]}), flush=True)  # fmt: skip
    text = table(rows, parts)
    print(text)
    if args.out:
        given = {"rows": rows, "parts": [{"task": t, "num_envs": n} | v for (t, n), v in parts.items()]}
        machine = provenance()
        if args.out.suffix == ".json":
            args.out.write_text(json.dumps(given | {"provenance": machine}, indent=2) + "\n")
        else:
            args.out.write_text(f"{text}\n{machine['cpu']}, {machine['cores']} cores; {machine['versions']}\n")


if __name__ == "__main__":
    main()
