"""Any runs as cells of tables: what names their rows, what tells runs of one agent apart, what belongs together."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from rlreg.config import TableConfig
from rlreg.errors import UserError, require
from rlreg.naming import NOT_IDENTITY, agent_name, flat_settings, run_folders
from rlreg.old_names import with_old_names
from rlreg.report.cell import Cell, MergedCell
from rlreg.run_folder import RunFolder

KINDS = {
    "curricula": ("solved", "train_solved", "gap", "information"),
    "offline": ("score", "score_last_ten", "return", "q_error"),
    "online": ("return", "return_last_ten", "rank", "q_error"),
}
"""The kinds of runs, told apart by the first of their measures, and what is shown of each."""
NO_LABEL = {"seeds", "compile", "products", "device", "agent.name", "env.name", "env.backend"}
"""Settings that are never part of a label: seeds are merged, and the others make no difference to what is measured."""


def find_runs(patterns: Any) -> list[Path]:
    """The run folders that patterns name, or that lie in folders that they name, each once. Raises `UserError`."""
    given = list(patterns) if isinstance(patterns, list | ListConfig) else [patterns]
    valid = "the folder of a run, a folder that holds some, a pattern such as 'runs/dmc/*/beer*', or a list of these"
    require(bool(given) and all(isinstance(p, str) and p for p in given), "runs", patterns, valid)
    found: dict[Path, None] = {}
    for pattern in given:
        here = [run for path in sorted(glob.glob(pattern, recursive=True)) for run in run_folders(Path(path))]
        if not here:
            raise UserError(f"runs={pattern}: no run there; give {valid}")
        found |= dict.fromkeys(here)
    return sorted(found)


def tables_of(folders: Iterable[Path], name: str) -> list[tuple[TableConfig, list[Cell]]]:
    """A table for each kind of runs: a row a task, a column an agent and what differs. Raises `UserError`."""
    found: dict[str, list[Cell]] = defaultdict(list)
    for path in folders:
        folder = RunFolder(path)
        try:
            cfg = folder.read_config()
            cell = Cell("", "", _overrides(cfg), cfg, folder)
            measures = cell.measures()
            cell.settings()
            agent_name(cfg)
        except (UserError, AttributeError, KeyError, TypeError, ValueError) as error:
            print(f"left out: {path}: {_line(error) or 'no run'}", flush=True)
            continue
        found[next((kind for kind, keys in KINDS.items() if keys[0] in measures), "online")].append(cell)
    if not found:
        raise UserError("runs: none of these runs can be read")
    tables = []
    for kind in reversed(KINDS):
        if cells := found.get(kind):
            cells = _placed(cells)
            there = {measure for cell in cells for measure in cell.measures()}
            measures = [m for m in KINDS[kind] if m.removesuffix("_last_ten") in there] or [KINDS[kind][0]]
            table = TableConfig(
                name=kind if len(found) > 1 else name,
                rows=list(dict.fromkeys(cell.row for cell in cells)),
                columns=list(dict.fromkeys(cell.column for cell in cells)),
                measures=measures,
            )
            tables.append((table, cells))
    return tables


def _placed(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with rows and columns; those that differ by their seeds alone as one."""
    settings = {id(cell): _telling(cell.cfg) for cell in cells}
    tasks = _labels(cells, settings, lambda cell: str(cell.cfg.env.name), lambda key: key.startswith("env."))
    rows = {id(cell): label for cell, label in zip(cells, tasks, strict=True)}
    of_agent = lambda key: not key.startswith("env.")  # noqa: E731
    agents = _labels(cells, settings, lambda cell: agent_name(cell.cfg), of_agent, lambda cell: rows[id(cell)])
    together: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell, row, column in zip(cells, tasks, agents, strict=True):
        cell.row, cell.column = row, column
        together[row, column].append(cell)
    found = []
    for parts in together.values():
        parts.sort(key=lambda cell: -cell.reached())  # of a seed that is there twice, the run that has come further
        merged = MergedCell(parts) if len(parts) > 1 else parts[0]
        found.append(merged)
        if len(parts) > 1:
            print(f"{merged.row} {merged.column}: seeds {', '.join(map(str, merged.seeds))} of {len(parts)} runs")
    return sorted(found, key=lambda cell: (cell.row, cell.column))


