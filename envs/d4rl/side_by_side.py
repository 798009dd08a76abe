"""Worlds that data are collected in, stepped side by side: one by one by the original, or batched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from envs.batched import BatchedEnv
from envs.gym_worker import World


class Transition(NamedTuple):
    """What a step of N worlds led to."""

    next_obs: NDArray[np.float32]
    """(N, O): of the same episode."""
    reward: NDArray[np.float32]
    """(N,)."""
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    obs: NDArray[np.float32]
    """(N, O): what to act on next, of a new episode where one ended."""
    bad: NDArray[np.bool_]
    """(N,): whether the step came to nothing and cut its episode; see `envs.base.Step.bad`."""


class SideBySide(Protocol):
    """N worlds."""

    count: int
    action_dim: int

    def reset(self) -> NDArray[np.float32]:
        """First observations (N, O)."""

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Act (N, A)."""

    def problems(self) -> list[str]:
        """What was bad, in words."""

    def physics(self) -> dict[str, NDArray]:
        """{'infos/qpos': (N, nq), 'infos/qvel': (N, nv)} of this moment; nothing where there are none."""

    def close(self) -> None: ...


class SingleWorlds:
    """Environments with flat float32 observations and actions, seeded and looked after as in training."""

    def __init__(self, envs: Sequence[gymnasium.Env], seeds: Sequence[int]) -> None:
        """`envs[n]` was made with `seeds[n]`."""
        pairs = enumerate(zip(envs, seeds, strict=True))
        self._worlds = [World(env, f"world {n}", seed) for n, (env, seed) in pairs]
        self.count = len(envs)
        (self.action_dim,) = envs[0].action_space.shape

    def reset(self) -> NDArray[np.float32]:
        return np.stack([world.reset() for world in self._worlds])

    def step(self, action: NDArray[np.float32]) -> Transition:
        steps = [world.step(a) for world, a in zip(self._worlds, action, strict=True)]
        next_obs, reward, terminated, truncated, bad = map(np.array, zip(*steps, strict=True))
        obs = next_obs.copy()
        for n in np.flatnonzero(terminated | truncated):
            obs[n] = self._worlds[n].reset()
        return Transition(next_obs, reward.astype(np.float32), terminated, truncated, obs, bad)

    def problems(self) -> list[str]:
        return [problem for world in self._worlds for problem in world.problems]

    def physics(self) -> dict[str, NDArray]:
        data = [getattr(world.env.unwrapped, "data", None) for world in self._worlds]
        if not all(hasattr(d, "qpos") for d in data):
            return {}
        return {"infos/qpos": np.array([d.qpos for d in data]), "infos/qvel": np.array([d.qvel for d in data])}

    def close(self) -> None:
        for world in self._worlds:
            world.env.close()


class BatchedWorlds:
    """The worlds of one seed of a `BatchedEnv`."""

    def __init__(self, env: BatchedEnv) -> None:
        self._env, self.count, self.action_dim = env, env.num_envs, env.action_dim

    def reset(self) -> NDArray[np.float32]:
        return self._env.reset()[0].numpy(force=True)

    def step(self, action: NDArray[np.float32]) -> Transition:
        step = self._env.step(torch.as_tensor(action, device=self._env.device)[None])
        parts: list[Any] = [part[0].numpy(force=True) for part in step]
        obs, reward, terminated, truncated, final_obs, bad = parts
        return Transition(final_obs, reward, terminated, truncated, obs, bad)

    def problems(self) -> list[str]:
        return self._env.problems()

    def physics(self) -> dict[str, NDArray]:
        state = self._env.physics
        return {"infos/qpos": state.qpos.numpy(force=True).copy(), "infos/qvel": state.qvel.numpy(force=True).copy()}

    def close(self) -> None:
        self._env.close()
