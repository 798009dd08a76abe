"""DRED's level sets by definition, level-set and layouts files, and what a damaged or wrong file gives."""

from __future__ import annotations

import json
import warnings
import zlib
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
import torch

from envs.cave import layouts
from envs.cave.level_sets import OTHER_STRUCTURES, SETS, TRAINING_STRUCTURES, LevelSet, level_set
from envs.cave.placement import largest_component
from envs.cave.tiles import EMPTY, GOAL, NAVIGABLE, START
from rlreg.errors import UserError

MAIN, OTHERS, LARGE = "cave_escape_512_4ts_varp", "cave_escape_112_14ts_varp", "cave_escape_108_18ts_varp_dim45"
COUNTS = {
    MAIN: (TRAINING_STRUCTURES, {"train": 128, "test": 512}),
    OTHERS: (OTHER_STRUCTURES, {"train": 8, "test": 8}),
    "cave_escape_112_14ts_varpl_p5m": (OTHER_STRUCTURES, {"train": 8, "test": 8}),
    "cave_escape_112_14ts_p50l_p5m": (OTHER_STRUCTURES, {"train": 8, "test": 8}),
}


@pytest.fixture(scope="module")
def small() -> LevelSet:
    return level_set(OTHERS, count=28)


@pytest.fixture
def saved(small, tmp_path):
    path = tmp_path / "set.npz"
    small.save(path)
    return path


def edited(path, **changes) -> str:
    """The same file with some arrays replaced; a name for a header's key changes that."""
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(arrays["header"].tobytes())
    for name, value in changes.items():
        if name in arrays:
            arrays[name] = value
        else:
            header[name] = value
    if "header" not in changes:
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", COUNTS)
def test_sizes_and_structures_are_dreds(name, split):
    structures, each = COUNTS[name]
    found = level_set(name, split)
    assert found.levels.shape == (len(structures) * each[split], 15, 15)
    assert Counter(found.structure) == dict.fromkeys(structures, each[split])
    assert (found.header["name"], found.header["split"]) == (name, split)
    assert found.header["missing"] == []
    if split == "train":
        assert f"_{len(found)}_{len(structures)}ts_" in name


def test_levels_stand_on_the_layouts_of_the_file():
    """The first training and test levels of a structure against the file's bits, read here by its description."""
    with files("envs.cave").joinpath("layouts.npz").open("rb") as file, np.load(file) as archive:
        packed = archive["maze_paths/15"]
        assert archive["maze_paths/15/count"].tolist() == [640, 13]
    for split, first in (("train", 0), ("test", 128)):
        picture = np.unpackbits(packed[first])[:169].reshape(13, 13)  # rows from the top, 1 for wall
        free = torch.zeros(15, 15, dtype=torch.bool)
        for y in range(13):
            for x in range(13):
                free[x + 1, y + 1] = not picture[y, x]
        found = level_set(MAIN, split)
        level = found.levels[found.structure.index("maze_paths")]
        assert (np.isin(level, NAVIGABLE) == largest_component(free).numpy()).all()


def test_everyone_gets_the_same_levels():
    """Check sums of what this program makes: results measured on these sets stay comparable."""
    assert zlib.crc32(level_set(MAIN).levels.tobytes()) == 0x5F7001A3
    assert zlib.crc32(level_set(OTHERS, "test").levels.tobytes()) == 0x15C39FC5


def test_no_two_sets_or_splits_share_levels():
    seen: set[bytes] = set()
    for name, (structures, each) in COUNTS.items():
        for split in each:
            levels = {level.tobytes() for level in level_set(name, split).levels}
            assert len(levels) > 0.99 * len(structures) * each[split]
            assert not levels & seen
            seen |= levels


def test_count_is_balanced_and_takes_the_first():
    whole = level_set(MAIN)
    part = level_set(MAIN, count=10)
    assert Counter(part.structure) == dict(zip(TRAINING_STRUCTURES, (3, 3, 2, 2), strict=True))
    for structure in TRAINING_STRUCTURES:
        ours = part.levels[np.array(part.structure) == structure]
        assert (ours == whole.levels[np.array(whole.structure) == structure][: len(ours)]).all()
    assert (whole.first(512).levels == whole.levels).all()
    for count in (0, 513):
        with pytest.raises(UserError, match=f"count={count} is not valid; give 1 to 512"):
            level_set(MAIN, count=count)


