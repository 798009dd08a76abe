"""The settings of `mode=collect`: a dataset made of a run, or a mixture of datasets. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from rlreg.checks import not_negative, random_seed, whole, whole_or_null, within
from rlreg.errors import require


@dataclass
class CollectConfig:
    """A dataset in D4RL's format, made from a run as D4RL's were (mode=collect)."""

    _target_: str = "envs.d4rl.collect.collect"
    """What makes it of the whole configuration."""
    kind: str = "medium"
    """random, medium, expert, medium-expert, medium-replay or full-replay."""
    steps: int = 1_000_000
    """Rows that a policy gathers; medium-expert has as many of each. A replay memory is taken as it is."""
    fraction: float = 1 / 3
    """How far medium is on the way from the untrained policy's evaluated return to the expert's."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on the actions of medium and expert, which else are deterministic."""
    seed: int | None = None
    """Which of the run's seeds; its first where empty."""
    worlds: int = 10
    """Episodes gathered side by side; the last of each is cut off where the rows are full."""
    extras: bool = True
    """Store `next_observations` too, and `infos/qpos` and `infos/qvel` where the simulator has them."""

    def __post_init__(self) -> None:
        whole(self, "collect", "steps", "worlds")
        within(self, "collect", "fraction", interval="(0, 1)")
        not_negative(self, "collect", "noise")


@dataclass
class SourceConfig:
    """One part of a mixture."""

    dataset: str = MISSING
    """A name of D4RL, for the task and for where its file is looked for."""
    path: str | None = None
    """A file, or a folder of files named as D4RL's, instead."""
    count: int | None = None
    """Rows to take; all where neither this nor `fraction` is given."""
    fraction: float | None = None
    """Rows to take, as a share of this source's."""
    clip_actions: bool = False
    """Clip actions beyond [-1, 1] instead of refusing them."""

    def __post_init__(self) -> None:
        alone = self.count is None or self.fraction is None
        require(alone, "mixture.sources.count", self.count, "either count or fraction, not both")
        whole_or_null(self, "mixture.sources", "count")
        if self.fraction is not None:
            within(self, "mixture.sources", "fraction", interval="(0, 1]")


@dataclass
class MixtureConfig:
    """Whole episodes of some datasets, drawn at random, in one file (mode=collect)."""

    name: str = MISSING
    sources: list[SourceConfig] = field(default_factory=list)
    seed: int = 0
    """Of the draw."""
    task: str = "hopper"
    """For the sources' names."""
    folder: str | None = None
    """For the sources' paths."""

    def __post_init__(self) -> None:
        require(bool(self.sources), "mixture.sources", [], "at least one")
        random_seed(self, "mixture", "seed")
