"""A curriculum's compiled cycles compute what eager ones do, the same bits each time; when `compile=auto` compiles."""

from __future__ import annotations

import pytest
import torch
from test_compilation import COMPILER
from test_level_replay import TINY, curriculum
from test_runner import main

from envs.cave.space import CaveEscape
from rlreg import compile_costs, lstm, rollouts
from rlreg.checkpoint import Checkpoints, flatten
from rlreg.compilation import compiled
from rlreg.training import curriculum as loop


def tensors_of(made) -> dict[str, torch.Tensor]:
    """All that a checkpoint holds, live."""
    return flatten({"agent": made.state(), "curriculum": made.progress()})


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_compiled_cycles_equal_eager_ones_and_repeat_to_the_bit(monkeypatch) -> None:
    """Replays that teach and auditions of edits; the chunks of 5 leave 3 of the 48 steps to be taken eagerly."""
    monkeypatch.setattr(rollouts, "STEPS_PER_CALL", 1)
    monkeypatch.setattr(lstm, "CHUNK", 5)
    space = CaveEscape("cave_escape_512_4ts_varp", 12, ["cave_escape_512_4ts_varp:test"], 4, max_episode_steps=40)
    eager, ours = (curriculum(space, seeds=(0, 1)) for _ in range(2))
    torch.compiler.reset()
    ours.compile(compiled)
    metrics = [[made.cycle() for _ in range(made.warm_up + 2)][-1] for made in (eager, ours)]
    torch.testing.assert_close(*metrics, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(tensors_of(ours), tensors_of(eager), rtol=1e-4, atol=1e-5, equal_nan=True)

    before, cycles = {name: x.clone() for name, x in tensors_of(ours).items()}, ours.cycles
    ours.cycle()
    after = {name: x.clone() for name, x in tensors_of(ours).items()}
    assert not torch.equal(before["agent/student/policy.0.weight"], after["agent/student/policy.0.weight"])
    for name, x in tensors_of(ours).items():  # as a run resumes
        x.copy_(before[name])
    ours.cycles = cycles
    ours.cycle()
    torch.testing.assert_close(tensors_of(ours), after, rtol=0, atol=0, equal_nan=True)


def test_auto_compiles_a_curriculum_where_that_pays_and_a_resumed_run_keeps_to_it(monkeypatch, capsys, tmp_path):
    """The compiler is put aside: what it is given is run as it is."""
    made: list[str] = []
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch, "compile", lambda function, **_: made.append(function.__name__) or function)
    monkeypatch.setattr(loop, "LEAST_UPDATES", 1)
    run = (*TINY, "agent=plr", "products=aten")

    def curve(folder: str) -> str:
        return (tmp_path / folder / "eval.csv").read_text()

    assert main(monkeypatch, *run, f"run_dir={tmp_path}/eager", "compile=eager") == 0
    assert "compile=auto" not in capsys.readouterr().out
    assert main(monkeypatch, *run, f"run_dir={tmp_path}/auto") == 0
    assert "compile=auto: updates are eager, since 4 eager ones take" in capsys.readouterr().out and not made
    assert main(monkeypatch, *run, f"run_dir={tmp_path}/compiled", "compile=compile") == 0
    assert "compile=auto" not in capsys.readouterr().out and made == ["play_steps", "loss", "descend"]
    known = compile_costs.Costs(**compile_costs.json.loads(next((tmp_path / "cache").glob("*.json")).read_text()))
    assert known.times == 1 and known.eager_ms > 0 and known.seconds >= 0

    save = Checkpoints.save

    def save_and_die(self, *args):
        save(self, *args)
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(Checkpoints, "save", save_and_die)
        patch.setattr(compile_costs.Costs, "pays", lambda *_: True)
        main(monkeypatch, *run, f"run_dir={tmp_path}/pays")
    assert "compile=auto: updates are compiled" in capsys.readouterr().out and len(made) == 6
    assert main(monkeypatch, *run, f"run_dir={tmp_path}/pays") == 0
    told = capsys.readouterr().out
    assert "resuming from step 2" in told and "compile=auto" not in told and len(made) == 9
    assert curve("eager") == curve("auto") == curve("compiled") == curve("pays")
