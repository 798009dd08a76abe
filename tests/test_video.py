"""Films: what `mode=video` leaves behind, for each kind of task, and one line where there is no OpenGL."""

import io
import os
import subprocess
import sys

import imageio.v2 as imageio
import numpy as np
import pytest
from conftest import ROOT, TINY
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_runner import main

from rlreg.errors import UserError
from rlreg.video import opengl
from rlreg.video.writer import Film, contact_sheet, every, gif


@pytest.fixture
def opengl_works() -> None:
    """Tried when a test needs it, not by whoever collects the tests."""
    backend, reasons = opengl.working_backend()
    if backend is None:
        pytest.skip(f"no OpenGL: {reasons}")


def frames_of(path) -> list[np.ndarray]:
    return list(imageio.mimread(path, memtest=False))


def test_a_film_has_every_frame_and_a_sheet_its_rows(tmp_path):
    film = Film(tmp_path / "deep" / "one.mp4", fps=10)
    for episode in range(2):
        film.begin_episode()
        for t in range(300):
            film.add(np.full((48, 64, 3), 100 * episode + t // 4, np.uint8))
    film.close()
    seen = frames_of(film.path)
    assert len(seen) == 600 and os.listdir(film.path.parent) == ["one.mp4"]
    assert abs(seen[299].mean() - 74) < 8 and abs(seen[300].mean() - 100) < 8
    for episode, (frames, stride) in enumerate(zip(film.episodes, film.stride, strict=True)):
        # the kept frames are evenly spaced: every stride-th, from the first
        assert 64 <= len(frames) <= 128
        assert [int(f[0, 0, 0]) for f in frames] == [100 * episode + t // 4 for t in range(0, 300, stride)]
    sheet = contact_sheet(film.episodes, columns=3)
    assert sheet.shape == (2 * 48 + 4, 3 * 64 + 8, 3)
    assert sheet[0, 0, 0] == 0 and sheet[-1, -1, 0] == 100 + 74 and sheet[50, 0, 0] == 255


def test_a_film_given_up_leaves_nothing(tmp_path):
    film = Film(tmp_path / "one.mp4", fps=10)
    film.begin_episode()
    film.add(np.zeros((48, 64, 3), np.uint8))
    film.discard()
    assert not os.listdir(tmp_path)


def test_a_gif_plays_for_as_long_as_its_frames():
    picture = Image.open(io.BytesIO(gif([np.full((8, 8, 3), 40 * i, np.uint8) for i in range(5)], fps=20)))
    assert picture.n_frames == 5 and picture.info["duration"] == 50 and picture.info["loop"] == 0


def test_fast_worlds_are_shown_at_their_own_speed():
    assert [every(fps) for fps in (10, 25, 26, 50, 100, 125)] == [1, 1, 2, 2, 4, 5]


@pytest.mark.usefixtures("opengl_works")
@pytest.mark.parametrize(
    ("settings", "frames"),
    [
        # 20 steps of 0.5 s each an episode; 30 steps of 125 a second, of which every fifth is shown
        (["env=dmc/cartpole-swingup", "env.action_repeat=50"], 21),
        (["env=gym/Hopper-v5", "env.max_episode_steps=5"], 2),
    ],
)
def test_films_of_mujoco_tasks_have_every_frame_that_is_shown(monkeypatch, capsys, tmp_path, settings, frames):
    run = f"run_dir={tmp_path}/run"
    short = ["train.total_steps=60", "train.warmup_steps=40", "eval.every=60", "eval.episodes=1"]
    assert main(monkeypatch, *TINY, *settings, run, "seeds=[3,7]", *short) == 0
    capsys.readouterr()
    assert main(monkeypatch, "mode=video", run, "episodes=2") == 0
    printed = capsys.readouterr().out
    for seed in (3, 7):
        film = frames_of(tmp_path / f"run/videos/seed-{seed}.mp4")
        assert len(film) == 2 * frames
        assert all(frame.std() > 5 for frame in film)
        sheet = np.asarray(Image.open(tmp_path / f"run/videos/seed-{seed}.png"))
        assert sheet.shape[1] == 6 * 240 + 20 and sheet.shape[0] > 2 * 150
        assert f"seed {seed}: {tmp_path}/run/videos/seed-{seed}.mp4 and seed-{seed}.png, returns " in printed
    assert len(os.listdir(tmp_path / "run/videos")) == 4


def test_films_of_a_student_in_levels_are_written_with_their_sheets(monkeypatch, capsys, tmp_path):
    """CaveEscape needs no OpenGL: its pictures are tables of tiles."""
    tiny = ["agent.student.hidden_dim=8", "agent.student.rollout_length=20", "agent.student.num_envs=2",
            "agent.information.every=0", "env.count=4", "env.evaluate_count=4", "env.max_episode_steps=20",
            "train.total_steps=2", "eval.every=2", "agent.levels.capacity=8"]  # fmt: skip
    run = f"run_dir={tmp_path}/run"
    given = ["env=cave_escape", "agent=plr", "seeds=2", *tiny, run, "threads=1"]
    assert main(monkeypatch, *given, "train.video_every=1") == 0
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert [film.step for film in events.Images("film/episode")] == [1, 2]
    assert {"levels/likeliest/seed-0", "levels/likeliest/seed-1"} <= set(events.Tags()["images"])
    assert main(monkeypatch, "mode=video", run, "episodes=2", f"out={tmp_path}/films") == 0
    for seed in (0, 1):
        film = frames_of(tmp_path / f"films/seed-{seed}.mp4")
        assert film[0].shape == (240, 240, 3) and 4 <= len(film) <= 42
        assert np.asarray(Image.open(tmp_path / f"films/seed-{seed}.png")).shape == (484, 6 * 240 + 20, 3)


@pytest.mark.usefixtures("opengl_works")
def test_a_run_films_itself_for_tensorboard(monkeypatch, capsys, tmp_path):
    """Every 50 steps a film of the first seed, moving in TensorBoard and as a file; the run's figures are the same."""
    run = [*TINY, "env=dmc/cartpole-swingup", "env.action_repeat=50", "agent=td3", "seeds=[3,7]"]
    run += ["train.total_steps=100", "train.warmup_steps=30", "eval.every=50", "eval.episodes=1"]
    filmed = [*run, f"run_dir={tmp_path}/run", "train.video_every=50"]
    assert main(monkeypatch, *filmed) == 0
    assert "no film" not in capsys.readouterr().err
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    films = events.Images("film/episode")
    assert [film.step for film in films] == [50, 100]
    for film in films:
        picture = Image.open(io.BytesIO(film.encoded_image_string))
        assert picture.format == "GIF" and picture.n_frames == 21 and film.width == 240
        assert np.asarray(picture.convert("RGB")).std() > 5
    assert len(frames_of(tmp_path / "run/videos/step-100.mp4")) == 21
    assert (tmp_path / "run/videos/step-100.png").exists()
    assert main(monkeypatch, *run, f"run_dir={tmp_path}/plain") == 0
    assert (tmp_path / "plain/eval.csv").read_bytes() == (tmp_path / "run/eval.csv").read_bytes()


class Unfilmable:
    """A task whose world cannot be drawn."""

    name = "gym/unfilmable"

    def single_env(self, seed, render_mode):
        os.abort()


def test_no_opengl_is_one_line_and_so_is_a_crash(monkeypatch, tmp_path):
    from rlreg.video.film import Renderer

    with pytest.raises(UserError, match=r"cannot film gym/unfilmable: .*ended with -6"), \
            Renderer(Unfilmable(), 0, tmp_path / "x.mp4"):  # fmt: skip
        pass
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_DIRS", str(tmp_path))
    opengl.working_backend.cache_clear()
    try:
        backend, reasons = opengl.working_backend()
        assert backend is None and reasons.startswith("egl: ") and "\n" not in reasons
        with pytest.raises(UserError, match=r"no OpenGL here .*apt-get install libegl1"), \
                Renderer(Unfilmable(), 0, tmp_path / "x.mp4"):  # fmt: skip
            pass
    finally:
        opengl.working_backend.cache_clear()
    assert not list(tmp_path.glob("*.mp4"))


BROKEN = """
import sys
from envs.gym import make_single
for make in 2 * [lambda: make_single("HalfCheetah-v5", render_mode="rgb_array"), lambda: dmc("cartpole-swingup")]:
    from envs.dmc import DMControlEnv
    dmc = lambda task: DMControlEnv(task, render_mode="rgb_array")
    env = make()
    env.reset(seed=0)
    try:
        env.render()
    except Exception as error:
        print(type(error).__name__, str(error).partition("(")[0])
"""


def test_a_second_failed_render_does_not_abort_the_process(tmp_path):
    """MuJoCo's own second attempt does: 'recursive initialization'."""
    without = {"__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path), "DISPLAY": "", "PYTHONPATH": str(ROOT)}
    given = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"} | without
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, env=given)
    assert done.returncode == 0, done.stderr
    tasks = 2 * ["HalfCheetah-v5", "cartpole-swingup"]
    assert done.stdout.splitlines() == [f"UserError cannot render '{task}' " for task in tasks]
