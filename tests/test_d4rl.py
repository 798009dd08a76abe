"""D4RL's names and scores; its files read, checked and cut into transitions as the d4rl package would."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException

import envs.d4rl
from envs.d4rl import names, recording
from envs.d4rl.load import load_dataset
from rlreg.build import build_task
from rlreg.errors import UserError
from rlreg.explain import explain
from rlreg.memory import available
from rlreg.purpose import Purpose
from rlreg.registry import register

NAME = "hopper-medium-v2"


# Files in D4RL's format


def rows(n=40, obs=11, action=3, seed=0, ends=0.1, timeouts=True, dtype=np.float32):
    """D4RL's keys, with n random rows; about a tenth of them end by `terminals`, another tenth by `timeouts`."""
    rng = np.random.default_rng(seed)
    data = {
        "observations": rng.normal(size=(n, obs)).astype(dtype),
        "actions": np.tanh(rng.normal(size=(n, action))).astype(dtype),
        "rewards": rng.normal(size=n).astype(dtype),
        "terminals": rng.random(n) < ends,
        "timeouts": rng.random(n) < ends,
    }
    if not timeouts:
        del data["timeouts"]
    return data


def write(path: Path, data: dict, **extra) -> Path:
    """As D4RL's own files lie: gzip, groups `infos` and `metadata`, the behaviour policy's weights among them."""
    with h5py.File(path, "w") as file:
        for key, value in (data | extra).items():
            file.create_dataset(key, data=value, compression="gzip")
        n = len(data.get("rewards", ()))
        file.create_dataset("infos/qpos", data=np.zeros((n, 6)), compression="gzip")
        file.create_dataset("infos/action_log_probs", data=np.zeros(n, np.float32))
        file["metadata/algorithm"] = np.bytes_("SAC")
        file["metadata/iteration"] = 3500
        file.create_dataset("metadata/policy/fc0/weight", data=np.ones((4, 4), np.float32))
    return path


def oracle(data, max_episode_steps=None):
    """What qlearning_dataset(env, terminate_on_end=False) is documented to return, row by row."""
    out = {"obs": [], "action": [], "reward": [], "next_obs": [], "terminated": []}
    step = 0
    for i in range(len(data["rewards"]) - 1):
        timeout = data["timeouts"][i] if "timeouts" in data else step == max_episode_steps - 1
        ended = bool(data["terminals"][i])
        step = 0 if timeout or ended else step + 1
        if timeout:
            continue
        out["obs"].append(data["observations"][i])
        out["action"].append(data["actions"][i])
        out["reward"].append(np.ravel(data["rewards"][i])[0])
        out["next_obs"].append(data["observations"][i + 1])
        out["terminated"].append(float(ended))
    return {key: np.array(value, np.float32) for key, value in out.items()}


def assert_same(transitions, expected):
    for key, value in expected.items():
        got = getattr(transitions, key)
        assert got.dtype == np.float32, key
        np.testing.assert_array_equal(got, value, err_msg=key)


# Names and scores


def test_every_name_has_an_address_and_scores():
    assert len(names.dataset_names()) == 140
    assert {names.info(name).task for name in names.dataset_names()} == set(names.SIZES)
    files = [names.info(name).file_name for name in names.dataset_names()]
    assert len(set(files)) == len(files), "two datasets would share a place in the cache"
    without = [name for name in names.dataset_names() if names.info(name).ref_min is None]
    assert without == ["ant-random-expert-v0"]  # D4RL has none either
    with pytest.raises(UserError, match="no reference scores"):
        names.normalised_score(without[0], 1.0)
    for name in names.dataset_names():
        sha256 = names.info(name).sha256
        assert sha256 is None or (len(sha256) == 64 and names.info(name).size > 1e6)


def test_names_are_found_in_the_package_data():
    hopper = names.info("hopper-medium-replay-v2")
    assert hopper.file_name == "hopper_medium_replay-v2.hdf5" and hopper.size == 75_854_457
    assert hopper.url.startswith("http://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2/")
    assert names.info("antmaze-umaze-v2").max_episode_steps == 700


