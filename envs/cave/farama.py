"""Farama's MiniGrid on a CaveEscape level, unchanged: what `CaveWorlds` is compared with. Needs the extra `levels`."""

from __future__ import annotations

from typing import Any

import numpy as np
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Floor, Goal, Lava, Wall
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from envs.cave.tiles import EMPTY, GOAL, LAVA, MOSS, START, WALL

_MISSION = "escape from the cave"
_OBJECTS = {EMPTY: lambda: None, START: lambda: None, WALL: Wall, MOSS: Floor, GOAL: Goal, LAVA: Lava}


class FaramaCave(MiniGridEnv):
    """Each reset draws one of `levels` (L, G, G) and a direction; `options` "level" and "direction" give them."""

    def __init__(self, levels: NDArray[np.uint8], max_steps: int, **kwargs: Any) -> None:
        """`kwargs` go to `MiniGridEnv`: render_mode, for one."""
        self._levels, self._options = levels, {}
        super().__init__(
            MissionSpace(lambda: _MISSION),
            grid_size=levels.shape[-1],
            max_steps=max_steps,
            see_through_walls=True,
            agent_view_size=5,
            **kwargs,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        self._options = options or {}
        return super().reset(seed=seed)

    def _gen_grid(self, width: int, height: int) -> None:
        number, direction = self.np_random.integers([len(self._levels), 4])
        level = self._options.get("level", self._levels[number])
        self.grid = Grid(width, height)
        for (x, y), tile in np.ndenumerate(level):
            self.grid.set(x, y, _OBJECTS[tile]())
        self.agent_pos = tuple(int(k) for k in np.argwhere(level == START)[0])
        self.agent_dir = int(self._options.get("direction", direction))
        self.mission = _MISSION
