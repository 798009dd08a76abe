"""`BatchedEnv`: worlds that do not depend on each other, saved in the middle of an episode, cut where they diverge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dm_control import suite
from torch import Tensor

from envs import mujoco_gym
from envs.batched import BatchedEnv
from envs.dmc.suite import make_task
from envs.physics.mujoco_batch import MujocoBatch
from rlreg.purpose import Purpose

TASKS = ("cartpole-swingup", "cheetah-run", "humanoid-walk", "reacher-hard", "Hopper-v4", "Ant-v5")
DRAWN_MODELS = ("lqr-lqr_6_2", "manipulator-insert_peg", "point_mass-hard", "quadruped-escape", "finger-turn_easy")
"""Whose worlds have models of their own."""


def make(name: str, seeds=(0,), num_envs: int = 1, threads: int = 1, **kwargs) -> BatchedEnv:
    task = mujoco_gym.make_task(name) if "-v" in name else make_task(name)
    given = task.substeps, task.model_fields, task.legacy_step, task.contact_forces, threads
    physics = MujocoBatch(task.model, len(seeds) * num_envs, *given)
    return BatchedEnv(task, physics, seeds, num_envs, **kwargs)


def actions(env: BatchedEnv, steps: int) -> Tensor:
    """(T, S, N, A): the same for a world whatever the others."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.rand(steps, 8, 64, env.action_dim, generator=generator) * 2 - 1
    return whole[:, : len(env.seeds), : env.num_envs]


def rollout(env: BatchedEnv, given: Tensor) -> list[Tensor]:
    """The five tensors of a `Step`, stacked over time."""
    steps = [env.step(action) for action in given]
    return [torch.stack(values) for values in zip(*steps, strict=True)]


def equal(ours, theirs) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("name", TASKS)
def test_world_3_alone_equals_world_3_among_64(name: str) -> None:
    """Through the end of an episode and the beginning of the next, for any number of threads."""
    many = make(name, (5,), 64, threads=2)
    one = make(name, (5,), 4)
    many.task.max_episode_steps = one.task.max_episode_steps = 12
    given = actions(many, 20)
    equal([one.reset()[:, 3]], [many.reset()[:, 3]])
    equal([x[:, :, 3] for x in rollout(one, given[:, :, :4])], [x[:, :, 3] for x in rollout(many, given)])


@pytest.mark.parametrize("name", [*TASKS, *DRAWN_MODELS])
def test_restored_in_the_middle_of_an_episode_the_rest_is_equal(name: str) -> None:
    seeds, worlds, cut = ((0, 3), 3, 25) if "escape" not in name else ((0, 3), 1, 7)  # slow: it looks around
    env, fresh = make(name, seeds, worlds), make(name, seeds, worlds)
    env.task.max_episode_steps = fresh.task.max_episode_steps = cut
    env.reset()
    given = actions(env, 2 * cut)
    rollout(env, given[: cut + 5])
    state = env.state_dict()
    rest = rollout(env, given[cut + 5 :])
    obs = fresh.load_state_dict(state)
    equal(rollout(fresh, given[cut + 5 :]), rest)
    equal([obs], [env.load_state_dict(state)])


def test_lqrs_springs_are_those_of_the_seed_in_dm_control() -> None:
    """Of every world of a seed, for training and evaluation alike."""
    env = make("lqr-lqr_6_2", (3, 7), 2)
    for seed, worlds in zip((3, 7), env.physics.field("jnt_stiffness").view(2, 2, 6), strict=True):
        theirs = suite.load("lqr", "lqr_6_2", task_kwargs={"random": seed}).physics.model.jnt_stiffness
        for world in worlds:
            np.testing.assert_array_equal(world.numpy(), theirs)


@pytest.mark.parametrize("repeat", [1, 3])
def test_episodes_are_cut_by_the_clock_and_begin_anew(repeat: int) -> None:
    env = make("reacher-easy", (0,), 2, action_repeat=repeat)
    assert env.max_episode_steps == -(-1000 // repeat)
    first = env.reset()
    for t in range(1, env.max_episode_steps + 1):
        step = env.step(torch.zeros(1, 2, 2))
        assert not step.terminated.any()
        assert step.truncated.all() == step.truncated.any() == (t == env.max_episode_steps)
        if t < env.max_episode_steps:
            equal([step.obs], [step.final_obs])
    assert (step.obs != step.final_obs).any(dim=-1).all()
    assert (step.obs != first).any(dim=-1).all()


def test_action_repeat_sums_rewards() -> None:
    plain, repeated = make("cartpole-balance"), make("cartpole-balance", action_repeat=4)
    equal([plain.reset()], [repeated.reset()])
    given = actions(plain, 5)
    _, reward, *_ = rollout(plain, given.repeat_interleave(4, dim=0))
    obs, sums, *_ = rollout(repeated, given)
    torch.testing.assert_close(sums, reward.view(5, 4, 1, 1).sum(dim=1))
    equal([obs[-1]], [plain._shaped(plain._obs)])


def test_spread_worlds_end_one_after_the_other() -> None:
    env = make("cartpole-balance", (0, 1), 4, spread=True)
    env.task.max_episode_steps = 8
    env._head_start.copy_(torch.arange(4).repeat(2) * 2)
    env.reset()
    *_, truncated, _, _ = rollout(env, actions(env, 16))
    np.testing.assert_array_equal(truncated[:, 0].nonzero()[:, 0] + 1, [2, 4, 6, 8, 10, 12, 14, 16])
    equal([truncated[:, 0]], [truncated[:, 1]])


def test_evaluation_worlds_are_never_spread() -> None:
    env = make("cartpole-balance", (0,), 4, spread=True, purpose=Purpose.EVALUATE)
    env.reset()
    assert env._clock.tolist() == [0, 0, 0, 0]


def test_a_diverged_world_is_cut_and_counted_and_the_others_do_not_notice() -> None:
    env, calm = make("cheetah-run", (0, 1), 3), make("cheetah-run", (0, 1), 3)
    given = actions(env, 6)
    env.reset(), calm.reset()
    rollout(env, given[:2]), rollout(calm, given[:2])
    before = env._obs[4].clone()
    env.physics.qvel[4] = float("nan")
    step, undisturbed = env.step(given[2]), calm.step(given[2])
    assert step.truncated.flatten().tolist() == step.bad.flatten().tolist() == [False] * 4 + [True, False]
    assert step.reward[1, 1] == 0 and not step.terminated.any()
    equal([step.final_obs[1, 1]], [before])
    assert env.bad_states.tolist() == [0, 1]
    assert all(torch.isfinite(x).all() for x in rollout(env, given[3:]))
    rest = [0, 1, 2, 3, 5]
    equal([x.flatten(0, 1)[rest] for x in step], [x.flatten(0, 1)[rest] for x in undisturbed])
    assert env.bad_states.tolist() == [0, 1]
