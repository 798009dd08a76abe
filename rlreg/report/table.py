"""The report of a table: `table.md`, `table.csv` and the figures."""

from __future__ import annotations

import csv
import io
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig

from rlreg.config import TableConfig, seed_list
from rlreg.files import write_atomic
from rlreg.metrics import metric
from rlreg.report.cell import Cell
from rlreg.report.figures import draw, interval_rng
from rlreg.report.markdown import aligned
from rlreg.stats import Interval, iqm_interval, mean_interval, task_mean_interval


def report(table: TableConfig, cells: Sequence[Cell], folder: Path) -> None:
    """Print the table and write `table.md`, `table.csv` and the figures into `folder`."""
    text = "\n".join(_markdown(table, cells)) + "\n"
    print("\n" + text)
    write_atomic(folder / "table.md", text)
    write_atomic(folder / "table.csv", _csv(table, cells))
    drawn = draw(table, cells, folder)
    print(f"written: {', '.join(str(folder / name) for name in ('table.md', 'table.csv', *drawn))}", flush=True)


def _markdown(table: TableConfig, cells: Sequence[Cell]) -> Iterator[str]:
    yield f"# {table.name}\n"
    if table.note:
        yield f"{table.note}\n"
    seeds = sorted({len(seed_list(cell.cfg.seeds)) for cell in cells})
    yield (
        f"Means over the seeds (n = {', '.join(map(str, seeds))}), their 95 % bootstrap intervals in brackets. "
        "Bold: the best of its row where every cell is complete."
    )
    for key in table.measures:
        measure = metric(key)
        yield f"\n## {measure.title}\n"
        published = table.published if key == table.measures[0] else {}
        meaning = f"{measure.mean_of[0].upper()}{measure.mean_of[1:]}."
        yield meaning + (" After the slash: as published." if published else "")
        yield ""
        rows = list(_measure_rows(table, cells, key, measure.decimals, measure.is_goal, published))
        if measure.is_goal and len(table.rows) > 1:
            rows += _aggregate_rows(table, cells, key, measure.decimals, published.get("average", {}))
        yield from aligned([["", *table.columns], *rows])
    yield "\n## Provenance\n"
    yield from _provenance(cells)


def _measure_rows(
    table: TableConfig,
    cells: Sequence[Cell],
    measure: str,
    decimals: int,
    best: bool,
    published: dict[str, Any],
) -> Iterator[list[str]]:
    for row in table.rows:
        here = [cell for cell in cells if cell.row == row]
        texts = []
        means = []
        for cell in here:
            if not cell.complete:
                texts.append(cell.status())
                continue
            values = cell.values(measure)
            known = values[np.isfinite(values)]
            texts.append(_interval_text(mean_interval(known, interval_rng()), decimals) if len(known) else "none")
            means.append(known.mean() if len(known) else -np.inf)
            if 0 < len(known) < len(values):
                texts[-1] += f" (n = {len(known)})"
            if cell.summary()["diverged"]:
                texts[-1] += " †"
        if best and len(means) == len(here) > 1:
            winner = int(np.argmax(means))
            number, *rest = texts[winner].split(" ", 1)
            texts[winner] = " ".join([f"**{number}**", *rest])
        theirs = published.get(row, {})
        yield [row, *(_beside(text, theirs.get(cell.column)) for text, cell in zip(texts, here, strict=True))]


def _aggregate_rows(
    table: TableConfig, cells: Sequence[Cell], measure: str, decimals: int, published: dict[str, Any]
) -> Iterator[list[str]]:
    """Average and interquartile mean over the rows of which every cell is complete: the same rows for all columns."""
    shared = [row for row in table.rows if all(cell.complete for cell in cells if cell.row == row)]
    over = "" if len(shared) == len(table.rows) else f" ({len(shared)} of {len(table.rows)} rows)"
    estimates: tuple[tuple[str, Callable[..., Interval], dict[str, Any]], ...] = (
        ("average", task_mean_interval, published),
        ("interquartile mean", iqm_interval, {}),
    )
    for name, estimate, theirs in estimates:
        texts = [name + over]
        for column in table.columns:
            tasks = [cell.values(measure) for cell in cells if cell.column == column and cell.row in shared]
            tasks = [values[np.isfinite(values)] for values in tasks]
            known = bool(tasks) and all(len(values) for values in tasks)
            text = _interval_text(estimate(tasks, interval_rng()), decimals) if known else "none"
            texts.append(_beside(text, theirs.get(column)))
        yield texts


def _interval_text(interval: Interval, decimals: int) -> str:
    if np.isnan(interval.low):
        return f"{interval.value:.{decimals}f}"
    return f"{interval.value:.{decimals}f} [{interval.low:.{decimals}f}, {interval.high:.{decimals}f}]"


def _beside(ours: str, published: Any) -> str:
    return ours if published is None else f"{ours} / {published}"


def _provenance(cells: Sequence[Cell]) -> Iterator[str]:
    """Command, commits and machines of the complete runs; seeds that diverged."""
    command = shlex.join(["python", Path(sys.argv[0]).name, *HydraConfig.get().overrides.task])
    done = [cell for cell in cells if cell.complete]
    found = [cell.summary()["provenance"] for cell in done]
    yield f"- command: `{command}`"
    yield f"- runs: {len(done)} of {len(cells)} complete"
    if found:
        yield f"- commit: {', '.join(sorted({str(p['commit']) for p in found}))}"
        machines = sorted({f"{p['gpu'] or 'no GPU'}, {p['cpu']}, {p['cores']} cores" for p in found})
        yield f"- hardware: {'; '.join(machines)}"
        versions = sorted({", ".join(f"{k} {v}" for k, v in p["versions"].items() if v) for p in found})
        yield f"- versions: {'; '.join(versions)}"
    yield "- average and interquartile mean take returns as they are: they mean something for rows of one scale"
    for cell in done:
        for seed in cell.summary()["diverged"]:
            yield f"- † {cell.row} {cell.column}: seed {seed} diverged: its loss turned non-finite"


def _csv(table: TableConfig, cells: Sequence[Cell]) -> str:
    """A row an environment, agent and seed of the complete runs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["env", "agent", "seed", *table.measures, "steps", "commit"])
    for cell in cells:
        if cell.complete:
            summary = cell.summary()
            columns = [cell.values(measure).tolist() for measure in table.measures]
            for seed, *values in zip(summary["seeds"], *columns, strict=True):
                end = [summary["steps"], summary["provenance"]["commit"]]
                writer.writerow([cell.row, cell.column, seed, *values, *end])
    return out.getvalue()
