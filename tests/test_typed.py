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
from rlreg.run_folder import RunFolder
from rlreg.typed import as_hydra_reads

WRITTEN = {
    "train.total_steps=1e6": "train.total_steps=1000000",
    "train.total_steps=1.5e3": "train.total_steps=1500",
    "train.total_steps=2E+2": "train.total_steps=200",
    "train.total_steps=2.5e5": "train.total_steps=250000",
    "train.total_steps=1_000": "train.total_steps=1_000",  # Hydra's own way
    "train.total_steps=1e6.5": "train.total_steps=1e6.5",
    "agent.hidden=64": "agent.hidden=[64]",
    "++train.total_steps=1e3": "++train.total_steps=1000",
    "train.total_steps=1e400": "train.total_steps=1e400",
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


PENDULUM = "env=gym/Pendulum-v1"
MEANS_NOTHING = {
    # keys that are added
    "+train.total_step=5": "unknown key 'train.total_step'; did you mean 'train.total_steps'?",
    "++train.total_stepz=60": "unknown key 'train.total_stepz'; did you mean 'train.total_steps'?",
    "+train.foo=1": "unknown key 'train.foo' (valid: ",
    "+eval.foo=1": "unknown key 'eval.foo' (valid: ",
    "+foo=1": "unknown key 'foo' (valid: ",
    "+foo.bar=1": "unknown key 'foo' (valid: ",
    "+env.foo=1": "unknown key 'env.foo' (valid: ",
    "+agent.taus=1": "unknown key 'agent.taus'; did you mean 'agent.tau'?",
    "+regularizer.foo=1": "regularizer.foo: there is no regulariser here; choose one: regularizer=beer",
    "++seeds.x=1": "seeds={'x': 1} is not valid; give a number of seeds",
    "+table.foo=1": "+table.foo=1: which table? give table=<one of ",
    # by what other libraries call them
    "agent.lr=1e-3": "unknown key 'agent.lr'; did you mean 'agent.actor_learning_rate' or 'agent.critic_",
    "agent.gamma=0.9": "unknown key 'agent.gamma'; did you mean 'agent.discount'?",
    "agent.polyak=0.9": "unknown key 'agent.polyak'; did you mean 'agent.tau'?",
    "train.batch=32": "unknown key 'train.batch'; did you mean 'agent.batch_size'?",
    "train.steps=9": "unknown key 'train.steps'; did you mean 'train.total_steps'?",
    "agent.total_steps=9": "unknown key 'agent.total_steps'; did you mean 'train.total_steps'?",
    "eval.freq=9": "unknown key 'eval.freq'; did you mean 'eval.every'?",
    "seed=3": "unknown key 'seed'; did you mean 'seeds'?",
    "gamma=0.9": "unknown key 'gamma'; did you mean 'agent.discount'?",
    "regularizer.beta=0.1": "regularizer.beta: there is no regulariser here; choose one: regularizer=beer",
    # values
    "train.total_steps=400k": "train.total_steps=400k is not valid; give a whole number",
    "train.total_steps=1e6.5": "train.total_steps=1e6.5 is not valid; give a whole number",
    "train.total_steps=2.5": "train.total_steps=2.5 is not valid; give a whole number",
    "train.total_steps=null": "train.total_steps=null is not valid; give a value, or leave it out",
    "train.total_steps=400,000": "train.total_steps=400,000: several values; --multirun makes a run of each, [",
    "agent=beer,ddpg": "agent=beer,ddpg: several values; --multirun makes a run of each",
    "agent.hidden=6.4": "agent.hidden is not valid; give a list, as in agent.hidden=[256,256]",
    "agent.hidden=1e12": "not enough memory (",
    "train.total_steps=1e15 train.buffer_capacity=1e15": "not enough memory (",
    "train.warmup_steps=400": "train.warmup_steps=400 is not valid; give fewer than train.total_steps=400, or nothing",
    "mode=table table=beer_dmc table.measures=[retrun]": "unknown measure in table.measures 'retrun'; did you mean",
    # what is taken away, or is no choice
    "~train": "~train: a run needs its train",
    "~env": "~env: a run needs its env",
    "~agent": "~agent: a run needs its agent",
    "mode=collect mixture={name:m} out=x.hdf5": "mixture={name:m}: give mixture=<a choice by its name>",
    "mode=collect mixture.name=m out=x.hdf5": "mixture.name=m: which mixture? give mixture=<one of medium_replay_",
    "env={id:Hopper-v4}": "env={id:Hopper-v4}: give env=<a choice by its name>, and its settings by env.<setting>=",
    "--config-name=foo": "--config-name=foo: there is no such file; what is to run is said by agent=, env=",
    # settings of another mode
    "table=beer_dmc": "table=... belongs to mode=table, not to mode=train",
    "mode=evaluate table=beer_dmc run_dir=x": "table=... belongs to mode=table, not to mode=evaluate",
    "checkpoint=100": "checkpoint=... belongs to mode=evaluate or mode=export or mode=video or mode=collect, not to m",
    "collect.steps=10": "collect.steps=... belongs to mode=collect, not to mode=train",
    "mixture=random_medium": "mixture=... belongs to mode=collect, not to mode=train",
    "launcher.jobs=2": "launcher.jobs=... belongs to mode=table, not to mode=train",
    "level_set.set=x": "level_set.set=... belongs to mode=level_set, not to mode=train",
    "episodes=3": "episodes=... belongs to mode=video, not to mode=train",
    "out=x": "out=... belongs to mode=collect or mode=video or mode=report or mode=runs, not to mode=train",
    "mode=runs run_dir=x": "run_dir=... belongs to mode=train or mode=evaluate or",
    "mode=table table=beer_dmc run_dir=x": "run_dir=x: a table decides this for each of its runs; give runs_root",
    # environments
    "env=gym/CartPole-v1": "and this environment discrete ones; give agent=dqn",
    "env=gym/CartPol-v1": "unknown env 'gym/CartPol-v1'; did you mean 'gym/CartPole-v1'?",
    "env=gym/MyEnv-v0": "in all); a task of your own: env=gym env.id=my_module:MyEnv-v0",
    "env=gym": "env.id is missing; give env.id=<value>",
    "env=gym env.id=nowhere:MyEnv-v0": "cannot make 'nowhere:MyEnv-v0': No module named 'nowhere'",
    "env=gym env.id=CartPole-v1": "and this environment discrete ones; give agent=dqn",
    "env=gym env.id=worlds:rlreg-test/Endless-v0": "give one, as in env.max_episode_steps=1000",
    "env=gym env.id=worlds:rlreg-test/Camera-v0": "observes images",
    "env=gym env.id=worlds:rlreg-test/CameraInDict-v0": "observes images",
    "env=gym env.id=worlds:rlreg-test/InTuple-v0": "only a Box, Dict or Discrete will do",
    "env=gym env.id=worlds:rlreg-test/ManySwitches-v0": "has discrete actions, MultiDiscrete([3 2])",
    "env=gym env.id=worlds:rlreg-test/Unbounded-v0": "only a bounded Box will do",
    "env=gym env.id=worlds:rlreg-test/DictOfActions-v0": "only a bounded Box will do",
}  # fmt: skip


@pytest.mark.parametrize("typed", MEANS_NOTHING)
def test_what_means_nothing_is_one_line(monkeypatch, capsys, tmp_path, typed: str) -> None:
    names = {part.split("=")[0].lstrip("+") for part in typed.split()}
    usual = [*TINY, f"runs_root={tmp_path}"] + ([PENDULUM, "agent=ddpg"] if "mode=table" not in typed else [])
    assert main(monkeypatch, *(s for s in usual if s.split("=")[0] not in names), *typed.split()) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and MEANS_NOTHING[typed] in lines[0], lines
    assert not list(tmp_path.iterdir())


def test_a_task_that_is_no_choice_of_its_own_is_chosen_by_its_id(monkeypatch, capsys, tmp_path) -> None:
    """`env=gym env.id=...` is the run of that id, in a folder by its name."""
    short = [*TINY, "agent=ddpg", f"runs_root={tmp_path}", "train.total_steps=50", "train.warmup_steps=20"]
    assert main(monkeypatch, *short, "env=gym", "env.id=worlds:rlreg-test/Walk-v0") == 0
    (run,) = tmp_path.rglob("summary.json")
    assert "Walk-v0" in run.parent.parent.name or "Walk-v0" in str(run.parent)
    assert "id" not in (RunFolder(run.parent).read_config().differs or {})


def test_a_run_s_own_settings_are_not_overruled(monkeypatch, capsys, tmp_path) -> None:
    world = ["env=gym/Pendulum-v1", "env.id=worlds:rlreg-test/Walk-v0", "env.workers=0"]
    settings = [*TINY, *world, "agent=ddpg", "train.warmup_steps=20", f"run_dir={tmp_path}/run"]
    assert main(monkeypatch, *settings, "train.total_steps=1e2") == 0
    again = ["mode=evaluate", f"run_dir={tmp_path}/run", "trust=true"]
    assert main(monkeypatch, *again) == 0
    capsys.readouterr()
    others = ("agent=td3", "env=dmc/cartpole-balance", "seeds=3", "agent.tau=0.5")
    for mode in ("evaluate", "export", "video", "collect"):
        more = [f"out={tmp_path}/set.hdf5"] if mode == "collect" else []
        for other in (*others, "train.total_steps=50"):
            assert main(monkeypatch, f"mode={mode}", *again[1:], *more, other) == 2
            said = capsys.readouterr().err
            assert f"{other}: mode={mode} takes the run's own, which is " in said
    assert main(monkeypatch, *again, "agent=ddpg", "agent.hidden=[16,16]", "seeds=1") == 0  # what it has, may be said


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


@pytest.mark.parametrize("given", ["bogus", "egl", "osmesa"])
def test_an_unusable_mujoco_gl_only_matters_for_drawing(given: str) -> None:
    """A value that is none, and backends that may not be there: dm_control's worlds, Gymnasium's and batched ones."""
    program = (
        "import envs.dmc, envs.gym; print(len(envs.dmc.make('cartpole-balance', [0]).reset()), "
        "len(envs.gym.make('Hopper-v4', [0]).reset()), len(envs.dmc.make('cartpole-balance', [0], 8).reset()))"
    )
    environment = os.environ | {"MUJOCO_GL": given, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout == "1 1 1\n", done.stderr


def test_what_is_slow_to_import_is_imported_where_it_is_needed() -> None:
    """So that `--help` and a mistake come soon, and none of them can be in the way of what does without."""
    program = "from rlreg.registry import register; register(); import sys; print(SLOW & sys.modules.keys())"
    slow = {"dm_control", "scipy.stats", "matplotlib", "ray", "minari", "h5py", "mujoco_warp"}
    given = [sys.executable, "-c", program.replace("SLOW", repr(slow))]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and done.stdout == "set()\n", done.stdout + done.stderr


def test_discrete_actions_are_called_so() -> None:
    with pytest.raises(UserError, match=r"'x' has discrete actions, .* continuous ones are needed"):
        ActionScale("x", gymnasium.spaces.Discrete(3))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\nrows: [a, b\ncolumns: {\n", "bad.yaml, line 3: no YAML (expected ',' or ']', but got ':')"),
        ("name: x\n\trows: []\n", "bad.yaml, line 2: no YAML (found character '\\t' that cannot start any token)"),
        ("x: &a [*a]\n", "a file of the configuration refers to itself"),
        (b"\xff\xfe", "a file of the configuration is not UTF-8 text (invalid start byte)"),
        ("- 1\n", "In 'table/bad': a list where keys with values belong, or the other way round"),
    ],
)
def test_a_table_of_ones_own_that_cannot_be_read_is_one_line(monkeypatch, capsys, tmp_path, text, says) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(monkeypatch, f"--config-dir={tmp_path}", "mode=table", "table=bad") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and line.endswith(says)
