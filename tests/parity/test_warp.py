"""mujoco_warp on its CPU device against dm_control: one control step at a time, from dm_control's own state.

Single precision and other sums part the two trajectories within a second, so that the state is copied before every
control step. A stiff contact may still differ by much in rare steps, hence medians and 95th percentiles.
Warp compiles its kernels for every model, minutes for all of them: three tasks stay in the ordinary run.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_suite import reference

from envs.dmc.suite import TASKS, make_task
from rlreg.errors import UserError

pytest.importorskip("mujoco_warp")

from envs.physics.mujoco_warp import MujocoWarp

QUICK = ("cheetah-run", "hopper-hop", "reacher-hard")
"""A plain step, touch sensors and substeps, a target that moves with the model."""
REFUSED = {"point_mass-hard": "wrap_prm", "quadruped-escape": "hfield_data"}
"""What mujoco_warp keeps one copy of for all worlds, and these draw anew in every episode."""
STEPPING = ("dog",)
"""Domains with so many contacts that in a few steps of a hundred one begins a physics step earlier or later than in
MuJoCo, and moves the reward of that step by up to 2e-3. All other steps agree as elsewhere."""
STEPS = 100
WORLDS = 3


def parameters() -> list:
    return [pytest.param(t, marks=() if t in QUICK else pytest.mark.slow) for t in TASKS if t not in REFUSED]


class Copies:
    """Worlds of ours that are put into dm_control's state and model, whenever asked to."""

    def __init__(self, name: str, theirs, worlds: int = WORLDS, **kwargs) -> None:
        self.theirs, self.task = theirs, make_task(name)
        self.physics = MujocoWarp(
            self.task.model, worlds, self.task.substeps, self.task.model_fields, device="cpu", **kwargs
        )
        self.task.bind(self.physics)
        self.everyone = torch.ones(worlds, dtype=torch.bool)
        self.physics.reset(self.everyone)
        self.physics.forward(self.everyone)

    def synchronize(self) -> None:
        """Take over state, controls, warm start and model, and refresh the readings."""
        physics, data, model = self.physics, self.theirs.physics.data, self.theirs.physics.model
        for field in self.task.model_fields:
            physics.field(field).copy_(torch.from_numpy(np.array(getattr(model, field))))
        for name, values in physics.state().items():
            values.copy_(torch.from_numpy(np.array(getattr(data, name))))
        physics.forward(self.everyone)

    def observations(self) -> np.ndarray:
        """(W, O)."""
        parts = self.task.get_observation().values()
        return torch.cat([part.reshape(len(self.everyone), -1) for part in parts], dim=1).numpy()


def step(name: str, steps: int = STEPS, **kwargs) -> tuple[np.ndarray, np.ndarray, Copies]:
    """Errors of the observations, |ours - theirs| / (1 + |theirs|), and of the rewards, of all worlds but the first."""
    theirs = reference(name, seed=5)
    ours = Copies(name, theirs, **kwargs)
    spec, rng = theirs.action_spec(), np.random.default_rng(1)
    low, high = np.clip([spec.minimum, spec.maximum], -1, 1)  # lqr's are unbounded
    first = theirs.reset()
    ours.synchronize()
    ours.task.before_step(torch.zeros(WORLDS, len(spec.minimum)))  # what the task notes of its state
    errors = [np.abs(ours.observations()[1:] - first.observation["observations"])]
    rewards = []
    for _ in range(steps):
        action = rng.uniform(low, high)
        ours.synchronize()
        ours.task.before_step(torch.from_numpy(action).float().repeat(WORLDS, 1))
        ours.physics.control_step()
        wanted = theirs.step(action)
        values = wanted.observation["observations"]
        errors.append(np.abs(ours.observations()[1:] - values) / (1 + np.abs(values)))
        # lqr's costs are no numbers in [0, 1]
        rewards.append(np.abs(ours.task.get_reward().numpy() - wanted.reward) / max(1.0, abs(wanted.reward)))
    return np.concatenate(errors), np.array(rewards), ours


