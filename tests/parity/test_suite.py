"""The suite's batched tasks against dm_control itself: whole episodes without resynchronising."""

from __future__ import annotations

from operator import attrgetter

import mujoco
import numpy as np
import pytest
import torch
from dm_control import suite
from mujoco.batch import MODEL_FIELDS

from envs.dmc.suite import TASKS, make_task
from envs.physics.batched_task import BatchedTask
from envs.physics.mujoco_batch import MujocoBatch

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
EPISODE = 1000
SAME_PHYSICS = {
    "acrobot-swingup": ["acrobot-swingup_sparse"],
    "cartpole-balance": ["cartpole-balance_sparse", "cartpole-swingup", "cartpole-swingup_sparse"],
    "dog-stand": ["dog-walk", "dog-trot", "dog-run"],
    "fish-swim": ["fish-upright"],
    "hopper-stand": ["hopper-hop"],
    "humanoid-stand": ["humanoid-walk", "humanoid-run", "humanoid-run_pure_state"],
    "humanoid_CMU-stand": ["humanoid_CMU-walk", "humanoid_CMU-run"],
    "quadruped-walk": ["quadruped-run"],
    "walker-stand": ["walker-walk", "walker-run"],
}
"""Tasks that only observe and reward the same physics otherwise: one episode serves them all."""
READERS = {twin for twins in SAME_PHYSICS.values() for twin in twins}
LOOKS = {"geom_rgba", "site_rgba", "bvh_aabb"}
"""Model fields in which they may differ: what is drawn. So may the floor's size: it is a plane without end."""


def reference(task: str, seed: int):
    domain, _, name = task.partition("-")
    env = suite.load(domain, name, task_kwargs={"random": seed}, environment_kwargs={"flat_observation": True})
    env.physics._make_rendering_contexts = lambda: None  # for quadruped-escape, without OpenGL
    return env


def flat(observation) -> np.ndarray:
    """dm_control's observation dict in its own order."""
    return np.concatenate([np.ravel(part) for part in observation.values()])


def assert_same_physics(one: mujoco.MjModel, other: mujoco.MjModel, drawn: tuple[str, ...] = ()) -> None:
    """But for the fields that an episode draws."""
    for field in MODEL_FIELDS - set(drawn):
        ours, theirs = map(attrgetter(field), (one, other))
        if field in ("geom_size", "geom_aabb"):
            planes = one.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
            ours, theirs = ours[~planes], theirs[~planes]
        elif field in LOOKS:
            continue
        np.testing.assert_array_equal(ours, theirs, err_msg=field)


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


def assert_same_observation(task: BatchedTask, theirs: np.ndarray) -> None:
    """To one unit in float32's last place."""
    parts = task.get_observation().values()
    ours = torch.cat([part.reshape(1, -1) for part in parts], dim=1).float()[0].numpy()
    wanted = theirs.astype(np.float32)
    assert ours.shape == wanted.shape
    np.testing.assert_array_less(np.abs(ours - wanted), np.spacing(np.abs(wanted)) * 1.5)


@pytest.mark.parametrize("name", [name for name in TASKS if name not in READERS])
def test_a_whole_episode_equals_dm_controls(name: str) -> None:
    """qpos and qvel to the bit, observations to one unit in float32's last place, rewards to 1e-12."""
    theirs = reference(name, seed=5)
    first = theirs.reset()
    ours = Copy(name, theirs)
    task, physics, data = ours.task, ours.physics, theirs.physics.data
    twins = []
    for twin in SAME_PHYSICS.get(name, []):
        other, mine = reference(twin, seed=5), make_task(twin)
        other.reset()
        assert_same_physics(theirs.physics.model.ptr, other.physics.model.ptr, task.model_fields)
        assert_same_physics(task.model, mine.model)
        assert mine.substeps == task.substeps == other._n_sub_steps
        mine.bind(physics)
        twins.append((mine, other.task))

    assert_same_observation(task, first.observation["observations"])
    spec, rng = theirs.action_spec(), np.random.default_rng(1)
    np.testing.assert_array_equal(task.action_bounds, [spec.minimum, spec.maximum])
    low, high = (spec.minimum, spec.maximum) if not name.startswith("lqr") else (-1.0, 1.0)  # lqr's are 1e10
    for t in range(1, EPISODE + 1):
        action = rng.uniform(low, high, spec.shape)
        step = theirs.step(action)
        task.before_step(torch.from_numpy(action)[None])
        physics.control_step()
        np.testing.assert_array_equal(physics.qpos[0].numpy(), data.qpos)
        np.testing.assert_array_equal(physics.qvel[0].numpy(), data.qvel)
        assert_same_observation(task, step.observation["observations"])
        assert abs(task.get_reward().item() - step.reward) <= 1e-12
        for mine, other in twins:
            assert_same_observation(mine, flat(other.get_observation(theirs.physics)))
            assert abs(mine.get_reward().item() - other.get_reward(theirs.physics)) <= 1e-12
        terminated = task.get_termination()
        ended = terminated is not None and bool(terminated)
        assert ended == (step.discount == 0.0)
        assert step.last() == (ended or t == theirs._step_limit)
        assert not physics.bad().any()
        if ended:
            break
    assert ended or t == task.max_episode_steps == EPISODE


def test_every_task_of_the_suite_is_there() -> None:
    assert set(TASKS) == {f"{domain}-{task}" for domain, task in suite.ALL_TASKS}
    assert set(SAME_PHYSICS) | READERS <= set(TASKS)
