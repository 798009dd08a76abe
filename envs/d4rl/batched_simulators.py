"""D4RL's Gym-MuJoCo tasks as `simulators` has them, batched."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from envs import mujoco_gym
from envs.d4rl.names import info
from envs.d4rl.simulators import ANT_CONTACT_FORCES, MUJOCO
from envs.mujoco_gym.ant import Ant
from envs.physics.base import Physics
from envs.physics.batched_task import BatchedTask


class AntAsInD4RL(Ant):
    """Observes contact forces, as zeros; see `envs.d4rl.simulators`."""

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._no_forces = self.zeros(ANT_CONTACT_FORCES)

    def get_observation(self) -> dict[str, Tensor]:
        return super().get_observation() | {"contact_forces": self._no_forces}


def make_task(id: str) -> BatchedTask:
    """The task of the D4RL dataset `id`, one of Gym-MuJoCo's."""
    task = info(id).task
    original = partial(AntAsInD4RL, version=4) if task == "ant" else None
    return mujoco_gym.make_task(MUJOCO[task], of=original)
