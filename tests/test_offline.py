"""The offline loop: `python run.py agent=td3_bc env=d4rl/...` on a small file, its resume, its mistakes."""

import csv
import json
import shutil
import signal
import subprocess

import numpy as np
import pytest
import stable_baselines3
import torch
import yaml
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_d4rl import NAME, rows, write
from test_runner import kill_after, main

import envs.d4rl
from envs.d4rl.load import load_dataset
from rlreg.buffers import Batch, DatasetBuffer
from rlreg.build import load_agent
from rlreg.checkpoint import Checkpoints
from rlreg.run_folder import RunFolder

TINY = [
    f"env=d4rl/{NAME}",
    "train.total_steps=60",
    "train.checkpoint_every=20",
    "train.log_every=10",
    "eval.every=20",
    "eval.episodes=2",
    "eval.samples=32",
    "agent.hidden=[16,16]",
    "compile=eager",
    "threads=1",
]


@pytest.fixture
def file(tmp_path):
    """A data set for Hopper, whose observations are far from standard."""
    data = rows(n=200)
    data["observations"] = 5 + 3 * data["observations"]
    return write(tmp_path / "hopper.hdf5", data)


def transitions(n=50, obs=3, action=2):
    rng = np.random.default_rng(0)
    fields = [rng.normal(size=shape) for shape in ((n, obs), (n, action), n, (n, obs), n)]
    return Batch(*(field.astype(np.float32) for field in fields))


def test_a_dataset_buffer_draws_rows_by_seed_from_one_copy():
    data = transitions()
    data_buffer = DatasetBuffer([0, 1, 5], data)
    assert data_buffer.rows.shape == (50, 10) and torch.equal(data_buffer.obs, torch.from_numpy(data.obs))
    batch = data_buffer.sample("replay", 7, 4000)
    assert batch.obs.shape == (3, 4000, 3) and batch.reward.shape == (3, 4000)
    at = (batch.reward[..., None] == torch.from_numpy(data.reward)).int().argmax(dim=-1)  # rewards differ
    for got, whole in zip(batch, data, strict=True):
        assert torch.equal(got, torch.from_numpy(whole)[at])
    assert not torch.equal(at[0], at[1])
    assert torch.bincount(at[0], minlength=50).min() > 40  # 80 expected, standard deviation 9

    alone = DatasetBuffer([5], data).sample("replay", torch.tensor(7), 4000)
    assert torch.equal(alone.obs[0], batch.obs[2])
    assert DatasetBuffer([0], data).checksum == data_buffer.checksum
    data.reward[3] += 1
    assert DatasetBuffer([0], data).checksum != data_buffer.checksum


def test_a_run_leaves_scores_and_the_normaliser_of_the_data(monkeypatch, capsys, tmp_path, file):
    run = tmp_path / "run"
    _, tensors = train(monkeypatch, run, file, "agent=td3_bc", "seeds=[3,7]")
    printed = capsys.readouterr().out
    assert "seed 7: normalised score" in printed and "updates/s" in printed
    table = list(csv.DictReader((run / "eval.csv").read_text().splitlines()))
    assert [(int(r["step"]), int(r["seed"])) for r in table] == [(t, s) for t in range(0, 61, 20) for s in (3, 7)]
    info = envs.d4rl.info(NAME)
    for row in table:
        assert float(row["score"]) == pytest.approx(info.score(float(row["return"])), rel=1e-4)
        assert 1 <= float(row["rank"]) <= 16

    summary = json.loads((run / "summary.json").read_text())
    scores = np.array([float(r["score"]) for r in table]).reshape(4, 2)
    assert summary["steps"] == 60 and summary["final"]["score"] == scores[-1].tolist()
    assert summary["score_last_ten"] == pytest.approx(scores[1:].mean(axis=0).tolist())
    assert summary["return_last_ten"] and summary["diverged"] == []
    assert not (run / "replay").exists()

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert {"eval/score", "train/critic_loss", "behaviour/cloning_loss"} <= set(events.Tags()["scalars"])
    assert "rollout/ep_rew_mean" not in events.Tags()["scalars"]

    obs = envs.d4rl.dataset(NAME, str(file)).transitions.obs
    for i in range(2):
        np.testing.assert_allclose(tensors["agent/normalizer/mean"][i, 0], obs.mean(0), rtol=1e-4)
        np.testing.assert_allclose(tensors["agent/normalizer/scale"][i, 0], obs.std(0) + 1e-3, rtol=1e-4)

    assert main(monkeypatch, "mode=evaluate", f"run_dir={run}", "eval.episodes=2") == 0
    assert f"score {float(table[-1]['score']):.2f}" in capsys.readouterr().out


