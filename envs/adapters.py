"""Between our vector interface and Gymnasium's, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from envs.base import Step, VectorEnv, world_seed
from envs.gym import ActionScale
from envs.gym_worker import MAX_PROBLEMS, non_finite
from rlreg.errors import NonFiniteError, UserError
from rlreg.purpose import Purpose


class ToGymnasium(gymnasium.vector.VectorEnv):
    """Our S x N worlds as a Gymnasium vector environment of S*N (seed by seed), with same-step autoreset.

    As from Gymnasium's own, `infos['final_obs']` holds, where `infos['_final_obs']`, the observation that
    ended the episode.
    """

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self.num_envs = len(env.seeds) * env.num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (env.obs_dim,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (env.action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Observations (S*N, O). `seed`: see `world_seeds`; without one, worlds go on with their random streams.

        Raises `UserError` for a seed where the worlds have theirs for good, as those of `FromGymnasium`.
        """
        if seed is not None:
            self.env.reseed(world_seeds(seed, self.num_envs))
        return self._rows(self.env.reset()), {}

    def step(self, actions: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray, dict[str, Any]]:
        """Actions (S*N, A) to observations (S*N, O), rewards, terminations and truncations (S*N,), infos."""
        shape = (len(self.env.seeds), self.env.num_envs, self.env.action_dim)
        action = torch.as_tensor(actions, dtype=torch.float32, device=self.env.device)
        step = self.env.step(action.reshape(shape))
        obs, reward, terminated, truncated, final_obs, _ = map(self._rows, step)
        infos: dict[str, Any] = {}
        for row in np.flatnonzero(terminated | truncated):
            infos = self._add_info(infos, {"final_obs": final_obs[row], "final_info": {}}, row)
        return obs, reward, terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        self.env.close()

    def _rows(self, values: Tensor) -> NDArray:
        return values.flatten(0, 1).numpy(force=True)


def world_seeds(seed: int | Sequence[int | None] | NDArray | None, num_envs: int) -> list[int]:
    """Gymnasium's convention: k, k + 1, ... of an int, a list as it is; None is drawn from the system's entropy."""
    if isinstance(seed, int | np.integer):
        return [int(seed) + i for i in range(num_envs)]
    fresh = np.random.SeedSequence().generate_state(num_envs) >> 1  # below 2^31, as all our seeds are
    given = [None] * num_envs if seed is None else list(seed)
    return [int(one if one is not None else other) for one, other in zip(given, fresh, strict=True)]


class FromGymnasium(VectorEnv):
    """Any Gymnasium vector environment of S*N continuous worlds with same-step autoreset, as one of ours.

    It cannot be saved: Gymnasium's vector interface does not reveal its worlds' state.
    """

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv,
        seeds: Sequence[int],
        num_envs: int,
        max_episode_steps: int,
        purpose: Purpose = Purpose.TRAIN,
        device: str | torch.device = "cpu",
    ) -> None:
        """Raises `UserError` for another autoreset, another number of worlds or spaces that are not Boxes."""
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise UserError(f"vector environment with autoreset {mode}; make it with AutoresetMode.SAME_STEP")
        if env.num_envs != len(seeds) * num_envs:
            raise UserError(f"{env.num_envs} environments for {len(seeds)} seeds of {num_envs} worlds")
        observations = env.single_observation_space
        if not isinstance(observations, gymnasium.spaces.Box):
            raise UserError(
                f"observations {observations}: wrap it in gymnasium.wrappers.vector.FlattenObservation"
            )
        self._env, self._scale = env, ActionScale("vector environment", env.single_action_space)
        self.seeds, self.num_envs, self.device = tuple(seeds), num_envs, torch.device(device)
        self.max_episode_steps = max_episode_steps
        self.obs_dim = int(np.prod(observations.shape))
        self.action_dim = int(np.prod(env.single_action_space.shape))
        self._streams: list[int] | None = [
            world_seed(seed, world, purpose) for seed in seeds for world in range(num_envs)
        ]
        self._episode_steps = np.zeros(env.num_envs, int)
        self._problems: list[str] = []

    def reset(self) -> Tensor:
        obs, _ = self._env.reset(seed=self._streams)
        self._streams = None  # given once: later episodes go on with each world's stream
        self._episode_steps[:] = 0
        self._obs = self._flat(obs)
        for row in np.flatnonzero(~np.isfinite(self._obs).all(axis=1)):
            problem = non_finite(self._obs[row], 0.0)
            raise NonFiniteError(f"{problem} at the reset of seed {self.seeds[row // self.num_envs]}")
        return self._tensor(self._obs)

    def step(self, action: Tensor) -> Step:
        rows = action.numpy(force=True).reshape(-1, self.action_dim)
        obs, reward, terminated, truncated, infos = self._env.step(self._scale(rows))
        obs = self._flat(obs)
        final_obs = obs.copy()
        ended = np.flatnonzero(terminated | truncated)
        for row in ended:
            final_obs[row] = np.ravel(infos["final_obs"][row])
        self._episode_steps += 1
        with np.errstate(over="ignore"):
            single = reward.astype(np.float32)
        bad = ~(np.isfinite(single) & np.isfinite(final_obs).all(axis=1))
        terminated, truncated = terminated.astype(bool) & ~bad, truncated.astype(bool) | bad
        if bad.any():
            self._note(final_obs, reward, bad)
            final_obs[bad], single[bad] = self._obs[bad], 0.0
            going_on = bad & ~np.isin(np.arange(len(bad)), ended)
            if going_on.any():  # Gymnasium's autoreset knows nothing of them
                obs = self._flat(self._env.reset(options={"reset_mask": going_on})[0])
        self._episode_steps[terminated | truncated] = 0
        self._obs = obs
        return Step(*map(self._tensor, (obs, single, terminated, truncated, final_obs, bad)))

    def problems(self) -> list[str]:
        found, self._problems = self._problems, []
        return found

    def state_dict(self) -> dict[str, Any]:
        """Raises `UserError`: see the class."""
        raise UserError("a Gymnasium vector environment cannot be saved; envs.gym.make's worlds can")

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        """Raises `UserError`: see the class."""
        raise UserError("a Gymnasium vector environment cannot be restored; envs.gym.make's worlds can")

    def close(self) -> None:
        self._env.close()

    def _flat(self, obs: NDArray) -> NDArray[np.float32]:
        """A copy (S*N, O): the environment may hand out its own buffer."""
        return np.array(obs, np.float32).reshape(self._env.num_envs, self.obs_dim)

    def _tensor(self, rows: NDArray) -> Tensor:
        return torch.from_numpy(rows.reshape(len(self.seeds), self.num_envs, *rows.shape[1:])).to(
            self.device
        )

    def _note(self, obs: NDArray, reward: NDArray, bad: NDArray) -> None:
        for row in np.flatnonzero(bad)[: MAX_PROBLEMS - len(self._problems)]:
            seed, world = self.seeds[row // self.num_envs], row % self.num_envs
            problem = non_finite(obs[row], float(reward[row]))
            self._problems.append(f"seed {seed}, world {world}: {problem} at episode step {self._episode_steps[row]}")