@pytest.mark.parametrize(
    ("task", "low", "high"),
    [("hopper", -20.272305, 3234.3), ("halfcheetah", -280.178953, 12135.0), ("walker2d", 1.629008, 4592.3)],
)
def test_scores_are_0_and_100_at_d4rls_reference_returns(task, low, high):
    name = f"{task}-medium-v2"
    assert names.normalised_score(name, low) == 0
    assert names.normalised_score(name, high) == pytest.approx(100)
    both = names.normalised_score(name, torch.tensor([low, (low + high) / 2]))
    torch.testing.assert_close(both, torch.tensor([0.0, 50.0]), atol=1e-4, rtol=1e-5)


def test_a_misspelt_name():
    with pytest.raises(UserError, match="did you mean 'hopper-medium-v2'"):
        names.info("hopper-medum-v2")


# The Q-learning view


@pytest.mark.parametrize("seed", range(20))
def test_transitions_are_those_of_qlearning_dataset(tmp_path, seed):
    data = rows(seed=seed, ends=(0.1, 0.4)[seed % 2])
    assert_same(load_dataset(NAME, write(tmp_path / "a.hdf5", data)).transitions, oracle(data))


@pytest.mark.parametrize("seed", range(20))
def test_without_timeouts_full_episodes_are_cut(tmp_path, seed):
    data = rows(seed=seed, ends=(0.0, 0.1, 0.3)[seed % 3], timeouts=False)
    loaded = load_dataset(None, write(tmp_path / "a.hdf5", data), max_episode_steps=5)
    assert_same(loaded.transitions, oracle(data, 5))


def test_stored_successors_are_ignored_unless_asked_for(tmp_path):
    data = rows()
    stored = np.random.default_rng(1).normal(size=data["observations"].shape).astype(np.float32)
    path = write(tmp_path / "a.hdf5", data, next_observations=stored)
    assert_same(load_dataset(NAME, path).transitions, oracle(data))
    whole = load_dataset(NAME, path, stored_next_observations=True).transitions
    expected = {"obs": data["observations"], "next_obs": stored, "terminated": data["terminals"].astype(np.float32)}
    assert_same(whole, expected)
    with pytest.raises(UserError, match="'next_observations' is missing"):
        load_dataset(NAME, write(tmp_path / "b.hdf5", data), stored_next_observations=True)


def test_replay_files_are_double_precision_with_columns(tmp_path):
    data = rows(dtype=np.float64)
    data["rewards"], data["terminals"] = data["rewards"][:, None], data["terminals"][:, None]
    assert_same(load_dataset(NAME, write(tmp_path / "a.hdf5", data)).transitions, oracle(data))


def test_episodes_end_where_the_task_or_the_time_ends_them_and_sum_their_rewards(tmp_path):
    data = rows(6)
    data["terminals"] = np.array([0, 1, 0, 0, 0, 0], bool)
    data["timeouts"] = np.array([0, 0, 0, 1, 0, 0], bool)
    data["rewards"] = np.arange(6, dtype=np.float32)
    found = load_dataset(NAME, write(tmp_path / "a.hdf5", data)).episodes
    assert found.start.tolist() == [0, 2, 4] and found.stop.tolist() == [2, 4, 6]
    assert found.returns.tolist() == [1, 5, 9] and found.complete.tolist() == [True, True, False]


# What may be wrong with a file


def without(key):
    return lambda data: data.pop(key)


def put(key, where, value):
    return lambda data: data[key].__setitem__(where, value)


def shorten(key):
    return lambda data: data.update({key: data[key][:-3]})


