"""Worlds on a GPU (`pytest -m gpu`): mujoco_warp's graphs against MuJoCo, captured steps, and no wait for the host."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.td3 import TD3, TD3Config
from envs.batched import BatchedEnv
from envs.dmc.suite import make_task
from envs.physics.mujoco_batch import MujocoBatch
from rlreg.compilation import CudaGraph
from rlreg.config import EvalConfig, TrainConfig
from rlreg.errors import UserError
from rlreg.regularizers import BEER
from rlreg.run_folder import RunFolder
from rlreg.training.online import OnlineTraining
from rlreg.training.speed import Speed

pytest.importorskip("mujoco_warp")

from envs.batched_gpu import GPUBatchedEnv
from envs.physics.mujoco_warp import MujocoWarp

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SEEDS = (0, 3)


def make(name: str, num_envs: int, steps: int = 1000, seeds=SEEDS, **kwargs) -> GPUBatchedEnv:
    task = make_task(name)
    task.max_episode_steps = steps
    physics = MujocoWarp(
        task.model, len(seeds) * num_envs, task.substeps, task.model_fields, continuous=True, **kwargs
    )
    return GPUBatchedEnv(task, physics, seeds, num_envs)


def actions(env: BatchedEnv, steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(steps, len(env.seeds), env.num_envs, env.action_dim, generator=generator) * 2 - 1
    return drawn.to(env.device)


@contextmanager
def no_waits():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["cheetah-run", "hopper-hop", "reacher-hard", "humanoid-walk", "acrobot-swingup"])
def test_control_steps_equal_mujocos_from_the_same_states(name: str) -> None:
    """64 worlds of random actions; the state is copied before every control step."""
    task, reference = make_task(name), make_task(name)
    ours = MujocoWarp(task.model, 64, task.substeps, task.model_fields, continuous=True)
    theirs = MujocoBatch(reference.model, 64, task.substeps, task.model_fields)
    env = BatchedEnv(reference, theirs, (0,), 64)
    task.bind(ours)
    env.reset()
    everyone = torch.ones(64, dtype=torch.bool, device="cuda")
    low, high = (torch.from_numpy(x) for x in task.action_bounds)
    generator = torch.Generator().manual_seed(0)
    errors, rewards = [], []
    for _ in range(30):
        for field in task.model_fields:
            ours.field(field).copy_(theirs.field(field))
        for live in ("qpos", "qvel", "act", "ctrl", "time"):
            getattr(ours, live).copy_(getattr(theirs, live))
        ours.state()["qacc_warmstart"].copy_(torch.from_numpy(theirs._batch.bind("qacc_warmstart")))
        ours.forward(everyone)
        action = low + (high - low) * torch.rand(64, len(low), generator=generator)
        task.before_step(action.cuda().float())
        reference.before_step(action)
        ours.control_step()
        theirs.control_step()
        for part, wanted in zip(task.get_observation().values(), reference.get_observation().values(), strict=True):
            errors.append(((part.cpu() - wanted).abs() / (1 + wanted.abs())).numpy().ravel())
        rewards.append((task.get_reward().cpu() - reference.get_reward()).abs())
    errors = np.concatenate(errors)
    assert np.median(errors) < 1e-4 and np.quantile(errors, 0.95) < 1e-3
    assert torch.stack(rewards).quantile(0.99) < 1e-5
    ours.check()


DIGITS = pytest.mark.xfail(
    reason="mujoco_warp 3.17 with all of its determinism gave other last digits each time on an H100", strict=False
)


@DIGITS
def test_a_captured_step_equals_the_plain_one_to_the_bit() -> None:
    """Through the end of an episode; with sums taken in one order, since others differ from run to run."""
    captured, plain = (make("hopper-hop", 8, steps=9, deterministic=True) for _ in range(2))
    plain._program = plain._act_and_cut
    assert torch.equal(captured.reset(), plain.reset())
    for action in actions(plain, 20):
        for a, b in zip(captured.step(action), plain.step(action), strict=True):
            assert torch.equal(a, b)


def test_a_captured_step_agrees_with_the_plain_one() -> None:
    """A few steps from the same states, to float32's rounding."""
    captured, plain = (make("hopper-hop", 8, deterministic=True) for _ in range(2))
    plain._program = plain._act_and_cut
    assert torch.equal(captured.reset(), plain.reset())
    for action in actions(plain, 3):
        for a, b in zip(captured.step(action), plain.step(action), strict=True):
            assert torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-3)


