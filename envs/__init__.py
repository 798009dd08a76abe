"""Environments behind one vector interface (`envs.base`), and Gymnasium ids `rlreg/...`. Imports never `agents`."""

import os
from contextlib import suppress

from envs.gymnasium_ids import register
from rlreg.video.opengl import import_without_drawing

if "MUJOCO_GL" in os.environ:  # before anything else imports MuJoCo, and fails where that says something unusable
    with suppress(ModuleNotFoundError):
        import_without_drawing("mujoco")
register()
