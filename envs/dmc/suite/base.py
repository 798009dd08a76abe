"""What the suite's tasks share: where their models come from, how they are listed, how joints are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mujoco
import torch
from torch import Tensor

from envs.dmc.dm_control_env import suite
from envs.notices import unsaid
from envs.physics.batched_task import BatchedTask
from envs.streams import EpisodeStreams

__all__ = ["BatchedTask", "Domain", "RandomJoints", "compiled", "load_model", "suite", "unit"]


class Domain:
    """The tasks of one domain: `@SUITE.add` on a function that makes one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tasks: dict[str, Callable[[], BatchedTask]] = {}

    def add(self, make: Callable[[], BatchedTask]) -> Callable[[], BatchedTask]:
        self.tasks[make.__name__] = make
        return make


def load_model(domain: str, **kwargs: Any) -> mujoco.MjModel:
    """dm_control's own model of `domain`, compiled anew; `kwargs` as its `get_model_and_assets` takes them."""
    return compiled(*getattr(suite, domain).get_model_and_assets(**kwargs))


def compiled(xml: str | bytes, assets: dict[str, bytes] = suite.common.ASSETS) -> mujoco.MjModel:
    """The model that dm_control describes by `xml` and, where it does not say otherwise, the suite's own assets.

    Its generated textures are one pixel each: nothing here is drawn, and 12 MB of sky would be copied with each model.
    """
    text = xml.decode() if isinstance(xml, bytes) else xml
    spec = mujoco.MjSpec.from_string(text, include=assets, assets=assets)
    for texture in spec.textures:
        texture.width = texture.height = 1
    with unsaid():
        return spec.compile()


class RandomJoints:
    """dm_control's `randomize_limited_and_rotational_joints`, its constants made once, at `BatchedTask.bind`.

    Bounded hinges and slides are uniform in their range, other hinges in [-pi, pi); ball joints' quaternions are
    uniform on the sphere (within a cone where bounded); a free joint is turned but stays where it is, its quaternion
    drawn from the positive orthant, as in dm_control.
    """

    def __init__(self, task: BatchedTask) -> None:
        model, self._physics = task.model, task.physics
        scalar: list[int] = []
        ranges: list[tuple[float, float]] = []
        self._quaternions: list[tuple[int, str, float]] = []  # first row of qpos, kind, limit
        for joint in range(model.njnt):
            kind, start = mujoco.mjtJoint(model.jnt_type[joint]), int(model.jnt_qposadr[joint])
            limited, (low, high) = model.jnt_limited[joint], model.jnt_range[joint]
            if kind == mujoco.mjtJoint.mjJNT_BALL:
                self._quaternions.append((start, "cone" if limited else "sphere", float(high)))
            elif kind == mujoco.mjtJoint.mjJNT_FREE:
                self._quaternions.append((start + 3, "orthant", 0.0))
            elif limited or kind == mujoco.mjtJoint.mjJNT_HINGE:
                scalar.append(start)
                ranges.append((low, high) if limited else (-math.pi, math.pi))
        self._scalar = task.tensor(scalar, torch.int64)
        self._low, self._high = task.tensor(ranges).reshape(-1, 2).T

    def __call__(self, random: EpisodeStreams) -> Tensor:
        """Positions (W, nq): the physics' present ones with the joints drawn anew."""
        qpos = self._physics.qpos.clone()
        if len(self._scalar):
            qpos[:, self._scalar] = random.uniform("joints", self._low, self._high, self._scalar.shape)
        for start, kind, limit in self._quaternions:
            name = f"quaternion/{start}"
            if kind == "cone":
                axis = unit(random.normal(f"{name}/axis", (3,)))
                half = random.uniform(f"{name}/angle", 0.0, limit / 2.0)[:, None]
                quaternion = torch.cat([torch.cos(half), torch.sin(half) * axis], dim=1)
            elif kind == "sphere":
                quaternion = unit(random.normal(name, (4,)))
            else:
                quaternion = unit(random.uniform(name, shape=(4,)))
            qpos[:, start : start + 4] = quaternion
        return qpos


def unit(vectors: Tensor) -> Tensor:
    """`vectors` (..., n) scaled to length 1."""
    return vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
