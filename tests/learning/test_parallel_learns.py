"""`scale=parallel`, shortened, has to reach a stated return."""

import csv
import json

import pytest

SHORT = [
    *("threads=1", "compile=eager", "agent.hidden=[64,64]", "agent.batch_size=128"),
    *("agent.actor_learning_rate=1e-3", "agent.critic_learning_rate=1e-3", "eval.episodes=5"),
    *("train.total_steps=256000", "train.warmup_steps=6400", "eval.every=64000"),
]


@pytest.mark.slow
def test_beer_in_64_worlds_swings_up_the_pole(runner, tmp_path):
    """By 15,600 updates. A random policy gets about 50; in the first 600 of 1000 steps alone this run got 459."""
    settings = [*SHORT, "agent=beer", "env=dmc/cartpole-swingup", "scale=parallel", f"run_dir={tmp_path}/run"]
    settings += ["train.log_every=6400", "train.checkpoint_every=64000"]
    done = runner(*settings, timeout=3600)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "run/summary.json").read_text())["final"]["return"]
    assert found > 400, found


def test_beer_in_64_worlds_balances_the_pole(runner, tmp_path):
    """The same, shortened to 3200 updates. Of 200 steps an untrained policy balances it for some 5 to 12.

    This run's does for 200; four other seeds had from 99 to 192, so asked for is what no such difference explains.
    """
    settings = [*SHORT, "agent=beer", "env=gym/InvertedPendulum-v5", "env.max_episode_steps=200", "scale=parallel"]
    settings += ["train.total_steps=32000", "eval.every=32000", "train.log_every=6400", "train.checkpoint_every=32000"]
    done = runner(*settings, f"run_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert "worlds stepped by mujoco" in done.stdout
    rows = list(csv.DictReader((tmp_path / "run/eval.csv").read_text().splitlines()))
    before, after = (float(row["return"]) for row in rows)
    assert before < 20 and after > 60, (before, after)
