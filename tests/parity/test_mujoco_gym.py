"""Gymnasium's MuJoCo tasks in batched tensor operations against Gymnasium itself, without resynchronising."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from two_samples import assert_same_distribution

import envs.d4rl
import envs.gym
from envs.base import Step
from envs.batched import BatchedEnv
from envs.d4rl import names
from envs.gym import ActionScale
from envs.gym_vector import GymVectorEnv
from envs.mujoco_gym import TASKS, make_task
from envs.mujoco_gym.settings import IDS, settings
from envs.physics.batched_task import BatchedTask
from envs.physics.mujoco_batch import MujocoBatch
from envs.streams import EpisodeStreams
from rlreg.errors import UserError

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
CHANGED: dict[str, dict[str, Any]] = {
    "Ant-v4": {"use_contact_forces": True, "healthy_z_range": (0.3, 0.9), "contact_force_range": (-0.5, 2.0)},
    "Ant-v5": {"include_cfrc_ext_in_observation": False, "forward_reward_weight": 2.0, "main_body": "front_left_leg"},
    "HalfCheetah-v5": {"frame_skip": 3, "ctrl_cost_weight": 0.3, "exclude_current_positions_from_observation": False},
    "Hopper-v4": {"terminate_when_unhealthy": False, "healthy_reward": 2.0},
    "Hopper-v5": {"terminate_when_unhealthy": False, "healthy_state_range": (-3.0, 3.0)},
    "Humanoid-v4": {"terminate_when_unhealthy": False},
    "Humanoid-v5": {"include_cinert_in_observation": False, "contact_cost_weight": 1e-4, "healthy_z_range": (1.2, 2.0)},
    "HumanoidStandup-v5": {"include_cvel_in_observation": False, "impact_cost_range": (0.0, 0.001)},
    "InvertedDoublePendulum-v5": {"healthy_reward": 3.0},
    "Pusher-v5": {"reward_near_weight": 2.0},
    "Reacher-v5": {"reward_dist_weight": 3.0},
    "Swimmer-v4": {"exclude_current_positions_from_observation": False},
    "Walker2d-v5": {"healthy_angle_range": (-0.5, 0.5), "reset_noise_scale": 0.05},
}
"""Settings other than Gymnasium's own, and so that they matter."""
CASES = [(id, {}) for id in TASKS] + list(CHANGED.items())


def make_reference(id: str, given: dict[str, Any], seed: int) -> gymnasium.Env:
    env = gymnasium.make(id, disable_env_checker=True, **given)
    env.reset(seed=seed)
    return env


def our_copy(id: str, given: dict[str, Any], theirs: gymnasium.Env) -> BatchedTask:
    """One world of ours, put into Gymnasium's present state, which is the beginning of an episode."""
    task = make_task(id, **given)
    physics = MujocoBatch(task.model, 1, task.substeps, legacy_step=False, contact_forces=task.contact_forces)
    task.bind(physics)

    def put(mask: torch.Tensor, random: EpisodeStreams) -> None:
        model, data = theirs.unwrapped.model, theirs.unwrapped.data
        mujoco.mj_getState(model, data, physics._batch.state[0], STATE)

    task.initialize_episode = put
    task.begin_episode(torch.ones(1, dtype=torch.bool), EpisodeStreams([0], 1))
    return task


def assert_same_observation(task: BatchedTask, theirs: np.ndarray) -> None:
    """To one unit in float32's last place."""
    ours = torch.cat([part.reshape(1, -1) for part in task.get_observation().values()], dim=1).float()[0].numpy()
    wanted = theirs.astype(np.float32)
    assert ours.shape == wanted.shape
    np.testing.assert_array_less(np.abs(ours - wanted), np.spacing(np.abs(wanted)) * 1.5)


