"""Checkpoints survive interrupted writes, bad files and a wrapped ring."""

import errno
import json

import numpy as np
import pytest
import torch

from rlreg.buffers import GOES_ON, UNKNOWN, Replay
from rlreg.checkpoint import Checkpoints, Damaged, ReplayLog, copy_into, flatten
from rlreg.errors import UserError
from rlreg.explain import explain
from rlreg.files import write_atomic
from rlreg.run_folder import RunFolder


def test_round_trip_with_arrays_anywhere(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    tensors = {"a/w": torch.randn(3, 2), "step": torch.tensor(7), "flag": torch.tensor([True, False])}
    info = {"worlds": [[{"rng": {"key": np.arange(5, dtype=np.uint32), "big": 2**127}, "actions": np.zeros((0, 2))}]]}
    checkpoints.save(10, tensors, info)
    step, loaded, back = checkpoints.load()
    assert step == 10 and loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[k], tensors[k]) for k in tensors)
    world = back["worlds"][0][0]
    assert world["rng"]["big"] == 2**127 and world["actions"].shape == (0, 2)
    assert np.array_equal(world["rng"]["key"], np.arange(5)) and world["rng"]["key"].dtype == np.uint32


def test_an_interrupted_write_leaves_the_older_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": torch.ones(1)}, {})

    def power_cut(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlreg.checkpoint.os.rename", power_cut)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, {"x": torch.zeros(1)}, {})
    assert checkpoints.steps() == [1] and checkpoints.load()[1]["x"].item() == 1.0
    monkeypatch.undo()
    checkpoints.save(2, {"x": torch.zeros(1)}, {})
    assert checkpoints.load()[0] == 2


def test_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (5, 10, 100):
        checkpoints.save(step, {"x": torch.ones(1)}, {})
    assert checkpoints.steps() == [10, 100]
    with pytest.raises(UserError, match="no checkpoint of step 5"):
        checkpoints.load(5)


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": torch.ones(100)}, {})
    path = tmp_path / "step-000000000001/state.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"state.safetensors: damaged \(its bytes are not those that were written\)"):
        checkpoints.load()


def flip(path, at=-1):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("at", [5, 60, -3])
def test_one_flipped_bit_is_found_and_the_older_checkpoint_used(tmp_path, capsys, file, at):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {"x": torch.full((100,), float(step))}, {"n": 0.5, "rows": list(range(30))})
    flip(tmp_path / "step-000000000002" / file, at)
    with pytest.raises(Damaged):
        checkpoints.load()
    step, tensors, info = checkpoints.newest_whole()
    assert step == 1 and tensors["x"][0] == 1 and info["n"] == 0.5
    said = capsys.readouterr().err
    assert f"step-000000000002/{file}: damaged (" in said and "the checkpoint before it is used" in said
    assert checkpoints.steps() == [1, 2]  # whoever only reads changes nothing
    assert checkpoints.first_that(lambda step, *_: step) == 1
    assert checkpoints.steps() == [1] and (tmp_path / "damaged-step-000000000002").is_dir()
    flip(tmp_path / "step-000000000001" / file, at)
    with pytest.raises(Damaged):
        checkpoints.newest_whole()
    assert checkpoints.steps() == [1]  # the last one stays where it is


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": torch.ones(3)}, {"n": np.arange(3)})
    state = tmp_path / "step-000000000001/state.json"
    state.write_text(json.dumps(json.loads(state.read_text())["info"]))
    assert checkpoints.load()[2]["n"].tolist() == [0, 1, 2]


