"""One world that can be saved and restored exactly, and a group of them stepped together.

This is the part that runs inside worker processes, so nothing here imports torch.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces.utils import flatdim
from gymnasium.vector.async_vector_env import _async_worker
from numpy.typing import NDArray

from envs.generators import Globals, own_generators, rng_state, seed_own_generators, set_rng_state
from rlreg.errors import NonFiniteError, UserError

ATTEMPTS = 10
"""Episodes that are begun, one after another, until one begins with a finite observation."""
MAX_PROBLEMS = 3
"""Of a world, in words, until somebody asks for them."""


def non_finite(obs: NDArray, reward: float) -> str | None:
    """Names the first field that is no finite float32: `observation[3] is nan`. None where all is well."""
    with np.errstate(over="ignore"):
        single = np.float32(reward)
    if not np.isfinite(single):
        return f"reward is {reward}" + (", more than float32 can hold" if np.isfinite(reward) else "")
    if not np.isfinite(obs).all():
        index = int(np.flatnonzero(~np.isfinite(obs))[0])
        return f"observation[{index}] is {obs[index]}"
    return None


def diverged(env: gymnasium.Env) -> str | None:
    """What MuJoCo said of a Gymnasium task's simulation since its reset: a diverged one it resets by itself."""
    warnings = getattr(getattr(env.unwrapped, "data", None), "warning", None)
    if warnings is None or not hasattr(warnings, "number"):
        return None
    numbers = warnings.number
    return next((f"simulation diverged ({name})" for name, at in _divergences() if numbers[at]), None)


@cache
def _divergences() -> list[tuple[str, int]]:
    """MuJoCo's warnings of a diverged state, by name, and where their counts are: that changes between versions."""
    from mujoco import mjtWarning  # loaded already, where there is a simulation to ask

    return [(kind, int(getattr(mjtWarning, kind))) for kind in ("mjWARN_BADQPOS", "mjWARN_BADQVEL", "mjWARN_BADQACC")]


def raised(error: BaseException) -> str:
    """What was raised, and where, in one line: `ValueError: no such room (my_env.py:12)`."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}{': ' if text else ''}{text} ({os.path.basename(last.filename)}:{last.lineno})"


class World:
    """A single environment that remembers how its present came about.

    An episode is a function of the random generators' states before its reset and of the actions since, so these are
    the world's whole state: restoring replays them. That is exact for everything an episode may hold (the solver's
    warm start, clocks, models changed at reset) without knowing any of it, and costs at most one episode of
    simulation. It asks that all randomness comes from generators that `envs.generators` finds, and that a reset leaves
    nothing of earlier episodes behind; both hold for dm_control and Gymnasium's MuJoCo tasks. For any other
    environment it is checked: the observation and the rewards after the replay have to be those that were saved.

    A step whose simulation diverged, or whose observation or reward is no finite float32, is bad: its episode is over.
    What an environment raises is a `UserError` that says where.

    `env` has flat float32 observations `(O,)` and takes actions `(A,)`, also where discrete ones are meant; `label`
    says which world it is, for what is told.
    """

    def __init__(self, env: gymnasium.Env, label: str, seed: int) -> None:
        self.env, self.label, self.seed = env, label, seed
        self.problems: list[str] = []
        """What went wrong, in words; whoever reads it clears it."""
        self._globals = Globals(seed)
        seed_own_generators(env, seed)
        self._begun = False
        self._stuck: str | None = None
        self._obs = np.zeros(env.observation_space.shape, np.float32)
        self._keep_generators(first=True)

    def reseed(self, seed: int) -> None:
        """Begin anew with `seed`, as if the world had been made with it: its next episode is `env.reset(seed=seed)`."""
        self.seed, self._begun = seed, False
        self._globals = Globals(seed)
        seed_own_generators(self.env, seed)

    def reset(self) -> NDArray[np.float32]:
        """Start the next episode of this world's random stream. Returns its first observation (O,).

        Where even `ATTEMPTS` episodes do not begin with a finite one: zeros, and every step is bad.
        """
        self._keep_generators(first=not self._begun)
        return self._begin(None if self._begun else self.seed)

    def _begin(self, seed: int | None) -> NDArray[np.float32]:
        self._begun = True
        self._actions.clear()
        self._return = 0.0
        for _ in range(ATTEMPTS):
            obs, _ = self._call(self.env.reset, **({} if seed is None else {"seed": seed}))
            seed = None
            self._stuck = non_finite(obs, 0.0)
            if self._stuck is None:
                self._obs = obs
                return obs
            self._note(f"{self._stuck} at a reset")
        self._obs = np.zeros_like(obs)
        return self._obs

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, bool]:
        """(observation (O,), reward, terminated, truncated, bad); the last good observation where the step is bad."""
        if self._stuck:
            return self._obs, 0.0, False, True, True
        self._actions.append(action.copy())
        try:
            obs, reward, terminated, truncated, _ = self._call(self.env.step, action, within_episode=True)
            problem = non_finite(obs, reward) or diverged(self.env)
        except NonFiniteError as error:
            problem = str(error)
        if problem:
            self._note(f"{problem} at episode step {len(self._actions)}")
            return self._obs, 0.0, False, True, True
        self._obs = obs
        self._return += reward
        return obs, reward, terminated, truncated, False

    def _call(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """`function(...)` with the world's own global generators. Raises `UserError` for whatever it raises."""
        try:
            return self._globals.call(function, *args, **kwargs)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            where = f"at {'a reset' if function == self.env.reset else f'episode step {len(self._actions)}'}"
            raise UserError(
                f"{self.label}: the environment raised {raised(error)} {where}; once that is put right, the same "
                "command goes on from the last checkpoint"
            ) from error

    @property
    def state(self) -> dict[str, Any]:
        """How the episode began and what was done since: JSON values and arrays.

        'rng': the generators' states when it began, by name; 'first': whether that was the world's first;
        'actions': (t, A) float32 since then; 'obs' (O,) and 'return': what they led to, to compare with.
        """
        width = flatdim(self.env.action_space)
        return {
            "rng": self._rngs,
            "globals": self._own_globals if self._globals.used else None,
            "first": self._first,
            "actions": np.array(self._actions, np.float32).reshape(-1, width),
            "obs": self._obs.copy(),
            "return": self._return,
        }

    def restore(self, state: dict[str, Any]) -> NDArray[np.float32]:
        """Replay the episode of `state`. Returns the observation (O,) of now: that of the moment it was taken.

        A replay that led elsewhere is a problem that `problems` names.
        """
        rngs, first = state["rng"], state.get("first", False)
        if "bit_generator" in rngs:  # of a version that knew of one generator only
            rngs = {"np_random": rngs}
        if not self._begun and not first and rngs.keys() != own_generators(self.env).keys():
            self._begin(self.seed)  # an environment may make its generators in the first reset
        there = own_generators(self.env)
        for name, rng in there.items():
            if name in rngs:
                set_rng_state(rng, rngs[name])
        if state.get("globals"):
            self._globals.own, self._globals.used = state["globals"], True
        others = any("." in name for name in there)
        self._keep_generators(first)
        obs = self._begin(self.seed if first and (others or not self._begun) else None)
        for action in state["actions"]:
            obs, *_ = self.step(action)
        if "obs" in state and not self._as_it_was(state):
            self._note(
                "its saved state does not come again (an environment that draws from a generator of its own, or keeps "
                "something from earlier episodes, cannot be restored exactly)"
            )
        return obs

    def _as_it_was(self, state: dict[str, Any]) -> bool:
        return bool(np.array_equal(self._obs, state["obs"]) and self._return == state["return"])

    def _keep_generators(self, first: bool) -> None:
        """Put the generators' states by, from which an episode begins."""
        self._first = first
        self._rngs = {name: rng_state(rng) for name, rng in own_generators(self.env).items()}
        self._own_globals = self._globals.own
        self._actions: list[NDArray[np.float32]] = []
        self._return = 0.0

    def _note(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"{self.label}: {problem}")


