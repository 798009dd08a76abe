"""Checkpoints: safetensors and JSON, written beside and renamed, so that a kill at any moment leaves a whole one.

A checkpoint is a folder `step-<n>` with `state.safetensors` and `state.json`. The replay ring, which would be
gigabytes each time, is kept beside them as a log: rows are written once, in chunk files that checkpoints name.
All that is read back is held to a CRC-32 in `state.json`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlreg.buffers import Replay
from rlreg.errors import UserError
from rlreg.files import checksum, read_text, remove, require_file, save_tensors, sync, write_new

_ARRAY = "__array__"


class Damaged(UserError):
    """A checkpoint, or what it needs, is not as it was written."""


def flatten(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """Nested dictionaries of tensors as one dictionary with names joined by '/'."""
    if isinstance(tree, Tensor):
        return {prefix: tree}
    leaves: dict[str, Tensor] = {}
    for name, value in tree.items():
        leaves |= flatten(value, f"{prefix}/{name}" if prefix else name)
    return leaves


def copy_into(live: Any, saved: dict[str, Tensor], origin: str) -> None:
    """Copy saved tensors into live ones of the same names and shapes, in place (captured graphs stay valid)."""
    leaves = flatten(live)
    for name in sorted(leaves.keys() ^ saved.keys()):
        raise UserError(f"{origin}: tensor '{name}' is {'missing' if name in leaves else 'not known to this agent'}")
    for name, tensor in leaves.items():
        if tensor.shape != saved[name].shape:
            shapes = f"{tuple(saved[name].shape)}, expected {tuple(tensor.shape)}"
            raise UserError(f"{origin}: tensor '{name}' has shape {shapes}")
        tensor.copy_(saved[name])


class Checkpoints:
    """The checkpoints of one run; the newest `keep` stay."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """Steps with a checkpoint, oldest first; what else lies in the folder is nobody's."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        names = (re.fullmatch(r"step-(\d{12})", path.name) for path in found if path.is_dir() and not path.is_symlink())
        return sorted(int(name.group(1)) for name in names if name)

    def save(self, step: int, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Write tensors, and `info`: JSON values, in which numpy arrays may stand anywhere."""
        final, beside = self._path(step), self.folder / f".writing-{step:012d}"
        remove(beside)
        try:
            beside.mkdir(parents=True)
            arrays: dict[str, Tensor] = {}
            text = json.dumps(_without_arrays(info, arrays))
            everything = {f"tensors/{k}": v.detach().cpu().contiguous() for k, v in tensors.items()} | arrays
            save_file(everything, beside / "state.safetensors")
            sync(beside / "state.safetensors")
            sums = {"state.safetensors": checksum(beside / "state.safetensors"), "info": zlib.crc32(text.encode())}
            write_new(beside / "state.json", f'{{"checksums": {json.dumps(sums)}, "info": {text}}}')
            remove(final)
            os.rename(beside, final)
        except Exception:  # such as a full disk
            shutil.rmtree(beside, ignore_errors=True)
            raise
        sync(self.folder)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self._path(old))

    def load(self, step: int | None = None) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """(step, tensors, info) of the newest checkpoint, or of `step`; None where there is none.

        Raises `UserError` where `step` is not there, and `Damaged`.
        """
        known = self.steps()
        if step is not None and step not in known:
            raise UserError(f"{self.folder}: no checkpoint of step {step}; there are {known or 'none'}")
        if not known:
            return None
        step = known[-1] if step is None else step
        sums, info = self._state(step)
        path = self._path(step) / "state.safetensors"
        with _undamaged(path):
            require_file(path)
            if sums is not None and checksum(path) != sums["state.safetensors"]:
                raise Damaged("its bytes are not those that were written")
            everything = load_file(path)
            tensors = {k.removeprefix("tensors/"): v for k, v in everything.items() if k.startswith("tensors/")}
            return step, tensors, _with_arrays(info, everything)

    def newest_whole(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """As `load`, of the newest that is whole; of a damaged one that is passed over, a line on stderr tells."""
        return self.first_that(lambda *checkpoint: checkpoint, set_aside=False)

    def first_that(
        self, use: Callable[[int, dict[str, Tensor], dict[str, Any]], Any], set_aside: bool = True
    ) -> Any:
        """`use(step, tensors, info)` of the newest checkpoint for which this raises no `Damaged`; None without any.

        Those passed over are told of, and set aside as `damaged-step-<n>`. Raises `Damaged` where none is whole.
        """
        passed: list[int] = []
        for step in reversed(self.steps()):
            try:
                result = use(*self.load(step))
            except Damaged as error:
                if step == self.steps()[0]:
                    raise
                print(f"warning: {error}; the checkpoint before it is used", file=sys.stderr, flush=True)
                passed += [step] * set_aside
                continue
            for old in passed:
                aside = self._path(old).with_name(f"damaged-step-{old:012d}")
                remove(aside)
                os.rename(self._path(old), aside)
            return result
        return None

    def info(self, step: int) -> dict[str, Any]:
        """The JSON values of a checkpoint, without its arrays."""
        return self._state(step)[1]

    def _state(self, step: int) -> tuple[dict[str, int] | None, dict[str, Any]]:
        """Checksums (None in a checkpoint of an earlier version) and info."""
        path = self._path(step) / "state.json"
        with _undamaged(path):
            state = json.loads(read_text(path))
            if not isinstance(state, dict):
                raise Damaged("no state of a run")
            if "checksums" not in state and "info" not in state:
                return None, state
            sums, info = state["checksums"], state["info"]
            if not isinstance(info, dict) or zlib.crc32(json.dumps(info).encode()) != sums["info"]:
                raise Damaged("its bytes are not those that were written")
            return sums, info

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:012d}"


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Whatever is wrong with what is read inside is `Damaged`, naming the file."""
    try:
        yield
    except (UserError, OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error).removeprefix(f"{path}: ").splitlines() or [type(error).__name__]
        raise Damaged(f"{path}: damaged ({reason[0]})") from None


class ReplayLog:
    """The replay ring on disk: chunk files of consecutive rows, each written once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chunks: list[tuple[int, int]] = []
        self.sums: dict[tuple[int, int], int] = {}
        """CRC-32 of the chunks' files."""

    def extend(self, replay: Replay) -> list[list[int]]:
        """Write the rows that no chunk holds yet; returns the chunks, for the checkpoint to name."""
        written = self.chunks[-1][1] if self.chunks else 0
        oldest = max(0, replay.inserted - replay.capacity)
        first = max(written, oldest)
        if replay.inserted > first:
            self.folder.mkdir(parents=True, exist_ok=True)
            rows = replay.read(first, replay.inserted).cpu().contiguous()
            chunk = (first, replay.inserted)
            self.sums[chunk] = save_tensors({"rows": rows}, self._path(*chunk))
            sync(self.folder)
            self.chunks.append(chunk)
        self.chunks = [chunk for chunk in self.chunks if chunk[1] > oldest]
        return [list(chunk) for chunk in self.chunks]

    def prune(self, oldest_row: int) -> None:
        """Delete chunk files of rows before `oldest_row`, which no kept checkpoint needs."""
        for (_, last), path in self._files():
            if last <= oldest_row:
                path.unlink()

    def checksums(self) -> list[int]:
        """Of the chunks, in order: for a checkpoint to name."""
        return [self.sums[chunk] for chunk in self.chunks]

    def restore(self, replay: Replay, chunks: list[list[int]], sums: list[int] | None = None) -> None:
        """Fill the ring from the chunks a checkpoint names; files of a later, lost moment are deleted.

        `sums` are their checksums. Raises `Damaged`, before anything is deleted.
        """
        self.chunks = [(first, last) for first, last in chunks]
        replay.write(0, replay.rows[:, :0])
        self.sums = {}
        for i, (first, last) in enumerate(self.chunks):
            rows = self.read(first, last, None if sums is None else sums[i])
            self.sums[first, last] = checksum(self._path(first, last)) if sums is None else sums[i]
            shape = replay.rows.shape[0], last - first
            if rows.dim() != 3 or tuple(rows.shape[:2]) != shape or rows.dtype != replay.rows.dtype:
                raise Damaged(f"{self._path(first, last)}: holds {tuple(rows.shape)} numbers, not {shape} rows")
            keep = max(first, last - replay.capacity)  # a chunk may be longer than the ring
            replay.write(keep, rows[:, keep - first :].to(replay.rows.device))
        end = self.chunks[-1][1] if self.chunks else 0
        for chunk, path in self._files():
            if chunk not in self.sums and chunk[0] >= end:
                path.unlink()

    def read(self, first: int, last: int, expected: int | None = None) -> Tensor:
        """The rows of one chunk, (S, last - first, width), held to a checksum if given. Raises `Damaged`."""
        path = self._path(first, last)
        with _undamaged(path):
            require_file(path)
            if expected is not None and checksum(path) != expected:
                raise Damaged("a part of the replay memory: its bytes are not those that were written")
            return load_file(path)["rows"]

    def _files(self) -> list[tuple[tuple[int, int], Path]]:
        """The chunks on the disk, with the rows that their names say."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        named = ((re.fullmatch(r"rows-(\d{12})-(\d{12})\.safetensors", path.name), path) for path in found)
        return [((int(name.group(1)), int(name.group(2))), path) for name, path in named if name]

    def _path(self, first: int, last: int) -> Path:
        return self.folder / f"rows-{first:012d}-{last:012d}.safetensors"


def _without_arrays(value: Any, arrays: dict[str, Tensor]) -> Any:
    if isinstance(value, np.ndarray):
        name = f"arrays/{len(arrays)}"
        arrays[name] = torch.from_numpy(np.array(value, order="C"))
        return {_ARRAY: name}
    if isinstance(value, dict):
        return {k: _without_arrays(v, arrays) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(v, arrays) for v in value]
    return value


def _with_arrays(value: Any, arrays: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]].numpy()
        return {k: _with_arrays(v, arrays) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_arrays(v, arrays) for v in value]
    return value