def test_what_else_lies_among_checkpoints_is_nobodys(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": torch.ones(3)}, {})
    for name in ("step-000000000001.bak", "step-2", "step-final", "step-000000000009x", ".writing-000000000003"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-000000000004").write_text("a file")
    (tmp_path / "step-000000000005").symlink_to(tmp_path / "step-000000000001")
    assert checkpoints.steps() == [1]
    checkpoints.save(3, {"x": torch.ones(3)}, {})
    checkpoints.save(4, {"x": torch.ones(3)}, {})
    assert checkpoints.steps() == [3, 4]


def test_nothing_half_written_is_left_where_the_disk_is_full(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": torch.ones(3)}, {})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rlreg.checkpoint.write_new", full)
    with pytest.raises(OSError) as caught:
        checkpoints.save(2, {"x": torch.ones(3)}, {})
    assert "no room on the disk" in explain(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001"]
    monkeypatch.setattr("rlreg.files.write_new", full)
    with pytest.raises(OSError):
        write_atomic(tmp_path / "eval.csv", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001"]


def test_links_are_not_written_through(tmp_path):
    target, run = tmp_path / "target", tmp_path / "run"
    run.mkdir(), target.write_text("precious")
    for name in (".lock", ".eval.csv.writing", "eval.csv"):
        (run / name).symlink_to(target)
    write_atomic(run / "eval.csv", "text")
    assert target.read_text() == "precious" and (run / "eval.csv").read_text() == "text"
    assert not (run / "eval.csv").is_symlink()
    with pytest.raises(UserError, match=r"\.lock: a link, which a run does not write through"), RunFolder(run).locked():
        pass
    (run / ".lock").unlink(), (run / ".lock").hardlink_to(target)
    with RunFolder(run).locked():
        assert target.read_text() == "precious"
    (run / "sb3").mkdir(), (run / "sb3" / ".writing-seed-0.zip").symlink_to(target)
    with pytest.raises(UserError, match=r"writing-seed-0.zip: a link"), RunFolder(run).locked():
        pass


def test_tensors_of_another_agent_are_refused():
    live = {"actor": {"0.weight": torch.zeros(2, 3)}}
    with pytest.raises(UserError, match=r"'actor/0.weight' has shape \(3, 3\), expected \(2, 3\)"):
        copy_into(live, {"actor/0.weight": torch.zeros(3, 3)}, "run")
    with pytest.raises(UserError, match=r"'actor/0\.weight' is missing"):
        copy_into(live, {}, "run")
    with pytest.raises(UserError, match="'critic' is not known"):
        copy_into(live, flatten(live) | {"critic": torch.zeros(1)}, "run")


def fill(replay, rows):
    for i in range(rows[0], rows[1]):
        value = torch.full((2, 1, 3), float(i))
        replay.add(value, value[..., :1], value[..., 0], value, torch.zeros(2, 1))


def test_the_replay_log_restores_a_wrapped_ring(tmp_path):
    replay, log = Replay([0, 1], 10, 3, 1), ReplayLog(tmp_path)
    done = 0
    for upto in (4, 9, 13, 27):  # the last chunk alone is longer than the ring
        fill(replay, (done, upto))
        chunks, done = log.extend(replay), upto
    again, other = Replay([0, 1], 10, 3, 1), ReplayLog(tmp_path)
    other.restore(again, chunks)
    assert again.inserted == 27 and again.size == 10 and torch.equal(again.rows, replay.rows)
    # A moment that was lost: its chunk goes, and may be written again with other rows.
    fill(again, (27, 30))
    other.extend(again)
    third, last = Replay([0, 1], 10, 3, 1), ReplayLog(tmp_path)
    last.restore(third, chunks)
    assert third.inserted == 27 and not list(tmp_path.glob("*-000000000030.safetensors"))
    last.prune(17)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["rows-000000000017-000000000027.safetensors"]


def test_chunks_of_an_earlier_version_are_restored(tmp_path, monkeypatch):
    """They lack the last column, of what follows each row."""
    replay, log = Replay([0, 1], 10, 3, 1), ReplayLog(tmp_path)
    fill(replay, (0, 7))
    chunks = log.extend(replay)
    read = ReplayLog.read
    monkeypatch.setattr(ReplayLog, "read", lambda *given: read(*given)[..., :-1])
    again = Replay([0, 1], 10, 3, 1)
    ReplayLog(tmp_path).restore(again, chunks)
    assert torch.equal(again.rows[:, :7, :-1], replay.rows[:, :7, :-1]) and (again.rows[:, :7, -1] == UNKNOWN).all()
    fill(again, (7, 9))  # and go on
    assert (again.rows[:, 7:9, -1] == GOES_ON).all()


def test_a_missing_chunk_is_one_line(tmp_path):
    replay, log = Replay([0], 10, 3, 1), ReplayLog(tmp_path)
    replay.add(torch.zeros(1, 2, 3), torch.zeros(1, 2, 1), torch.zeros(1, 2), torch.zeros(1, 2, 3), torch.zeros(1, 2))
    chunks = log.extend(replay)
    next(tmp_path.iterdir()).unlink()
    with pytest.raises(Damaged, match=r"rows-000000000000-000000000002.safetensors: damaged \(cannot be read"):
        ReplayLog(tmp_path).restore(Replay([0], 10, 3, 1), chunks)


def test_a_flipped_bit_in_a_chunk_is_found(tmp_path):
    replay, log = Replay([0, 1], 10, 3, 1), ReplayLog(tmp_path)
    fill(replay, (0, 4))
    chunks, sums = log.extend(replay), log.checksums()
    ReplayLog(tmp_path).restore(Replay([0, 1], 10, 3, 1), chunks, sums)
    flip(next(tmp_path.iterdir()), -2)
    with pytest.raises(Damaged, match="a part of the replay memory: its bytes are not those that were written"):
        ReplayLog(tmp_path).restore(Replay([0, 1], 10, 3, 1), chunks, sums)
