"""Stable-Baselines3, both ways: our runs as its models and zips, its algorithms as our runs."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from conftest import ROOT, TINY, main
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecVideoRecorder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import agents
import envs.registry
import rlreg.sb3
from agents.sb3_baselines import SB3, SB3Config
from agents.td3 import TD3, TD3Config
from envs.base import world_seed
from envs.gym import make, make_single
from rlreg.buffers import Batch
from rlreg.build import load_agent
from rlreg.checkpoint import Checkpoints
from rlreg.command import run
from rlreg.config import TrainConfig, register_schemas
from rlreg.errors import UserError
from rlreg.networks import Normalizer
from rlreg.purpose import Purpose
from rlreg.regularizers import BEER, Regularizer
from rlreg.run_folder import RunFolder
from rlreg.training.sb3_baselines import SB3Training

register_schemas()
agents.register_schemas()
envs.registry.register_schemas()

SEEDS = (4, 9)


def settings(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def train(folder: Path, *overrides: str, seeds: str = "[4,9]") -> Path:
    """A run of seconds in this process."""
    tiny = [setting for setting in TINY if not setting.startswith("agent.batch_size")]
    run(settings(*tiny, "eval.every=200", "env=gym/Pendulum-v1", f"seeds={seeds}", f"run_dir={folder}", *overrides))
    return folder


def train_baseline(folder: Path, algorithm: str, *overrides: str, seeds: str = "[4,9]") -> Path:
    batch = "agent.settings.batch_size=16"
    return train(folder, f"agent=sb3/{algorithm}", batch, *overrides, seeds=seeds)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Finished runs of the paper's agent, which is SB3's DDPG, and of TD3."""
    root = tmp_path_factory.mktemp("runs")
    return {name: train(root / name, f"agent={name}", "agent.batch_size=16") for name in ("beer", "td3")}


@pytest.fixture(params=["beer", "td3"])
def trained(request, runs) -> Path:
    return runs[request.param]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory) -> Path:
    """A finished run of SB3's own TD3."""
    return train_baseline(tmp_path_factory.mktemp("sb3") / "run", "td3")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "eval.csv", newline="") as file:
        return list(csv.DictReader(file))


def observations(number: int = 50) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(number, 3)).astype(np.float32)


# ------------------------------------------------------------------ our runs as SB3's models


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loaded_model_acts_and_values_as_our_agent(trained, seed):
    agent, step = load_agent(RunFolder(trained))
    model = rlreg.sb3.load(trained, seed)
    assert type(model) is (stable_baselines3.DDPG if agent.config.num_critics == 1 else stable_baselines3.TD3)
    assert (model.num_timesteps, model._n_updates, model.learning_starts) == (step, step - 100, 100)
    obs = torch.from_numpy(observations())
    ours = agent.act(obs.expand(2, -1, -1))
    theirs = rlreg.sb3.Models([model])
    action = theirs.act(obs[None])
    torch.testing.assert_close(action[0], ours[SEEDS.index(seed)], rtol=0, atol=1e-6)
    value = agent.q_value(obs.expand(2, -1, -1), ours)[SEEDS.index(seed)]
    torch.testing.assert_close(theirs.q_value(obs[None], action)[0], value, rtol=1e-5, atol=1e-5)


def test_evaluate_policy_gives_the_return_of_our_own_evaluation(trained):
    """Same start states and policy; not to the bit, as the two sum their layers in different orders."""
    model = rlreg.sb3.load(trained, seed=9)
    streams = [world_seed(9, n, Purpose.EVALUATE) for n in range(2)]
    worlds = [lambda stream=stream: Monitor(make_single("Pendulum-v1", stream)) for stream in streams]
    mean, _ = evaluate_policy(model, DummyVecEnv(worlds), n_eval_episodes=2)
    assert mean == pytest.approx(float(rows_of(trained)[-1]["return"]), rel=1e-3)


