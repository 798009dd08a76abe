"""Humanoid and HumanoidStandup: a human body, to walk and to stand up."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from envs.mujoco_gym.base import BatchedGymTask, Healthy, Locomotion, within
from envs.physics.base import Physics, write
from envs.streams import EpisodeStreams

INCLUDED = ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")
"""MjData fields that are observed beside the state, each unless `include_..._in_observation` is false (v5)."""


class Body(Locomotion):
    """What both observe."""

    num_skipped = 2

    def __init__(self, version: int, xml_file: str, frame_skip: int, settings: dict[str, Any]) -> None:
        included = {name: settings.pop(f"include_{name}_in_observation", True) for name in INCLUDED}
        self._included, self._version = [name for name, wanted in included.items() if wanted], version
        super().__init__(xml_file, frame_skip, **settings)
        self.contact_forces = version == 5 or "cfrc_ext" in self._included

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        # v5 leaves out what is always zero: the world, and the root's actuators, of which it has none.
        self._first_row = dict.fromkeys(INCLUDED, 0) if self._version == 4 else dict.fromkeys(INCLUDED, 1)
        self._first_row["qfrc_actuator"] *= 6
        read = [name for name in self._included if name != "cfrc_ext"]
        self._readings = {name: physics.data(name)[:, self._first_row[name] :] for name in read}

    def get_observation(self) -> dict[str, Tensor]:
        parts = super().get_observation() | {name: values.flatten(1) for name, values in self._readings.items()}
        if "cfrc_ext" in self._included:
            parts["cfrc_ext"] = self.physics.contact_forces()[:, self._first_row["cfrc_ext"] :].flatten(1)
        return parts

    def contact_norm(self) -> Tensor:
        """The sum of the squared contact forces, (W,)."""
        return self.physics.contact_forces().square().sum(dim=(1, 2))


class Humanoid(Body):
    """v4, and v5, which subtracts a cost of contact and does not pay the step of the fall."""

    def __init__(
        self,
        version: int,
        healthy_reward: float,
        terminate_when_unhealthy: bool,
        healthy_z_range: tuple[float, float],
        contact_cost_weight: float = 0.0,
        contact_cost_range: tuple[float, float] = (0.0, 0.0),
        frame_skip: int = 5,
        **settings: Any,
    ) -> None:
        super().__init__(version, "humanoid.xml", frame_skip, settings)
        self._health = Healthy(healthy_reward, terminate_when_unhealthy, version)
        self._z_range = healthy_z_range
        self._contact_cost_weight, self._contact_cost_range = contact_cost_weight, contact_cost_range

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        mass = self.tensor(self.model.body_mass)
        self._shares = mass / mass.sum()
        self._xipos_x, self._z = physics.data("xipos")[..., 0], physics.qpos[:, 2]

    def mass_center(self) -> Tensor:
        """Its x coordinate, (W,)."""
        return self._xipos_x @ self._shares

    def state(self) -> dict[str, Tensor]:
        return {"x": self._x_before}

    def begin_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        super().begin_episode(mask, random)
        write(self._x_before, mask, self.mass_center())

    def before_step(self, action: Tensor) -> None:
        BatchedGymTask.before_step(self, action)  # where the body was is known from the last step

    def is_healthy(self) -> Tensor:
        """(W,) bool."""
        return within(self._z, self._z_range)

    def get_reward(self) -> Tensor:
        self._x = self.mass_center()
        reward = super().get_reward() + self._health.reward(self.is_healthy)
        self._x_before.copy_(self._x)
        if self._version == 5:
            cost = self._contact_cost_weight * self.contact_norm()
            reward = reward - cost.clamp(*self._contact_cost_range)
        return reward

    def get_termination(self) -> Tensor | None:
        return ~self.is_healthy() if self._health.terminates else None


class HumanoidStandup(Body):
    """v4, and v5 with settings. Its weight of the height is one that Gymnasium reads and does not use."""

    def __init__(
        self,
        version: int,
        uph_cost_weight: float = 1.0,
        ctrl_cost_weight: float = 0.1,
        impact_cost_weight: float = 0.5e-6,
        impact_cost_range: tuple[float, float] = (-float("inf"), 10.0),
        reset_noise_scale: float = 0.01,
        exclude_current_positions_from_observation: bool = True,
        frame_skip: int = 5,
        **settings: Any,
    ) -> None:
        settings |= {
            "forward_reward_weight": 0.0,
            "ctrl_cost_weight": ctrl_cost_weight,
            "reset_noise_scale": reset_noise_scale,
            "exclude_current_positions_from_observation": exclude_current_positions_from_observation,
        }
        super().__init__(version, "humanoidstandup.xml", frame_skip, settings)
        self._impact_cost_weight, self._impact_cost_range = impact_cost_weight, impact_cost_range
        self.contact_forces = True

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._z = physics.qpos[:, 2]

    def get_reward(self) -> Tensor:
        height = self._z / self.model.opt.timestep
        control, impact = self._ctrl_cost_weight * self.control_norm(), self._impact_cost_weight * self.contact_norm()
        return height - control - impact.clamp(*self._impact_cost_range) + 1
