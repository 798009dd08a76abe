"""The run's configuration: dataclass schemas and their checks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, ListConfig

from rlreg.checks import multiple_of, not_negative, positive, whole, whole_or_null, within
from rlreg.errors import require, unknown
from rlreg.regularizers import SCHEMAS
from rlreg.schemas import store

CONFIGS = Path(__file__).parent.parent / "configs"
MOST_THREADS = 1024


@dataclass
class TrainConfig:
    """The training loop. Steps are environment steps per seed, over all of its worlds; from a dataset they are updates.

    A loop names in its `unused` which of these mean nothing to it: they are not described there, and refused if given.
    """

    total_steps: int = 1_000_000
    warmup_steps: int = 25_000
    """Steps of uniformly random actions before the first update."""
    updates_per_step: int = 1
    """Updates for each environment step."""
    updates_per_call: int = 1
    """Offline: updates made by one CUDA graph, which saves the launches between them; 10 to 50 where the network is
    small. Without a graph it changes nothing. The same results as one by one."""
    num_envs: int = 1
    """N, worlds for each seed; each iteration steps all of them, then makes N * updates_per_step updates. What is due
    after a number of steps that N does not divide comes with the iteration that passes it; the run's end too."""
    updates_per_iteration: int | None = None
    """So many updates instead, each time all worlds have been stepped: for many worlds, fewer than their number."""
    n_step: int = 1
    """Rewards of up to so many steps before a value is bootstrapped."""
    least_noise: float = 1.0
    """A seed's first world explores with so many times the agent's own noise, the last with `most_noise` times, those
    between in even steps."""
    most_noise: float = 1.0
    """See `least_noise`."""
    buffer_capacity: int = 1_000_000
    """Transitions kept per seed."""
    log_every: int = 1_000
    """Steps between TensorBoard points of the losses."""
    checkpoint_every: int = 10_000
    """Steps between checkpoints: the most that a killed run loses."""
    keep_checkpoints: int = 2
    max_bad_share: float = 0.05
    """A seed is stopped, as for a non-finite loss, once more than this share of its steps (of 200 at least) were bad:
    the simulation diverged, or an observation or reward is no finite float32. Until then such a step ends its episode,
    is left out of the replay memory and counted (`env/bad_steps`)."""
    keep_best: bool = False
    """Keep the checkpoint of the best evaluation too (checkpoint=best): the best mean of all seeds."""
    video_every: int = 0
    """Steps between films of the first seed, for TensorBoard and in the run's `videos`; 0 for none."""
    keep_replay: bool = False
    """Keep the replay memory on disk after the run's end (up to some 600 MB per seed)."""

    def __post_init__(self) -> None:
        whole(self, "train", "total_steps", "updates_per_step", "updates_per_call", "num_envs", "log_every")
        whole(self, "train", "checkpoint_every", "keep_checkpoints", "n_step")
        whole(self, "train", "warmup_steps", least=0)
        whole_or_null(self, "train", "updates_per_iteration")
        within(self, "train", "max_bad_share", interval="[0, 1]")
        within(self, "train", "least_noise", "most_noise", interval="[0, inf)")
        least = f"at least train.least_noise={self.least_noise}"
        require(self.most_noise >= self.least_noise, "train.most_noise", self.most_noise, least)
        require(
            self.buffer_capacity >= self.num_envs,
            "train.buffer_capacity",
            self.buffer_capacity,
            f"at least train.num_envs={self.num_envs}",
        )
        multiple_of(self, "train", "log_every", "checkpoint_every", "total_steps", stride="updates_per_call")

    @property
    def updates_an_iteration(self) -> int:
        return self.updates_per_iteration or self.updates_per_step * self.num_envs


@dataclass
class EvalConfig:
    """Evaluation, and what the BEER paper measures beside returns."""

    every: int = 10_000
    """Steps between evaluations. One is made before the first step, one after the last. Offline agents: 5000."""
    episodes: int = 10
    """Episodes an evaluation, each in a world of its own, from the same start states every time."""
    samples: int = 2048
    """Replay transitions on which rank, cosine and bound are measured."""
    rank_epsilon: float = 0.01
    """Singular values of Phi / sqrt(n) above this count towards the representation rank."""

    def __post_init__(self) -> None:
        whole(self, "eval", "every", "episodes", "samples")
        positive(self, "eval", "rank_epsilon")


