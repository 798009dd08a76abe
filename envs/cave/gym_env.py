"""CaveEscape as Gymnasium environments: one world, and many as a vector environment. Both step `CaveWorlds`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from envs.cave.level_sets import LevelSet, level_set
from envs.cave.rendering import render
from envs.cave.worlds import NUM_ACTIONS, VIEW, CaveWorlds
from rlreg.errors import UserError, require, unknown
from rlreg.rng import Rng

Levels = str | ArrayLike
"""The name or file of a level set (`envs.cave.level_sets`), or levels (L, G, G) or (G, G) uint8 themselves."""
TRAINING_SET = "cave_escape_512_4ts_varp"
"""DRED's training set."""
_RENDER_MODES = ("rgb_array",)
_OPTIONS = ("level", "direction")


class CaveEnv(gymnasium.Env):
    """One world. Each reset draws a level and a direction to start in; `options` may give either.

    Observations are {"image": (5, 5, 3) uint8, "direction": 0..3} as MiniGrid's; `info["level"]` of a reset is the
    level's number in the set, or -1 for one of the caller's.
    """

    metadata = {"render_modes": list(_RENDER_MODES), "render_fps": 10}  # noqa: RUF012  as in gymnasium.Env

    def __init__(
        self,
        levels: Levels = TRAINING_SET,
        split: str = "train",
        max_steps: int | None = None,
        render_mode: str | None = None,
        tile_size: int = 32,
    ) -> None:
        """`split` is for a set's name. `max_steps` is the time limit, which the reward depends on too; see
        `CaveWorlds`. (`gymnasium.make` has a `max_episode_steps` of its own: a second limit, around this one.)
        Raises `UserError`: no such levels.
        """
        self._levels = _resolve(levels, split)
        self._worlds = CaveWorlds([0], 1, self._levels.shape[-1], max_steps)
        self.observation_space, self.action_space = _spaces()
        self.render_mode, self._tile_size = _render_mode(render_mode), tile_size

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode. `options`: "level" (G, G) uint8, "direction" 0..3. Raises `UserError` for others."""
        super().reset(seed=seed)
        options = _options(options)
        # Both are always drawn, so that an option leaves later draws as they are.
        number, direction = self.np_random.integers([len(self._levels), 4])
        level = self._levels[number]
        if "level" in options:
            number, level = -1, _one_each(options["level"], 1, self._worlds.size)[0]
        if "direction" in options:
            direction = _directions(options["direction"], 1)[0]
        self._worlds.set_levels(torch.tensor(level)[None, None], torch.tensor([[int(direction)]]))
        return self._observation(), {"level": int(number)}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Raises `UserError` for an action outside 0..6."""
        require(self.action_space.contains(action), "action", action, f"0 to {NUM_ACTIONS - 1}")
        reward, terminated, truncated = (x.item() for x in self._worlds.step(torch.tensor([[int(action)]])))
        return self._observation(), reward, terminated, truncated, {}

    def render(self) -> NDArray[np.uint8] | None:
        """The whole level from above, (h, w, 3) uint8; None without a render mode."""
        return _pictures(self._worlds, self._tile_size)[0] if self.render_mode else None

    def _observation(self) -> dict[str, Any]:
        image, direction = self._worlds.observe()
        return {"image": image[0, 0].numpy(), "direction": np.int64(direction.item())}


