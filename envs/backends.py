"""`env.backend`: what steps the worlds of a task."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rlreg import memory
from rlreg.errors import UserError, require
from rlreg.purpose import Purpose

if TYPE_CHECKING:
    import torch

    from envs.base import VectorEnv
    from envs.physics.batched_task import BatchedTask

BATCH_FROM = 4
"""Worlds a seed from which `auto` batches them. One world takes up to a fifth longer in a batch than on its own, three
are stepped faster in a batch in every task measured (benchmarks/worlds.py). Not the worlds of all seeds together: a
seed's run would depend on its companions."""
WARP_FROM = 512
"""Worlds a seed from which `auto` steps them on a GPU that the run is on."""
SHARED_BY_WARP = {"wrap_prm", "hfield_data"}
"""Model fields that some task draws anew in every episode, and that mujoco_warp has one copy of for all worlds."""
WORLDS_A_THREAD = 16
"""The least that is worth another thread."""


def choose(
    backend: str,
    reference: str,
    batched: bool,
    num_envs: int,
    device: str | torch.device,
    fields: Callable[[], Sequence[str]] = tuple,
    batch_from: int = BATCH_FROM,
) -> str:
    """'mujoco', 'warp' or `reference` (the original's own stepping), for `num_envs` worlds per seed.

    `auto` depends on nothing but the arguments and on whether mujoco-warp is installed, so that a resumed run goes on
    as it began. Raises `UserError` for an unknown backend, one that is not installed, or one that does not have the
    task (`batched` says whether the task has a batched version; `fields()` are the model fields that it has per world).
    From `batch_from` worlds per seed on `auto` batches them.
    """
    valid = ("auto", "mujoco", "warp", reference)
    require(backend in valid, "env.backend", backend, ", ".join(valid[:-1]) + f" or {valid[-1]}")
    if backend == "warp" and find_spec("mujoco_warp") is None:
        raise UserError("env.backend=warp needs mujoco-warp; install it by: pip install 'rlreg[warp]'")
    if backend in ("mujoco", "warp") and not batched:
        raise UserError(f"env.backend={backend}: this task has no batched version; give auto or {reference}")
    if backend != "auto":
        return backend
    if not batched or num_envs < batch_from:
        return reference
    on_gpu = str(device).startswith("cuda") and num_envs >= WARP_FROM and find_spec("mujoco_warp") is not None
    return "warp" if on_gpu and not set(fields()) & SHARED_BY_WARP else "mujoco"


def make_batched(
    make_task: Callable[[], BatchedTask],
    backend: str,
    seeds: Sequence[int],
    num_envs: int,
    purpose: Purpose = Purpose.TRAIN,
    action_repeat: int = 1,
    spread: bool = False,
    workers: int | str = 0,
    device: str | torch.device = "cpu",
    **warp: Any,
) -> VectorEnv:
    """S x N worlds of a batched task, stepped by `backend`, 'mujoco' or 'warp'.

    `workers`: threads of the CPU engine beside this one; 'auto' for as many as pay. `warp`: settings of `MujocoWarp`
    alone. See `envs.batched.BatchedEnv` for the others. Raises `UserError` where the worlds would not fit into memory,
    before any of it is taken.
    """
    task, worlds = make_task(), len(seeds) * num_envs
    given = (task.model, worlds, task.substeps, task.model_fields, task.legacy_step)
    settings = (seeds, num_envs, purpose, action_repeat, spread, device)
    if backend == "warp":  # imported here, as the runner's start needs neither engine
        from envs.batched_gpu import GPUBatchedEnv
        from envs.physics.mujoco_warp import MujocoWarp

        return GPUBatchedEnv(task, MujocoWarp(*given, device=device, continuous=True, **warp), *settings)
    from envs.batched import BatchedEnv
    from envs.physics.mujoco_batch import MujocoBatch

    _require_memory(task, worlds, num_envs)
    physics = MujocoBatch(*given, task.contact_forces, _threads(workers, worlds))
    return BatchedEnv(task, physics, *settings)


def _threads(workers: int | str, worlds: int) -> int:
    if workers == "auto":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(cores, worlds // WORLDS_A_THREAD))
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise UserError(f"env.workers={workers!r}: give a number of threads, 0 for none beside this one, or 'auto'")
    return max(1, workers)


def _require_memory(task: BatchedTask, worlds: int, num_envs: int) -> None:
    """Raise `UserError` where `worlds` worlds of `task` are more than the memory that is free holds."""
    import mujoco

    model = task.model
    own = sum(getattr(model, field).size for field in task.model_fields)
    row = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION)
    # The state, what tasks read, and some ten times an observation of about that size.
    numbers = 4 * row + 2 * own + model.nsensordata + 16 * model.nbody + 12 * (model.ngeom + model.nsite)
    needed, free = worlds * 8 * numbers, memory.available()
    if needed > free:
        raise UserError(
            f"num_envs={num_envs}: {worlds} worlds take some {needed / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB are "
            f"free; give at most {max(1, num_envs * free // needed)}"
        )
