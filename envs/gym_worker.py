"""One world that can be saved and restored exactly, and a group of them stepped together.

This is the part that runs inside worker processes, so nothing here imports torch.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rlreg.errors import NonFiniteError


def rng_state(rng: np.random.Generator | np.random.RandomState) -> dict[str, Any]:
    """The generator's whole state: JSON values, and an array for the Mersenne twister."""
    if isinstance(rng, np.random.RandomState):
        return rng.get_state(legacy=False)
    return rng.bit_generator.state


def set_rng_state(rng: np.random.Generator | np.random.RandomState, state: dict[str, Any]) -> None:
    """Put `rng` back to a `rng_state`."""
    if isinstance(rng, np.random.RandomState):
        rng.set_state(state)
    else:
        rng.bit_generator.state = state


def non_finite(obs: NDArray, reward: float) -> str | None:
    """Names the first field that is not finite: `observation[3] is nan`. None where all is well."""
    if not math.isfinite(reward):
        return f"reward is {reward}"
    if not np.isfinite(obs).all():
        index = int(np.flatnonzero(~np.isfinite(obs))[0])
        return f"observation[{index}] is {obs[index]}"
    return None


class World:
    """A single environment that remembers how its present came about.

    An episode is a function of the random generator's state before its reset and of the actions since, so
    these two are the world's whole state: restoring replays them. That is exact for everything an episode
    may hold (the solver's warm start, clocks, models changed at reset) without knowing any of it, and costs
    at most one episode of simulation. It asks that `env.unwrapped.np_random` is the only source of randomness
    and that a reset leaves nothing of earlier episodes behind; both hold for dm_control and Gymnasium's
    MuJoCo tasks.

    `env` has flat float32 observations `(O,)` and actions `(A,)`; `label` says which world it is, for errors.
    """

    def __init__(self, env: gymnasium.Env, label: str) -> None:
        self.env = env
        self.label = label
        self._rng = rng_state(env.unwrapped.np_random)
        self._actions: list[NDArray[np.float32]] = []

    def reset(self) -> NDArray[np.float32]:
        """Start the next episode of this world's random stream. Returns its first observation (O,)."""
        self._rng = rng_state(self.env.unwrapped.np_random)
        self._actions.clear()
        obs, _ = self.env.reset()
        self._check(non_finite(obs, 0.0))
        return obs

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool]:
        """Returns (observation (O,), reward, terminated, truncated). Raises `NonFiniteError`."""
        self._actions.append(action.copy())
        try:
            obs, reward, terminated, truncated, _ = self.env.step(action)
        except NonFiniteError as error:
            self._check(str(error))
        self._check(non_finite(obs, reward))
        return obs, reward, terminated, truncated

    @property
    def state(self) -> dict[str, Any]:
        """{'rng': the generator's state when the episode began, 'actions': (t, A) float32 since then}."""
        width = self.env.action_space.shape[0]
        return {"rng": self._rng, "actions": np.array(self._actions, np.float32).reshape(-1, width)}

    def restore(self, state: dict[str, Any]) -> NDArray[np.float32]:
        """Replay the episode of `state`. Returns the observation (O,) of the moment it was taken."""
        set_rng_state(self.env.unwrapped.np_random, state["rng"])
        obs = self.reset()
        for action in state["actions"]:
            obs, *_ = self.step(action)
        return obs

    def _check(self, problem: str | None) -> None:
        if problem:
            raise NonFiniteError(f"{problem} at episode step {len(self._actions)} of {self.label}")


class Group(gymnasium.Env):
    """Several worlds as one environment whose every quantity has a leading axis of `rows` worlds.

    `GymVectorEnv` steps one group in process, or hands several to Gymnasium's `AsyncVectorEnv`, one a process. An
    observation is `(2, rows, O)`: those to act on, and those that the last actions led to (they differ where
    an episode ended and the next began), so that both travel through shared memory. A non-finite value comes
    back as `info['error']`: an exception would make the worker print a traceback.
    """

    def __init__(
        self, make: Callable[[int], gymnasium.Env], seeds: Sequence[int], labels: Sequence[str], rows: int
    ) -> None:
        """A world `make(seed)` for every seed; `rows` beyond these stay zero (groups are equally large)."""
        self._worlds = [World(make(seed), label) for seed, label in zip(seeds, labels, strict=True)]
        env = self._worlds[0].env
        (obs_dim,), (action_dim,) = env.observation_space.shape, env.action_space.shape
        self.max_episode_steps: int = env.get_wrapper_attr("max_episode_steps")
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2, rows, obs_dim), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (rows, action_dim), np.float32)
        self.observation = np.zeros((2, rows, obs_dim), np.float32)
        self._reward = np.zeros(rows, np.float32)
        self._terminated = np.zeros(rows, bool)
        self._truncated = np.zeros(rows, bool)

    def reset(self, *, seed: None = None, options: None = None) -> tuple[NDArray, dict[str, Any]]:
        """Begin a new episode in every world; seeds were given once and for all."""
        try:
            for row, world in enumerate(self._worlds):
                self.observation[:, row] = world.reset()
        except NonFiniteError as error:
            return self.observation, {"error": str(error)}
        return self.observation, {}

    def step(self, action: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray, dict[str, Any]]:
        """One action (rows, A). The returned arrays are the group's own and change at the next step."""
        obs, final_obs = self.observation
        reward, terminated, truncated = self._reward, self._terminated, self._truncated
        try:
            for row, world in enumerate(self._worlds):
                now, reward[row], terminated[row], truncated[row] = world.step(action[row])
                final_obs[row] = now
                obs[row] = world.reset() if terminated[row] or truncated[row] else now
        except NonFiniteError as error:
            return self.observation, reward, terminated, truncated, {"error": str(error)}
        return self.observation, reward, terminated, truncated, {}

    @property
    def state(self) -> list[dict[str, Any]]:
        """The state of every world, in order."""
        return [world.state for world in self._worlds]

    @state.setter
    def state(self, states: list[dict[str, Any]]) -> None:
        for row, (world, state) in enumerate(zip(self._worlds, states, strict=True)):
            self.observation[:, row] = world.restore(state)

    def close(self) -> None:
        for world in self._worlds:
            world.env.close()


def in_worker(group: Callable[[], Group], parent: int) -> Group:
    """Build a group. A worker ignores Ctrl-C and SIGTERM, which may reach the whole process group.

    The parent wants its state for the last checkpoint. A worker ends when the parent closes its pipe, or dies.
    """
    if os.getpid() != parent:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    return group()
