"""The process that steps and renders one world: `python -m rlreg.video.worker`, asked through its standard input.

Whatever OpenGL does happens here. Messages are pickles: first (task, seed, path), answered by the film's own figures;
then an action (A,) for a step or None for a new episode, each answered by (obs, reward, done); `END` ends the film,
which is answered by (episodes, strides, fps) of `Film`; the end of the input
discards it. An error is answered by an `Exception`.
"""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO

from rlreg.errors import NonFiniteError, UserError
from rlreg.video.writer import Film, every

END = "end"


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more questions."""

    def answer(value: Any) -> None:
        pickle.dump(value, answers)
        answers.flush()

    film = None
    try:
        task, seed, path = pickle.load(questions)
        env = task.single_env(seed, render_mode="rgb_array")
        fps = float(env.metadata.get("render_fps") or 30)
        stride = every(fps)
        film = Film(Path(path), fps / stride)
        answer(env.get_wrapper_attr("max_episode_steps"))
        steps = 0
        while True:
            action = pickle.load(questions)
            if isinstance(action, str):  # END
                break
            if action is None:
                obs, _ = env.reset()
                film.begin_episode()
                reward, done, steps = 0.0, False, 0
            else:
                obs, reward, terminated, truncated, _ = env.step(action)
                done, steps = terminated or truncated, steps + 1
            if steps % stride == 0:
                film.add(env.render())
            answer((obs, reward, done))
        film.close()
        answer((film.episodes, film.stride, film.fps))
    except EOFError:  # whoever asked has died
        if film is not None:
            film.discard()
    except (UserError, NonFiniteError) as error:
        _fail(film, answer, error)
    except Exception as error:  # what drawing raises differs from one library to the next
        _fail(film, answer, UserError(" ".join(f"{type(error).__name__}: {error}".split())))


def _fail(film: Film | None, answer: Any, error: Exception) -> None:
    if film is not None:
        film.discard()
    answer(error)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    sys.stdin.close()
    serve(questions, answers)
    answers.close()
    os._exit(0)  # without OpenGL's own end, which is known to crash