@pytest.mark.parametrize(("id", "given"), CASES, ids=[f"{id}{'-changed' if given else ''}" for id, given in CASES])
def test_episodes_equal_gymnasiums(id: str, given: dict[str, Any]) -> None:
    """States to the bit, observations to one unit in float32's last place, rewards to 1e-12, the end included."""
    theirs = make_reference(id, given, seed=3)
    rng, scale = np.random.default_rng(0), ActionScale(id, theirs.action_space)
    left, ends = (250 if given else 1000), 0
    while left > 0:
        first, _ = theirs.reset()
        task = our_copy(id, given, theirs)
        physics, data = task.physics, theirs.unwrapped.data
        assert task.max_episode_steps == theirs.spec.max_episode_steps
        np.testing.assert_array_equal(task.action_bounds, [theirs.action_space.low, theirs.action_space.high])
        assert_same_observation(task, first)
        ended, t = False, 0
        while not ended and left > 0:
            action = rng.uniform(-1, 1, theirs.action_space.shape).astype(np.float32)
            scaled = scale(action)
            obs, reward, terminated, truncated, _ = theirs.step(scaled.astype(np.float64))
            low, high = task.action_bounds
            task.before_step(torch.from_numpy((high + low) / 2 + (high - low) / 2 * action)[None])
            physics.control_step()
            t, left = t + 1, left - 1
            np.testing.assert_array_equal(physics.ctrl[0].numpy(), scaled)
            np.testing.assert_array_equal(physics.qpos[0].numpy(), data.qpos)
            np.testing.assert_array_equal(physics.qvel[0].numpy(), data.qvel)
            assert_same_observation(task, obs)
            assert abs(task.get_reward().item() - reward) <= 1e-12 * max(1.0, abs(reward))
            ours = task.get_termination()
            assert (ours is not None and bool(ours)) == terminated
            assert truncated == (t == task.max_episode_steps)
            ended = terminated or truncated
            ends += terminated
    falls = id.startswith(("Hopper", "Walker2d", "Inverted", "Humanoid-")) or (id == "Ant-v4" and bool(given))
    assert ends >= (falls and given.get("terminate_when_unhealthy", True))


@pytest.mark.parametrize("id", [id for id in TASKS if id.endswith("v5")])
def test_episodes_begin_as_gymnasiums(id: str) -> None:
    """Every coordinate of the state by a two-sample test."""
    task, worlds = make_task(id), 800
    physics = MujocoBatch(task.model, worlds, task.substeps, legacy_step=False, contact_forces=task.contact_forces)
    task.bind(physics)
    random = EpisodeStreams([0], worlds)
    random.episode.zero_()
    task.begin_episode(torch.ones(worlds, dtype=torch.bool), random)
    ours = torch.cat([physics.qpos, physics.qvel], dim=1).numpy()
    theirs, rows = gymnasium.make(id).unwrapped, []
    for seed in range(400):
        theirs.reset(seed=seed if seed == 0 else None)
        rows.append(np.concatenate([theirs.data.qpos, theirs.data.qvel]))
    assert_same_distribution(ours, np.stack(rows))


def test_every_setting_of_gymnasiums_is_known() -> None:
    assert set(settings("Hopper-v4")) == set(settings("Hopper-v5")) - {"frame_skip"}
    assert settings("Ant-v5")["main_body"] == 1 and "use_contact_forces" in settings("Ant-v4")
    assert settings("Reacher-v4") == {}
    assert set(IDS) == set(TASKS) == set(envs.gym.gym_ids()) - set(envs.gym.OTHERS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ctrl_cost_weight": "much"}, "env.settings.ctrl_cost_weight=much is not valid; give a number"),
        ({"healthy_z_range": [2.0, 1.0]}, r"env.settings.healthy_z_range=\[2.0, 1.0\] is not valid; give two numbers"),
        ({"terminate_when_unhealthy": 1}, "env.settings.terminate_when_unhealthy=1 is not valid; give true or false"),
        ({"frame_skip": 0}, "env.settings.frame_skip=0 is not valid; give a whole number >= 1"),
        ({"main_body": "nose"}, "env.settings.main_body=nose is not valid: .*torso"),
    ],
)
def test_mistaken_settings_are_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        envs.gym.make("Ant-v5" if "main_body" in given else "Hopper-v5", [0], 8, settings=given)


