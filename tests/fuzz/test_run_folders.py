"""Damaged run folders: each ends in one line, or in the run that an undamaged one would have been. Seeded, in process.

Two runs are made once: one that is complete, one that was stopped half-way. A case is a copy of one of them with some
damage, and the command given again. It may never end in a traceback, a hang or another result.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import open_dict

sys.path.insert(0, str(Path(__file__).parent.parent))

import worlds  # noqa: F401  registers the environments
from conftest import ROOT

from rlreg.command import run
from rlreg.errors import UserError
from rlreg.explain import explain
from rlreg.interrupts import Interrupted
from rlreg.modes.runs import find
from rlreg.registry import register
from rlreg.report.cell import Cell
from rlreg.run_folder import RunFolder

SETTINGS = [
    "agent=ddpg",
    "env=gym/Pendulum-v1",
    "env.id=rlreg-test/Walk-v0",
    "env.workers=0",
    "train.total_steps=80",
    "train.warmup_steps=20",
    "train.checkpoint_every=20",
    "train.log_every=40",
    "train.keep_replay=true",
    "train.keep_checkpoints=3",
    "eval.every=20",
    "eval.episodes=1",
    "threads=1",
    "eval.samples=8",
    "agent.hidden=[8]",
    "agent.batch_size=8",
    "compile=eager",
]
SECONDS = 20
"""No case may take longer."""


@pytest.fixture(scope="module")
def cfg():
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("config", SETTINGS)


@pytest.fixture(scope="module")
def originals(cfg, tmp_path_factory) -> dict[str, Path]:
    """A complete run, and one that was interrupted at step 60 of 80."""
    from rlreg.eval_table import EvalTable

    folder = tmp_path_factory.mktemp("originals")
    assert go_on(cfg, folder / "complete") == ""
    add = EvalTable.add

    def cut(self, step, values) -> None:
        add(self, step, values)
        if step == 80:
            raise Interrupted("here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EvalTable, "add", cut)
        with pytest.raises(Interrupted):
            go_on(cfg, folder / "stopped")
    return {name: folder / name for name in ("complete", "stopped")}


def go_on(cfg, folder: Path, mode: str = "train") -> str:
    """The run of `cfg` in `folder`: '' where it went well, else the one line that a user reads."""
    with open_dict(cfg):
        cfg.run_dir, cfg.mode = str(folder), mode
    try:
        run(cfg)
    except Interrupted:
        raise
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        assert "\n" not in line.strip(), line
        return line
    return ""


# --------------------------------------------------------------- the damages


def emptied(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def cut_off(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(1, len(data))])


def a_bit_flipped(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def junk(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(200))


def another_text(path: Path, rng: random.Random) -> None:
    texts = ["hello\n", "{}", "[1, 2", "null", "step,seed\n", "[" * 100_000, "{" * 3000, "1" * 5000]
    path.write_text(rng.choice(texts))


def latin(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    at = rng.randrange(len(data))
    path.write_bytes(data[:at] + b"\xe9\xff" + data[at:])


def a_line_twice(path: Path, rng: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    at = rng.randrange(len(lines))
    path.write_bytes(b"".join(lines[: at + 1] + lines[at:]))


def a_line_gone(path: Path, rng: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    path.write_bytes(b"".join(lines))


def gone(path: Path, rng: random.Random) -> None:
    path.unlink()


def a_folder_instead(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("something")


def a_pipe_instead(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def a_dead_link_instead(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def unreadable_numbers(path: Path, rng: random.Random) -> None:
    text = path.read_bytes().replace(b"0", rng.choice([b"NaN", b"1e999", b"-1", b"x"]), rng.randrange(1, 4))
    path.write_bytes(text)


DAMAGES = (
    *(emptied, cut_off, a_bit_flipped, junk, another_text, latin, a_line_twice, a_line_gone, gone, a_folder_instead),
    *(a_pipe_instead, a_dead_link_instead, unreadable_numbers),
)
FILES = {
    "config.yaml": "config.yaml",
    "eval.csv": "eval.csv",
    "summary.json": "summary.json",
    "newest state.json": "checkpoints/step-*[0-9]/state.json",
    "newest tensors": "checkpoints/step-*[0-9]/state.safetensors",
    "newest chunk": "replay/rows-*.safetensors",
}


def put(name: str, text: str = "x") -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return damage


def in_place_of(name: str, kind: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.mkdir() if kind == "folder" else path.symlink_to(folder.parent) if kind == "link" else path.write_text("x")

    return damage


def folder_copied(to: str) -> Callable[[Path], None]:
    return lambda folder: shutil.copytree(sorted((folder / "checkpoints").iterdir())[-1], folder / "checkpoints" / to)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
LAYOUTS: dict[str, Callable[[Path], None]] = {
    "a copy of a checkpoint": folder_copied("step-000000000060.bak"),
    "a checkpoint by another name": folder_copied("step-final"),
    "a checkpoint from nowhere": folder_copied("step-000000009999"),
    "a half-written checkpoint": folder_copied(".writing-000000000080"),
    "a file among checkpoints": put("checkpoints/step-000000000070"),
    "an empty checkpoint": lambda folder: (folder / "checkpoints/step-000000000079").mkdir(),
    "other files among chunks": put("replay/rows-old.safetensors"),
    "a half-written evaluation": put(".eval.csv.writing"),
    "a yaml bomb": put("config.yaml", BOMB),
    "deep yaml": put("config.yaml", "[" * 5000),
    **{
        f"a {kind} in place of {name}": in_place_of(name, kind)
        for name in ("checkpoints", "replay", "tensorboard", ".lock", ".eval.csv.writing")
        for kind in ("file", "folder", "link")
    },
}
CASES = [
    *((name, damage.__name__, "complete") for name in FILES for damage in DAMAGES),
    *((name, damage.__name__, "stopped") for name in FILES if name != "summary.json" for damage in DAMAGES),
    *((name, "", kind) for name in LAYOUTS for kind in ("complete", "stopped")),
]
TRIED = random.Random(0).sample(CASES, 40)
ALWAYS = [
    ("newest state.json", "a_bit_flipped", "stopped"),
    ("newest tensors", "a_bit_flipped", "stopped"),
    ("newest chunk", "a_bit_flipped", "stopped"),
    ("eval.csv", "cut_off", "stopped"),
    ("eval.csv", "cut_off", "complete"),
    ("summary.json", "emptied", "complete"),
    ("a yaml bomb", "", "complete"),
]


CHOSEN = list(dict.fromkeys([*ALWAYS, *TRIED]))
IDS = ["-".join(case).replace(" ", "_") for case in CHOSEN]


def damaged(original: Path, tmp_path: Path, name: str, damage: str) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(original, folder)
    if name in LAYOUTS:
        LAYOUTS[name](folder)
    else:
        path = sorted(folder.glob(FILES[name]))[-1]
        next(d for d in DAMAGES if d.__name__ == damage)(path, random.Random(name + damage))
    return folder


@pytest.mark.parametrize("case", CHOSEN, ids=IDS)
def test_a_damaged_folder_is_one_line_or_the_same_run(case, cfg, originals, tmp_path, capsys) -> None:
    name, damage, kind = case
    folder = damaged(originals[kind], tmp_path, name, damage)
    began = time.monotonic()
    line = go_on(cfg, folder)
    out = capsys.readouterr()
    assert "Traceback" not in out.err and time.monotonic() - began < SECONDS
    if line:
        assert str(folder) in line or "run_dir" in line, line  # says where
        print(case, "->", line)
        return
    whole = originals["complete"]
    assert (folder / "eval.csv").read_bytes() == (whole / "eval.csv").read_bytes()
    assert go_on(cfg, folder) == "" and "complete" in capsys.readouterr().out  # and so it stays


@pytest.fixture(scope="module")
def evaluated(cfg, originals) -> dict[int, str]:
    """What evaluating the undamaged run prints last, by the step of its checkpoint."""
    found = {}
    for step in (60, 80):
        with open_dict(cfg), redirect_stdout(io.StringIO()) as out:
            cfg.checkpoint = step
            assert go_on(cfg, originals["complete"], "evaluate") == ""
            cfg.checkpoint = None
        found[step] = out.getvalue().splitlines()[-1]
    return found


READ = ("config.yaml", "newest state.json", "newest tensors")
EVALUATED = random.Random(1).sample([(name, damage.__name__) for name in READ for damage in DAMAGES], 12)


@pytest.mark.parametrize(("name", "damage"), EVALUATED)
def test_evaluating_a_damaged_folder_is_one_line_or_the_same_figures(
    name, damage, cfg, originals, evaluated, tmp_path, capsys
) -> None:
    """A damaged configuration may say other things, of another run then: what is known to be damaged is not used."""
    folder = damaged(originals["complete"], tmp_path, name, damage)
    line = go_on(cfg, folder, "evaluate")
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    if line:
        assert str(folder) in line or "run_dir" in line, line
    elif name != "config.yaml":
        step = 80 if not out.err else 60
        assert out.out.splitlines()[-1] == evaluated[step] and ("damaged" in out.err) == (step == 60)


LOOKED_AT = [
    *((name, damage.__name__) for name in ("config.yaml", "eval.csv", "summary.json") for damage in DAMAGES),
    *((name, "") for name in LAYOUTS),
    *((name, "other contents") for name in ("config.yaml", "eval.csv", "summary.json")),
]
CONTENTS = {
    "config.yaml": [
        "agent: 1\nenv: 2\ntrain: 3\n",
        "agent: {name: [a]}\nenv: {name: {b: c}}\ntrain: {total_steps: many}\nseeds: 1\n",
        "agent: {name: a}\nenv: {name: '${oc.env:HOME}'}\ntrain: {total_steps: 80}\nseeds: 1\n",
        "agent: {name: a}\nenv: {name: b}\ntrain: {}\nseeds: -3\n",
        "agent: &a {name: a}\nenv: *a\ntrain: {total_steps: 80}\n",
    ],
    "eval.csv": ["step,seed,return\n0,7,1.0\n", "step,seed\n0,0\n", "step,seed,return\n1e3,0,1\n", "return\n1\n"],
    "summary.json": [
        '{"seeds": 1, "steps": 80, "final": {"return": [1]}}',
        '{"seeds": [0], "steps": "80", "final": {"return": [1]}}',
        '{"seeds": [0], "steps": 80, "final": {"return": ["much"]}}',
        '{"seeds": [0], "steps": 80, "final": {"return": 1}}',
        '{"seeds": [0], "steps": 80, "final": [], "return_last_ten": {}}',
        '{"seeds": [0], "steps": 80, "final": {}, "return_last_ten": "all"}',
        '{"seeds": [0, 1], "steps": 80, "final": {"return": [1]}, "return_last_ten": [[1], [2]]}',
    ],
}


def test_lists_and_tables_get_past_damaged_folders(cfg, originals, tmp_path) -> None:
    """`mode=runs` leaves out what it cannot read; a table's cell ends in one line, or in figures."""
    tried = 0
    for name, damage in LOOKED_AT:
        for number, text in enumerate(CONTENTS[name] if damage == "other contents" else [""]):
            root = tmp_path / f"{name}-{damage}-{number}".replace(" ", "_")
            if text:
                shutil.copytree(originals["complete"], root / "run")
                (root / "run" / name).write_text(text)
            else:
                damaged(originals["complete"], root, name, damage)
            for found in find(root):
                found.row()
            cell = Cell("row", "column", [], cfg, RunFolder(root / "run"))
            for look in (cell.status, lambda cell=cell: cell.complete and cell.values("return_last_ten")):
                try:
                    look()
                except UserError as error:
                    assert str(root) in str(error) and "\n" not in str(error)
            tried += 1
    assert tried >= 70