BAD = {
    "missing key": (without("rewards"), "key 'rewards' is missing"),
    "lengths": (shorten("actions"), "40 observations but 37 actions"),
    "length of timeouts": (shorten("timeouts"), "40 observations but 37 timeouts"),
    "nan": (put("observations", (7, 2), np.nan), "observations in row 7, column 2: nan is not finite"),
    "infinity": (put("rewards", 3, -np.inf), "rewards in row 3: -inf is not finite"),
    "action": (
        put("actions", (5, 1), 1.5),
        r"1 of 120 numbers in actions is outside \[-1, 1\], the first in row 5, column 1 \(1.5\), the farthest 1.5; "
        r"env.clip_actions=true clips them",
    ),
    "flag": (lambda d: d.update(terminals=np.full(40, 2)), "terminals in row 0: 2.0 is neither 0 nor 1"),
    "observation size": (
        lambda d: d.update(observations=np.zeros((40, 17))),
        "observations of 17 numbers, but those of hopper have 11",
    ),
    "action size": (lambda d: d.update(actions=np.zeros((40, 6))), "actions of 6 numbers, but those of hopper have 3"),
    "shape": (lambda d: d.update(observations=np.zeros(40)), r"observations has shape \(40,\), not \(N, size\)"),
    "no rows": (lambda d: d.update({k: v[:0] for k, v in d.items()}), "0 rows; at least 2"),
    "only time-outs": (lambda d: d.update(timeouts=np.ones(40, bool)), "every row is a time-out"),
    "text": (lambda d: d.update(rewards=np.array([b"one"] * 40)), "something else than numbers|cut off or damaged"),
}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_one_line(tmp_path):
    (tmp_path / "closed").mkdir()
    path = write(tmp_path / "closed/mine.hdf5", rows())
    path.chmod(0)
    with pytest.raises(UserError, match=r"mine.hdf5: cannot be read \(Permission denied\)"):
        load_dataset(NAME, path)
    path.parent.chmod(0)
    try:
        with pytest.raises(UserError, match=r"mine.hdf5: cannot be read \(Permission denied\)"):
            load_dataset(NAME, path)
    finally:
        path.parent.chmod(0o700)


@pytest.mark.parametrize("fault", BAD)
def test_bad_data_end_in_one_line_that_names_the_fault(tmp_path, fault):
    data = rows()
    spoil, message = BAD[fault]
    spoil(data)
    with pytest.raises(UserError, match=message) as error:
        load_dataset(NAME, write(tmp_path / "mine.hdf5", data))
    assert "\n" not in str(error.value) and "mine.hdf5" in str(error.value)


