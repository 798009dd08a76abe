"""Filming a policy: `film` for agents that act on flat observations, `film_levels` for students of a curriculum."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rlreg.agent import CurriculumAgent
from rlreg.errors import UserError
from rlreg.level_space import LevelSpace
from rlreg.task import Loop
from rlreg.video import opengl
from rlreg.video.worker import END
from rlreg.video.writer import Film, Frame, contact_sheet, write_picture

LEVEL_FPS = 10


class Footage(NamedTuple):
    """What one seed's film shows."""

    path: Path
    """The MP4 file."""
    sheet: Path
    """Its contact sheet: a PNG file with a row an episode."""
    returns: list[float]
    """Of each episode."""
    frames: list[list[Frame]]
    """Small frames of each episode, evenly spaced."""
    fps: float
    """At how many of them a second the (last) episode runs at its own speed."""


@torch.no_grad()
def film(agent: Any, task: Any, seed: int, path: Path, episodes: int = 1) -> Footage:
    """`episodes` episodes of one seed's policy, without exploration, in `task.single_env(seed)`.

    Writes `path` (an MP4 file) and its contact sheet. Raises `UserError` where the world cannot be drawn.
    """
    i = agent.seeds.index(seed)
    returns = []
    with Renderer(task, seed, path) as renderer:
        for _ in range(episodes):
            obs, total, done, steps = renderer.ask(None)[0], 0.0, False, 0
            while not done and steps < renderer.max_episode_steps:
                seen = torch.as_tensor(np.asarray(obs), device=agent.device).expand(len(agent.seeds), 1, -1)
                obs, reward, done = renderer.ask(agent.act(seen)[i, 0].numpy(force=True))
                total, steps = total + float(reward), steps + 1
            returns.append(total)
        frames, stride, fps = renderer.finish()
    return _footage(path, returns, frames, fps / stride[-1])


def film_now(agent: Any, task: Any, path: Path, number: int) -> Footage:
    """A film of one episode of the first seed: `<path>.mp4`; in a curriculum in the folder `path`, one per seed."""
    if task.loop is Loop.CURRICULUM:
        return film_levels(agent, task.level_space(agent.device), path, 1, number)[0]
    return film(agent, task, agent.seeds[0], path.with_suffix(".mp4"))


@torch.no_grad()
def film_levels(agent: CurriculumAgent, space: LevelSpace, folder: Path, episodes: int, number: int) -> list[Footage]:
    """A film for each seed's student, `<folder>/seed-<k>.mp4`: one episode on each of `episodes` held-out levels.

    The levels are spread evenly over the first evaluation set; evaluation `number` decides the random numbers.
    """
    _, levels = next(iter(space.evaluation.items()))
    chosen = levels[np.linspace(0, len(levels) - 1, episodes).round().astype(int)]
    films = [Film(folder / f"seed-{seed}.mp4", LEVEL_FPS) for seed in agent.seeds]
    returns: list[list[float]] = [[] for _ in films]
    try:
        for e, level in enumerate(chosen):
            for one, total in zip(films, _play_level(agent, space, level, films, f"film/{e}", number), strict=True):
                returns[films.index(one)].append(total)
    except BaseException:
        for one in films:
            one.discard()
        raise
    for one in films:
        one.close()
    return [
        _footage(one.path, total, one.episodes, one.fps / one.stride[-1])
        for one, total in zip(films, returns, strict=True)
    ]


def _play_level(
    agent: CurriculumAgent, space: LevelSpace, level: torch.Tensor, films: Sequence[Film], stream: str, number: int
) -> list[float]:
    """One episode of every seed on one `level`, filmed. Returns their returns."""
    student, count = agent.student, len(agent.seeds)
    worlds = space.worlds(agent.seeds, 1, tuple(level.shape))
    start = torch.zeros_like(worlds.draw_starts(agent.rng, stream, number, 1)[:, 0])
    worlds.set_levels(level.expand(count, 1, *level.shape), start)
    state = student.initial_state(1)
    running = torch.ones(count, 1, dtype=torch.bool, device=level.device)
    first, total = running, torch.zeros(count, 1, device=level.device)
    for one, picture in zip(films, space.pictures(worlds), strict=True):
        one.begin_episode()
        one.add(picture)
    for t in range(worlds.max_episode_steps):
        uniform = agent.rng.uniform(stream, number * worlds.max_episode_steps + t, (1, student.num_actions))
        acted = student.act(worlds.observe(), first, state, uniform)
        reward, terminated, truncated = worlds.step(acted.action)
        total += torch.where(running, reward, 0.0)
        for one, picture, goes_on in zip(films, space.pictures(worlds), running[:, 0].tolist(), strict=True):
            if goes_on:
                one.add(picture)
        running = running & ~(terminated | truncated)
        state, first = acted.state, torch.zeros_like(running)
        if not running.any():
            break
    return total[:, 0].tolist()


def _footage(path: Path, returns: list[float], frames: list[list[Frame]], fps: float) -> Footage:
    sheet = path.with_suffix(".png")
    write_picture(sheet, contact_sheet(frames))
    return Footage(path, sheet, returns, frames, fps)


class Renderer:
    """One world in a process of its own that films it: see `rlreg.video.worker`."""

    def __init__(self, task: Any, seed: int, path: Path) -> None:
        self.task, self.seed, self.path = task, seed, path

    def __enter__(self) -> Renderer:
        self._errors = tempfile.TemporaryFile()
        paths = os.pathsep.join(p or os.getcwd() for p in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rlreg.video.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=opengl.environment() | {"PYTHONPATH": paths},
            process_group=0,  # a terminal's Ctrl-C reaches the parent only, which ends the film itself
        )
        try:
            self.max_episode_steps: int = self.ask((self.task, self.seed, str(self.path)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()
        for left in self.path.parent.glob(".writing-*.mp4"):
            left.unlink(missing_ok=True)

    def ask(self, question: NDArray | tuple | str | None) -> Any:
        """The answer. Raises `UserError` for an error over there, and where the process has ended."""
        try:
            pickle.dump(question, self._process.stdin)
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended: what it said last is its answer
        return self._answer()

    def finish(self) -> tuple[list[list[Frame]], list[int], float]:
        """End the film; its small frames by episode, how many of the film's frames each stands for, its fps."""
        return self.ask(END)

    def _answer(self) -> Any:
        try:
            answer = pickle.load(self._process.stdout)
        except EOFError:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()
            answer = UserError(said[-1] if said else f"the rendering process ended with {self._process.returncode}")
        if isinstance(answer, Exception):
            backend, reasons = opengl.working_backend()
            if backend is None:
                raise UserError(f"cannot film {self.task.name}: no OpenGL here ({reasons}); {opengl.INSTALL}") from None
            raise UserError(f"cannot film {self.task.name}: {answer}") from None
        return answer
