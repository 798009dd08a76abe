"""`mode=collect`: datasets from an online run, mixtures of datasets, and a user's mistakes."""

from __future__ import annotations

import csv
import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from conftest import SHIPPED, SHIPPED_MEDIUM, SHIPPED_REPLAY, TINY
from omegaconf import OmegaConf
from test_d4rl import NAME, rows, write
from test_runner import main

import envs.d4rl.writing
import envs.dmc
from envs.d4rl.collect import _about, roll_out
from envs.d4rl.load import load_dataset, load_recording
from envs.d4rl.mixture import draw, mix
from envs.d4rl.settings import CollectConfig, MixtureConfig, SourceConfig
from envs.d4rl.side_by_side import BatchedWorlds, SingleWorlds
from envs.d4rl.transitions import Episodes, episodes, qlearning_transitions
from envs.gym import make, make_single
from rlreg.buffers import STANDS_IN, TRUNCATED
from rlreg.build import load_agent
from rlreg.checkpoint import Checkpoints, ReplayLog
from rlreg.errors import UserError
from rlreg.purpose import Purpose
from rlreg.run_folder import RunFolder

RUN = [*TINY, "agent=td3", "env=gym/Hopper-v4", "seeds=[3,7]", "train.num_envs=2", "train.keep_replay=true",
       "train.keep_checkpoints=9"]  # fmt: skip
