"""Single environments as Gymnasium wants them, Gymnasium's tasks as we do, and the adapters between."""

from __future__ import annotations

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from conftest import ROOT
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs.dmc
import envs.gym
from envs.adapters import FromGymnasium, ToGymnasium
from envs.base import world_seed
from rlreg.errors import UserError


@pytest.mark.parametrize("task", ["cartpole-swingup", "lqr-lqr_2_1", "Hopper-v4", "Pendulum-v1", "CartPole-v1"])
def test_single_environments_pass_gymnasiums_checks(task: str) -> None:
    env = envs.gym.make_single(task, 0) if "-v" in task else envs.dmc.make_single(task, 0)
    check_env(env, skip_render_check=True)
    env.close()


@pytest.mark.parametrize("id", envs.gym.gym_ids())
def test_every_suggested_id_reproduces_gymnasium(id: str) -> None:
    if id.startswith("LunarLander"):
        pytest.importorskip("Box2D")
    ours, theirs = envs.gym.make(id, [4]), gymnasium.make(id)
    assert ours.discrete_actions is isinstance(theirs.action_space, gymnasium.spaces.Discrete)
    assert ours.max_episode_steps == theirs.spec.max_episode_steps
    obs, _ = theirs.reset(seed=4)
    np.testing.assert_array_equal(ours.reset()[0, 0].numpy(), obs.astype(np.float32))
    space, generator = theirs.action_space, np.random.default_rng(0)
    terminated = False
    for _ in range(10):
        if not terminated:
            if ours.discrete_actions:  # the place of the largest number is the action
                action = generator.uniform(-1, 1, ours.action_dim).astype(np.float32)
                scaled = int(action.argmax())
            else:
                action = generator.uniform(-1, 1, space.shape).astype(np.float32)
                scaled = (space.high + space.low) / 2 + (space.high - space.low) / 2 * action
            obs, reward, terminated, *_ = theirs.step(scaled)
            step = ours.step(torch.from_numpy(action))
            np.testing.assert_array_equal(step.final_obs[0, 0].numpy(), obs.astype(np.float32))
            assert step.reward.item() == np.float32(reward) and step.terminated.item() == terminated


WORLDS = """
import mujoco
import envs.gym
for backend in ("gymnasium", "mujoco"):
    envs.gym.make("HalfCheetah-v5", [0], backend=backend).reset()
from envs.notices import unsaid
for _ in range(2):
    with unsaid():
        mujoco.get_mju_user_warning()("what else there is to say")
assert mujoco.get_mju_user_warning() is None
"""


def test_models_of_others_are_loaded_in_silence(tmp_path) -> None:
    """MuJoCo would warn of an attribute in Gymnasium's own file, for each world, and leave MUJOCO_LOG.TXT."""
    command = [sys.executable, "-c", WORLDS]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == 2 * "WARNING: what else there is to say\n"
    assert not list(tmp_path.iterdir())


def test_actions_reach_gymnasiums_bounds() -> None:
    scale = envs.gym.ActionScale("Humanoid-v5", gymnasium.make("Humanoid-v5").action_space)
    for action, wanted in ((1, 0.4), (-1, -0.4), (0.5, 0.2), (3, 0.4)):
        np.testing.assert_array_equal(scale(np.full(17, action, np.float32)), np.full(17, wanted, np.float32))


