"""TensorBoard: one event stream per run, Stable-Baselines3's tags, a dashboard for each kind of loop, HParams.

TensorBoard's Custom Scalars tab shows nothing of its own accord once there are more than 40 streams: so a run has one,
whatever the number of its seeds. A quantity's tag holds the mean over the seeds; those of the dashboard have a band as
well, under `BAND`. What single seeds did is in `eval.csv`, of which `rlreg.by_seed` makes streams.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG, PLUGIN_NAME
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from rlreg import dashboard
from rlreg.task import Loop

BAND = "~ band: one standard deviation over the seeds"
"""The group of the bands' edges, the last of the Time Series tab."""
HPARAMS_METRICS = {
    Loop.ONLINE: ("eval/mean_reward",),
    Loop.OFFLINE: ("eval/score", "eval/mean_reward"),
    Loop.CURRICULUM: ("eval/solved", "eval/mean_reward"),
}
"""What TensorBoard's HParams tab shows beside the settings."""


def _leave_to_the_caller(args: threading.ExceptHookArgs) -> None:
    """TensorBoard's writing thread hands its error on to the next write or flush: no traceback of its own."""
    if not isinstance(args.thread, _AsyncWriterThread):
        threading.__excepthook__(args)


threading.excepthook = _leave_to_the_caller


class Logger:
    """The event stream of one run."""

    def __init__(self, folder: Path, seeds: Sequence[int], loop: Loop = Loop.ONLINE, first_step: int = 0) -> None:
        """Points from `first_step` on that an earlier, killed process wrote are hidden."""
        self.seeds, self.loop = tuple(seeds), loop
        self._writer = SummaryWriter(str(folder), purge_step=first_step)
        self._banded = dashboard.quantities(loop) if len(seeds) > 1 else set()
        self._charted: set[str] = set()
        """Quantities that the layout, as written so far, shows."""
        self._seen: set[str] = set()

    def scalars(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Metrics (S,) at `step`, as their mean over the seeds. A NaN (nothing to report yet) is left out."""
        for tag, per_seed in values.items():
            per_seed = per_seed.detach().double().cpu()
            present = per_seed[~per_seed.isnan()]
            if not len(present):
                continue
            mean = present.mean().item()
            self._scalar(step, tag, mean)
            self._seen.add(tag)
            if tag in self._banded:
                spread = present.std(correction=0).item()
                for edge, value in (("low", mean - spread), ("high", mean + spread)):
                    self._scalar(step, band(tag, edge), value)

    def histograms(self, step: int, tag: str, values: Tensor) -> None:
        """Values (S, n) at `step`, of all seeds together. What is not finite is left out."""
        values = values.detach().float().cpu()
        if (finite := values[values.isfinite()]).numel():
            self._writer.add_histogram(tag, finite, step)

    def images(self, step: int, tag: str, pictures: Sequence[np.ndarray]) -> None:
        """A picture (height, width, 3) uint8 for each seed, as `<tag>/seed-<k>`."""
        for seed, picture in zip(self.seeds, pictures, strict=True):
            self._writer.add_image(f"{tag}/seed-{seed}", picture, step, dataformats="HWC")

    def film(self, step: int, tag: str, gif: bytes, height: int, width: int) -> None:
        """A moving picture, as a GIF file's contents."""
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._write(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def scalar(self, step: int, tag: str, value: float) -> None:
        """One number for the whole process, such as `time/fps`."""
        self._scalar(step, tag, value)

    def hparams(self, settings: Mapping[str, Any], done: bool = False) -> None:
        """The run's row in the HParams tab, at its beginning and again at its end (`done`).

        Its figures are the newest means of `HPARAMS_METRICS`, so that an unfinished run has them too.
        """
        flat = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in settings.items()}
        experiment, start, end = hparams(flat, dict.fromkeys(HPARAMS_METRICS[self.loop], 0.0))
        for summary in (end,) if done else (experiment, start):
            self._write(summary, None)

    def flush(self) -> None:
        self._write_layout()
        self._writer.flush()

    def close(self) -> None:
        self.flush()
        self._writer.close()

    def _scalar(self, step: int, tag: str, value: float) -> None:
        # not add_scalar: it would replace the blanks of a band's name
        self._write(Summary(value=[Summary.Value(tag=tag, simple_value=value)]), step)

    def _write(self, summary: Summary, step: int | None) -> None:
        self._writer._get_file_writer().add_summary(summary, step)

    def _write_layout(self) -> None:
        """The dashboard of what there is: a chart without data would say only that it has none."""
        if self._seen <= self._charted:
            return
        self._charted |= self._seen
        categories = []
        for title, charts in dashboard.layout(self.loop, self._seen).items():
            category = layout_pb2.Category(title=title)
            # TensorBoard shows a category's charts from the last to the first.
            category.chart.extend(self._chart(name, tag) for name, tag in reversed(charts.items()))
            categories.append(category)
        if categories:
            text = layout_pb2.Layout(category=categories).SerializeToString()
            tensor = TensorProto(dtype=DT_STRING, string_val=[text], tensor_shape=TensorShapeProto())
            plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME))
            layout = Summary.Value(tag=CONFIG_SUMMARY_TAG, tensor=tensor, metadata=plugin)
            self._write(Summary(value=[layout]), None)

    def _chart(self, name: str, tag: str) -> layout_pb2.Chart:
        if tag not in self._banded:
            content = layout_pb2.MultilineChartContent(tag=[f"^{tag}$"])
            return layout_pb2.Chart(title=name, multiline=content)
        edges = {"lower": band(tag, "low"), "upper": band(tag, "high")}
        series = layout_pb2.MarginChartContent.Series(value=tag, **edges)
        title = f"{name} (mean of the seeds; band: one standard deviation)"
        return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=[series]))


def band(tag: str, edge: str) -> str:
    """The tag of a band's edge, 'low' or 'high'."""
    return f"{BAND}/{tag}/{edge}"
