"""`GPUBatchedEnv` on mujoco_warp's CPU device: the worlds of `BatchedEnv` in single precision, and no looks at them."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY, NoLooks
from torch import Tensor

import envs.dmc
from envs.batched import BatchedEnv
from envs.dmc.suite import make_task
from envs.physics.mujoco_batch import MujocoBatch

pytest.importorskip("mujoco_warp")

from envs.batched_gpu import GPUBatchedEnv
from envs.physics.mujoco_warp import MujocoWarp
from rlreg.errors import UserError

SEEDS, NUM_ENVS = (0, 3), 2


def make(name: str, steps: int, **kwargs) -> GPUBatchedEnv:
    task = make_task(name)
    task.max_episode_steps = steps
    physics = MujocoWarp(
        task.model, len(SEEDS) * NUM_ENVS, task.substeps, task.model_fields, device="cpu", continuous=True
    )
    return GPUBatchedEnv(task, physics, SEEDS, NUM_ENVS, **kwargs)


def make_reference(name: str, steps: int, **kwargs) -> BatchedEnv:
    task = make_task(name)
    task.max_episode_steps = steps
    physics = MujocoBatch(task.model, len(SEEDS) * NUM_ENVS, task.substeps, task.model_fields)
    return BatchedEnv(task, physics, SEEDS, NUM_ENVS, **kwargs)


def actions(env: BatchedEnv, steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(steps, len(SEEDS), NUM_ENVS, env.action_dim, generator=generator) * 2 - 1


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("repeat", [1, 3])
def test_the_same_worlds_begin_and_end_alike(repeat: int, spread: bool) -> None:
    """Episodes too short for single precision to tell, three of them, the later ones from streams of their own."""
    ours = make("reacher-hard", 8, action_repeat=repeat, spread=spread)
    theirs = make_reference("reacher-hard", 8, action_repeat=repeat, spread=spread)
    torch.testing.assert_close(ours.reset(), theirs.reset(), rtol=1e-4, atol=1e-4)
    for action in actions(ours, 24):
        for a, b in zip(ours.step(action), theirs.step(action), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_a_step_within_an_episode_looks_at_no_value() -> None:
    env = make("reacher-hard", 8)
    env.reset()
    given = actions(env, 7)
    env._told = HostCount()
    with NoLooks():
        for action in given:
            env.step(action)
        with pytest.raises(AssertionError, match="looks at a value"):  # an episode's end is looked at
            env.step(given[0])


class HostCount:
    """Stands for the pinned number, which is read without a wait."""

    def copy_(self, value: Tensor, non_blocking: bool) -> None:
        assert non_blocking

    def __int__(self) -> int:
        return 0


def test_a_diverged_world_is_cut_counted_and_begun_anew() -> None:
    env = make("reacher-hard", 50)
    env.reset()
    given = actions(env, 4)
    before = env.step(given[0]).obs
    env.physics.qvel[1] = torch.nan  # seed 0, world 1
    step = env.step(given[1])
    assert step.truncated.tolist() == [[False, True], [False, False]] and not step.terminated.any()
    assert torch.equal(step.bad, step.truncated)
    assert step.reward[0, 1] == 0 and torch.equal(step.final_obs[0, 1], before[0, 1])
    assert env.bad_states.tolist() == [1, 0]
    assert torch.isfinite(step.obs).all() and not torch.equal(step.obs[0, 1], before[0, 1])
    for action in given[2:]:
        step = env.step(action)
        assert torch.isfinite(step.obs).all() and not step.truncated.any()
    assert env.random.episode.tolist() == [0, 1, 0, 0] and env.bad_states.tolist() == [1, 0]


def test_restored_in_the_middle_of_an_episode_the_rest_is_alike() -> None:
    env, fresh = make("reacher-hard", 8), make("reacher-hard", 8)
    env.reset()
    given = actions(env, 12)
    for action in given[:5]:
        env.step(action)
    state = env.state_dict()
    rest = [env.step(action) for action in given[5:]]
    fresh.reset()
    fresh.load_state_dict(state)
    for wanted, action in zip(rest, given[5:], strict=True):
        for a, b in zip(fresh.step(action), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_run_on_mujoco_warp(runner, tmp_path) -> None:
    settings = [*TINY, "agent=td3", "env=dmc/reacher-easy", "env.backend=warp", "env.action_repeat=20", "seeds=2"]
    run = runner(*settings, "train.num_envs=4", "train.log_every=40", f"run_dir={tmp_path}/run")
    assert run.returncode == 0, run.stderr
    assert "run (worlds stepped by warp, evaluation by warp)" in run.stdout


def test_a_buffer_that_is_too_small_is_told_by_the_worlds() -> None:
    env = envs.dmc.make("hopper-hop", SEEDS, NUM_ENVS, backend="warp", njmax=2)
    env.reset()
    for action in actions(env, 60):
        env.step(action)
    with pytest.raises(UserError, match=r"env\.njmax=2: the simulation had more constraints"):
        env.check()


def test_auto_leaves_to_the_cpu_what_mujoco_warp_cannot_do(monkeypatch) -> None:
    monkeypatch.setattr("envs.backends.find_spec", lambda name: object())
    assert envs.dmc.choose_backend("point_mass-easy", 4096, "cuda") == "warp"
    assert envs.dmc.choose_backend("point_mass-hard", 4096, "cuda") == "mujoco"
