"""Files of a run: written whole or not at all, never through a link that somebody put there; looked at before read."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rlreg.errors import UserError

LARGEST_TEXT = 256 * 2**20
"""Bytes of a text file that is read at all: a run's own have far fewer."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)


# ------------------------------------------------------------------ writing


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A fresh file to write, which takes the place of `path` when the block has ended well, and else is gone.

    What lies where it is written goes first, be it a link: nothing is written through it.
    """
    beside = path.with_name(f".{path.name}.writing")
    try:
        remove(beside)
        yield beside
        sync(beside)
        os.replace(beside, path)
    except BaseException:
        if beside.is_file():
            beside.unlink()
        raise


def remove(path: Path) -> None:
    """Whatever is there: a folder with its contents, a file, a link but not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    with written_beside(path) as beside:
        write_new(beside, text)


def write_new(path: Path, text: str) -> None:
    """Write a text file that is not there yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def save_tensors(tensors: dict[str, Tensor], path: Path) -> int:
    """Replace a safetensors file in one step; its CRC-32."""
    with written_beside(path) as beside:
        save_file(tensors, beside)
        return checksum(beside)


def sync(path: Path) -> None:
    """Have the file or folder on the disk before what follows."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain_os_error(error: BaseException) -> str | None:
    """A line for what the system holds against reading or writing a file, such as a full disk; else None."""
    number, name = None, None
    if isinstance(error, OSError):
        number, name = error.errno, error.filename
    elif isinstance(error, SafetensorError) and (code := re.search(r"(?:code: |os error )(\d+)", str(error))):
        number = int(code.group(1))
    place = f"{os.fspath(name)}: " if isinstance(name, str | os.PathLike) else ""
    if number in NO_ROOM:
        return f"{place}no room on the disk ({os.strerror(number)}); the same command goes on when there is"
    if number in REFUSED:
        return f"{place}cannot be read or written ({os.strerror(number)})"
    return None


# ------------------------------------------------------------------ reading


def checksum(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(2**22):
            value = zlib.crc32(block, value)
    return value


def require_file(path: Path) -> None:
    """Raise `UserError` for what is no file with contents: not there, a folder, a pipe that nobody writes into."""
    try:
        about = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(about.st_mode):
        kind = "a folder" if stat.S_ISDIR(about.st_mode) else "no ordinary file"
        raise UserError(f"{path}: cannot be read ({kind})")


def read_text(path: Path) -> str:
    """A text file's contents. Raises `UserError` where they cannot be read, or are no text."""
    require_file(path)
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise UserError(f"{path}: cannot be read ({path.stat().st_size:,} bytes, which is no run's)")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read (no UTF-8 text: {error.reason} at byte {error.start})") from None
