"""The suite's batched tasks against dm_control itself: whole episodes without resynchronising."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch
from dm_control import suite

from envs.dmc.suite import TASKS, make_task
from envs.physics.mujoco_batch import MujocoBatch

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
EPISODE = 1000


def reference(task: str, seed: int):
    domain, _, name = task.partition("-")
    env = suite.load(domain, name, task_kwargs={"random": seed}, environment_kwargs={"flat_observation": True})
    env.physics._make_rendering_contexts = lambda: None  # for quadruped-escape, without OpenGL
    return env


class Copy:
    """One world of ours, put into dm_control's present state and model, for the comparison of what follows."""

    def __init__(self, name: str, theirs) -> None:
        self.task = make_task(name)
        self.physics = MujocoBatch(self.task.model, 1, self.task.substeps, self.task.model_fields)
        self.task.bind(self.physics)
        assert self.task.substeps == theirs._n_sub_steps
        everyone = torch.ones(1, dtype=torch.bool)
        self.physics.reset(everyone)
        for field in self.task.model_fields:
            self.physics.field(field)[0] = torch.from_numpy(np.array(getattr(theirs.physics.model, field)))
        model, data = theirs.physics.model.ptr, theirs.physics.data.ptr
        mujoco.mj_getState(model, data, self.physics._batch.state[0], STATE)
        self.physics.forward(everyone)

    def observation(self) -> np.ndarray:
        parts = self.task.get_observation().values()
        return torch.cat([part.reshape(1, -1) for part in parts], dim=1).float()[0].numpy()


def close_to_one_ulp(ours: np.ndarray, theirs: np.ndarray) -> None:
    wanted = theirs.astype(np.float32)
    assert ours.shape == wanted.shape
    np.testing.assert_array_less(np.abs(ours - wanted), np.spacing(np.abs(wanted)) * 1.5)


@pytest.mark.parametrize("name", TASKS)
def test_a_whole_episode_equals_dm_controls(name: str) -> None:
    """qpos and qvel to the bit, observations to one unit in float32's last place, rewards to 1e-12."""
    theirs = reference(name, seed=5)
    first = theirs.reset()
    ours = Copy(name, theirs)
    physics, data = ours.physics, theirs.physics.data
    close_to_one_ulp(ours.observation(), first.observation["observations"])
    spec, rng = theirs.action_spec(), np.random.default_rng(1)
    low, high = ours.task.action_bounds
    np.testing.assert_array_equal([low, high], [spec.minimum, spec.maximum])
    for t in range(1, EPISODE + 1):
        action = rng.uniform(spec.minimum, spec.maximum)
        step = theirs.step(action)
        ours.task.before_step(torch.from_numpy(action)[None])
        physics.control_step()
        np.testing.assert_array_equal(physics.qpos[0].numpy(), data.qpos)
        np.testing.assert_array_equal(physics.qvel[0].numpy(), data.qvel)
        close_to_one_ulp(ours.observation(), step.observation["observations"])
        assert abs(ours.task.get_reward().item() - step.reward) <= 1e-12
        terminated = ours.task.get_termination()
        ended = terminated is not None and bool(terminated)
        assert ended == (step.discount == 0.0)
        assert step.last() == (ended or t == theirs._step_limit)
        assert not physics.bad().any()
        if ended:
            break
    assert ended or t == ours.task.max_episode_steps == EPISODE
