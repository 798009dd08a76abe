"""The command line: what a run leaves behind, resume to the bit, and one line for each mistake."""

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, main
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.td3 import TD3, TD3Config
from rlreg.buffers import Batch
from rlreg.checkpoint import Checkpoints
from rlreg.errors import UserError
from rlreg.eval_table import EvalTable
from rlreg.naming import folder_name
from rlreg.registry import register
from rlreg.regularizers import BEER
from rlreg.run_folder import RunFolder


def start(runner, *overrides):
    return runner.start(
        *TINY, *overrides, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def kill_after(process, folder: Path, step: int, sig: int, kill=os.kill) -> None:
    """Send `sig` once the checkpoint of `step` is there; with `kill=os.killpg` to its workers too."""
    deadline = time.time() + 120
    while not any(s >= step for s in Checkpoints(folder / "checkpoints").steps()):
        assert process.poll() is None, process.communicate()[1]
        assert time.time() < deadline
        time.sleep(0.01)
    kill(process.pid, sig)
    process.wait(timeout=60)


def test_a_run_leaves_results_events_and_checkpoints(runner, tmp_path):
    # The discount makes the horizon of the Q error, 44 steps, fit into Pendulum's 200.
    settings = [*TINY, "env=gym/Pendulum-v1", "seeds=[3,7]", "agent.discount=0.9", f"run_dir={tmp_path}/run"]
    done = runner(*settings, "agent=beer_td3")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "run/eval.csv").read_text().splitlines()))
    assert [(int(r["step"]), int(r["seed"])) for r in rows] == [(t, s) for t in range(0, 401, 100) for s in (3, 7)]
    assert all(-2000 < float(r["return"]) < 0 and float(r["length"]) == 200 for r in rows)
    assert all(1 <= float(r["rank"]) <= 16 for r in rows[2:])
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["seeds"] == [3, 7] and summary["steps"] == 400
    assert summary["final"]["return"] == [float(r["return"]) for r in rows[-2:]]
    assert summary["provenance"]["versions"]["mujoco"]

    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert {"eval/mean_reward", "train/critic_loss", "train/actor_loss", "rollout/ep_rew_mean",
            "rollout/ep_len_mean", "representation/rank", "value/error", "regularizer/loss",
            "regularizer/cosine", "regularizer/bound"} <= set(events.Tags()["scalars"])  # fmt: skip
    points = events.Scalars("eval/mean_reward")
    assert [p.step for p in points] == [0, 100, 200, 300, 400]
    returns = np.array([float(r["return"]) for r in rows]).reshape(-1, 2)
    assert [p.value for p in points] == pytest.approx(returns.mean(axis=1).tolist())

    before = (tmp_path / "run/eval.csv").stat().st_mtime_ns
    again = runner(*settings, "agent=beer_td3")
    assert again.returncode == 0 and "complete" in again.stdout
    assert (tmp_path / "run/eval.csv").stat().st_mtime_ns == before

    evaluated = runner("mode=evaluate", f"run_dir={tmp_path}/run", "eval.episodes=2")
    assert evaluated.returncode == 0 and f"seed 7: return {float(rows[-1]['return']):.2f}" in evaluated.stdout

    other = runner(*settings, "agent=ddpg")
    assert other.returncode == 2 and "holds a run with agent.name=beer_td3, not ddpg" in other.stderr


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["env=gym/Pendulum-v1", "agent=beer_td3", "compile=compile"], marks=pytest.mark.slow),
        # A task that changes its model every episode; the ring wraps around (300 slots, 400 rows).
        [
            *("env=dmc/finger-turn_hard", "agent=beer", "seeds=2", "train.buffer_capacity=300"),
            *("eval.every=200", "eval.episodes=1"),
        ],
        ["env=gym/Hopper-v4", "agent=infer", "seeds=1", "train.num_envs=2"],
    ],
)
def test_a_killed_run_resumes_to_the_bit(runner, tmp_path, overrides):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert runner(*TINY, *overrides, f"run_dir={whole}").returncode == 0
    process = start(runner, *overrides, f"run_dir={killed}")
    kill_after(process, killed, 100, signal.SIGKILL)
    process = start(runner, *overrides, f"run_dir={killed}")
    kill_after(process, killed, 300, signal.SIGKILL)
    done = runner(*TINY, *overrides, f"run_dir={killed}")
    assert done.returncode == 0, done.stderr
    assert (killed / "eval.csv").read_bytes() == (whole / "eval.csv").read_bytes()
    assert not (killed / "replay").exists()
    _, ours, info = Checkpoints(killed / "checkpoints").load(400)
    _, theirs, other = Checkpoints(whole / "checkpoints").load(400)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0, equal_nan=True)
    assert info["replay"]["inserted"] == other["replay"]["inserted"] == 400


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_process_group_leaves_a_resumable_run(runner, tmp_path, sig, workers):
    """A terminal's Ctrl-C and a cluster's SIGTERM reach the run's workers too."""
    settings = ["train.num_envs=2", f"env.workers={workers}", "train.total_steps=100000", "eval.every=100000"]
    process = start(runner, *settings, f"run_dir={tmp_path}/run")
    kill_after(process, tmp_path / "run", 100, sig, os.killpg)
    out = process.communicate()[1]
    assert process.returncode == 130 and "goes on from there" in out and "Traceback" not in out
    step, _, info = Checkpoints(tmp_path / "run/checkpoints").load()
    assert info["step"] == step and f"step {step}" in out


