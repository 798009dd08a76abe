"""New layouts: parameters against MiniGrid's, the solver's promise by brute force, templates, and the tool around."""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from envs.cave import layouts, wfc
from envs.cave.level_set_tool import LevelSetOptions, run, table
from envs.cave.level_sets import SETS, level_set
from envs.cave.wfc import STRUCTURES, generate, read_template
from rlreg.errors import UserError

extra = pytest.mark.skipif(not all(map(find_spec, ("minigrid", "imageio"))), reason="needs the extra 'levels'")
MAZE = "####\n#...\n#.#.\n#...\n"
SIZE = 9


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("templates") / "maze.txt"
    path.write_text(MAZE)
    return path


@pytest.fixture(scope="module")
def new(template) -> np.ndarray:
    return generate("maze_simple", template, SIZE, count=4, seed=1, workers=2)


def patterns(cells: np.ndarray, width: int) -> set[bytes]:
    windows = sliding_window_view(cells, (width, width))
    return {np.ascontiguousarray(w).tobytes() for row in windows for w in row}


@extra
def test_parameters_are_minigrids():
    from minigrid.envs.wfc import config

    presets = config.WFC_PRESETS | config.WFC_PRESETS_INCONSISTENT | config.WFC_PRESETS_SLOW
    for p in presets.values():
        assert (p.tile_size, p.rotations, p.loc_heuristic, p.choice_heuristic) == (1, 8, "entropy", "weighted")
        assert not p.backtracking
    theirs = {
        name.lower(): (p.pattern_path.name, p.pattern_width, p.input_periodic, p.output_periodic)
        for name, p in presets.items()
    }
    ours = {
        name.replace("_", "").replace("spiralsneg", "spirals"): (s.template, s.pattern_width, s.periodic, s.periodic)
        for name, s in STRUCTURES.items()
    }
    assert ours == theirs


def test_every_structure_of_the_sets_can_be_generated():
    assert {s for definition in SETS.values() for s in definition.structures} <= STRUCTURES.keys()
    assert {structure for structure, _ in layouts.packaged()} <= STRUCTURES.keys()


@extra
@pytest.mark.parametrize("structure", ["maze_simple", "maze_wall", "obstacles_angular"])
def test_every_pattern_of_a_layout_is_one_of_the_templates(new, template, structure, tmp_path):
    """The N x N windows of a layout, across its edges too where it wraps, are among the template's, turned at will."""
    width, periodic = STRUCTURES[structure].pattern_width, STRUCTURES[structure].periodic
    made = new
    if periodic:
        template = tmp_path / "dot.txt"
        template.write_text("#...\n....\n....\n....\n")
        made = generate(structure, template, SIZE, count=2, workers=1)
    assert made.shape[1:] == (SIZE, SIZE)
    assert made.dtype == bool
    wrap = (0, width - 1 if periodic else 0)
    walls = np.pad(read_template(template), wrap, mode="wrap")
    allowed = set().union(*(patterns(np.rot90(flipped, k), width) for flipped in (walls, walls.T) for k in range(4)))
    assert len(allowed) < 2 ** (width * width)
    for layout in made:
        assert layout[[0, -1]].all()
        assert layout[:, [0, -1]].all()
        assert patterns(np.pad(layout[1:-1, 1:-1], wrap, mode="wrap"), width) <= allowed
    assert (made[0] != made[1]).any()


@extra
def test_layouts_do_not_depend_on_the_number_of_processes(new, template):
    assert (generate("maze_simple", template, SIZE, count=3, seed=1, workers=1) == new[:3]).all()


@extra
def test_pictures_are_templates(tmp_path):
    import imageio.v3 as imageio

    walls = np.random.default_rng(0).random((5, 7)) < 0.5
    grey = np.where(walls, 0, 255).astype(np.uint8)
    colour = np.repeat(grey[..., None], 3, -1)
    alpha = np.concatenate([colour, np.full((5, 7, 1), 255, np.uint8)], -1)
    for name, picture in (("grey", grey), ("colour", colour), ("alpha", alpha)):
        imageio.imwrite(tmp_path / f"{name}.png", picture)
        assert (read_template(tmp_path / f"{name}.png") == walls).all()
    cut = (tmp_path / "grey.png").read_bytes()[:40]
    (tmp_path / "cut.png").write_bytes(cut)
    for name in ("cut.png", "text.png"):
        (tmp_path / "text.png").write_text(MAZE)
        with pytest.raises(UserError, match=f"{name} is not a readable picture"):
            read_template(tmp_path / name)


