"""D4RL without the d4rl package: its dataset files, its normalised scores, and environments to evaluate in.

`names` holds what D4RL publishes of each dataset, `download` finds the files, `recording` reads and checks them,
`transitions` cuts them up for Q-learning, `packages` reads Minari and the d4rl package, `load` joins these, and
`simulators` has the environments, `batched` those that have a batched version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from envs.backends import choose, make_batched
from envs.d4rl.names import MINARI, dataset_names, info, normalised_score
from envs.d4rl.simulators import MUJOCO, make_single
from envs.gym import BATCH_FROM, REFERENCE
from rlreg.purpose import Purpose
from rlreg.task import Loop, Task

if TYPE_CHECKING:
    import gymnasium
    import torch

    from envs.base import VectorEnv
    from envs.d4rl.load import OfflineDataset
    from rlreg.buffers import DatasetBuffer

__all__ = [
    "D4RLTask",
    "choose_backend",
    "dataset",
    "dataset_names",
    "info",
    "make",
    "make_single",
    "normalised_score",
    "scorer",
]


def make(
    id: str,
    seeds: Sequence[int],
    num_envs: int = 1,
    purpose: Purpose = Purpose.EVALUATE,
    workers: int | str = 0,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    spread: bool = False,
    deterministic: bool = False,
    nconmax: int | None = None,
    njmax: int | None = None,
) -> VectorEnv:
    """S x N worlds to evaluate on; see `make_single` for how they differ from D4RL's, `envs.gym.make` for the settings.

    Raises `UserError`.
    """
    chosen = choose_backend(id, num_envs, device, backend)
    if chosen == REFERENCE:
        from envs.gym_vector import GymVectorEnv  # here: worker processes, which import this module, load no torch

        return GymVectorEnv(partial(make_single, id), id, seeds, num_envs, purpose, workers, device)
    from envs.d4rl.batched_simulators import make_task

    warp = {"deterministic": deterministic, "nconmax": nconmax, "njmax": njmax}
    return make_batched(partial(make_task, id), chosen, seeds, num_envs, purpose, 1, spread, workers, device, **warp)


def choose_backend(id: str, num_envs: int, device: str | torch.device, backend: str = "auto") -> str:
    """What `make` steps `num_envs` worlds per seed with; see `envs.backends.choose`. Raises `UserError`."""
    return choose(backend, REFERENCE, info(id).task in MUJOCO, num_envs, device, batch_from=BATCH_FROM)


def dataset(
    id: str,
    path: str | None = None,
    mirror: str | None = None,
    stored_next_observations: bool = False,
    clip_actions: bool = False,
) -> OfflineDataset:
    """The transitions of the D4RL dataset `id`, or those at `path` for its task. See `load.load_dataset`."""
    from envs.d4rl.load import load_dataset  # here, as neither a worker nor the runner's start needs h5py

    return load_dataset(id, path, mirror, stored_next_observations, clip_actions)


def scorer(id: str, path: str | None = None) -> Callable | None:
    """What turns returns into normalised scores, `Info.score`.

    None where D4RL has no references for `id`, and for Minari's data, which differ from D4RL's.
    """
    wanted = info(id)
    minari = path is not None and path.startswith(MINARI)
    return None if minari or wanted.ref_min is None or wanted.ref_max is None else wanted.score


class D4RLTask(Task):
    """A dataset and its task to evaluate in; see `envs.registry.D4RLConfig` for the settings."""

    loop = Loop.OFFLINE

    def __init__(
        self,
        id: str,
        path: str | None = None,
        mirror: str | None = None,
        stored_next_observations: bool = False,
        clip_actions: bool = False,
        backend: str = "auto",
        **worlds: Any,
    ) -> None:
        """`worlds`: the other settings of `make`, which only its worlds have."""
        self.id, self.path, self.mirror, self.chosen, self.worlds = id, path, mirror, backend, worlds
        self.stored_next_observations, self.clip_actions = stored_next_observations, clip_actions

    @classmethod
    def names_code(cls, settings: dict[str, Any]) -> str | None:
        """The d4rl package's Gym imports the module of a name such as 'd4rl:my_module:my-env-v0'."""
        path = settings.get("path")
        return f"path={path}" if str(path).startswith("d4rl:") and str(path).count(":") > 1 else None

    def vector_env(
        self, seeds: Sequence[int], num_envs: int, purpose: Purpose, device: torch.device | str = "cpu"
    ) -> VectorEnv:
        return make(self.id, seeds, num_envs, purpose, device=device, backend=self.chosen, **self.worlds)

    def probe(self) -> VectorEnv:
        env = make(self.id, (0,))  # by the backend that is quickest to be made
        env.close()
        return env

    def backend(self, num_envs: int, device: torch.device | str) -> str:
        return choose_backend(self.id, num_envs, device, self.chosen)

    def single_env(self, seed: int | None = None, render_mode: str | None = None) -> gymnasium.Env:
        return make_single(self.id, seed, render_mode)

    def dataset(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> DatasetBuffer:
        from rlreg.buffers import Batch, DatasetBuffer

        found = dataset(self.id, self.path, self.mirror, self.stored_next_observations, self.clip_actions)
        return DatasetBuffer(seeds, Batch(*found.transitions), device, found.source, found.episodes.returns)

    def fetch(self) -> None:
        from envs.d4rl.load import fetch_dataset

        fetch_dataset(self.id, self.path, self.mirror)

    def score(self) -> Callable | None:
        return scorer(self.id, self.path)
