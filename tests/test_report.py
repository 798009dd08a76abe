"""The files of a report: their numbers, their text, and the page in a real browser. Figures are written by hand, except
where the kept results are read."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, main
from omegaconf import OmegaConf

from rlreg.config import PublishedConfig, TableConfig
from rlreg.errors import UserError
from rlreg.report.cell import Cell
from rlreg.report.content import content
from rlreg.report.files import write
from rlreg.report.latex import escape
from rlreg.report.plot import Line, Plot, ticks
from rlreg.report.runs import find_runs, tables_of
from rlreg.run_folder import RunFolder
from rlreg.run_times import RunTimes, read_times
from rlreg.time_left import TimeLeft, seconds_between, time_left, together

NASTY = "<script>alert(1)</script> & \"quoted\" {{ 7*7 }} </table>"
ROWS, COLUMNS = ["dmc/one", "dmc/two"], ["plain", NASTY]


def a_run(root: Path, row: str, column: str, returns: list[list[float]], total: int | None = 300, **more) -> Cell:
    """A cell whose run has these returns (evaluations, seeds), every 100 steps; complete where `total` is given."""
    folder = RunFolder(root / f"{row}-{len(list(root.glob('*')))}".replace("/", "-"))
    folder.path.mkdir(parents=True)
    seeds = more.pop("seeds", list(range(len(returns[0]))))
    cfg = OmegaConf.create(
        {
            "seeds": seeds,
            "agent": {"_target_": "agents.td3.TD3", "name": column, "tau": 0.1, "own_regularizer": None},
            "regularizer": {"_target_": "rlreg.regularizers.Regularizer", "name": "none"},
            "env": {"_target_": "envs.dmc.DMControlTask", "name": row},
            "train": {"total_steps": 300},
            "eval": {"every": 100},
        }
    )
    for key, value in more.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    folder.config.write_text(OmegaConf.to_yaml(cfg))
    lines = [f"{100 * i},{s},{v},{v / 2}" for i, vs in enumerate(returns) for s, v in zip(seeds, vs, strict=True)]
    folder.eval_csv.write_text("\n".join(["step,seed,return,rank", *lines]) + "\n")
    times = RunTimes(folder.times)
    for i in range(len(returns)):
        times.add(100 * i, 3600.0 * i + 36)
    if total is not None:
        results = {"seeds": seeds, "steps": total, "return_last_ten": returns[-1], "diverged": []}
        results["final"] = {"return": returns[-1], "rank": [v / 2 for v in returns[-1]]}
        results["provenance"] = {"commit": NASTY, "gpu": None, "cpu": "A CPU", "cores": 2, "versions": {"torch": "2"}}
        folder.summary.write_text(json.dumps(results))
    return Cell(row, column, [f"agent={column}", f"env={row}"], cfg, folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, list[Cell]]:
    """A report of three complete runs and one on its way, with figures by others; the folder and the cells."""
    root = tmp_path_factory.mktemp("report")
    cells = [
        a_run(root / "runs", "dmc/one", "plain", [[0.0, 1.0, 2.0], [10.0, 11.0, 15.0], [20.0, 30.0, 40.0]]),
        a_run(root / "runs", "dmc/one", NASTY, [[0.0, 1.0, 2.0], [50.0, 51.0, 55.0], [60.0, 70.0, 80.0]]),
        a_run(root / "runs", "dmc/two", "plain", [[0.0, 1.0, 2.0], [5.5, 6.5, 9.0]]),
        a_run(root / "runs", "dmc/two", NASTY, [[0.0, 1.0, 2.0]], total=None),
    ]
    table = TableConfig(
        name="made",
        rows=ROWS,
        columns=COLUMNS,
        measures=["return", "rank"],
        note=NASTY,
        optimal=100.0,
        row_notes={"dmc/two": "inferred"},
        published=[
            PublishedConfig(name="SAC", source=f"a paper {NASTY}", seeds=4, figures={"dmc/one": [12.0, 3.0]}),
            PublishedConfig(name="Plain", column="plain", source="another", figures={"dmc/two": 8}),
        ],
    )
    out = root / "out"
    write([content(table, cells)], "made", out, f"python run.py {NASTY}")
    return out, cells


class Cells(HTMLParser):
    """The text of a page, of its tables' cells by table and row, and every tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.tables, self.text, self._cell = [], [], "", None
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data) -> None:
        self.text += data
        if self._cell:
            self.tables[-1][-1][-1] += f" {data}"


