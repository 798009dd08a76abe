"""Named sets of CaveEscape levels (DRED's five datasets, re-made), and files of levels.

DRED's sets are defined by wall structures (Wave Function Collapse templates), how many levels of each, and how moss
and lava are placed. Here the wall layouts come with the package, and placement is a function of the set's name, the
split, the structure and the level's number: everyone gets the same levels.
"""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.cave.layouts import LEAST_SIZE, Layouts, load_npz, packaged, read, save_npz
from envs.cave.placement import Placement, place
from envs.cave.tiles import GOAL, START, TILES, WALL
from rlreg.errors import UserError, require, unknown
from rlreg.rng import Rng

SPLITS = ("train", "test")
TRAINING_STRUCTURES = ("obstacles_hogs3", "maze_wall", "maze_paths", "rooms_office")
OTHER_STRUCTURES = (
    "obstacles_blackdots",
    "obstacles_hogs2",
    "obstacles_angular",
    "dungeon_mazescaled",
    "maze_simple",
    "rooms_fabric",
    "dungeon_rooms",
    "maze_knot",
    "skew_2",
    "dungeon_spirals_neg",
    "maze_spirals",
    "dungeon_lessrooms",
    "rooms_magicoffice",
    "dungeon_",
)

_VERSION = 1
_PLACEMENT_SEED = 0
_KIND = "level-set file"


@dataclass(frozen=True)
class Definition:
    """What a set is made of: `train` + `test` levels of each structure."""

    structures: tuple[str, ...]
    train: int
    test: int
    placement: Placement = field(default_factory=Placement)
    size: int = 15


SETS = {
    "cave_escape_512_4ts_varp": Definition(TRAINING_STRUCTURES, 128, 512),
    "cave_escape_112_14ts_varp": Definition(OTHER_STRUCTURES, 8, 8),
    "cave_escape_112_14ts_varpl_p5m": Definition(OTHER_STRUCTURES, 8, 8, Placement(moss=(0.05, 0.05))),
    "cave_escape_112_14ts_p50l_p5m": Definition(
        OTHER_STRUCTURES, 8, 8, Placement(moss=(0.05, 0.05), lava=(0.5, 0.5))
    ),
    "cave_escape_108_18ts_varp_dim45": Definition(
        OTHER_STRUCTURES + TRAINING_STRUCTURES, 6, 6, Placement(temperature=2.0), size=45
    ),
}
"""DRED's datasets by its own names. The number in a name counts the training split."""


