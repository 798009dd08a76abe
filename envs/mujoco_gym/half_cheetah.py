"""HalfCheetah: a planar runner, whose episodes only time out."""

from __future__ import annotations

from envs.mujoco_gym.base import Locomotion


class HalfCheetah(Locomotion):
    """v4 and v5 alike."""

    normal_velocity = True

    def __init__(self, frame_skip: int = 5, **settings: float) -> None:
        super().__init__("half_cheetah.xml", frame_skip, **settings)
