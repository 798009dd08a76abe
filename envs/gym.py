"""Gymnasium's MuJoCo tasks, and any other registered task with continuous or discrete actions, by id."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.spaces.utils import flatdim, flatten
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray

from envs.backends import choose, make_batched
from envs.gym_worker import raised
from envs.notices import unsaid
from rlreg.errors import UserError, unknown
from rlreg.purpose import Purpose
from rlreg.task import Task
from rlreg.video.opengl import drawing

if TYPE_CHECKING:
    import torch

    from envs.base import VectorEnv


OTHERS = ("Pendulum-v1", "Acrobot-v1", "CartPole-v1", "MountainCar-v0", "LunarLander-v3")
"""Tasks that are suggested beside MuJoCo's; all but the first have discrete actions."""


def mujoco_ids() -> tuple[str, ...]:
    """Gymnasium's own MuJoCo tasks."""
    # v2 and v3 have no module: they are registered only to say that they are gone.
    modules = {spec.id: str(spec.entry_point) for spec in gymnasium.registry.values()}
    return tuple(id for id, module in modules.items() if module.startswith("gymnasium.envs.mujoco."))


def gym_ids() -> tuple[str, ...]:
    """The MuJoCo tasks that still run, and `OTHERS`: what to suggest. (Other ids work too.)"""
    return (*(id for id in mujoco_ids() if id != "Pusher-v4"), *OTHERS)  # which needs mujoco<3


def other_gym_ids() -> tuple[str, ...]:
    """What else comes with Gymnasium: choices of `env=` too, though some will be refused for their actions."""
    own = ("gymnasium.envs.classic_control.", "gymnasium.envs.box2d.", "gymnasium.envs.toy_text.")
    found = (spec.id for spec in gymnasium.registry.values() if str(spec.entry_point).startswith(own))
    return tuple(id for id in found if id not in gym_ids() and "/" not in id)


class ActionScale:
    """Maps actions in [-1, 1] into a Box, whatever its type and bounds; actions beyond are clipped to the bounds.

    A Box of whole numbers gets the nearest one. Computed in float32 where that is the Box's type, else in float64.
    """

    def __init__(self, name: str, space: gymnasium.Space) -> None:
        """Raises `UserError`, naming the task `name`, if the space is not a bounded Box."""
        if isinstance(space, gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete | gymnasium.spaces.MultiBinary):
            raise UserError(f"'{name}' has discrete actions, {space}; continuous ones are needed: a bounded Box")
        if not isinstance(space, gymnasium.spaces.Box) or not space.is_bounded():
            raise UserError(f"'{name}' has actions {space}; only a bounded Box will do")
        self._shape, self._dtype = space.shape, space.dtype
        real = np.float32 if space.dtype in (np.float32, np.float16) else np.float64
        self._low, self._high = space.low.ravel().astype(real), space.high.ravel().astype(real)
        if np.issubdtype(space.dtype, np.integer):  # the largest that float64 rounds up, it must not reach
            limit = np.nextafter(2.0 ** np.iinfo(space.dtype).bits / (1 + (space.dtype.kind == "i")), 0.0)
            self._high = np.minimum(self._high, limit)
        # Halved first where the sum would be more than the type can hold; elsewhere it rounds differently.
        with np.errstate(over="ignore"):
            centre, half_range = (self._high + self._low) / 2, (self._high - self._low) / 2
        holds = np.isfinite(centre) & np.isfinite(half_range)
        self._centre = np.where(holds, centre, self._high / 2 + self._low / 2)
        self._half_range = np.where(holds, half_range, self._high / 2 - self._low / 2)

    def __call__(self, action: NDArray) -> NDArray:
        """(..., A) in [-1, 1] to (..., *the space's shape), of the space's type."""
        with np.errstate(over="ignore"):
            scaled = np.clip(self._centre + self._half_range * action, self._low, self._high)
        if np.issubdtype(self._dtype, np.integer):
            scaled = np.rint(scaled)
        return scaled.reshape(*action.shape[:-1], *self._shape).astype(self._dtype)


