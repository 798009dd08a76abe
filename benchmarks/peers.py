"""Updates of what a user could run instead, on XLA: sbx-rl's DDPG and TD3, and TD3+BC and IQL written anew in jax.

All of it needs the extra `bench`, but for a whole run of SB3's. The two offline learners are the papers' in the way JAX
code is commonly written: parameters as trees, a jitted loop of several updates a call that draws its batches itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

INSTALL = 'pip install -c constraints.txt -e ".[bench]"'
PER_CALL = 8
"""Updates of the jitted loops."""
Turn = Callable[[int], None]


def modules(peer: str, threads: int | None = None) -> tuple[ModuleType, ...]:
    """What a peer is made of; ends with one line where that is not installed.

    XLA takes a thread for each core that the process may run on, so `threads` of them are all that is left to it, and
    to whoever else runs in the process.
    """
    if threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        import jax
        import optax

        if peer == "sbx":
            import sbx

            return jax, optax, sbx
    except ImportError as error:
        sys.exit(f"--peers {peer} needs {error.name}, which is not installed: {INSTALL}")
    return jax, optax


def sbx(algorithm: str, env: Any, hidden: tuple[int, ...], batch: int, rows: int, per_call: int) -> Turn:
    """sbx-rl's own `train` from a full buffer of random transitions, `per_call` updates a call."""
    from stable_baselines3.common.logger import configure

    _, _, package = modules("sbx")
    kind = {"ddpg": package.DDPG, "td3": package.TD3}[algorithm]
    model = kind(
        "MlpPolicy", env, learning_rate=3e-4, batch_size=batch, buffer_size=rows, policy_kwargs={"net_arch": [*hidden]}
    )
    model.set_logger(configure(None, []))
    buffer, rng = model.replay_buffer, np.random.default_rng(0)
    for array in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards):
        array[:] = rng.uniform(-1.0, 1.0, array.shape)
    buffer.full = True

    def turn(n: int) -> None:
        for _ in range(-(-n // per_call)):
            model.train(per_call, batch)  # reads its losses, so it has been waited for

    turn(2 * per_call)  # both programs of a delayed actor
    return turn


def offline(algorithm: str, data: Any, obs_dim: int, action_dim: int, batch: int, rows: int) -> Turn:
    """TD3+BC's or IQL's updates from a dataset on the device, `PER_CALL` a call."""
    jax, optax = modules("jax_corl")
    init, update = {"td3_bc": td3_bc, "iql": iql}[algorithm](jax, optax, obs_dim, action_dim)
    columns = tuple(jax.numpy.asarray(column) for column in data)

    def one(k: int, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        state, key, number = carry
        key, draw, noise = jax.random.split(key, 3)
        index = jax.random.randint(draw, (batch,), 0, rows)
        return update(state, tuple(column[index] for column in columns), noise, number), key, number + 1

    several = jax.jit(lambda carry: jax.lax.fori_loop(0, PER_CALL, one, carry), donate_argnums=0)
    carry = (init(jax.random.PRNGKey(0)), jax.random.PRNGKey(1), jax.numpy.ones((), jax.numpy.int32))

    def turn(n: int) -> None:
        nonlocal carry
        for _ in range(-(-n // PER_CALL)):
            carry = several(carry)
        jax.block_until_ready(carry)

    turn(2 * PER_CALL)
    return turn


def mlp(jax: ModuleType, key: Any, *sizes: int) -> list[tuple[Any, Any]]:
    """Weights and biases, uniform on +-1/sqrt(fan_in)."""
    params = []
    for fan_in, fan_out in pairwise(sizes):
        key, *keys = jax.random.split(key, 3)
        limit, shapes = fan_in**-0.5, ((fan_in, fan_out), (fan_out,))
        draws = (jax.random.uniform(k, s, minval=-limit, maxval=limit) for k, s in zip(keys, shapes, strict=True))
        params.append(tuple(draws))
    return params


def apply(jax: ModuleType, params: list[tuple[Any, Any]], *inputs: Any) -> Any:
    """An MLP with ReLU between its layers."""
    x = jax.numpy.concatenate(inputs, axis=-1)
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = params[-1]
    return x @ weight + bias


def td3_bc(jax: ModuleType, optax: ModuleType, obs_dim: int, action_dim: int) -> tuple[Callable, Callable]:
    """`init(key)` and `update(state, batch, key, number)`: 256x256, Adam 3e-4, policy delay 2, alpha 2.5."""
    np_, adam = jax.numpy, optax.adam(3e-4)

    def init(key: Any) -> dict[str, Any]:
        a, q1, q2 = jax.random.split(key, 3)
        critic = obs_dim + action_dim, 256, 256, 1
        nets = {"actor": mlp(jax, a, obs_dim, 256, 256, action_dim), "q": [mlp(jax, k, *critic) for k in (q1, q2)]}
        optimizers = {name: adam.init(params) for name, params in nets.items()}
        return {"nets": nets, "targets": jax.tree.map(np_.copy, nets), "optimizers": optimizers}

    def act(params: Any, obs: Any) -> Any:
        return np_.tanh(apply(jax, params, obs))

    def update(state: dict[str, Any], batch: tuple[Any, ...], key: Any, number: Any) -> dict[str, Any]:
        obs, action, reward, next_obs, terminated = batch
        nets, targets = dict(state["nets"]), state["targets"]
        optimizers = dict(state["optimizers"])
        noise = np_.clip(0.2 * jax.random.normal(key, action.shape), -0.5, 0.5)
        next_action = np_.clip(act(targets["actor"], next_obs) + noise, -1.0, 1.0)
        next_q = np_.minimum(*(apply(jax, q, next_obs, next_action)[:, 0] for q in targets["q"]))
        target = reward + 0.99 * (1.0 - terminated) * next_q

        def critic_loss(params: Any) -> Any:
            return sum(np_.square(apply(jax, q, obs, action)[:, 0] - target).mean() for q in params)

        def actor_loss(params: Any) -> Any:
            pi = act(params, obs)
            q = apply(jax, nets["q"][0], obs, pi)[:, 0]
            return -2.5 * q.mean() / jax.lax.stop_gradient(np_.abs(q).mean()) + np_.square(pi - action).mean()

        changes, optimizers["q"] = adam.update(jax.grad(critic_loss)(nets["q"]), optimizers["q"])
        nets["q"] = optax.apply_updates(nets["q"], changes)

        def with_actor(_: None) -> tuple[Any, ...]:
            changes, optimizer = adam.update(jax.grad(actor_loss)(nets["actor"]), optimizers["actor"])
            actor = optax.apply_updates(nets["actor"], changes)
            moved = optax.incremental_update({"actor": actor, "q": nets["q"]}, targets, 0.005)
            return actor, optimizer, moved

        nets["actor"], optimizers["actor"], targets = jax.lax.cond(
            number % 2 == 0, with_actor, lambda _: (nets["actor"], optimizers["actor"], targets), None
        )
        return {"nets": nets, "targets": targets, "optimizers": optimizers}

    return init, update


def iql(jax: ModuleType, optax: ModuleType, obs_dim: int, action_dim: int) -> tuple[Callable, Callable]:
    """`init(key)` and `update(state, batch, key, number)`: 256x256, Adam 3e-4, expectile 0.7, temperature 3."""
    np_, adam = jax.numpy, optax.adam(3e-4)

    def init(key: Any) -> dict[str, Any]:
        a, v, q1, q2 = jax.random.split(key, 4)
        critic = obs_dim + action_dim, 256, 256, 1
        actor = {"mean": mlp(jax, a, obs_dim, 256, 256, action_dim), "log_std": np_.zeros(action_dim)}
        q = [mlp(jax, k, *critic) for k in (q1, q2)]
        nets = {"actor": actor, "v": mlp(jax, v, obs_dim, 256, 256, 1), "q": q}
        optimizers = {name: adam.init(params) for name, params in nets.items()}
        return {"nets": nets, "target": jax.tree.map(np_.copy, q), "optimizers": optimizers}

    def update(state: dict[str, Any], batch: tuple[Any, ...], key: Any, number: Any) -> dict[str, Any]:
        obs, action, reward, next_obs, terminated = batch
        nets, optimizers = dict(state["nets"]), dict(state["optimizers"])
        q = np_.minimum(*(apply(jax, params, obs, action)[:, 0] for params in state["target"]))

        def value_loss(params: Any) -> Any:
            error = q - apply(jax, params, obs)[:, 0]
            return (np_.where(error < 0, 0.3, 0.7) * np_.square(error)).mean()

        def step(name: str, loss: Callable[[Any], Any]) -> None:
            changes, optimizers[name] = adam.update(jax.grad(loss)(nets[name]), optimizers[name])
            nets[name] = optax.apply_updates(nets[name], changes)

        step("v", value_loss)
        weight = np_.minimum(np_.exp(3.0 * (q - apply(jax, nets["v"], obs)[:, 0])), 100.0)

        def actor_loss(params: Any) -> Any:
            log_std = np_.clip(params["log_std"], -5.0, 2.0)
            error = (action - np_.tanh(apply(jax, params["mean"], obs))) * np_.exp(-log_std)
            log_prob = -0.5 * (np_.square(error) + 2.0 * log_std + np_.log(2.0 * np_.pi)).sum(axis=-1)
            return -(weight * log_prob).mean()

        step("actor", actor_loss)
        target = reward + 0.99 * (1.0 - terminated) * apply(jax, nets["v"], next_obs)[:, 0]

        def critic_loss(params: Any) -> Any:
            return sum(np_.square(apply(jax, one, obs, action)[:, 0] - target).mean() for one in params)

        step("q", critic_loss)
        moved = optax.incremental_update(nets["q"], state["target"], 0.005)
        return {"nets": nets, "target": moved, "optimizers": optimizers}

    return init, update


def products(shapes: list[tuple[int, int, int]]) -> dict[tuple[int, int, int], Callable[[], None]]:
    """XLA's product of each (m, k, n), waited for."""
    jax, _ = modules("jax_corl")
    product, made = jax.jit(lambda a, b: a @ b), {}
    for m, k, n in shapes:
        a, b = jax.numpy.ones((m, k)), jax.numpy.ones((k, n))
        made[m, k, n] = lambda a=a, b=b: product(a, b).block_until_ready()
        made[m, k, n]()
    return made


def whole_run(peer: str, env_name: str, steps: int) -> None:
    """Stable-Baselines3's or sbx-rl's TD3 in worlds of ours, from the first step to the last."""
    import gymnasium as gym
    import torch

    import envs  # noqa: F401 (makes its Gymnasium ids known)

    threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    if peer == "sbx":
        _, _, package = modules("sbx", threads or None)
    else:
        import stable_baselines3 as package

        torch.set_num_threads(threads or torch.get_num_threads())
    id = f"rlreg/{env_name.removeprefix('dmc/')}-v0" if env_name.startswith("dmc/") else env_name.removeprefix("gym/")
    settings = {"learning_rate": 3e-4, "batch_size": 256, "learning_starts": 1000, "train_freq": 1, "gradient_steps": 1}
    model = package.TD3("MlpPolicy", gym.make(id), policy_kwargs={"net_arch": [256, 256]}, **settings)
    model.learn(steps)


if __name__ == "__main__":
    whole_run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
