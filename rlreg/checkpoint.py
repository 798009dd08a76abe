"""Checkpoints: safetensors and JSON, written beside and renamed, so that a kill at any moment leaves a whole one.

A checkpoint is a folder `step-<n>` with `state.safetensors` and `state.json`. The replay ring, which would be
gigabytes each time, is kept beside them as a log: rows are written once, in chunk files that checkpoints name.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
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

_ARRAY = "__array__"


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
        """Steps with a whole checkpoint, oldest first."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-[0-9]*"))

    def save(self, step: int, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Write tensors, and `info`: JSON values, in which numpy arrays may stand anywhere."""
        final, beside = self._path(step), self.folder / f".writing-{step:012d}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        arrays: dict[str, Tensor] = {}
        text = json.dumps(_without_arrays(info, arrays))
        everything = {f"tensors/{k}": v.detach().cpu().contiguous() for k, v in tensors.items()} | arrays
        save_synced(everything, beside / "state.safetensors")
        write_synced(beside / "state.json", text)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(beside, final)
        sync(self.folder)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self._path(old))

    def load(self, step: int | None = None) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """(step, tensors, info) of the newest whole checkpoint, or of `step`; None where there is none."""
        known = self.steps()
        if step is not None and step not in known:
            raise UserError(f"{self.folder}: no checkpoint of step {step}; there are {known or 'none'}")
        if not known:
            return None
        step = known[-1] if step is None else step
        with _readable(self._path(step)):
            everything = load_file(self._path(step) / "state.safetensors")
        tensors = {k.removeprefix("tensors/"): v for k, v in everything.items() if k.startswith("tensors/")}
        return step, tensors, _with_arrays(self.info(step), everything)

    def info(self, step: int) -> dict[str, Any]:
        """The JSON values of a checkpoint, without its arrays."""
        with _readable(self._path(step)):
            return json.loads((self._path(step) / "state.json").read_text())

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:012d}"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path}: not a readable checkpoint ({error}); delete it to fall back to an older one"
        ) from None


class ReplayLog:
    """The replay ring on disk: chunk files of consecutive rows, each written once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chunks: list[tuple[int, int]] = []

    def extend(self, replay: Replay) -> list[list[int]]:
        """Write the rows that no chunk holds yet; returns the chunks, for the checkpoint to name."""
        written = self.chunks[-1][1] if self.chunks else 0
        oldest = max(0, replay.inserted - replay.capacity)
        first = max(written, oldest)
        if replay.inserted > first:
            self.folder.mkdir(parents=True, exist_ok=True)
            rows = replay.read(first, replay.inserted).cpu().contiguous()
            save_synced({"rows": rows}, self._path(first, replay.inserted))
            sync(self.folder)
            self.chunks.append((first, replay.inserted))
        self.chunks = [chunk for chunk in self.chunks if chunk[1] > oldest]
        return [list(chunk) for chunk in self.chunks]

    def prune(self, oldest_row: int) -> None:
        """Delete chunk files of rows before `oldest_row`, which no kept checkpoint needs."""
        for path in self.folder.glob("rows-*.safetensors"):
            if int(path.stem.split("-")[2]) <= oldest_row:
                path.unlink()

    def restore(self, replay: Replay, chunks: list[list[int]]) -> None:
        """Fill the ring from the chunks a checkpoint names; files of a later, lost moment are deleted."""
        self.chunks = [(first, last) for first, last in chunks]
        known = {self._path(first, last) for first, last in self.chunks}
        for path in set(self.folder.glob("rows-*.safetensors")) - known:
            if int(path.stem.split("-")[1]) >= (self.chunks[-1][1] if self.chunks else 0):
                path.unlink()
        for first, last in self.chunks:
            rows = self.read(first, last)
            keep = max(first, last - replay.capacity)  # a chunk may be longer than the ring
            replay.write(keep, rows[:, keep - first :].to(replay.rows.device))

    def read(self, first: int, last: int) -> Tensor:
        """The rows of one chunk, (S, last - first, width). Raises `UserError`."""
        path = self._path(first, last)
        try:
            return load_file(path)["rows"]
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: the replay memory of this checkpoint cannot be read ({error})") from None

    def _path(self, first: int, last: int) -> Path:
        return self.folder / f"rows-{first:012d}-{last:012d}.safetensors"


def write_atomic(path: Path, text: str) -> None:
    """Replace a small text file in one step."""
    beside = path.with_name(f".{path.name}.writing")
    write_synced(beside, text)
    os.replace(beside, path)


def save_synced(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path)
    sync(path)


def write_synced(path: Path, text: str) -> None:
    path.write_text(text)
    sync(path)


def sync(path: Path) -> None:
    """Have the file or folder on the disk before what follows."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _without_arrays(value: Any, arrays: dict[str, Tensor]) -> Any:
    if isinstance(value, np.ndarray):
        name = f"arrays/{len(arrays)}"
        arrays[name] = torch.from_numpy(np.ascontiguousarray(value).copy())
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
