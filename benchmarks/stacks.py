"""Whether S stacked seeds are slower a seed than one alone: one run, turn by turn, CPU time.

    python benchmarks/stacks.py                                    # some ten minutes on one idle core
    python benchmarks/stacks.py --learners a2pr ppo --modes eager --seeds 5

Learners as in benchmarks/offline.py (obs 17, act 6, batch 256), PPO's student on a rollout of CaveEscape's views (LSTM
256, 32 worlds x 64 steps, one epoch). A figure is the median over the rounds of the pair's own ratio, seed-updates a
CPU second of the stack over those of the single seed, the two right after each other and in changing order. `compile`
is as runs have it, seed by seed on one thread; `stacked` is the compiled program of the whole stack.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import offline
import torch
from updates import contestant

from agents.a2pr import A2PR, A2PRConfig
from agents.iql import IQL, IQLConfig
from agents.ppo import PPO, PPOConfig
from agents.td3 import TD3, TD3Config
from agents.td3_bc import TD3BC, TD3BCConfig
from rlreg.buffers import DatasetBuffer
from rlreg.level_space import Category, Image
from rlreg.product_choice import ProductChoice
from rlreg.regularizers import Regularizer
from rlreg.rollouts import Rollout
from rlreg.run_folder import provenance

LEARNERS = {
    "td3": (TD3, TD3Config),
    "td3_bc": (TD3BC, TD3BCConfig),
    "iql": (IQL, IQLConfig),
    "a2pr": (A2PR, A2PRConfig),
}
Turn = Callable[[int], None]


def of_batches(name: str, mode: str, seeds: int, products: str) -> Turn:
    """A learner's updates from a dataset."""
    kind, config = LEARNERS[name]
    learner = kind(config(), Regularizer(), offline.OBS, offline.ACT, range(seeds))
    data = DatasetBuffer(range(seeds), offline.random_data(), "cpu")
    by_seed = mode != "stacked"
    mode = mode if by_seed else "compile"
    return contestant(name, mode, learner, data, mode, products=products, by_seed=by_seed).turn


def of_rollouts(seeds: int, products: str, length: int = 64, num_envs: int = 32) -> Turn:
    """PPO's updates on one rollout, which need not be played."""
    observation = {"image": Image(5, 5, 3, 10.0), "direction": Category(4)}
    config = PPOConfig(num_envs=num_envs, rollout_length=length, epochs=1)
    student = PPO(config, Regularizer(), observation, 7, range(seeds))
    generator = torch.Generator().manual_seed(0)
    lead = seeds, length, num_envs

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*lead, *shape, generator=generator)

    whole, never = torch.zeros(lead, dtype=torch.int64), torch.zeros(lead, dtype=torch.bool)
    rollout = Rollout(
        obs=((3 * drawn(5, 5, 3)).round(), whole), start=never, action=whole, log_prob=drawn() - 2.0, value=drawn(),
        reward=drawn(), terminated=never, truncated=never, final_value=drawn(), level=whole, trunk=None,
    )  # fmt: skip
    choice = ProductChoice(products, torch.device("cpu"), True)
    if choice.open:
        choice.choose(lambda: student.update(rollout))

    def turn(n: int) -> None:
        with choice.using():
            for _ in range(n):
                student.update(rollout)

    return turn


def ratios(single: Turn, stack: Turn, seeds: int, rounds: int, seconds: float) -> tuple[list[float], float]:
    """Of each round, and the single seed's median milliseconds an update."""

    def timed(turn: Turn, n: int) -> float:
        before = time.process_time()
        turn(n)
        return (time.process_time() - before) / n

    times = max(2, 2 * round(seconds / timed(single, 4) / 2))  # as many updates of a delayed actor as others
    fewer = max(2, 2 * round(times / seeds / 2))
    found, alone = [], []
    for k in range(rounds):
        pair = ((single, times), (stack, fewer))
        took = {turn: timed(turn, n) for turn, n in (pair if k % 2 else pair[::-1])}
        found.append(seeds * took[single] / took[stack])
        alone.append(1e3 * took[single])
    return found, statistics.median(alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*LEARNERS, "ppo")
    parser.add_argument("--learners", nargs="+", choices=names, default=list(names))
    parser.add_argument("--modes", nargs="+", choices=("eager", "compile", "stacked"), default=["eager", "compile"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[4, 5], help="values of S")
    parser.add_argument("--products", choices=("auto", "aten", "onednn"), default="auto")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a turn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = provenance()
    print(f"{machine['cpu']}, one thread; torch {machine['versions']['torch']}, commit {machine['commit']}; ", end="")
    print(f"products={args.products}; load average {os.getloadavg()[0]:.1f} on {machine['cores']} cores\n")
    print("| learner | mode | S | ms an update, S = 1 | a seed's rate in the stack / alone | middle half |")
    print("|---|---|--:|--:|--:|--:|", flush=True)
    for name in args.learners:
        for mode in args.modes if name != "ppo" else ["eager"]:
            make = of_rollouts if name == "ppo" else partial(of_batches, name, mode)
            made = {seeds: make(seeds, args.products) for seeds in (1, *args.seeds)}
            for seeds in args.seeds:
                found, alone = ratios(made[1], made[seeds], seeds, args.rounds, args.seconds)
                low, middle, high = statistics.quantiles(found, n=4)
                cells = name, mode, seeds, f"{alone:.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}"
                print("|", *(f"{cell} |" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
