"""`compile=auto` compiles where that is expected to end a run sooner, by what was measured on this machine."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from conftest import TINY, main
from test_compilation import learner

from agents.td3 import TD3Config
from rlreg.checkpoint import Checkpoints, flatten
from rlreg.compile_costs import (
    EXPECTED_CYCLE_SHARE,
    EXPECTED_SECONDS,
    WATCHED,
    CostBook,
    Costs,
    Seconds,
    Watched,
    put_back,
    time_eager,
)


@pytest.fixture(autouse=True)
def _no_programs_yet(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "programs"))


@pytest.mark.parametrize(
    ("costs", "num_updates", "pays"),
    [
        (Costs(), 10**9, False),  # nothing is known
        (Costs(eager_ms=10.0), 9_900, False),  # 5 ms are expected to be saved: 49.5 s, of which compiling takes 40
        (Costs(eager_ms=10.0), 10_100, True),  # 50.5 s are more than 1.25 times 40
        (Costs(eager_ms=10.0, share=0.5, seconds=30.0, times=2), 7_400, False),  # 37.0 s, and 37.5 are asked
        (Costs(eager_ms=10.0, share=0.5, seconds=30.0, times=2), 7_600, True),
        (Costs(eager_ms=10.0, share=0.5, seconds=30.0, times=1), 2_700, True),  # 10.5 s by Inductor's cache
        (Costs(eager_ms=10.0, expected_share=EXPECTED_CYCLE_SHARE), 19_900, False),  # 2.5 ms a cycle, not measured yet
        (Costs(eager_ms=10.0, expected_share=EXPECTED_CYCLE_SHARE), 20_100, True),
        (Costs(eager_ms=10.0, share=0.5, expected_share=EXPECTED_CYCLE_SHARE), 10_100, True),  # measured
        (Costs(eager_ms=5.0, share=1.2, seconds=0.0, times=3), 10**9, False),
    ],
)
def test_compiling_pays_where_it_saves_more_than_it_takes(costs, num_updates, pays) -> None:
    assert EXPECTED_SECONDS == 40.0
    assert costs.pays(num_updates) == pays


def test_the_least_of_what_was_measured_is_remembered_by_kind_of_update() -> None:
    agent, _ = learner(range(2))
    book = CostBook(agent)
    assert book.read() == Costs()
    book.note(eager_ms=3.0)
    book.note(eager_ms=4.0, share=0.5, seconds=30.0)
    assert CostBook(learner(range(2))[0]).read() == Costs(3.0, 0.5, 30.0, 1)
    assert book.note(seconds=6.0) == Costs(3.0, 0.5, 6.0, 2)
    slower = type(agent)(TD3Config(hidden=[16, 16], batch_size=8, tau=0.5), agent.regularizer, 5, 2, range(2))
    assert CostBook(slower).path == book.path  # a constant of the same program
    assert CostBook(learner(range(3))[0]).path != book.path
    wider = type(agent)(TD3Config(hidden=[16, 17], batch_size=8), agent.regularizer, 5, 2, range(2))
    assert CostBook(wider).path != book.path
    of_cycles = CostBook(agent, EXPECTED_CYCLE_SHARE)
    assert of_cycles.read() == of_cycles.note(eager_ms=5.0) == Costs(3.0, 0.5, 6.0, 2, EXPECTED_CYCLE_SHARE)
    assert book.read() == Costs(3.0, 0.5, 6.0, 2)


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_without_a_name_has_a_place_for_costs(monkeypatch, tmp_path, error) -> None:
    """As in a container that runs with a number that its list of users does not have."""

    def nameless() -> str:
        raise error

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("getpass.getuser", nameless)
    book = CostBook(learner(range(1))[0])
    book.note(eager_ms=2.0)
    assert book.read().eager_ms == 2.0 and tmp_path in book.path.parents


NONSENSE = ["", "[1, 2]", "{", '{"eager_ms": "fast"}', '{"eager_ms": -1}', '{"seconds": NaN}', "\0"]


@pytest.mark.parametrize("text", NONSENSE)
def test_a_file_of_costs_that_makes_no_sense_is_no_knowledge(text) -> None:
    book = CostBook(learner(range(1))[0])
    book.path.parent.mkdir()
    book.path.write_text(text)
    assert book.read() == Costs()


def test_state_is_put_back_also_where_the_block_fails() -> None:
    tensors = {"part": {"x": torch.arange(3.0)}}
    live = tensors["part"]["x"]
    with pytest.raises(RuntimeError, match="no memory"), put_back(lambda: tensors):
        live.zero_()
        raise RuntimeError("no memory")
    assert live.tolist() == [0.0, 1.0, 2.0]


def test_timing_an_update_leaves_the_agent_as_it_was() -> None:
    agent, replay = learner(range(2))

    def update(number: torch.Tensor, update_actor: bool) -> dict[str, torch.Tensor]:
        return agent.update(replay.sample("replay", number, 8), number, update_actor)

    before = {name: value.clone() for name, value in flatten(agent.state()).items()}
    taken = time_eager(agent, update, [False, True, False, True])
    assert taken.clock > 0 and taken.cpu > 0
    for name, value in flatten(agent.state()).items():
        assert torch.equal(value, before[name]), name
    update(torch.tensor(1), True)
    assert any(not torch.equal(value, before[name]) for name, value in flatten(agent.state()).items())


def test_what_compiling_took_is_noted_once(monkeypatch) -> None:
    """Clocks of our own: 8 and 5 s for the first call of each variant, then 10 ms per call, of which other programs
    keep the CPU 30 ms long now and then, and all the while that the eager update is measured."""
    book, clock, cpu, taken = CostBook(learner(range(1))[0]), [0.0], [0.0], {False: 8.0, True: 5.0}
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("time.process_time", lambda: cpu[0])

    def update(number: int, variant: bool) -> None:
        seconds = taken.pop(variant, 0.01)
        cpu[0] += seconds
        clock[0] += seconds + (0.03 if number % 4 == 0 else 0.0)

    watched = Watched(update, book, lambda: Seconds(clock=0.06, cpu=0.02))
    for number in range(1, 3 + WATCHED):
        assert book.read() == Costs()
        watched(number, number % 2 == 0)
    found = book.read()
    assert (found.times, found.eager_ms) == (1, None)
    assert found.share == pytest.approx(0.5) and found.seconds == pytest.approx(12.98)
    for number in range(100):
        watched(number, False)
    assert book.read() == found


LONG = ["agent=td3", "env=gym/Pendulum-v1", *TINY, "train.total_steps=300", "train.checkpoint_every=250"]
LONG += ["eval.every=300", "compile=auto"]


@pytest.fixture
def long_enough(monkeypatch) -> None:
    """200 updates are as many as are measured: what follows does not depend on how long a run is."""
    monkeypatch.setattr("rlreg.training.base.LEAST_UPDATES", 200)


def tensors(folder) -> dict[str, torch.Tensor]:
    return Checkpoints(folder / "checkpoints").load()[1]


@pytest.mark.usefixtures("long_enough")
def test_a_run_that_compiling_would_delay_is_the_eager_one_to_the_bit(monkeypatch, capsys, tmp_path) -> None:
    for mode in ("auto", "eager"):
        assert main(monkeypatch, *LONG, f"run_dir={tmp_path / mode}", f"compile={mode}") == 0
    assert "compile=auto: updates are eager, since 200 eager ones take some" in capsys.readouterr().out
    auto, eager = tensors(tmp_path / "auto"), tensors(tmp_path / "eager")
    torch.testing.assert_close(auto, eager, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("long_enough")
def test_a_resumed_run_goes_on_by_the_program_it_began_with(monkeypatch, capsys, tmp_path) -> None:
    """The costs that were known when it began are gone by then."""
    calls = []
    monkeypatch.setattr(torch, "compile", lambda update, **_: calls.append(1) or update)
    monkeypatch.setattr(CostBook, "read", lambda self: Costs(share=0.0, seconds=0.0, times=2))
    @contextmanager
    def interrupted():
        seen = iter(range(10**6))
        yield lambda: next(seen) > 150

    with monkeypatch.context() as patch:
        patch.setattr("rlreg.training.base.interrupts", interrupted)
        assert main(monkeypatch, *LONG, f"run_dir={tmp_path / 'run'}") == 130
    assert "updates are compiled" in capsys.readouterr().out and calls == [1]
    monkeypatch.setattr(CostBook, "read", lambda self: Costs(share=10**6, seconds=10**6, times=2))
    assert main(monkeypatch, *LONG, f"run_dir={tmp_path / 'run'}") == 0
    assert "compile=auto" not in capsys.readouterr().out and calls == [1, 1]
