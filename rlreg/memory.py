"""How much memory a process may still take, and how it keeps what it has."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

PROC = Path("/proc")
CONTROL_GROUPS = Path("/sys/fs/cgroup")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of `mallopt` (man 3 mallopt): bytes free at the heap's end that are kept, and size from which a block is mapped."""


def available() -> int:
    """Bytes that are free to this process: on the machine, in its control group, within its own limit.

    Where the system tells none of these, more than any machine has.
    """
    return max(0, min(_machine(), _control_group(), _own_limit()))


def keep_freed() -> bool:
    """Have this process keep memory that it frees, for its next large tensors; whether the C library can (glibc can).

    Without it glibc hands blocks of more than 32 MB back to the system each time, and the first touch of each of their
    pages then costs more than what is computed in it: 14 ms instead of 3 for writing 32 MB on an Intel Xeon.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    largest = 2**31 - 1
    return bool(mallopt(M_MMAP_THRESHOLD, 2**30) and mallopt(M_TRIM_THRESHOLD, largest))


def _machine() -> int:
    for line in _read(PROC / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def _control_group() -> int:
    """What a container's limit leaves. Pages of files that were read and may be dropped count as free."""
    for folder, limit, used, droppable in (
        (CONTROL_GROUPS, "memory.max", "memory.current", "inactive_file"),
        (CONTROL_GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        allowed, taken = _read(folder / limit).strip(), _read(folder / used).strip()
        if allowed.isdecimal() and taken.isdecimal():
            counts = dict(line.split(maxsplit=1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
            return int(allowed) - int(taken) + int(counts.get(droppable, 0))
    return sys.maxsize


def _own_limit() -> int:
    if resource is None or (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) == resource.RLIM_INFINITY:
        return sys.maxsize
    pages = _read(PROC / "self" / "statm").split()
    return limit - (int(pages[0]) * resource.getpagesize() if pages else 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
