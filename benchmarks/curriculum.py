"""What a cycle of VAE-DRED costs, part by part: one run, medians over rounds in which seeds and modes take turns.

    python benchmarks/curriculum.py                                       # the paper's sizes; minutes on two idle cores
    python benchmarks/curriculum.py --worlds 32 --seeds 1                 # those of jaxued's PLR on mazes
    python benchmarks/curriculum.py --hidden 64 --length 112 --epochs 8   # those of protocol=short
    python benchmarks/curriculum.py --device cuda --modes eager --seeds 1 4 8

A cycle of PLR is the first four parts. With `--clock cpu` what is counted is the process's CPU time, which other work
on the machine disturbs less: for one thread.

The level model is not trained: what it makes costs as much. `of matmul rate`: the products of the student's update,
counted, a second of its time, against the device's fastest square float32 product (`MatrixProducts`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from updates import MatrixProducts

from agents.ppo import PPOConfig
from agents.vae_dred import VAEDRED, LevelModelConfig, VAEDREDConfig
from envs.cave.space import CaveEscape
from rlreg.compilation import compiled
from rlreg.level_buffer import draw
from rlreg.memory import keep_freed
from rlreg.regularizers import Regularizer
from rlreg.run_folder import provenance

DATASET = "cave_escape_512_4ts_varp"
CYCLES = 28_754
"""Of the paper's protocol."""
INTERPOLATIONS = 4
PARTS = ("draws", "replay", "scores", "update", "generation", "audition", "insertion")


class Timed:
    """A VAE-DRED of S seeds whose cycle is taken apart."""

    def __init__(
        self, num_seeds: int, mode: str, student: PPOConfig, space: CaveEscape, device: str, clock: Callable[[], float]
    ) -> None:
        pairs = student.num_envs // INTERPOLATIONS
        config = VAEDREDConfig(student=student, model=LevelModelConfig(), pairs=pairs, interpolations=INTERPOLATIONS)
        self.method = VAEDRED(config, Regularizer(), space.observation, space.num_actions, range(num_seeds), device)
        self.method.setup(space, CYCLES)
        self.num_seeds, self.mode, self.clock = num_seeds, mode, clock
        self.synchronize: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
        self.seconds: dict[str, list[float]] = defaultdict(list)
        for name, latent in zip(("mean", "std"), self.method.model.encode(space.dataset), strict=True):
            self.method.latents[name].copy_(latent)
        for _ in range(self.method.warm_up):
            self.method.cycle()
        self.first_seconds = 0.0
        """Of the first rollout and update, which compile."""
        if mode == "compile":
            self.method.compile(compiled)
            started = time.perf_counter()
            self.method.practise()
            self.first_seconds = time.perf_counter() - started

    @property
    def name(self) -> str:
        return f"{self.mode}, S = {self.num_seeds}"

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.synchronize()
        start = self.clock()
        yield
        self.synchronize()
        self.seconds[name].append(self.clock() - start)

    def cycle(self) -> None:
        """`VAEDRED.cycle_after_warm_up`, with `replay` and `evaluate_candidates` written out."""
        m, c = self.method, self.method.config
        with self.part("draws"):
            uniform = m.rng.uniform("levels/draw", m.cycles, (m.length, m.num_envs))
            schedule = draw(m.buffer.distribution(m.eta), uniform)
        with self.part("replay"):
            rollout = m.play(m.buffer.levels, schedule, "replay")
        with self.part("scores"):
            m.buffer.record_draws(rollout.level, rollout.start)
            m.buffer.update(rollout.level, m.scores(rollout))
        with self.part("update"):
            m.learn(rollout)
        with self.part("generation"):
            mean, std = m.latents["mean"], m.latents["std"]
            levels = m.model.generate(mean, std, m.rng, "levels/new", m.cycles, c.pairs, c.interpolations)
        with self.part("audition"):
            rollout = m.play_each(levels, "audition")
        with self.part("insertion"):
            m.buffer.insert(levels.flatten(2), m.scores(rollout), m.eta)
        m.cycles += 1

    @property
    def update_flops(self) -> float:
        """Floating point operations of an update's matrix products: 2 a weight forward, 4 backward, every step.

        But for what looks at the observation, whose inputs need no gradient; the convolution has 9 places.
        """
        p = {name: value[0].numel() for name, value in self.method.student.params.items() if "weight" in name}
        first = 9 * p["image.weight"] + p["direction.weight"]
        rest = sum(p.values()) - p["image.weight"] - p["direction.weight"]
        s = self.method.config.student
        return self.num_seeds * s.epochs * s.num_envs * s.rollout_length * (4 * first + 6 * rest)