@dataclass
class PublishedConfig:
    """Figures that others published, shown beside ours."""

    name: str = MISSING
    """The method, as they call it: the heading of its column."""
    source: str = MISSING
    """Where the figures are from."""
    column: str | None = None
    """The column of the table that they are figures of, where they then stand after a slash; empty for a column of
    their own, "by others"."""
    measure: str | None = None
    """What they are figures of; the table's first measure where empty."""
    steps: int | None = None
    """After how many steps they were taken; empty where that is not known."""
    seeds: int | None = None
    """Of how many seeds each is a figure, where its row does not say; empty where that is not known."""
    settings: str = ""
    """How theirs differ from ours, and what a figure is: the last evaluation, a mean of some."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Row -> the mean, or [mean, standard deviation over seeds], or [mean, standard deviation, seeds]. Row 'average':
    theirs over all of their rows."""

    def __post_init__(self) -> None:
        where = f"table.published ({self.name}).figures"
        require(bool(self.figures), where, self.figures, "at least one row and its figure")
        for row, given in self.figures.items():
            numbers = list(given) if isinstance(given, list | ListConfig) else [given]
            valid = "a number, [mean, standard deviation] or [mean, standard deviation, seeds]"
            good = 1 <= len(numbers) <= 3 and all(isinstance(n, int | float) and n == n for n in numbers)
            require(good and not any(isinstance(n, bool) for n in numbers), f"{where}.{row}", given, valid)
        for name in ("steps", "seeds"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"table.published ({self.name}).{name}", value, "a whole number >= 1")

    def numbers(self, row: str) -> list[float]:
        """A row's mean, and what more is known: standard deviation, seeds; empty where they have no such row."""
        given = self.figures.get(row, [])
        return list(given) if isinstance(given, list | ListConfig) else [given]


@dataclass
class TableConfig:
    """A table: rows x columns x seeds, run where missing and printed (mode=table)."""

    name: str = MISSING
    rows: list[str] = field(default_factory=list)
    """Choices of `env=`."""
    columns: list[str] = field(default_factory=list)
    """Choices of `agent=`."""
    overrides: list[str] = field(default_factory=list)
    """Further overrides for every run of the table."""
    row_overrides: dict[str, list[str]] = field(default_factory=dict)
    """Further overrides of single rows, such as [env.path=my.hdf5]. With one for `env=`, the row's name is free."""
    column_overrides: dict[str, list[str]] = field(default_factory=dict)
    """The same of single columns. With one for `agent=`, the column's name is free. The name of another column stands
    for what that one has, its agent included: [a2pr, agent.tau=0.05]."""
    measures: list[str] = field(default_factory=lambda: ["return", "return_last_ten", "rank", "q_error"])
    """What is reported: columns of `rlreg.metrics.METRICS`, or of a run's final figures."""
    published: list[PublishedConfig] = field(default_factory=list)
    """What others published: beside our own figures, or in columns of their own."""
    further_rows: list[str] = field(default_factory=list)
    """Rows that stand below the average and are no part of it, nor of any other figure over rows."""
    row_notes: dict[str, str] = field(default_factory=dict)
    """What is said beside a row's name, such as `inferred`."""
    optimal: float | None = None
    """The best that the first measure can be, on one scale for all rows: for the optimality gap of Agarwal et al.
    (2021). Empty where the rows have no such scale."""
    note: str = ""
    only_report: bool = False
    """Print from the runs that are there; start none."""

    def __post_init__(self) -> None:
        valid = "a name of letters, digits, dots, dashes and underscores: it is a folder's"
        require(bool(re.fullmatch(r"[\w-][\w.-]*", self.name)), "table.name", self.name, valid)
        for name in ("rows", "columns", "measures"):
            values = getattr(self, name)
            different = bool(values) and len(set(values)) == len(values)
            require(different, f"table.{name}", list(values), "at least one, each once")

    @property
    def averaged_rows(self) -> list[str]:
        """The rows that averages, interquartile means, probabilities and profiles are taken over."""
        return [row for row in self.rows if row not in self.further_rows]


@dataclass
class LauncherConfig:
    """How the runs of a table are started."""

    _target_: str = MISSING
    jobs: int = 1
    """Runs at a time."""
    threads: int = 0
    """CPU threads of each, where `threads=` is not given; 0 shares this machine's cores among the jobs."""
    gpus: float = 1.0
    """GPUs of each with device=cuda, as asked of Ray; 0.25 lets four runs share one."""
    minutes: float | None = None
    """How long there is: no run is started that would take longer by the speeds measured so far, and what still runs
    when the time is up saves and stops. The same command goes on from there."""

    def __post_init__(self) -> None:
        whole(self, "launcher", "jobs")
        if self.minutes is not None:
            positive(self, "launcher", "minutes")
        _check_threads("launcher.threads", self.threads)
        not_negative(self, "launcher", "gpus")