def _labels(
    cells: Sequence[Cell],
    settings: dict[int, dict[str, str]],
    name: Callable[[Cell], str],
    counts: Callable[[str], bool],
    within: Callable[[Cell], str] = lambda cell: "",
) -> list[str]:
    """Each cell's name, with the settings by which cells of one name differ somewhere `within` the same place."""
    differ: dict[str, set[str]] = defaultdict(set)
    groups: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for cell in cells:
        groups[name(cell), within(cell)].append(settings[id(cell)])
    for (title, _), group in groups.items():
        # A setting that some lack is one that came later: those ran with what was then its only value.
        shared = set.intersection(*(set(one) for one in group))
        differ[title] |= {key for key in shared if counts(key) and any(one[key] != group[0][key] for one in group)}
    alike = {title: [settings[id(cell)] for cell in cells if name(cell) == title] for title in differ}
    told = {title: _enough(keys, alike[title]) for title, keys in differ.items()}
    labels = []
    for cell in cells:
        own = settings[id(cell)]
        said = [f"{key.rpartition('.')[2]}={own[key]}" for key in told[name(cell)] if key in own]
        labels.append(_clean(" ".join([name(cell), *said])))
    return labels


def _enough(keys: set[str], settings: Sequence[dict[str, str]]) -> list[str]:
    """As many of `keys`, those of short names first, as tell all apart that the whole of them do."""
    kept: list[str] = []
    for key in sorted(keys, key=lambda key: (len(key), key)):
        pairs = {(tuple(one.get(k) for k in kept), one.get(key)) for one in settings}
        if len(pairs) > len({before for before, _ in pairs}):
            kept.append(key)
    return kept


def _telling(cfg: DictConfig) -> dict[str, str]:
    """The settings that may tell two runs apart, as text; references are not followed: they are a file's."""
    flat = with_old_names(flat_settings(OmegaConf.to_container(cfg, resolve=False)))
    kept = {}
    for key, value in flat.items():
        identity = NOT_IDENTITY.isdisjoint((key, key.split(".")[0])) or key == "train.total_steps"
        if identity and key not in NO_LABEL and not key.endswith("_target_"):
            kept[key] = f"{value:g}" if isinstance(value, float) else str(value)
    return kept


def _overrides(cfg: DictConfig) -> list[str]:
    """The command line of a run, by what its folder says; empty for runs of versions that did not note it."""
    if "differs" not in cfg:
        return []
    differs = flat_settings(OmegaConf.to_container(cfg, resolve=False).get("differs") or {})
    named = [f"agent={cfg.agent.name}", f"env={cfg.env.name}"]
    regularizer = cfg.regularizer.get("name") if "regularizer" in cfg else None
    if regularizer and regularizer != (cfg.agent.get("own_regularizer") or "none"):
        named.append(f"regularizer={regularizer}")
    seeds = OmegaConf.to_container(cfg.seeds) if OmegaConf.is_list(cfg.seeds) else cfg.seeds
    told = {"seeds": seeds, "train.total_steps": cfg.train.total_steps} | differs
    return [*named, *(f"{key}={_typed(value)}" for key, value in told.items())]


def _typed(value: Any) -> str:
    """A value as one types it."""
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _clean(text: str) -> str:
    """Without line ends and the like, which a folder's file may hold."""
    return "".join(c if c.isprintable() else " " for c in text)


def _line(error: Exception) -> str:
    return _clean(str(error).splitlines()[0]) if str(error) else type(error).__name__
