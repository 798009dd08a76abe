"""All that wants a GPU, in order of worth and within a given time: checks, then measurements, then cells of a table.

    python benchmarks/gpu.py --minutes 12 --out gpu           # whoever has a card for a quarter of an hour
    python benchmarks/gpu.py --minutes 4 --out gpu --sections worlds loop
    python benchmarks/gpu.py --rehearse --out gpu             # every section at tiny sizes, on the CPU

Every section is a process of its own with a share of the time that is left, so that none can hold up the others or
take them with it. Figures are written as they come: `gpu.jsonl` has a line for each, `gpu.md` tables of them, `gpu.log`
what the sections said.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

TASKS = (
    "cheetah-run", "humanoid-walk", "walker-run", "finger-spin", "hopper-hop", "acrobot-swingup", "quadruped-run",
    "cartpole-swingup_sparse", "fish-swim", "finger-turn_hard", "humanoid-stand", "humanoid-run",
)  # fmt: skip
"""The rows of BEER's table, those of unlike models first."""
SHARES = {"machine": 1, "tests": 8, "updates": 6, "worlds": 10, "loop": 7, "walk": 10, "table": 6}
"""The sections in order, and how the time is shared among those that are left."""
AGENTS = ("ddpg", "td3", "beer")
LOOP_SECONDS = 45.0
"""The least that a run of the loop is given: 25 s go by before its first step on an H100."""


