"""How episodes of the batched suite begin, against dm_control: two samples of states, models and observations.

And how they go on by themselves: two samples of returns.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dm_control import suite
from numpy.typing import NDArray
from two_samples import assert_same_distribution

from envs.batched import BatchedEnv
from envs.dmc.suite import TASKS, make_task
from envs.dmc.suite.quadruped import TERRAIN_SMOOTHNESS, Escape
from envs.physics.batched_task import BatchedTask
from envs.physics.mujoco_batch import MujocoBatch
from envs.streams import EpisodeStreams

SAMPLES = {"quadruped": 150, "humanoid_CMU": 200, "dog": 300, "cheetah": 300, "manipulator": 400, "stacker": 400}
"""Episodes of dm_control's where its resets are slow; and twice as many of ours."""
BEGIN_ALIKE = {
    "acrobot-swingup_sparse", "cartpole-balance_sparse", "cartpole-swingup_sparse", "dog-walk", "dog-trot", "dog-run",
    "finger-turn_hard", "fish-upright", "hopper-hop", "humanoid-walk", "humanoid-run", "humanoid-run_pure_state",
    "humanoid_CMU-walk", "humanoid_CMU-run", "point_mass-easy", "quadruped-run", "reacher-hard", "walker-walk",
    "walker-run", "lqr-lqr_2_1",
}  # fmt: skip
"""Tasks whose episodes begin as another's of the same class do."""


def our_beginnings(task: BatchedTask, worlds: int) -> NDArray[np.float64]:
    """(worlds, n): state, what was drawn of the model, observation."""
    physics = MujocoBatch(task.model, worlds, task.substeps, task.model_fields)
    task.bind(physics)
    task.draw_models([0] * worlds)
    random = EpisodeStreams([0], worlds)
    random.episode.zero_()
    task.begin_episode(torch.ones(worlds, dtype=torch.bool), random)
    assert not physics.bad().any()
    parts = [physics.qpos, physics.qvel, physics.act, *(physics.field(name) for name in task.model_fields)]
    parts += task.get_observation().values()
    return torch.cat([part.reshape(worlds, -1).double() for part in parts], dim=1).numpy()


def suite_env(name: str):
    domain, _, task = name.partition("-")
    return suite.load(domain, task, task_kwargs={"random": 0}, environment_kwargs={"flat_observation": True})


def their_beginnings(name: str, fields: tuple[str, ...], episodes: int) -> NDArray[np.float64]:
    env, rows = suite_env(name), []
    for _ in range(episodes):
        observation = env.reset().observation["observations"]
        model, data = env.physics.model, env.physics.data
        parts = [data.qpos, data.qvel, data.act, *(getattr(model, field) for field in fields), observation]
        rows.append(np.concatenate([np.ravel(part) for part in parts]))
    return np.stack(rows)


@pytest.mark.parametrize("name", [name for name in TASKS if name not in BEGIN_ALIKE and name != "quadruped-escape"])
def test_episodes_begin_as_dm_controls(name: str) -> None:
    task, episodes = make_task(name), SAMPLES.get(name.partition("-")[0], 600)
    theirs = their_beginnings(name, task.model_fields, episodes)
    ours = our_beginnings(task, 2 * episodes)
    assert ours.shape[1] == theirs.shape[1]
    assert_same_distribution(ours, theirs)


def test_the_test_sees_what_differs() -> None:
    """A wider range, a shifted mean, another spread, and coordinates that do not belong together."""
    assert set(TASKS) >= BEGIN_ALIKE
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(600, 4)), rng.normal(size=(300, 4))
    assert_same_distribution(ours, theirs)
    box = rng.uniform(-1, 1, (300, 4))
    for other in (theirs + 0.5, theirs * 1.6, np.repeat(theirs[:, :1], 4, axis=1)):
        with pytest.raises(AssertionError):
            assert_same_distribution(ours, other)
    with pytest.raises(AssertionError):
        assert_same_distribution(rng.uniform(-1.15, 1.15, (600, 4)), box)


def test_escapes_terrain_is_dm_controls() -> None:
    """From the same bumps, to float32; the body is lifted from the same height on."""
    env = suite.load("quadruped", "escape", task_kwargs={"random": 3})
    env.physics._make_rendering_contexts = lambda: None
    env.reset()
    bumps = np.random.RandomState(3).uniform(TERRAIN_SMOOTHNESS, 1, (30, 30))

    class GivenBumps(EpisodeStreams):
        def uniform(self, name: str, *args, **kwargs) -> torch.Tensor:
            assert name == "bumps"
            return torch.from_numpy(bumps)[None]

        def normal(self, name: str, *args, **kwargs) -> torch.Tensor:
            return torch.from_numpy(env.physics.data.qpos[None, 3:7].copy())

    task = Escape()
    physics = MujocoBatch(task.model, 1, task.substeps, task.model_fields)
    task.bind(physics)
    task.begin_episode(torch.ones(1, dtype=torch.bool), GivenBumps([0], 1))
    terrain = physics.field("hfield_data")[0].numpy()
    np.testing.assert_allclose(terrain, env.physics.model.hfield_data, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(physics.qpos[0].numpy(), env.physics.data.qpos, atol=1e-12)
    assert physics.data("ncon")[0] == 0


def at_random(generator: torch.Generator, worlds: int, size: int):
    return lambda obs: torch.rand(worlds, size, generator=generator, dtype=torch.float64) * 2 - 1


def balancing(generator: torch.Generator, worlds: int, size: int):
    """Cartpole's pole kept upright, in the middle: from position, cosine and sine, and velocities."""
    gains = torch.tensor([0.3, 0.0, 10.0, 0.6, 1.2], dtype=torch.float64)
    return lambda obs: (obs @ gains)[:, None].clamp(-1, 1)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("cartpole-balance", balancing),
        ("walker-walk", at_random),
        ("fish-swim", at_random),
        ("swimmer-swimmer6", at_random),
    ],
)
def test_returns_of_free_runs_are_of_one_distribution(name: str, policy) -> None:
    """A policy that acts well and random ones, over 100 steps."""
    steps, worlds, episodes = 100, 200, 60
    task = make_task(name)
    env = BatchedEnv(task, MujocoBatch(task.model, worlds, task.substeps, task.model_fields), [0], worlds)
    act, obs = policy(torch.Generator().manual_seed(0), worlds, env.action_dim), env.reset()[0]
    ours = torch.zeros(worlds, dtype=torch.float64)
    for _ in range(steps):
        step = env.step(act(obs.double())[None])
        obs, ours = step.obs[0], ours + step.reward[0]
    theirs = suite_env(name)
    act = policy(torch.Generator().manual_seed(1), 1, env.action_dim)
    returns = []
    for _ in range(episodes):
        time_step, total = theirs.reset(), 0.0
        for _ in range(steps):
            obs = torch.from_numpy(time_step.observation["observations"])[None]
            time_step = theirs.step(act(obs)[0].numpy())
            total += time_step.reward
        returns.append(total)
    assert_same_distribution(ours[:, None].numpy(), np.array(returns)[:, None])
    if policy is balancing:
        assert ours.mean() > 0.9 * steps
