"""What TensorBoard finds in a run's one event stream: each quantity once, labelled bands, a layout, an HParams row."""

import csv

import numpy as np
import pytest
import torch
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata

from rlreg.logger import BAND, Logger
from rlreg.task import Loop


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
def test_the_documentations_pictures_are_of_what_kept_runs_measured(monkeypatch, tmp_path, kept, tag):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from pictures import stream

    run = next((ROOT / "results" / kept).rglob("eval.csv")).parent
    stream(run, tmp_path / "run")
    steps = {int(row["step"]) for row in csv.DictReader((run / "eval.csv").open())}
    events = written(tmp_path / "run")
    assert [point.step for point in events.Scalars(tag)] == sorted(steps)
    assert "value/error" not in events.Tags()["scalars"] or kept == "beer"
