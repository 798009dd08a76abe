"""Gymnasium's MuJoCo tasks by mujoco_warp on its CPU device against Gymnasium: one step at a time, from its state."""

from __future__ import annotations

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

import envs.gym
from envs.gym import PGS, ActionScale
from envs.mujoco_gym import TASKS, make_task
from envs.mujoco_gym.ant import Ant
from envs.physics.batched_task import BatchedTask
from rlreg.errors import UserError

pytest.importorskip("mujoco_warp")

from envs.physics.mujoco_warp import MujocoWarp

QUICK = ("Hopper-v4",)
"""Warp compiles its kernels for every model."""
STEEP = "Ant"
"""Its legs meet the ground steeply. The directions that friction is computed in are MuJoCo's along the capsule, and
mujoco_warp's (3.17) along fixed axes where a capsule stands steeper than 60 degrees: the pyramids that both take for
cones are turned against each other, and a step with such a contact, one in four, differs."""


def where(task: BatchedTask, data: mujoco.MjData) -> float:
    """What Ant and Humanoid call their x."""
    model = task.model
    return data.xpos[1, 0] if isinstance(task, Ant) else data.xipos[:, 0] @ model.body_mass / model.body_mass.sum()


def apart(task: BatchedTask, data: mujoco.MjData) -> float:
    """Reacher's finger and target."""
    return float(np.linalg.norm(data.body("fingertip").xpos - data.body("target").xpos))


def parameters() -> list:
    ids = [id for id in TASKS if not id.startswith(PGS)]
    return [pytest.param(id, marks=() if id in QUICK else pytest.mark.slow) for id in ids]


@pytest.mark.parametrize("id", parameters())
def test_a_step_equals_gymnasiums(id: str) -> None:
    theirs, task = gymnasium.make(id, disable_env_checker=True), make_task(id)
    physics = MujocoWarp(task.model, 2, task.substeps, (), task.legacy_step, device="cpu")
    task.bind(physics)
    everyone, scale = torch.ones(2, dtype=torch.bool), ActionScale(id, theirs.action_space)
    data, rng = theirs.unwrapped.data, np.random.default_rng(0)

    def put(*_) -> None:
        for name, values in physics.state().items():
            values.copy_(torch.from_numpy(np.array(getattr(data, name))))

    task.initialize_episode = put
    errors, rewards = [], []
    theirs.reset(seed=1)
    for _ in range(60):
        task.begin_episode(everyone, None)
        for name, lagging in {"x": where, "distance": apart}.items():  # of Gymnasium's last step: not its state's
            if name in task.state():
                task.state()[name].fill_(lagging(task, data))
        action = scale(rng.uniform(-1, 1, theirs.action_space.shape).astype(np.float32))
        task.before_step(torch.from_numpy(action).repeat(2, 1))
        physics.control_step()
        obs, reward, terminated, _, _ = theirs.step(action)
        ours = torch.cat([part.reshape(2, -1) for part in task.get_observation().values()], dim=1)[1].numpy()
        errors.append(np.abs(ours - obs) / (1 + np.abs(obs)))
        rewards.append(abs(task.get_reward()[1].item() - reward) / max(1.0, abs(reward)))
        ended = task.get_termination()
        assert (ended is not None and bool(ended[1])) == terminated
        if terminated:
            theirs.reset()
    quantile = 0.75 if id.startswith(STEEP) else 1.0
    usual = np.array(errors).max(axis=1).argsort()[: int(quantile * len(errors))]
    errors, rewards = np.array(errors)[usual], np.array(rewards)[usual]
    assert np.median(errors) < 1e-4 and np.quantile(errors, 0.95) < 1e-3
    assert np.median(rewards) < 1e-5


@pytest.mark.parametrize("id", [id for id in TASKS if id.startswith(PGS)])
def test_what_mujoco_warp_cannot_do_is_one_line_and_not_chosen(id: str) -> None:
    with pytest.raises(UserError, match=r"env.backend=warp cannot .* \(mjSOL_PGS is unsupported\)"):
        envs.gym.make(id, [0], 2, backend="warp", device="cpu")
    assert envs.gym.choose_backend(id, 4096, "cuda") == "mujoco"
    assert envs.gym.choose_backend("Hopper-v4", 4096, "cuda") == "warp"
