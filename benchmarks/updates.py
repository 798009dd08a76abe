"""Updates a second of our learners beside Stable-Baselines3's own `train`: one run, interleaved rounds, medians.

    python benchmarks/updates.py                                  # about six minutes on two idle cores
    python benchmarks/updates.py --agents ddpg beer --seeds 1 4   # fewer columns, sooner
    python benchmarks/updates.py --peers sbx --seeds 1 2 4          # beside sbx-rl (extra bench)
    python benchmarks/updates.py --device cuda --seeds 1 4 10 32 100 --out updates.md

Everybody learns from a full replay memory of random transitions (observations 67, actions 21, batch 256,
networks 256x256: humanoid-stand's sizes and the BEER paper's networks). A round gives every contestant one
turn of some updates, so that a disturbance of the machine meets all alike; a figure is the median of its
turns. The unit is seed-updates a second: one update of S stacked seeds counts S. Beside it stand the
floating point operations that the mathematics asks for, the share of the rate that plain float32 matrix
products reach in the same rounds, and how much of an update's time its very products would take if each came
from the library that is fastest at it ("of best products").
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import peers
import stable_baselines3
import torch
from stable_baselines3.common.logger import configure

from agents.td3 import TD3, TD3Config
from rlreg.agent import BatchAgent
from rlreg.buffers import Replay
from rlreg.compilation import prepare
from rlreg.learner import Learner
from rlreg.product_choice import SETTINGS, ProductChoice
from rlreg.products import WAYS
from rlreg.regularizers import BEER, Regularizer
from rlreg.run_folder import provenance

OBS, ACT, BATCH, HIDDEN = 67, 21, 256, (256, 256)
ROWS = 10_000
CPU_TIME = False
SBX_AT_ONCE = 24
"""Gradient steps a call of sbx-rl's, in its faster way."""
DDPG = {"num_critics": 1, "policy_delay": 1, "target_noise": 0.0}
AGENTS: dict[str, tuple[dict[str, Any], Callable[[], Regularizer]]] = {
    "ddpg": (DDPG, Regularizer),
    "td3": ({}, Regularizer),
    "beer": (DDPG, BEER),
    "beer_td3": ({}, BEER),
}
PLAIN = {"beer": "ddpg", "beer_td3": "td3"}
"""What a regularised agent is without its regulariser."""


class Products(Counter[tuple[int, int, int]]):
    """How often an update takes a product of (m, k) by (k, n), by (m, k, n); every other update counts half."""

    def forward(self, sizes: Sequence[int], times: float = 1.0) -> None:
        """Through layers of so many inputs and outputs."""
        for n, m in pairwise(sizes):
            self[BATCH, n, m] += times

    def inputs(self, sizes: Sequence[int], times: float = 1.0) -> None:
        """Gradients of the layers' inputs."""
        for n, m in pairwise(sizes):
            self[BATCH, m, n] += times

    def weights(self, sizes: Sequence[int], times: float = 1.0) -> None:
        """Gradients of the layers' weights."""
        for n, m in pairwise(sizes):
            self[n, BATCH, m] += times

    @property
    def flops(self) -> float:
        """Floating point operations."""
        return sum(2 * m * k * n * times for (m, k, n), times in self.items())


def products_of(agent: str) -> Products:
    """The matrix products of one seed's update, actor updates spread over the delay.

    Critic: the targets' actor and critics forward; the online critics forward, all weight gradients, input gradients
    but of the first layer; BEER as released also the online actor and the online critics' features at s'. Actor: actor
    and first critic forward, the critic's input gradients down to the action, the actor's gradients.
    """
    config = TD3Config(**AGENTS[agent][0])
    actor, critic = (OBS, *HIDDEN, ACT), (OBS + ACT, *HIDDEN, 1)
    found = Products()
    found.forward(actor)
    found.forward(critic, 2 * config.num_critics)
    found.weights(critic, config.num_critics)
    found.inputs(critic[1:], config.num_critics)
    if agent in PLAIN:
        found.forward(actor)
        found.forward(critic[:-1], config.num_critics)
    share = 1 / config.policy_delay
    for sizes in (actor, critic):
        found.forward(sizes, share)
        found.inputs(sizes[1:], share)
    found.weights(actor, share)
    found.inputs((ACT, HIDDEN[0]), share)
    return found


def flops(agent: str) -> float:
    """Floating point operations of one seed's update, matrix products only."""
    return products_of(agent).flops


def clock() -> float:
    """Seconds; with `--cpu-time` those that this process has computed for."""
    return time.process_time() if CPU_TIME else time.perf_counter()


