"""Runs have names, are found again by their settings, and can be extended."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY
from omegaconf import OmegaConf
from test_runner import main

import rlreg.sb3
from rlreg.checkpoint import Checkpoints
from rlreg.report.cell import Cell
from rlreg.run_folder import RunFolder

PENDULUM = [*TINY, "env=gym/Pendulum-v1", "agent=beer", "env.max_episode_steps=20", "train.warmup_steps=50"]


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "eval.csv").read_text().splitlines()))


def test_a_run_is_extended_and_equals_one_of_that_length(monkeypatch, capsys, tmp_path):
    kept = "train.keep_replay=true"
    short = [*PENDULUM, kept, f"run_dir={tmp_path}/run"]
    assert main(monkeypatch, *PENDULUM, kept, f"run_dir={tmp_path}/whole", "train.total_steps=400") == 0
    assert main(monkeypatch, *short, "train.total_steps=200") == 0
    capsys.readouterr()
    assert main(monkeypatch, *short, "train.total_steps=400") == 0
    assert "resuming from step 200" in capsys.readouterr().out
    assert (tmp_path / "run/eval.csv").read_bytes() == (tmp_path / "whole/eval.csv").read_bytes()
    (_, ours, _), (_, theirs, _) = (Checkpoints(tmp_path / name / "checkpoints").load() for name in ("run", "whole"))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0, equal_nan=True)
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["train"]["total_steps"] == 400
    assert config["history"] == [{"until_step": 200, "was": {"train.total_steps": 200}}]

    # shorter than it is: nothing to do, and nothing lost
    assert main(monkeypatch, *short, "train.total_steps=300") == 0
    assert "complete at step 400" in capsys.readouterr().out
    assert len(rows(tmp_path / "run")) == 5


def test_a_run_without_its_replay_memory_goes_on_from_an_empty_one(monkeypatch, capsys, tmp_path):
    run = [*PENDULUM, f"run_dir={tmp_path}/run", "train.warmup_steps=50"]
    assert main(monkeypatch, *run, "train.total_steps=100") == 0
    assert not (tmp_path / "run/replay").exists()
    _, before, _ = Checkpoints(tmp_path / "run/checkpoints").load()
    capsys.readouterr()
    assert main(monkeypatch, *run, "train.total_steps=150", "eval.every=50", "train.checkpoint_every=50") == 0
    printed = capsys.readouterr().out
    assert "the next updates come at step 150, after as many steps by the policy" in printed
    _, after, info = Checkpoints(tmp_path / "run/checkpoints").load()
    assert torch.equal(before["agent/actor/0.weight"], after["agent/actor/0.weight"]) and info["step"] == 150
    assert main(monkeypatch, *run, "train.total_steps=200", "train.checkpoint_every=50", "train.keep_replay=true") == 0
    _, _, info = Checkpoints(tmp_path / "run/checkpoints").load()
    assert info["first_update"] == 200  # it begins again: that memory was not kept either


def test_names_say_what_differs_and_settings_find_the_run_again(monkeypatch, capsys, tmp_path):
    root = f"runs_root={tmp_path}"
    given = [*PENDULUM, root, "seeds=[3,7]", "agent.tau=0.01", "train.total_steps=100"]
    assert main(monkeypatch, *given) == 0
    (folder,) = (tmp_path / "gym/Pendulum-v1").iterdir()
    assert folder.name.startswith("beer-") and "tau0.01" in folder.name and "hidden16x16" in folder.name
    assert "total_steps" not in folder.name and len(folder.name) < 80
    # under another name it is the same run: an earlier version's `<agent>/<hash>`
    old = tmp_path / "gym/Pendulum-v1/beer/0123456789"
    shutil.move(folder, old)
    capsys.readouterr()
    assert main(monkeypatch, *given, "eval.every=50", "train.log_every=10") == 0
    printed = capsys.readouterr().out
    assert f"run folder: {old}" in printed and "complete" in printed
    # other settings are another run, beside it
    assert main(monkeypatch, *given[:-2], "agent.tau=0.02", "train.total_steps=100") == 0
    assert sum(path.name.startswith("beer-") for path in (tmp_path / "gym/Pendulum-v1").iterdir()) == 1
    assert main(monkeypatch, "mode=evaluate", "run_dir=latest", root, "eval.episodes=1") == 0
    assert "tau0.02" in capsys.readouterr().out


def test_the_best_checkpoint_is_kept(monkeypatch, capsys, tmp_path):
    run = f"run_dir={tmp_path}/run"
    assert main(monkeypatch, *PENDULUM, run, "train.keep_best=true") == 0
    returns = {int(row["step"]): float(row["return"]) for row in rows(tmp_path / "run")}
    best = max(returns, key=returns.get)
    assert Checkpoints(tmp_path / "run/best").steps() == [best]
    capsys.readouterr()
    assert main(monkeypatch, "mode=evaluate", run, "checkpoint=best", "eval.episodes=2") == 0
    printed = capsys.readouterr().out
    assert f"at step {best}, " in printed and f"seed 0: return {returns[best]:.2f}" in printed
    assert main(monkeypatch, "mode=evaluate", run, "checkpoint=last", "eval.episodes=2") == 0
    assert "at step 400, " in capsys.readouterr().out
    assert main(monkeypatch, "mode=evaluate", run, f"checkpoint={best}", "eval.episodes=2") == 0
    assert f"at step {best}, " in capsys.readouterr().out
    assert main(monkeypatch, "mode=export", run, "checkpoint=best") == 0
    exported = rlreg.sb3.load(tmp_path / "run", 0, "best")
    (_, kept, _) = Checkpoints(tmp_path / "run/best").load()
    assert torch.equal(exported.actor.mu[0].weight, kept["agent/actor/0.weight"][0].T)
    assert main(monkeypatch, "mode=evaluate", run, "checkpoint=first") == 2
    assert "checkpoint=first is not valid; give last, best or the step" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["no", "none"])
def test_a_best_checkpoint_or_run_that_is_not_there_is_one_line(monkeypatch, capsys, tmp_path, name):
    if name == "none":
        assert main(monkeypatch, "mode=evaluate", "run_dir=latest", f"runs_root={tmp_path}") == 2
        assert "no run below" in capsys.readouterr().err
        return
    assert main(monkeypatch, *PENDULUM, f"run_dir={tmp_path}/run", "train.total_steps=100") == 0
    assert main(monkeypatch, "mode=evaluate", f"run_dir={tmp_path}/run", "checkpoint=best") == 2
    assert "kept by runs with train.keep_best=true only" in capsys.readouterr().err


def test_a_table_takes_a_longer_run_at_its_own_length(tmp_path):
    """A row of 200 steps beside one of 400: they are one run, and each has its own figures."""
    folder = RunFolder(tmp_path)
    returns = [-9.0, 1.0, 2.0, 3.0, 4.0]
    (tmp_path / "eval.csv").write_text(
        "step,seed,return\n" + "".join(f"{100 * t},0,{value}\n" for t, value in enumerate(returns))
    )
    figures = {"seeds": [0], "steps": 400, "final": {"return": [4.0]}, "return_last_ten": [2.5], "diverged": []}
    (tmp_path / "summary.json").write_text(json.dumps(figures))
    cells = {
        steps: Cell("row", "column", [], OmegaConf.create({"train": {"total_steps": steps}, "seeds": 1}), folder)
        for steps in (200, 400, 500)
    }
    assert cells[200].complete and cells[400].complete and not cells[500].complete
    assert cells[200].values("return").tolist() == [2.0] and cells[400].values("return").tolist() == [4.0]
    assert cells[200].values("return_last_ten").tolist() == [1.5]
    assert cells[200].evaluations("return")[0].tolist() == [0, 100, 200]
    assert cells[500].status() == "at step 400 of 500"


def test_any_number_of_worlds_needs_no_other_setting(monkeypatch, capsys, tmp_path):
    """Three worlds do not divide 400 steps: the run ends with the iteration that reaches them, and is complete."""
    run = [*PENDULUM, "train.num_envs=3", f"run_dir={tmp_path}/run", "train.keep_replay=true"]
    assert main(monkeypatch, *run) == 0
    steps = [int(row["step"]) for row in rows(tmp_path / "run")]
    assert steps == [0, 102, 201, 300, 402]
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 402
    cfg = RunFolder(tmp_path / "run").load_config()
    cell = Cell("row", "column", [], cfg, RunFolder(tmp_path / "run"))
    assert cell.complete and cell.evaluations("return")[0].tolist() == steps
    capsys.readouterr()
    assert main(monkeypatch, *run) == 0 and "complete at step 402" in capsys.readouterr().out
    # extended, it is the run of that length, and a cell of the first length still has its figures
    assert main(monkeypatch, *run, "train.total_steps=500") == 0
    assert main(monkeypatch, *PENDULUM, "train.num_envs=3", f"run_dir={tmp_path}/whole", "train.total_steps=500") == 0
    assert (tmp_path / "run/eval.csv").read_bytes() == (tmp_path / "whole/eval.csv").read_bytes()
    longer = Cell("row", "column", [], cfg, RunFolder(tmp_path / "run"))
    assert longer.evaluations("return")[0].tolist() == steps
    assert longer.values("return").tolist() == cell.evaluations("return")[1][-1].tolist()
