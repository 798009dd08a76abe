"""The machine a process runs on: its CPU, and where what is known of it is kept from run to run."""

from __future__ import annotations

import getpass
import os
import platform
import tempfile
from pathlib import Path


def cpu() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def cache_folder() -> Path:
    """Inductor's, where compiled programs are kept: what is known of them is deleted with them. It need not exist."""
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    return Path(cache) if cache else Path(tempfile.gettempdir()) / f"torchinductor_{_user()}"


def _user() -> str:
    """Who this process belongs to: a name, or in a container whose user has none its number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        return str(os.getuid())
