"""Our batched CaveEscape worlds against Farama's MiniGrid: the same level and actions, equal at every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.cave.tiles import EMPTY, GOAL, LAVA, MOSS, START, WALL
from envs.cave.worlds import CaveWorlds

pytest.importorskip("minigrid", reason="needs the extra 'levels'")
from envs.cave.farama import FaramaCave


def random_levels(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """(count, size, size): some 20 % wall, 7 % lava, 28 % moss, the rest empty; one goal and one start."""
    levels = rng.choice([WALL, LAVA, MOSS, EMPTY], (count, size, size), p=[0.2, 0.07, 0.28, 0.45]).astype(np.uint8)
    levels[:, [0, -1]] = levels[:, :, [0, -1]] = WALL
    for level in levels:
        level[1:-1, 1:-1].flat[rng.choice((size - 2) ** 2, 2, replace=False)] = GOAL, START
    return levels


def walk(size: int, max_steps: int | None, worlds: int, least_steps: int, seed: int) -> dict[str, int]:
    """Step `worlds` of ours and as many of MiniGrid's, until all have made `least_steps` in whole episodes.

    Most actions turn or go forward, so that episodes end in each of the three ways. Returns what happened.
    """
    rng = np.random.default_rng(seed)
    ours = CaveWorlds(range(2), worlds // 2, size, max_steps)
    levels = random_levels(worlds, size, rng)
    theirs = [FaramaCave(levels, ours.max_episode_steps) for _ in range(worlds)]
    shape = (2, worlds // 2)
    seen = dict.fromkeys(("steps", "episodes", "goal", "lava", "limit"), 0)
    over = np.ones(worlds, bool)  # worlds that begin an episode now
    resting = np.zeros(worlds, bool)  # worlds that have done their part
    images, directions = [None] * worlds, np.zeros(worlds, int)
    while True:
        resting |= over & (seen["steps"] >= least_steps)
        if resting.all():
            return seen
        begin = over & ~resting
        if begin.any():
            levels[begin], starts = random_levels(begin.sum(), size, rng), rng.integers(4, size=worlds)
            ours.set_levels(
                torch.from_numpy(levels.reshape(*shape, size, size)),
                torch.from_numpy(starts.reshape(shape)),
                torch.from_numpy(begin.reshape(shape)),
            )
            for row in np.flatnonzero(begin):
                first, _ = theirs[row].reset(options={"level": levels[row], "direction": starts[row]})
                images[row], directions[row] = first["image"], first["direction"]
            seen["episodes"] += int(begin.sum())
            compare(ours, images, directions, ~resting)

        action = rng.choice(7, worlds, p=[0.15, 0.15, 0.58, 0.03, 0.03, 0.03, 0.03])
        outcome = [x.flatten().numpy() for x in ours.step(torch.from_numpy(action.reshape(shape)))]
        over = resting.copy()
        for row in np.flatnonzero(~resting):
            reward, terminated, truncated = (x[row] for x in outcome)
            obs, their_reward, their_terminated, their_truncated, _ = theirs[row].step(action[row])
            images[row], directions[row] = obs["image"], obs["direction"]
            assert reward == np.float32(their_reward)
            assert terminated == their_terminated
            assert truncated == (their_truncated and not their_terminated)  # ours is never both
            over[row] = terminated or truncated
            seen["goal"] += reward > 0
            seen["lava"] += terminated and reward == 0
            seen["limit"] += truncated
        seen["steps"] += int((~resting).sum())
        compare(ours, images, directions, ~resting)


def compare(ours: CaveWorlds, images: list, directions: np.ndarray, rows: np.ndarray) -> None:
    image, direction = (x.flatten(0, 1).numpy() for x in ours.observe())
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[rows], np.stack([images[row] for row in np.flatnonzero(rows)]))
    np.testing.assert_array_equal(direction[rows], directions[rows])


@pytest.mark.parametrize(
    "size, max_steps, steps, ends",
    [
        (15, None, 30_000, ("goal", "lava", "limit")),
        (45, None, 3_000, ("lava",)),  # 2250 steps are long among lava: few get there
        (45, 40, 3_000, ("lava", "limit")),
        (6, 20, 3_000, ("goal", "lava", "limit")),
        (5, 7, 1_000, ("goal", "limit")),
    ],
)
def test_whole_episodes_equal_minigrid(size: int, max_steps: int | None, steps: int, ends: tuple[str, ...]) -> None:
    """Image, direction, reward, terminated, truncated, to the end of hundreds of episodes of every kind."""
    seen = walk(size, max_steps, worlds=32, least_steps=steps, seed=size)
    assert seen["steps"] >= steps and all(seen[end] >= 10 for end in ends), seen
