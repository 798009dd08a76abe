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
from envs.gym import REFERENCE
from rlreg.purpose import Purpose

if TYPE_CHECKING:
    import torch

    from envs.base import VectorEnv
    from envs.d4rl.load import OfflineDataset

__all__ = [
    "choose_backend",
    "dataset",
    "dataset_names",
    "fetch",
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
    path: str | None = None,
    mirror: str | None = None,
    stored_next_observations: bool = False,
    workers: int | str = 0,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    spread: bool = False,
    deterministic: bool = False,
    nconmax: int | None = None,
    njmax: int | None = None,
) -> VectorEnv:
    """S x N worlds to evaluate on; see `make_single` for how they differ from D4RL's. Raises `UserError`.

    `path`, `mirror` and `stored_next_observations` are `dataset`'s options, which describe one configuration together
    with this; the data are not read here. The others are those of `envs.gym.make`.
    """
    chosen = choose_backend(id, num_envs, device, backend)
    if chosen == REFERENCE:
        from envs.gym_vector import GymVectorEnv  # here: worker processes, which import this module, load no torch

        return GymVectorEnv(partial(make_single, id), id, seeds, num_envs, purpose, workers, device)
    from envs.d4rl.batched import make_task

    warp = {"deterministic": deterministic, "nconmax": nconmax, "njmax": njmax}
    return make_batched(partial(make_task, id), chosen, seeds, num_envs, purpose, 1, spread, workers, device, **warp)


def choose_backend(id: str, num_envs: int, device: str | torch.device, backend: str = "auto", **_: Any) -> str:
    """What `make` steps `num_envs` worlds a seed with; see `envs.backends.choose`. Raises `UserError`."""
    return choose(backend, REFERENCE, info(id).task in MUJOCO, num_envs, device)


def dataset(
    id: str, path: str | None = None, mirror: str | None = None, stored_next_observations: bool = False
) -> OfflineDataset:
    """The transitions of the D4RL dataset `id`, or those at `path` for its task. See `load.load_dataset`."""
    from envs.d4rl.load import load_dataset  # here, as neither a worker nor the runner's start needs h5py

    return load_dataset(id, path, mirror, stored_next_observations)


def fetch(
    id: str, path: str | None = None, mirror: str | None = None, stored_next_observations: bool = False
) -> None:
    """Have the file of `dataset` here, without reading it. Raises `UserError` where it cannot be had."""
    from envs.d4rl.load import fetch_dataset

    fetch_dataset(id, path, mirror)


def scorer(
    id: str, path: str | None = None, mirror: str | None = None, stored_next_observations: bool = False
) -> Callable | None:
    """What turns returns into normalised scores, `Info.score`.

    None where D4RL has no references for `id`, and for Minari's data, which differ from D4RL's.
    """
    wanted = info(id)
    minari = path is not None and path.startswith(MINARI)
    return None if minari or wanted.ref_min is None or wanted.ref_max is None else wanted.score