def test_bad_files_end_in_one_line(tmp_path):
    good = write(tmp_path / "good.hdf5", rows(2000)).read_bytes()
    for content, message in (
        (b"", "an empty file"),
        (b"<html>not found</html>" * 50, "not an HDF5 file"),
        (good[: len(good) // 2], "cut off or damaged"),
        (good[:100], "cut off or damaged|not an HDF5 file"),
    ):
        path = tmp_path / "bad.hdf5"
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            load_dataset(NAME, path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no such file; give one, or a folder that has \S+\.hdf5"):
        load_dataset(NAME, tmp_path / "nowhere.hdf5")
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)"):
        load_dataset(NAME, tmp_path / ("a" * 300))
    with h5py.File(write(tmp_path / "null.hdf5", rows()), "a") as file:
        del file["rewards"]
        file["rewards"] = h5py.Empty("f")
    with pytest.raises(UserError, match="key 'rewards' holds nothing"):
        load_dataset(NAME, tmp_path / "null.hdf5")
    with pytest.raises(UserError, match="name a D4RL dataset"):
        load_dataset()
    with pytest.raises(UserError, match="'timeouts' is missing"):
        load_dataset(path=write(tmp_path / "old.hdf5", rows(timeouts=False)))


def beyond(seed=0):
    """Rows as an environment records them that clips what it is given: half of the actions are beyond [-1, 1]."""
    data = rows(seed=seed)
    data["actions"] = np.random.default_rng(seed).normal(scale=1.5, size=data["actions"].shape).astype(np.float32)
    data["actions"][0] = 0.5, -5.125, 1.0
    return data


def test_actions_beyond_their_range_are_clipped_where_asked(tmp_path, capsys):
    data = beyond()
    path = write(tmp_path / "mine.hdf5", data)
    count = int((np.abs(data["actions"]) > 1).sum())
    with pytest.raises(UserError) as refused:
        load_dataset(NAME, path)
    assert (
        f"{count} of 120 numbers in actions are outside [-1, 1], the first in row 0, column 1 (-5.125), the farthest "
        "-5.125; env.clip_actions=true clips them, as most environments do"
    ) in str(refused.value)
    clipped = load_dataset(NAME, path, clip_actions=True)
    assert_same(clipped.transitions, oracle(data | {"actions": data["actions"].clip(-1, 1)}))
    told = capsys.readouterr().err.splitlines()
    assert told == [f"dataset {path}: clipped {count} of 120 numbers in actions to [-1, 1]; the farthest was -5.125"]
    # Others are not touched, and nothing is said of them.
    assert_same(load_dataset(NAME, write(tmp_path / "a.hdf5", rows()), clip_actions=True).transitions, oracle(rows()))
    assert not capsys.readouterr().err


def test_actions_are_clipped_on_the_command_line(runner, tmp_path):
    given = ("agent=bc", "env=d4rl/hopper-medium-v2", f"env.path={write(tmp_path / 'mine.hdf5', beyond())}", "seeds=1")
    tiny = ("agent.hidden=[8]", "train.total_steps=2", "eval.every=2", "eval.episodes=1", "env.workers=0", "threads=1")
    refused = runner(*given, *tiny)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "env.clip_actions=true clips them" in refused.stderr
    ran = runner(*given, *tiny, "env.clip_actions=true")
    assert ran.returncode == 0 and "clipped" in ran.stderr, ran.stderr


def test_what_does_not_fit_into_memory_is_not_read(tmp_path, monkeypatch):
    path = write(tmp_path / "mine.hdf5", rows(2000))
    claimed = 2000 * 4 * (11 + 3 + 1 + 1 + 1)
    monkeypatch.setattr(recording, "available", lambda: recording.COPIES * claimed)
    load_dataset(NAME, path)
    monkeypatch.setattr(recording, "available", lambda: recording.COPIES * claimed - 1)
    with pytest.raises(UserError, match=r"2000 rows, .* 3 times which do not fit into the 0.00 GB free"):
        load_dataset(NAME, path)


def test_free_memory_is_within_what_the_machine_has():
    """Within what the machine has, and what a process may take of it."""
    free = available()
    assert 10**7 < free < 10**14
    code = (
        "import resource\nfrom rlreg.memory import available\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\nprint(available())"
    )
    limited = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (1 << 30) < int(limited.stdout) < 2 << 30


# Other packages


def test_the_d4rl_package_where_a_user_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    data = rows() | {"infos/qpos": np.zeros((40, 6))}
    gym = types.SimpleNamespace(make=lambda name: types.SimpleNamespace(get_dataset=lambda: data))
    monkeypatch.setitem(sys.modules, "gym", gym)
    fake = types.ModuleType("d4rl")
    fake.__spec__ = types.SimpleNamespace(name="d4rl")
    monkeypatch.setitem(sys.modules, "d4rl", fake)
    assert_same(load_dataset(NAME, "d4rl:hopper-medium-v2").transitions, oracle(data))
    fallback = load_dataset(NAME, mirror="http://127.0.0.1:9")
    assert fallback.source == f"d4rl:{NAME}"
    assert_same(fallback.transitions, oracle(data))


def test_a_d4rl_package_that_cannot_be_imported_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "d4rl", None)
    with pytest.raises(UserError, match="the d4rl package cannot give 'hopper-medium-v2'"):
        load_dataset(NAME, "d4rl:hopper-medium-v2")


@pytest.mark.filterwarnings("ignore::UserWarning")  # it would like to know an author
def test_minari_has_true_successors(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    import gymnasium
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    episodes = []
    for number, (length, ended, cut) in enumerate([(2, False, False), (4, True, False), (3, False, True)]):
        flags = np.zeros((2, length), bool)
        flags[:, -1] = ended, cut
        episodes.append(
            EpisodeBuffer(
                id=number,
                observations=list(rng.normal(size=(length + 1, 11))),
                actions=list(rng.uniform(-1, 1, (length, 3)).astype(np.float32)),
                rewards=list(rng.normal(size=length)),
                terminations=list(flags[0]),
                truncations=list(flags[1]),
            )
        )
    minari.create_dataset_from_buffers(
        "test/hopper-v0",
        episodes,
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float64),
        action_space=gymnasium.spaces.Box(-1, 1, (3,), np.float32),
    )
    loaded = load_dataset(NAME, "minari:test/hopper-v0")
    expected = {
        "obs": np.concatenate([np.array(e.observations)[:-1] for e in episodes]).astype(np.float32),
        "next_obs": np.concatenate([np.array(e.observations)[1:] for e in episodes]).astype(np.float32),
        "action": np.concatenate([e.actions for e in episodes]),
        "reward": np.concatenate([e.rewards for e in episodes]).astype(np.float32),
        "terminated": np.array([0, 0, 0, 0, 0, 1, 0, 0, 0], np.float32),
    }
    assert_same(loaded.transitions, expected)
    np.testing.assert_allclose(loaded.episodes.returns, [sum(e.rewards) for e in episodes], rtol=1e-5)
    with pytest.raises(UserError, match="observations of 11 numbers, but those of walker2d have 17"):
        load_dataset("walker2d-medium-v2", "minari:test/hopper-v0")


def test_minaris_data_get_no_score_of_d4rls():
    assert envs.d4rl.scorer(NAME, "minari:mujoco/hopper/medium-v0") is None
    assert envs.d4rl.scorer(NAME, "mine.hdf5")(3234.3) == pytest.approx(100.0)


def test_without_minari_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UserError, match=r"pip install 'rlreg\[minari\]'"):
        load_dataset(NAME, "minari:mujoco/hopper/medium-v0")


