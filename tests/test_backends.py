"""`env.backend`: what is chosen, what is refused in one line, and runs with batched worlds."""

from __future__ import annotations

import signal

import pytest
import torch
from conftest import TINY
from test_runner import kill_after, start

import envs.dmc
from envs import backends
from envs.batched import BatchedEnv
from envs.gym_vector import GymVectorEnv
from rlreg.errors import UserError


def test_auto_batches_from_a_few_worlds_a_seed_on_whatever_the_seeds(monkeypatch) -> None:
    assert backends.choose("auto", "dm_control", True, 1, "cpu") == "dm_control"
    assert backends.choose("auto", "dm_control", True, 10, "cpu") == "mujoco"
    assert backends.choose("auto", "dm_control", False, 10, "cpu") == "dm_control"
    monkeypatch.setattr(backends, "find_spec", lambda name: object())
    assert backends.choose("auto", "dm_control", True, 4096, "cpu") == "mujoco"
    assert backends.choose("auto", "dm_control", True, 4096, "cuda:0") == "warp"
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert backends.choose("auto", "dm_control", True, 4096, "cuda:0") == "mujoco"
    assert isinstance(envs.dmc.make("cartpole-balance", range(10)), GymVectorEnv)
    assert isinstance(envs.dmc.make("cartpole-balance", [0], 10), BatchedEnv)
    assert isinstance(envs.dmc.make("cartpole-balance", [0], 1, backend="mujoco"), BatchedEnv)
    assert isinstance(envs.dmc.make("cartpole-balance", [0], 10, backend="dm_control"), GymVectorEnv)


def test_a_backend_that_a_task_has_not_is_one_line_with_those_it_has(monkeypatch) -> None:
    with pytest.raises(UserError, match=r"env.backend=mujco is not valid; give auto, mujoco, warp or dm_control"):
        envs.dmc.make("cartpole-balance", [0], backend="mujco")
    with pytest.raises(UserError, match=r"env.backend=mujoco: this task has no batched .* give auto or gymnasium"):
        backends.choose("mujoco", "gymnasium", False, 1, "cpu")
    with pytest.raises(UserError, match=r"num_envs=10000000000: .* GiB, and .* GiB are free; give at most"):
        envs.dmc.make("humanoid-run", [0], 10**10)
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"env.backend=warp needs mujoco-warp; .* pip install 'rlreg\[warp\]'"):
        envs.dmc.make("cartpole-balance", [0], 64, backend="warp")


def test_evaluation_worlds_differ_from_training_worlds_and_seeds_from_each_other() -> None:
    train = envs.dmc.make("cheetah-run", [0, 1], 4)
    evaluation = envs.dmc.make("cheetah-run", [0], 4, backends.Purpose.EVALUATE)
    obs = torch.cat([train.reset().flatten(0, 1), evaluation.reset().flatten(0, 1)])
    assert len(obs.unique(dim=0)) == 12


def test_a_run_in_batched_worlds_says_so_and_resumes_to_the_same_curve(runner, tmp_path) -> None:
    settings = [*TINY, "agent=td3", "env=dmc/reacher-easy", "seeds=2", "train.num_envs=4", "eval.episodes=4"]
    settings += ["train.log_every=40", "env.action_repeat=20"]
    whole = runner(*settings, f"run_dir={tmp_path}/whole")
    assert whole.returncode == 0, whole.stderr
    assert "whole (worlds stepped by mujoco, evaluation by mujoco)" in whole.stdout
    process = start(runner, *settings, f"run_dir={tmp_path}/half")
    kill_after(process, tmp_path / "half", 100, signal.SIGTERM)
    resumed = runner(*settings, f"run_dir={tmp_path}/half")
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "half/eval.csv").read_text() == (tmp_path / "whole/eval.csv").read_text()
    other = runner(*settings, f"run_dir={tmp_path}/half", "env.backend=dm_control")
    assert other.returncode == 2 and "holds a run with env.backend=" in other.stderr


def test_an_unknown_backend_leaves_no_folder(runner, tmp_path) -> None:
    wrong = runner(*TINY, "agent=td3", "env=dmc/reacher-easy", "env.backend=mujco")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "env.backend=mujco is not valid" in wrong.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["hopper-medium-v2", "halfcheetah-random-v2", "walker2d-medium-v2", "ant-medium-v2"])
def test_d4rls_batched_tasks_are_those_it_is_evaluated_in_today(name: str) -> None:
    """From the same state the same observations, rewards and ends, to float32's last place."""
    import envs.d4rl

    env, single = envs.d4rl.make(name, [0], 4, backend="mujoco"), envs.d4rl.make_single(name, 1)
    assert isinstance(env, BatchedEnv) and env.max_episode_steps == 1000
    theirs, _ = single.reset()
    env.reset()
    data = single.unwrapped.data
    env.physics.qpos[2], env.physics.qvel[2] = torch.from_numpy(data.qpos), torch.from_numpy(data.qvel)
    env.physics.forward(env._all, actuation=True)
    generator = torch.Generator().manual_seed(0)
    for t in range(15):
        action = torch.rand(1, 4, env.action_dim, generator=generator) * 2 - 1
        step = env.step(action)
        theirs, reward, terminated, _, _ = single.step(action[0, 2].numpy())
        torch.testing.assert_close(step.final_obs[0, 2], torch.from_numpy(theirs), rtol=2e-7, atol=1e-7)
        assert bool(step.terminated[0, 2]) == terminated
        if t > 0:  # ant remembers where it was before, which was not written with its state
            assert step.reward[0, 2].item() == pytest.approx(reward, rel=2e-6)
        if terminated:
            break


def test_settings_of_gymnasiums_tasks_count_in_both_backends(runner, tmp_path) -> None:
    import envs.gym

    settings = {"ctrl_cost_weight": 0.0, "terminate_when_unhealthy": None}
    for backend, num in (("gymnasium", 1), ("mujoco", 1)):
        env = envs.gym.make("HalfCheetah-v5", [0], num, backend=backend, settings={"ctrl_cost_weight": 1000.0})
        env.reset()
        assert env.step(torch.ones(1, 1, 6)).reward.item() < -5000
    assert envs.gym.make("Hopper-v5", [0], 4, settings=settings, max_episode_steps=7).max_episode_steps == 7
    wrong = runner(*TINY, "agent=td3", "env=gym/Hopper-v5", "env.settings.ctrl_cost_wait=1")
    assert wrong.returncode == 2 and "did you mean 'env.settings.ctrl_cost_weight'" in wrong.stderr
    for kwargs in ({"frame_skips": 3}, {"settings": {"frame_skips": 3}}):
        with pytest.raises(UserError, match="frame_skips"):
            envs.gym.make("Hopper-v5", [0], 4, **kwargs)
