"""A2PR's updates a second beside the plain way of writing them: one run, interleaved rounds, medians.

    python benchmarks/offline.py                                   # some twelve minutes on two idle cores
    python benchmarks/offline.py --agents td3_bc iql --peers jax_corl --seeds 1 4   # beside the same in jax
    python benchmarks/offline.py --device cuda --out offline.md    # S = 1, 5 and 10; many updates a graph

Everybody learns from one dataset of random transitions with observations 17, actions 6, batch 256 (HalfCheetah's and
Walker2d's sizes) and the released code's networks: actor 256x3, critics and V 256x4, VAE 750x2. `plain` is a single
seed in eager PyTorch: `torch.nn` modules, `torch.optim.Adam`, autograd, one loss after another, as offline RL code is
commonly written; tests/test_benchmarks.py holds its updates against ours. Unit, rounds and the matrix products beside
are those of benchmarks/updates.py. TD3+BC and IQL, 256x256, have a peer in jax (benchmarks/peers.py). The last line is
what D4RL's nine Gym-MuJoCo sets would take A2PR at its best rate.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
import torch.nn.functional as F
import updates
from torch import Tensor, nn
from updates import Contestant, LayerProducts, MatrixProducts, Products, contestant, race, table, usual_figures

from agents.a2pr import A2PR, A2PRConfig
from agents.iql import IQL, IQLConfig
from agents.td3_bc import TD3BC, TD3BCConfig
from rlreg.buffers import Batch, DatasetBuffer
from rlreg.product_choice import SETTINGS
from rlreg.regularizers import Regularizer
from rlreg.run_folder import provenance

OBS, ACT, BATCH, ROWS = 17, 6, 256, 100_000
LEARNERS = {"a2pr": (A2PR, A2PRConfig), "td3_bc": (TD3BC, TD3BCConfig), "iql": (IQL, IQLConfig)}
TABLE_UPDATES = 9 * 5 * 1_000_000
"""Nine data sets, five seeds, a million updates."""
PER_CALL = 8
"""Updates a graph, where there are graphs."""


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between."""
    layers = [nn.Linear(n, m) for n, m in pairwise(sizes)]
    return nn.Sequential(*itertools.chain.from_iterable((layer, nn.ReLU()) for layer in layers[:-1]), layers[-1])