COURSE = {0: 10.0, 100: 20.0, 200: 50.0, 300: 30.0, 400: 100.0}
"""A made-up course of seed 7's evaluated return: a third of the way is 40."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short online run, its evaluations of seed 7 replaced by COURSE."""
    run = tmp_path_factory.mktemp("online") / "run"
    patch = pytest.MonkeyPatch()
    assert main(patch, *RUN, f"run_dir={run}") == 0
    patch.undo()
    with (run / "eval.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for row in table:
        row["return"] = COURSE[int(row["step"])] if row["seed"] == "7" else row["return"]
    with (run / "eval.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def collected(monkeypatch, run, *overrides):
    """The file's arrays and attributes."""
    out = run.parent / "set.hdf5"
    out.unlink(missing_ok=True)
    assert main(monkeypatch, "mode=collect", f"run_dir={run}", f"out={out}", "collect.seed=7", *overrides) == 0
    with h5py.File(out) as file:
        arrays = {}
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        return out, arrays, dict(file.attrs)


@pytest.mark.parametrize(
    ("kind", "steps", "episodes_steps"),
    [("medium", [200], 90), ("expert", [400], 90), ("medium-expert", [200, 400], 180)],
)
def test_a_policys_rows_are_its_acts_in_the_environment(monkeypatch, capsys, run, kind, steps, episodes_steps):
    options = (f"collect.kind={kind}", "collect.steps=90", "collect.worlds=4")
    out, data, about = collected(monkeypatch, run, *options)
    assert about["steps"].tolist() == steps and about["evaluated_returns"].tolist() == [COURSE[s] for s in steps]
    assert about["agent"] == "td3" and about["seed"] == 7 and about["rows"] == len(data["rewards"]) == episodes_steps
    assert "mode=collect" in about["command"] and f"mean return {about['mean_return']:.1f}" in capsys.readouterr().out
    assert not any(str(run.parent) in str(value) for value in about.values()), "the folders of this machine"
    assert "run_dir=run out=set.hdf5" in about["command"]

    for part, step in enumerate(steps):
        mine = slice(90 * part, 90 * (part + 1))
        agent, _ = load_agent(RunFolder(run), step=step)
        obs = torch.from_numpy(data["observations"][mine]).expand(2, -1, -1)
        np.testing.assert_allclose(data["actions"][mine], agent.act(obs)[1].detach(), atol=1e-6)

    # The physics follows from the state stored beside each row: the simulator itself says what came next.
    env = make_single("Hopper-v4")
    env.reset()
    for i in range(0, episodes_steps, 7):
        env.unwrapped.set_state(data["infos/qpos"][i], data["infos/qvel"][i])
        following, reward, terminated, *_ = env.step(data["actions"][i])
        # a fresh solver start differs from the episode's own a little
        np.testing.assert_allclose(data["next_observations"][i], following, atol=1e-2)
        assert data["rewards"][i] == pytest.approx(reward, abs=1e-2)
        assert data["terminals"][i] == terminated
    cut = np.flatnonzero(data["timeouts"])
    assert cut.tolist()[-1] <= episodes_steps - 1 and not (data["timeouts"] & data["terminals"]).any()
    assert (data["timeouts"] | data["terminals"])[[22, 45, 68, 89]].all()  # 4 worlds of 23 rows, the last of 21

    # It loads as the data of its task, and no transition joins two episodes.
    loaded = load_dataset(NAME, out)
    ends = data["terminals"] | data["timeouts"]
    inner = np.flatnonzero(~ends)
    np.testing.assert_array_equal(data["next_observations"][inner], data["observations"][inner + 1])
    assert len(loaded.transitions.obs) == episodes_steps - data["timeouts"].sum() - data["terminals"][-1]
    assert len(loaded.episodes.start) == about["episodes"] == ends.sum()


def test_collecting_again_gives_the_same_and_noise_another(monkeypatch, run):
    options = ("collect.kind=expert", "collect.steps=50", "threads=1")
    _, first, _ = collected(monkeypatch, run, *options)
    (run.parent / "set.hdf5").unlink()
    _, again, _ = collected(monkeypatch, run, *options, "collect.extras=false")
    assert set(again) == {"observations", "actions", "rewards", "terminals", "timeouts"}
    for key, value in again.items():
        np.testing.assert_array_equal(value, first[key])
    (run.parent / "set.hdf5").unlink()
    _, noisy, _ = collected(monkeypatch, run, *options, "collect.noise=0.3")
    difference = noisy["actions"][::5] - first["actions"][::5]  # the first acts of the worlds, at the same states
    np.testing.assert_array_equal(noisy["observations"][0], first["observations"][0])
    assert 0.05 < np.abs(difference).mean() < 1 and np.abs(noisy["actions"]).max() <= 1


@pytest.mark.parametrize(("kind", "rows_held"), [("medium-replay", 200), ("full-replay", 400)])
def test_a_replay_set_is_the_memory_until_then(monkeypatch, run, kind, rows_held):
    _, data, about = collected(monkeypatch, run, f"collect.kind={kind}")
    assert about["steps"].tolist() == [rows_held] and len(data["rewards"]) == rows_held
    assert "infos/qpos" not in data
    # World 0's first rows, by its own simulator from the same seed.
    env = make_single("Hopper-v4", seed=7)
    obs, _ = env.reset()
    for i in range(rows_held // 2):
        np.testing.assert_array_equal(data["observations"][i], obs)
        obs, reward, terminated, truncated, _ = env.step(data["actions"][i])
        np.testing.assert_array_equal(data["next_observations"][i], obs)
        assert data["rewards"][i] == np.float32(reward) and data["terminals"][i] == terminated
        if terminated or truncated:
            obs, _ = env.reset()
    assert data["timeouts"].sum() == 2 - data["terminals"][[rows_held // 2 - 1, -1]].sum()  # where a world's rows end


def test_a_time_limit_in_a_replay_memory_is_a_time_out(monkeypatch, tmp_path):
    settings = [o for o in TINY if "checkpoint_every" not in o]
    out = tmp_path / "set.hdf5"
    assert main(
        monkeypatch, *settings, "mode=collect", "agent=ddpg", "env=gym/Hopper-v4", "env.max_episode_steps=5",
        "collect.kind=full-replay", f"out={out}", f"runs_root={tmp_path}",
    ) == 0  # fmt: skip
    with h5py.File(out) as file:
        timeouts = np.flatnonzero(file["timeouts"])
        assert timeouts.tolist() == list(range(4, 400, 5)) and not file["terminals"][()].any()


def test_a_mixtures_source_clips_its_actions_where_asked(tmp_path):
    data = rows(seed=3)
    data["actions"][5] = -5.0, 0.5, 2.0
    path = str(write(tmp_path / "beyond.hdf5", data))
    with pytest.raises(UserError, match=r"2 of 120 numbers in actions are outside .*its source's clip_actions"):
        mix(MixtureConfig("m", [SourceConfig(NAME, path)]))
    taken, _ = mix(MixtureConfig("m", [SourceConfig(NAME, path, clip_actions=True)]))
    assert taken["actions"][5].tolist() == [-1.0, 0.5, 1.0]


def test_where_episodes_were_cut_is_the_memorys_own(monkeypatch, run):
    """Nothing is guessed from observations, which may be the same on both sides of a time-out: all of them are here."""
    _, whole, _ = collected(monkeypatch, run, "collect.kind=full-replay")
    read = ReplayLog.read

    def told(self, first, last):
        rows = read(self, first, last).clone()  # (S, n, width), of two worlds in turn
        rows[..., :11] = rows[..., 15:26] = 0.5  # observations
        kind = rows[1, :, -1]
        for number, value in ((40, TRUNCATED), (61, TRUNCATED), (101, STANDS_IN)):
            if first <= number < last:
                kind[number - first] = value
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(ReplayLog, "read", told)
        _, data, _ = collected(monkeypatch, run, "collect.kind=full-replay")
    left = np.delete(np.arange(400), 200 + 101 // 2)  # world 1's rows are the second half
    np.testing.assert_array_equal(data["actions"], whole["actions"][left])
    np.testing.assert_array_equal(data["terminals"], whole["terminals"][left])
    cut = set(np.flatnonzero(whole["timeouts"])) | {40 // 2, 200 + 61 // 2, 200 + 101 // 2 - 1}
    assert set(left[np.flatnonzero(data["timeouts"])]) == {row for row in cut if not whole["terminals"][row]}


def test_a_memory_of_an_earlier_version_is_read_by_its_observations(monkeypatch, run):
    _, whole, _ = collected(monkeypatch, run, "collect.kind=full-replay")
    read = ReplayLog.read
    monkeypatch.setattr(ReplayLog, "read", lambda *given: read(*given)[..., :-1])
    _, old, _ = collected(monkeypatch, run, "collect.kind=full-replay")
    for key, value in whole.items():
        np.testing.assert_array_equal(old[key], value)


def test_without_a_run_it_is_trained_first(monkeypatch, capsys, tmp_path):
    settings = [o for o in TINY if "checkpoint_every" not in o]
    settings += ["agent=ddpg", "env=gym/Hopper-v4", f"runs_root={tmp_path}", "mode=collect", "collect.steps=50"]
    assert main(monkeypatch, *settings, "collect.kind=medium", f"out={tmp_path}/medium.hdf5") == 0
    assert "run folder:" in capsys.readouterr().out
    assert main(monkeypatch, *settings, "collect.kind=medium-replay", f"out={tmp_path}/replay.hdf5") == 0
    printed = capsys.readouterr().out
    assert "this run is complete" in printed
    (folder,) = (path.parent for path in tmp_path.rglob("config.yaml"))
    assert Checkpoints(folder / "checkpoints").steps() == [100, 200, 300, 400]
    assert main(monkeypatch, *settings, "collect.kind=random", f"out={tmp_path}/random.hdf5") == 0
    assert "run folder" not in capsys.readouterr().out
    actions = load_recording(NAME, tmp_path / "random.hdf5").actions
    assert abs(actions.mean()) < 0.15 and actions.std() == pytest.approx(1 / np.sqrt(3), abs=0.06)


def test_a_roll_out_counts_what_it_cuts_off_as_timed_out():
    made = [make_single("Hopper-v4", seed=n, max_episode_steps=4) for n in range(3)]
    data = roll_out(lambda obs, t: np.zeros((3, 3), np.float32), SingleWorlds(made, range(3)), 16)  # 6, 6 and 4 rows
    assert np.flatnonzero(data["timeouts"]).tolist() == [3, 5, 9, 11, 15] and len(data["rewards"]) == 16


def test_a_roll_out_leaves_bad_steps_out_and_says_so(capsys):
    """Every 20th step of an episode is bad: no row, and the one before it is the last of its episode."""
    made = [make_single("worlds:rlreg-test/NanReward-v0", seed=n) for n in range(2)]
    data = roll_out(lambda obs, t: np.zeros((2, 1), np.float32), SingleWorlds(made, range(2)), 90)
    said = capsys.readouterr().err
    assert "4 of 90 steps were bad, such as this one: world 0: reward is nan at episode step 20" in said
    assert len(data["rewards"]) == 86 and np.isfinite(data["rewards"]).all() and "bad" not in data
    assert np.flatnonzero(data["timeouts"]).tolist() == [18, 37, 42, 61, 80, 85]
    follows = (data["next_observations"][:-1] == data["observations"][1:]).all(axis=1)
    np.testing.assert_array_equal(follows, ~data["timeouts"][:-1])
    made = [make_single("worlds:rlreg-test/AlwaysBad-v0", seed=0)]
    with pytest.raises(UserError, match=r"30 of 30 steps were bad, .* more than train.max_bad_share=0.05"):
        roll_out(lambda obs, t: np.zeros((1, 1), np.float32), SingleWorlds(made, [0]), 30)


def test_a_batched_world_that_diverges_is_cut_and_told_of(capsys):
    env = envs.dmc.make("cheetah-run", (0,), 2, backend="mujoco")

    def act(obs, t):
        if t == 3:
            env.physics.qvel[0] = np.nan
        return np.zeros((2, 6), np.float32)

    data = roll_out(act, BatchedWorlds(env), 60)  # 30 rows for each world
    assert "1 of 60 steps were bad, such as this one: the simulation diverged" in capsys.readouterr().err
    assert len(data["rewards"]) == 59 and np.flatnonzero(data["timeouts"]).tolist() == [2, 28, 58]


def test_batched_worlds_are_rolled_out_as_single_ones_are():
    """Each row's state is what the action was taken in; a row's successor is the next row's observation, or an end."""
    env = make("Hopper-v4", [0], 3, Purpose.COLLECT_RANDOM, backend="mujoco", max_episode_steps=9)
    rng = np.random.default_rng(0)
    data = roll_out(lambda obs, t: rng.uniform(-1, 1, (3, 3)).astype(np.float32), BatchedWorlds(env), 60)
    ended = data["terminals"] | data["timeouts"]
    assert ended.sum() >= 6 and ended[[19, 39, 59]].all()
    np.testing.assert_allclose(data["observations"][:, :5], data["infos/qpos"][:, 1:], rtol=1e-6)
    follows = (data["next_observations"][:-1] == data["observations"][1:]).all(axis=1)
    np.testing.assert_array_equal(follows, ~ended[:-1])


def test_the_shipped_dataset_says_where_it_comes_from():
    assert SHIPPED.stat().st_size < 3e6
    found = load_dataset("hopper-medium-expert-v2", SHIPPED)
    with h5py.File(SHIPPED) as file:
        about = dict(file.attrs)
    assert "collect.kind=medium-expert" in about["command"] and not about["commit"].endswith("+changes")
    assert about["rows"] == 20_000 and len(found.transitions.obs) > 19_900
    assert about["mean_return"] == pytest.approx(found.episodes.returns.mean()) == pytest.approx(1000, abs=1)
    assert about["untrained_return"] < about["evaluated_returns"][0] < about["evaluated_returns"][1]


@pytest.mark.parametrize(
    ("path", "kind", "rows", "mean"),
    [(SHIPPED_REPLAY, "medium-replay", 50_000, 585), (SHIPPED_MEDIUM, "medium", 100_000, 2469)],
)
def test_the_shipped_parts_of_larger_sets_say_where_they_come_from(path, kind, rows, mean):
    assert path.stat().st_size < 3e6
    returns = load_dataset(f"halfcheetah-{kind}-v2", path).episodes.returns
    with h5py.File(path) as file:
        about = dict(file.attrs)
    (source,) = json.loads(about["sources"])
    assert about["kind"] == "mixture" and source["attributes"]["kind"] == kind
    assert about["rows"] == source["rows_taken"] == 20_000 and source["rows"] == rows
    assert about["mean_return"] == pytest.approx(returns.mean()) == pytest.approx(mean, abs=1)


# ---------------------------------------------------------------- mixtures


def test_episodes_are_drawn_whole_but_for_the_last():
    found = Episodes(np.array([0, 4, 6]), np.array([4, 6, 11]), np.zeros(3), np.ones(3, bool))
    assert draw(found, 6, np.array([0.5, 0.9, 0.1])).tolist() == [0, 6, 7, 8, 9, 10]
    assert draw(found, 3, np.array([0.5, 0.2, 0.9])).tolist() == [0, 4, 5]
    assert draw(found, 11, np.array([0.5, 0.2, 0.9])).tolist() == list(range(11))


def mixture(monkeypatch, tmp_path, *sources, seed=0):
    out = tmp_path / f"mixture-{seed}.hdf5"
    given = "[" + ",".join("{" + source + "}" for source in sources) + "]"
    status = main(monkeypatch, "mode=collect", "mixture=random_medium", f"mixture.sources={given}",
                  f"mixture.seed={seed}", f"out={out}")  # fmt: skip
    return status, out


def test_a_mixtures_transitions_are_those_of_the_episodes_drawn(monkeypatch, tmp_path):
    first = write(tmp_path / "first.hdf5", rows(n=300, seed=1))
    second = write(tmp_path / "second.hdf5", rows(n=200, seed=2))
    with h5py.File(first, "a") as file:
        file.attrs["algorithm"], file.attrs["authors"] = np.bytes_("SAC"), np.array([b"A", b"B"])
    sources = f"dataset:{NAME},path:{first},fraction:0.4", f"dataset:{NAME},path:{second},count:50"
    status, out = mixture(monkeypatch, tmp_path, *sources)
    assert status == 0
    mixed = load_recording(NAME, out)
    assert len(mixed.rewards) == 170 and mixed.next_observations is None

    got = qlearning_transitions(mixed)
    for path, part in ((first, slice(0, 120)), (second, slice(120, 170))):
        recording = load_recording(NAME, path)
        at = {reward: i for i, reward in enumerate(recording.rewards)}  # rewards differ
        taken = np.array([at[reward] for reward in mixed.rewards[part]])
        np.testing.assert_array_equal(mixed.observations[part], recording.observations[taken])
        found = episodes(recording)
        whole = [set(range(a, b)) <= set(taken) for a, b in zip(found.start, found.stop, strict=True)]
        begun = [a in taken for a in found.start]
        assert sum(begun) - sum(whole) <= 1, "only one episode is cut"
        # Every transition of the mixture is one of its sources'.
        theirs = qlearning_transitions(recording)
        mine = np.isin(got.reward, theirs.reward)
        where = [np.flatnonzero(theirs.reward == reward)[0] for reward in got.reward[mine]]
        for key in ("obs", "action", "terminated"):
            np.testing.assert_array_equal(getattr(got, key)[mine], getattr(theirs, key)[where])
        goes_on = got.terminated[mine] == 0
        np.testing.assert_array_equal(got.next_obs[mine][goes_on], theirs.next_obs[where][goes_on])
    assert np.isin(got.reward, np.concatenate([load_recording(NAME, p).rewards for p in (first, second)])).all()

    with h5py.File(out) as file:
        about = json.loads(file.attrs["sources"])
    assert [source["rows_taken"] for source in about] == [120, 50] and about[0]["source"] == "first.hdf5"
    assert about[0]["attributes"] == {"algorithm": "SAC", "authors": ["A", "B"]}
    assert mixture(monkeypatch, tmp_path, *sources, seed=1)[0] == 0
    other = load_recording(NAME, tmp_path / "mixture-1.hdf5")
    assert not np.array_equal(other.rewards, mixed.rewards)


def test_mixtures_of_the_configuration_take_a_folder_of_d4rls_file_names(monkeypatch, tmp_path):
    for kind in ("random", "medium"):
        data = rows(n=100, seed=len(kind)) | {"next_observations": np.ones((100, 11))}
        write(tmp_path / f"hopper_{kind}-v2.hdf5", data)
    out = tmp_path / "mixed.hdf5"
    overrides = ("mode=collect", "mixture=random_medium", f"mixture.folder={tmp_path}", f"out={out}")
    assert main(monkeypatch, *overrides) == 0
    mixed = load_recording(NAME, out)
    assert len(mixed.rewards) == 100 and (mixed.next_observations == 1).all()
    again = ("collect.extras=false", f"out={tmp_path}/lean.hdf5")
    assert main(monkeypatch, *overrides[:-1], *again) == 0
    assert load_recording(NAME, tmp_path / "lean.hdf5").next_observations is None


# ---------------------------------------------------------------- mistakes


def test_nothing_half_written_gets_the_name(tmp_path, monkeypatch):
    path = tmp_path / "set.hdf5"
    monkeypatch.setattr(envs.d4rl.writing.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(envs.d4rl.writing.UserError, match=r"out=.*cannot be written .*No space left"):
        envs.d4rl.writing.write_hdf5(path, rows(n=5), {})
    assert list(tmp_path.iterdir()) == []
    broken = rows(n=5)
    broken["rewards"][2] = np.nan
    with pytest.raises(envs.d4rl.writing.UserError, match="rewards in row 2: nan is not finite"):
        envs.d4rl.writing.write_hdf5(path, broken, {})


MISTAKES = {
    (): "mode=collect needs out=",
    ("out=RUN",): "is there already",
    ("out=/proc/no/set.hdf5",): "cannot be written",
    ("out=SET", "collect.kind=meduim"): "unknown collect.kind 'meduim'; did you mean 'medium'?",
    ("out=SET", "collect.steps=0"): "collect.steps=0 is not valid",
    ("out=SET", "collect.fraction=1"): "collect.fraction=1.0 is not valid",
    ("out=SET", "collect.noise=-1"): "collect.noise=-1.0 is not valid",
    ("out=SET", "collect.seed=5"): "collect.seed=5: the run has seeds 3, 7",
    ("out=SET", "run_dir=/no/run"): "no run there",
    ("out=SET", "collect.kind=medium-expert", "checkpoint=100"): "takes two",
    ("out=SET", "checkpoint=best"): "checkpoint=best is kept by runs with train.keep_best=true only",
    ("out=SET", "checkpoint=newest"): "checkpoint=newest is not valid; give last, best or the step of a checkpoint",
    ("out=SET", "checkpoint=150"): "step 150",
    ("out=SET", "collect.kind=full-replay", "checkpoint=150"): "the replay memory at step 150 is not there",
    ("out=SET", "mixture=random"): "unknown mixture 'random'",
    ("out=SET", "mixture=random_medium", "mixture.sources=[]"): "mixture.sources=[] is not valid",
    ("out=SET", "mixture=random_medium", "mixture.folder=RUN"): "no such file",
    ("out=SET", "mixture=random_medium", "mixture.task=hoper"): "unknown D4RL dataset 'hoper-random-v2'",
    ("out=SET", "mixture=random_medium", "mixture.sources=[{dataset:x,count:1,fraction:1}]"): "not both",
}


@pytest.mark.parametrize("overrides", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(monkeypatch, capsys, finished, tmp_path, overrides):
    given = [o.replace("RUN", str(finished)).replace("SET", str(tmp_path / "set.hdf5")) for o in overrides]
    run = [] if any(o.startswith("run_dir") for o in given) else [f"run_dir={finished}"]
    assert main(monkeypatch, "mode=collect", *run, *given) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and MISTAKES[overrides] in lines[0], lines
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_learnt_nothing_has_no_medium_policy(monkeypatch, capsys, run):
    table = list(csv.DictReader((run / "eval.csv").read_text().splitlines()))
    for row in table:
        row["return"] = str(10.0 - int(row["step"]))
    with (run / "eval.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    assert main(monkeypatch, "mode=collect", f"run_dir={run}", "collect.seed=7", f"out={run.parent}/set.hdf5") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no evaluation was above the untrained policy's 10.0, so there is no medium policy" in line
    assert not (run.parent / "set.hdf5").exists()


def test_a_files_attributes_do_not_say_where_the_runs_data_lay():
    env = {"name": f"d4rl/{NAME}", "path": "/home/someone/hopper.hdf5", "mirror": "http://someone's/"}
    parts = {"agent": {"name": "bc"}, "regularizer": {}, "train": {}, "eval": {}, "seeds": 1}
    cfg = OmegaConf.create({"env": env} | parts)
    assert "someone" not in str(_about(cfg, CollectConfig(), 0)) and cfg.env.path == env["path"]


@pytest.mark.parametrize("mistake", [("collect.seed=5",), ("collect.kind=medium-expert", "checkpoint=100")])
def test_a_mistake_is_told_before_a_run_is_trained_for_it(monkeypatch, tmp_path, mistake):
    given = [*RUN, "mode=collect", f"runs_root={tmp_path}/runs", f"out={tmp_path}/set.hdf5"]
    assert main(monkeypatch, *given, *mistake) == 2
    assert not (tmp_path / "runs").exists()


def test_what_was_not_kept_is_named(monkeypatch, capsys, run):
    settings = ("mode=collect", f"run_dir={run}", "collect.seed=7", f"out={run.parent}/set.hdf5")
    shutil.rmtree(run / "checkpoints/step-000000000200")
    assert main(monkeypatch, *settings) == 2
    assert "the medium policy is that of step 200, whose checkpoint is not there (3 are)" in capsys.readouterr().err
    shutil.rmtree(run / "replay")
    assert main(monkeypatch, *settings, "collect.kind=full-replay") == 2
    assert "train.keep_replay=true" in capsys.readouterr().err


def test_mixtures_ask_for_no_more_than_there_is(monkeypatch, capsys, tmp_path):
    path = write(tmp_path / "set.hdf5", rows(n=30))
    assert mixture(monkeypatch, tmp_path, f"dataset:{NAME},path:{path},count:31")[0] == 2
    assert "has 30 rows, of which a mixture asks for 31" in capsys.readouterr().err
    other = write(tmp_path / "other.hdf5", rows(n=30, obs=17, action=6))
    sources = f"dataset:{NAME},path:{path}", f"dataset:walker2d-medium-v2,path:{other}"
    assert mixture(monkeypatch, tmp_path, *sources)[0] == 2
    assert "unlike those of set.hdf5" in capsys.readouterr().err
