"""A stack's updates seed by seed are the stack's; and who is not made for that stays stacked."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import TINY, main

from agents.a2pr import A2PR, A2PRConfig
from agents.bc import BC, BCConfig
from agents.dqn import DQN, DQNConfig
from agents.iql import IQL, IQLConfig
from agents.sac import SAC, SACConfig
from agents.td3 import TD3, TD3Config
from agents.td3_bc import TD3BC, TD3BCConfig
from rlreg.buffers import Batch, DatasetBuffer, Replay
from rlreg.checkpoint import Checkpoints, flatten
from rlreg.compilation import OneAfterTheOther
from rlreg.learner import Learner
from rlreg.regularizers import BEER, InFeR, Regularizer
from rlreg.rng import Rng

OBS, ACT, ROWS, SEEDS = 5, 2, 60, (4, 9, 2)
SIZES = {"hidden": [12, 8], "batch_size": 16}
ONLINE = {
    "beer": (TD3, TD3Config(**SIZES, num_critics=1, policy_delay=1, target_noise=0.0), BEER()),
    "td3, infer, normalised": (TD3, TD3Config(**SIZES, running_normalization=True), InFeR(heads=3)),
    "td3, n steps": (TD3, TD3Config(**SIZES), Regularizer()),
    "sac": (SAC, SACConfig(**SIZES), Regularizer()),
    "dqn": (DQN, DQNConfig(**SIZES), Regularizer()),
}
OFFLINE = {
    "bc": (BC, BCConfig(**SIZES)),
    "td3_bc": (TD3BC, TD3BCConfig(**SIZES)),
    "iql": (IQL, IQLConfig(**SIZES)),
    "a2pr": (A2PR, A2PRConfig(**SIZES, critic_hidden=[9, 8], vae_hidden=[12, 10])),
}


def online(name: str, seeds=SEEDS) -> Learner:
    """On a ring that each seed filled with transitions of its own."""
    kind, config, regularizer = ONLINE[name]
    agent = kind(config, regularizer, OBS, ACT, seeds)
    memory = Replay(seeds, 40, OBS, ACT, **{"n_step": 3, "discount": 0.9} if "n steps" in name else {})
    rng = Rng(seeds)
    obs, next_obs = (rng.normal(key, 0, (ROWS, OBS)) for key in ("obs", "next_obs"))
    action = torch.tanh(rng.normal("action", 0, (ROWS, ACT)))
    terminated = (rng.uniform("end", 0, (ROWS,)) < 0.2).float()
    for row in range(ROWS):
        at = slice(row, row + 1)
        left_out = rng.uniform("out", row, (1,)) < 0.1
        agent.observe(obs[:, at])
        memory.add(obs[:, at], action[:, at], obs[:, at, 0], next_obs[:, at], terminated[:, at], left_out)
    return Learner(agent, memory)


def offline(name: str, seeds=SEEDS) -> Learner:
    kind, config = OFFLINE[name]
    rng = np.random.default_rng(0)
    columns = [rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((ROWS, OBS), (ROWS, ACT), ROWS, (ROWS, OBS))]
    data = Batch(*columns, terminated=np.zeros(ROWS, np.float32))
    memory = DatasetBuffer(seeds, data, returns=np.array([0.0, 400.0]))
    learner = Learner(kind(config, Regularizer(), OBS, ACT, seeds), memory)
    learner.agent.fit(learner.memory)
    return learner


@pytest.fixture(autouse=True)
def too_large_for_the_cache(monkeypatch) -> None:
    monkeypatch.setattr("rlreg.learner.FITS", 16 * 5)


@pytest.fixture
def programs(monkeypatch) -> list[int]:
    """Dynamo's programs, one entry for each that is made; not compiled."""
    torch.compiler.reset()
    made: list[int] = []
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: made.append(1) or graph.forward)
    return made


@pytest.mark.parametrize("name", [*ONLINE, *OFFLINE])
def test_updates_seed_by_seed_are_the_stacks(name, programs) -> None:
    """By one program a variant, whatever S is; and each seed's are called past Dynamo in the end."""
    make = online if name in ONLINE else offline
    learner, stack = make(name), make(name)
    before = {key: value.clone() for key, value in flatten(stack.agent.state()).items()}
    parts = learner.seed_by_seed()
    torch.testing.assert_close(flatten(learner.agent.state()), before, rtol=0, atol=0)
    update = OneAfterTheOther(parts)
    for number in range(1, 9):
        step, variant = torch.tensor(number), stack.agent.variant(number)
        torch.testing.assert_close(update(step, variant), stack.update(step, variant), rtol=1e-3, atol=1e-4)
    assert len(parts) == 3 and len(programs) == len(set(stack.variants()))
    assert all(update.program.is_direct(variant, part) for part in parts for variant in stack.variants())
    ours, theirs = flatten(learner.agent.state()), flatten(stack.agent.state())
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(ours[key], value) for key, value in before.items())
    counts = {key: value for key, value in theirs.items() if value.dim() == 0}
    assert counts and all(torch.equal(ours[key], value) for key, value in counts.items())


