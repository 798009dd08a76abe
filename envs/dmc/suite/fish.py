"""Fish: a body with a tail and two fins, in water."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, load_model, unit
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics, write
from envs.streams import EpisodeStreams

CONTROL_TIMESTEP = 0.04
"""(seconds)"""
JOINTS = ("tail1", "tail_twist", "tail2", "finright_roll", "finright_pitch", "finleft_roll", "finleft_pitch")

SUITE = Domain("fish")


@SUITE.add
def upright() -> BatchedTask:
    return Upright()


@SUITE.add
def swim() -> BatchedTask:
    return Swim()


class Upright(BatchedTask):
    """Bring the torso upright, from any orientation."""

    def __init__(self) -> None:
        super().__init__(load_model("fish"), CONTROL_TIMESTEP)

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self.upright = physics.named("xmat", "torso")[:, 8]  # zz
        self._joints = physics.indices("qpos", JOINTS)
        root = physics.index("qpos", "root")
        self._quaternion = slice(root.start + 3, root.start + 7)

    def joint_angles(self) -> Tensor:
        """(W, 7)."""
        return self.physics.qpos[:, self._joints]

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        qpos = self.physics.qpos.clone()
        qpos[:, self._quaternion] = unit(random.normal("orientation", (4,)))
        qpos[:, self._joints] = random.uniform("joints", -0.2, 0.2, (len(JOINTS),))
        self.physics.set_state(mask, qpos)

    def get_observation(self) -> dict[str, Tensor]:
        return {"joint_angles": self.joint_angles(), "upright": self.upright, "velocity": self.physics.qvel}

    def get_reward(self) -> Tensor:
        return tolerance(self.upright, (1.0, 1.0), margin=1.0)


class Swim(Upright):
    """Swim to a target, which lies elsewhere in every episode."""

    model_fields = ("geom_pos",)

    def __init__(self) -> None:
        super().__init__()
        self._radii = float(self.model.geom("mouth").size[0] + self.model.geom("target").size[0])

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        self._target = physics.named("geom_xpos", "target")
        self._mouth = physics.named("geom_xpos", "mouth")
        self._mouth_frame = physics.named("geom_xmat", "mouth").unflatten(1, (3, 3))
        self._target_pos = physics.named("geom_pos", "target")
        self._target_low = self.tensor([-0.4, -0.4, 0.1])
        self._target_high = self.tensor([0.4, 0.4, 0.3])

    def mouth_to_target(self) -> Tensor:
        """The vector from mouth to target as seen from the mouth, (W, 3)."""
        return ((self._target - self._mouth)[:, None] @ self._mouth_frame)[:, 0]

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        super().initialize_episode(mask, random)
        write(self._target_pos, mask, random.uniform("target", self._target_low, self._target_high, (3,)))

    def get_observation(self) -> dict[str, Tensor]:
        return {
            "joint_angles": self.joint_angles(),
            "upright": self.upright,
            "target": self.mouth_to_target(),
            "velocity": self.physics.qvel,
        }

    def get_reward(self) -> Tensor:
        distance = torch.linalg.vector_norm(self.mouth_to_target(), dim=1)
        in_target = tolerance(distance, (0.0, self._radii), margin=2 * self._radii)
        is_upright = 0.5 * (self.upright + 1)
        return (7 * in_target + is_upright) / 8
