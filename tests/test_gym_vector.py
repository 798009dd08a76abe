"""Worlds: the same numbers in process and in workers, saved and restored exactly, ends told apart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from conftest import ROOT

import envs.dmc
import envs.gym
from envs.adapters import ToGymnasium
from envs.base import Step, VectorEnv, world_seed
from envs.dmc import DMControlEnv
from envs.gym_vector import GymVectorEnv, _processes
from rlreg.errors import UserError
from rlreg.purpose import Purpose


class Countdown(gymnasium.Env):
    """Walks 0, 1, 2, ... from a random start; ends by termination or truncation, or goes wrong, as told."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    max_episode_steps = 4

    def __init__(self, seed: int, terminates: bool = False, fails: str = "") -> None:
        super().reset(seed=seed)
        self.terminates, self.fails = terminates, fails

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self.state = np.array([self.np_random.random(), 0], np.float32)
        return self.state.copy(), {}

    def step(self, action):
        self.state[1] += 1
        end = bool(self.state[1] == 4)
        obs, reward = self.state.copy(), float(action[0])
        if self.state[1] == 3:
            obs[1] = np.inf if self.fails == "observation" else obs[1]
            reward = np.nan if self.fails == "reward" else reward
        return obs, reward, end and self.terminates, end and not self.terminates, {}


class LastSteps(gymnasium.Wrapper):
    """A task that its tests need only the ends of: truncated after `max_episode_steps`."""

    def __init__(self, env: gymnasium.Env, max_episode_steps: int) -> None:
        super().__init__(env)
        self.max_episode_steps = max_episode_steps

    def reset(self, **kwargs: Any):
        self._steps = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        return obs, reward, terminated, truncated or self._steps == self.max_episode_steps, info


def short(task: str, seed: int) -> gymnasium.Env:
    return LastSteps(DMControlEnv(task, seed), 25)


def make(task: str, workers: int, seeds: tuple[int, ...] = (0, 5)) -> VectorEnv:
    """Two worlds per seed, with episodes of at most 25 steps."""
    if "-v" in task:
        return envs.gym.make(task, seeds, 2, workers=workers, max_episode_steps=25)
    return GymVectorEnv(partial(short, task), task, seeds, 2, workers=workers)


