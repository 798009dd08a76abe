"""Swimmer: a planar chain of three links in a fluid, whose episodes only time out."""

from __future__ import annotations

from envs.mujoco_gym.base import Locomotion


class Swimmer(Locomotion):
    """v4 and v5 alike."""

    num_skipped = 2

    def __init__(self, frame_skip: int = 4, **settings: float) -> None:
        super().__init__("swimmer.xml", frame_skip, **settings)
