"""Batched CaveEscape: S x N MiniGrid worlds stepped by a handful of tensor operations.

The dynamics are Farama MiniGrid's with `see_through_walls=True` and `agent_view_size=5` (compared step by step
in tests/parity/test_cave_against_minigrid.py), except that an episode that ends on the goal or in lava at the
last step is terminated and not truncated as well.

`look` and `act` are pure functions of the worlds' state with static shapes: they compile and can be captured in
a CUDA graph. `CaveWorlds` holds the state and changes it in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from envs.cave.tiles import COLORS, EMPTY, GOAL, LAVA, START, WALL
from rlreg.errors import UserError, require
from rlreg.level_space import LevelEnv
from rlreg.rng import Rng

NUM_ACTIONS = 7
"""MiniGrid's: left, right, forward, and pick up, drop, toggle and done, which do nothing here."""
LEFT, RIGHT, FORWARD = 0, 1, 2
DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""(dx, dy) of directions 0..3: right, down, left, up."""
VIEW = 5
"""Cells along a side of the observation; the agent stands in the middle of its last row and looks up."""
_REACH = VIEW - 1
_OWN_CELL = (VIEW // 2) * VIEW + _REACH


class Observation(NamedTuple):
    """What the agent sees. (tile, colour, state) of 5 x 5 cells; first axis to its right, second towards it."""

    image: Tensor
    """(S, N, 5, 5, 3) uint8. Its own cell shows as empty, what lies outside the level as wall."""
    direction: Tensor
    """(S, N) int64, 0..3: right, down, left, up."""


class Tables(NamedTuple):
    """The constants that `look` and `act` index."""

    view: Tensor
    """(4, 25) int64: for each direction, the seen cells' offsets from the agent's in the walled grid."""
    ahead: Tensor
    """(4,) int64: the offset of the cell in front."""
    turn: Tensor
    """(7,) int64: what an action adds to the direction, modulo 4."""
    color: Tensor
    """(11,) uint8: MiniGrid's colour number of a tile."""
    reward: Tensor
    """(max_episode_steps + 1,) float32: the reward for reaching the goal after so many steps."""


def look(grid: Tensor, position: Tensor, direction: Tensor, tables: Tables) -> Tensor:
    """The images (S, N, 5, 5, 3) uint8 seen in grids (S, N, cells) at `position`, looking in `direction` (S, N)."""
    cells = tables.view.index_select(0, direction.flatten()).view(*direction.shape, VIEW * VIEW)
    tiles = grid.gather(-1, cells.add_(position[..., None]))
    tiles[..., _OWN_CELL] = EMPTY
    colors = tables.color.index_select(0, tiles.flatten().int()).view_as(tiles)
    return torch.stack((tiles, colors, torch.zeros_like(tiles)), dim=-1).unflatten(-2, (VIEW, VIEW))


