"""Every dataset of D4RL for Gym-MuJoCo, AntMaze, Maze2D, Adroit and Kitchen: address, sizes, reference scores.

`datasets.tsv` holds a row a dataset. Addresses, episode lengths and reference returns are those that D4RL registers;
file sizes and SHA-256 are those that TensorFlow Datasets publishes, copied by hand, empty where it has none.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TypeVar

from rlreg.errors import UserError, unknown

HOST = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"
SIZES = {
    "hopper": (11, 3),
    "halfcheetah": (17, 6),
    "walker2d": (17, 6),
    "ant": (111, 8),
    "antmaze": (29, 8),
    "maze2d": (4, 2),
    "pen": (45, 24),
    "door": (39, 28),
    "hammer": (46, 26),
    "relocate": (39, 30),
    "kitchen": (60, 9),
}
"""Task: numbers in an observation (O) and in an action (A)."""

MINARI = "minari:"
"""What a path starts with that names a Minari dataset, as in minari:D4RL/pen/human-v2."""

Returns = TypeVar("Returns")
"""A number, a numpy array or a tensor."""


@dataclass(frozen=True)
class Info:
    """What D4RL publishes of one dataset."""

    name: str
    url: str
    max_episode_steps: int
    ref_min: float | None
    """Return of a random policy; None for the one set without reference scores."""
    ref_max: float | None
    """Return of an expert."""
    size: int | None
    """Bytes of the original file, where known."""
    sha256: str | None

    @property
    def task(self) -> str:
        """The environment: 'hopper' of 'hopper-medium-replay-v2'."""
        return self.name.partition("-")[0]

    @property
    def file_name(self) -> str:
        """As in D4RL's own cache folder."""
        return self.url.rpartition("/")[2]

    @property
    def obs_dim(self) -> int:
        return SIZES[self.task][0]

    @property
    def action_dim(self) -> int:
        return SIZES[self.task][1]

    def score(self, returns: Returns) -> Returns:
        """D4RL's normalised score, 100 (return - ref_min) / (ref_max - ref_min): 0 is random, 100 an expert.

        `returns` are undiscounted sums of unshifted rewards, in any shape. Raises `UserError` without references.
        """
        if self.ref_min is None or self.ref_max is None:
            raise UserError(f"D4RL has no reference scores for '{self.name}'")
        return 100 * (returns - self.ref_min) / (self.ref_max - self.ref_min)


@cache
def _table() -> dict[str, Info]:
    with files(__package__).joinpath("datasets.tsv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: _info(row) for row in csv.DictReader(file, delimiter="\t")}


def _info(row: dict[str, str]) -> Info:
    return Info(
        name=row["name"],
        url=HOST + row["address"],
        max_episode_steps=int(row["max_episode_steps"]),
        ref_min=float(row["ref_min"]) if row["ref_min"] else None,
        ref_max=float(row["ref_max"]) if row["ref_max"] else None,
        size=int(row["size"]) if row["size"] else None,
        sha256=row["sha256"] or None,
    )


def dataset_names() -> tuple[str, ...]:
    """All names, task by task."""
    return tuple(_table())


def info(name: str) -> Info:
    """Raises `UserError` for a name that D4RL does not have."""
    if name not in _table():
        raise unknown("D4RL dataset", name, _table())
    return _table()[name]


def normalised_score(name: str, returns: Returns) -> Returns:
    """`Info.score` by the dataset's name."""
    return info(name).score(returns)