@dataclass
class Contestant:
    """Somebody who makes updates; `turn(n)` makes n."""

    agent: str
    mode: str
    turn: Callable[[int], None]
    seeds: int = 1
    compile_seconds: float | None = None
    """Time of the first updates, compilation included."""
    seconds: list[float] = field(default_factory=list)
    """An update's time (of all seeds together), one figure a round."""
    at_once: int = 1
    """Updates a call: a turn is a multiple of it."""

    @property
    def rate(self) -> float:
        """Seed-updates a second, the median round's."""
        return self.seeds / statistics.median(self.seconds)


class Space(gym.Env):
    """An environment that is not stepped."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (ACT,), np.float32)


def sb3(agent: str, device: str) -> Contestant:
    """Stable-Baselines3's DDPG or TD3: `train` on a full buffer."""
    algorithm = {"ddpg": stable_baselines3.DDPG, "td3": stable_baselines3.TD3}[agent]
    model = algorithm(
        "MlpPolicy", Space(), learning_rate=3e-4, batch_size=BATCH, buffer_size=ROWS,
        policy_kwargs={"net_arch": list(HIDDEN)}, device=device,
    )  # fmt: skip
    model.set_logger(configure(None, []))
    buffer, rng = model.replay_buffer, np.random.default_rng(0)
    for array in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards):
        array[:] = rng.uniform(-1.0, 1.0, array.shape)
    buffer.full = True
    return Contestant(agent, "SB3", lambda n: model.train(n, BATCH))


def sbx(agent: str, at_once: int) -> Contestant:
    """sbx-rl's DDPG or TD3: `train` on a full buffer, `at_once` updates a call."""
    start = time.perf_counter()
    turn = peers.sbx(agent, Space(), HIDDEN, BATCH, ROWS, at_once)
    seconds = time.perf_counter() - start
    return Contestant(agent, f"SBX, {at_once} a call", turn, at_once=at_once, compile_seconds=seconds)


def ours(
    agent: str, seeds: int, mode: str, device: str, precision: str = "float32", products: str = "auto"
) -> Contestant:
    """S stacked seeds of one of ours; `mode` as `rlreg.compilation.prepare` has it, `products` as the runs have it."""
    changes, regularizer = AGENTS[agent]
    config = TD3Config(hidden=list(HIDDEN), batch_size=BATCH, precision=precision, **changes)
    learner = TD3(config, regularizer(), OBS, ACT, range(seeds), device)
    replay = Replay(range(seeds), ROWS, OBS, ACT, device)
    rows = torch.rand(seeds, ROWS, replay.rows.shape[-1], device=device) * 2.0 - 1.0
    rows[..., -2:] = 0.0  # neither terminated nor truncated
    replay.write(0, rows)
    name = mode if precision == "float32" else f"{mode}, {precision}"
    name = name if products == "auto" else f"{name}, {products}"
    return contestant(agent, name, learner, replay, mode, products=products)