def test_unknown_sets_and_splits_are_told_the_closest_name():
    with pytest.raises(UserError, match=f"unknown level set 'cave_escape_512'; did you mean '{MAIN}'"):
        level_set("cave_escape_512")
    with pytest.raises(UserError, match="unknown split 'tset'; did you mean 'test'"):
        level_set(MAIN, "tset")


def test_a_saved_set_is_loaded_with_all_it_had(small, saved):
    loaded = LevelSet.load(saved)
    assert (loaded.levels == small.levels).all()
    assert loaded.levels.dtype == np.uint8
    assert loaded.structure == small.structure
    assert loaded.header == json.loads(json.dumps(small.header))
    loaded.save(saved)  # over itself
    named = level_set(str(saved), "test", count=14)
    assert named.structure == OTHER_STRUCTURES
    assert [p.name for p in saved.parent.iterdir()] == ["set.npz"]
    assert saved.stat().st_size < small.levels.size


@pytest.mark.parametrize("length", [0, 3, 100, -1000, -20])
def test_a_file_cut_off_is_one_line(saved, length):
    data = saved.read_bytes()
    saved.write_bytes(data[:length])
    with pytest.raises(UserError, match=r"set\.npz"):
        LevelSet.load(saved)


def test_every_flipped_byte_is_noticed_or_harmless(small, saved):
    data = saved.read_bytes()
    noticed = 0
    for position in range(0, len(data), 37):
        saved.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            assert (LevelSet.load(saved).levels == small.levels).all()
        except UserError as error:
            noticed += 1
            assert "\n" not in str(error)
    assert noticed > 10


def test_other_files_are_refused(saved, tmp_path):
    with pytest.raises(UserError, match="no such level-set file"):
        level_set(str(tmp_path / "nowhere.npz"))
    (tmp_path / "text.npz").write_text("levels")
    with pytest.raises(UserError, match="not a readable level-set file"):
        level_set(str(tmp_path / "text.npz"))
    np.savez(tmp_path / "other.npz", obs=np.zeros(3))
    with pytest.raises(UserError, match="not a level-set file: it holds obs"):
        level_set(str(tmp_path / "other.npz"))
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(UserError, match="not a level-set file but one array"):
        level_set(str(tmp_path / "array.npy"))
    np.savez(tmp_path / "pickled.npz", header=np.array({}), tiles=np.zeros(3), structure=np.zeros(3))
    with pytest.raises(UserError, match="not a readable level-set file"):
        level_set(str(tmp_path / "pickled.npz"))
    with pytest.raises(UserError, match="cannot read"):
        level_set(str(tmp_path))
    with pytest.raises(UserError, match="version 2 of the level-set file format; this program reads 1"):
        LevelSet.load(edited(saved, version=2))
    with pytest.raises(UserError, match="its header has no version"):
        LevelSet.load(edited(saved, header=np.frombuffer(b"[1]", np.uint8)))


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [29, 15, 15]},
        {"shape": [28, 15]},
        {"shape": "many"},
        {"structures": ["maze_knot"]},
        {"structures": None},
        {"structure": np.zeros(27, np.uint16)},
        {"tiles": np.zeros(2000, np.uint8)},
        {"tiles": np.full(2400, 0xFF, np.uint8)},
    ],
)
def test_a_file_whose_header_does_not_fit_its_levels_is_one_line(saved, changes):
    with pytest.raises(UserError, match=r"^[^\n]*set\.npz[^\n]*$"):
        LevelSet.load(edited(saved, **changes))


def test_maps_that_are_no_levels_are_refused_with_their_number(small):
    def broken(change) -> LevelSet:
        levels = small.levels.copy()
        change(levels)
        return LevelSet(levels, small.structure, {"name": "mine"})

    def put(level, x, y, tile):
        return lambda levels: levels.__setitem__((level, x, y), tile)

    def second_goal(levels):
        levels[3][levels[3] == EMPTY] = GOAL

    def no_start(levels):
        levels[4][levels[4] == START] = EMPTY

    with pytest.raises(UserError, match=r"mine: level 2 has the unknown tile 7 at \(4, 5\)"):
        broken(put(2, 4, 5, 7))
    with pytest.raises(UserError, match=r"mine: level 3 has \d+ goal tiles, expected one"):
        broken(second_goal)
    with pytest.raises(UserError, match="mine: level 4 has 0 start tiles, expected one"):
        broken(no_start)
    with pytest.raises(UserError, match="mine: level 5 has a gap in its outer wall"):
        broken(put(5, 0, 3, EMPTY))
    with pytest.raises(UserError, match="27 structure names for 28 levels"):
        LevelSet(small.levels, small.structure[:27], {})
    with pytest.raises(UserError, match=r"levels are int64 \(28, 15, 15\), expected uint8"):
        LevelSet(small.levels.astype(np.int64), small.structure, {})
    with pytest.raises(UserError, match=r"uint8 \(28, 15, 14\)"):
        LevelSet(small.levels[:, :, :14], small.structure, {})