def actions(env: VectorEnv, steps: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(steps, len(env.seeds), env.num_envs, env.action_dim, generator=generator) * 2 - 1


def run(env: VectorEnv, acts: torch.Tensor) -> list[Step]:
    return [env.step(action) for action in acts]


def assert_equal(ours: list[Step], theirs: list[Step]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for name, a, b in zip(Step._fields, one, other, strict=True):
            assert torch.equal(a, b) and a.dtype == b.dtype, name


# Models changed at reset (finger, quadruped) or drawn from the seed (lqr), rejection sampling (manipulator).
QUICK = ["finger-turn_hard", "quadruped-escape", "lqr-lqr_2_1", "manipulator-insert_peg", "acrobot-swingup"]
QUICK += ["cartpole-swingup", "swimmer-swimmer6", "humanoid-stand", "Hopper-v4", "Ant-v5", "Pendulum-v1"]
QUICK += ["LunarLander-v3"]
REST = sorted({*envs.dmc.task_names(), *envs.gym.gym_ids()} - set(QUICK))


@pytest.mark.parametrize("task", [*QUICK, *(pytest.param(task, marks=pytest.mark.slow) for task in REST)])
def test_restored_worlds_go_on_to_the_bit(task: str) -> None:
    env, other, fresh = (make(task, workers=0, seeds=(5,)) for _ in range(3))
    acts = actions(env, 80)
    env.reset()
    before = run(env, acts[:40])[-1]  # the second episode is under way
    saved = env.state_dict()
    now = run(env, acts[40:])  # and two more begin
    other.reset()
    run(other, acts[:7] * 0.5)  # restoring has to undo another past
    for again in (other, fresh):
        assert torch.equal(again.load_state_dict(saved), before.obs)
        assert_equal(run(again, acts[40:]), now)


@pytest.mark.parametrize("task", ["humanoid-stand", "Hopper-v4"])
def test_workers_give_the_same_numbers_and_state(task: str) -> None:
    """Three processes for four worlds: two a group, and a group that is not full."""
    here, there = make(task, workers=0), make(task, workers=3)
    assert there.obs_dim == here.obs_dim and there.max_episode_steps == here.max_episode_steps == 25
    acts = actions(here, 60)
    assert torch.equal(here.reset(), there.reset())
    assert_equal(run(here, acts[:40]), run(there, acts[:40]))
    saved = there.state_dict()
    rest = run(here, acts[40:])
    assert_equal(rest, run(there, acts[40:]))
    there.load_state_dict(saved)
    assert_equal(rest, run(there, acts[40:]))
    here.load_state_dict(saved)
    assert_equal(rest, run(here, acts[40:]))
    there.close()


def test_state_is_json_and_arrays() -> None:
    """Checkpoints hold no pickles."""
    for env in (make("cartpole-balance", 0), make("Hopper-v4", 0)):
        env.reset()
        run(env, actions(env, 3))
        state = env.state_dict()
        text = json.dumps(state, default=lambda value: {"array": value.tolist(), "dtype": str(value.dtype)})

        def revive(value: dict) -> Any:
            return np.array(value["array"], value["dtype"]) if "array" in value else value

        again = json.loads(text, object_hook=revive)
        expected = run(env, actions(env, 3, seed=1))
        env.load_state_dict(again)
        assert_equal(run(env, actions(env, 3, seed=1)), expected)
        assert [len(worlds) for worlds in state["worlds"]] == [2, 2]
        assert state["worlds"][0][0]["actions"].shape == (3, env.action_dim)


def test_state_of_other_worlds_is_refused() -> None:
    env = make("cartpole-balance", 0)
    env.reset()
    with pytest.raises(
        UserError, match=r"seeds \[0, 5\] with 4 worlds in all does not fit seeds \[0\] with 2"
    ):
        GymVectorEnv(partial(short, "cartpole-balance"), "c", [0], 2).load_state_dict(env.state_dict())


@pytest.mark.parametrize("terminates", [False, True])
def test_an_end_by_the_task_and_one_by_time_are_told_apart(terminates: bool) -> None:
    env = GymVectorEnv(partial(Countdown, terminates=terminates), "countdown", [1, 2], 3)
    first = env.reset()
    for step in run(env, actions(env, 3)):
        assert torch.equal(step.obs, step.final_obs)
        assert not (step.terminated | step.truncated).any()
    step = env.step(actions(env, 1)[0])
    assert step.terminated.all() == terminates and step.truncated.all() != terminates
    assert (step.final_obs[..., 1] == 4).all() and torch.equal(step.final_obs[..., 0], first[..., 0])
    assert (step.obs[..., 1] == 0).all() and (step.obs[..., 0] != first[..., 0]).all()
    assert torch.equal(step.reward, actions(env, 1)[0, ..., 0]) and step.reward.shape == (2, 3)


def test_returned_tensors_are_the_callers() -> None:
    """A stored observation must not change at the next step, nor a stored action."""
    env = GymVectorEnv(Countdown, "countdown", [1], 1)
    obs, action = env.reset(), torch.zeros(1, 1, 1)
    step = env.step(action)
    kept = [tensor.clone() for tensor in (obs, *step)]
    action += 1
    env.step(action)
    assert all(torch.equal(a, b) for a, b in zip((obs, *step), kept, strict=True))
    assert env.state_dict()["worlds"][0][0]["actions"].tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("field, workers", [("observation", 0), ("reward", 0), ("reward", 2)])
def test_a_bad_step_is_told_with_field_step_seed_and_world(field: str, workers: int, capfd) -> None:
    single = partial(Countdown, fails=field)
    env = GymVectorEnv(single, "countdown", [3, 4], 1, purpose=Purpose.EVALUATE, workers=workers)
    env.reset()
    run(env, actions(env, 2))
    step = env.step(actions(env, 1)[0])
    assert step.bad.all() and step.truncated.all()
    field = {"observation": "observation[1] is inf", "reward": "reward is nan"}[field]
    assert env.problems()[0] == f"countdown (seed 3, evaluation world 0): {field} at episode step 3"
    env.close()
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_that_dies_in_a_step_is_an_error_and_closing_does_not_wait_for_it() -> None:
    env = GymVectorEnv(partial(Countdown), "countdown", [3, 4], 1, workers=2)
    env.reset()
    processes = env._processes.processes
    os.kill(processes[1].pid, signal.SIGSTOP)  # so that it is surely killed before it answers
    env._processes.step_async(env._actions)
    processes[1].kill()
    processes[1].join()
    told = "a worker process of the worlds of countdown was killed by signal 9"
    with pytest.raises(UserError, match=told), env._workers_alive():
        env._processes.step_wait()  # has read the first worker's answer, which will not come again
    env.close()
    assert not any(process.is_alive() for process in processes)


@pytest.mark.parametrize("end", ["1 / 0", "env.close(); env.close()", "os.kill(os.getpid(), 9)"])
def test_a_process_ends_with_its_workers(end: str) -> None:
    """However it ends, although workers ignore SIGTERM; a process that waited for them would time out."""
    source = (
        "import os, envs.gym; env = envs.gym.make('Pendulum-v1', (0,), 2, workers=2); env.reset(); "
        f"print([p.pid for p in env._processes.processes], flush=True); {end}"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "Worker" not in done.stderr and ("Traceback" in done.stderr) == ("1 / 0" in end), done.stderr
    deadline = time.time() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in json.loads(done.stdout)):
        assert time.time() < deadline
        time.sleep(0.1)


def test_every_world_has_its_own_stream() -> None:
    train, again = (envs.dmc.make("cartpole-balance", [0, 1], 2) for _ in range(2))
    evaluation = envs.dmc.make("cartpole-balance", [0, 1], 2, purpose=Purpose.EVALUATE)
    alone = envs.dmc.make("cartpole-balance", [1], 2)
    starts = torch.cat([train.reset().flatten(0, 1), evaluation.reset().flatten(0, 1)])
    assert len(starts.unique(dim=0)) == 8
    assert torch.equal(again.reset().flatten(0, 1), starts[:4])
    assert torch.equal(alone.reset().flatten(0, 1), starts[2:4])
    assert not torch.equal(again.reset().flatten(0, 1), starts[:4])  # the streams go on
    assert world_seed(9, 0) == 9 and world_seed(9, 0, purpose=Purpose.EVALUATE) != 9


def test_auto_starts_as_many_processes_as_there_are_cores_and_worlds_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert [_processes("auto", n) for n in (1, 7, 8, 100)] == [0, 0, 8, 16]
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert _processes("auto", 100) == 0 and _processes(5, 3) == 3
    for wrong in (-1, "many", 1.5, True):
        with pytest.raises(UserError, match="workers="):
            _processes(wrong, 3)


@pytest.mark.parametrize("seeds, worlds", [([], 1), ([0], 0)])
def test_worlds_of_no_seed_or_no_number_are_refused(seeds: list[int], worlds: int) -> None:
    with pytest.raises(UserError, match="at least one seed and one world"):
        envs.dmc.make("cartpole-balance", seeds, worlds)


@pytest.mark.parametrize("workers", [0, 3])
def test_worlds_are_seeded_as_gymnasiums_own(workers: int) -> None:
    """`reset(seed=k)` of our worlds for everybody is what environment i says to `reset(seed=k + i)`, and again so."""
    worlds = envs.gym.make("Pendulum-v1", (5,), 4, workers=workers, backend="gymnasium")
    ours, theirs = ToGymnasium(worlds), gymnasium.make_vec("Pendulum-v1", num_envs=4)
    try:
        ours.reset()
        for seed in (11, [3, 1, 4, 15], 11):
            first = ours.reset(seed=seed)[0]
            np.testing.assert_array_equal(first, theirs.reset(seed=seed)[0])
            after, wanted = ours.step(np.full((4, 1), 0.5, np.float32)), theirs.step(np.ones((4, 1), np.float32))
            np.testing.assert_allclose(after[0], wanted[0], rtol=1e-6)
        assert not np.array_equal(ours.reset()[0], first)
    finally:
        ours.close()
