"""What TensorBoard finds in a run's one event stream: each quantity once, labelled bands, a layout, an HParams row."""

import csv

import numpy as np
import pytest
import torch
from conftest import ROOT, main
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata

from rlreg.by_seed import write_seeds, write_stream
from rlreg.logger import BAND, Logger
from rlreg.task import Loop

TAG = "eval/mean_reward"


def written(folder) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def layout_of(events: EventAccumulator) -> Layout:
    found = Layout()
    found.ParseFromString(events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0])
    return found


def test_each_quantity_is_there_once_and_the_dashboards_have_bands(tmp_path):
    logger = Logger(tmp_path, (3, 7, 8), Loop.ONLINE)
    nan = float("nan")
    logger.scalars(5, {"eval/mean_reward": torch.tensor([1.0, 2.0, 6.0]), "train/critic_loss": torch.ones(3)})
    logger.scalars(6, {"eval/mean_reward": torch.tensor([1.0, nan, 3.0]), "value/error": torch.full((3,), nan)})
    logger.scalar(6, "time/fps", 10.0)
    logger.close()
    events = written(tmp_path)
    low, high = (f"{BAND}/eval/mean_reward/{edge}" for edge in ("low", "high"))
    assert set(events.Tags()["scalars"]) == {"eval/mean_reward", "train/critic_loss", "time/fps", low, high}
    values = np.array([[p.value for p in events.Scalars(tag)] for tag in (low, "eval/mean_reward", high)])
    spread = np.array([1, 2, 6]).std()
    np.testing.assert_allclose(values, [[3 - spread, 1], [3, 2], [3 + spread, 3]], rtol=1e-6)
    assert len(list(tmp_path.iterdir())) == 1

    (category,) = layout_of(events).category
    (chart,) = category.chart
    assert category.title == "return" and chart.title == "evaluation (mean of the seeds; band: one standard deviation)"
    (series,) = chart.margin.series
    assert (series.lower, series.value, series.upper) == (low, "eval/mean_reward", high)


@pytest.mark.parametrize(
    ("loop", "tag", "category"),
    [
        (Loop.ONLINE, "eval/mean_reward", "return"),
        (Loop.OFFLINE, "eval/score", "score"),
        (Loop.CURRICULUM, "eval/solved", "curriculum"),
    ],
)
def test_a_layout_begins_with_what_its_loop_is_about(tmp_path, loop, tag, category):
    logger = Logger(tmp_path, (0,), loop)
    logger.scalars(0, {"regularizer/loss": torch.ones(1)})
    logger.flush()
    logger.scalars(1, {tag: torch.ones(1)})
    logger.close()
    categories = layout_of(written(tmp_path)).category
    assert [c.title for c in categories] == [category, "regulariser"]
    assert categories[0].chart[0].multiline.tag == [f"^{tag}$"]  # one seed has no band


def test_an_unfinished_run_has_its_row_of_hparams(tmp_path):
    logger = Logger(tmp_path, (0,))
    logger.hparams({"agent": "beer", "agent.tau": 0.01, "agent.hidden": [16, 16]})
    logger.flush()
    contents = written(tmp_path).summary_metadata
    start = metadata.parse_session_start_info_plugin_data(
        contents["_hparams_/session_start_info"].plugin_data.content
    )
    assert start.hparams["agent"].string_value == "beer" and start.hparams["agent.tau"].number_value == 0.01
    assert start.hparams["agent.hidden"].string_value == "[16, 16]"
    assert "_hparams_/session_end_info" not in contents
    logger.hparams({}, done=True)
    logger.close()
    assert "_hparams_/session_end_info" in written(tmp_path).summary_metadata


@pytest.mark.parametrize("kept, tag", [("beer", "eval/mean_reward"), ("dred", "eval/solved")])
def test_a_stream_is_made_of_what_a_kept_run_measured(tmp_path, kept, tag):
    run = next((ROOT / "results" / kept).rglob("eval.csv")).parent
    write_stream(run, tmp_path / "run")
    rows = list(csv.DictReader((run / "eval.csv").open()))
    steps = sorted({int(row["step"]) for row in rows})
    events = written(tmp_path / "run")
    assert [point.step for point in events.Scalars(tag)] == steps
    assert "value/error" not in events.Tags()["scalars"] or kept == "beer"
    # one by one: a row of HParams and the own curve of each seed, by what it is
    for _ in range(2):  # again, it takes the first one's place
        assert write_seeds(run, tmp_path / "seeds") == 3
    column = "solved" if kept == "dred" else "return"
    for seed in (0, 1, 2):
        assert len(list((tmp_path / f"seeds/seed-{seed}").iterdir())) == 1
        events = written(tmp_path / f"seeds/seed-{seed}")
        own = {int(row["step"]): float(row[column]) for row in rows if row["seed"] == str(seed)}
        points = {point.step: point.value for point in events.Scalars(tag)}
        assert points == pytest.approx(own, rel=1e-6)
        start = metadata.parse_session_start_info_plugin_data(
            events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        )
        assert start.hparams["seed"].number_value == seed and "seeds" not in start.hparams
        assert {"agent", "env", "regularizer"} <= set(start.hparams)


def test_seeds_of_unfinished_runs_are_written_too(monkeypatch, capsys, tmp_path):
    """Of a run that was stopped at its first evaluation, by `mode=runs out=...`; one without any is passed over."""
    for name, lines in (("whole", 4), ("stopped", 2), ("empty", 0)):
        folder = tmp_path / "runs/gym/Hopper-v4" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(
            "agent: {name: td3}\nregularizer: {name: none, _target_: rlreg.regularizers.Regularizer}\n"
            "env: {name: gym/Hopper-v4}\ntrain: {total_steps: 10}\nseeds: [3, 7]\n"
        )
        rows = [f"{step},{seed},{step + seed}.0" for step in (0, 10) for seed in (3, 7)][:lines]
        if rows:
            (folder / "eval.csv").write_text("\n".join(["step,seed,return", *rows]) + "\n")
    assert main(monkeypatch, "mode=runs", f"runs_root={tmp_path}/runs", f"out={tmp_path}/seeds") == 0
    printed = capsys.readouterr()
    assert "4 seeds of 3 runs written; look at them by: tensorboard --logdir" in printed.out
    assert "warning: " in printed.err and "empty/eval.csv" in printed.err
    points = {
        (name, seed): [p.value for p in written(tmp_path / f"seeds/gym/Hopper-v4/{name}/seed-{seed}").Scalars(TAG)]
        for name in ("whole", "stopped")
        for seed in (3, 7)
    }
    assert points == {("whole", 3): [3, 13], ("whole", 7): [7, 17], ("stopped", 3): [3], ("stopped", 7): [7]}