def test_a_text_template_is_read_as_walls_and_floor(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("#..\n.##\n")
    assert read_template(path).tolist() == [[True, False, False], [False, True, True]]
    for text in ("", "\n", "#..\n.#\n", "#.x\n"):
        path.write_text(text)
        with pytest.raises(UserError, match="lines of equal length"):
            read_template(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not a readable text file"):
        read_template(path)
    with pytest.raises(UserError, match="no such template"):
        read_template(tmp_path / "none.png")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"structure": "maze_wal"}, "unknown structure 'maze_wal'; did you mean 'maze_wall'"),
        ({"template": "nowhere.png"}, "nowhere.png: no such template"),
        ({"size": 3}, "size=3 is not valid; give 4 or more"),
        ({"count": 0}, "count=0 is not valid"),
        ({"seed": -1}, "seed=-1 is not valid"),
        ({"workers": 0}, "workers=0 is not valid"),
    ],
)
def test_impossible_requests_are_told_before_anything_is_generated(template, changes, message):
    request = {"structure": "maze_simple", "template": template, "size": SIZE, "count": 1} | changes
    with pytest.raises(UserError, match=message):
        generate(**request)


def test_a_template_smaller_than_a_pattern_is_refused(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("#.\n.#\n")
    with pytest.raises(UserError, match="2 x 2 cells are fewer than the pattern width of 'rooms_office', 3"):
        generate("rooms_office", path, SIZE, 1)


@extra
def test_a_template_without_solutions_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(wfc, "PATIENCE", 3)
    path = tmp_path / "t.txt"
    path.write_text("##\n##\n")
    with pytest.raises(UserError, match=r"no layout of 'maze_wall' from .*t\.txt in 3 attempts in a row"):
        generate("maze_wall", path, SIZE, 1, workers=1)


def test_the_extra_is_named_where_it_is_missing(template, monkeypatch):
    monkeypatch.setitem(sys.modules, "minigrid.envs.wfc.wfclogic.control", None)
    with pytest.raises(UserError, match=r"pip install 'rlreg\[levels\]'"):
        generate("maze_simple", template, SIZE, 1)


@extra
def test_the_tool_shows_writes_and_draws_a_set(tmp_path, capsys):
    import imageio.v3 as imageio

    name = "cave_escape_112_14ts_varp"
    out, sheet = str(tmp_path / "a" / "set.npz"), str(tmp_path / "b" / "set.png")
    run(LevelSetOptions(set=name, split="test", count=28, out=out, sheet=sheet))
    printed = capsys.readouterr().out
    assert printed.startswith("| structure ")
    assert "| all                 | 28     | 1        |" in printed
    assert level_set(out).structure == level_set(name, "test", count=28).structure
    assert imageio.imread(sheet).shape[-1] == 3
    run(LevelSetOptions(set=out))
    assert capsys.readouterr().out.splitlines() == printed.splitlines()[:17]
    assert table(level_set(out)).splitlines() == printed.splitlines()[:17]


@extra
def test_the_tool_generates_layouts_that_a_set_takes(template, tmp_path, capsys):
    file = str(tmp_path / "mine.npz")
    other = np.ones((2, 15, 15), bool)
    layouts.write(file, {("maze_", 15): other})
    asked = LevelSetOptions(structure="maze_simple", template=str(template), size=7, count=2, layouts=file, workers=1)
    run(asked)
    assert f"2 layouts 'maze_simple/7' written to {file}" in capsys.readouterr().out
    there = layouts.read(file)
    assert there.keys() == {("maze_", 15), ("maze_simple", 7)}  # what the file had stays
    assert (there["maze_simple", 7] == generate("maze_simple", template, 7, 2, workers=1)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(level_set("cave_escape_112_14ts_varp", layouts=file)) == 112


@pytest.mark.parametrize(
    "options, message",
    [
        ({"set": "cave"}, "unknown level set 'cave'"),
        ({"out": "set.npy"}, "out=set.npy is not valid; give a file name that ends in .npz"),
        ({"sheet": "set"}, "sheet=set is not valid; give a file name that ends in .png"),
        ({"structure": "maze_wall"}, "template=None is not valid"),
        ({"structure": "maze_wall", "template": "t.png"}, "layouts=None is not valid"),
        ({"structure": "maze_wall", "template": "t.png", "layouts": "l.npz"}, "count=None is not valid"),
    ],
)
def test_the_tool_tells_mistakes_before_minutes_of_work(options, message):
    with pytest.raises(UserError, match=message):
        run(LevelSetOptions(**options))


@extra
@pytest.mark.parametrize("field, name", [("out", "file/set.npz"), ("sheet", "file/set.png")])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, field, name):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=f"cannot write .*{name}"):
        run(LevelSetOptions(count=4, **{field: str(tmp_path / name)}))
