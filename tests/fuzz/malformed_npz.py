"""Files that call themselves level sets or wall layouts: good ones, and many ways of being none.

All follow from a seed.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from envs.cave.layouts import packaged, write
from envs.cave.level_sets import LevelSet, level_set

Arrays = dict[str, Any]


@dataclass
class Case:
    name: str
    make: Callable[[Path], Any]
    """Writes the file, or what stands in its place."""
    kind: str = "levels"
    """levels or layouts: as which it is read."""
    readable: bool = False
    """Whether it is one, or may be after all: then what is read is what was written."""


class Runs:
    """What a pickle does that is loaded: it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@cache
def good_levels() -> LevelSet:
    return level_set("cave_escape_512_4ts_varp", "train", 12)


@cache
def good_layouts() -> dict:
    return {key: walls[:3] for key, walls in packaged().items() if key in (("maze_wall", 15), ("rooms_office", 15))}


def cases(seed: int) -> list[Case]:
    """All of them; the same ones for the same seed."""
    rng = random.Random(seed)
    return [*good(), *headers(), *tiles(), *layouts(), *arrays(), *zips(), *bombs(), *no_files(rng), *torn(rng, 60)]


def good() -> Iterator[Case]:
    yield Case("good levels", lambda path: good_levels().save(path), readable=True)
    yield Case("good layouts", lambda path: write(path, good_layouts()), "layouts", True)
    yield Case("good levels, not packed", lambda path: np.savez(path, **parts()), readable=True)
    yield Case("good layouts, not packed", lambda path: np.savez(path, **walls()), "layouts", True)


@cache
def parts() -> Arrays:
    """The arrays of a good level-set file."""
    return _arrays(lambda path: good_levels().save(path))


@cache
def walls() -> Arrays:
    """The arrays of a good layouts file."""
    return _arrays(lambda path: write(path, good_layouts()))


def _arrays(save: Callable[[Path], Any]) -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "good.npz")
        with np.load(Path(folder) / "good.npz") as archive:
            return {name: archive[name] for name in archive.files}


def with_header(content: str | bytes) -> Callable[[Path], None]:
    """Writes a good level set but for its header."""
    header = np.frombuffer(content if isinstance(content, bytes) else content.encode(), np.uint8)
    return lambda path: np.savez(path, **parts() | {"header": header})


def headers() -> Iterator[Case]:
    """Level sets whose JSON says something else."""
    header = json.loads(parts()["header"].tobytes())
    nan = float("nan")
    changes: dict[str, Any] = {
        "version": [None, 2, "1", [1], nan],
        "shape": [
            None, 12, "12", [], [12, 15], [12, 15, 15, 1], [12, 15, nan], [12, 15, "15"], [None, 15, 15], [0, 15, 15],
            [-12, -15, 15], [12, 15, -15], [12.0, 15, 15], [True, 15, 15], [13, 15, 15], [12, 1, 1], [2700, 1, 1],
            [10**9, 1000, 1000], [10**30, 15, 15], [12, 45, 45], [300, 3, 3], [[12], 15, 15], {"n": 12},
        ],
        "structures": [None, 4, "maze_wall", [], [None, None, None, None], [1, 2, 3, 4], ["a"], {"a": 0}, [["a"]] * 4],
        "name": [None, 3, ["a"]],
    }  # fmt: skip
    for key, values in changes.items():
        for value in values:
            yield Case(f"{key}={str(value)[:40]}", with_header(json.dumps(header | {key: value})))
        left_out = with_header(json.dumps({k: v for k, v in header.items() if k != key}))
        yield Case(f"no {key}", left_out, readable=key == "name")
    for name, content in {
        "no JSON": "levels",
        "a list": "[]",
        "a number": "1",
        "half of it": json.dumps(header)[:40],
        "nothing": "",
        "not UTF-8": b'{"version": 1, "name": "\xff\xfe"}',
        "100,000 brackets": "[" * 100_000,
        "100,000 closed brackets": "[" * 100_000 + "]" * 100_000,
        "100,000 nested objects": '{"version": ' * 100_000,
        "a number of 100,000 digits": '{"version": ' + "1" * 100_000 + "}",
    }.items():
        yield Case(f"a header of {name}", with_header(content))