def act(
    grid: Tensor, position: Tensor, direction: Tensor, steps: Tensor, action: Tensor, tables: Tables
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """One action (S, N) in every world.

    Returns the new (position, direction, steps), and (reward float32, terminated, truncated), all (S, N).
    """
    limit = tables.reward.shape[0] - 1
    front = position + tables.ahead.take(direction)
    tile = grid.gather(-1, front[..., None]).squeeze(-1)
    forward = action == FORWARD
    position = torch.where(forward & (tile != WALL), front, position)
    direction = (direction + tables.turn.take(action)) & 3
    steps = (steps + 1).clamp(max=limit)

    goal = forward & (tile == GOAL)
    reward = tables.reward.take(steps) * goal
    terminated = goal | (forward & (tile == LAVA))
    truncated = (steps == limit) & ~terminated
    return (position, direction, steps), (reward, terminated, truncated)


class CaveWorlds(LevelEnv):
    """S x N worlds, each with a level of its own.

    There is no autoreset: who steps the worlds decides on the next level, and gives it with
    `set_levels(..., where=terminated | truncated)`. A world left alone goes on where it is, past its time limit
    with `truncated` at every step. Before the first `set_levels` there are only walls.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        num_envs: int,
        size: int = 15,
        max_episode_steps: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Levels are (size, size), wall border included. The default of `max_episode_steps` is 10/9 of a level's
        cells: 250 at size 15, 2250 at size 45, as in the paper. The worlds draw no random number: of the seeds
        only their number matters. Raises `UserError` for sizes below 4 or counts below 1.
        """
        require(size >= 4, "size", size, "a whole number >= 4")
        require(num_envs >= 1, "num_envs", num_envs, "a whole number >= 1")
        self.max_episode_steps = size * size * 10 // 9 if max_episode_steps is None else max_episode_steps
        require(self.max_episode_steps >= 1, "max_episode_steps", max_episode_steps, "a whole number >= 1")
        self.seeds, self.num_envs, self.size = tuple(seeds), num_envs, size
        self.device = torch.device(device)
        # The grid is the level with walls around it, as far as the view reaches, so that no index needs a check.
        # Rows share the walls between them: what lies left of one row are the walls right of the row before.
        self._stride = size + _REACH
        self._tables = _tables(self._stride, self.max_episode_steps, self.device)
        shape = (len(self.seeds), num_envs)
        walls = torch.full((*shape, size, size), WALL, dtype=torch.uint8, device=self.device)
        self._grid, self._position = self._load(walls)
        self._direction = torch.zeros(shape, dtype=torch.int64, device=self.device)
        self._steps = torch.zeros(shape, dtype=torch.int64, device=self.device)

    @property
    def levels(self) -> Tensor:
        """(S, N, G, G) uint8: the worlds' levels, with EMPTY for their START."""
        rows = self._grid.unflatten(-1, (-1, self._stride))
        return rows[..., _REACH + 1 : -_REACH, : self.size].clone()

    @property
    def cell(self) -> Tensor:
        """(S, N) int64: where the agents are, x * G + y."""
        x = self._position // self._stride - (_REACH + 1)
        return x * self.size + self._position % self._stride

    @property
    def direction(self) -> Tensor:
        """(S, N) int64: where they look, 0..3."""
        return self._direction.clone()

    @property
    def steps(self) -> Tensor:
        """(S, N) int64: steps since the level was set, at most `max_episode_steps`."""
        return self._steps.clone()

    def draw_starts(self, rng: Rng, stream: str, number: int | Tensor, length: int) -> Tensor:
        """Directions to face first, (S, length, N) int64, all equally likely."""
        return rng.integers(f"{stream}/direction", number, (length, self.num_envs), len(DIRECTIONS))

    def set_levels(self, levels: Tensor, direction: Tensor, where: Tensor | None = None) -> None:
        """Begin an episode in `levels` (S, N, G, G) uint8, facing `direction` (S, N) int64.

        `where` (S, N) bool: only in these worlds; the others go on. Levels must be well-formed (one START, one
        GOAL, known tiles): that is not checked here, in the middle of training. Raises `UserError` for another
        shape or type.
        """
        shape = self._steps.shape
        _check("levels", levels, (*shape, self.size, self.size), torch.uint8)
        _check("direction", direction, shape, torch.int64)
        if where is not None:
            _check("where", where, shape, torch.bool)
        if where is not None and self.device.type == "cpu" and not torch.compiler.is_compiling():
            # Few worlds end at a time. (On a GPU to find them would mean to wait for it; a program has fixed shapes.)
            rows = where.nonzero(as_tuple=True)
            self._grid[rows], self._position[rows] = self._load(levels[rows])
            self._direction[rows] = direction[rows]
            self._steps[rows] = 0
            return
        grid, position = self._load(levels)
        new = (grid, position, direction, torch.zeros_like(self._steps))
        for state, value in zip(self._state(), new, strict=True):
            if where is not None:
                value = torch.where(where.view(*shape, *(1,) * (value.dim() - 2)), value, state)
            state.copy_(value)

    def observe(self) -> Observation:
        """What the agents see now."""
        return Observation(look(self._grid, self._position, self._direction, self._tables), self.direction)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One action (S, N) int64 of 0..6 in every world. Returns (reward float32, terminated, truncated), (S, N).

        The reward is 1 - 0.9 * steps / max_episode_steps on the goal, else 0. `terminated` on the goal and in
        lava; `truncated` at the time limit otherwise: never both.
        """
        state, outcome = act(*self._state(), action, self._tables)
        for old, new in zip(self._state()[1:], state, strict=True):
            old.copy_(new)
        return outcome

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to continue exactly, as numpy arrays."""
        return {name: value.numpy(force=True).copy() for name, value in zip(_STATE, self._state(), strict=True)}

    def load_state_dict(self, state: dict[str, Any]) -> Observation:
        """Continue from `state_dict()`. Returns the observation of that moment.

        Raises `UserError` if the state is of other worlds: of another number or size.
        """
        for name, value in zip(_STATE, self._state(), strict=True):
            saved = np.shape(state.get(name))
            if saved != value.shape:
                raise UserError(f"saved worlds: '{name}' has shape {saved}, not {tuple(value.shape)}")
        for name, value in zip(_STATE, self._state(), strict=True):
            value.copy_(torch.as_tensor(state[name]))
        return self.observe()

    def _state(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._grid, self._position, self._direction, self._steps

    def _load(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Levels (..., G, G) as grids (..., cells) and the agents' positions (...) in them."""
        is_start = levels == START
        cell = is_start.flatten(-2).to(torch.uint8).argmax(-1)
        position = (cell // self.size + _REACH + 1) * self._stride + cell % self.size
        # One more row in front: what lies left of the first row is in it.
        grid = F.pad(levels.masked_fill(is_start, EMPTY), (0, _REACH, _REACH + 1, _REACH), value=WALL)
        return grid.flatten(-2), position


_STATE = ("grid", "position", "direction", "steps")


def _tables(stride: int, max_episode_steps: int, device: torch.device) -> Tables:
    view = torch.empty(4, VIEW, VIEW, dtype=torch.int64)
    right, away = torch.meshgrid(torch.arange(VIEW) - VIEW // 2, _REACH - torch.arange(VIEW), indexing="ij")
    for d, (dx, dy) in enumerate(DIRECTIONS):
        view[d] = (away * dx - right * dy) * stride + (away * dy + right * dx)
    turn = torch.zeros(NUM_ACTIONS, dtype=torch.int64)
    turn[LEFT], turn[RIGHT] = -1, 1
    color = torch.zeros(START + 1, dtype=torch.uint8)
    for tile, number in COLORS.items():
        color[tile] = number
    # In double precision, then rounded: MiniGrid's reward to the last bit of float32.
    reward = 1 - 0.9 * (torch.arange(max_episode_steps + 1, dtype=torch.float64) / max_episode_steps)
    ahead = torch.tensor([dx * stride + dy for dx, dy in DIRECTIONS])
    return Tables(*(t.to(device) for t in (view.flatten(1), ahead, turn, color, reward.float())))


def _check(field: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if value.shape != shape or value.dtype != dtype:
        kind = str(dtype).removeprefix("torch.")
        raise UserError(f"{field} has shape {tuple(value.shape)} of {value.dtype}; give {tuple(shape)} of {kind}")
