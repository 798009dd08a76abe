"""Find a D4RL file: where the user says, in D4RL's own cache, or by downloading it into that cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import h5py
from tqdm import tqdm

from envs.d4rl.names import Info, info
from envs.d4rl.recording import readable, require_file
from rlreg.errors import UserError

TIMEOUT = 30
"""Seconds without a byte after which a download is given up."""
PATIENCE = 60
"""Seconds in which there has to be an answer, and then at least `SLOWEST` bytes for each."""
SLOWEST = 1000
CHUNK = 1 << 20
"""Bytes taken at a time, at most."""


class DownloadError(UserError):
    """The file could not be had from its address; the message says from where and why."""

    def __init__(self, message: str) -> None:
        """On one line, whatever a server says."""
        super().__init__(" ".join(message.split()))


def cache_folder() -> Path:
    """The folder the d4rl package keeps its downloads in."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets").expanduser()


def find_dataset(name: str, path: str | Path | None = None, mirror: str | None = None) -> Path:
    """The HDF5 file of `name`: `path` if given, else from D4RL's cache, else downloaded into it.

    A `path` that is a folder holds files of D4RL's names, whatever their contents.

    `mirror` replaces D4RL's host: the address of a folder with files of the same names, or that of the file itself.
    Raises `UserError` for an unknown name, a missing file or one of the wrong length, and `DownloadError`.
    """
    wanted = info(name)
    if path is not None:
        given = Path(path).expanduser()
        with readable(given):
            given = given / wanted.file_name if given.is_dir() else given
            if given.exists():
                require_file(given)
            else:
                raise UserError(f"dataset {given}: no such file; give one, or a folder that has {wanted.file_name}")
        return given
    cached = cache_folder() / wanted.file_name
    if cached.is_file():
        # The d4rl package downloads straight to this name: a broken download of its lies here like a whole file.
        if wanted.size is not None and cached.stat().st_size != wanted.size:
            raise UserError(
                f"dataset {cached}: {cached.stat().st_size} bytes where D4RL's file has {wanted.size}, as a download "
                f"cut off would leave; delete it to download it again, or name your own file by its path"
            )
        return cached
    url = wanted.url if mirror is None else _mirrored(mirror, wanted.file_name)
    _download(url, cached, wanted)
    return cached


def _mirrored(mirror: str, file_name: str) -> str:
    return mirror if mirror.endswith((".hdf5", ".h5")) else f"{mirror.rstrip('/')}/{file_name}"