class Plain:
    """A2PR for one seed. Batches are (B, ...) tensors, noises standard normal."""

    def __init__(self, config: A2PRConfig, obs_dim: int, action_dim: int, device: str = "cpu") -> None:
        self.config, self.latent_dim = config, 2 * action_dim
        self.actor = mlp(obs_dim, *config.hidden, action_dim).to(device)
        self.critics = nn.ModuleList(mlp(obs_dim + action_dim, *config.critic_hidden, 1) for _ in range(2)).to(device)
        self.value = mlp(obs_dim, *config.critic_hidden, 1).to(device)
        self.encoder = mlp(obs_dim + action_dim, *config.vae_hidden, 2 * self.latent_dim).to(device)
        self.decoder = mlp(obs_dim + self.latent_dim, *config.vae_hidden, action_dim).to(device)
        self.actor_target, self.critics_target = copy.deepcopy(self.actor), copy.deepcopy(self.critics)
        vae = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), config.actor_learning_rate)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), config.critic_learning_rate)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), config.value_learning_rate)
        self.vae_optimizer = torch.optim.Adam(vae, config.vae_learning_rate)

    def q(self, critics: nn.ModuleList, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([obs, action], dim=-1)
        return critics[0](x), critics[1](x)

    def reconstruct(self, obs: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The VAE's action, and the mean of its KL over batch and latent dimensions."""
        mean, log_std = self.encoder(torch.cat([obs, action], dim=-1)).chunk(2, dim=-1)
        std = log_std.clamp(-4, 15).exp()
        kl = -0.5 * (1 + 2 * std.log() - mean.pow(2) - std.pow(2)).mean()
        return torch.tanh(self.decoder(torch.cat([obs, mean + std * noise], dim=-1))), kl

    def update(self, batch: Batch, noises: Sequence[Tensor], update_actor: bool) -> None:
        """`noises`: of the target action (B, A), of the VAE's step and of the actor's (B, Z)."""
        c = self.config
        obs, action, reward, next_obs, terminated = batch
        reward, going_on = reward[:, None], 1 - terminated[:, None]

        with torch.no_grad():
            smoothing = (c.target_noise * noises[0]).clamp(-c.target_noise_clip, c.target_noise_clip)
            next_action = (torch.tanh(self.actor_target(next_obs)) + smoothing).clamp(-1, 1)
            next_q = torch.min(*self.q(self.critics_target, next_obs, next_action))
            target = reward + c.discount * going_on * next_q
        q1, q2 = self.q(self.critics, obs, action)
        self.step(self.critic_optimizer, F.mse_loss(q1, target) + F.mse_loss(q2, target))

        with torch.no_grad():
            online = torch.min(*self.q(self.critics, next_obs, next_action))
            value_target = torch.min(reward + c.discount * going_on * online, target)
        value = self.value(obs)
        self.step(self.value_optimizer, F.mse_loss(value, value_target))
        value = value.detach()

        with torch.no_grad():
            q_data = self.critics[0](torch.cat([obs, action], dim=-1))
        reconstruction, kl = self.reconstruct(obs, action, noises[1])
        error = ((q_data > value) * (reconstruction - action).pow(2)).mean()
        self.step(self.vae_optimizer, c.vae_weight * error + 0.5 * kl)
        if not update_actor:
            return

        pi = torch.tanh(self.actor(obs))
        q_pi = self.critics[0](torch.cat([obs, pi], dim=-1))
        proposed, _ = self.reconstruct(obs, pi, noises[2])
        q_proposed = self.critics[0](torch.cat([obs, proposed], dim=-1)).detach()
        better = torch.where(q_proposed >= q_data, proposed, action)
        held = c.mask * ((q_proposed >= value) | (q_data > value))
        constraint = (held * (pi - better).pow(2)).mean()
        self.step(self.actor_optimizer, constraint - c.alpha / q_pi.abs().mean().detach() * q_pi.mean())

        with torch.no_grad():
            for net, slow in ((self.actor, self.actor_target), (self.critics, self.critics_target)):
                for p, q in zip(net.parameters(), slow.parameters(), strict=True):
                    q.lerp_(p, c.tau)

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def products_of(agent: str) -> Products:
    """The matrix products of one seed's update, actor updates spread over the delay.

    Critic: the targets forward, the critics forward and both gradients, that of the inputs but of the first layer; IQL
    looks at V there, and at the targets for V. V, of A2PR: the critics forward at s', V the same. VAE: the first critic
    forward at the data, the VAE forward and both gradients. Actor: actor and first critic forward, of A2PR twice and
    the VAE; the inputs' gradients back through critic and VAE to the action; the actor's gradients.
    """
    found, config = Products(), LEARNERS[agent][1]()
    hidden = config.critic_hidden if agent == "a2pr" else config.hidden
    actor, critic, value = (OBS, *config.hidden, ACT), (OBS + ACT, *hidden, 1), (OBS, *hidden, 1)

    def learnt(sizes: Sequence[int], times: float = 1.0) -> None:
        found.forward(sizes, times)
        found.weights(sizes, times)
        found.inputs(sizes[1:], times)

    found.forward(critic, 2)
    learnt(critic, 2)
    if agent == "iql":
        learnt(value)
        learnt(actor)
        found.forward(value, 2)
        return found
    share = 1 / config.policy_delay
    found.forward(actor)
    learnt(actor, share)
    found.forward(critic, share)
    found.inputs(critic[1:], share)
    found.inputs((ACT, hidden[0]), share)
    if agent == "a2pr":
        latent = 2 * ACT
        encoder, decoder = (OBS + ACT, *config.vae_hidden, 2 * latent), (OBS + latent, *config.vae_hidden, ACT)
        found.forward(critic, 2)
        learnt(value)
        found.forward(critic)
        learnt(encoder)
        learnt(decoder)
        found.inputs((latent, decoder[1]), 1 + share)
        found.forward(critic, share)
        for sizes in (encoder, decoder):
            found.forward(sizes, share)
            found.inputs(sizes[1:], share)
        found.inputs((ACT, encoder[1]), share)
    return found


def random_data() -> Batch:
    rng = np.random.default_rng(0)
    shapes = ((ROWS, OBS), (ROWS, ACT), ROWS, (ROWS, OBS))
    fields = [rng.uniform(-1.0, 1.0, shape).astype(np.float32) for shape in shapes]
    return Batch(*fields, np.zeros(ROWS, np.float32))


def plain(data: Batch, device: str) -> Contestant:
    """`Plain`, with batches and noise from torch's own generator."""
    learner = Plain(A2PRConfig(), OBS, ACT, device)
    columns = [torch.from_numpy(column).to(device) for column in data]
    widths = ACT, learner.latent_dim, learner.latent_dim
    made = 0

    def turn(n: int) -> None:
        nonlocal made
        for _ in range(n):
            made += 1
            index = torch.randint(ROWS, (BATCH,), device=device)
            noises = [torch.randn(BATCH, width, device=device) for width in widths]
            learner.update(Batch(*(column[index] for column in columns)), noises, made % 2 == 0)

    turn(2)
    return Contestant("a2pr", "plain", turn)


def jax_corl(agent: str, data: Batch) -> Contestant:
    """TD3+BC or IQL in jax, several updates a call."""
    start = time.perf_counter()
    turn = peers.offline(agent, data, OBS, ACT, BATCH, ROWS)
    seconds = time.perf_counter() - start
    return Contestant(agent, "jax", turn, at_once=peers.PER_CALL, compile_seconds=seconds)


def ours(
    data: Batch,
    seeds: int,
    mode: str,
    device: str,
    per_call: int = 1,
    products: str = "auto",
    agent: str = "a2pr",
) -> Contestant:
    """S stacked seeds of ours; `mode` as `rlreg.compilation.prepare` has it, `products` as the runs have it."""
    kind, config = LEARNERS[agent]
    learner = kind(config(), Regularizer(), OBS, ACT, range(seeds), device)
    name = mode if per_call == 1 else f"{mode}, {per_call} a call"
    name = name if products == "auto" else f"{name}, {products}"
    return contestant(agent, name, learner, DatasetBuffer(range(seeds), data, device), mode, per_call, products)


def figures(
    contestants: Sequence[Contestant], products: MatrixProducts, layers: LayerProducts | None = None
) -> list[dict[str, Any]]:
    """A row a contestant."""
    plain = {c.agent: c.rate for c in contestants if c.mode == "plain"}
    jax = {c.agent: c.rate for c in contestants if c.mode == "jax"}
    single = {(c.agent, c.mode): c.rate for c in contestants if c.seeds == 1}
    rows = []
    for c in contestants:
        rows.append(
            usual_figures(c, products_of(c.agent), products, layers)
            | {
                "times_plain": c.rate / plain[c.agent] if c.agent in plain else None,
                "times_jax": c.rate / jax[c.agent] if c.agent in jax else None,
                "times_one_seed": c.rate / single[c.agent, c.mode] if (c.agent, c.mode) in single else None,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", choices=LEARNERS, default=["a2pr"])
    parser.add_argument("--peers", nargs="+", choices=("jax_corl",), default=[], help="who else runs (extra bench)")
    parser.add_argument("--products", nargs="+", choices=SETTINGS, default=["auto"], help="of ours")
    parser.add_argument("--seeds", nargs="+", type=int, help="values of S (CPU: 1 5; CUDA: 1 5 10)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="PyTorch's threads (default: PyTorch's own choice)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true", help="instead of the clock's: where other jobs run beside")
    parser.add_argument("--updates", type=int, default=16, help="updates a turn, shared among S on the CPU")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="eager only, to be done soon")
    parser.add_argument("--out", type=Path, help="also write to this file: .md or .json")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is available")
    if args.updates % PER_CALL:
        parser.error(f"--updates {args.updates}: give a multiple of {PER_CALL}")
    updates.CPU_TIME = args.cpu_time
    if args.peers:
        peers.modules("jax_corl", args.threads)
    if args.threads:
        torch.set_num_threads(args.threads)
    seeds = args.seeds or ([1, 5] if args.device == "cpu" else [1, 5, 10])

    data = random_data()
    contestants = [plain(data, args.device)] if "a2pr" in args.agents else []
    contestants += [jax_corl(agent, data) for agent in args.agents if args.peers and agent != "a2pr"]
    modes = ["eager", *["compile" if args.device == "cpu" else "graph"] * args.compile]
    for agent in args.agents:
        for mode, s, p in itertools.product(modes, seeds, args.products):
            contestants.append(ours(data, s, mode, args.device, products=p, agent=agent))
        if args.device == "cuda" and args.compile:
            contestants += [ours(data, s, "graph", args.device, PER_CALL, agent=agent) for s in seeds]

    products, layers = MatrixProducts(args.device), None
    if args.device == "cpu":
        layers = LayerProducts({shape for agent in args.agents for shape in products_of(agent)}, bool(args.peers))
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
    if best := max((c for c in contestants if c.agent == "a2pr"), key=lambda c: c.rate, default=None):
        text += (
            f"\nA2PR on nine data sets x 5 seeds x 1M updates at the rate of {best.mode}, S={best.seeds}, without "
            f"evaluations: {TABLE_UPDATES / best.rate / 3600:.1f} hours.\n"
        )
    print(text)
    if args.out:
        record = {"machine": machine, "matmul_gflop_per_second": products.rate / 1e9, "rows": rows}
        args.out.write_text(json.dumps(record, indent=2) + "\n" if args.out.suffix == ".json" else text)


if __name__ == "__main__":
    main()