class Group(gymnasium.Env):
    """Several worlds as one environment whose every quantity has a leading axis of `rows` worlds.

    `GymVectorEnv` steps one group in process, or hands several to Gymnasium's `AsyncVectorEnv`, one a process. An
    observation is `(2, rows, O)`: those to act on, and those that the last actions led to (they differ where
    an episode ended and the next began), so that both travel through shared memory. The reward of a bad step is
    NaN, which no good one is.
    """

    def __init__(
        self, make: Callable[[int], gymnasium.Env], seeds: Sequence[int], labels: Sequence[str], rows: int
    ) -> None:
        """A world `make(seed)` for every seed; `rows` beyond these stay zero (groups are equally large)."""
        self._worlds = [World(make(seed), label, seed) for seed, label in zip(seeds, labels, strict=True)]
        env = self._worlds[0].env
        (obs_dim,), action_dim = env.observation_space.shape, flatdim(env.action_space)
        self.discrete_actions = isinstance(env.action_space, gymnasium.spaces.Discrete)
        self.max_episode_steps: int = env.get_wrapper_attr("max_episode_steps")
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2, rows, obs_dim), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (rows, action_dim), np.float32)
        self.observation = np.zeros((2, rows, obs_dim), np.float32)
        self._reward = np.zeros(rows, np.float32)
        self._terminated = np.zeros(rows, bool)
        self._truncated = np.zeros(rows, bool)

    def reset(self, *, seed: None = None, options: None = None) -> tuple[NDArray, dict[str, Any]]:
        """Begin a new episode in every world; seeds were given once and for all."""
        for row, world in enumerate(self._worlds):
            self.observation[:, row] = world.reset()
        return self.observation, {}

    def step(self, action: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray, dict[str, Any]]:
        """One action (rows, A). The returned arrays are the group's own and change at the next step."""
        obs, final_obs = self.observation
        reward, terminated, truncated = self._reward, self._terminated, self._truncated
        for row, world in enumerate(self._worlds):
            now, reward[row], terminated[row], truncated[row], bad = world.step(action[row])
            if bad:
                reward[row] = np.nan
            final_obs[row] = now
            obs[row] = world.reset() if terminated[row] or truncated[row] else now
        return self.observation, reward, terminated, truncated, {}

    def take_problems(self) -> list[str]:
        """What went wrong in any of the worlds since this was last called."""
        found = [problem for world in self._worlds for problem in world.problems]
        for world in self._worlds:
            world.problems.clear()
        return found

    @property
    def state(self) -> list[dict[str, Any]]:
        """The state of every world, in order."""
        return [world.state for world in self._worlds]

    @state.setter
    def state(self, states: list[dict[str, Any]]) -> None:
        for row, (world, state) in enumerate(zip(self._worlds, states, strict=True)):
            self.observation[:, row] = world.restore(state)

    @property
    def seeds(self) -> list[int]:
        """What every world was last seeded with."""
        return [world.seed for world in self._worlds]

    @seeds.setter
    def seeds(self, seeds: Sequence[int]) -> None:
        for world, seed in zip(self._worlds, seeds, strict=True):
            world.reseed(seed)

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


def worker(*arguments: Any) -> None:
    """Gymnasium's own worker process, which ends without a word where its parent is gone: there is nobody to tell."""
    try:
        _async_worker(*arguments)
    except (EOFError, OSError):
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  the queue's thread would complain of the parent too
        os._exit(1)
