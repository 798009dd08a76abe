"""Gymnasium's MuJoCo tasks in batched tensor operations against Gymnasium itself, without resynchronising."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from two_samples import assert_same_distribution

from envs.gym import ActionScale
from envs.mujoco_gym import TASKS, make_task
from envs.mujoco_gym.settings import settings
from envs.physics.mujoco_batch import MujocoBatch
from envs.physics.task import Task
from envs.streams import EpisodeStreams

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


def our_copy(id: str, given: dict[str, Any], theirs: gymnasium.Env) -> Task:
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


def assert_same_observation(task: Task, theirs: np.ndarray) -> None:
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