def test_the_large_set_names_what_must_be_generated():
    with pytest.warns(UserWarning, match="12 layouts of size 45 .* generate first: obstacles_hogs2, "):
        found = level_set(LARGE)
    assert found.levels.shape == (18, 45, 45)
    assert Counter(found.structure) == {"obstacles_blackdots": 6, "maze_simple": 6, "maze_wall": 6}
    assert len(found.header["missing"]) == 15
    assert found.header["placement"]["temperature"] == 2.0


def test_own_layouts_complete_the_large_set(tmp_path):
    rng = np.random.default_rng(0)
    walls = np.ones((12, 45, 45), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        missing = level_set(LARGE).header["missing"]
    for number, structure in enumerate(missing):
        walls[:, 1:-1, 1:-1] = rng.random((12, 43, 43)) < 0.3
        half = number % 2 == 0  # some in two files of the folder
        layouts.write(tmp_path / f"{structure}-a.npz", {(structure, 45): walls[: 6 if half else 12]})
        if half:
            layouts.write(tmp_path / f"{structure}-b.npz", {(structure, 45): walls[6:]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for split in ("train", "test"):
            found = level_set(LARGE, split, layouts=tmp_path)
            assert found.levels.shape == (108, 45, 45)
            assert Counter(found.structure) == dict.fromkeys(SETS[LARGE].structures, 6)
    last = found.levels[np.array(found.structure) == missing[-1]]
    assert (np.isin(last, NAVIGABLE) == largest_component(torch.from_numpy(~walls[6:])).numpy()).all()


def test_own_layouts_stand_in_for_the_packaged_ones(tmp_path):
    file = tmp_path / "mine.npz"
    walls = np.ones((16, 15, 15), bool)
    walls[:, 3, 1:-1] = False
    layouts.write(file, {("maze_knot", 15): walls})
    found = level_set(OTHERS, layouts=file)
    mine = np.array(found.structure) == "maze_knot"
    assert (np.isin(found.levels[mine], NAVIGABLE) == ~walls[:8]).all()
    assert (found.levels[~mine] == level_set(OTHERS).levels[~mine]).all()


def test_layouts_files_round_trip(tmp_path):
    walls = np.ones((5, 12, 12), bool)
    walls[:, 1:-1, 1:-1] = np.random.default_rng(1).random((5, 10, 10)) < 0.5
    given = {("maze_", 12): walls, ("maze_simple", 15): layouts.packaged()["maze_simple", 15]}
    layouts.write(tmp_path / "new" / "l.npz", given)
    back = layouts.read(tmp_path / "new" / "l.npz")
    assert back.keys() == given.keys()
    assert all((back[key] == given[key]).all() for key in given)


def test_bad_layouts_files_are_one_line_each(tmp_path):
    with pytest.raises(UserError, match="no such layouts file"):
        layouts.read(tmp_path / "no.npz")
    with pytest.raises(UserError, match="no layouts files"):
        layouts.read(tmp_path)
    file = tmp_path / "l.npz"
    for arrays, message in (
        ({"obs": np.zeros(2)}, "it holds 'obs', not <structure>/<size>"),
        ({}, "it holds no layouts"),
        ({"a/15": np.zeros((2, 22), np.uint8), "a/15/count": np.array([3, 13])}, "does not hold 3 packed layouts"),
        ({"a/15": np.zeros((2, 22), np.uint8), "a/15/count": np.array([2, 12])}, "does not hold 2 packed layouts"),
    ):
        np.savez(file, **arrays)
        with pytest.raises(UserError, match=message):
            layouts.read(file)
