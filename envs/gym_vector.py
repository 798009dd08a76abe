"""`GymVectorEnv`: S seeds times N worlds of any single Gymnasium environment, in process or in worker processes."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState
from numpy.typing import NDArray
from torch import Tensor

from envs.base import Step, VectorEnv, world_seed
from envs.gym_worker import Group, in_worker, worker
from rlreg.errors import UserError
from rlreg.purpose import Purpose

MIN_WORLDS_FOR_PROCESSES = 8
"""`workers='auto'` stays in process below this: a round trip costs about a step of a small task."""


class GymVectorEnv(VectorEnv):
    """S x N environments `make(seed)`, each with float32 observations (O,) and actions (A,) in [-1, 1], or with A
    discrete actions, as `envs.gym.FlatEnv` takes them.

    A step returns the same numbers whatever the number of workers: the same worlds, only dealt out.
    """

    def __init__(
        self,
        make: Callable[[int], gymnasium.Env],
        name: str,
        seeds: Sequence[int],
        num_envs: int,
        purpose: Purpose = Purpose.TRAIN,
        workers: int | str = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        """`workers`: 0 for this process, k for k processes, 'auto' for as many as pay. `name` is for errors.

        With workers `make` has to be picklable. Raises `UserError` for no seeds, no worlds or odd workers.
        """
        if not seeds or num_envs < 1:
            raise UserError(f"at least one seed and one world, not {len(seeds)} seeds of {num_envs} worlds")
        self.seeds, self.num_envs, self.device = tuple(seeds), num_envs, torch.device(device)
        self._worlds, self._name = len(self.seeds) * num_envs, name
        kind = "evaluation world" if purpose is not Purpose.TRAIN else "world"
        keys = [(seed, world) for seed in self.seeds for world in range(num_envs)]
        streams = [world_seed(seed, world, purpose) for seed, world in keys]
        labels = [f"{name} (seed {seed}, {kind} {world})" for seed, world in keys]

        processes = _processes(workers, len(keys))
        self._rows = -(-len(keys) // max(processes, 1))
        cuts = range(0, len(keys), self._rows)
        groups = [
            partial(Group, make, streams[i : i + self._rows], labels[i : i + self._rows], self._rows)
            for i in cuts
        ]
        self._processes: AsyncVectorEnv | None = None
        self._group: Group | None = None
        if processes:
            self._processes = _start(groups, preload=_module(make))
            # Before multiprocessing's own hook, which would wait for ever: workers ignore its SIGTERM.
            self._at_exit = atexit.register(partial(_kill, self._processes.processes))
            self.max_episode_steps = self._processes.get_attr("max_episode_steps")[0]
            self.discrete_actions = self._processes.get_attr("discrete_actions")[0]
            space, actions = self._processes.single_observation_space, self._processes.single_action_space
        else:
            self._group = groups[0]()
            self.max_episode_steps = self._group.max_episode_steps
            self.discrete_actions = self._group.discrete_actions
            space, actions = self._group.observation_space, self._group.action_space
        self.obs_dim, self.action_dim = space.shape[-1], actions.shape[-1]
        # Rows beyond the last world exist where the groups do not divide evenly; their actions stay zero.
        self._actions = np.zeros((len(groups), self._rows, self.action_dim), np.float32)

    def reset(self) -> Tensor:
        with self._workers_alive():
            obs, _ = self._processes.reset() if self._processes else self._group.reset()
        return self._observations(obs)[0]

    def reseed(self, seeds: Sequence[int]) -> None:
        """A seed for each world (S * N,): the next `reset` begins with the episode of `env.reset(seed=...)`."""
        groups = [list(seeds[i : i + self._rows]) for i in range(0, len(seeds), self._rows)]
        if self._processes:
            with self._workers_alive():
                self._processes.set_attr("seeds", groups)
        else:
            self._group.seeds = groups[0]

    def step(self, action: Tensor) -> Step:
        self._actions.reshape(-1, self.action_dim)[: self._worlds] = action.numpy(force=True).reshape(
            self._worlds, self.action_dim
        )
        if self._processes:
            with self._workers_alive():
                obs, reward, terminated, truncated, _ = self._processes.step(self._actions)
        else:
            obs, reward, terminated, truncated, _ = self._group.step(self._actions[0])
        obs, final_obs = self._observations(obs)
        bad = np.isnan(reward)
        reward = np.where(bad, 0.0, reward)
        reward, terminated, truncated, bad = map(self._per_world, (reward, terminated, truncated, bad))
        return Step(obs, reward, terminated, truncated, final_obs, bad)

    def problems(self) -> list[str]:
        if self._group:
            return self._group.take_problems()
        with self._workers_alive():
            return [problem for found in self._processes.call("take_problems") for problem in found]

    def state_dict(self) -> dict[str, Any]:
        """{'seeds', 'worlds': [[{'rng', 'actions'} a world] a seed]}; see `envs.gym_worker.World.state`."""
        with self._workers_alive():
            groups = self._processes.get_attr("state") if self._processes else [self._group.state]
        flat = [state for group in groups for state in group]
        n = self.num_envs
        return {
            "seeds": list(self.seeds),
            "worlds": [flat[i : i + n] for i in range(0, len(flat), n)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        flat = [world for seed in state["worlds"] for world in seed]
        if tuple(state["seeds"]) != self.seeds or len(flat) != self._worlds:
            raise UserError(
                f"environment state of seeds {list(state['seeds'])} with {len(flat)} worlds in all does not "
                f"fit seeds {list(self.seeds)} with {self.num_envs} worlds each"
            )
        groups = [flat[i : i + self._rows] for i in range(0, len(flat), self._rows)]
        if self._processes:
            with self._workers_alive():
                self._processes.set_attr("state", groups)
                obs = np.stack(self._processes.get_attr("observation"))
        else:
            self._group.state = groups[0]
            obs = self._group.observation
        return self._observations(obs)[0]

    def close(self) -> None:
        if self._group:
            self._group.close()
            return
        # In the middle of a step, whose answers may have been read or never come, there is nothing to wait for.
        if self._processes._state is AsyncState.DEFAULT:
            with suppress(EOFError, OSError):  # of a worker that has died
                self._processes.close()
        self._processes.closed = True
        _kill(self._processes.processes)
        atexit.unregister(self._at_exit)

    @contextmanager
    def _workers_alive(self) -> Iterator[None]:
        """What a pipe whose other end is gone raises, as a line that says which worker ended, and how."""
        try:
            yield
        except (EOFError, OSError) as error:
            for process in self._processes.processes if self._processes else ():
                process.join(1.0)
                if process.exitcode is not None:
                    how = f"killed by signal {-process.exitcode}" if process.exitcode < 0 else "ended"
                    raise UserError(
                        f"a worker process of the worlds of {self._name} was {how}"
                        f"{' (for want of memory?)' if process.exitcode == -signal.SIGKILL else ''}; "
                        "the same command goes on from the last checkpoint"
                    ) from None
            raise error

    def _observations(self, groups: NDArray) -> tuple[Tensor, Tensor]:
        """(groups, 2, rows, O), or (2, rows, O) in process, to obs and final_obs (S, N, O), both fresh."""
        if groups.ndim == 4:
            groups = groups.swapaxes(0, 1).reshape(2, -1, self.obs_dim)
        shape = (2, len(self.seeds), self.num_envs, self.obs_dim)
        both = groups[:, : self._worlds].copy().reshape(shape)
        return torch.from_numpy(both).to(self.device).unbind()

    def _per_world(self, values: NDArray) -> Tensor:
        """(groups, rows) or (rows,) to a fresh tensor (S, N)."""
        dtype = bool if values.dtype == bool else np.float32  # AsyncVectorEnv widens rewards to float64
        flat = values.reshape(-1)[: self._worlds].astype(dtype)
        return torch.from_numpy(flat.reshape(len(self.seeds), self.num_envs)).to(self.device)


def _processes(workers: int | str, worlds: int) -> int:
    """How many processes to start for `worlds` worlds; 0 keeps them in this one."""
    if workers == "auto":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, worlds) if cores > 2 and worlds >= MIN_WORLDS_FOR_PROCESSES else 0
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise UserError(f"workers={workers!r}: give a number of processes, 0 for none, or 'auto'")
    return min(workers, worlds)


def _start(groups: Sequence[Callable[[], Group]], preload: str) -> AsyncVectorEnv:
    """Gymnasium's worker processes, one per group. The groups restart their own episodes, hence no autoreset.

    'forkserver': torch's threads must not be forked, and the server imports the simulator once for all.
    """
    # What a worker raises is raised here too, by then as one line: Gymnasium need not print it as well.
    warnings.filterwarnings("ignore", message=r"(?s).*ERROR: ", module="gymnasium.vector.async_vector_env")
    multiprocessing.get_context("forkserver").set_forkserver_preload(["__main__", preload])
    return AsyncVectorEnv(
        [partial(in_worker, group, os.getpid()) for group in groups],
        worker=worker,
        shared_memory=True,
        copy=False,
        context="forkserver",
        autoreset_mode=AutoresetMode.DISABLED,
    )


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
        process.join()


def _module(make: Callable) -> str:
    """The module that the worker processes import to build their worlds."""
    while isinstance(make, partial):
        make = make.func
    return make.__module__
