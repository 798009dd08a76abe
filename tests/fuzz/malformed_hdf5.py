"""Files that call themselves D4RL datasets: some good ones, and many ways of being none. All follow from a seed."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

KEYS = ("observations", "actions", "rewards", "terminals")
ALL_KEYS = (*KEYS, "timeouts", "next_observations")
OBS, ACTION = 11, 3
"""As hopper has them."""

Data = dict[str, Any]


@dataclass
class Case:
    name: str
    make: Callable[[Path], Any]
    """Writes the file, or what stands in its place."""
    data: Data | None = None
    """What has to be read; None where nothing may be."""
    refused: str | None = None
    """What the line has to say, or one of several between bars; None where the file may be read, as what is in it."""


def numbers(seed: int, rows: int = 30, optional: bool = True) -> Data:
    rng = np.random.default_rng(seed)
    data = {
        "observations": rng.normal(size=(rows, OBS)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(rows, ACTION)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": rng.random(rows) < 0.1,
    }
    if optional:
        data["timeouts"] = rng.random(rows) < 0.1
        data["next_observations"] = rng.normal(size=(rows, OBS)).astype(np.float32)
    return data


def write(path: Path, data: Data, libver: str = "earliest", userblock: int = 0, **packing: Any) -> Path:
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        for key, value in data.items():
            file.create_dataset(key, data=value, **(packing if np.ndim(value) else {}))
        file.attrs["kind"] = "fuzz"
    return path


def cases(seed: int) -> list[Case]:
    """All of them; the same ones for the same seed."""
    rng = random.Random(seed)
    found = [*good(rng), *links(rng), *elsewhere(rng), *kinds(rng), *shapes(rng), *claims(rng), *bombs(rng)]
    return [*found, *values(rng), *no_files(rng), *torn(rng, 110)]


def good(rng: random.Random) -> Iterator[Case]:
    packings = [
        {},
        {"chunks": True},
        {"chunks": (7, 2), "only": "vectors"},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf"},
        {"maxshape": True},
    ]
    for number, packing in enumerate(packings):
        for libver in ("earliest", "latest"):
            data = numbers(rng.randrange(1000), optional=number % 2 == 0)

            def make(path: Path, data: Data = data, packing: Data = packing, libver: str = libver) -> None:
                with h5py.File(path, "w", libver=libver) as file:
                    for key, value in data.items():
                        given = dict(packing)
                        if given.pop("only", None) and value.ndim == 1:
                            given.pop("chunks")
                        if given.pop("maxshape", None):
                            given["maxshape"] = (None,) * value.ndim
                        file.create_dataset(key, data=value, **given)

            yield Case(f"good: {packing} {libver}", make, data)
    for kind in ("<f2", ">f4", "<f8", ">f8", "longdouble"):
        data = numbers(rng.randrange(1000))
        data["rewards"] = data["rewards"].astype(kind)
        yield Case(f"good: rewards of {kind}", lambda path, d=data: write(path, d), data)
    for kind in ("u1", "<i4", ">i8", "f4", "f8"):
        data = numbers(rng.randrange(1000))
        data["terminals"] = data["terminals"].astype(kind)
        yield Case(f"good: terminals of {kind}", lambda path, d=data: write(path, d), data)
    data = numbers(1)
    column = data | {key: data[key][:, None] for key in ("rewards", "terminals", "timeouts")}
    yield Case("good: columns", lambda path: write(path, column), data)
    yield Case("good: behind a user block", lambda path: write(path, data, userblock=1024), data)


def replaced(key: str, by: Callable[[h5py.File, Path, Data], None], seed: int) -> Callable[[Path], None]:
    """Writes a good file in which `by` puts something else under `key`."""

    def make(path: Path) -> None:
        data = numbers(seed)
        write(path, {k: v for k, v in data.items() if k != key})
        with h5py.File(path, "a") as file:
            by(file, path, data)

    return make


def links(rng: random.Random) -> Iterator[Case]:
    def soft(to: str) -> Callable:
        return lambda file, path, data: file.__setitem__(key, h5py.SoftLink(to))

    def external(file: h5py.File, path: Path, data: Data) -> None:
        other = path.with_name("other.hdf5")
        write(other, numbers(5))
        file[key] = h5py.ExternalLink(other.name, key)

    for key in ALL_KEYS:
        for what, by in {
            "soft link to another key": soft("/observations" if key != "observations" else "/next_observations"),
            "dangling soft link": soft("/nowhere"),
            "soft link to itself": soft(f"/{key}"),
            "external link": external,
            "dangling external link": lambda file, path, data, k=key: file.__setitem__(
                k, h5py.ExternalLink("gone.hdf5", k)
            ),
        }.items():
            make = replaced(key, by, rng.randrange(1000))

            def under(path: Path, make: Callable = make, bound: str = key) -> None:
                nonlocal key
                key = bound
                make(path)

            yield Case(f"{what} at {key}", under, refused="is a link to somewhere else")


def elsewhere(rng: random.Random) -> Iterator[Case]:
    """Datasets whose numbers lie in another file, or in themselves."""

    def virtual(key: str, source: str) -> Callable:
        def by(file: h5py.File, path: Path, data: Data) -> None:
            name = {"other": "other.hdf5", "gone": "gone.hdf5", "itself": "."}[source]
            if source == "other":
                write(path.with_name(name), numbers(5))
            shape, dtype = data[key].shape, data[key].dtype
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(name, key, shape, dtype)
            file.create_virtual_dataset(key, layout)

        return by

    def external(key: str, there: bool) -> Callable:
        def by(file: h5py.File, path: Path, data: Data) -> None:
            if there:
                path.with_name("secret.txt").write_bytes(b"root:x:0:0:" * 200)
            storage = [(str(path.with_name("secret.txt")), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset(key, data[key].shape, data[key].dtype, external=storage)

        return by

    for key in ("observations", "rewards", "timeouts", "next_observations"):
        for source in ("other", "gone", "itself"):
            make = replaced(key, virtual(key, source), rng.randrange(1000))
            yield Case(f"virtual {key} of {source}", make, refused="is put together from other files")
        for there in (True, False):
            make = replaced(key, external(key, there), rng.randrange(1000))
            yield Case(f"external {key}, {'there' if there else 'gone'}", make, refused="put together from other files")


def kinds(rng: random.Random) -> Iterator[Case]:
    rows = 30
    compound = np.zeros(rows, [("x", "f4"), ("y", "f4")])
    for key in ("rewards", "timeouts"):
        for what, value in {
            "fixed text": np.array([b"one"] * rows),
            "compound": compound,
            "complex": np.zeros(rows, np.complex64),
            "opaque": np.zeros(rows, "V8"),
            "arrays": np.zeros(rows, [("x", "f4", 4)]),
            "times": np.arange(rows).astype("f4").view("V4"),
        }.items():
            make = replaced(key, lambda f, p, d, k=key, v=value: f.create_dataset(k, data=v), rng.randrange(1000))
            yield Case(f"{key} of {what}", make, refused="something else than numbers")
        text = ["x" * 1000] * rows
        for what, dtype in {"text": h5py.string_dtype(), "ragged": h5py.vlen_dtype(np.float32)}.items():
            value = np.array(text, object) if what == "text" else [np.ones(3, np.float32)] * rows

            def ragged(file: h5py.File, path: Path, data: Data, k: str = key, v: Any = value, d: Any = dtype) -> None:
                dataset = file.create_dataset(k, (rows,), d)
                for row in range(rows):
                    dataset[row] = v[row]

            yield Case(f"{key} of {what}", replaced(key, ragged, 1), refused="something else than numbers")
        group = replaced(key, lambda f, p, d, k=key: f.create_group(k), 1)
        yield Case(f"a group at {key}", group, refused="is no array of numbers")
        named = replaced(key, lambda f, p, d, k=key: f.__setitem__(k, np.dtype("f4")), 1)
        yield Case(f"a type at {key}", named, refused="is no array of numbers")
        nothing = replaced(key, lambda f, p, d, k=key: f.__setitem__(k, h5py.Empty("f")), 1)
        yield Case(f"nothing at {key}", nothing, refused="holds nothing")


def shapes(rng: random.Random) -> Iterator[Case]:
    data = numbers(2)
    wrong = {
        "one row": ({k: v[:1] for k, v in data.items()}, "at least 2 are needed"),
        "no rows": ({k: v[:0] for k, v in data.items()}, "at least 2 are needed"),
        "scalar rewards": (data | {"rewards": np.float32(1)}, "rewards has shape ()"),
        "flat observations": (data | {"observations": data["observations"].ravel()}, "observations has shape"),
        "deep observations": (data | {"observations": data["observations"][..., None]}, "observations has shape"),
        "wide rewards": (data | {"rewards": np.zeros((30, 2))}, "rewards has shape (30, 2)"),
        "no columns": (data | {"observations": np.zeros((30, 0))}, "observations has shape (30, 0)"),
        "other observations": (data | {"observations": np.zeros((30, 17))}, "unlike observations|numbers, but those"),
        "other actions": (data | {"actions": np.zeros((30, 6))}, "actions of 6 numbers"),
        "other successors": (data | {"next_observations": np.zeros((30, 4))}, "unlike observations"),
    }
    for key in ALL_KEYS[1:]:
        cut = rng.randrange(2, 29)
        wrong[f"{cut} {key}"] = (data | {key: data[key][:cut]}, f"30 observations but {cut} {key}")
    for key in KEYS:
        wrong[f"no {key}"] = ({k: v for k, v in data.items() if k != key}, f"key '{key}' is missing")
    for name, (spoilt, message) in wrong.items():
        yield Case(name, lambda path, d=spoilt: write(path, d), refused=message)


def claims(rng: random.Random) -> Iterator[Case]:
    """Rows that were never written: HDF5 would make them up."""

    def unwritten(rows: int, only: tuple[str, ...] = ALL_KEYS, **packing: Any) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            data = numbers(3, min(rows, 1000))
            with h5py.File(path, "w") as file:
                for key, value in data.items():
                    given = {"data": value} if key not in only else {"shape": (rows, *value.shape[1:]), "dtype": "f4"}
                    file.create_dataset(key, **given, **packing)

        return make

    chunked = {"chunks": True, "compression": "gzip"}
    for rows in (10**8, 10**9, 10**12):
        for what, packing in {"chunks": {"chunks": True}, "gzipped chunks": chunked, "one piece": {}}.items():
            yield Case(f"{rows} rows unwritten in {what}", unwritten(rows, **packing), refused="no recording packs so")
    for key in ALL_KEYS:
        for what, packing in {"gzipped chunks": chunked, "one piece": {}}.items():
            make = unwritten(30, (key,), **packing)
            yield Case(f"{key} unwritten in {what}", make, refused="were ever written|are in the file")

    def half_written(path: Path) -> None:
        write(path, numbers(3), chunks=True)
        with h5py.File(path, "a") as file:
            del file["rewards"]
            file.create_dataset("rewards", (30,), "f4", chunks=(10,), fillvalue=0.5)[:10] = 1.0

    yield Case("a third of the rewards written", half_written, refused="claims 3 chunks, of which 1 were ever written")

    def large_chunks(path: Path) -> None:
        write(path, {k: v for k, v in numbers(3).items() if k != "rewards"})
        with h5py.File(path, "a") as file:
            file.create_dataset("rewards", (30,), "f4", maxshape=(None,), chunks=(10**9,), compression="gzip")

    yield Case("chunks of 4 GB", large_chunks, refused="in chunks of 4000000000")

    def beyond_the_end(path: Path) -> None:
        write(path, numbers(3, 3000))
        os.truncate(path, path.stat().st_size - rng.randrange(20_000, 100_000))

    yield Case("cut off in its numbers", beyond_the_end, refused="cut off or damaged")

    def hole(path: Path) -> None:
        """Six columns of zeros in one piece, all of them in holes of a sparse file."""
        rows = 40_000_000
        with h5py.File(path, "w") as file:
            for key, value in numbers(3).items():
                space = h5s.create_simple((rows, *value.shape[1:]))
                plist = h5p.create(h5p.DATASET_CREATE)
                plist.set_alloc_time(h5d.ALLOC_TIME_EARLY)
                plist.set_fill_time(h5d.FILL_TIME_NEVER)
                h5d.create(file.id, key.encode(), h5t.NATIVE_FLOAT, space, plist)

    yield Case("zeros in the holes of a sparse file", hole, refused="no recording packs so well")


def bombs(rng: random.Random) -> Iterator[Case]:
    def honest(rows: int) -> Callable[[Path], None]:
        """Every chunk is there, each of them the same thousandth of its size."""

        def make(path: Path) -> None:
            with h5py.File(path, "w") as file:
                for key, value in numbers(3).items():
                    shape, chunk = (rows, *value.shape[1:]), (10**6, *value.shape[1:])
                    dataset = file.create_dataset(key, shape, "f4", chunks=chunk, compression="gzip")
                    packed = zlib.compress(bytes(4 * int(np.prod(chunk))), 9)
                    for first in range(0, rows, 10**6):
                        dataset.id.write_direct_chunk((first, *(0 for _ in value.shape[1:])), packed)

        return make

    yield Case("a bomb of 1.2 GB of zeros", honest(10**7), refused="no recording packs so well")
    yield Case("a bomb of 6 GB of zeros", honest(5 * 10**7), refused="no recording packs so well")

    def inside(megabytes: int, key: str, **packing: Any) -> Callable[[Path], None]:
        """One chunk that unpacks to far more than it says."""

        def make(path: Path) -> None:
            data = numbers(3)
            write(path, {k: v for k, v in data.items() if k != key})
            packer = zlib.compressobj(9)
            packed = b"".join([packer.compress(bytes(1 << 20)) for _ in range(megabytes)] + [packer.flush()])
            with h5py.File(path, "a") as file:
                value = data[key]
                room = {"chunks": (10**6, *value.shape[1:]), "maxshape": (None, *value.shape[1:])}
                dataset = file.create_dataset(key, value.shape, "f4", compression="gzip", **room, **packing)
                dataset.id.write_direct_chunk((0,) * value.ndim, packed)

        return make

    for megabytes, key in ((200, "observations"), (200, "rewards"), (500, "next_observations")):
        yield Case(f"a chunk of {key} of {megabytes} MB", inside(megabytes, key), refused="chunks that")
    yield Case("a shuffled chunk of 200 MB", inside(200, "observations", shuffle=True), refused="chunks that")

    def twice(path: Path) -> None:
        data = numbers(3)
        write(path, {k: v for k, v in data.items() if k != "rewards"})
        with h5py.File(path, "a") as file:
            plist = h5p.create(h5p.DATASET_CREATE)
            plist.set_chunk((30,))
            plist.set_deflate(9)
            plist.set_deflate(9)
            dataset = h5d.create(file.id, b"rewards", h5t.NATIVE_FLOAT, h5s.create_simple((30,)), plist)
            dataset.write(h5s.ALL, h5s.ALL, data["rewards"])

    yield Case("packed twice over", twice, refused="is packed twice over")

    def scaled(path: Path) -> None:
        data = numbers(3)
        write(path, {k: v for k, v in data.items() if k != "rewards"})
        with h5py.File(path, "a") as file:
            file.create_dataset("rewards", data=data["rewards"], scaleoffset=3, chunks=True)

    yield Case("packed with loss", scaled, refused="is packed by HDF5's filter")


def values(rng: random.Random) -> Iterator[Case]:
    for key in ("observations", "actions", "rewards", "next_observations"):
        for value in (np.nan, np.inf, -np.inf):
            data = numbers(rng.randrange(1000))
            row = rng.randrange(30)
            data[key][row] = value
            yield Case(f"{value} in {key}", lambda p, d=data: write(p, d), refused=f"{value} is not finite")
    for value in (1.001, -5.1, 1e30):
        data = numbers(rng.randrange(1000))
        row = rng.randrange(30)
        data["actions"][row, 1] = value
        message = f"outside [-1, 1], the first in row {row}, column 1"
        yield Case(f"an action of {value}", lambda p, d=data: write(p, d), refused=message)
    for key in ("terminals", "timeouts"):
        for value in (2, -1, 0.5, np.nan):
            data = numbers(rng.randrange(1000))
            data[key] = data[key].astype(np.float32)
            data[key][rng.randrange(30)] = value
            yield Case(f"{key} of {value}", lambda p, d=data: write(p, d), refused="is neither 0 nor 1|is not finite")
    huge = numbers(4)
    huge["rewards"] = huge["rewards"].astype(np.float64)
    huge["rewards"][3] = 1e300  # not in float32
    yield Case("a reward of 1e300", lambda path: write(path, huge), refused="rewards in row 3: inf is not finite")
    ended = numbers(4)
    ended["timeouts"][:] = True
    yield Case("nothing but time-outs", lambda path: write(path, ended), refused="every row is a time-out")


def no_files(rng: random.Random) -> Iterator[Case]:
    yield Case("nothing there", lambda path: None, refused="no such file")
    yield Case("an empty file", lambda path: path.write_bytes(b""), refused="an empty file")
    yield Case("a pipe", os.mkfifo, refused="pipe")
    yield Case("a device", lambda path: path.symlink_to("/dev/zero"), refused="device")
    yield Case("a folder without it", lambda path: path.mkdir(), refused="no such file; give one, or a folder")
    yield Case("a link to itself", lambda path: path.symlink_to(path.name), refused="no such file|cannot be read")
    contents = {
        "a page": b"<!doctype html><title>404 Not Found</title>",
        "zeros": bytes(5000),
        "a signature": b"\x89HDF\r\n\x1a\n",
        "noise": rng.randbytes(5000),
    }
    for what, content in contents.items():
        yield Case(what, lambda path, c=content: path.write_bytes(c), refused="not an HDF5 file|cut off or damaged")


def torn(rng: random.Random, count: int) -> Iterator[Case]:
    """Good files with bytes changed, cut off, or repeated, most of them in what HDF5 says of itself."""
    summed = {"compression": "gzip", "shuffle": True, "fletcher32": True}
    packings = [{}, {"chunks": True}, summed, {"compression": "lzf"}]
    for number in range(count):
        packing, libver = rng.choice(packings), rng.choice(["earliest", "v110", "latest"])
        seed = rng.randrange(10**9)

        def make(path: Path, packing: Data = packing, libver: str = libver, seed: int = seed) -> None:
            own = random.Random(seed)
            content = bytearray(write(path, numbers(seed % 1000), libver, **packing).read_bytes())
            for _ in range(own.choice([1, 1, 2, 4, 16, 64])):
                content[own.randrange(len(content))] = own.choice([0, 1, 127, 128, 255, own.randrange(256)])
            if own.random() < 0.2:
                del content[own.randrange(len(content)) :]
            if own.random() < 0.1:
                first = own.randrange(len(content) + 1)
                content[first:first] = content[own.randrange(len(content) + 1) :][:256]
            path.write_bytes(content)

        yield Case(f"torn {number}", make)
