"""What TensorBoard shows of many runs, seen in a real browser as a person would: curves, without a click."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from rlreg.logger import Logger
from rlreg.task import Loop

spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
pictures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pictures)
has_browser = pytest.mark.skipif(
    pictures.browser() is None, reason=f"no browser to look with: none of {', '.join(pictures.BROWSERS)} is installed"
)


def coloured(path) -> int:
    """Pixels of strong colours where the charts are: right of TensorBoard's list of runs and below its bar."""
    chart = np.asarray(Image.open(path).convert("RGB"))[220:, 420:].astype(int)
    return int(((chart.max(axis=2) - chart.min(axis=2)) > 60).sum())


def pixels_of_curves(address: str, path, looks: int = 8) -> int:
    """`coloured` of the page once it shows curves: on a busy machine the page's own time can run ahead of its drawing,
    so that a picture comes too early; one that stays without curves is not excused by that."""
    for look in range(1, looks + 1):
        pictures.shoot(address, path, seconds=40 * look)
        if (count := coloured(path)) > 2000:
            break
    return count


@has_browser
def test_twenty_runs_of_ten_seeds_open_with_their_curves(tmp_path):
    for run in range(20):
        logger = Logger(tmp_path / f"runs/dmc/task-{run % 4}/agent-{run}/tensorboard", range(10), Loop.ONLINE)
        for step in range(0, 100_001, 10_000):
            values = 10.0 * run + step / 500 + torch.arange(10.0) * math.sqrt(run + 1)
            logger.scalars(step, {"eval/mean_reward": values, "representation/rank": values / 10})
        logger.close()
    streams = list((tmp_path / "runs").rglob("events.out.tfevents.*"))
    assert len(streams) == 20
    with pictures.tensorboard(tmp_path / "runs") as address:
        tabs = ("timeseries", "custom_scalars")
        found = {tab: pixels_of_curves(f"{address}/#{tab}", tmp_path / f"{tab}.png") for tab in tabs}
    assert all(count > 2000 for count in found.values()), found