def _download(url: str, target: Path, wanted: Info) -> None:
    """Fetch `url` to `target`. What has come so far lies in `<target>.part`, and the next call goes on from there.

    Beside it lie the address and the version there, as another may have another file. Only a whole, checked file gets
    the name `target`.
    """
    so_far, origin = (target.with_name(target.name + suffix) for suffix in (".part", ".part.url"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(so_far) as part:
            if target.is_file():  # another process has just finished it
                return
            try:
                _fetch(url, part, origin, wanted)
                _check(url, part, wanted)
                os.replace(so_far, target)
            finally:
                if not so_far.is_file() or so_far.stat().st_size == 0:
                    origin.unlink(missing_ok=True)
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not an address at all
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"cannot download {url} to {target} ({reason}); give another address as env.mirror, or a file that you "
            f"have as env.path"
        ) from error


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """`path` opened for reading and appending, by one process at a time: two would write it twice over."""
    with open(path, "a+b") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{path}: another process is downloading it") from None
        try:
            yield part
        finally:
            if os.fstat(part.fileno()).st_size == 0:
                path.unlink(missing_ok=True)


def _fetch(url: str, part: BinaryIO, origin: Path, wanted: Info) -> None:
    """Append what is missing of `url` to `part`, or begin anew where that is of another address or version.

    Raises `DownloadError` when the connection ends too early or drips, and for a file of another size.
    """
    version = _version_of(origin, url)
    have = part.seek(0, os.SEEK_END) if version else 0
    if wanted.size is not None and have >= wanted.size:
        return  # all of it came last time; the check decides
    # The server sends the rest of that version, or all of another one.
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-", "If-Range": version} if have else {})
    try:
        with _opened(request) as response:
            spliced = have > 0 and response.status == 206 and _version(response) not in (None, version)
            if not have or response.status != 206 or spliced:
                have = 0
                part.truncate(0)  # not before it answers: another address may still have the rest of what is here
                origin.write_text(f"{url}\n{_version(response) or ''}\n", encoding="utf-8")
            if not spliced:
                _receive(response, url, part, have, wanted)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies beyond what we have, if the file has that many bytes.
        spliced = error.headers.get("Content-Range", f"bytes */{have}") != f"bytes */{have}"
        if spliced:
            part.truncate(0)
    finally:
        part.flush()
    if spliced:  # a server that does not know If-Range
        origin.unlink(missing_ok=True)
        _fetch(url, part, origin, wanted)


def _receive(response: HTTPResponse, url: str, part: BinaryIO, have: int, wanted: Info) -> None:
    """Append an answer to `part`, which has the first `have` bytes of the file; what came before a break stays."""
    total = _total(response, have)
    if total is not None and wanted.size is not None and total != wanted.size:
        _refuse(url, part, f"has {total} bytes where D4RL's file has {wanted.size}")
    came = have
    bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=wanted.file_name, disable=None)
    with bar:  # only where there is a terminal
        began, lately = time.monotonic(), 0
        while piece := response.read1(CHUNK):  # whatever has come, so that little is lost at a break
            part.write(piece)
            bar.update(len(piece))
            came, lately = came + len(piece), lately + len(piece)
            if wanted.size is not None and came > wanted.size:
                _refuse(url, part, f"sends more bytes than the {wanted.size} of D4RL's file")
            if (took := time.monotonic() - began) >= PATIENCE:
                if lately < SLOWEST * took:
                    slow = f"{lately} bytes in {took:.0f} seconds, after {came}"
                    raise DownloadError(f"download of {url} given up: it drips, {slow}; run again to go on with it")
                began, lately = time.monotonic(), 0
    if total is not None and came < total:
        raise DownloadError(f"download of {url} cut off after {came} of {total} bytes; run again to go on with it")


def _opened(request: urllib.request.Request) -> HTTPResponse:
    """The answer to a request, within `PATIENCE` seconds: a server may drip its first lines too, for ever."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(request, timeout=TIMEOUT))
        except BaseException as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=PATIENCE)
    except queue.Empty:
        raise OSError(f"no answer within {PATIENCE} seconds") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _version(response: HTTPResponse) -> str | None:
    """What tells this version of a file from others; None where the server does not say."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _version_of(origin: Path, url: str) -> str | None:
    """That of the part beside `origin`; None where it came from another address than `url`, or nobody knows."""
    try:
        address, version = origin.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    return version if address == url and version else None


def _total(response: HTTPResponse, have: int) -> int | None:
    """Bytes of the whole file, of which `have` are here already. Raises `OSError` for a part out of place."""
    if response.status == 206:
        span = response.headers.get("Content-Range", "")  # bytes 100-199/200
        if not span.startswith(f"bytes {have}-"):
            raise OSError(f"asked for bytes from {have}, the server sent '{span}'")
    length = response.headers.get("Content-Length")
    return have + int(length) if length else None


def _refuse(url: str, part: BinaryIO, problem: str) -> NoReturn:
    os.unlink(part.name)
    raise DownloadError(f"{url} {problem}; what came was deleted (to use another version, give its path)")


def _check(url: str, part: BinaryIO, wanted: Info) -> None:
    """Raises `DownloadError`, and removes what came, unless it is the file that is `wanted`."""
    part.seek(0)
    size = os.fstat(part.fileno()).st_size
    problem = None
    if wanted.size is not None and size != wanted.size:
        problem = f"has {size} bytes where D4RL's file has {wanted.size}"
    elif not _opens(part.name):  # such as an error page sent with status 200
        problem = "is not a whole HDF5 file"
    if problem:
        _refuse(url, part, problem)
    if wanted.sha256 and (digest := hashlib.file_digest(part, "sha256").hexdigest()) != wanted.sha256:
        # Not refused: our list was copied by hand and never tried on a true file.
        listed = f"where our list has {wanted.sha256}; taken all the same"
        print(f"warning: {url} has SHA-256 {digest} {listed}", file=sys.stderr)


def _opens(path: str) -> bool:
    """Whether HDF5 finds a file here, whose end is where its header says."""
    try:
        h5py.File(path, "r", locking=False).close()  # the lock is ours already
    except OSError:
        return False
    return True
