"""What a batched task is: episodes, observations, rewards and ends of W worlds, over any `Physics`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.physics.base import Physics
from envs.streams import EpisodeStreams

MAX_CONTROL = 1e10  # mjMAXVAL: the bound of an actuator that has none


class BatchedTask(ABC):
    """One task, written once for every engine: tensor operations of static shape over a `Physics`' live tensors.

    Never an index list of worlds, `.item()` or a branch on values: what concerns some worlds only goes by a mask
    (W,), see `envs.physics.base.write`. In float64 an episode equals the original's.
    """

    model_fields: tuple[str, ...] = ()
    """The MjModel fields that its episodes change, so that they are per world."""
    legacy_step: bool = True
    """See `Physics.control_step`."""
    contact_forces: bool = False
    """Whether it reads `Physics.contact_forces`."""
    max_episode_steps: int = 1000
    """Control steps after which an episode is truncated."""

    def __init__(self, model: mujoco.MjModel, control_timestep: float | None = None) -> None:
        """`control_timestep` in seconds; by default one physics step."""
        self.model = model
        timestep = model.opt.timestep
        self.substeps = 1 if control_timestep is None else round(control_timestep / timestep)
        if abs(self.substeps * timestep - (control_timestep or timestep)) > 1e-6:
            raise ValueError(f"control_timestep={control_timestep} is no multiple of the physics' {timestep}")
        self.physics: Physics

    def bind(self, physics: Physics) -> None:
        """Take `physics` and, in tasks, live views of what is read at every step. Extend it; call it first."""
        self.physics = physics

    def draw_models(self, seeds: Sequence[int]) -> None:  # noqa: B027 (optional)
        """Draw what of the model is every seed's own, once, for the seed of each world (W,): `bind` has been called."""

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Minimum and maximum (A,) float64: the actuators' control ranges."""
        limited = self.model.actuator_ctrllimited.astype(bool)
        low, high = self.model.actuator_ctrlrange.T
        return np.where(limited, low, -MAX_CONTROL), np.where(limited, high, MAX_CONTROL)

    # ------------------------------------------------------------- episodes

    def begin_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        """A new episode in the worlds of `mask` (W,), readings refreshed."""
        self.physics.reset(mask)
        self.initialize_episode(mask, random)
        self.physics.forward(mask)

    @abstractmethod
    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        """Draw initial states (and models) and write them in the worlds of `mask`, which are at their defaults."""

    def before_step(self, action: Tensor) -> None:
        """Set the controls to `action` (W, A), which is within `action_bounds`, and note what the reward compares."""
        self.physics.ctrl.copy_(action)

    @abstractmethod
    def get_observation(self) -> dict[str, Tensor]:
        """The parts of an observation, (W, k) or (W,) each, by name, in the original's order."""

    @abstractmethod
    def get_reward(self) -> Tensor:
        """(W,) in the physics' dtype, for the control step just made."""

    def get_termination(self) -> Tensor | None:
        """(W,) bool: the task ended here. None for a task that never ends."""
        return None

    def state(self) -> dict[str, Tensor]:
        """The task's own live tensors that an episode depends on, to be saved, and restored in place."""
        return {}

    # -------------------------------------------------------------- helpers

    def tensor(self, values: object, dtype: torch.dtype | None = None) -> Tensor:
        """Constants on the physics' device, in its dtype."""
        return torch.as_tensor(values, dtype=dtype or self.physics.dtype, device=self.physics.device)

    def zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """(W, *shape) zeros, in the physics' dtype: for a task's own state."""
        physics = self.physics
        return torch.zeros(physics.num_worlds, *shape, dtype=dtype or physics.dtype, device=physics.device)
