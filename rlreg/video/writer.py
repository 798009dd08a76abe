"""Writing films: an MP4 file frame by frame, and a few small frames for contact sheets and TensorBoard."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rlreg.errors import UserError

Frame = NDArray[np.uint8]
"""A picture (height, width, 3)."""
MAX_FPS = 25
"""Frames a second of a film: of faster worlds every second, third, ... step is shown."""
SMALL_WIDTH = 240
"""Pixels across of the frames that are kept for sheets and TensorBoard."""
MAX_SMALL = 64
"""How many of an episode's frames are kept at least, if it has as many; never more than twice that."""
GAP = 4
"""White pixels between a sheet's pictures."""


def every(fps: float) -> int:
    """How many steps one frame stands for, of a world with `fps` steps a second."""
    return max(1, -(-round(fps) // MAX_FPS))


class Film:
    """One MP4 file, which appears under its name when it is whole."""

    def __init__(self, path: Path, fps: float) -> None:
        """`fps` are the film's. Raises `UserError` where the file cannot be written."""
        self.path, self.fps = path, fps
        self.episodes: list[list[Frame]] = []
        """Small frames of each episode, evenly spaced in time."""
        self.stride: list[int] = []
        """How many frames of the film one of them stands for, by episode."""
        self._since = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, beside = tempfile.mkstemp(".mp4", ".writing-", path.parent)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        os.close(descriptor)
        self._beside = Path(beside)
        self._writer: Any = imageio.get_writer(beside, fps=fps, codec="libx264", macro_block_size=2)

    def begin_episode(self) -> None:
        self.episodes.append([])
        self.stride.append(1)
        self._since = 0

    def add(self, frame: Frame) -> None:
        """The next frame; all of a film have one size."""
        self._writer.append_data(frame)
        kept = self.episodes[-1]
        if self._since % self.stride[-1] == 0:
            kept.append(small(frame))
            if len(kept) > 2 * MAX_SMALL:
                del kept[1::2]
                self.stride[-1] *= 2
        self._since += 1

    def close(self) -> None:
        self._writer.close()
        os.chmod(self._beside, 0o666 & ~_umask())
        os.replace(self._beside, self.path)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._writer.close()
        self._beside.unlink(missing_ok=True)


def small(frame: Frame) -> Frame:
    """A frame at most `SMALL_WIDTH` pixels wide."""
    height, width = frame.shape[:2]
    if width <= SMALL_WIDTH:
        return np.array(frame)
    return np.asarray(Image.fromarray(frame).resize((SMALL_WIDTH, round(height * SMALL_WIDTH / width))))


def contact_sheet(episodes: Sequence[Sequence[Frame]], columns: int = 6) -> Frame:
    """One row an episode, its frames from first to last, with white between them."""
    rows = []
    for frames in episodes:
        chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, columns).round().astype(int)]
        padded = [np.pad(frame, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for frame in chosen]
        rows.append(np.concatenate(padded, axis=1))
    return np.concatenate(rows, axis=0)[:-GAP, :-GAP]


def write_picture(path: Path, picture: Frame) -> None:
    """A PNG file."""
    Image.fromarray(picture).save(path)


def gif(frames: Sequence[Frame], fps: float) -> bytes:
    """An endless GIF, which is what TensorBoard can show."""
    out = io.BytesIO()
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
    return out.getvalue()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