@dataclass
class Context:
    """What a section is given."""

    section: str
    out: Path
    until: float
    """When it should have ended, by `time.time()`."""
    rehearse: bool

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.time()

    def record(self, **figures: Any) -> None:
        """Write a line at once."""
        with (self.out / "gpu.jsonl").open("a") as file:
            file.write(json.dumps({"section": self.section} | figures) + "\n")
        print(figures, flush=True)

    def wait(self) -> None:
        """For the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, function: Callable[[], Any], repeats: int, rounds: int = 3) -> float:
        """Of one call, the median of `rounds` rounds of `repeats` calls."""
        found = []
        for _ in range(rounds):
            self.wait()
            start = time.perf_counter()
            for _ in range(repeats):
                function()
            self.wait()
            found.append((time.perf_counter() - start) / repeats)
        return statistics.median(found)

    def attempt(self, function: Callable[[], None], **what: Any) -> None:
        """Measure something; where that fails, record why and go on."""
        try:
            function()
        except Exception as error:
            traceback.print_exc()
            self.record(**what, failed=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


# ---------------------------------------------------------------------------------------------- sections


def machine(c: Context) -> None:
    """The card, and two rates to hold the others against."""
    from rlreg.run_folder import provenance

    found = provenance()
    size, copied = (512, 2**22) if c.rehearse else (8192, 2**30)
    a, b = torch.randn(size, size, device=c.device), torch.randn(size, size, device=c.device)
    source = torch.empty(copied, dtype=torch.uint8, device=c.device)
    target = torch.empty_like(source)
    c.record(
        device=torch.cuda.get_device_name() if c.device == "cuda" else found["cpu"],
        cpu=found["cpu"],
        cores=os.cpu_count(),
        versions=found["versions"],
        commit=found["commit"],
        float32_tflops=2e-12 * size**3 / c.seconds(lambda: a @ b, 3),
        copy_gb_per_second=2e-9 * copied / c.seconds(lambda: target.copy_(source), 3),
    )


def tests(c: Context) -> None:
    """`pytest -m gpu`."""
    files = ["tests/test_rng.py"] if c.rehearse else sorted(map(str, (ROOT / "tests").glob("test_gpu*.py")))
    command = [sys.executable, "-m", "pytest", *files, "-v", "-n0", "-p", "no:cacheprovider"]
    command += [] if c.rehearse else ["-m", "gpu"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(5.0, c.left - 3))
        output = done.stdout + done.stderr
    except subprocess.TimeoutExpired as stopped:
        output = stopped.stdout or ""
        output = output if isinstance(output, str) else output.decode()
        output += f"\nstopped after {stopped.timeout:.0f} s"
    print(output)
    lines = [line for line in output.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    c.record(result=lines[-1] if lines else "nothing", failed_tests=failed)


def updates(c: Context) -> None:
    """Updates a second against S, each in one CUDA graph: of the update as it is, then of the compiled one."""
    from updates import AGENTS as KINDS
    from updates import BATCH, flops

    from agents.td3 import TD3, TD3Config
    from rlreg.buffers import Replay
    from rlreg.compilation import CudaGraph, prepare

    obs_dim, action_dim, hidden, rows = (5, 2, 16, 64) if c.rehearse else (67, 21, 256, 10_000)

    def measure(agent: str, seeds: int, mode: str) -> None:
        changes, regularizer = KINDS[agent]
        config = TD3Config(hidden=[hidden, hidden], batch_size=BATCH, **changes)
        learner = TD3(config, regularizer(), obs_dim, action_dim, range(seeds), c.device)
        replay = Replay(range(seeds), rows, obs_dim, action_dim, c.device)
        filled = torch.rand(seeds, rows, replay.rows.shape[-1], device=c.device)
        filled[..., -2:] = 0.0  # neither terminated nor truncated
        replay.write(0, filled)

        def update(number: Tensor, update_actor: bool) -> dict[str, Tensor]:
            return learner.update(replay.sample("replay", number, BATCH), number, update_actor)

        begun = time.perf_counter()
        if mode == "eager":
            program = update
        elif mode == "graph":
            program = CudaGraph(update)
        else:
            program = prepare(update, "graph", learner.device)
        number, delay = torch.zeros((), dtype=torch.int64, device=c.device), config.policy_delay

        def turn() -> None:  # one round of a policy delay
            for k in range(1, delay + 1):
                program(number.add_(1), k == delay)

        for _ in range(2 if c.rehearse else 10):
            turn()
        c.wait()
        ready = time.perf_counter() - begun
        second = c.seconds(turn, 2 if c.rehearse else 200) / delay
        c.record(
            agent=agent,
            seeds=seeds,
            mode=mode,
            seed_updates_per_second=seeds / second,
            update_us=second * 1e6,
            tflops=seeds * flops(agent) / second * 1e-12,
            ready_after=ready,
        )

    plain = "eager" if c.rehearse else "graph"
    wanted = [(agent, seeds, plain) for seeds in ((1, 2) if c.rehearse else (1, 10, 50, 2, 5, 20)) for agent in AGENTS]
    if not c.rehearse:
        wanted += [(agent, seeds, "compiled graph") for agent, seeds in (("beer", 10), ("beer", 1), ("td3", 10))]
        wanted += [("ddpg", 10, "compiled graph")]
    for agent, seeds, mode in wanted:
        if c.left < (20 if mode == "compiled graph" else 1) and not c.rehearse:
            c.record(agent=agent, seeds=seeds, mode=mode, failed="no time")
        else:
            c.attempt(lambda a=agent, s=seeds, m=mode: measure(a, s, m), agent=agent, seeds=seeds, mode=mode)


def make_worlds(task: str, worlds: int, device: str, **kwargs: Any) -> Any:
    """W worlds of one seed on mujoco_warp."""
    import envs.dmc

    return envs.dmc.make(task, (0,), worlds, backend="warp", device=device, **kwargs)


def worlds(c: Context) -> None:
    """World steps a second against N, beside mujoco_warp's own step of the same worlds without a task."""

    def measure(task: str, count: int, deterministic: bool = False) -> None:
        begun = time.perf_counter()
        env = make_worlds(task, count, c.device, deterministic=deterministic)
        env.reset()
        actions = torch.rand(20, 1, count, env.action_dim, device=c.device) * 2 - 1
        turn = 0

        def step() -> None:
            nonlocal turn
            turn += 1
            env.step(actions[turn % len(actions)])

        for _ in range(4):  # graphs are recorded
            step()
        c.wait()
        ready = time.perf_counter() - begun
        once = c.seconds(step, 1, 1)
        repeats = 2 if c.rehearse else max(5, min(50, int(1.5 / once / 3)))
        env_step = c.seconds(step, repeats)
        env.check()
        env._ended.fill_(True)
        restart = c.seconds(env._begin_ended, 1, 1)  # a new episode in all worlds, once in every 1000 steps
        physics = env.physics
        bare = physics.capture(lambda: physics._steps(physics.substeps))
        bare_step = c.seconds(lambda: physics.replay(bare), repeats)
        length = env.task.max_episode_steps
        whole = env_step + restart / length
        c.record(
            task=task,
            worlds=count,
            deterministic=deterministic,
            steps_per_second=count / whole,
            physics_steps_per_second=count * physics.substeps / whole,
            bare_steps_per_second=count / bare_step,
            share_of_bare=bare_step / whole,
            step_ms=env_step * 1e3,
            restart_ms=restart * 1e3,
            bad=int(env.bad_states.sum()),
            ready_after=ready,
        )

    if c.rehearse:
        wanted = [("reacher-hard", 4, False)]
    else:
        wanted = [(task, 8192, False) for task in TASKS[:9]]
        wanted += [("cheetah-run", 4096, False), ("cheetah-run", 4096, True), ("humanoid-walk", 4096, False)]
        wanted += [("humanoid-walk", 4096, True)]
        wanted += [(task, count, False) for count in (1024, 512, 64) for task in TASKS[:5]]
        wanted += [(task, 8192, False) for task in TASKS[9:]]
    for task, count, deterministic in wanted:
        what = {"task": task, "worlds": count, "deterministic": deterministic}
        if c.left < 5 and not c.rehearse:
            c.record(**what, failed="no time")
        else:
            c.attempt(lambda t=task, n=count, d=deterministic: measure(t, n, d), **what)