def page_of(made) -> Cells:
    return Cells((made[0] / "report.html").read_text())


def cells_csv(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "cells.csv").read_text().splitlines()))


# ------------------------------------------------------------------ numbers


def test_the_pages_numbers_are_those_of_the_csv_and_those_of_the_runs(made) -> None:
    rows = {(r["measure"], r["env"], r["agent"]): r for r in cells_csv(made[0]) if not r["by"]}
    assert rows["return", "dmc/one", "plain"]["mean"] == "30.0"  # of 20, 30, 40
    assert rows["return", "dmc/one", "plain"]["seeds"] == "0 1 2"
    going = rows["return", "dmc/two", NASTY]
    assert going["status"] == "at step 0 of 300" and not going["mean"]
    assert rows["return", "lacking to 100", "plain"]["mean"] == "70.0"
    page = page_of(made)
    for table, measure in zip(page.tables, ("return", "rank"), strict=False):
        names = [name.strip() for name in table[0][1:3]]
        assert names == COLUMNS
        for line in table[1:]:
            env = line[0].split("  ")[0].strip()
            for name, text in zip(names, line[1:3], strict=True):
                row = rows[measure, env, name]
                found = [float(n) for n in re.findall(r"-?\d+\.\d+", text.split("by others")[0])]
                wanted = [float(row[k]) for k in ("mean", "low", "high") if row[k]]
                assert found == [round(n, 1) for n in wanted], (measure, env, name)
    others = {(r["env"], r["agent"]): r for r in cells_csv(made[0]) if r["by"]}
    assert others["dmc/one", "SAC"]["mean"] == "12.0" and others["dmc/one", "SAC"]["n"] == "4"
    assert others["dmc/two", "plain"]["mean"] == "8" and "by others: 8.0" in page.text
    assert "12.0 \u00b1 3.0" in page.text and "inferred" in page.text


def test_what_a_plot_tells_of_a_point_is_in_eval_csv(made) -> None:
    page = (made[0] / "report.html").read_text()
    plots = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)]
    returns = plots[0]
    assert returns["unit"] == "environment steps per seed"
    cell = made[1][0]
    rows = list(csv.DictReader(cell.folder.eval_csv.read_text().splitlines()))
    line = next(line for line in returns["lines"] if line["name"] == "plain")
    for step, mean, low, high in line["points"]:
        seeds = [float(row["return"]) for row in rows if int(row["step"]) == step]
        assert mean == pytest.approx(np.mean(seeds)) and min(seeds) <= low <= mean <= high <= max(seeds)
    assert [point[0] for point in line["points"]] == [0, 100, 200]
    clock = next(plot for plot in plots if plot["unit"] == "hours")
    hours = next(line for line in clock["lines"] if line["name"] == "plain")["points"]
    assert [point[0] for point in hours] == pytest.approx([0.01, 1.01, 2.01])
    assert [point[1] for point in hours] == [point[1] for point in line["points"]]


def test_bold_is_only_what_is_apart(tmp_path, made) -> None:
    apart = [a_run(tmp_path / "a", "r", c, [[v, v + 1.0]]) for c, v in (("x", 10.0), ("y", 0.0))]
    near = [a_run(tmp_path / "b", "r", c, [[v, v + 4.0]]) for c, v in (("x", 3.0), ("y", 0.0))]
    alone = [a_run(tmp_path / "c", "r", c, [[v]]) for c, v in (("x", 10.0), ("y", 0.0))]
    for cells, wanted in ((apart, [True, False]), (near, [False, False]), (alone, [False, False])):
        found = content(TableConfig(name="t", rows=["r"], columns=["x", "y"], measures=["return"]), cells)
        assert [entry.apart for entry in found.measures[0].rows[0].entries] == wanted
    assert re.findall(r"\*\*([\d.]+)\*\*", (made[0] / "table.md").read_text()) == ["70.0"]


