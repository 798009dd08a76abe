"""Short seeded runs that have to reach a stated return."""

import json

import pytest

FAST = [
    "threads=1",
    "agent.hidden=[64,64]",
    "agent.batch_size=64",
    "agent.actor_learning_rate=1e-3",
    "agent.critic_learning_rate=1e-3",
    "eval.episodes=5",
]


def final_returns(runner, tmp_path, *overrides):
    done = runner(*FAST, *overrides, f"run_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "run/summary.json").read_text())["final"]["return"]


def test_beer_swings_up_the_pendulum(runner, tmp_path):
    """A random policy gets about -1300, a good one about -150; SB3's threshold for its TD3 is -200 after 20k steps.

    Targets that move by 0.02, and rewards seen for 20 steps, as much as a swing takes, learn it in less time than
    those of the paper do: after 5000 steps six other seeds had from -171 to -122. (After 3500 one of them had -456.)
    """
    returns = final_returns(
        runner, tmp_path, "agent=beer", "env=gym/Pendulum-v1", "seeds=2", "compile=eager", "agent.tau=0.02",
        "agent.discount=0.95", "train.total_steps=5000", "train.warmup_steps=500", "eval.every=5000",
    )  # fmt: skip
    assert min(returns) > -400, returns


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["agent=ddpg"],
        ["agent=td3"],
        ["agent=beer"],
        ["agent=beer_td3"],
        ["agent=dr3"],
        # Its Atari scale of 100 drowns what Q has to learn here: 358 after as many steps.
        ["agent=infer", "regularizer.scale=1"],
    ],
    ids=" ".join,
)
def test_every_online_agent_balances_the_pole(runner, tmp_path, settings):
    """A random policy gets about 350, the upper limit is 1000. In short runs of small networks returns go up and down.

    Means of two seeds were: ddpg 957, td3 881, beer 743, beer_td3 797, dr3 906, infer 915.
    """
    returns = final_returns(
        runner, tmp_path, *settings, "env=dmc/cartpole-balance", "seeds=2",
        "train.total_steps=40000", "train.warmup_steps=2000", "eval.every=10000",
    )  # fmt: skip
    assert sum(returns) / len(returns) > 600, returns
