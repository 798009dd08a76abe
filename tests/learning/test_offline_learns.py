"""Short seeded runs on the shipped dataset, which have to reach a stated return."""

import csv

import numpy as np
from conftest import SHIPPED

from envs.d4rl.load import load_dataset


def test_behaviour_cloning_reaches_the_datas_mean_return(runner, tmp_path):
    """The data's episodes return 1000 on average. Asked for is 0.75 of that, as the mean of two evaluations.

    The mean of three seeds was 1073 at the first of them and 1596 at the second; untrained policies get 16.
    """
    done = runner(
        "agent=bc", "env=d4rl/hopper-medium-expert-v2", f"env.path={SHIPPED}", "seeds=3", "compile=eager", "threads=1",
        "agent.hidden=[64,64]", "agent.learning_rate=1e-3", "train.total_steps=3000", "eval.every=1500",
        "eval.episodes=5", f"run_dir={tmp_path}/run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = list(csv.DictReader((tmp_path / "run/eval.csv").read_text().splitlines()))
    returns = np.array([float(row["return"]) for row in table]).reshape(3, 3)
    data = load_dataset("hopper-medium-expert-v2", SHIPPED).episodes.returns.mean()
    assert returns[1:].mean() > 0.75 * data > 20 * returns[0].mean(), returns