def test_one_update_by_sb3_equals_one_of_ours(trained, monkeypatch):
    """From the checkpoint, targets, Adam moments and update count included, for two updates."""
    agent, _ = load_agent(RunFolder(trained))
    agent.regularizer = Regularizer()  # SB3 has none
    model, i = rlreg.sb3.load(trained, seed=9), 1
    model.set_logger(configure(None, []))
    size, generator = agent.config.batch_size, torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(2, *shape, generator=generator)

    for number in (model._n_updates + 1, model._n_updates + 2):
        terminated = (normal(size) > 1).float()
        batch = Batch(normal(size, 3), normal(size, 1).clamp(-1, 1), normal(size), normal(size, 3), terminated)
        agent.update(batch, torch.tensor(number), number % agent.config.policy_delay == 0)
        noise = agent.rng.normal("target_noise", number, (size, 1))[i]
        sample = ReplayBufferSamples(
            batch.obs[i], batch.action[i], batch.next_obs[i], terminated[i][:, None], batch.reward[i][:, None]
        )
        monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, sample=sample, **__: sample)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "normal_", lambda self, mean, std, noise=noise: self.copy_(mean + std * noise))
            model.train(gradient_steps=1, batch_size=size)

    ours = rlreg.sb3.td3_model(agent.config, agent.state(), i, make_single("Pendulum-v1"), TrainConfig())
    assert ours._n_updates == model._n_updates
    for name, expected in rlreg.sb3.model_state(ours).items():
        tolerance = {"rtol": 0, "atol": 1e-6} if name == "policy" else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(rlreg.sb3.model_state(model)[name], expected, **tolerance)
    untouched = rlreg.sb3.model_state(rlreg.sb3.load(trained, seed=9))["policy"]
    assert any((untouched[k] - v).abs().max() > 1e-5 for k, v in model.policy.state_dict().items())


CLEAN = """
import sys
sys.modules |= dict.fromkeys(("rlreg", "agents", "envs"))  # importing any of them fails
import gymnasium, numpy as np, stable_baselines3

class Task(gymnasium.Env):  # with Pendulum-v1's spaces
    bounds = np.array([1.0, 1.0, 8.0], np.float32)
    observation_space = gymnasium.spaces.Box(-bounds, bounds, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    render_mode = None
    def reset(self, seed=None, options=None):
        return np.zeros(3, np.float32), {}
    def step(self, action):
        return np.ones(3, np.float32), 1.0, False, False, {}

obs = np.load("obs.npy")
for algorithm, path in (("DDPG", sys.argv[1]), ("TD3", sys.argv[2])):
    model = getattr(stable_baselines3, algorithm).load(path, device="cpu")
    np.save(f"{algorithm}.npy", model.predict(obs, deterministic=True)[0])
    model.set_env(Task())
    updates = model._n_updates
    model.learn(150)
    assert model._n_updates == updates + 50, (updates, model._n_updates)  # after 100 random steps
"""


