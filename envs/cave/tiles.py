"""The tiles of a CaveEscape level, by MiniGrid's numbers.

A level is one uint8 map (G, G) with its wall border, x first and y second as in MiniGrid's `Grid.encode()`. It
holds one GOAL and one START; what lies under the start is EMPTY. Batches of levels are (..., G, G).
"""

from __future__ import annotations

EMPTY, WALL, MOSS, GOAL, LAVA, START = 1, 2, 3, 8, 9, 10
TILES = (EMPTY, WALL, MOSS, GOAL, LAVA, START)
NAVIGABLE = (EMPTY, MOSS, GOAL, START)
"""Tiles that lead somewhere; LAVA can be entered as well, and ends the episode."""

COLORS = {EMPTY: 0, WALL: 5, MOSS: 2, GOAL: 1, LAVA: 0, START: 0}
"""MiniGrid's colour number of each tile; moss is MiniGrid's blue `floor`."""