def test_rows_below_the_average_are_no_part_of_it(tmp_path) -> None:
    cells = [a_run(tmp_path, row, "x", [[v, v]]) for row, v in (("a", 1.0), ("b", 3.0), ("c", 100.0))]
    table = TableConfig(name="t", rows=["a", "b", "c"], columns=["x"], measures=["return"], further_rows=["c"])
    found = content(table, cells).measures[0]
    assert [row.name for row in found.rows] == ["a", "b"] and [row.name for row in found.further] == ["c"]
    assert found.aggregates[0].entries[0].interval.value == 2.0


# -------------------------------------------------------------------- text


def test_whatever_runs_and_tables_say_is_text(made) -> None:
    page = page_of(made)
    tags = [tag for tag, _ in page.tags]
    text = (made[0] / "report.html").read_text()
    assert tags.count("script") == text.count('type="application/json"') + 1
    assert "alert(1)" in page.text and page.text.count("{{ 7*7 }}") > 5
    assert NASTY not in text and html.escape("</table>") in text


def test_the_page_needs_nothing_but_itself(made) -> None:
    text = (made[0] / "report.html").read_text()
    assert not re.search(r"(?:src|href)\s*=|@import|url\(|https?://|fetch\(|XMLHttp", text)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert len(text) < 100_000


