"""What worlds are for: part of the key of their random streams, so that no two uses share one."""

from __future__ import annotations

from enum import IntEnum


class Purpose(IntEnum):
    """The numbers are part of every world's seed, and never change."""

    TRAIN = 0
    EVALUATE = 1
    COLLECT_RANDOM = 2
    COLLECT_MEDIUM = 3
    COLLECT_EXPERT = 4
