"""Our dm_control worlds against dm_control itself: the same seed and actions give the same trajectory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dm_control import suite

import envs.dmc


def reference(task: str, seed: int):
    domain, _, name = task.partition("-")
    env = suite.load(domain, name, task_kwargs={"random": seed})
    env.physics._make_rendering_contexts = lambda: None  # for quadruped-escape, without OpenGL
    return env


def flat(time_step) -> np.ndarray:
    """dm_control's observation dict in its own order, as float32."""
    return np.concatenate([np.ravel(part) for part in time_step.observation.values()]).astype(np.float32)


@pytest.mark.parametrize("task", envs.dmc.task_names())
def test_every_task_reproduces_dm_control(task: str) -> None:
    env, theirs = envs.dmc.make_single(task, seed=3), reference(task, 3)
    spec, limit = theirs.action_spec(), theirs._step_limit
    assert np.isinf(limit) if task.startswith("lqr") else np.ceil(limit) == env.max_episode_steps == 1000
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs, flat(theirs.reset()))
    assert obs.dtype == np.float32 and np.isfinite(obs).all() and obs.shape == env.observation_space.shape

    rng = np.random.default_rng(0)
    for _ in range(20):
        action = rng.uniform(-1, 1, spec.shape).astype(np.float32)
        mapped = (spec.maximum + spec.minimum) / 2 + (spec.maximum - spec.minimum) / 2 * action
        time_step = theirs.step(mapped)
        obs, reward, terminated, truncated, _ = env.step(action)
        np.testing.assert_array_equal(obs, flat(time_step))
        assert reward == time_step.reward  # both float64
        assert not terminated and not truncated


@pytest.mark.parametrize("task", ["cartpole-swingup", "finger-turn_hard"])
def test_two_whole_episodes_through_the_vector_interface(task: str) -> None:
    """Seed k's training world 0 is dm_control with random=k, through a time limit and a second episode."""
    env, theirs = envs.dmc.make(task, seeds=[7]), reference(task, 7)
    generator = torch.Generator().manual_seed(0)
    np.testing.assert_array_equal(env.reset()[0, 0].numpy(), flat(theirs.reset()))
    for t in range(1, 1201):
        action = torch.rand(1, 1, env.action_dim, generator=generator) * 2 - 1
        time_step = theirs.step(action[0, 0].numpy())
        step = env.step(action)
        np.testing.assert_array_equal(step.final_obs[0, 0].numpy(), flat(time_step))
        assert step.reward.item() == np.float32(time_step.reward)
        assert step.truncated.item() == time_step.last() == (t == 1000)
        assert not step.terminated.item()
        if time_step.last():
            assert time_step.discount == 1.0
            time_step = theirs.reset()
        np.testing.assert_array_equal(step.obs[0, 0].numpy(), flat(time_step))


def test_actions_span_the_action_spec() -> None:
    """Quadruped's actuators are not bounded by -1 and 1: our bounds and middle are theirs."""
    env, theirs = envs.dmc.make_single("quadruped-walk", seed=0), reference("quadruped-walk", 0)
    spec = theirs.action_spec()
    assert not ((spec.minimum == -1) & (spec.maximum == 1)).all()
    env.reset()
    for ours, wanted in ((-1, spec.minimum), (1, spec.maximum), (0, (spec.minimum + spec.maximum) / 2)):
        env.step(np.full(spec.shape, ours, np.float32))
        np.testing.assert_allclose(env._env.physics.data.ctrl, wanted, atol=1e-15)


def test_actions_that_need_no_scaling_arrive_to_the_bit() -> None:
    """Where the spec is [-1, 1], even an action too small to survive `(a + 1) / 2` arrives unchanged."""
    env = envs.dmc.make_single("cartpole-balance", seed=0)
    env.reset()
    env.step(np.full(1, 1e-30, np.float32))
    assert env._env.physics.data.ctrl[0] == np.float32(1e-30)


def test_action_repeat_sums_rewards_and_shortens_the_episode() -> None:
    env = envs.dmc.make_single("cartpole-balance", seed=0, action_repeat=3)
    theirs = reference("cartpole-balance", 0)
    env.reset(), theirs.reset()
    action = np.full(1, 0.3, np.float32)
    for steps in range(1, env.max_episode_steps + 1):
        _, reward, _, truncated, _ = env.step(action)
        expected = [theirs.step(action) for _ in range(3 if steps < 334 else 1)]
        assert reward == sum(step.reward for step in expected)
        assert truncated == expected[-1].last() == (steps == 334)
