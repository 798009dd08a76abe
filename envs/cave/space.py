"""CaveEscape as a curriculum sees it: training levels, levels to be measured on, new levels, and worlds to play in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from envs.cave import edits
from envs.cave.level_model import LevelModel
from envs.cave.level_sets import SPLITS, LevelSet, level_set
from envs.cave.rendering import render, sheet
from envs.cave.worlds import DIRECTIONS, NUM_ACTIONS, VIEW, CaveWorlds
from rlreg.errors import require
from rlreg.level_space import Category, Image, LevelSpace
from rlreg.rng import Rng
from rlreg.task import Loop, Task


class CaveEscape(LevelSpace):
    """The levels of one run, on `device`."""

    name = "CaveEscape"
    observation: ClassVar = {"image": Image(VIEW, VIEW, 3, scale=10.0), "direction": Category(len(DIRECTIONS))}
    num_actions = NUM_ACTIONS

    def __init__(
        self,
        dataset: str,
        count: int | None = None,
        evaluate_on: Sequence[str] = (),
        evaluate_count: int | None = None,
        layouts: str | None = None,
        max_episode_steps: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """See `envs.registry.CaveConfig`. Raises `UserError` for sets that are not there or are none."""
        self.device, self.max_episode_steps = torch.device(device), max_episode_steps
        require(bool(evaluate_on), "env.evaluate_on", list(evaluate_on), "at least one set")
        training = self._set(f"{dataset}:train", layouts)
        self.dataset = self._maps(training if count is None else training.first(count, "env.count"))
        self.level_shape = tuple(self.dataset.shape[1:])
        self.size = self.level_shape[-1]
        """G, a level's side."""
        self.evaluation = {}
        for name in evaluate_on:
            held_out = self._set(name, layouts)
            self.evaluation[name] = self._maps(held_out.first(min(evaluate_count or len(held_out), len(held_out))))

    def worlds(
        self, seeds: Sequence[int], num_envs: int, level_shape: tuple[int, ...] | None = None
    ) -> CaveWorlds:
        size = (level_shape or self.level_shape)[-1]
        return CaveWorlds(seeds, num_envs, size, self.max_episode_steps, self.device)

    def random_levels(self, rng: Rng, stream: str, step: int, count: int) -> Tensor:
        """DR's levels, (S, count, G, G)."""
        return edits.random_levels(rng, stream, step, count, self.size)

    def empty_levels(self, rng: Rng, stream: str, step: int, count: int) -> Tensor:
        """ACCEL's first levels, (S, count, G, G)."""
        return edits.empty_rooms(rng, stream, step, count, self.size)

    def edit(self, levels: Tensor, rng: Rng, stream: str, step: int, num_edits: int) -> Tensor:
        """Edited copies of levels (S, N, G, G)."""
        return edits.edit(levels, rng, stream, step, num_edits)

    def level_model(self, seeds: Sequence[int], latent: int, hidden: int) -> LevelModel:
        """A model, not trained yet, of levels of this size."""
        return LevelModel(seeds, self.size, latent, hidden, self.device)

    def sheet(self, levels: Tensor) -> np.ndarray:
        """Levels (n, G, G) as one picture."""
        return sheet(levels)

    def pictures(self, worlds: CaveWorlds) -> np.ndarray:
        """What the first world of each seed looks like now, (S, h, w, 3)."""
        return render(worlds.levels[:, 0], worlds.cell[:, 0], worlds.direction[:, 0], tile_size=16)

    @staticmethod
    def _set(name: str, layouts: str | None) -> LevelSet:
        """`<set>`, `<set>:train` or `<set>:test` (by default test), or a file."""
        head, _, split = name.rpartition(":")
        head, split = (head, split) if head and split in SPLITS else (name, "test")
        return level_set(head, split, layouts=layouts)

    def _maps(self, levels: LevelSet) -> Tensor:
        return torch.from_numpy(levels.levels).to(self.device)


class CaveTask(Task):
    """CaveEscape's levels; see `envs.registry.CaveConfig` for the settings, which are those of `CaveEscape`."""

    loop = Loop.CURRICULUM
    measured_on = ("evaluate_on", "evaluate_count", "layouts")

    def __init__(
        self,
        dataset: str,
        count: int | None = None,
        evaluate_on: Sequence[str] = (),
        evaluate_count: int | None = None,
        layouts: str | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        self._settings = {
            "dataset": dataset,
            "count": count,
            "evaluate_on": evaluate_on,
            "evaluate_count": evaluate_count,
            "layouts": layouts,
            "max_episode_steps": max_episode_steps,
        }

    def level_space(self, device: torch.device | str = "cpu") -> CaveEscape:
        return CaveEscape(**self._settings, device=device)