@DIGITS
def test_deterministic_worlds_give_the_same_twice_to_the_bit() -> None:
    def rollout() -> Tensor:
        env = make("humanoid-walk", 16, deterministic=True)
        env.reset()
        return torch.stack([env.step(action).obs for action in actions(env, 40)])

    assert torch.equal(rollout(), rollout())


def test_episodes_begin_and_end_as_on_the_cpu() -> None:
    env = make("reacher-hard", 16, steps=8)
    task = make_task("reacher-hard")
    task.max_episode_steps = 8
    physics = MujocoBatch(task.model, 32, task.substeps, task.model_fields)
    reference = BatchedEnv(task, physics, SEEDS, 16)
    torch.testing.assert_close(env.reset().cpu(), reference.reset(), rtol=1e-4, atol=1e-4)
    for action in actions(env, 24):
        for a, b in zip(env.step(action), reference.step(action.cpu()), strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-3)


def test_a_reset_of_some_worlds_leaves_the_others_contacts() -> None:
    env = make("walker-walk", 8)
    physics = env.physics
    contacts = physics.data("ncon")
    env.reset()
    physics.step(env._all, 100)
    before, some = contacts.clone(), torch.arange(16, device="cuda") % 3 == 0
    assert before.any()
    physics.reset(some)
    physics.forward(some)
    assert torch.equal(before[~some], contacts[~some])


def test_a_diverged_world_is_begun_anew_within_a_few_steps() -> None:
    env = make("reacher-hard", 4)
    env.reset()
    given = actions(env, 10)
    for action in given[:4]:
        env.step(action)
    env.physics.qvel[1] = torch.nan
    steps = []
    for action in given[4:]:
        steps.append(env.step(action))
        torch.cuda.synchronize()
    cut = torch.stack([s.truncated for s in steps])
    assert 1 <= cut[:, 0, 1].sum() <= 3 and cut.sum() == cut[:, 0, 1].sum()
    assert env.bad_states.tolist() == [1, 0]
    assert all(torch.isfinite(s.obs).all() for s in steps)


def test_stepping_within_an_episode_never_waits() -> None:
    env = make("humanoid-walk", 8)
    env.reset()
    given = actions(env, 12)
    for action in given[:4]:  # recorded by now
        env.step(action)
    with no_waits():
        for action in given[4:]:
            env.step(action)


@pytest.mark.parametrize("captured", [False, True])
def test_the_whole_loop_never_waits(captured: bool, tmp_path) -> None:
    """Acting, stepping, storing, sampling and updating."""
    env, evaluation = make("cheetah-run", 16), make("cheetah-run", 2)
    agent = TD3(TD3Config(hidden=[32, 32], batch_size=64), BEER(), env.obs_dim, env.action_dim, SEEDS, "cuda")
    every = {"log_every": 1600, "checkpoint_every": 8000}
    train = TrainConfig(total_steps=8000, warmup_steps=64, num_envs=16, buffer_capacity=160, **every)
    training = OnlineTraining(
        agent, lambda n, _: env if n == 16 else evaluation, train, EvalConfig(episodes=2), RunFolder(tmp_path), "eager"
    )
    if captured:
        training.update = CudaGraph(training.learner.update)
    training.speed = Speed(0)
    training._begin()
    for _ in range(8):  # graphs are recorded
        training._iterate()
    with no_waits():
        for _ in range(10):
            training._iterate()
    assert torch.isfinite(training.agent.actor_params["0.weight"]).all()
    env.physics.check()


def test_more_worlds_than_fit_are_refused_before_anything_is_allocated() -> None:
    before = torch.cuda.mem_get_info()[0]
    with pytest.raises(UserError, match=r"worlds need some .* at most \d+ fit"):
        make("humanoid-walk", 10**8, seeds=(0,))
    assert torch.cuda.mem_get_info()[0] > before - 2**28
