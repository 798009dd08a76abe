"""What a user typed is what happens: numbers, keys that exist, contradictions, spaces."""

from __future__ import annotations

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import worlds  # noqa: F401  registers them
from conftest import ROOT, TINY, main

from envs.gym import ActionScale, make_single
from rlreg.errors import UserError
from rlreg.typed import as_hydra_reads

WRITTEN = {
    "train.total_steps=1e6": "train.total_steps=1000000",
    "train.total_steps=1.5e3": "train.total_steps=1500",
    "train.total_steps=2E+2": "train.total_steps=200",
    "seeds=[1e1,2e1]": "seeds=[10,20]",
    "train.total_steps=1e3,1e4": "train.total_steps=1000,10000",
    "agent.hidden=256": "agent.hidden=[256]",
    "agent.hidden=[256,256]": "agent.hidden=[256,256]",
    "agent.lr=1e-4": "agent.lr=1e-4",
    "agent.lr=1.55e1": "agent.lr=1.55e1",
    "env.path=1e6.hdf5": "env.path=1e6.hdf5",
    "agent.name='1e6'": "agent.name='1e6'",
    "--multirun": "--multirun",
}


@pytest.mark.parametrize("written", WRITTEN)
def test_whole_numbers_as_people_write_them(written: str) -> None:
    assert as_hydra_reads(written) == WRITTEN[written]


CONTRADICTIONS = {
    "+train.total_step=5": "unknown key 'train.total_step'; did you mean 'train.total_steps'?",
    "++train.total_stepz=60": "unknown key 'train.total_stepz'; did you mean 'train.total_steps'?",
    "+train.foo=1": "unknown key 'train.foo' (valid: ",
    "+foo=1": "unknown key 'foo' (valid: ",
    "+foo.bar=1": "unknown key 'foo' (valid: ",
    "+env.foo=1": "unknown key 'env.foo' (valid: ",
    "+agent.taus=1": "unknown key 'agent.taus'; did you mean 'agent.tau'?",
    "+regularizer.foo=1": "unknown key 'regularizer.foo'",
    "train.warmup_steps=400": "train.warmup_steps=400 is not valid; give fewer than train.total_steps=400, or nothing",
    "mode=table table=beer_dmc table.measures=[retrun]": "unknown measure in table.measures 'retrun'; did you mean",
    "table=beer_dmc": "table=... belongs to mode=table, not to mode=train",
    "env=gym/Pendulum-v1 env.id=CartPole-v1": "and this environment discrete ones; give agent=dqn",
    "env=gym/Pendulum-v1 env.id=worlds:rlreg-test/Endless-v0": "give one, as in env.max_episode_steps=1000",
    "env=gym/Pendulum-v1 env.id=worlds:rlreg-test/Camera-v0": "observes images",
}


@pytest.mark.parametrize("typed", CONTRADICTIONS)
def test_what_means_nothing_is_one_line(monkeypatch, capsys, tmp_path, typed: str) -> None:
    settings = [*TINY, "agent=ddpg", f"runs_root={tmp_path}", *typed.split()]
    assert main(monkeypatch, *settings) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and CONTRADICTIONS[typed] in lines[0], lines


def test_a_run_s_own_settings_are_not_overruled(monkeypatch, capsys, tmp_path) -> None:
    world = ["env=gym/Pendulum-v1", "env.id=worlds:rlreg-test/Walk-v0", "env.workers=0"]
    settings = [*TINY, *world, "agent=ddpg", "train.warmup_steps=20", f"run_dir={tmp_path}/run"]
    assert main(monkeypatch, *settings, "train.total_steps=1e2") == 0
    again = ["mode=evaluate", f"run_dir={tmp_path}/run", "trust=true"]
    assert main(monkeypatch, *again) == 0
    capsys.readouterr()
    for other in ("agent=td3", "env=dmc/cartpole-balance", "seeds=3"):
        assert main(monkeypatch, *again, other) == 2
        said = capsys.readouterr().err
        assert f"{other}: mode=evaluate takes the run's own, which is " in said


# ------------------------------------------------------------------- spaces

BOXES = [
    gymnasium.spaces.Box(-0.1, 0.3, (3,), np.float64),
    gymnasium.spaces.Box(np.float64(-1) / 3, np.float64(2) / 3, (3,), np.float64),
    gymnasium.spaces.Box(-3, 5, (2,), np.int64),
    gymnasium.spaces.Box(0, 255, (2,), np.uint8),
    gymnasium.spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    gymnasium.spaces.Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (2,), np.float32),
    gymnasium.spaces.Box(-np.finfo(np.float64).max, np.finfo(np.float64).max, (2,), np.float64),
    gymnasium.spaces.Box(0.1, 0.1, (2,), np.float32),
]


@pytest.mark.parametrize("space", BOXES, ids=str)
def test_what_an_environment_gets_is_in_its_space(space: gymnasium.spaces.Box) -> None:
    scale = ActionScale("task", space)
    rng = np.random.default_rng(0)
    size = int(np.prod(space.shape))
    edges = [np.full(size, edge, np.float32) for edge in (-1, 1, 0, -1.5, 1.5, np.nextafter(np.float32(1), 0))]
    for action in [*edges, *rng.uniform(-1, 1, (50, size)).astype(np.float32)]:
        given = scale(action)
        assert space.contains(given), (action, given)
    low, high = scale(edges[0]), scale(edges[1])
    assert (low == space.low).all()
    assert (high == space.high).all() or space.dtype == np.int64  # 2^63 - 1 is no float64


def test_an_environment_without_render_mode_can_be_made() -> None:
    assert make_single("worlds:rlreg-test/NoRenderMode-v0", 0).reset()[0].shape == (3,)


def test_an_unusable_mujoco_gl_only_matters_for_drawing() -> None:
    program = "import envs.dmc; print(len(envs.dmc.make('cartpole-balance', [0]).reset()))"
    environment = os.environ | {"MUJOCO_GL": "bogus", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout == "1\n", done.stderr


def test_discrete_actions_are_called_so() -> None:
    with pytest.raises(UserError, match=r"'x' has discrete actions, .* continuous ones are needed"):
        ActionScale("x", gymnasium.spaces.Discrete(3))