MISTAKES = {
    "agent=bear": "unknown agent 'bear'; did you mean 'beer'? (valid: ",
    "env=dmc/humanoid-fly": "unknown env 'dmc/humanoid-fly'; did you mean 'dmc/humanoid-walk'?",
    "env=gym/Hoper-v4": "did you mean 'gym/Hopper-v4'?",
    "regularizer=bear": "unknown regularizer 'bear'; did you mean 'beer'? (valid: beer, beer_inner, dr3, infer, none)",
    "agent.discount=1.5": "agent.discount=1.5 is not valid; give a number in (0, 1)",
    "agent.discont=0.9": "unknown key 'agent.discont'; did you mean 'agent.discount'?",
    "agent.actor_learning_rate=inf": "agent.actor_learning_rate=inf is not valid; give a finite number > 0",
    f"agent.tau={10**400}": "agent.tau: a number that is too large",
    f"agent.batch_size={10**20}": f"agent.batch_size={10**20} is not valid; give a whole number < 2^63",
    "agent.discount=high": "agent.discount=high is not valid; give a number",
    "threads=1000000": "threads=1000000 is not valid; give a whole number in [0, 1024]",
    "seeds=0": "seeds=0 is not valid; give a number of seeds in 1 .. 10000, or a list",
    "seeds=[1,1]": "seeds=[1, 1] is not valid",
    "seeds=[[1,2]]": "seeds=[[1, 2]] is not valid",
    "seeds=123456789": "seeds=123456789 is not valid; give a number of seeds in 1 .. 10000, or a list",
    "regularizer.beta=high": "regularizer.beta=high is not valid; give a number",
    "regularizer.beta=-1": "regularizer.beta=-1.0 is not valid; give a number >= 0",
    "regularizer.betta=1": "unknown key 'regularizer.betta'; did you mean 'regularizer.beta'?",
    "compile=graph": "compile=graph is not valid; give auto, compile or eager on the CPU",
    "device=mps": "device=mps is not valid; give cpu, cuda or cuda:<index>",
    "device=cuda": "device=cuda: torch finds no CUDA device here; give device=cpu",
    "device=gpu": "device=gpu is not valid",
    "compile=fast": "compile=fast is not valid; give one of auto, compile, graph, eager",
    "mode=fly": "unknown mode 'fly'",
    "run_dir=/proc/nowhere/run": "run_dir=/proc/nowhere/run: cannot be written",
    "train.total_step=5": "unknown key 'train.total_step'; did you mean 'train.total_steps'?",
    "train.total_steps=0": "train.total_steps=0 is not valid; give a whole number >= 1",
    "mode=evaluate": "mode=evaluate needs run_dir=",
    "mode=table": "mode=table needs a table",
    "env.path=~/mine.hdf5": "env.path=~/mine.hdf5: cannot be read as key=value; where the value has blanks, commas",
    "env=gym/Hopper-v4 env.max_episode_steps=0": "env.max_episode_steps=0 is not valid; give a whole number >= 1",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(monkeypatch, capsys, tmp_path, override):
    if override == "device=cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    settings = [s for s in TINY if s.split("=")[0] != override.split("=")[0]]
    assert main(monkeypatch, f"runs_root={tmp_path}", *settings, *override.split()) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and MISTAKES[override] in lines[0], lines


def test_help_lists_the_agents_and_cfg_job_shows_the_composition(runner):
    assert "beer_td3" in runner("--help").stdout
    shown = runner("agent=dr3", "--cfg", "job")
    assert shown.returncode == 0 and "coefficient: 0.001" in shown.stdout


# The last part is a hash of the settings: names have no part in it.
@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        ("agent=td3", "td3-1c980b"),
        ("agent=td3 regularizer=beer", "td3+beer-a3009d"),
        ("agent=beer_td3", "beer_td3-3bf441"),
        ("agent=beer", "beer-50d733"),
        ("agent=beer regularizer=none", "beer-none-8ff79d"),
        ("agent=beer regularizer=dr3", "beer-dr3-ea0496"),
        ("agent=ddpg regularizer=infer", "ddpg+infer-a796d6"),
        ("agent=ddpg regularizer.name=mine", "ddpg+mine-465915"),
    ],
)
def test_a_run_folder_names_the_regulariser_that_is_in_use(overrides, folder):
    register()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("config", overrides=["env=dmc/cartpole-swingup", *overrides.split()])
    assert folder_name(cfg) == folder