def test_latex_is_whole_and_escaped(made) -> None:
    text = (made[0] / "table.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    for table in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S):
        rows = [line for line in table[1].splitlines() if line.endswith(r"\\")]
        assert rows and all(len(re.findall(r"(?<!\\)&", row)) == len(table[0]) - 1 for row in rows)
    assert r"\textbf{70.0}" in text and r"12.0 $\pm$ 3.0" in text
    assert escape("50%_a&b#$ {x} ~^\\ é") == (
        r"50\%\_a\&b\#\$ \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} ?"
    )


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex (Debian: texlive-latex-recommended)")
def test_latex_compiles(made, tmp_path) -> None:
    shutil.copy(made[0] / "table.tex", tmp_path)
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\begin{document}"
    (tmp_path / "all.tex").write_text(head + r"\input{table}\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 5_000


# ---------------------------------------------------------------- any runs


def test_any_runs_are_told_apart_by_what_differs_and_seeds_are_merged(tmp_path, capsys) -> None:
    root = tmp_path / "runs"
    a_run(root, "dmc/one", "td3", [[1.0, 2.0]], seeds=[0, 1])
    a_run(root, "dmc/one", "td3", [[9.0, 3.0]], seeds=[1, 2])  # seed 1 is there twice
    a_run(root, "dmc/one", "td3", [[5.0]], agent__tau=0.2)
    a_run(root, "dmc/two", "td3", [[7.0]])
    a_run(root, "dmc/two", "ddpg", [[8.0]], total=None)
    broken = a_run(root, "dmc/two", "ddpg", [[8.0]])
    broken.folder.eval_csv.write_text("no table")
    ((table, cells),) = tables_of(find_runs([str(root)]), "some")
    printed = capsys.readouterr().out
    assert f"left out: {broken.folder.path}: " in printed and "seeds 0, 1, 2 of 2 runs" in printed
    assert table.rows == ["dmc/one", "dmc/two"] and table.columns == ["td3 tau=0.1", "td3 tau=0.2", "ddpg"]
    merged = cells[0]
    assert merged.seeds == (0, 1, 2) and merged.values("return")[[0, 2]].tolist() == [1.0, 3.0]
    assert merged.complete and len(merged.folders) == 2
    assert content(table, cells).measures[0].rows[1].entries[1].instead == "no run"


def test_a_report_of_the_kept_results(monkeypatch, capsys, tmp_path) -> None:
    """A group for each kind of loop; the figures are those of the kept table."""
    kept = "[results/beer/cells/dmc/finger-spin,results/dred/cells]"
    monkeypatch.chdir(ROOT)
    assert main(monkeypatch, "mode=report", f"runs={kept}", f"out={tmp_path}") == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"report.html", "table.tex", "cells.csv", "table.csv"}
    found = {(r["measure"], r["env"], r["agent"]): r for r in cells_csv(tmp_path)}
    ours = found["return", "dmc/finger-spin", "td3"]
    assert [round(float(ours[k]), 1) for k in ("mean", "low", "high")] == [531.9, 445.5, 595.6]
    assert "| dmc/finger-spin" in (ROOT / "results/beer/table.md").read_text()
    assert "531.9" in (ROOT / "results/beer/table.md").read_text()
    assert ("solved", "cave_escape", "vae_dred") in found


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("runs=nowhere", "runs=nowhere: no run there; give the folder of a run"),
        ("runs=[]", "mode=report needs runs="),
        ("runs=7", "runs=7 is not valid; give the folder of a run"),
    ],
)
def test_no_runs_is_one_line(runs, message, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(monkeypatch, "mode=report", runs) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {message}") and told.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_reference_in_a_runs_settings_is_not_followed(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "hush")
    a_run(tmp_path / "runs", "dmc/one", "td3", [[1.0, 2.0]])
    a_run(tmp_path / "runs", "dmc/one", "ddpg", [[1.0, 2.0]], agent__tau="${oc.env:SECRET_OF_MINE}")
    ((table, cells),) = tables_of(find_runs(str(tmp_path / "runs")), "some")
    assert "left out" in (printed := capsys.readouterr().out) and "agent.tau=${oc.env:SECRET_OF_MINE}" in printed
    assert table.columns == ["td3"]
    write([content(table, cells)], "some", tmp_path / "out", "python run.py")
    assert not any("hush" in path.read_text(errors="ignore") for path in (tmp_path / "out").iterdir())


# ------------------------------------------------------------------- times


def test_times_go_on_where_a_run_does_and_damage_costs_nothing(tmp_path) -> None:
    path = tmp_path / "times.csv"
    times = RunTimes(path)
    for step, seconds in ((0, 0.5), (100, 2.0), (200, 3.0)):
        times.add(step, seconds)
    assert path.read_text() == "step,seconds\n0,0.50\n100,2.00\n200,3.00\n"
    RunTimes(path, last_step=100).add(200, 9.0)
    assert [part.tolist() for part in read_times(path)] == [[0, 100, 200], [0.5, 2.0, 9.0]]
    for text in ("", "step,seconds\n1", "step,seconds\n5,1\n4,2\n", "step,seconds\n1,nan\n", "other\n1,2\n", "\0"):
        path.write_text(text)
        assert not len(read_times(path)[0]), text
    assert not len(read_times(tmp_path / "none")[0])


def test_the_arithmetic_of_the_time_left(tmp_path) -> None:
    steps, seconds = np.array([0, 100, 200]), np.array([0.0, 10.0, 40.0])
    assert seconds_between(steps, seconds, 0, 200) == 40.0
    assert seconds_between(steps, seconds, 50, 150) == 20.0  # 5 of the first part, 15 of the second
    assert seconds_between(steps, seconds, 200, 400) == 60.0  # as fast as it went last
    assert seconds_between(np.array([200]), np.array([40.0]), 100, 300) == 40.0  # one point: from the start
    left = [TimeLeft(None, 0, seconds, "") for seconds in (30.0, 10.0, 10.0, None)]
    assert together(left, 1) == 50.0 and together(left, 2) == 30.0
    half = a_run(tmp_path, "r", "x", [[1.0], [2.0]], total=None)  # 100 of 300 steps in 3600 s
    like = a_run(tmp_path, "r", "y", [[1.0], [2.0]], total=None)
    shutil.rmtree(like.folder.path)
    other = a_run(tmp_path, "s", "z", [[1.0]] * 4)
    found = time_left([half, like, other])
    assert [one.measured_on for one in found] == ["itself", "r x", ""]
    assert [one.seconds for one in found] == [pytest.approx(7200), pytest.approx(36 + 3 * 3600 - 36 + 0, abs=100), 0.0]
    assert time_left([like])[0].seconds is None


# ------------------------------------------------------------------- plots


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-7, 3, [-6, -4, -2, 0, 2])],
)
def test_ticks_are_round(low, high, wanted) -> None:
    assert ticks(low, high) == pytest.approx(wanted)