def table(contestants: list[Timed], products: MatrixProducts) -> str:
    """Markdown: a row per part, a column for each contestant."""
    median = [{name: statistics.median(c.seconds[name]) for name in PARTS} for c in contestants]
    totals = [sum(times.values()) for times in median]
    of_plr = [sum(times[name] for name in PARTS[:4]) for times in median]
    lines = ["| ms per cycle | " + " | ".join(f"{c.name} | share" for c in contestants) + " |"]
    lines.append("|---|" + "--:|--:|" * len(contestants))
    for name in PARTS:
        cells = (f"{t[name] * 1e3:.1f} | {t[name] / total:.0%}" for t, total in zip(median, totals, strict=True))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    rows = {
        "**a cycle**": [f"{total * 1e3:.1f}" for total in totals],
        "cycles a second, all seeds": [f"{c.num_seeds / t:.2f}" for c, t in zip(contestants, totals, strict=True)],
        "environment steps a second": [
            f"{2 * c.num_seeds * c.method.num_envs * c.method.length / t:,.0f}"
            for c, t in zip(contestants, totals, strict=True)
        ],
        "PLR's part of it": [f"{plr * 1e3:.1f}" for plr in of_plr],
        "PLR, environment steps a second": [
            f"{c.num_seeds * c.method.num_envs * c.method.length / plr:,.0f}"
            for c, plr in zip(contestants, of_plr, strict=True)
        ],
        "first rollout and update, s": [f"{c.first_seconds:.0f}" if c.first_seconds else "" for c in contestants],
        "update, of matmul rate": [
            f"{c.update_flops / t['update'] / products.rate:.2f}" for c, t in zip(contestants, median, strict=True)
        ],
        f"{CYCLES:,} cycles, hours": [f"{CYCLES * total / 3600:.1f}" for total in totals],
    }
    lines += [f"| {name} | " + " | ".join(f"{cell} |" for cell in cells) + " |" for name, cells in rows.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--modes", nargs="+", choices=("eager", "compile"), default=["eager", "compile"])
    parser.add_argument("--worlds", type=int, default=36, help="of each seed; a multiple of 4")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--hidden", type=int, default=256, help="units of the LSTM")
    parser.add_argument("--length", type=int, default=256, help="steps of a rollout, and at most of an episode")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write to this file")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is available")
    if args.threads:
        torch.set_num_threads(args.threads)

    if args.worlds % INTERPOLATIONS:
        parser.error(f"--worlds {args.worlds}: give a multiple of {INTERPOLATIONS}")

    keep_freed()  # as runs do
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    limit = min(250, args.length)
    space = CaveEscape(DATASET, None, [f"{DATASET}:test"], 4, max_episode_steps=limit, device=args.device)
    student = PPOConfig(hidden_dim=args.hidden, num_envs=args.worlds, rollout_length=args.length, epochs=args.epochs)
    pairs = [(n, mode) for n in args.seeds for mode in args.modes]
    contestants = [Timed(n, mode, student, space, args.device, clock) for n, mode in pairs]
    products, load = MatrixProducts(args.device), os.getloadavg()[0]
    for _ in range(args.rounds):
        products.turn(contestants[0].synchronize)
        for contestant in contestants:
            contestant.cycle()
    machine = provenance()
    device = machine["gpu"] if args.device == "cuda" else f"{machine['cpu']}, {machine['threads']} thread(s)"
    loads = f"load average {load:.1f} before and {os.getloadavg()[0]:.1f} after"
    sizes = f"LSTM {args.hidden}, {student.num_envs} worlds x {args.length} steps, {args.epochs} epochs"
    text = (
        f"{device}; {machine['cores']} cores, {loads}; torch {machine['versions']['torch']}, "
        f"commit {machine['commit']}; {sizes}; medians of {args.rounds} rounds, {args.clock} time; "
        f"float32 matrix products {products.rate / 1e9:.0f} GFLOP/s.\n\n"
        f"{table(contestants, products)}\n"
    )
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