class CaveVectorEnv(gymnasium.vector.VectorEnv):
    """Many worlds with same-step autoreset: numpy outside, `CaveWorlds` on `device` inside.

    At the end of an episode a world begins the next at once, in a level drawn uniformly. The observation that ended
    it is in `infos["final_obs"]` where `infos["_final_obs"]`, as from Gymnasium's own vector environments. World n
    of seed k draws as a world of seed k + n: what it draws at a time depends neither on the number of worlds nor on
    the others.
    """

    def __init__(
        self,
        num_envs: int = 1,
        levels: Levels = TRAINING_SET,
        split: str = "train",
        max_steps: int | None = None,
        render_mode: str | None = None,
        tile_size: int = 32,
        device: torch.device | str = "cpu",
    ) -> None:
        """See `CaveEnv`. Raises `UserError`: no such levels, or no world."""
        require(num_envs >= 1, "num_envs", num_envs, "a whole number >= 1")
        self._levels = torch.from_numpy(_resolve(levels, split)).to(device)
        self._worlds = CaveWorlds([0], num_envs, self._levels.shape[-1], max_steps, device)
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = _spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode, self._tile_size = _render_mode(render_mode), tile_size
        self.metadata = CaveEnv.metadata | {"autoreset_mode": AutoresetMode.SAME_STEP}
        self._seeds: NDArray[np.int64] | None = None
        self._time = 0  # steps and resets since the last seed; with a world's seed it keys the world's draws

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Begin an episode in every world.

        `seed` k stands for k, k + 1, ...; without one, every world goes on with its draws. `options`: "level" (G, G)
        or (num_envs, G, G), "direction" () or (num_envs,). Raises `UserError` for other options or shapes.
        """
        options = _options(options)
        if seed is None and self._seeds is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        if seed is not None:
            seeds = np.asarray(seed)
            self._seeds = seeds if seeds.ndim else seeds + np.arange(self.num_envs)
            require(self._seeds.shape == (self.num_envs,), "seed", seed, f"a number or {self.num_envs} of them")
            self._time = 0
        self._time += 1
        number, direction = self._draw(np.arange(self.num_envs))
        levels = self._levels.index_select(0, number)
        if "level" in options:
            given = _one_each(options["level"], self.num_envs, self._worlds.size)
            levels, number = torch.from_numpy(given).to(levels.device), torch.full_like(number, -1)
        if "direction" in options:
            direction = torch.from_numpy(_directions(options["direction"], self.num_envs)).to(direction.device)
        self._worlds.set_levels(levels[None], direction[None])
        everywhere = np.ones(self.num_envs, bool)
        return self._observation(), {"level": number.numpy(force=True), "_level": everywhere}

    def step(
        self, actions: NDArray
    ) -> tuple[dict[str, NDArray], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Raises `UserError` before the first reset, and for actions that are not (num_envs,) of 0..6."""
        if self._seeds is None:
            raise UserError("step before the first reset; call reset")
        actions = np.asarray(actions)
        if not self.action_space.contains(actions):
            given = f"actions of shape {actions.shape}, {actions.dtype}"
            raise UserError(f"{given}; give ({self.num_envs},) whole numbers 0 to {NUM_ACTIONS - 1}")
        action = torch.as_tensor(actions, dtype=torch.int64, device=self._levels.device)
        self._time += 1
        reward, terminated, truncated = (x[0].numpy(force=True) for x in self._worlds.step(action[None]))
        done = terminated | truncated
        infos: dict[str, Any] = {}
        if done.any():
            rows = np.flatnonzero(done)
            observed = self._observation()
            final_obs = np.full(self.num_envs, None, dtype=object)
            for row in rows:
                final_obs[row] = {name: values[row].copy() for name, values in observed.items()}
            infos = {"final_obs": final_obs, "final_info": {}, "level": self._begin(rows)}
            infos |= {f"_{name}": done.copy() for name in infos}
        return self._observation(), reward, terminated, truncated, infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """A picture of every world, (h, w, 3) uint8; None without a render mode."""
        return tuple(_pictures(self._worlds, self._tile_size)) if self.render_mode else None

    def _begin(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Begin the next episode in worlds `rows`. Returns the numbers of their levels, (num_envs,), 0 elsewhere."""
        device = self._levels.device
        index = torch.from_numpy(rows).to(device)
        drawn, drawn_direction = self._draw(rows)
        where = torch.zeros(self.num_envs, dtype=torch.bool, device=device).index_fill_(0, index, True)
        number = torch.zeros(self.num_envs, dtype=torch.int64, device=device).index_copy_(0, index, drawn)
        direction = torch.zeros_like(number).index_copy_(0, index, drawn_direction)
        levels = self._levels.index_select(0, number)
        self._worlds.set_levels(levels[None], direction[None], where[None])
        return number.numpy(force=True)

    def _draw(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels' numbers and directions for worlds `rows` at this time, each (rows,)."""
        rng = Rng(self._seeds[rows].tolist(), self._levels.device)
        high = torch.tensor([len(self._levels), 4], device=self._levels.device)
        number, direction = rng.integers("cave episodes", self._time, (2,), high).unbind(-1)
        return number, direction

    def _observation(self) -> dict[str, NDArray]:
        image, direction = self._worlds.observe()
        return {"image": image[0].numpy(force=True), "direction": direction[0].numpy(force=True)}


def _resolve(levels: Levels, split: str) -> NDArray[np.uint8]:
    """(L, G, G). Raises `UserError` for an unknown set, or levels that are none."""
    if isinstance(levels, str):
        return level_set(levels, split).levels
    levels = np.asarray(levels)
    levels = levels[None] if levels.ndim == 2 else levels
    return LevelSet(levels, ("given",) * len(levels), {"name": "levels"}).levels


def _one_each(levels: Levels, count: int, size: int) -> NDArray[np.uint8]:
    """The levels of `options` for `count` worlds, (count, G, G)."""
    levels = _resolve(levels, "train")
    if levels.shape[1:] != (size, size) or len(levels) not in (1, count):
        shapes = f"({size}, {size})" + (f" or ({count}, {size}, {size})" if count > 1 else "")
        raise UserError(f"options['level'] has shape {levels.shape}; give {shapes}")
    return np.array(np.broadcast_to(levels, (count, size, size)))


def _directions(direction: ArrayLike, count: int) -> NDArray[np.int64]:
    values = np.asarray(direction)
    fits = values.shape in ((), (count,)) and np.isin(values, range(4)).all()
    require(bool(fits), "options['direction']", direction, "0 to 3 (right, down, left, up), one for all or one each")
    return np.array(np.broadcast_to(values, (count,)), np.int64)


def _options(options: dict[str, Any] | None) -> dict[str, Any]:
    for name in options or {}:
        if name not in _OPTIONS:
            raise unknown("reset option", name, _OPTIONS)
    return options or {}


def _render_mode(mode: str | None) -> str | None:
    if mode is not None and mode not in _RENDER_MODES:
        raise unknown("render mode", mode, _RENDER_MODES)
    return mode


def _spaces() -> tuple[spaces.Dict, spaces.Discrete]:
    image = spaces.Box(0, 255, (VIEW, VIEW, 3), np.uint8)
    return spaces.Dict({"image": image, "direction": spaces.Discrete(4)}), spaces.Discrete(NUM_ACTIONS)


def _pictures(worlds: CaveWorlds, tile_size: int) -> NDArray[np.uint8]:
    levels, cell, direction = (x[0] for x in (worlds.levels, worlds.cell, worlds.direction))
    return render(levels, cell, direction, tile_size)