@pytest.mark.parametrize("id", ["Ant-v5", "Hopper-v4", "Humanoid-v5", "Reacher-v4"])
def test_batched_worlds_equal_gymnasiums_own_across_episodes(id: str) -> None:
    """What auto chooses between: from the same states, the same steps, ends, final observations and returns."""
    worlds, given = 3, {"reset_noise_scale": 0.0} if "Reacher" not in id else {}
    ours = envs.gym.make(id, [0], worlds, backend="mujoco", max_episode_steps=30, settings=given)
    theirs = envs.gym.make(id, [0], worlds, backend="gymnasium", max_episode_steps=30, settings=given)
    assert isinstance(ours, BatchedEnv) and isinstance(theirs, GymVectorEnv)
    if "Reacher" in id:  # whose targets are drawn
        assert ours.reset().shape == theirs.reset().shape
        return
    torch.testing.assert_close(ours.reset(), theirs.reset(), rtol=1e-6, atol=1e-6)
    generator = torch.Generator().manual_seed(0)
    for _ in range(70):
        action = torch.rand(1, worlds, ours.action_dim, generator=generator) * 2 - 1
        one_step, other_step = ours.step(action), theirs.step(action)
        # Gymnasium also calls the last step truncated that the task has ended.
        other_step = other_step._replace(truncated=other_step.truncated & ~other_step.terminated)
        for name, one, other in zip(Step._fields, one_step, other_step, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_saved_in_the_middle_of_an_episode_the_rest_is_equal_to_the_bit() -> None:
    """Readings that lag behind the state, which reading again would not restore."""
    for id in ("Ant-v5", "Humanoid-v4", "Reacher-v4"):
        env, other = (envs.gym.make(id, [1], 2, backend="mujoco", max_episode_steps=20) for _ in range(2))
        env.reset()
        generator = torch.Generator().manual_seed(0)
        actions = torch.rand(24, 1, 2, env.action_dim, generator=generator) * 2 - 1
        for action in actions[:8]:
            obs = env.step(action).obs
        other.reset()
        assert other.load_state_dict(env.state_dict()).equal(obs)
        for action in actions[8:]:
            assert all(one.equal(two) for one, two in zip(env.step(action), other.step(action), strict=True))


@pytest.mark.parametrize("task", ["hopper", "halfcheetah", "walker2d", "ant"])
def test_returns_on_d4rls_tasks_are_those_of_its_simulators(task: str) -> None:
    """A deterministic policy's whole episodes, begun in the same state, batched and by Gymnasium: the same score."""
    id = f"{task}-medium-v2"
    single = envs.d4rl.make_single(id, seed=2)
    batched = envs.d4rl.make(id, [0], 2, backend="mujoco")
    assert isinstance(batched, BatchedEnv) and batched.obs_dim == single.observation_space.shape[0]
    first, _ = single.reset()
    everyone = torch.ones(2, dtype=torch.bool)
    model, data = single.unwrapped.model, single.unwrapped.data

    def put(mask: torch.Tensor, random: EpisodeStreams) -> None:
        for row in batched.physics._batch.state:
            mujoco.mj_getState(model, data, row, STATE)

    original, batched.task.initialize_episode = batched.task.initialize_episode, put
    obs = batched.reset()
    batched.task.initialize_episode = original  # for the episodes after these
    np.testing.assert_allclose(obs[0, 1].numpy(), first, rtol=1e-6)
    weights = torch.randn(batched.obs_dim, batched.action_dim, generator=torch.Generator().manual_seed(1)) * 0.1

    def policy(obs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(obs.clamp(-5, 5) @ weights)

    returns, steps, over = torch.zeros(2, dtype=torch.float64), 0, False
    theirs, ended = 0.0, False
    seen = torch.from_numpy(first)
    while not ended and steps < 400:
        step = batched.step(policy(obs))
        seen, reward, terminated, truncated, _ = single.step(policy(seen.float()).numpy())
        theirs, ended = theirs + reward, terminated or truncated
        returns, over = returns + step.reward[0], bool(step.terminated.any() or step.truncated.any())
        assert over == ended
        obs, seen, steps = step.obs, torch.from_numpy(seen), steps + 1
    assert everyone.sum() == 2 and steps > 5
    score = names.normalised_score(id, theirs)
    np.testing.assert_allclose([names.normalised_score(id, value) for value in returns.tolist()], score, atol=1e-4)
