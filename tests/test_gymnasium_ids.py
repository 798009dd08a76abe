"""Our worlds for everybody: as Gymnasium ids, checked by Gymnasium, and as SB3's vector environment."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from conftest import ROOT
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import TD3
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import envs.dmc
from envs.mujoco_gym.settings import IDS
from rlreg.errors import UserError
from rlreg.sb3 import VecWorlds


def test_every_task_of_the_suite_has_an_id() -> None:
    from dm_control import suite

    ids = {f"{domain}-{task}" for domain, task in suite.ALL_TASKS}
    assert ids == set(envs.dmc.task_names())
    assert {f"rlreg/{name}-v0" for name in ids} <= set(gymnasium.registry)


def test_every_batched_task_of_gymnasium_has_an_id() -> None:
    ours = {id.removeprefix("rlreg/") for id in gymnasium.registry if id.startswith("rlreg/")}
    assert set(IDS) <= ours and ours & {id for id in gymnasium.registry if id.endswith(("-v4", "-v5"))} == set(IDS)


def test_a_tasks_own_settings_reach_single_and_batched_worlds() -> None:
    """The cost of control is a tenth of Gymnasium's: so is what the same action costs in the first step."""
    given, action = {"forward_reward_weight": 0.0}, np.ones((2, 6), np.float32)
    for weight in (0.1, 0.01):
        worlds = gymnasium.make_vec("rlreg/HalfCheetah-v5", num_envs=2, ctrl_cost_weight=weight, **given)
        single = gymnasium.make("rlreg/HalfCheetah-v5", ctrl_cost_weight=weight, **given)
        worlds.reset(seed=0), single.reset(seed=0)
        np.testing.assert_allclose(worlds.step(action)[1], -6 * weight, rtol=1e-6)
        assert single.step(action[0])[1] == pytest.approx(-6 * weight)
    with pytest.raises(UserError, match=r"no setting 'ctrl_cost'; it has .*ctrl_cost_weight"):
        gymnasium.make_vec("rlreg/HalfCheetah-v5", num_envs=2, ctrl_cost=1.0)


def test_importing_envs_makes_the_ids_known_without_loading_a_simulator() -> None:
    look = "import envs, gymnasium, sys; assert 'dm_control' not in sys.modules and 'torch' not in sys.modules; "
    look += "print(gymnasium.make_vec('rlreg/cheetah-run-v0', num_envs=256).reset(seed=1)[0].shape)"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "(256, 17)\n", done.stderr


@pytest.mark.parametrize("id", ["rlreg/finger-turn_hard-v0", "rlreg/lqr-lqr_2_1-v0", "rlreg/Hopper-v5"])
def test_a_single_world_passes_gymnasiums_checks(id: str) -> None:
    check_env(gymnasium.make(id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("id", ["rlreg/cheetah-run-v0", "rlreg/lqr-lqr_2_1-v0", "rlreg/Walker2d-v4"])
def test_a_vector_is_what_gymnasium_expects(id: str) -> None:
    """Spaces, dtypes and shapes as of Gymnasium's own vector of single worlds; the same seed, the same trajectory."""
    env, same = (gymnasium.make_vec(id, num_envs=3) for _ in range(2))
    single = gymnasium.make_vec(id, num_envs=3, vectorization_mode="sync")
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP and env.spec.id == id
    for name in ("single_observation_space", "single_action_space", "observation_space", "action_space"):
        assert getattr(env, name) == getattr(single, name)
    first, info = env.reset(seed=7)
    other, _ = same.reset(seed=[7, 8, 9])
    theirs, _ = single.reset(seed=7)
    assert info == {} and data_equivalence(first, other) and first.shape == theirs.shape
    assert first.dtype == theirs.dtype and len(np.unique(first, axis=0)) == 3
    env.action_space.seed(0)
    for _ in range(5):
        action = env.action_space.sample()
        step, again, wanted = env.step(action), same.step(action), single.step(action)
        assert data_equivalence(step, again)
        for ours, value in zip(step[:4], wanted[:4], strict=True):
            assert ours.shape == value.shape and (ours.dtype == value.dtype or value.dtype == np.float64)
        assert env.observation_space.contains(step[0])
    before = env.reset(seed=7)[0]
    assert data_equivalence(before, first) and not data_equivalence(env.reset()[0], first)
    unseeded = [gymnasium.make_vec(id, num_envs=3).reset()[0] for _ in range(2)]
    assert not data_equivalence(*unseeded)


def test_episode_statistics_and_final_observations() -> None:
    env = RecordEpisodeStatistics(gymnasium.make_vec("rlreg/reacher-easy-v0", num_envs=2, action_repeat=500))
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, np.float32)
    env.step(action)
    obs, _, terminated, truncated, info = env.step(action)
    assert truncated.all() and not terminated.any() and info["_final_obs"].all()
    assert (np.stack(info["final_obs"]) != obs).any(axis=1).all()
    np.testing.assert_array_equal(info["episode"]["l"], [2, 2])


def test_sb3_trains_on_64_worlds_in_one_process() -> None:
    worlds = VecWorlds(envs.dmc.make("reacher-easy", seeds=[0], num_envs=64, action_repeat=10))
    assert worlds.num_envs == 64
    worlds.seed(3)
    first = worlds.reset()
    worlds.seed(3)
    np.testing.assert_array_equal(worlds.reset(), first)
    assert (worlds.reset() != first).any(axis=1).all()
    env = VecNormalize(VecMonitor(worlds))
    model = TD3("MlpPolicy", env, learning_starts=64, policy_kwargs={"net_arch": [16]}, gradient_steps=2, seed=0)
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(64 * 110)
    assert len(model.ep_info_buffer) == 64 and all(episode["l"] == 100 for episode in model.ep_info_buffer)
    assert model._n_updates == 2 * 109
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))