def test_the_zips_open_where_this_package_is_not(runs, tmp_path):
    np.save(tmp_path / "obs.npy", observations())
    zips = [rlreg.sb3.export_zip(folder, 9) for folder in runs.values()]
    command = [sys.executable, "-I", "-c", CLEAN, *map(str, zips)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for algorithm, folder, path in zip(("DDPG", "TD3"), runs.values(), zips, strict=True):
        assert path == folder / "sb3" / "seed-9.zip" and list(path.parent.iterdir()) == [path]
        agent, _ = load_agent(RunFolder(folder))
        ours = agent.act(torch.from_numpy(observations()).expand(2, -1, -1))[1]
        np.testing.assert_allclose(np.load(tmp_path / f"{algorithm}.npy"), 2 * ours, rtol=0, atol=1e-6)


def test_export_writes_a_zip_per_seed(baseline, capsys):
    """A zip a seed; SB3's own algorithms have theirs too."""
    run(settings("mode=export", f"run_dir={baseline}"))
    assert capsys.readouterr().out.split() == [str(baseline / f"sb3/seed-{seed}.zip") for seed in SEEDS]
    agent, _ = load_agent(RunFolder(baseline))
    model = stable_baselines3.TD3.load(baseline / "sb3/seed-9.zip")
    ours = agent.act(torch.from_numpy(observations()).expand(2, -1, -1))[1]
    np.testing.assert_allclose(model.predict(observations(), deterministic=True)[0], 2 * ours, rtol=0, atol=1e-6)


def test_learning_goes_on_with_callbacks(trained, tmp_path):
    model = rlreg.sb3.load(trained, seed=4)
    before = model.get_parameters()["policy"]["actor.mu.0.weight"].clone()
    saves = CheckpointCallback(100, str(tmp_path))
    evaluations = EvalCallback(Monitor(make_single("Pendulum-v1", 1)), n_eval_episodes=1, eval_freq=100, verbose=0)
    model.learn(200, callback=[saves, evaluations], reset_num_timesteps=False)
    assert model.num_timesteps == 600 and len(list(tmp_path.glob("*.zip"))) == 2
    assert -2000 < evaluations.last_mean_reward < 0
    assert not torch.equal(model.get_parameters()["policy"]["actor.mu.0.weight"], before)


def test_a_video_can_be_recorded(tmp_path):
    small = ["train.total_steps=100", "train.warmup_steps=50", "eval.episodes=1", "train.checkpoint_every=100"]
    folder = train(tmp_path / "run", "agent=ddpg", "env=dmc/cartpole-balance", *small, seeds="1")
    model = rlreg.sb3.load(folder, render_mode="rgb_array")
    env = model.get_env()
    env.reset()
    try:
        frame = env.render()
    except UserError as error:
        pytest.skip(str(error))
    assert frame.shape == (480, 640, 3) and frame.std() > 0
    pytest.importorskip("moviepy", reason="VecVideoRecorder needs moviepy")
    recorder = VecVideoRecorder(env, str(tmp_path), lambda step: step == 0, video_length=5)
    obs = recorder.reset()
    for _ in range(8):
        obs, *_ = recorder.step(model.predict(obs)[0])
    recorder.close()
    assert len(list(tmp_path.glob("*.mp4"))) == 1


def test_two_learning_rates_are_warned_about():
    config = TD3Config(hidden=[8], critic_learning_rate=1e-3, actor_learning_rate=1e-4)
    agent = TD3(config, Regularizer(), 3, 1, [0])
    with pytest.warns(UserWarning, match=r"critic's 0\.001 for the actor, not 0\.0001"):
        model = rlreg.sb3.td3_model(config, agent.state(), 0, make_single("Pendulum-v1"), TrainConfig())
    assert model.learning_rate == 1e-3


def test_a_seed_checkpoint_or_run_that_is_not_there_is_one_line(trained, tmp_path):
    with pytest.raises(UserError, match=r"seed=5: run_dir=.* holds 4, 9$"):
        rlreg.sb3.load(trained, seed=5)
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        rlreg.sb3.load(trained, seed=4, checkpoint=7)
    with pytest.raises(UserError, match="no run there"):
        rlreg.sb3.load(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_text((trained / "config.yaml").read_text())
    with pytest.raises(UserError, match="no checkpoint yet"):
        rlreg.sb3.load(tmp_path, seed=4)
    normalising = TD3(TD3Config(name="mine"), Regularizer(), 3, 1, [0], normalize=Normalizer(1, 3))
    with pytest.raises(UserError, match="agent=mine has no counterpart in Stable-Baselines3"):
        normalising.to_sb3(0, make_single("Pendulum-v1"), TrainConfig())


# ------------------------------------------------------------------ SB3's algorithms as our runs


def test_a_baseline_leaves_what_our_own_runs_leave(baseline, runs):
    rows, ours = rows_of(baseline), rows_of(runs["td3"])
    assert list(rows[0]) == list(ours[0])
    assert [(r["step"], r["seed"]) for r in rows] == [(r["step"], r["seed"]) for r in ours]
    assert all(-2000 < float(r["return"]) < 0 and float(r["length"]) == 200 for r in rows)
    summary, our_summary = (json.loads((folder / "summary.json").read_text()) for folder in (baseline, runs["td3"]))
    # Who computes the products of SB3's networks is not ours to choose.
    assert summary.keys() == our_summary.keys() - {"products"} and summary["seeds"] == [4, 9]
    assert summary["final"]["return"] == [float(r["return"]) for r in rows[-2:]]
    assert summary["return_last_ten"] == pytest.approx(
        [np.mean([float(r["return"]) for r in rows[i::2][1:]]) for i in (0, 1)]
    )

    events = EventAccumulator(str(baseline / "tensorboard")).Reload()
    assert {"eval/mean_reward", "train/critic_loss", "rollout/ep_rew_mean"} <= set(events.Tags()["scalars"])
    assert [p.step for p in events.Scalars("eval/mean_reward")] == [0, 200, 400]


def test_a_baseline_is_evaluated_from_its_checkpoint(baseline, capsys):
    run(settings("mode=evaluate", f"run_dir={baseline}", "eval.episodes=2"))
    printed = capsys.readouterr().out
    for row in rows_of(baseline)[-2:]:
        assert f"seed {row['seed']}: return {float(row['return']):.2f}" in printed


@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
def test_sac_and_ppo_train_as_baselines_too(algorithm, tmp_path):
    more = ["agent.settings.n_steps=64"] if algorithm == "ppo" else []
    folder = train_baseline(tmp_path / "run", algorithm, *more, "train.num_envs=2", seeds="1")
    returns = [float(row["return"]) for row in rows_of(folder)]
    assert len(returns) == 3 and all(-2000 < value < 0 for value in returns) and returns[-1] != returns[0]
    model = rlreg.sb3.load(folder)
    assert type(model).__name__ == algorithm.upper() and model.get_env().num_envs == 1
    evaluate_policy(model, model.get_env(), n_eval_episodes=1)


def test_q_error_of_sb3_s_critics_is_measured():
    agent = SB3(SB3Config(name="sb3/sac", algorithm="SAC"), Regularizer(), 3, 1, [0, 1])
    ppo = SB3(SB3Config(name="sb3/ppo", algorithm="PPO"), Regularizer(), 3, 1, [0, 1])
    obs = torch.randn(2, 5, 3)
    value = agent.q_value(obs, agent.act(obs))
    assert value.shape == (2, 5) and value.isfinite().all() and not torch.equal(value[0], value[1])
    assert ppo.q_value(obs, ppo.act(obs)).isnan().all()
    assert (ppo.act(100 * obs).abs() <= 1).all()


def test_a_killed_baseline_keeps_the_finished_seeds(baseline, tmp_path, monkeypatch):
    """The second seed dies half-way; going on gives the uninterrupted run. Then nothing is run again."""
    add_row = SB3Training.add_row

    def dies(self, i, step, values):
        add_row(self, i, step, values)
        if (i, step) == (1, 200):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SB3Training, "add_row", dies)
        train_baseline(tmp_path / "run", "td3")
    assert [(r["step"], r["seed"]) for r in rows_of(tmp_path / "run")] == [
        ("0", "4"), ("0", "9"), ("200", "4"), ("200", "9"), ("400", "4")
    ]  # fmt: skip
    trained_seeds = []
    train_seed = SB3Training._train
    monkeypatch.setattr(
        SB3Training,
        "_train",
        lambda self, i, stop: (trained_seeds.append(self.agent.seeds[i]), train_seed(self, i, stop)),
    )
    train_baseline(tmp_path / "run", "td3")
    assert trained_seeds == [9]
    assert (tmp_path / "run/eval.csv").read_text() == (baseline / "eval.csv").read_text()
    _, ours, _ = Checkpoints(tmp_path / "run/checkpoints").load()
    _, whole, _ = Checkpoints(baseline / "checkpoints").load()
    assert ours.keys() == whole.keys() and all(torch.equal(ours[name], whole[name]) for name in ours)
    train_baseline(tmp_path / "run", "td3")
    assert trained_seeds == [9]


def test_a_seed_s_result_does_not_depend_on_its_companions(baseline, tmp_path):
    alone = rows_of(train_baseline(tmp_path / "run", "td3", seeds="[9]"))
    assert alone == [row for row in rows_of(baseline) if row["seed"] == "9"]


def test_our_worlds_as_a_vector_environment_of_sb3():
    env = rlreg.sb3.VecWorlds(make("Pendulum-v1", [3], num_envs=2))
    assert env.num_envs == 2 and env.reset().shape == (2, 3)
    for step in range(1, 201):
        obs, reward, done, infos = env.step(np.zeros((2, 1), np.float32))
        assert obs.shape == (2, 3) and reward.shape == done.shape == (2,) and done.all() == (step == 200)
    for n, info in enumerate(infos):
        assert info["TimeLimit.truncated"] is True
        assert info["terminal_observation"].shape == (3,) and not np.array_equal(info["terminal_observation"], obs[n])
    env.close()


def test_baselines_refuse_what_they_cannot_do():
    with pytest.raises(UserError, match=r"regularizer=beer: agent=sb3/td3 is Stable-Baselines3's own"):
        SB3(SB3Config(name="sb3/td3", algorithm="TD3"), BEER(), 3, 1, [0])
    with pytest.raises(UserError, match=r"unknown agent\.algorithm 'TD4'; did you mean 'TD3'"):
        SB3Config(name="x", algorithm="TD4")
    with pytest.raises(
        UserError, match=r"'agent\.settings\.learning_rat'; did you mean 'agent\.settings\.learning_rate'"
    ):
        SB3Config(name="x", algorithm="SAC", settings={"learning_rat": 1e-3})
    with pytest.raises(UserError, match=r"agent\.settings: SB3's PPO refuses them \(.*n_steps"):
        SB3(SB3Config(name="x", algorithm="PPO", settings={"n_steps": 1}), Regularizer(), 3, 1, [0])
    with pytest.raises(UserError, match=r"agent\.discount=1\.5 is not valid"):
        SB3Config(**dataclasses.asdict(SB3Config(name="x", algorithm="SAC")) | {"discount": 1.5})


def test_an_export_fits_the_environment_that_gymnasium_makes(runs, monkeypatch, tmp_path):
    """Its bounds are that environment's, and what it does there is what the run's own policy does in ours."""
    settings_ = [*TINY, "env=gym/Pendulum-v1", "agent=ddpg", "train.total_steps=200", f"run_dir={tmp_path}/run"]
    assert main(monkeypatch, *settings_) == 0
    path = rlreg.sb3.export_zip(tmp_path / "run", 0)
    theirs, agent = gymnasium.make("Pendulum-v1"), load_agent(RunFolder(tmp_path / "run"))[0]
    model = stable_baselines3.DDPG.load(path, env=theirs)  # refused by SB3 where spaces differ
    assert model.action_space == theirs.action_space and model.observation_space == theirs.observation_space
    ours = make_single("Pendulum-v1")
    obs, same = theirs.reset(seed=1)[0], ours.reset(seed=1)[0]
    for _ in range(20):
        action = model.predict(obs, deterministic=True)[0]
        obs, reward, *_ = theirs.step(action)
        same, wanted, *_ = ours.step(agent.act(torch.from_numpy(same)[None, None])[0, 0].numpy())
        np.testing.assert_allclose(obs, same, rtol=1e-5, atol=1e-5)
        assert reward == pytest.approx(wanted, rel=1e-4)
    model.learn(120, reset_num_timesteps=False)