def contestant(
    name: str,
    label: str,
    learner: BatchAgent,
    memory: Any,
    mode: str,
    per_call: int = 1,
    products: str = "auto",
    by_seed: bool = True,
) -> Contestant:
    """A learner of ours that updates from `memory`, `per_call` updates per call; `label` is what its mode is called.

    Without `by_seed` a compiled stack is one program even where the runs have one of a single seed.
    """
    whole = Learner(learner, memory)
    parts = whole.seed_by_seed() if mode == "compile" and by_seed else []
    choice = ProductChoice(products, learner.device, True)
    if choice.open:
        choice.choose((parts or [whole])[0].rehearse)
    torch.compiler.reset()  # Dynamo would give it the program of an equal learner with other products
    program = prepare(whole.update, mode, learner.device, per_call=per_call, parts=parts)
    number = torch.zeros((), dtype=torch.int64, device=learner.device)
    made = 0

    def turn(n: int) -> None:
        nonlocal made
        for _ in range(-(-n // per_call)):
            variants = tuple(learner.variant(made + k) for k in range(1, per_call + 1))
            with choice.using():
                program(number.fill_(made + 1), variants if per_call > 1 else variants[0])
            made += per_call

    start = time.perf_counter()
    turn(10 * per_call)  # both programs, and a CUDA graph's warm-up and capture
    elapsed = time.perf_counter() - start
    return Contestant(name, label, turn, len(learner.seeds), None if mode == "eager" else elapsed)


class MatrixProducts:
    """The device's rate in float32 matrix products: of square ones of some sizes, the fastest."""

    def __init__(self, device: str) -> None:
        sizes = (256, 512, 1024) if device == "cpu" else (1024, 2048, 4096, 8192)
        self.pairs = {n: (torch.randn(n, n, device=device), torch.randn(n, n, device=device)) for n in sizes}
        self.rates: dict[int, list[float]] = {n: [] for n in sizes}

    def turn(self, synchronize: Callable[[], None]) -> None:
        for n, (a, b) in self.pairs.items():
            repeats = max(2, 1024**3 // n**3)
            torch.mm(a, b)
            synchronize()
            start = clock()
            for _ in range(repeats):
                torch.mm(a, b)
            synchronize()
            self.rates[n].append(repeats * 2 * n**3 / (clock() - start))

    @property
    def rate(self) -> float:
        """FLOP/s: the best size's median."""
        return max(statistics.median(rates) for rates in self.rates.values())


class LayerProducts:
    """How fast any library takes the very products of an update: torch's own, oneDNN's, and XLA's where it runs."""

    def __init__(self, shapes: Iterable[tuple[int, int, int]], xla: bool) -> None:
        self.seconds: dict[tuple[int, int, int], dict[str, list[float]]] = {}
        self.turns: dict[tuple[int, int, int], dict[str, Callable[[], Any]]] = {}
        others = peers.products(list(shapes)) if xla else {}
        for shape in shapes:
            m, k, n = shape
            a, b = torch.randn(m, k), torch.randn(k, n)
            self.turns[shape] = {name: partial(WAYS[name], a, b, None, False) for name in ("plain", "onednn")}
            if xla:
                self.turns[shape]["XLA"] = others[shape]
            self.seconds[shape] = {name: [] for name in self.turns[shape]}

    def turn(self) -> None:
        for shape, turns in self.turns.items():
            repeats = max(3, 2**25 // math.prod(shape))
            for name, work in turns.items():
                work()
                start = clock()
                for _ in range(repeats):
                    work()
                self.seconds[shape][name].append((clock() - start) / repeats)

    def least_seconds(self, counted: Products) -> float:
        """An update's products, each by whoever is the fastest at it, by medians."""
        return sum(
            times * min(statistics.median(seconds) for seconds in self.seconds[shape].values())
            for shape, times in counted.items()
        )


def race(
    contestants: list[Contestant],
    products: MatrixProducts,
    rounds: int,
    updates: int,
    device: str,
    layers: LayerProducts | None = None,
) -> None:
    """`rounds` rounds of `updates` updates a turn (fewer where they hold many seeds)."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(rounds):
        products.turn(synchronize)
        if layers is not None:
            layers.turn()
        for c in contestants:
            n = max(4, updates // c.seeds if device == "cpu" else updates)
            n += -n % c.at_once
            n += n % 2  # as many updates with the actor's as without, under a policy delay of 2
            c.turn(2 * c.at_once)
            synchronize()
            start = clock()
            c.turn(n)
            synchronize()
            c.seconds.append((clock() - start) / n)


def usual_figures(
    c: Contestant, counted: Products, products: MatrixProducts, layers: LayerProducts | None
) -> dict[str, Any]:
    """What is said of every contestant; `counted` are the matrix products of one seed's update."""
    least = layers.least_seconds(counted) if layers is not None else None
    return {
        "agent": c.agent,
        "mode": c.mode,
        "S": c.seeds,
        "ms": statistics.median(c.seconds) * 1e3,
        "seed_updates_per_second": c.rate,
        "best_round": c.seeds / min(c.seconds),
        "mflop": counted.flops / 1e6,
        "gflop_per_second": c.rate * counted.flops / 1e9,
        "of_matmul_rate": c.rate * counted.flops / products.rate,
        "of_best_products": least * c.rate if least else None,
        "compile_seconds": c.compile_seconds,
    }


def figures(
    contestants: list[Contestant], products: MatrixProducts, layers: LayerProducts | None = None
) -> list[dict[str, Any]]:
    """A row a contestant."""
    rates = {(c.agent, c.mode, c.seeds): c.rate for c in contestants}
    sbx: dict[str, list[float]] = defaultdict(list)
    for c in contestants:
        if c.mode.startswith("SBX"):
            sbx[c.agent].append(c.rate)
    rows = []
    for c in contestants:
        plain = PLAIN.get(c.agent, c.agent)
        without = rates.get((plain, c.mode, c.seeds)) if c.agent in PLAIN else None
        single = rates.get((c.agent, c.mode, 1))
        rows.append(
            usual_figures(c, products_of(c.agent), products, layers)
            | {
                "times_sb3": c.rate / rates[plain, "SB3", 1],
                "times_sbx": c.rate / max(sbx[plain]) if sbx.get(plain) else None,
                "times_one_seed": c.rate / single if single else None,
                "cost_over_plain": without / c.rate - 1 if without else None,
            }
        )
    return rows


COLUMNS = {
    "agent": ("agent", "{}"),
    "mode": ("mode", "{}"),
    "S": ("S", "{}"),
    "ms": ("ms an update", "{:.2f}"),
    "seed_updates_per_second": ("seed-updates/s", "{:.0f}"),
    "best_round": ("best round", "{:.0f}"),
    "times_sb3": ("x SB3", "{:.2f}"),
    "times_sbx": ("x SBX's best", "{:.2f}"),
    "times_jax": ("x jax", "{:.2f}"),
    "times_plain": ("x plain", "{:.2f}"),
    "times_one_seed": ("x S=1", "{:.2f}"),
    "cost_over_plain": ("cost over plain", "{:+.0%}"),
    "mflop": ("MFLOP a seed", "{:.0f}"),
    "gflop_per_second": ("GFLOP/s", "{:.0f}"),
    "of_matmul_rate": ("of matmul rate", "{:.2f}"),
    "of_best_products": ("of best products", "{:.2f}"),
    "compile_seconds": ("first call, s", "{:.0f}"),
}
"""Key of a row: the heading, and the format."""


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, of the columns that the rows have."""
    columns = {key: column for key, column in COLUMNS.items() if key in rows[0]}
    lines = ["| " + " | ".join(title for title, _ in columns.values()) + " |"]
    lines.append("|---|---|" + "--:|" * (len(columns) - 2))
    for row in rows:
        cells = ("" if row[key] is None else form.format(row[key]) for key, (_, form) in columns.items())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS))
    parser.add_argument("--seeds", nargs="+", type=int, help="values of S (CPU: 1 2 4 8; CUDA: 1 4 10 32 100)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="PyTorch's threads (default: PyTorch's own choice)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true", help="instead of the clock's: where other jobs run beside")
    parser.add_argument("--updates", type=int, default=24, help="updates a turn, shared among S on the CPU")
    parser.add_argument("--no-bfloat16", dest="bfloat16", action="store_false")
    parser.add_argument("--products", nargs="+", choices=SETTINGS, default=["auto"], help="of our compiled ones")
    parser.add_argument("--peers", nargs="+", choices=("sbx",), default=[], help="who else runs (extra bench)")
    parser.add_argument("--out", type=Path, help="also write to this file: .md or .json")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is available")
    if args.cpu_time:
        global CPU_TIME
        CPU_TIME = True
    if args.peers:
        peers.modules("sbx", args.threads)
    if args.threads:
        torch.set_num_threads(args.threads)
    seeds = args.seeds or ([1, 2, 4, 8] if args.device == "cpu" else [1, 4, 10, 32, 100])

    fast = "compile" if args.device == "cpu" else "graph"
    eager_seeds = sorted({seeds[0], seeds[-1]}) if args.device == "cpu" else seeds
    contestants = [sb3(name, args.device) for name in ("ddpg", "td3")]
    if args.peers:
        contestants += [sbx(name, at_once) for name in ("ddpg", "td3") for at_once in (1, SBX_AT_ONCE)]
    for agent in args.agents:
        contestants += [ours(agent, s, "eager", args.device) for s in eager_seeds]
        contestants += [ours(agent, s, fast, args.device, products=p) for s in seeds for p in args.products]
    if args.bfloat16:
        contestants += [ours("ddpg", s, fast, args.device, "bfloat16") for s in (seeds[0], seeds[-1])]

    products, layers = MatrixProducts(args.device), None
    if args.device == "cpu":
        layers = LayerProducts({shape for agent in AGENTS for shape in products_of(agent)}, bool(args.peers))
    load = os.getloadavg()[0]
    race(contestants, products, args.rounds, args.updates, args.device, layers)
    rows, machine = figures(contestants, products, layers), provenance()
    device = machine["gpu"] if args.device == "cuda" else f"{machine['cpu']}, {machine['threads']} threads"
    text = (
        f"{device}; {machine['cores']} cores, load average {load:.1f} before and {os.getloadavg()[0]:.1f} after; "
        f"torch {machine['versions']['torch']}, commit {machine['commit']}; medians of {args.rounds} rounds"
        f"{', CPU time' * args.cpu_time}.\n"
        f"Float32 matrix products in the same rounds: {products.rate / 1e9:.0f} GFLOP/s.\n\n{table(rows)}\n"
    )
    print(text)
    if args.out:
        record = {"machine": machine, "matmul_gflop_per_second": products.rate / 1e9, "rows": rows}
        args.out.write_text(json.dumps(record, indent=2) + "\n" if args.out.suffix == ".json" else text)


if __name__ == "__main__":
    main()