@dataclass
class Config:
    """What `run.py` is told."""

    mode: str = "train"
    """train, evaluate, video, export, runs, table, report, collect or level_set."""
    seeds: Any = 1
    """S: a number n for seeds 0 .. n-1, or a list such as [3,7]."""
    device: str = "cpu"
    compile: str = "auto"
    """auto, compile, graph (CUDA) or eager; `auto` compiles where that is expected to end the run sooner (measured on
    this machine; the choice is kept in the run's checkpoints). See rlreg.compilation."""
    products: str = "auto"
    """auto, aten or onednn: who computes matrix products on the CPU. `auto` is the faster for each shape (measured once
    on this machine; the choice is kept in the run's checkpoints), in runs of 1000 updates or more; aten is torch's own
    way, onednn the other wherever it can. See rlreg.product_choice."""
    threads: int = 0
    """CPU threads for torch; 0 leaves torch's own choice."""
    run_dir: str | None = None
    """Where the run lives: by default runs/<env>/<agent>-<what differs from the defaults>-<hash>; `latest` is the run
    that something was last written of."""
    logger: str = "tensorboard"
    """tensorboard, or wandb (extra wandb): Weights & Biases, which takes what TensorBoard is given."""
    runs_root: str = "runs"
    """Where run folders are made by default."""
    checkpoint: Any = None
    """For the modes that use a run: last (the default), best (of a run with train.keep_best) or a checkpoint's step."""
    trust: bool = False
    """Follow a run folder that names code of its own: classes that are not rlreg's, env.id=module:Id. Such a folder can
    do whatever it wants with this machine: trust your own, and those of people you know."""
    agent: Any = MISSING
    regularizer: Any = MISSING
    env: Any = MISSING
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    table: TableConfig | None = None
    dry: bool = False
    """mode=table: list the runs, their commands, what is done and the time left, and start none."""
    runs: Any = None
    """For mode=report: folders of runs, or folders that hold some; a pattern such as `runs/dmc/*/beer*`, or a list."""
    collect: Any = MISSING
    """What mode=collect makes of a run: see its schema beside what does it."""
    mixture: Any = None
    """The datasets that mode=collect draws from instead."""
    out: str | None = None
    """The file that mode=collect writes, or the folder for the films of mode=video (by default the run's `videos`) or
    for the files of mode=report (by default `<runs_root>/report`), or for the streams of single seeds of mode=runs."""
    episodes: int = 1
    """Episodes that mode=video films per seed."""
    level_set: Any = MISSING
    """What mode=level_set builds, shows or generates: see its schema beside what does it."""
    launcher: LauncherConfig = field(default_factory=LauncherConfig)

    def __post_init__(self) -> None:
        require(self.episodes >= 1, "episodes", self.episodes, "a whole number >= 1")
        _check_threads("threads", self.threads)
        require(self.logger in ("tensorboard", "wandb"), "logger", self.logger, "tensorboard or wandb")
        stride = self.train.updates_per_call
        valid = f"a multiple of train.updates_per_call={stride}"
        require(self.eval.every % stride == 0, "eval.every", self.eval.every, valid)


def _check_threads(field: str, threads: int) -> None:
    """Not bounded by this machine's cores: a run may be continued on a smaller one."""
    require(0 <= threads <= MOST_THREADS, field, threads, f"a whole number in [0, {MOST_THREADS}]")


def register_schemas() -> None:
    """Make the schema known to Hydra as `schema`."""
    ConfigStore.instance().store(name="schema", node=Config)
    for name, regularizer in SCHEMAS.items():
        store("regularizer", name, regularizer)


def check_optional(group: str, overrides: Sequence[str]) -> None:
    """Raise `UserError` for an override that chooses what a group does not have: of optional ones Hydra ignores it."""
    valid = [path.stem for path in (CONFIGS / group).glob("*.yaml")]
    for override in overrides:
        key, _, value = override.partition("=")
        if key == group and value not in valid:
            raise unknown(group, value, valid)


def seed_list(seeds: Any) -> tuple[int, ...]:
    """`5` -> (0, 1, 2, 3, 4); `[3, 7]` -> (3, 7). Raises `UserError`."""
    valid = "a number of seeds in 1 .. 10000, or a list of different seeds in [0, 2^31), such as [3,7]"
    if isinstance(seeds, list | tuple | ListConfig):
        chosen = tuple(seeds)
        numbers = all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**31 for s in chosen)
        require(numbers and len(set(chosen)) == len(chosen) > 0, "seeds", list(chosen), valid)
        return chosen
    require(isinstance(seeds, int) and not isinstance(seeds, bool) and 1 <= seeds <= 10_000, "seeds", seeds, valid)
    return tuple(range(seeds))