def kernels(c: Context) -> None:
    """Compile Warp's kernels of every model in processes side by side, so that what comes later finds them."""
    tasks = {task.split("-")[0]: task for task in reversed(TASKS)}
    processes = max(1, min(len(tasks), (os.cpu_count() or 2) - 2))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(load_kernels, task, c.device): task for task in tasks.values()}
        for job in as_completed(jobs):
            error = job.exception()
            c.record(task=jobs[job], **({"failed": str(error)} if error else {"kernel_seconds": job.result()}))


def load_kernels(task: str, device: str) -> float:
    """Seconds until a task's kernels are compiled and loaded."""
    begun = time.perf_counter()
    env = make_worlds(task, 16, device)
    env.reset()
    for _ in range(4):
        env.step(torch.zeros(1, 16, env.action_dim, device=device))
    physics = env.physics
    physics.capture(lambda: physics._steps(1))
    return time.perf_counter() - begun


def loop(c: Context) -> None:
    """Frames a second of whole runs: acting, stepping, storing, sampling, updating, logging; no evaluation."""
    sizes = [("reacher-hard", 4, 1)] if c.rehearse else [("humanoid-walk", 1024, 1), ("cheetah-run", 4096, 1)]
    sizes += [] if c.rehearse else [("humanoid-walk", 1024, 5), ("cheetah-run", 1024, 1)]
    for i, (task, num_envs, seeds) in enumerate(sizes):
        what = {"task": task, "num_envs": num_envs, "seeds": seeds}
        if c.left < LOOP_SECONDS - 5 and not c.rehearse:
            c.record(**what, failed="no time")
            continue
        settings = [f"env=dmc/{task}", f"seeds={seeds}", *paced(num_envs, 40 if c.rehearse else 100_000, 10)]
        settings += ["env.spread=false", f"eval.every={num_envs * 100_000}", "eval.episodes=1"]
        share = min(c.left, max(LOOP_SECONDS, c.left / (len(sizes) - i)))
        c.attempt(lambda s=settings, t=share, w=what: run(c, s, t, **w), **what)


