"""A cycle of PLR made of jaxued's parts, to be held against `benchmarks/curriculum.py --worlds 32`.

    python -m venv jaxued && jaxued/bin/pip install jaxued six          # an environment of its own
    jaxued/bin/python benchmarks/jaxued_cycle.py --threads 1

Mazes, level sampler, replaying wrapper and resettable LSTM are jaxued's. The rest is written here, all of it a program
of XLA: 32 replayed levels x 256 steps, scores, five epochs of PPO on them as one minibatch. The student is ours in
sizes, 433 thousand parameters. Figures are of the wall clock and of the process's CPU time.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, choices=(0, 1), default=0, help="1: one thread; 0: as many as XLA takes")
parser.add_argument("--rounds", type=int, default=5)
args = parser.parse_args()
if args.threads == 1:  # before jax is imported
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

jax.tree_map = jax.tree.map  # as jaxued 0.0.1 calls it
from jaxued.environments.maze import Maze, make_level_generator  # noqa: E402
from jaxued.level_sampler import LevelSampler  # noqa: E402
from jaxued.linen import ResetRNN  # noqa: E402
from jaxued.utils import compute_max_returns, max_mc  # noqa: E402
from jaxued.wrappers import AutoReplayWrapper  # noqa: E402

WORLDS, STEPS, EPOCHS, HIDDEN, LEVELS = 32, 256, 5, 256, 4000
DISCOUNT, TRACE, CLIP = 0.995, 0.95, 0.2


class Student(nn.Module):
    """Sequences of observations (T, N, ...) -> memory, log pi (T, N, 7), V (T, N)."""

    @nn.compact
    def __call__(self, obs: Any, start: jax.Array, memory: Any) -> tuple[Any, jax.Array, jax.Array]:
        seen = nn.relu(nn.Conv(16, (3, 3), padding="VALID")(obs.image))
        seen = seen.reshape(*seen.shape[:2], -1)
        faced = nn.Dense(5)(jax.nn.one_hot(obs.agent_dir, 4))
        x = jnp.concatenate([seen, faced], axis=-1)
        memory, trunk = ResetRNN(nn.OptimizedLSTMCell(HIDDEN))((x, start), initial_carry=memory)
        logits = nn.Dense(7)(nn.tanh(nn.Dense(32)(trunk)))
        return memory, jax.nn.log_softmax(logits), nn.Dense(1)(nn.tanh(nn.Dense(32)(trunk)))[..., 0]


env, student = AutoReplayWrapper(Maze(normalize_obs=True)), Student()
sampler = LevelSampler(LEVELS)
optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-4, eps=1e-5))
cleared = nn.OptimizedLSTMCell(HIDDEN).initialize_carry(jax.random.PRNGKey(0), (WORLDS, 149))
reset = jax.vmap(env.reset_to_level, (0, 0, None))
step = jax.vmap(env.step, (0, 0, 0, None))


def with_time(obs: Any) -> Any:
    return jax.tree.map(lambda x: x[None], obs)


def gae(reward: jax.Array, value: jax.Array, last: jax.Array, done: jax.Array) -> jax.Array:
    def back(carry: Any, now: Any) -> Any:
        advantage, following = carry
        r, v, d = now
        advantage = r + DISCOUNT * (1 - d) * following - v + DISCOUNT * TRACE * (1 - d) * advantage
        return (advantage, v), advantage

    return jax.lax.scan(back, (jnp.zeros(WORLDS), last), (reward, value, done), reverse=True)[1]


@jax.jit
def cycle(params: Any, state: Any, store: Any, key: jax.Array) -> tuple[Any, Any, Any, jax.Array]:
    """Replay levels, score them and learn from them."""
    key, of_levels, of_starts = jax.random.split(key, 3)
    store, (index, levels) = sampler.sample_replay_levels(store, of_levels, WORLDS)
    obs, worlds = reset(jax.random.split(of_starts, WORLDS), levels, env.default_params)

    def play(carry: Any, _: None) -> Any:
        key, memory, obs, worlds, start = carry
        key, of_action, of_step = jax.random.split(key, 3)
        memory, log_probs, value = student.apply(params, with_time(obs), start[None], memory)
        action = jax.random.categorical(of_action, log_probs[0])
        log_prob = jnp.take_along_axis(log_probs[0], action[:, None], axis=-1)[:, 0]
        keys = jax.random.split(of_step, WORLDS)
        after, worlds, reward, done, _ = step(keys, worlds, action, env.default_params)
        return (key, memory, after, worlds, done), (obs, action, log_prob, value[0], reward, done, start)

    begin = (key, cleared, obs, worlds, jnp.zeros(WORLDS, bool))
    (key, memory, obs, _, done), rollout = jax.lax.scan(play, begin, None, length=STEPS)
    seen, action, old_log_prob, old_value, reward, dones, start = rollout
    last = student.apply(params, with_time(obs), done[None], memory)[2][0]
    advantage = gae(reward, old_value, last, dones)
    target = advantage + old_value
    best = jnp.maximum(sampler.get_levels_extra(store, index)["max_return"], compute_max_returns(dones, reward))
    store = sampler.update_batch(store, index, max_mc(dones, old_value, best), {"max_return": best})
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-5)

    def loss(params: Any) -> jax.Array:
        _, log_probs, value = student.apply(params, seen, start, cleared)
        ratio = jnp.exp(jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0] - old_log_prob)
        policy = -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage).mean()
        near = old_value + jnp.clip(value - old_value, -CLIP, CLIP)
        return policy + 0.25 * jnp.maximum((value - target) ** 2, (near - target) ** 2).mean()

    def epoch(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(epoch, (params, state), None, length=EPOCHS)
    return params, state, store, key


def main() -> None:
    key = jax.random.PRNGKey(1)
    levels = jax.vmap(make_level_generator(13, 13, 25))(jax.random.split(key, LEVELS))
    one = jax.tree.map(lambda x: x[0], levels)
    store = sampler.initialize(one, {"max_return": -jnp.inf})
    scores, unplayed = jax.random.uniform(key, (LEVELS,)), {"max_return": jnp.full(LEVELS, -jnp.inf)}
    store, _ = sampler.insert_batch(store, levels, scores, unplayed)
    played = jax.tree.map(lambda x: x[:WORLDS], levels)
    obs, _ = reset(jax.random.split(key, WORLDS), played, env.default_params)
    params = student.init(key, with_time(obs), jnp.zeros((1, WORLDS), bool), cleared)
    given: Any = (params, optimizer.init(params), store, key)
    started = time.perf_counter()
    given = jax.block_until_ready(cycle(*given))
    size = sum(x.size for x in jax.tree.leaves(params))
    print(f"jax {jax.__version__}, {size:,} parameters, first cycle {time.perf_counter() - started:.0f} s")
    for _ in range(args.rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        given = jax.block_until_ready(cycle(*given))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rates = f"{WORLDS * STEPS / wall:,.0f} environment steps a second, {WORLDS * STEPS / cpu:,.0f} of CPU time"
        print(f"a cycle {wall * 1e3:.0f} ms, {cpu * 1e3:.0f} ms of CPU time: {rates}", flush=True)


if __name__ == "__main__":
    main()