@dataclass
class LevelSet:
    """L levels of one size, and where they come from."""

    levels: np.ndarray
    """(L, G, G) uint8: tiles, x first, with the wall border."""
    structure: tuple[str, ...]
    """The wall structure of each level, L names."""
    header: dict[str, Any]
    """JSON values: name, split, and how the set was made."""

    def __post_init__(self) -> None:
        _check(self.levels, self.structure, str(self.header.get("name", "level set")))

    def __len__(self) -> int:
        return len(self.levels)

    @property
    def size(self) -> int:
        """G."""
        return self.levels.shape[-1]

    def first(self, count: int, field: str = "count") -> LevelSet:
        """`count` of the levels, as many of each structure as can be: the first ones, in their order here.

        Raises `UserError`, which calls the number `field`, unless 1 <= count <= L.
        """
        require(1 <= count <= len(self), field, count, f"1 to {len(self)}, the levels that there are")
        seen: Counter[str] = Counter()
        turns = []  # (number within its structure, number in the set): sorted, a level of each structure in turn
        for number, name in enumerate(self.structure):
            turns.append((seen[name], number))
            seen[name] += 1
        kept = sorted(number for _, number in sorted(turns)[:count])
        return LevelSet(self.levels[kept], tuple(self.structure[k] for k in kept), self.header)

    def save(self, path: str | Path) -> None:
        """One npz: a JSON header, three bits a cell, and each level's structure. Written beside and renamed."""
        names = sorted(set(self.structure))
        header = self.header | {"version": _VERSION, "shape": self.levels.shape, "structures": names}
        index = np.searchsorted(TILES, self.levels)
        bits = np.stack([index >> bit & 1 for bit in range(3)]).astype(np.uint8)
        arrays = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "tiles": np.packbits(bits),
            "structure": np.array([names.index(name) for name in self.structure], np.uint16),
        }
        save_npz(path, arrays)

    @classmethod
    def load(cls, path: str | Path) -> LevelSet:
        """Read what `save` wrote. Raises `UserError`: missing, damaged, another kind of file, or no valid levels."""
        arrays = load_npz(path, _KIND)
        if arrays.keys() != {"header", "tiles", "structure"}:
            raise UserError(f"{path} is not a {_KIND}: it holds {', '.join(sorted(arrays)[:3]) or 'nothing'}")
        try:
            header = json.loads(arrays["header"].tobytes())
            version = header.pop("version")
        except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"{path} is not a {_KIND}: its header has no version") from error
        if version != _VERSION:
            raise UserError(f"{path} has version {version} of the {_KIND} format; this program reads {_VERSION}")
        shape, names, index = header.pop("shape", None), header.pop("structures", None), arrays["structure"]
        problem = None
        if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n >= 1 for n in shape)):
            problem = f"shape={_short(shape)}, where three whole numbers >= 1 belong"
        elif not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            problem = f"structures={_short(names)}, where names belong"
        elif not isinstance(header.get("name", ""), str):
            problem = f"name={_short(header['name'])}, where a name belongs"
        elif arrays["tiles"].dtype != np.uint8 or arrays["tiles"].shape != (-(-3 * math.prod(shape) // 8),):
            problem = f"shape={shape}, which the tiles do not fit"
        elif index.dtype.kind not in "iu" or index.shape != (shape[0],):
            problem = f"shape={shape}, which the structures of the levels do not fit"
        elif (strange := index[(index < 0) | (index >= len(names))]).size:
            problem = f"{len(names)} structures, but a level of number {strange[0]}"
        if problem:
            raise UserError(f"{path}: the file is damaged: its header has {problem}")
        structure = tuple(names[number] for number in index.tolist())
        # The two numbers that name no tile become 0, which is none either: the check below reports it.
        levels = np.array((*TILES, 0, 0), np.uint8)[_unpacked(arrays["tiles"], math.prod(shape))].reshape(shape)
        _check(levels, structure, str(path))
        return cls(levels, structure, header)


def _unpacked(tiles: np.ndarray, count: int) -> np.ndarray:
    """`count` numbers of three bits, plane by plane: all low bits, all middle ones, all high ones."""
    numbers = np.zeros(count, np.uint8)
    for bit in range(3):
        first = bit * count
        plane = np.unpackbits(tiles[first // 8 : -(-(first + count) // 8)])[first % 8 :][:count]
        numbers |= plane << bit
    return numbers


def _short(value: Any) -> str:
    """A header's value as JSON, short enough for a line."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def level_set(
    name: str, split: str = "train", count: int | None = None, layouts: str | Path | None = None
) -> LevelSet:
    """A set by its name (`SETS`), or a level-set file by its path: then `split` and `layouts` mean nothing.

    `count` takes that many levels, balanced over the structures. `layouts` is a file or folder of wall layouts; those
    of a structure and size found there stand in for the packaged ones. The 45 x 45 set needs it: the package has
    layouts of that size for three structures only; the header's `missing` lists the others, and a warning does.
    Raises `UserError` for an unknown set or split, a bad file, or a set of which nothing can be built.
    """
    if name in SETS:
        found = build(name, SETS[name], split, packaged() | (read(layouts) if layouts else {}))
    elif name.endswith(".npz") or Path(name).exists():
        found = LevelSet.load(name)
    else:
        raise unknown("level set", name, SETS)
    return found if count is None else found.first(count)


def build(name: str, definition: Definition, split: str, layouts: Layouts) -> LevelSet:
    """Place goal, moss, lava and start on a definition's layouts; the name and the split key the random numbers."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    size, wanted = definition.size, definition.train + definition.test
    there = {s: len(layouts.get((s, size), ())) for s in definition.structures}
    missing = [s for s in definition.structures if there[s] < wanted]
    if missing:
        lacking = f"'{name}' needs {wanted} layouts of size {size} of each structure; generate first: " + ", ".join(
            f"{s} (has {there[s]})" if there[s] else s for s in missing
        )
        if len(missing) == len(there):
            raise UserError(lacking)
        warnings.warn(f"built without some structures. {lacking}", stacklevel=3)

    chosen = slice(definition.train) if split == "train" else slice(definition.train, wanted)
    levels, structure = [], []
    for s in definition.structures:
        if s not in missing:
            walls = layouts[s, size][chosen]
            levels.append(_placed(walls.tobytes(), size, f"{name}/{split}/{s}", definition.placement))
            structure += [s] * len(walls)
    header = {"name": name, "split": split, "placement": asdict(definition.placement), "missing": missing}
    return LevelSet(torch.cat(levels).numpy(), tuple(structure), header)


@lru_cache(maxsize=256)
def _placed(walls: bytes, size: int, stream: str, placement: Placement) -> Tensor:
    """Levels (L, G, G) on the layouts (L, G, G) bool that `walls` holds.

    Remembered, since a set takes up to 1.4 s and a run asks for each of its own twice: first for the sizes of the
    networks, then to learn.
    """
    layouts = torch.from_numpy(np.frombuffer(walls, bool).reshape(-1, size, size).copy())
    return place(layouts, Rng([_PLACEMENT_SEED]), stream, 0, placement)[0]


def _check(levels: np.ndarray, structure: tuple[str, ...], origin: str) -> None:
    """Raise `UserError` unless these are levels: square, walled in, of known tiles, one goal and one start each."""
    if levels.ndim != 3 or levels.dtype != np.uint8 or levels.shape[1] != levels.shape[2] or not len(levels):
        raise UserError(f"{origin}: levels are {levels.dtype} {levels.shape}, expected uint8 (levels, size, size)")
    if levels.shape[1] < LEAST_SIZE:
        size = levels.shape[1]
        raise UserError(f"{origin}: levels of size {size}; the least with room for goal and start is {LEAST_SIZE}")
    if len(structure) != len(levels):
        raise UserError(f"{origin}: {len(structure)} structure names for {len(levels)} levels")
    known = np.zeros(256, bool)
    known[list(TILES)] = True
    strange = ~known[levels]
    if strange.any():
        level, x, y = np.argwhere(strange)[0]
        raise UserError(f"{origin}: level {level} has the unknown tile {levels[level, x, y]} at ({x}, {y})")
    for tile, what in ((GOAL, "goal"), (START, "start")):
        counts = (levels == tile).sum((1, 2))
        if (counts != 1).any():
            level = int(np.argmax(counts != 1))
            raise UserError(f"{origin}: level {level} has {counts[level]} {what} tiles, expected one")
    ring = np.ones(levels.shape[1:], bool)
    ring[1:-1, 1:-1] = False
    broken = (levels[:, ring] != WALL).any(1)
    if broken.any():
        raise UserError(f"{origin}: level {int(np.argmax(broken))} has a gap in its outer wall")
