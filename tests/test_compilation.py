"""Compiled updates compute what eager ones do, and a missing compiler costs one warning and nothing else."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, main

from agents.td3 import TD3, TD3Config
from rlreg.buffers import Replay
from rlreg.checkpoint import flatten
from rlreg.compilation import DirectCalls, compiled, prepare
from rlreg.errors import UserError
from rlreg.regularizers import BEER

OBS, ACT = 5, 2
CPU = torch.device("cpu")
COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def learner(seeds: range, policy_delay: int = 2) -> tuple[TD3, Replay]:
    config = TD3Config(hidden=[16, 16], batch_size=8, policy_delay=policy_delay)
    agent = TD3(config, BEER(), OBS, ACT, seeds)
    replay = Replay(seeds, 64, OBS, ACT)
    rows = torch.randn(len(seeds), 64, replay.rows.shape[-1], generator=torch.Generator().manual_seed(0))
    rows[..., -2:] = 0.0  # neither terminated nor truncated
    replay.write(0, rows)
    return agent, replay


def train(seeds: range, policy_delay: int, mode: str, updates: int) -> tuple[TD3, dict[str, torch.Tensor]]:
    agent, replay = learner(seeds, policy_delay)

    def update(step: torch.Tensor, update_actor: bool) -> dict[str, torch.Tensor]:
        return agent.update(replay.sample("replay", step, agent.config.batch_size), step, update_actor)

    program = prepare(update, mode, CPU)
    step = torch.zeros((), dtype=torch.int64)
    metrics = {}
    for number in range(1, updates + 1):
        metrics |= program(step.fill_(number), number % policy_delay == 0)
    return agent, metrics


UPDATES = 9
"""Of every run here: three calls of three."""


@pytest.fixture(scope="module")
def trained() -> Callable[..., tuple[TD3, dict[str, torch.Tensor]]]:
    """`train` with 9 updates, each kind of run once: compiling takes seconds."""

    @cache
    def run(num_seeds: int, policy_delay: int, mode: str) -> tuple[TD3, dict[str, torch.Tensor]]:
        return train(range(num_seeds), policy_delay, mode, UPDATES)

    return run


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
@pytest.mark.parametrize(("num_seeds", "policy_delay"), [(1, 1), (3, 2)])
def test_compiled_updates_equal_eager_ones(trained, num_seeds: int, policy_delay: int) -> None:
    compiled, compiled_metrics = trained(num_seeds, policy_delay, "compile")
    eager, eager_metrics = trained(num_seeds, policy_delay, "eager")
    for name in ("actor_params", "critic_params", "actor_target", "critic_target"):
        torch.testing.assert_close(getattr(compiled, name), getattr(eager, name), rtol=1e-4, atol=1e-5)
    assert compiled_metrics.keys() == eager_metrics.keys()
    torch.testing.assert_close(compiled_metrics, eager_metrics, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["eager", pytest.param("compile", marks=pytest.mark.skipif(not COMPILER, reason="-"))])
def test_several_updates_a_call_are_those_one_by_one(trained, mode: str) -> None:
    agent, replay = learner(range(3))

    def update(step: torch.Tensor, update_actor: bool) -> dict[str, torch.Tensor]:
        return agent.update(replay.sample("replay", step, agent.config.batch_size), step, update_actor)

    program, metrics = prepare(update, mode, CPU, per_call=3), {}
    for first in range(1, UPDATES, 3):
        metrics |= program(torch.tensor(first), tuple(n % 2 == 0 for n in range(first, first + 3)))
    alone, alone_metrics = trained(3, 2, mode)
    for name in ("actor_params", "critic_params", "actor_target", "critic_target"):
        torch.testing.assert_close(getattr(agent, name), getattr(alone, name), rtol=0, atol=0)
    torch.testing.assert_close(metrics, alone_metrics, rtol=0, atol=0)


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_calls_past_dynamo_are_those_by_way_of_it_to_the_bit(trained, monkeypatch) -> None:
    direct, direct_metrics = trained(3, 2, "compile")
    monkeypatch.setattr("rlreg.compilation.DirectCalls", compiled)
    other, other_metrics = train(range(3), 2, "compile", UPDATES)
    torch.testing.assert_close(flatten(direct.state()), flatten(other.state()), rtol=0, atol=0)
    torch.testing.assert_close(direct_metrics, other_metrics, rtol=0, atol=0)


class Box:
    """What updates below read and write."""

    def __init__(self) -> None:
        self.x = torch.zeros(3)


def in_place(box: Box, step: torch.Tensor) -> torch.Tensor:
    return box.x.add_(step)


def anew(box: Box, step: torch.Tensor) -> torch.Tensor:
    box.x = box.x + step
    return box.x


@pytest.mark.parametrize(("change", "returned", "direct"), [
    (in_place, lambda x, step: {"sum": x.sum(), "pair": (x * 2, x.sum() + step)}, True),
    (in_place, lambda x, step: {"sum": x.sum(), "step": step}, False),  # no result of the program
    (in_place, lambda x, step: {"sum": x.sum(), "one": 1.0}, False),
    (anew, lambda x, step: {"sum": x.sum()}, False),  # another tensor at each call
])  # fmt: skip
def test_only_what_is_changed_in_place_is_called_past_dynamo(monkeypatch, change, returned, direct) -> None:
    """Of Dynamo's programs, uncompiled."""
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph.forward)

    def update(box: Box, step: torch.Tensor, double: bool) -> dict[str, object]:
        return returned(change(box, step * 2 if double else step), step)

    seen, expected = Box(), Box()
    program = DirectCalls(partial(update, seen))
    for number in range(1, 9):
        step = torch.tensor(number)
        out = program(step, number % 3 == 0)
        torch.testing.assert_close(out, update(expected, step, number % 3 == 0), rtol=0, atol=0)
    assert torch.equal(seen.x, expected.x)
    assert [program.is_direct(double) for double in (False, True)] == [direct, direct]


