"""A world that goes wrong costs its episode, not the run; randomness that is not ours is seeded, saved or reported."""

from __future__ import annotations

import random

import gymnasium
import numpy as np
import pytest
import torch
import worlds

import envs.dmc
import envs.gym
from envs.base import Step, VectorEnv
from envs.gym import make_single
from envs.gym_vector import GymVectorEnv
from envs.gym_worker import World
from rlreg.buffers import Replay
from rlreg.errors import UserError


def make(kind: type, seeds=(0, 1), num_envs: int = 2, workers: int = 0) -> VectorEnv:
    return envs.gym.make(f"worlds:rlreg-test/{kind.__name__}-v0", seeds, num_envs, workers=workers)


def run(env: VectorEnv, steps: int, seed: int = 0) -> list[Step]:
    generator = torch.Generator().manual_seed(seed)
    shape = len(env.seeds), env.num_envs, env.action_dim
    return [env.step(torch.rand(shape, generator=generator) * 2 - 1) for _ in range(steps)]


def equal(ours: list[Step], theirs: list[Step]) -> bool:
    pairs = [pair for steps in zip(ours, theirs, strict=True) for pair in zip(*steps, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


# --------------------------------------------------------------- bad steps


@pytest.mark.parametrize("kind", worlds.GOES_WRONG)
def test_a_bad_step_cuts_its_episode(kind: type) -> None:
    env = make(kind)
    env.reset()
    steps = run(env, 45)
    for t, step in enumerate(steps, start=1):
        assert all(torch.isfinite(part).all() for part in (step.obs, step.reward, step.final_obs))
        assert step.bad.all() == step.truncated.all() == (t % 20 == 0) and not step.terminated.any()
        assert step.bad.all() or not step.bad.any()
    bad, before = steps[19], steps[18]
    assert (bad.reward == 0).all() and torch.equal(bad.final_obs, before.obs)
    assert (bad.obs[..., 2] == 0).all()  # the next episode has begun
    said = env.problems()
    assert said[0].startswith(f"worlds:rlreg-test/{kind.__name__}-v0 (seed 0, world 0): ")
    assert said[0].endswith(" at episode step 20")
    assert env.problems() == []


def test_a_reward_beyond_float32_is_named() -> None:
    env = make(worlds.HugeReward)
    env.reset()
    run(env, 20)
    assert "reward is 1e+39, more than float32 can hold at episode step 20" in env.problems()[0]


def test_one_bad_world_does_not_disturb_the_others() -> None:
    env, calm = make(worlds.Walk), make(worlds.Walk)
    env.reset(), calm.reset()
    sick = env._group._worlds[1].env.unwrapped
    sick.reward = lambda: np.nan if sick.t == 7 else 0.0
    ours, theirs = run(env, 30), run(calm, 30)
    others = [(0, 0), (1, 0), (1, 1)]
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(a[i], b[i]) for a, b in zip(one, other, strict=True) for i in others)
    assert torch.stack([step.bad for step in ours]).sum(dim=0).tolist() == [[0, 4], [0, 0]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_start_that_is_not_finite_is_tried_again(workers: int) -> None:
    env = make(worlds.BadStart, workers=workers)
    assert torch.isfinite(env.reset()).all()
    steps = run(env, 120)
    assert all(torch.isfinite(part).all() for step in steps for part in step) and not any(s.bad.any() for s in steps)
    assert "nan at a reset" in env.problems()[0]
    env.close()


def test_a_world_that_never_starts_is_bad_at_every_step() -> None:
    env = make(worlds.AlwaysBad)
    assert torch.equal(env.reset(), torch.zeros(2, 2, 3))
    state = env.state_dict()
    for step in run(env, 3):
        assert step.bad.all() and step.truncated.all() and (step.obs == 0).all()
    assert torch.equal(env.load_state_dict(state), torch.zeros(2, 2, 3))


SAYS = {
    worlds.RaisesInStep: r"\(seed [01], world 0\): the environment raised KeyError: .no such thing. \(worlds.py:\d+\)",
    worlds.RaisesInReset: r"raised FileNotFoundError: no such map \(worlds.py:\d+\) at a reset; once that is put right",
    worlds.Exits: r"raised SystemExit: 0 \(.*:\d+\) at episode step 20",
    worlds.RaisesWhenMade: r"cannot make 'worlds:rlreg-test/RaisesWhenMade-v0': it raised OSError: no licence",
    worlds.OldStep: r"raised ValueError: not enough values to unpack \(expected 5, got 4\)",
    worlds.WrongSize: r"'rlreg-test/WrongSize-v0' observed 4 numbers; its observation_space has 3",
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", worlds.RAISES)
def test_what_an_environment_raises_is_one_line_that_says_where(kind: type, workers: int, capfd) -> None:
    if workers and kind is not worlds.RaisesInStep:
        pytest.skip("one will do")
    with pytest.raises(UserError, match=SAYS[kind]) as error:
        env = make(kind, workers=workers)
        try:
            env.reset()
            run(env, 60)
        finally:
            env.close()
    assert "\n" not in str(error.value)
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out


@pytest.mark.parametrize("id", ["Hopper-v4", "Ant-v4"])
def test_a_simulation_that_mujoco_resets_by_itself_is_bad(id: str, tmp_path, monkeypatch) -> None:
    """MuJoCo puts a diverged simulation back to its first state: finite, and not what the action led to."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes MUJOCO_LOG.TXT
    world = World(make_single(id, 0), "w", 0)
    world.reset()
    world.env.unwrapped.data.qvel[:] = 1e12
    obs, reward, terminated, truncated, bad = world.step(np.zeros(world.env.action_space.shape, np.float32))
    assert bad and truncated and not terminated and reward == 0 and np.isfinite(obs).all()
    assert "simulation diverged (mjWARN_BAD" in world.problems[0]
    world.reset()
    assert not world.step(np.zeros(world.env.action_space.shape, np.float32))[-1]


def test_diverged_physics_of_dm_control_is_bad() -> None:
    env = envs.dmc.make("cheetah-run", [0])
    env.reset()
    step = env.step(torch.full((1, 1, env.action_dim), torch.nan))
    assert step.bad.all() and step.truncated.all()
    said = env.problems()[0]
    assert said.startswith("cheetah-run (seed 0, world 0): simulation diverged") and "episode step 1" in said
    assert not env.step(torch.zeros(1, 1, env.action_dim)).bad.any()


# ------------------------------------------------------ what is not learnt from


def row(value: float, seeds: int = 2, num_envs: int = 3) -> list[torch.Tensor]:
    """Transitions whose every number tells seed, world and `value`."""
    own = value + torch.arange(seeds * num_envs).view(seeds, num_envs) / 100
    obs = own[..., None].expand(-1, -1, 2)
    return [obs, own[..., None], own, obs, torch.zeros_like(own)]


def test_bad_rows_are_left_out_of_the_replay_memory() -> None:
    """Seed 1 loses one row of two, and a whole moment: rows of its own from just before stand in, seed 0 has all."""
    replay = Replay([0, 1], 12, 2, 1)
    bad = torch.zeros(2, 3, dtype=torch.bool)
    replay.add(*row(1.0), left_out=bad)
    bad[1, 0] = bad[1, 2] = True
    replay.add(*row(2.0), left_out=bad)
    bad[1] = True
    replay.add(*row(3.0), left_out=bad)
    rewards = replay.batch(replay.rows[:, :9]).reward
    expected = torch.tensor([1.0, 1.01, 1.02, 2.0, 2.01, 2.02, 3.0, 3.01, 3.02])
    torch.testing.assert_close(rewards[0], expected)
    torch.testing.assert_close(rewards[1], torch.tensor([1.03, 1.04, 1.05, 1.05, 2.04, 2.04, 2.04, 2.04, 2.04]))
    assert replay.inserted == 9


def test_the_first_row_of_all_may_be_bad() -> None:
    replay = Replay([0], 12, 2, 1)
    replay.add(*row(1.0, 1), left_out=torch.tensor([[True, True, False]]))
    torch.testing.assert_close(replay.batch(replay.rows[:, :3]).reward, torch.full((1, 3), 1.02))


def test_a_row_left_out_where_the_ring_wraps_around() -> None:
    replay = Replay([0], 6, 2, 1)
    for value in (1.0, 2.0):
        replay.add(*row(value, 1))
    replay.add(*row(3.0, 1), left_out=torch.tensor([[True, False, False]]))
    torch.testing.assert_close(replay.batch(replay.rows).reward[0], torch.tensor([2.02, 3.01, 3.02, 2.0, 2.01, 2.02]))


def test_a_stand_in_is_never_sampled_and_all_others_equally() -> None:
    """Of seed 1's twelve rows five were left out: each of its other seven is drawn as often as any, seed 0 as ever."""
    replay, plain = Replay([0, 1], 12, 2, 1), Replay([0, 1], 12, 2, 1)
    out = torch.zeros(4, 2, 3, dtype=torch.bool)
    out[1, 1, 1] = out[2, 1, 0] = True
    out[3, 1] = True
    for value, left_out in enumerate(out):
        replay.add(*row(float(value)), left_out=left_out)
        plain.add(*row(float(value)))
    drawn = torch.cat([replay.sample("replay", step, 512).reward for step in range(40)], dim=1)
    assert torch.equal(drawn[0], torch.cat([plain.sample("replay", step, 512).reward[0] for step in range(40)]))
    values, counts = drawn[1].unique(return_counts=True)
    stored = torch.stack([row(float(value))[2][1] for value in range(4)])[~out[:, 1]]
    assert torch.equal(values, stored.sort().values)
    expected = drawn.shape[1] / 7
    assert ((counts - expected).abs() < 6 * expected**0.5).all()


def test_a_return_of_several_steps_begins_at_no_stand_in() -> None:
    replay = Replay([0], 12, 2, 1, n_step=2, discount=0.5)
    for value in range(4):
        replay.add(*row(float(value), 1, 1), left_out=torch.tensor([[value == 2]]))
    batch = replay.sample("replay", 0, 64)
    assert batch.obs[..., 0].unique().tolist() == [0, 1, 3]
    assert batch.reward[batch.obs[..., 0] == 1].unique().tolist() == [1]  # what follows was left out


def test_a_memory_of_stand_ins_alone_gives_them() -> None:
    replay = Replay([0], 3, 2, 1)
    replay.add(*row(1.0, 1), left_out=torch.ones(1, 3, dtype=torch.bool))
    assert replay.sample("replay", 0, 8).reward.isfinite().all()


# ------------------------------------------------- randomness that is not ours


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", worlds.DRAWS_ELSEWHERE)
def test_two_runs_are_equal_wherever_an_environment_draws_from(kind: type, workers: int) -> None:
    np.random.seed(1), random.seed(1)
    env = make(kind, workers=workers)
    env.reset()
    ours = run(env, 130)
    env.close()
    np.random.seed(2), random.seed(2)
    again = make(kind)
    again.reset()
    assert equal(run(again, 130), ours)
    starts = torch.stack([step.obs[..., 0] for step in ours if step.truncated.all()])
    assert len(starts.unique()) == starts.numel()  # each world has draws of its own


@pytest.mark.parametrize("kind", worlds.DRAWS_ELSEWHERE)
@pytest.mark.parametrize("steps", [0, 30, 120])
def test_a_restored_world_goes_on_as_it_would_have(kind: type, steps: int) -> None:
    """In the first episode and in the third, in a new process's environment and in one that has gone on."""
    env = make(kind)
    env.reset()
    run(env, steps)
    state = env.state_dict()
    expected = run(env, 80, seed=1)
    fresh = make(kind)
    for restored in (fresh, env):
        restored.load_state_dict(state)
        assert restored.problems() == []
        assert equal(run(restored, 80, seed=1), expected)


def test_the_global_generators_stay_the_callers() -> None:
    np.random.seed(5), random.seed(5)
    np.random.randn()  # leaves one of a pair behind
    expected = np.random.get_state(), random.getstate()
    env = make(worlds.GlobalNumpy)
    env.reset()
    run(env, 3)
    now = np.random.get_state()
    assert np.array_equal(now[1], expected[0][1]) and now[2:] == expected[0][2:]
    assert random.getstate() == expected[1]


@pytest.mark.parametrize("kind", worlds.CANNOT_BE_SAVED)
def test_a_world_that_cannot_be_restored_exactly_says_so(kind: type) -> None:
    env = make(kind)
    env.reset()
    run(env, 120)
    state = env.state_dict()
    fresh = make(kind)
    fresh.load_state_dict(state)
    assert "its saved state does not come again" in fresh.problems()[0]


def test_tasks_that_draw_as_they_should_have_the_streams_they_had() -> None:
    """Gymnasium's own, seeded by hand: the first reset with the seed, later ones without."""
    env = GymVectorEnv(lambda seed: make_single("Pendulum-v1", seed), "p", [3], 1)
    theirs = gymnasium.make("Pendulum-v1")
    assert np.array_equal(env.reset()[0, 0].numpy(), theirs.reset(seed=3)[0])
    for _ in range(3):
        assert np.array_equal(env.reset()[0, 0].numpy(), theirs.reset()[0])