@pytest.mark.parametrize("name", parameters())
def test_a_control_step_equals_dm_controls(name: str) -> None:
    errors, rewards, ours = step(name, continuous=True)
    assert np.median(errors) < 1e-4 and np.quantile(errors, 0.95) < 1e-3
    if name.startswith(STEPPING):
        assert np.quantile(rewards, 0.9) < 1e-5 and rewards.max() < 5e-3
    else:
        assert rewards.max() < 1e-5
    assert not ours.physics.bad().any()
    ours.physics.check()


def test_whole_steps_give_what_continued_ones_give() -> None:
    """A control step from its state alone, without going on from the readings."""
    errors, rewards, _ = step("hopper-hop", steps=20, continuous=False)
    assert np.median(errors) < 1e-4 and np.quantile(errors, 0.95) < 1e-3 and rewards.max() < 1e-5


@pytest.fixture
def hoppers() -> MujocoWarp:
    """Three that have come to lie on the floor."""
    task = make_task("hopper-hop")
    physics = MujocoWarp(task.model, 3, task.substeps, device="cpu")
    task.bind(physics)
    everyone = torch.ones(3, dtype=torch.bool)
    physics.data("ncon"), physics.data("xpos")
    physics.reset(everyone)
    physics.forward(everyone)
    physics.step(everyone, 200)
    assert (physics.data("ncon") > 0).all()
    return physics


def test_a_reset_of_some_worlds_leaves_the_others_contacts_readings_and_future(hoppers) -> None:
    physics = hoppers
    touching, xpos = physics.data("ncon").clone(), physics.data("xpos").clone()
    sensors = physics.data("sensordata").clone()
    state = physics.state_dict()
    physics.control_step()
    wanted = physics.qpos.clone()
    physics.load_state_dict(state)

    some = torch.tensor([False, True, False])
    physics.reset(some)
    physics.forward(some)
    for before, live in ((touching, physics.data("ncon")), (xpos, physics.data("xpos"))):
        assert torch.equal(before[~some], live[~some]) and not torch.equal(before[some], live[some])
    assert torch.equal(sensors[~some], physics.data("sensordata")[~some])
    physics.control_step()
    torch.testing.assert_close(physics.qpos[~some], wanted[~some], rtol=0, atol=0)
    assert (physics.qpos[some] - wanted[some]).abs().max() > 0.1


def test_some_worlds_settle_and_the_others_stand_still(hoppers) -> None:
    some = torch.tensor([False, True, False])
    before = {name: values.clone() for name, values in hoppers.state().items()}
    hoppers.ctrl.fill_(1.0)
    hoppers.step(some, 13)
    assert torch.equal(before["qpos"][~some], hoppers.qpos[~some])
    assert torch.equal(before["time"][~some], hoppers.time[~some])
    torch.testing.assert_close(hoppers.time[some] - before["time"][some], torch.tensor([13 * 0.005]), rtol=1e-4, atol=0)
    assert not torch.equal(before["qpos"][some], hoppers.qpos[some])


def test_a_full_buffer_is_told_with_the_setting_to_raise() -> None:
    task = make_task("hopper-hop")
    everyone = torch.ones(3, dtype=torch.bool)
    for small, setting in (({"njmax": 2}, "env.njmax=2"), ({"nconmax": 1}, "env.nconmax=1")):
        physics = MujocoWarp(task.model, 3, task.substeps, device="cpu", **small)
        physics.reset(everyone)
        physics.forward(everyone)
        physics.check()
        physics.step(everyone, 200)
        with pytest.raises(UserError, match=f"{setting}: .*give {setting[:-1]}"):
            physics.check()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused_is_refused_by_name(name: str) -> None:
    task = make_task(name)
    with pytest.raises(UserError, match=f"cannot simulate this task.*{REFUSED[name]}.*env.backend=mujoco"):
        MujocoWarp(task.model, 3, task.substeps, task.model_fields, device="cpu")


def test_a_diverged_world_is_bad_until_its_reset(hoppers) -> None:
    everyone = torch.ones(3, dtype=torch.bool)
    hoppers.qvel[2] = torch.nan
    hoppers.control_step()
    assert hoppers.bad().tolist() == [False, False, True]
    hoppers.reset(hoppers.bad())
    hoppers.forward(everyone)
    hoppers.control_step()
    assert not hoppers.bad().any()