def tiles() -> Iterator[Case]:
    """Level sets whose arrays are others."""
    found = parts()
    packed, structure = found["tiles"], found["structure"]
    for name, changed in {
        "no tiles": {"tiles": None},
        "no structure": {"structure": None},
        "something more": {"more": packed},
        "tiles of real numbers": {"tiles": packed.astype(float)},
        "tiles of long numbers": {"tiles": packed.astype(np.int64)},
        "tiles in rows": {"tiles": packed[: packed.size // 2 * 2].reshape(2, -1)},
        "one byte less": {"tiles": packed[:-1]},
        "one byte more": {"tiles": np.append(packed, packed[:1])},
        "no bytes": {"tiles": packed[:0]},
        "tiles all zero": {"tiles": np.zeros_like(packed)},
        "tiles all one": {"tiles": np.full_like(packed, 255)},
        "negative structures": {"structure": structure.astype(np.int64) - 2},
        "structures beyond": {"structure": structure + 9},
        "half a structure": {"structure": structure + 0.5},
        "structures of NaN": {"structure": np.full(structure.shape, np.nan)},
        "structures of text": {"structure": np.array(["a"] * structure.size)},
        "too few structures": {"structure": structure[:-1]},
        "structures in rows": {"structure": structure[None]},
        "one structure": {"structure": structure[0]},
    }.items():
        kept = {key: value for key, value in (found | changed).items() if value is not None}
        yield Case(name, lambda path, a=kept: np.savez(path, **a))


def layouts() -> Iterator[Case]:
    """Wall layouts whose counts, names or bytes are others."""
    found = walls()
    key = "maze_wall/15"
    packed, count = found[key], found[f"{key}/count"]
    for value in (
        np.array([np.nan, 13.0]), np.array([3.0, np.nan]), np.array([np.inf, 13.0]), np.array(["3", "13"]),
        np.array([b"3", b"13"]), np.array([3.5, 13.0]), np.array([-3, 13]), np.array([3, -13]), np.array([0, 13]),
        np.array([3, 13, 1]), np.array([[3, 13]]), np.array(3), np.array([]), np.array([10**12, 13]),
        np.array([3, 10**9]), np.array([2**63, 13], np.uint64), np.array([3, 1]), np.array([3 + 1j, 13]), count + 1,
    ):  # fmt: skip
        own = found | {f"{key}/count": value}
        yield Case(f"a count of {value!r}", lambda path, a=own: np.savez(path, **a), "layouts")
    for name, size, m in (("size 0", "0", -2), ("size 1", "1", -1), ("size 2", "2", 0), ("size 3", "3", 1)):
        own = {f"x/{size}": np.zeros((3, -(-m * m // 8)), np.uint8), f"x/{size}/count": np.array([3, m])}
        yield Case(name, lambda path, a=own: np.savez(path, **a), "layouts")
    for size in ("15.0", "-15", "٣", "9" * 5000, "", "count", "1e1"):
        own = {f"x/{size}": packed, f"x/{size}/count": count}
        yield Case(f"a size of {size[:9]!r}", lambda path, a=own: np.savez(path, **a), "layouts")
    for name, changed in {
        "no count": {f"{key}/count": None},
        "only counts": {key: None, "rooms_office/15": None},
        "real numbers": {key: packed.astype(float)},
        "one byte less": {key: packed[:, :-1]},
        "one byte more": {key: np.pad(packed, ((0, 0), (0, 1)))},
        "one layout less": {key: packed[:-1]},
        "flat": {key: packed.ravel()},
        "no name": {key: None, "/15": packed, "/15/count": count},
    }.items():
        kept = {k: v for k, v in (found | changed).items() if v is not None}
        yield Case(f"layouts: {name}", lambda path, a=kept: np.savez(path, **a), "layouts")
    yield Case("levels as layouts", lambda path: good_levels().save(path), "layouts")
    yield Case("layouts as levels", lambda path: write(path, good_layouts()))


def entry(described: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy with a description of one's own."""
    header = described.encode("latin1") + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


def archive(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in entries.items():
            file.writestr(name, content)


@cache
def npys() -> dict[str, bytes]:
    """The entries of a good level-set file."""
    made = {}
    for name, value in parts().items():
        content = io.BytesIO()
        np.save(content, value)
        made[f"{name}.npy"] = content.getvalue()
    return made


def arrays() -> Iterator[Case]:
    """Entries whose own headers say something else than what follows."""
    bytes_of = "{{'descr': '|u1', 'fortran_order': False, 'shape': {}}}"
    for name, content in {
        "1e12 tiles": entry(bytes_of.format("(1000000000000,)")),
        "1e30 tiles": entry(bytes_of.format(f"({10**30},)")),
        "a negative shape": entry(bytes_of.format("(-5,)"), bytes(5)),
        "two negative shapes": entry(bytes_of.format("(-5, -1)"), bytes(5)),
        "a shape of text": entry(bytes_of.format("('a',)"), bytes(5)),
        "no shape": entry("{'descr': '|u1', 'fortran_order': False}", bytes(5)),
        "no type": entry("{'descr': 'nonsense', 'fortran_order': False, 'shape': (5,)}", bytes(5)),
        "dates": entry("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        "nothing of size": entry("{'descr': '|V0', 'fortran_order': False, 'shape': (9,)}"),
        "a compound type": entry("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", bytes(4)),
        "code": entry("__import__('os').system('true')", bytes(5)),
        "4,000 brackets": entry("(" * 4000),
        "100,000 brackets": entry("[" * 100_000, version=(2, 0)),
        "no description": entry(""),
        "version 9": entry(bytes_of.format("(5,)"), bytes(5), (9, 0)),
        "no magic": b"tiles",
        "nothing": b"",
        "bytes after": entry(bytes_of.format("(5,)"), bytes(500)),
    }.items():
        yield Case(f"tiles of {name}", lambda path, c=content: archive(path, npys() | {"tiles.npy": c}))

    def pickled(path: Path) -> None:
        np.savez(path, **parts() | {"header": np.array([Runs(path.with_name("it ran"))], object)})

    yield Case("a pickle in an array", pickled)
    yield Case("a pickle", lambda path: path.write_bytes(pickle.dumps(Runs(path.with_name("it ran")))))
    yield Case("one array", lambda path: path.write_bytes(entry(bytes_of.format("(5,)"), bytes(5))))


def zips() -> Iterator[Case]:
    for name, method in (("bzip2", zipfile.ZIP_BZIP2), ("lzma", zipfile.ZIP_LZMA)):
        yield Case(f"packed by {name}", lambda path, m=method: archive(path, npys(), m))

    def twice(path: Path) -> None:
        archive(path, npys())
        with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
            warnings.simplefilter("ignore")
            file.writestr("tiles.npy", npys()["tiles.npy"])

    yield Case("tiles twice", twice)
    yield Case("no entries", lambda path: archive(path, {}))
    yield Case("not arrays", lambda path: archive(path, {"header": b"{}", "tiles": b"", "structure": b""}))

    def field(offset: int, value: bytes) -> Callable[[Path], None]:
        """Sets a field of the tiles' entry in the archive's table of contents."""

        def make(path: Path) -> None:
            archive(path, npys())
            content = bytearray(path.read_bytes())
            start = content.rindex(b"PK\x01\x02", 0, content.rindex(b"tiles.npy"))
            content[start + offset : start + offset + len(value)] = value
            path.write_bytes(content)

        return make

    large = struct.pack("<I", 4 * 10**9)
    for name, offset, value in (
        ("encrypted", 8, b"\x01"), ("of an unknown method", 10, b"\x63\x00"), ("of another checksum", 16, bytes(4)),
        ("of 4 GB, they say", 24, large), ("of 4 GB packed", 20, large), ("of nothing", 24, bytes(4)),
        ("somewhere else", 42, large), ("over another", 42, bytes(4)), ("of a later zip", 6, b"\xff"),
    ):  # fmt: skip
        # How much is packed nobody has to know: it is whole all the same.
        yield Case(f"tiles {name}", field(offset, value), readable=name == "of 4 GB packed")


def bombs() -> Iterator[Case]:
    def zeros(megabytes: int, key: str, described: str) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                for name, content in npys().items():
                    if name != key:
                        file.writestr(name, content)
                with file.open(key, "w", force_zip64=True) as out:
                    out.write(entry(described))
                    for _ in range(megabytes):
                        out.write(bytes(1 << 20))

        return make

    for megabytes in (100, 400):
        described = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({megabytes << 20},)}}"
        for key in ("tiles.npy", "header.npy"):
            yield Case(f"{megabytes} MB of zeros in {key}", zeros(megabytes, key, described))

    def unpacked(path: Path) -> None:
        """Layouts that claim 10^8 pictures of zeros, in 16 MB that are within reason: unpacked they are 128 MB."""
        own = {"x/15": np.zeros((700_000, 22), np.uint8), "x/15/count": np.array([700_000, 13])}
        np.savez_compressed(path, **own)

    yield Case("layouts that unpack to much", unpacked, "layouts", True)


def no_files(rng: random.Random) -> Iterator[Case]:
    for kind in ("levels", "layouts"):
        for name, make in {
            "nothing there": lambda path: None,
            "an empty file": lambda path: path.write_bytes(b""),
            "a pipe": os.mkfifo,
            "a device": lambda path: path.symlink_to("/dev/zero"),
            "a folder": lambda path: path.mkdir(),
            "a link to itself": lambda path: path.symlink_to(path.name),
            "a page": lambda path: path.write_bytes(b"<!doctype html><title>404 Not Found</title>"),
            "zeros": lambda path: path.write_bytes(bytes(5000)),
            "PK and no more": lambda path: path.write_bytes(b"PK\x03\x04"),
            "noise": lambda path: path.write_bytes(b"PK\x03\x04" + random.Random(1).randbytes(3000)),
        }.items():
            yield Case(f"{name} as {kind}", make, kind)


def torn(rng: random.Random, count: int) -> Iterator[Case]:
    """Good files with bytes changed, cut off, or repeated."""
    for number in range(count):
        seed, kind = rng.randrange(10**9), rng.choice(["levels", "layouts"])

        def make(path: Path, seed: int = seed, kind: str = kind) -> None:
            own = random.Random(seed)
            save = np.savez if own.random() < 0.5 else np.savez_compressed
            save(path, **(parts() if kind == "levels" else walls()))
            content = bytearray(path.read_bytes())
            for _ in range(own.choice([1, 1, 2, 4, 16])):
                content[own.randrange(len(content))] = own.choice([0, 1, 127, 128, 255, own.randrange(256)])
            if own.random() < 0.2:
                del content[own.randrange(len(content)) :]
            path.write_bytes(content)

        yield Case(f"torn {number}", make, kind, True)
