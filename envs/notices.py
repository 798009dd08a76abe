"""What MuJoCo would say, at every world that is made, of models that come with others' packages."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NOTICE = "settotalmass"
"""An attribute in dm_control's and Gymnasium's own models that a later MuJoCo will not have."""


@contextmanager
def unsaid() -> Iterator[None]:
    """While models are loaded: neither a line for each, nor a file MUJOCO_LOG.TXT where the user happens to be.

    Everything else that MuJoCo has to say goes to stderr.
    """
    import mujoco  # here: an environment without it need not wait for its import

    def say(text: str) -> None:
        if NOTICE not in text:
            print(f"WARNING: {text}", file=sys.stderr)

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(say)
    try:
        with warnings.catch_warnings():  # where a model is compiled from a specification
            warnings.filterwarnings("ignore", message=f".*{NOTICE}")
            yield
    finally:
        mujoco.set_mju_user_warning(before)
