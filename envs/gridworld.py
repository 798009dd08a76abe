"""A small grid world: S x N worlds of one layout as tensors, whose true values are known.

An agent walks a maze and is paid once, for reaching the goal. Its observation is the cell it stands in, one-hot, so
that nothing is shared between cells but what a network makes of them. For the BEER paper's grid-world illustration,
whose own layout and settings are not known: these are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from envs.base import Step, VectorEnv
from rlreg.errors import UserError, unknown
from rlreg.purpose import Purpose
from rlreg.rng import Rng
from rlreg.task import Task

if TYPE_CHECKING:
    from rlreg.agent import Policy

LAYOUTS: Mapping[str, str] = {
    "open": """
        .......
        .......
        .......
        .......
        .......
        .......
        ......G
    """,
    "four_rooms": """
        ....#....
        ....#....
        .........
        ....#....
        #.#####.#
        ....#....
        .........
        ....#....
        ....#...G
    """,
    "corridor": """
        ...........G
    """,
}
"""Free cells '.', walls '#' and one goal 'G', a line per row."""
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""(rows, columns) of up, down, left, right. A move into a wall or off the grid leaves the agent where it is."""


def cells_of(layout: str) -> tuple[list[tuple[int, int]], int]:
    """The free cells (row, column) in reading order, the goal among them, and the goal's number. Raises `UserError`."""
    rows = [line.strip() for line in layout.strip().splitlines()]
    cells = [(r, c) for r, row in enumerate(rows) for c, kind in enumerate(row) if kind != "#"]
    goals = [number for number, (r, c) in enumerate(cells) if rows[r][c] == "G"]
    if len(goals) != 1 or len(cells) < 2 or set("".join(rows)) - set(".#G"):
        raise UserError(f"layout {layout!r}: give free cells '.', walls '#' and one goal 'G'")
    return cells, goals[0]


def transitions(layout: str) -> tuple[np.ndarray, int]:
    """(cells, 4) int64: the cell that each move leads to; and the goal's number."""
    cells, goal = cells_of(layout)
    number = {cell: n for n, cell in enumerate(cells)}
    return np.array([[number.get((r + y, c + x), n) for y, x in MOVES] for n, (r, c) in enumerate(cells)]), goal


def optimal_values(layout: str, discount: float) -> np.ndarray:
    """Q*(s, a) by value iteration, (cells, 4) float64; the goal's row is 0: nothing follows it."""
    successor, goal = transitions(layout)
    reward = (successor == goal).astype(float)
    q = np.zeros(successor.shape)
    while True:
        value = q.max(axis=1)
        value[goal] = 0.0
        new = reward + discount * (1.0 - reward) * value[successor]
        if np.array_equal(new, q):
            q[goal] = 0.0
            return q
        q = new


class GridWorld(VectorEnv):
    """S x N worlds. Of an action's four numbers the largest is the move. Episodes begin in any cell but the goal."""

    discrete_actions = True
    action_dim = len(MOVES)
    measures = ("value_error",)

    def __init__(
        self,
        layout: str,
        seeds: Sequence[int],
        num_envs: int,
        purpose: Purpose = Purpose.TRAIN,
        max_episode_steps: int = 100,
        device: torch.device | str = "cpu",
    ) -> None:
        """`layout` is one of `LAYOUTS`. Raises `UserError`."""
        if layout not in LAYOUTS:
            raise unknown("layout", layout, LAYOUTS)
        self.seeds, self.num_envs, self.device = tuple(seeds), num_envs, torch.device(device)
        self.max_episode_steps = max_episode_steps
        self.layout = LAYOUTS[layout]
        successor, self.goal = transitions(self.layout)
        self.successor = torch.from_numpy(successor).to(self.device)
        self.obs_dim = len(successor)
        starts = [n for n in range(self.obs_dim) if n != self.goal]
        self.starts = torch.tensor(starts, device=self.device)
        self.rng, self.stream = Rng(seeds, device), f"gridworld/{int(purpose)}"
        self.cell = torch.zeros(len(self.seeds), num_envs, dtype=torch.int64, device=self.device)
        self.steps = torch.zeros_like(self.cell)
        self.clock = torch.zeros((), dtype=torch.int64, device=self.device)
        """Steps and resets so far: what the next start cells are drawn by."""

    def reset(self) -> Tensor:
        self.clock += 1
        self.cell.copy_(self._starts())
        self.steps.zero_()
        return self._obs(self.cell)

    def step(self, action: Tensor) -> Step:
        self.clock += 1
        moved = self.successor[self.cell, action.argmax(dim=-1)]
        self.steps += 1
        terminated = moved == self.goal
        truncated = (self.steps >= self.max_episode_steps) & ~terminated
        done = terminated | truncated
        self.cell.copy_(torch.where(done, self._starts(), moved))
        self.steps.mul_(~done)
        bad = torch.zeros_like(terminated)
        return Step(self._obs(self.cell), terminated.float(), terminated, truncated, self._obs(moved), bad)

    def measure(self, agent: Policy) -> dict[str, Tensor]:
        """`value_error`: the mean of |Q - Q*| over all moves from all cells but the goal; NaN without a Q."""
        if agent.discount is None:
            return {"value_error": torch.full((len(self.seeds),), torch.nan, device=self.device)}
        optimal = torch.from_numpy(optimal_values(self.layout, agent.discount)).float().to(self.device)
        cell = self.starts.repeat_interleave(self.action_dim).expand(len(self.seeds), -1)  # (S, n)
        move = torch.arange(self.action_dim, device=self.device).repeat(len(self.starts)).expand_as(cell)
        q = agent.q_value(self._obs(cell), torch.nn.functional.one_hot(move, self.action_dim).float())
        return {"value_error": (q - optimal[cell, move]).abs().mean(dim=-1)}

    def state_dict(self) -> dict[str, Any]:
        return {name: value.numpy(force=True).copy() for name, value in self._state().items()}

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        for name, live in self._state().items():
            live.copy_(torch.from_numpy(np.asarray(state[name])))
        return self._obs(self.cell)

    def _state(self) -> dict[str, Tensor]:
        return {"cell": self.cell, "steps": self.steps, "clock": self.clock}

    def _starts(self) -> Tensor:
        index = self.rng.integers(self.stream, self.clock, (self.num_envs,), len(self.starts))
        return self.starts[index]

    def _obs(self, cell: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(cell, self.obs_dim).float()


class GridTask(Task):
    """`env=gridworld`; see `envs.registry.GridConfig` for the settings."""

    def __init__(self, layout: str, max_episode_steps: int = 100) -> None:
        self.layout, self.max_episode_steps = layout, max_episode_steps

    def vector_env(
        self, seeds: Sequence[int], num_envs: int, purpose: Purpose, device: torch.device | str = "cpu"
    ) -> GridWorld:
        return GridWorld(self.layout, seeds, num_envs, purpose, self.max_episode_steps, device)
