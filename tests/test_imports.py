"""Imports run one way: run.py -> agents, envs -> rlreg, and nowhere in a circle. Read from the code, nothing is run."""

import ast
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT

PACKAGES = ("rlreg", "agents", "envs")


def modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported(path: Path, known: dict[str, Path], types: bool) -> Iterator[str]:
    """The modules of ours that a file imports, within functions too; what only type checkers import if `types`."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in for_types and not types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in known:
                name = name.rpartition(".")[0]  # `from envs.gym import make` is of the module envs.gym
            if name:
                yield name


def test_nothing_below_imports_what_is_above_it():
    known = modules()
    allowed = {"rlreg": {"rlreg"}, "agents": {"agents", "rlreg"}, "envs": {"envs", "rlreg"}}
    for name, path in known.items():
        for other in imported(path, known, types=True):
            assert other.split(".")[0] in allowed[name.split(".")[0]], f"{name} imports {other}"


def test_imports_form_no_circle():
    known = modules()
    graph = {name: set(imported(path, known, types=False)) - {name} for name, path in known.items()}
    assert graph["rlreg.command"] >= {"rlreg.build", "rlreg.modes.train"}  # the reading itself works
    done: set[str] = set()

    def visit(name: str, within: tuple[str, ...]) -> None:
        assert name not in within, " -> ".join((*within[within.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*within, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_a_run_and_its_readers_are_built_below_the_command_line():
    """What Stable-Baselines3's users, tables and tools need of construction does not lead back up to the runner."""
    known = modules()
    for name in ("rlreg.build", "rlreg.sb3", "rlreg.tables", "rlreg.report.files", "envs.d4rl.collect"):
        assert "rlreg.command" not in set(imported(known[name], known, types=True))