class Choice:
    """Maps an action's number from 0 on, or A numbers of which the largest is chosen, to a task's discrete action."""

    def __init__(self, space: gymnasium.spaces.Discrete) -> None:
        self._first = space.start

    def __call__(self, action: NDArray | int) -> np.int64:
        return self._first + np.int64(np.argmax(action) if np.ndim(action) else action)


class FlatEnv(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """Observations flattened to float32 (O,). Actions in [-1, 1] are mapped to the task's bounds; discrete ones are
    numbers from 0 on, and may be given as A numbers too, of which the largest is chosen.

    The random generator is seeded once, at the start, so that the first `reset()` is `reset(seed=seed)`.
    """

    def __init__(self, env: gymnasium.Env, seed: int | None = None) -> None:
        """Raises `UserError` for actions that are neither continuous and bounded nor one of some discrete ones, for
        observations that are no vectors, and for endless episodes."""
        gymnasium.utils.RecordConstructorArgs.__init__(self, seed=seed)  # so that `env.spec` can remake it
        gymnasium.Wrapper.__init__(self, env)
        name, actions = env.spec.id, env.action_space
        if isinstance(actions, gymnasium.spaces.Discrete):
            self._to_task: ActionScale | Choice = Choice(actions)
            self.action_space = gymnasium.spaces.Discrete(actions.n)
        else:
            self._to_task = ActionScale(name, actions)
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (flatdim(actions),), np.float32)
        vectors = gymnasium.spaces.Box | gymnasium.spaces.Dict | gymnasium.spaces.Discrete
        if not isinstance(env.observation_space, vectors):
            raise UserError(f"'{name}' has observations {env.observation_space}; only a Box, Dict or Discrete will do")
        for space in getattr(env.observation_space, "spaces", {"": env.observation_space}).values():
            if isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8 and len(space.shape) >= 2:
                raise UserError(f"'{name}' observes images, {space}; there are no networks for these, only for vectors")
        if env.spec.max_episode_steps is None:
            raise UserError(f"'{name}' has no time limit; give one, as in env.max_episode_steps=1000")
        self.max_episode_steps = env.spec.max_episode_steps
        self.original_spaces = env.observation_space, env.action_space
        """Of the environment that this one wraps: the observations' and the actions'."""
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (flatdim(env.observation_space),), np.float32)
        if seed is not None:
            env.unwrapped.np_random, _ = np_random(seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._flat(obs), info

    def step(self, action: NDArray | int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(self._to_task(action))
        return self._flat(obs), float(reward), bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """What the task draws. Raises `UserError` where it cannot."""
        with drawing(self.env.spec.id):
            return self.env.render()

    def _flat(self, obs: Any) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):  # what float32 cannot hold is found, and told, as infinite
            flat = flatten(self.env.observation_space, obs).astype(np.float32)
        if flat.shape != self.observation_space.shape:
            claimed = self.observation_space.shape[0]
            raise UserError(f"'{self.env.spec.id}' observed {flat.size} numbers; its observation_space has {claimed}")
        return flat


def make_single(
    id: str,
    seed: int | None = None,
    render_mode: str | None = None,
    settings: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> gymnasium.Env:
    """One task as a `gymnasium.Env`; `settings` (None: as Gymnasium has it) and `kwargs` go to `gymnasium.make`.

    Raises `UserError`.
    """
    try:
        with warnings.catch_warnings():
            # v4 tasks are asked for on purpose: published figures were made with them.
            warnings.filterwarnings("ignore", message=".*is out of date.*")
            given = kwargs | _given(id, settings)
            if render_mode is not None:  # many environments do not know it
                given["render_mode"] = render_mode
            with unsaid() if id in mujoco_ids() else nullcontext():
                env = gymnasium.make(id, disable_env_checker=True, **given)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv):
        raise unknown("Gymnasium id", id, gym_ids()) from None
    except (gymnasium.error.Error, ImportError, TypeError) as error:  # a missing package, a mistaken argument
        raise UserError(f"cannot make '{id}': {' '.join(str(error).split())}") from error
    except Exception as error:  # whatever its own constructor raises
        raise UserError(f"cannot make '{id}': it raised {raised(error)}") from error
    return FlatEnv(env, seed)


REFERENCE = "gymnasium"
"""The backend that is Gymnasium's own stepping: the same seed gives the same trajectory as `gymnasium.make`."""
BATCH_FROM = 8
"""Worlds a seed from which `auto` batches Gymnasium's tasks. Under random actions, where episodes are short, batched
ones are as fast as Gymnasium's from 4 (Walker2d) to 20 (InvertedPendulum) on; HalfCheetah's, which are not, from 2."""


PGS = "Humanoid"
"""Of this name are the tasks whose models ask for the solver PGS, which mujoco_warp does not have."""


def choose_backend(id: str, num_envs: int, device: str | torch.device, backend: str = "auto") -> str:
    """What `make` steps `num_envs` worlds per seed with; see `envs.backends.choose`. Raises `UserError`."""
    from envs.mujoco_gym.settings import IDS  # here: worker processes, which import this module, load no torch

    chosen = choose(backend, REFERENCE, id in IDS, num_envs, device, batch_from=BATCH_FROM)
    return "mujoco" if backend == "auto" and chosen == "warp" and id.startswith(PGS) else chosen


def make(
    id: str,
    seeds: Sequence[int],
    num_envs: int = 1,
    purpose: Purpose = Purpose.TRAIN,
    workers: int | str = 0,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    spread: bool = False,
    deterministic: bool = False,
    nconmax: int | None = None,
    njmax: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> VectorEnv:
    """S x N worlds of `id` for one purpose, batched (`envs.batched.BatchedEnv`) or each on its own.

    `backend`: auto, mujoco, warp or gymnasium, see `envs.backends`; `spread`, of batched worlds: first episodes are cut
    at different times; `deterministic`, `nconmax` and `njmax`: see `envs.physics.mujoco_warp`; `settings` and `kwargs`
    as for `make_single`. Raises `UserError`.
    """
    chosen = choose_backend(id, num_envs, device, backend)
    if chosen == REFERENCE:
        from envs.gym_vector import GymVectorEnv

        single = partial(_world, id, settings=settings, **kwargs)
        return GymVectorEnv(single, id, seeds, num_envs, purpose, workers, device)
    from envs.mujoco_gym import make_task

    warp = {"deterministic": deterministic, "nconmax": nconmax, "njmax": njmax}
    task = partial(make_task, id, **(kwargs | _given(id, settings)))
    return make_batched(task, chosen, seeds, num_envs, purpose, 1, spread, workers, device, **warp)


def _given(id: str, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings that are given, checked where a task's are known."""
    given = {name: value for name, value in (settings or {}).items() if value is not None}
    if not given:
        return given
    from envs.mujoco_gym.settings import IDS, check

    return check(id, given) if id in IDS else given


def _world(id: str, seed: int, **kwargs: Any) -> gymnasium.Env:
    return make_single(id, seed, **kwargs)


class GymTask(Task):
    """A registered task of Gymnasium; see `envs.registry.GymConfig` for the settings."""

    def __init__(
        self,
        id: str,
        max_episode_steps: int | None = None,
        settings: Mapping[str, Any] | None = None,
        backend: str = "auto",
        **worlds: Any,
    ) -> None:
        """`worlds`: the other settings of `make`, which only its worlds have."""
        self.id, self.chosen, self.worlds = id, backend, worlds
        self.settings = {"max_episode_steps": max_episode_steps, "settings": settings}

    @classmethod
    def names_code(cls, settings: dict[str, Any]) -> str | None:
        """Gymnasium imports the module of an id such as 'my_module:MyEnv-v0'."""
        return f"id={settings['id']}" if ":" in str(settings.get("id")) else None

    def vector_env(
        self, seeds: Sequence[int], num_envs: int, purpose: Purpose, device: torch.device | str = "cpu"
    ) -> VectorEnv:
        how = {"device": device, "backend": self.chosen, **self.worlds}
        return make(self.id, seeds, num_envs, purpose, **how, **self.settings)

    def single_env(self, seed: int | None = None, render_mode: str | None = None) -> gymnasium.Env:
        return make_single(self.id, seed, render_mode, **self.settings)

    def probe(self) -> VectorEnv:
        env = make(self.id, (0,), **self.settings)  # by the backend that is quickest to be made
        env.close()
        return env

    def backend(self, num_envs: int, device: torch.device | str) -> str:
        return choose_backend(self.id, num_envs, device, self.chosen)
