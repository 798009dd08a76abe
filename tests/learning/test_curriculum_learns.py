"""A short seeded run of a student on levels that it has to solve."""

import pytest
import torch

from envs.cave.level_sets import LevelSet, level_set
from envs.cave.placement import path_length
from rlreg.build import build_task, load_agent
from rlreg.run_folder import RunFolder
from rlreg.training.curriculum import transfer


def nearest_of_each_structure(levels: LevelSet) -> LevelSet:
    """The level of each wall structure whose goal is the nearest."""
    length = path_length(torch.from_numpy(levels.levels)).tolist()
    names = sorted(set(levels.structure))
    kept = [min((n for n, s in enumerate(levels.structure) if s == name), key=length.__getitem__) for name in names]
    return LevelSet(levels.levels[kept], tuple(names), {"name": "nearest", "split": "train"})


@pytest.mark.slow
def test_uniform_solves_four_levels(runner, tmp_path):
    """Asked for is 0.9 of 25 episodes on each level, that begin facing anywhere; both seeds reach 1.0.

    Before learning they solve 0.25 and 0.5 of the levels, whose goals are 4 to 7 cells away. With the first levels of
    the dataset (8 to 12 cells) the reward is found by chance once in a hundred episodes; no run of several solved all.
    """
    levels = nearest_of_each_structure(level_set("cave_escape_512_4ts_varp", "train"))
    assert len(levels) == 4
    levels.save(tmp_path / "four.npz")
    done = runner(
        "agent=uniform", "env=cave_escape", "protocol=short", f"env.dataset={tmp_path}/four.npz", "env.count=4",
        f"env.evaluate_on=[{tmp_path}/four.npz]", "env.evaluate_count=4", "agent.information.every=0",
        "agent.student.entropy_coefficient=0.03", "train.total_steps=150", "eval.every=25", "seeds=2", "threads=1",
        f"run_dir={tmp_path}/run", timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = RunFolder(tmp_path / "run")
    agent, _ = load_agent(folder)
    space = build_task(folder.load_config()).level_space()
    solved = torch.stack([transfer(agent, space, number)["train_solved"] for number in range(25)]).mean(dim=0)
    assert (solved > 0.9).all(), solved