def walk(c: Context) -> None:
    """humanoid-walk by `scale=parallel_gpu`: its course against the clock."""
    task, num_envs, iterations = ("reacher-hard", 4, 40) if c.rehearse else ("humanoid-walk", 1024, 100_000)
    settings = [f"env=dmc/{task}", "seeds=1", *paced(num_envs, iterations, 10)]
    settings += [f"eval.every={num_envs * (20 if c.rehearse else 2500)}"]
    settings += [] if c.rehearse else [f"train.warmup_steps={10 * num_envs}"]
    run(c, settings, c.left, task=task)


def paced(num_envs: int, iterations: int, log_every: int) -> list[str]:
    """Settings of a run of so many steps of `num_envs` worlds on mujoco_warp, with one checkpoint at its end."""
    total = num_envs * iterations
    return [
        "env.backend=warp", f"train.num_envs={num_envs}", f"train.total_steps={total}",
        f"train.log_every={num_envs * log_every}", f"train.checkpoint_every={total}",
    ]  # fmt: skip


def run(c: Context, settings: list[str], seconds: float, **what: Any) -> None:
    """A run of `scale=parallel_gpu` until it ends or its time is over; what it has printed and measured by then."""
    folder = c.out.resolve() / "runs" / f"{c.section}-{time.time_ns()}"
    command = [sys.executable, str(ROOT / "run.py"), "agent=td3", "scale=parallel_gpu", *settings]
    command += [f"device={c.device}", f"run_dir={folder}"]
    if c.rehearse:
        command += ["train.warmup_steps=40", "agent.hidden=[16,16]", "agent.batch_size=16", "compile=eager"]
    begun = time.time()
    with subprocess.Popen(command, cwd=c.out, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            output, _ = process.communicate(timeout=max(5.0, seconds - 8))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # the run saves and reports where it is
            try:
                output, _ = process.communicate(timeout=6)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
    print(output)
    c.record(**what, command=" ".join(command[2:-1]), seconds=time.time() - begun, status=process.returncode)
    points = course(folder / "tensorboard", "time/fps")
    for step, value, clock in points:
        c.record(**what, step=step, frames_per_second=value, wall_clock=clock - begun)
    if len(points) > 2:  # without the start, in which graphs are recorded and compiled
        (first, _, since), (last, _, now) = points[len(points) // 2], points[-1]
        c.record(**what, frames_per_second_later_on=(last - first) / (now - since))
    if (folder / "eval.csv").exists():
        times = {step: clock - begun for step, _, clock in course(folder / "tensorboard", "eval/mean_reward")}
        with (folder / "eval.csv").open() as file:
            for row in csv.DictReader(file):
                step = int(row["step"])
                c.record(
                    **what, step=step, seed=row["seed"], mean_return=float(row["return"]), wall_clock=times.get(step)
                )
    if process.returncode not in (0, 130, 143) and not (folder / "eval.csv").exists():
        last = [line for line in output.splitlines() if line.strip()][-1:]
        c.record(**what, failed=last[0] if last else f"exit status {process.returncode}")


def course(folder: Path, tag: str) -> list[tuple[int, float, float]]:
    """(step, value, wall clock) of one scalar in a run's TensorBoard events, at most twenty of them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points: list[tuple[int, float, float]] = []
    for path in sorted({p.parent for p in folder.rglob("events.*")}):
        events = EventAccumulator(str(path))
        events.Reload()
        if tag in events.Tags()["scalars"]:
            points = [(e.step, e.value, e.wall_time) for e in events.Scalars(tag)]
            break
    return points[:: max(1, len(points) // 20)]


def table(c: Context) -> None:
    """Cells of BEER's table, as long as there is time: the paper's protocol, ten seeds stacked."""
    root = c.out.resolve() / "runs" / "table"
    short = ["train.total_steps=400", "train.warmup_steps=100", "seeds=1", "eval.every=200", "eval.episodes=1"]
    command = [sys.executable, str(ROOT / "run.py"), "agent=beer", f"device={c.device}", f"runs_root={root}"]
    for row in ("reacher-hard",) if c.rehearse else ("finger-spin", "acrobot-swingup"):
        if c.left < 20 and not c.rehearse:
            break
        settings = [
            f"env=dmc/{row}",
            f"run_dir={root / row}",
            *(short if c.rehearse else ["seeds=10", "eval.every=50000"]),
        ]
        with subprocess.Popen([*command, *settings], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                output, _ = process.communicate(timeout=max(5.0, c.left - 8))
            except subprocess.TimeoutExpired:
                process.terminate()
                output, _ = process.communicate(timeout=6)
        print(output.decode())
        evaluations = root / row / "eval.csv"
        if not evaluations.exists():
            c.record(task=row, failed=output.decode().strip().splitlines()[-1])
            continue
        with evaluations.open() as file:
            rows = list(csv.DictReader(file))
        last = rows[-1]["step"]
        c.record(task=row, step=int(last), returns=[float(r["return"]) for r in rows if r["step"] == last])


SECTIONS = {f.__name__: f for f in (machine, tests, updates, worlds, loop, walk, table, kernels)}

# ------------------------------------------------------------------------------------------------ report


def report(out: Path) -> None:
    """`gpu.md` from `gpu.jsonl`: a table for each section and set of figures."""
    lines = [json.loads(line) for line in (out / "gpu.jsonl").read_text().splitlines()]
    text = ["# Measured on a GPU"]
    for section in dict.fromkeys(line["section"] for line in lines):
        shapes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for line in lines:
            if line["section"] == section:
                figures = {k: v for k, v in line.items() if k != "section"}
                shapes.setdefault(tuple(figures), []).append(figures)
        text += ["", f"## {section}"]
        for columns, rows in shapes.items():
            text += ["", "| " + " | ".join(columns) + " |", "|" + "--|" * len(columns)]
            text += ["| " + " | ".join(shown(row[k]) for k in columns) + " |" for row in rows]
    (out / "gpu.md").write_text("\n".join(text) + "\n")


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3g}"
    return str(value).replace("|", "/")


# -------------------------------------------------------------------------------------------------- main


def start(section: str, seconds: float, args: argparse.Namespace) -> subprocess.Popen:
    """A section in a process group of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--only", section, "--seconds", str(seconds)]
    command += ["--out", str(args.out), *(["--rehearse"] if args.rehearse else [])]
    with (args.out / "gpu.log").open("a") as log:
        log.write(f"\n===== {section}\n")
        log.flush()
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def finish(process: subprocess.Popen, seconds: float) -> str:
    """Wait for a section, and stop it with all that it has started once its time is over."""
    try:
        status = process.wait(timeout=seconds)
        return "done" if status == 0 else f"failed with status {status}"
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sections", nargs="+", choices=list(SHARES), default=list(SHARES))
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--only", choices=list(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.only:
        SECTIONS[args.only](Context(args.only, args.out, time.time() + args.seconds, args.rehearse))
        return

    until = time.time() + 60 * args.minutes
    wanted = [section for section in SHARES if section in args.sections]
    warms_up = not args.rehearse and bool({"worlds", "loop", "walk"} & set(wanted))
    kernels = start("kernels", until - time.time(), args) if warms_up else None
    for i, section in enumerate(wanted):
        if kernels and section in ("worlds", "loop", "walk"):
            outcome = finish(kernels, min(150.0, 0.4 * (until - time.time())))
            Context("kernels", args.out, until, args.rehearse).record(outcome=outcome)
            kernels = None
        seconds = (until - time.time()) * SHARES[section] / sum(SHARES[s] for s in wanted[i:])
        begun = time.time()
        print(f"{section}: up to {seconds:.0f} s", flush=True)
        outcome = finish(start(section, seconds, args), seconds + 10)
        Context(section, args.out, until, args.rehearse).record(outcome=outcome, took=time.time() - begun)
        report(args.out)
    print((args.out / "gpu.md").read_text())


if __name__ == "__main__":
    main()
