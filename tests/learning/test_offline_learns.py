"""Short seeded runs on the shipped HalfCheetah sets, which have to reach a stated return."""

import csv

import numpy as np
import pytest
from conftest import SHIPPED_MEDIUM, SHIPPED_REPLAY

from envs.d4rl.load import load_dataset

MEDIUM = ["env=d4rl/halfcheetah-medium-v2", f"env.path={SHIPPED_MEDIUM}"]
A2PR = ["agent=a2pr", "agent.hidden=[128,128]", "agent.critic_hidden=[128,128]", "agent.vae_hidden=[128,128]"]
A2PR += [f"agent.{name}_learning_rate=1e-3" for name in ("actor", "critic", "value")]
A2PR += ["agent.alpha=1", "agent.mask=4"]


@pytest.fixture
def returns(runner, tmp_path):
    """`returns(override, ...)`: a run's evaluated returns, (evaluations, seeds), that of the untrained agents first."""

    def run(*overrides):
        done = runner(*overrides, "compile=eager", "threads=1", f"run_dir={tmp_path}/run", timeout=3600)
        assert done.returncode == 0, done.stderr
        rows = list(csv.DictReader((tmp_path / "run/eval.csv").read_text().splitlines()))
        seeds = len({row["seed"] for row in rows})
        return np.array([float(row["return"]) for row in rows]).reshape(-1, seeds)

    return run


def mean_return(name, path):
    return load_dataset(name, path).episodes.returns.mean()


def test_behaviour_cloning_reaches_the_datas_mean_return(returns):
    """The data are 20 episodes of a policy with noise on its actions, 2469 on average.

    Asked for is that, as the mean of six seeds. It was 2697; without the noise a clone does better than its model.
    """
    got = returns(
        *MEDIUM, "agent=bc", "agent.hidden=[64,64]", "agent.learning_rate=2e-3", "agent.batch_size=128", "seeds=6",
        "train.total_steps=1500", "eval.every=1500", "eval.episodes=2",
    )  # fmt: skip
    assert got[-1].mean() > mean_return("halfcheetah-medium-v2", SHIPPED_MEDIUM) > 20 * abs(got[0].mean()), got


def test_a2pr_beats_the_datas_mean_return(returns):
    """On the same data: a tenth more than their average, and so more than behaviour cloning gets.

    Each of two seeds at the best of its evaluations from 2000 updates on: of six seeds, these were from 2791 to 3110
    on an Intel Xeon. What follows one another differs by a thousand there, and rounding, which learning amplifies, by
    the processor. Targets that move by 0.05 let Q see some hundred steps ahead by then; the paper's 0.005 would take
    ten times the updates.
    """
    got = returns(
        *MEDIUM, *A2PR, *(f"agent.{name}=[64,64]" for name in ("hidden", "critic_hidden", "vae_hidden")),
        *(f"agent.{name}_learning_rate=2e-3" for name in ("actor", "critic", "value")), "agent.batch_size=128",
        "agent.tau=0.05", "seeds=2", "train.total_steps=4000", "eval.every=500", "eval.episodes=2",
    )  # fmt: skip
    assert got[4:].max(axis=0).mean() > 1.1 * mean_return("halfcheetah-medium-v2", SHIPPED_MEDIUM) > got[0].max(), got


@pytest.mark.slow
def test_a2pr_learns_from_good_and_bad_episodes(returns):
    """The data are 20 of the first 50 episodes of a TD3 run, from -445 to 2449, 585 on average.

    Asked for is that average, of the evaluations at 7500 and 10000 updates. With two seeds these gave 1088, none of the
    four under 880; behaviour cloning, which takes the bad episodes for as good as the good ones, stands still (-3).
    """
    name = "halfcheetah-medium-replay-v2"
    got = returns(
        *A2PR, f"env=d4rl/{name}", f"env.path={SHIPPED_REPLAY}", "seeds=2", "train.total_steps=10000",
        "eval.every=2500", "eval.episodes=2",
    )  # fmt: skip
    assert got[3:].mean() > mean_return(name, SHIPPED_REPLAY) > 20 * abs(got[0].mean()), got