# Evaluation


@pytest.mark.parametrize("task", ["hopper", "halfcheetah", "walker2d", "ant"])
def test_the_environment_fits_the_dataset(task):
    name = f"{task}-medium-v2"
    env = envs.d4rl.make(name, seeds=(0, 1), num_envs=2)
    assert (env.obs_dim, env.action_dim) == names.SIZES[task] and env.max_episode_steps == 1000
    obs = env.reset()
    assert env.step(torch.zeros(2, 2, env.action_dim)).obs.shape == obs.shape == (2, 2, env.obs_dim)
    if task == "ant":
        assert (obs[..., 27:] == 0).all() and (obs[..., :27] != 0).any()
    env.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [("antmaze-umaze-v2", "AntMaze"), ("maze2d-large-v1", "PointMaze"), ("kitchen-mixed-v0", "FrankaKitchen")],
)
def test_tasks_without_a_simulator_say_so(name, message):
    with pytest.raises(UserError, match=f"'{name}' cannot be evaluated.*{message}"):
        envs.d4rl.make(name, seeds=(0,))


@pytest.mark.parametrize("task", ["pen", "door", "hammer", "relocate"])
def test_adroit_has_d4rls_sizes_and_time_limits(task):
    pytest.importorskip("gymnasium_robotics")
    env = envs.d4rl.make(f"{task}-human-v1", seeds=(0,))
    assert (env.obs_dim, env.action_dim) == names.SIZES[task]
    assert env.max_episode_steps == names.info(f"{task}-human-v1").max_episode_steps
    env.reset()
    env.step(torch.zeros(1, 1, env.action_dim))


ADROIT_REACH = {"door": ("S_grasp", "S_handle"), "hammer": ("S_grasp", "Object"), "relocate": ("S_grasp", "Object")}


