"""Which of MuJoCo's OpenGL backends works on this machine, found by trying each in a process of its own.

A backend is chosen once a process, when MuJoCo's Python package is imported, and one that does not work may abort the
process: so neither the trial nor any rendering happens in the process that trains.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import gymnasium

from rlreg.errors import UserError

INSTALL = "on Debian and Ubuntu `apt-get install libegl1 libgl1-mesa-dri` or `libosmesa6` brings one"
_broken: list[str] = []
"""Why OpenGL failed in this process, once it has."""
_TRIAL = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 3"/><geom size=".5"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().std() > 1, "the picture is empty"
"""


def import_without_drawing(module: str) -> ModuleType:
    """Import what tries `MUJOCO_GL` as it is imported, also where that cannot be used: only drawing needs it."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        if "MUJOCO_GL" not in os.environ or isinstance(error, ModuleNotFoundError):
            raise
    given = os.environ["MUJOCO_GL"]
    os.environ["MUJOCO_GL"] = "disable"
    try:
        return importlib.import_module(module)
    finally:
        os.environ["MUJOCO_GL"] = given


@cache
def working_backend() -> tuple[str | None, str]:
    """(the value of MUJOCO_GL that works here, why the others do not); None where none does.

    What the user set MUJOCO_GL to is the only one tried. Else a window's, where there is a display, EGL and OSMesa.
    """
    chosen = os.environ.get("MUJOCO_GL")
    with_window = ("glfw",) if os.environ.get("DISPLAY") else ()
    reasons = []
    for name in (chosen,) if chosen else (*with_window, "egl", "osmesa"):
        failure = _trial(name)
        if failure is None:
            return name, "; ".join(reasons)
        reasons.append(f"{name}: {failure}")
    return None, "; ".join(reasons)


def environment() -> dict[str, str]:
    """The environment variables of a process that is to render."""
    backend, _ = working_backend()
    given = dict(os.environ)
    if backend is not None:
        given["MUJOCO_GL"] = backend
    if not given.get("DISPLAY"):
        given.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame's, which draws Gymnasium's classic tasks
    return given


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Draw the task `name` in this process; raise `UserError` where that fails.

    OpenGL is asked no more once it has failed: MuJoCo's second attempt aborts the whole process.
    """
    if _broken:
        raise UserError(f"cannot render '{name}' ({_broken[0]})")
    try:
        yield
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:  # such as pygame
        raise UserError(f"cannot render '{name}' ({error})") from error
    except Exception as error:  # what a missing OpenGL raises differs from one backend to the next
        _broken.append(f"{error}; try MUJOCO_GL=egl or osmesa")
        raise UserError(f"cannot render '{name}' ({_broken[0]})") from error


def _trial(backend: str) -> str | None:
    """None where it works, else the reason in a few words."""
    command = [sys.executable, "-c", _TRIAL]
    try:
        done = subprocess.run(
            command, env=os.environ | {"MUJOCO_GL": backend}, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        return "no answer within two minutes"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(" ")]
    said = [line for line in lines if "Error" in line.partition(":")[0]] or lines or [f"status {done.returncode}"]
    return said[0][:160]
