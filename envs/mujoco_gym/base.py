"""What Gymnasium's MuJoCo tasks share: their models, how they begin, and actions as Gymnasium takes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import gymnasium.envs.mujoco
import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.notices import unsaid
from envs.physics.base import Physics
from envs.physics.batched_task import BatchedTask
from envs.streams import EpisodeStreams

ASSETS = Path(gymnasium.envs.mujoco.__file__).parent / "assets"


class BatchedGymTask(BatchedTask):
    """A task as Gymnasium steps it: `mj_step` a frame, so that readings lag one physics step behind the state.

    A reward that compares readings with those of the step before keeps these as its own state: read again after a
    restart, they would not lag. Control costs are computed in float64; Gymnasium computes them in the precision of the
    action that it is given.
    """

    legacy_step = False

    def __init__(self, xml_file: str, frame_skip: int) -> None:
        """`xml_file`: one of Gymnasium's own models. `frame_skip`: physics steps an action."""
        with unsaid():
            model = mujoco.MjModel.from_xml_path(str(ASSETS / xml_file))
        super().__init__(model, frame_skip * model.opt.timestep)
        self.dt = model.opt.timestep * frame_skip

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """In float32's numbers, as Gymnasium's action spaces."""
        low, high = super().action_bounds
        return low.astype(np.float32).astype(float), high.astype(np.float32).astype(float)

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        low, high = self.action_bounds
        self._low, self._high = (self.tensor(bound, torch.float32) for bound in (low, high))

    def begin_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        self.physics.reset(mask)
        self.initialize_episode(mask, random)
        self.physics.forward(mask, actuation=True)

    def before_step(self, action: Tensor) -> None:
        """As float32, within the bounds."""
        self.physics.ctrl.copy_(action.float().clamp(self._low, self._high))

    def control_norm(self) -> Tensor:
        """The sum of the squared controls, (W,)."""
        return self.physics.ctrl.square().sum(dim=1)


class Locomotion(BatchedGymTask):
    """Move forward: a reward for speed, less a cost of control."""

    num_skipped = 1
    """Leading positions that only say where in the plane the body is."""
    normal_velocity = False
    """Whether initial velocities are drawn from a normal distribution, or uniformly as positions are."""

    def __init__(
        self,
        xml_file: str,
        frame_skip: int,
        forward_reward_weight: float,
        ctrl_cost_weight: float,
        reset_noise_scale: float,
        exclude_current_positions_from_observation: bool,
    ) -> None:
        super().__init__(xml_file, frame_skip)
        self._forward_reward_weight, self._ctrl_cost_weight = forward_reward_weight, ctrl_cost_weight
        self._reset_noise_scale = reset_noise_scale
        self._first = self.num_skipped if exclude_current_positions_from_observation else 0

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self.position, self.velocity = physics.qpos[:, self._first :], physics.qvel
        self._x, self._x_before = physics.qpos[:, 0], self.zeros()

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        physics, scale = self.physics, self._reset_noise_scale
        qpos = physics.qpos + random.uniform("positions", -scale, scale, (self.model.nq,))
        size = (self.model.nv,)
        if self.normal_velocity:
            noise = random.normal("velocities", size, scale)
        else:
            noise = random.uniform("velocities", -scale, scale, size)
        physics.set_state(mask, qpos, physics.qvel + noise)

    def before_step(self, action: Tensor) -> None:
        super().before_step(action)
        self._x_before.copy_(self._x)

    def x_velocity(self) -> Tensor:
        """Mean forward velocity over the step, (W,)."""
        return (self._x - self._x_before) / self.dt

    def get_observation(self) -> dict[str, Tensor]:
        return {"position": self.position, "velocity": self.velocity}

    def get_reward(self) -> Tensor:
        return self._forward_reward_weight * self.x_velocity() - self._ctrl_cost_weight * self.control_norm()


class Healthy:
    """Of bodies that are rewarded for staying healthy, and whose episode may end when they are not."""

    def __init__(self, healthy_reward: float, terminate_when_unhealthy: bool, version: int) -> None:
        """v4 pays the step that ends an episode, too; v5 does not."""
        self._reward, self.terminates = healthy_reward, terminate_when_unhealthy
        self._always = terminate_when_unhealthy and version == 4

    def reward(self, is_healthy: Callable[[], Tensor]) -> Tensor | float:
        """(W,), or a number for all worlds; `is_healthy` gives (W,) bool."""
        return self._reward if self._always else is_healthy() * self._reward


def within(values: Tensor, limits: tuple[float, float]) -> Tensor:
    """Strictly, elementwise."""
    low, high = limits
    if math.isinf(high):
        return values > low
    return (values > low) & (values < high)