def test_plots_of_a_single_point_of_equal_values_and_of_nothing_known() -> None:
    one = np.array([5.0])
    for y in (one, np.array([0.0]), np.array([np.nan])):
        plot = Plot("p", "steps", "y", [Line("a", 0, one, y, np.array([np.nan]), np.array([np.nan]))])
        assert plot.x_ticks() and plot.y_ticks() and plot.path(plot.lines[0]) and plot.band(plot.lines[0]) == ""
        assert "NaN" not in json.dumps(plot.data())


# ----------------------------------------------------------- figures by others


@pytest.mark.parametrize("figures", [{"r": "many"}, {"r": []}, {"r": [1, 2, 3, 4]}, {"r": True}, {"r": [1, "2"]}, {}])
def test_a_figure_of_the_wrong_kind_is_one_line(figures) -> None:
    with pytest.raises(UserError, match=r"table\.published \(SAC\)\.figures") as error:
        PublishedConfig(name="SAC", source="s", figures=figures)
    assert "\n" not in str(error.value)


def test_the_figures_by_others_in_the_tables_are_those_of_their_source() -> None:
    """Where the file of all of them is at hand: each is typed as it stands there."""
    path = ROOT.parent / "shared" / "data" / "dmc_reference.csv"
    if not path.exists():
        pytest.skip("no dmc_reference.csv")
    theirs = {(r["task"], r["algorithm"], int(r["steps"])): r for r in csv.DictReader(path.open())}
    for name in ("beer_dmc", "beer_dmc_100k"):
        table = OmegaConf.load(ROOT / f"configs/table/{name}.yaml")
        for them in table.published:
            if them.get("column"):
                continue
            there = {f"dmc/{task}" for task, a, n in theirs if (a, n) == (them.name.lower(), them.steps)}
            assert there & set(table.rows) == set(them.figures)
            for row, figure in them.figures.items():
                source = theirs[row.removeprefix("dmc/"), them.name.lower(), them.steps]
                assert [float(source["mean"]), float(source["std"])] == list(figure)[:2]
                assert int(source["seeds"]) == (figure[2] if len(figure) == 3 else them.seeds)
                assert source["commit"] in them.source and source["source"] in them.source


# ------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chrome, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chrome and driver):
        pytest.skip("no Chromium with its driver (Debian: chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chrome
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(flag)
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_the_screen_and_tells_its_values(made, browser, width) -> None:
    from selenium.webdriver.common.by import By

    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Network.enable", {})
    no_network = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", no_network)
    browser.get((made[0] / "report.html").as_uri())
    for details in browser.find_elements(By.TAG_NAME, "details"):
        browser.execute_script("arguments[0].open = true", details)
    wide, inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= inner == width
    plot = browser.find_element(By.CSS_SELECTOR, ".plot")
    reading = plot.find_element(By.CSS_SELECTOR, ".reading")
    assert not reading.is_displayed()
    touch = """
        const svg = arguments[0].querySelector("svg"), box = svg.getBoundingClientRect();
        const x = box.left + box.width * 174 / 320, y = box.top + 20;
        const at = {clientX: x, clientY: y, bubbles: true, pointerType: "touch"};
        arguments[0].dispatchEvent(new PointerEvent("pointerdown", at));
    """  # the middle of the steps 0 .. 200
    browser.execute_script(touch, plot)
    assert reading.text.splitlines()[:2] == ["100 environment steps per seed", "plain 12.0 [10.0, 15.0], n = 3"]
    browser.execute_script("arguments[0].dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))", plot)
    assert reading.text.splitlines()[1].startswith("plain 30.0 [")
    button = browser.find_element(By.CSS_SELECTOR, ".legend button")
    browser.execute_script("arguments[0].click()", button)
    assert not plot.find_element(By.CSS_SELECTOR, 'g[data-line="0"]').is_displayed()
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