ONLINE = [*TINY, "env=gym/Pendulum-v1", "train.total_steps=200", "eval.every=200"]
RUNS = {
    "ddpg": ["agent=ddpg"],
    "beer_td3": ["agent=beer_td3"],
    "sac": ["agent=sac"],
    "many worlds, n steps, normalised": ["agent=td3", "scale=parallel", "train.num_envs=4", "agent.batch_size=16"],
}


@pytest.mark.parametrize("run", RUNS)
def test_every_kind_of_update_in_a_run_is_called_past_dynamo(monkeypatch, tmp_path, run) -> None:
    """Of Dynamo's programs, uncompiled."""
    made, variants = [], set()

    class Spied(DirectCalls):
        def __init__(self, update):
            super().__init__(update)
            made.append(self)

        def __call__(self, step, variant):
            variants.add(variant)
            return super().__call__(step, variant)

    monkeypatch.setattr("rlreg.compilation.DirectCalls", Spied)
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph.forward)
    assert main(monkeypatch, *ONLINE, *RUNS[run], "compile=compile", f"run_dir={tmp_path}/run") == 0
    (program,) = made
    assert variants and all(program.is_direct(variant) for variant in variants)


def test_auto_compiles_only_where_that_is_worthwhile() -> None:
    def update(step: torch.Tensor, flag: bool) -> dict[str, torch.Tensor]:
        return {}

    assert prepare(update, "auto", CPU, worthwhile=False) is update
    assert prepare(update, "auto", CPU) is not update
    assert prepare(update, "eager", CPU) is update


def test_modes_that_a_device_has_not_are_refused() -> None:
    with pytest.raises(UserError, match="auto, compile or eager"):
        prepare(lambda: None, "graph", CPU)
    with pytest.raises(UserError, match="eager"):
        prepare(lambda: None, "fast", CPU)


def test_without_a_compiler_auto_falls_back_with_one_warning(forks, tmp_path: Path) -> None:
    """In a process of its own, as PyTorch remembers the compiler it found."""
    script = """
        import sys
        sys.path.insert(0, "tests")
        import warnings
        import torch
        from test_compilation import CPU, learner
        from rlreg.compilation import prepare

        agent, replay = learner(range(1))
        calls = []
        def update(step, update_actor):
            if not torch.compiler.is_compiling():
                calls.append(int(step))
            return agent.update(replay.sample("replay", step, 8), step, update_actor)

        program = prepare(update, "auto", CPU)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for number in range(1, 5):
                program(torch.tensor(number), number % 2 == 0)
        ours = [str(w.message) for w in caught if "torch.compile failed" in str(w.message)]
        assert len(ours) == 1 and "compiler" in ours[0], ours
        assert calls == [1, 2, 3, 4], calls
        assert agent.critic_optimizer.steps["0.weight"] == 4
        assert agent.actor_optimizer.steps["0.weight"] == 2
    """
    environment = os.environ | {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(script))
    result = forks.run([sys.executable, str(program)], cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stderr