def test_discrete_spaces_begin_where_the_task_has_them() -> None:
    """Taxi's observation is a cell's number, one-hot for us; a space that begins at 1 is told its own numbers."""
    ours, theirs = envs.gym.make_single("Taxi-v4", 3), gymnasium.make("Taxi-v4")
    obs, _ = theirs.reset(seed=3)
    assert ours.reset()[0].argmax() == obs and ours.observation_space.shape == (theirs.observation_space.n,)
    for action in (0, 4, np.int64(2), np.eye(6, dtype=np.float32)[1]):
        seen, reward, *_ = ours.step(action)
        number = int(np.argmax(action)) if np.ndim(action) else int(action)
        expected, their_reward, *_ = theirs.step(number)
        assert seen.argmax() == expected and seen.sum() == 1 and reward == their_reward
    choice = envs.gym.Choice(gymnasium.spaces.Discrete(3, start=5))
    assert [int(choice(a)) for a in (0, 2, np.array([0.1, 0.9, 0.3]))] == [5, 7, 6]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: envs.dmc.make("humanoid-fly", [0]), "unknown task 'humanoid-fly'; did you mean 'humanoid-"),
        (lambda: envs.dmc.make("cheetah-run", [0], action_repeat=0), "action_repeat=0"),
        (
            lambda: envs.gym.make("Hoper-v4", [0]),
            "unknown Gymnasium id 'Hoper-v4'; did you mean 'Hopper-v4'?",
        ),
        (lambda: envs.gym.make("Hopper-v9", [0]), "unknown Gymnasium id 'Hopper-v9'; did you mean 'Hopper-v"),
        (
            lambda: envs.gym.make("Hopper-v2", [0]),
            "cannot make 'Hopper-v2': .*(moved to the gymnasium-robotics|mujoco_py)",  # with that package installed
        ),
        (lambda: envs.gym.make("no_such_package:Hopper-v4", [0]), "No module named 'no_such_package'"),
        (lambda: envs.gym.make("Hopper-v4", [0], frame_skips=3), "unexpected keyword argument 'frame_skips'"),
        (lambda: envs.gym.make("Blackjack-v1", [0]), r"'Blackjack-v1' has observations Tuple\(.*Dict or Discrete will"),
        (lambda: envs.gym.make("CliffWalking-v1", [0]), "'CliffWalking-v1' has no time limit; give one"),
    ],
)
def test_mistakes_end_in_one_line(make, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_our_worlds_are_gymnasiums_step_for_step_as_a_vector_environment() -> None:
    """Through `ToGymnasium` we look like Gymnasium's own vector environment of the same worlds."""
    kwargs = {"max_episode_steps": 6}
    ours = ToGymnasium(envs.gym.make("Hopper-v4", [0, 1], 2, **kwargs))
    streams = [world_seed(seed, world) for seed in (0, 1) for world in (0, 1)]
    theirs = gym_vector("Hopper-v4", len(streams), **kwargs)
    assert ours.num_envs == 4 and ours.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    obs, _ = ours.reset()
    np.testing.assert_array_equal(obs, theirs.reset(seed=streams)[0].astype(np.float32))
    ours.action_space.seed(0)
    for _ in range(14):
        action = ours.action_space.sample()
        *mine, info = ours.step(action)
        *yours, expected = theirs.step(action)
        for a, b in zip(mine, yours, strict=True):
            np.testing.assert_array_equal(a, b.astype(a.dtype))
        assert ("final_obs" in info) == ("final_obs" in expected)
        if "final_obs" in info:
            np.testing.assert_array_equal(info["_final_obs"], expected["_final_obs"])
            for row in np.flatnonzero(info["_final_obs"]):
                np.testing.assert_array_equal(
                    info["final_obs"][row], expected["final_obs"][row].astype(np.float32)
                )
    np.testing.assert_array_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0].astype(np.float32))
    ours.close()


def gym_vector(id: str, num: int, mode: AutoresetMode = AutoresetMode.SAME_STEP, **kwargs) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: gymnasium.make(id, **kwargs)] * num, autoreset_mode=mode)


@pytest.mark.parametrize("id", ["Pendulum-v1", "Humanoid-v4"])
def test_from_gymnasium_equals_our_worlds(id: str) -> None:
    """Any Gymnasium vector environment becomes ours: the same tensors as worlds that we built of its task."""
    kwargs = {"max_episode_steps": 6}
    ours = envs.gym.make(id, [0, 1], 2, **kwargs)
    theirs = FromGymnasium(gym_vector(id, 4, **kwargs), [0, 1], 2, max_episode_steps=6)
    assert (ours.obs_dim, ours.action_dim) == (theirs.obs_dim, theirs.action_dim)
    assert torch.equal(ours.reset(), theirs.reset())
    generator = torch.Generator().manual_seed(0)
    for _ in range(14):
        action = torch.rand(2, 2, ours.action_dim, generator=generator) * 2 - 1
        for a, b in zip(ours.step(action), theirs.step(action), strict=True):
            assert torch.equal(a, b) and a.dtype == b.dtype
    with pytest.raises(UserError, match="cannot be saved"):
        theirs.state_dict()


def test_from_gymnasium_refuses_what_would_train_wrongly() -> None:
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
        with pytest.raises(UserError, match=r"make it with AutoresetMode\.SAME_STEP"):
            FromGymnasium(gym_vector("Pendulum-v1", 2, mode), [0], 2, 200)
    with pytest.raises(UserError, match="2 environments for 1 seeds of 3 worlds"):
        FromGymnasium(gym_vector("Pendulum-v1", 2), [0], 3, 200)
    with pytest.raises(UserError, match="Discrete"):
        FromGymnasium(gym_vector("CartPole-v1", 2), [0], 2, 500)


def test_from_gymnasium_cuts_the_world_that_is_not_finite() -> None:
    env = FromGymnasium(gym_vector("Pendulum-v1", 2), [0], 2, 200)
    env.reset()
    action = torch.zeros(1, 2, 1)
    env.step(action)
    action[0, 1] = torch.nan
    step = env.step(action)
    assert step.bad.tolist() == step.truncated.tolist() == [[False, True]]
    assert torch.isfinite(step.obs).all() and torch.isfinite(step.final_obs).all() and step.reward[0, 1] == 0
    assert env.problems() == ["seed 0, world 1: reward is nan at episode step 2"] and env.problems() == []
    assert not env.step(torch.zeros(1, 2, 1)).bad.any()