@pytest.mark.parametrize("task", ["pen", *ADROIT_REACH])
def test_adroits_rewards_and_ends_are_d4rls(task):
    """By the formulas of D4RL's sources (its hand_manipulation_suite), from MuJoCo's own positions."""
    pytest.importorskip("gymnasium_robotics")
    env = envs.d4rl.make_single(f"{task}-human-v1", seed=0)
    env.reset(seed=0)
    data, norm, dropped = env.unwrapped.data, np.linalg.norm, False

    def at(name):
        return (data.body(name) if name == "Object" else data.site(name)).xpos.copy()

    rng = np.random.default_rng(0)
    for _ in range(100):
        _, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, env.action_space.shape))
        if task == "pen":
            pen, goal = ((at(f"{name}_top") - at(f"{name}_bottom")) for name in ("object", "target"))
            far, like = norm(at("Object") - at("eps_ball")), pen @ goal / norm(pen) / norm(goal)
            near = far < 0.075
            dropped = at("Object")[2] < 0.075
            expected = like - far + 10 * (near and like > 0.9) + 50 * (near and like > 0.95) - 5 * dropped
        else:
            expected = -0.1 * norm(at(ADROIT_REACH[task][0]) - at(ADROIT_REACH[task][1]))
        if task == "door":
            angle = data.joint("door_hinge").qpos[0]
            expected += -0.1 * (angle - 1.57) ** 2 - 1e-5 * np.sum(data.qvel**2)
            expected += 2 * (angle > 0.2) + 8 * (angle > 1.0) + 10 * (angle > 1.35)
        elif task == "hammer":
            hammer, head, nail, goal = at("Object"), at("tool"), at("S_target"), at("nail_goal")
            expected -= norm(head - nail) + 10 * norm(nail - goal) + 1e-2 * norm(data.qvel)
            expected += 2 * (hammer[2] > 0.04 and head[2] > 0.04)
            expected += 25 * (norm(nail - goal) < 0.02) + 75 * (norm(nail - goal) < 0.01)
        elif task == "relocate":
            palm, ball, goal = at("S_grasp"), at("Object"), at("target")
            if ball[2] > 0.04:
                expected += 1 - 0.5 * norm(palm - goal) - 0.5 * norm(ball - goal)
            expected += 10 * (norm(ball - goal) < 0.1) + 20 * (norm(ball - goal) < 0.05)
        assert reward == pytest.approx(expected, abs=1e-6)
        assert terminated == dropped
        if terminated or truncated:
            break
    assert dropped == (task == "pen")


def test_adroit_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("envs.d4rl.simulators.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gymnasium-robotics"):
        envs.d4rl.make("pen-human-v1", seeds=(0,))


def test_the_dataset_of_a_configuration_is_the_file_it_names(tmp_path):
    path = write(tmp_path / "mine.hdf5", rows())
    loaded = envs.d4rl.dataset(NAME, path=str(path))
    assert loaded.source == str(path) and len(loaded.transitions.obs) == len(oracle(rows())["obs"])


def test_datasets_are_choices_of_env():
    register()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("config", ["agent=td3", f"env=d4rl/{NAME}", "env.path=mine.hdf5"])
        assert cfg.env.id == NAME and cfg.env.path == "mine.hdf5" and cfg.env.name == f"d4rl/{NAME}"
        env = build_task(cfg).vector_env((0,), 1, Purpose.EVALUATE)
        single = build_task(cfg).single_env(seed=0)
        assert env.obs_dim == single.observation_space.shape[0] == 11
        with pytest.raises(MissingConfigException) as typo:
            compose("config", ["agent=td3", "env=d4rl/hoper-medium-v2"])
    assert "did you mean 'd4rl/hopper-medium-v2'" in explain(typo.value)


def test_importing_the_environment_loads_no_torch():
    code = "import sys, envs.d4rl; sys.exit('torch' in sys.modules or 'h5py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