def test_iql_learns_from_rewards_scaled_by_the_datas_returns(monkeypatch, tmp_path, file):
    _, tensors = train(monkeypatch, tmp_path / "run", file, "agent=iql", "seeds=2")
    returns = load_dataset(NAME, file).episodes.returns
    expected = torch.full((2,), 1000 / (returns.max() - returns.min()))
    torch.testing.assert_close(tensors["agent/rewards/scale"], expected)


def train(monkeypatch, run, file, *overrides):
    """The run within this process; `run`'s evaluations and its last checkpoint."""
    assert main(monkeypatch, *TINY, f"env.path={file}", f"run_dir={run}", *overrides) == 0
    return (run / "eval.csv").read_text(), Checkpoints(run / "checkpoints").load()[1]


A2PR = ["agent=a2pr", "agent.critic_hidden=[16,16]", "agent.vae_hidden=[16]", "agent.batch_size=32"]


def test_a_killed_run_resumes_to_the_bit(runner, monkeypatch, tmp_path, file):
    overrides = [*A2PR, "seeds=2", "regularizer=beer"]
    csv_whole, whole = train(monkeypatch, tmp_path / "whole", file, *overrides)

    killed = tmp_path / "killed"
    settings = [*TINY, *overrides, f"env.path={file}", f"run_dir={killed}"]
    process = runner.start(*settings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    kill_after(process, killed, 20, signal.SIGKILL)
    assert not (killed / "summary.json").exists()
    csv_killed, resumed = train(monkeypatch, killed, file, *overrides)
    assert csv_killed == csv_whole
    assert resumed.keys() == whole.keys()
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=0, atol=0, equal_nan=True)
    events = EventAccumulator(str(tmp_path / "whole/tensorboard")).Reload()
    assert events.Tags()["histograms"] == ["behaviour/advantage_histogram"]
    shown = {"behaviour/vae_loss", "behaviour/share_of_vae_actions", "train/q", "train/value", "train/lambda"}
    assert shown <= set(events.Tags()["scalars"])


def test_an_exported_run_opens_as_a_plain_td3(monkeypatch, tmp_path, file):
    """On raw observations it does what the run's agent does, which normalises them."""
    run = tmp_path / "run"
    train(monkeypatch, run, file, *A2PR, "seeds=[3,7]", "agent.actor_learning_rate=1e-3")
    with pytest.warns(UserWarning, match="one learning rate for actor and critic"):
        assert main(monkeypatch, "mode=export", f"run_dir={run}") == 0
    agent, _ = load_agent(RunFolder(run), "cpu", None)
    obs = torch.from_numpy(load_dataset(NAME, file).transitions.obs[:50])
    ours = agent.act(obs.expand(2, -1, -1))
    for i, seed in enumerate((3, 7)):
        model = stable_baselines3.TD3.load(run / f"sb3/seed-{seed}.zip")
        theirs, _ = model.predict(obs.numpy(), deterministic=True)
        np.testing.assert_allclose(theirs, ours[i].numpy(), rtol=0, atol=1e-6)


def test_a_run_does_not_go_on_with_other_data(monkeypatch, capsys, tmp_path, file):
    run = tmp_path / "run"
    train(monkeypatch, run, file, "agent=bc")
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints/step-000000000060")
    write(file, rows(n=200, seed=1))
    capsys.readouterr()
    assert main(monkeypatch, *TINY, "agent=bc", f"env.path={file}", f"run_dir={run}") == 2
    assert "not the data that the run in" in capsys.readouterr().err


def test_a_complete_run_is_not_taken_for_one_of_other_data(monkeypatch, capsys, tmp_path, file):
    """Nor is a table's cell; where the file is gone, the results stand."""
    run = [*TINY, "agent=bc", f"env.path={file}", f"runs_root={tmp_path}"]
    assert main(monkeypatch, *run) == main(monkeypatch, *run) == 0
    assert "complete" in capsys.readouterr().out
    summary = json.loads(next(tmp_path.glob(f"d4rl/{NAME}/bc-*/summary.json")).read_text())
    data = DatasetBuffer([0], Batch(*load_dataset(NAME, file).transitions))
    assert summary["dataset"] == {"source": str(file), "transitions": data.inserted, "checksum": data.checksum}

    given = [override for override in run if override.split("=")[0] not in ("env", "agent", "env.path")]
    rows_and_columns = [f"table.rows=[d4rl/{NAME}]", "table.columns=[bc]", f"table.overrides=['env.path={file}']"]
    table = ["mode=table", "table=a2pr_d4rl", *rows_and_columns, *given]
    assert main(monkeypatch, *table) == 0 and "1 runs, 1 complete" in capsys.readouterr().out
    write(file, rows(n=200, seed=1))
    for command in (run, table):
        assert main(monkeypatch, *command) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith(f"error: dataset {file}: not the data that the run in {tmp_path}") and "\n" not in said
    assert main(monkeypatch, *table, "table.only_report=true") == 0
    file.unlink()
    assert main(monkeypatch, *run) == main(monkeypatch, *table) == 0