def test_a_seed_that_has_diverged_stands_still_and_the_others_go_on(programs) -> None:
    learner, stack = online("beer"), online("beer")
    for who in (learner, stack):
        who.memory.rows[1, :, OBS + ACT] = torch.nan  # rewards
    update = OneAfterTheOther(learner.seed_by_seed())
    for number in range(1, 4):
        update(torch.tensor(number), stack.agent.variant(number))
        stack.update(torch.tensor(number), stack.agent.variant(number))
    assert learner.agent.alive.tolist() == [True, False, True]
    ours, theirs = flatten(learner.agent.state()), flatten(stack.agent.state())
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


class BySeedsInPython(TD3):
    """The program of one seed is none for another."""

    def update(self, batch, step, update_actor):
        scale = torch.tensor([1.0 + seed for seed in self.seeds])
        return super().update(batch._replace(reward=batch.reward * scale[:, None]), step, update_actor)


def by_seeds_in_python() -> Learner:
    learner = online("beer")
    return Learner(BySeedsInPython(learner.agent.config, Regularizer(), OBS, ACT, SEEDS), learner.memory)


def test_where_the_compiler_fails_at_a_later_seed_none_is_updated_twice(monkeypatch) -> None:
    torch.compiler.reset()
    made = []

    def only_once(graph, inputs, options):
        made.append(1)
        if len(made) > 1:
            raise OSError("no space left")
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile", only_once)
    learner, stack = by_seeds_in_python(), by_seeds_in_python()
    update = OneAfterTheOther(learner.seed_by_seed())
    with pytest.warns(UserWarning, match="updates run eagerly") as told:
        for number in range(1, 4):
            step, variant = torch.tensor(number), stack.agent.variant(number)
            torch.testing.assert_close(update(step, variant), stack.update(step, variant), rtol=1e-3, atol=1e-4)
    assert len(told) == 1 and len(made) == 2


def test_a_program_is_shared_only_where_dynamo_finds_no_difference(programs) -> None:
    learner, stack = by_seeds_in_python(), by_seeds_in_python()
    update = OneAfterTheOther(learner.seed_by_seed())
    for number in range(1, 5):
        step, variant = torch.tensor(number), stack.agent.variant(number)
        torch.testing.assert_close(update(step, variant), stack.update(step, variant), rtol=1e-3, atol=1e-4)
    assert len(programs) == 3


class Replaces(TD3):
    """Not in place, as the contract has it."""

    def move_targets(self):
        self.critic_target = {name: 0.5 * (p + self.critic_params[name]) for name, p in self.critic_target.items()}


class MadeOtherwise(TD3):
    @classmethod
    def for_env(cls, config, regularizer, env, seeds, device):
        return cls(config, regularizer, env.obs_dim, env.action_dim, seeds, device)


class KeepsMore(TD3):
    """A tensor whose first axis is not the seeds'."""

    def state(self):
        return super().state() | {"more": {"more": torch.zeros(7)}}


@pytest.mark.parametrize("kind", [Replaces, MadeOtherwise, KeepsMore])
def test_an_agent_that_is_not_made_for_it_stays_stacked(kind) -> None:
    agent = kind(TD3Config(**SIZES, policy_delay=1), Regularizer(), OBS, ACT, SEEDS)
    before = {key: value.clone() for key, value in flatten(agent.state()).items()}
    assert Learner(agent, online("td3, n steps").memory).seed_by_seed() == []
    torch.testing.assert_close(flatten(agent.state()), before, rtol=0, atol=0)


def test_one_seed_small_stacks_bfloat16_and_several_threads_are_left_as_they_are(monkeypatch) -> None:
    assert online("beer", (4,)).seed_by_seed() == []
    torch.set_num_threads(2)
    try:
        assert online("beer").seed_by_seed() == []
    finally:
        torch.set_num_threads(1)
    assert len(online("beer").seed_by_seed()) == 3
    learner = online("beer")
    learner.agent.precision = "bfloat16"
    assert learner.seed_by_seed() == []
    widest = 3 * (16 * 12 + 12 * 8 + 16 * 8)  # S x (what comes in, weights, what goes out)
    monkeypatch.setattr("rlreg.learner.FITS", widest)
    assert online("beer").seed_by_seed() == []
    monkeypatch.setattr("rlreg.learner.FITS", widest - 1)
    assert len(online("beer").seed_by_seed()) == 3


RUN = [*TINY, "env=gym/Pendulum-v1", "agent=td3", "agent.policy_delay=1", "seeds=3", "train.total_steps=200"]


def test_a_run_goes_on_to_the_bit_and_learns_what_the_stack_does(monkeypatch, programs, tmp_path) -> None:
    def tensors(run: str) -> dict[str, torch.Tensor]:
        return Checkpoints(tmp_path / run / "checkpoints").load()[1]

    @contextmanager
    def interrupted():
        seen = iter(range(10**6))
        yield lambda: next(seen) > 150

    for mode in ("compile", "eager"):
        assert main(monkeypatch, *RUN, f"compile={mode}", f"run_dir={tmp_path}/{mode}") == 0
    with monkeypatch.context() as patch:
        patch.setattr("rlreg.training.base.interrupts", interrupted)
        assert main(monkeypatch, *RUN, "compile=compile", f"run_dir={tmp_path}/stopped") == 130
    assert main(monkeypatch, *RUN, "compile=compile", f"run_dir={tmp_path}/stopped") == 0
    torch.testing.assert_close(tensors("stopped"), tensors("compile"), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(tensors("compile"), tensors("eager"), rtol=1e-2, atol=1e-3, equal_nan=True)
    assert len(programs) == 3  # one in each run
