"""`logger=wandb`, without a network: what wandb has of a run is what its TensorBoard stream has."""

import json
import sys

import pytest
from conftest import TINY, main

RUN = [*TINY, "env=gym/Pendulum-v1", "env.max_episode_steps=20", "agent=beer", "seeds=2", "logger=wandb"]


BLOCK = 32768
"""Bytes of a block of wandb's file: a log in LevelDB's format, after a head of seven bytes."""


def messages(log: bytes):
    """What the log holds, each put together of its parts: checksum (4), length (2), kind (1) and the bytes."""
    at, parts = 7, []
    while at + 7 <= len(log):
        if BLOCK - at % BLOCK < 7:  # no room for a head: zeros up to the next block
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        parts.append(log[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def records(folder) -> list:
    """Everything in the files that wandb keeps of a run while it is offline."""
    from wandb.proto.wandb_internal_pb2 import Record

    paths = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return [Record.FromString(message) for path in paths for message in messages(path.read_bytes())]


def test_wandb_follows_the_stream_and_goes_on_with_the_run(runner, tmp_path):
    """In processes of their own: wandb looks at its variables once in a process."""
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    runner.env.update(WANDB_MODE="offline", WANDB_SILENT="true")
    done = runner(*RUN, f"run_dir={tmp_path}/run", "train.total_steps=200")
    assert done.returncode == 0, done.stderr
    name = (tmp_path / "run/wandb-id.txt").read_text().strip()
    found = records(tmp_path / "run")
    (began,) = [record.run for record in found if record.HasField("run")][:1]
    assert began.run_id == name and began.project == "rlreg"
    config = {item.key: json.loads(item.value_json) for item in began.config.update}
    assert config["agent"] == "beer" and config["env"] == "gym/Pendulum-v1"
    logdirs = [record.tbrecord.log_dir for record in found if record.HasField("tbrecord")]
    assert logdirs == [str(tmp_path / "run/tensorboard")]
    history = [record.history for record in found if record.HasField("history")]
    logged = {("/".join(item.nested_key) or item.key) for row in history for item in row.item}
    assert {"eval/mean_reward", "train/critic_loss", "global_step"} <= logged, logged
    # extended, it is the same run over there
    assert runner(*RUN, f"run_dir={tmp_path}/run", "train.total_steps=400").returncode == 0
    ids = {record.run.run_id for record in records(tmp_path / "run") if record.HasField("run")}
    assert ids == {name}


def test_without_wandb_one_line_and_no_folder(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(monkeypatch, *RUN, f"run_dir={tmp_path}/run") == 2
    assert capsys.readouterr().err.startswith("error: logger=wandb: wandb is not installed; pip install wandb")
    assert not (tmp_path / "run").exists()
    assert main(monkeypatch, *RUN, f"run_dir={tmp_path}/run", "logger=csv") == 2
    assert "logger=csv is not valid; give tensorboard or wandb" in capsys.readouterr().err