def test_several_updates_a_call_give_the_same_run(monkeypatch, tmp_path, file):
    """A call of 5 goes over both phases of the policy delay; a run can go on with another number."""
    table, tensors = train(monkeypatch, tmp_path / "one", file, *A2PR)
    run = tmp_path / "several"
    five = (*A2PR, "train.updates_per_call=5")
    same, others = train(monkeypatch, run, file, *five)
    assert same == table
    for name in tensors:
        torch.testing.assert_close(others[name], tensors[name], rtol=0, atol=0, equal_nan=True)
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints/step-000000000060")
    assert train(monkeypatch, run, file, *A2PR, "train.updates_per_call=10")[0] == table

    events = (EventAccumulator(str(tmp_path / name / "tensorboard")).Reload() for name in ("one", "several"))
    one, several = events
    for tag in ("train/critic_loss", "train/actor_loss"):
        assert [(e.step, e.value) for e in one.Scalars(tag)] == [(e.step, e.value) for e in several.Scalars(tag)]


@pytest.mark.parametrize("agent", ["bc", "iql"])
def test_a_seed_learns_the_same_beside_others(monkeypatch, tmp_path, file, agent):
    _, both = train(monkeypatch, tmp_path / "both", file, f"agent={agent}", "seeds=[3,7]", "eval.every=60")
    _, alone = train(monkeypatch, tmp_path / "alone", file, f"agent={agent}", "seeds=[7]", "eval.every=60")
    for name, value in alone.items():
        if value.dim():
            torch.testing.assert_close(both[name][1], value[0], rtol=1e-4, atol=1e-5)


MISTAKES = {
    ("agent=a2pr", "env=dmc/cartpole-swingup"): "a2pr learns from a dataset, and env=dmc/cartpole-swingup has",
    ("agent=beer",): f"agent=beer learns online, and env=d4rl/{NAME} is a dataset; give an environment such as",
    ("agent=td3_bc", "env.path=/no/such.hdf5"): "dataset /no/such.hdf5: no such file",
    ("agent=td3_bc", "env=d4rl/antmaze-umaze-v2"): "cannot be evaluated",
    ("agent=a2pr_published", "env=d4rl/hopper-expert-v2"): "no published setting of a2pr for env=d4rl/hopper-expert-v2",
    ("agent=td3_bc", "env.pth=x"): "unknown key 'env.pth'; did you mean 'env.path'?",
    ("agent=td3_bc", "env=d4rl/halfcheetah-medium-v2", "env.path=FILE"): "observations of 11 numbers",
    ("agent=bc", "train.updates_per_call=7"): "train.log_every=10 is not valid; give a multiple of",
    ("agent=bc", "train.updates_per_call=5", "eval.every=12"): "eval.every=12 is not valid; give a multiple of",
}


@pytest.mark.parametrize("overrides", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_folder(monkeypatch, capsys, tmp_path, file, overrides):
    given = [o.replace("FILE", str(file)) for o in overrides]
    settings = [s for s in TINY if not any(s.split("=")[0] == o.split("=")[0] for o in given)]
    assert main(monkeypatch, *settings, *given, f"run_dir={tmp_path}/run") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and MISTAKES[overrides] in lines[0], lines
    assert not (tmp_path / "run").exists()


def test_data_of_other_sizes_than_the_environment_are_refused(monkeypatch, capsys, tmp_path, file):
    monkeypatch.setattr(envs.d4rl, "dataset", lambda id, path, *_: load_dataset(None, path))  # does not look at `id`
    settings = [*TINY[1:], "env=d4rl/halfcheetah-medium-v2", f"env.path={file}", f"run_dir={tmp_path}/run"]
    assert main(monkeypatch, *settings, "agent=bc") == 2
    expected = f"error: dataset {file}: observations of 11 numbers, but those of env=d4rl/halfcheetah-medium-v2 have 17"
    assert capsys.readouterr().err.strip() == expected
    assert not (tmp_path / "run").exists()


def test_evaluations_are_as_often_as_d4rls_protocol_has_them(runner):
    for agent, every in (("a2pr_published", 5000), ("bc", 5000), ("beer", 10_000)):
        shown = runner(f"agent={agent}", f"env=d4rl/{NAME}", "--cfg", "job").stdout
        assert yaml.safe_load(shown)["eval"]["every"] == every


def test_rlreg_knows_no_environment():
    for path in (ROOT / "rlreg").rglob("*.py"):
        assert "import envs" not in path.read_text() and "from envs" not in path.read_text()