def test_an_eval_csv_with_other_columns_is_not_gone_on_with(tmp_path):
    table = EvalTable(tmp_path / "eval.csv", [3], ["return"])
    for step in (0, 10):
        table.add(step, {"return": torch.tensor([1.5])})
    assert EvalTable(table.path, [3], ["return"], last_step=5).rows == [{"step": "0", "seed": "3", "return": "1.5"}]
    with pytest.raises(UserError, match=r"another version of rlreg \(columns that differ: rank\)"):
        EvalTable(table.path, [3], ["return", "rank"], last_step=5)


def test_workers_are_no_part_of_what_a_run_is():
    """They give the same numbers, however many there are."""
    groups = {"agent": {"name": "a"}, "regularizer": {"name": "beer"}, "env": {"name": "e", "workers": 0}}
    cfg = OmegaConf.create(groups | {"run_dir": None, "runs_root": "runs"})
    before = RunFolder.of(cfg).path
    cfg.env.workers = 4
    assert RunFolder.of(cfg).path == before
    cfg.env.name = "f"
    assert RunFolder.of(cfg).path != before


# --------------------------------------------------------------- what goes wrong while running


def test_a_diverged_seed_is_reported_by_the_next_checkpoint(monkeypatch, capsys, tmp_path):
    """Also where no log is due before it: a resumed run takes it for reported."""

    def update(self, batch, step, update_actor):
        self.alive[1] &= step < 250
        return whole(self, batch, step, update_actor)

    whole = TD3.update
    monkeypatch.setattr(TD3, "update", update)
    settings = [s for s in TINY if "log_every" not in s]
    assert main(monkeypatch, *settings, "agent=ddpg", "seeds=[3,7]", f"run_dir={tmp_path}/run") == 0
    dump = tmp_path / "run/diverged-seed-7-step-400.safetensors"
    said = f"seed 7: the loss turned non-finite at or before step 400; this seed learns no more, its state is in {dump}"
    assert said in capsys.readouterr().err
    held = load_file(dump)
    last = Checkpoints(tmp_path / "run/checkpoints").load(400)[1]
    assert torch.equal(held["actor/0.weight"], last["agent/actor/0.weight"][1])
    assert json.loads((tmp_path / "run/summary.json").read_text())["diverged"] == [7]


def test_a_seed_with_a_non_finite_loss_stops_and_the_others_go_on():
    config = TD3Config(hidden=[8, 8], num_critics=1, policy_delay=1, target_noise=0.0)
    agent, alone = TD3(config, BEER(), 3, 2, [0, 1, 2]), TD3(config, BEER(), 3, 2, [0])
    names, shapes = "oarn", [(16, 3), (16, 2), (16,), (16, 3)]
    for number in range(1, 30):
        fields = [agent.rng.normal(n, number, s) for n, s in zip(names, shapes, strict=True)]
        batch = Batch(*fields, torch.zeros(3, 16))
        if number == 10:
            batch.reward[1, 3] = torch.inf
        agent.update(batch, torch.tensor(number), True)
        alone.update(Batch(*(f[:1] for f in batch)), torch.tensor(number), True)
        if number == 10:
            kept = [agent.critic_params["1.weight"][1].clone(), agent.actor_params["1.weight"][1].clone()]
    assert agent.alive.tolist() == [True, False, True]
    # Diverged means still: no momentum moves it after the update that it died in.
    assert torch.equal(agent.critic_params["1.weight"][1], kept[0])
    assert torch.equal(agent.actor_params["1.weight"][1], kept[1])
    for name, params in agent.critic_params.items():
        assert torch.isfinite(params).all()
        assert torch.allclose(params[0], alone.critic_params[name][0], atol=1e-6)
