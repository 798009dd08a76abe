"""Every figure that a run reports: its column in eval.csv, its tag in TensorBoard, and its words in tables.

A new measure is a line here, and a value under its column's name in `rlreg.evaluation` (or in a loop of its own):
docs/extending.md. Which of them TensorBoard's dashboard shows is in `rlreg.dashboard`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rlreg.errors import unknown


class Metric(NamedTuple):
    """One figure. All are means over a run's seeds; `mean_of` says of what each seed's own figure is one."""

    column: str
    """Its name in eval.csv and among a run's final figures."""
    tag: str
    """TensorBoard's name; '' for what is computed at the end."""
    title: str
    """A table's heading and a figure's axis."""
    mean_of: str = "at the last evaluation"
    """What a seed's figure is a mean of, or when it is taken."""
    decimals: int = 3
    """Of a table."""
    is_goal: bool = False
    """The larger the better: tables mark the best, and average over their rows."""
    figure: str = ""
    """The file that a table draws its curve in; '' for none."""


METRICS = (
    Metric("return", "eval/mean_reward", "Final return", "the last evaluation's mean return", 1, True, "curves.png"),
    Metric("return_last_ten", "", "Return, last ten evaluations", "the mean of the last ten evaluations' returns", 1,
           True),
    Metric("return_std", "eval/std_reward", "Spread of returns", "over an evaluation's episodes", 1),
    Metric("length", "eval/mean_ep_length", "Episode length", "in steps, at the last evaluation", 1),
    # BEER
    Metric("cosine", "representation/cosine", "Cosine of consecutive features"),
    Metric("bound", "representation/bound", "BEER's bound on it"),
    Metric("above_bound", "representation/above_bound", "Share of transitions above BEER's bound"),
    Metric("rank", "representation/rank", "Representation rank", decimals=1, figure="rank.png"),
    Metric("srank", "representation/srank", "Effective rank (srank)", decimals=1),
    Metric("q_error", "value/error", "Q-value error",
           "|Q - Monte-Carlo return| along the last evaluation's episodes", 2, figure="q_error.png"),
    Metric("value_error", "value/true_error", "Error of Q against the optimal values",
           "|Q - Q*| over all states and actions, at the last evaluation", figure="value_error.png"),
    Metric("q_bias", "value/bias", "Q-value bias", "Q - Monte-Carlo return along the last evaluation's episodes", 2),
    # Offline
    Metric("score", "eval/score", "Final score", "D4RL's normalised score of the last evaluation's mean return", 1,
           True, "scores.png"),
    Metric("score_last_ten", "", "Score, last ten evaluations", "the mean of the last ten evaluations' scores", 1,
           True),
    # Curricula
    Metric("solved", "eval/solved", "Solve rate, held out", "the share of the first evaluation set's levels", 3, True,
           "solved.png"),
    Metric("train_solved", "transfer/train_solved", "Solve rate, training levels", figure="train_solved.png"),
    Metric("train_return", "transfer/train_return", "Return, training levels"),
    Metric("gap", "transfer/generalisation_gap", "Generalisation gap",
           "training levels' mean return less the held-out ones'", figure="gap.png"),
    Metric("shift_gap", "transfer/shift_gap", "Shift gap", "sum_l P_l V_l - mean_l V_l over the training levels"),
    Metric("information", "transfer/mutual_information", "I(L; b)",
           "a lower bound on what features tell of the level, in nats", figure="information.png"),
    Metric("env_steps", "time/env_steps", "Environment steps", decimals=0),
)  # fmt: skip
_BY_COLUMN = {metric.column: metric for metric in METRICS}
OF_A_SET = ("solved", "return")
"""Measured on each of a curriculum's evaluation sets: columns `solved/<set>` and `return/<set>`."""


def metric(column: str) -> Metric:
    """The metric of a column, of one set's too; of an unknown one what can be said without knowing it."""
    if column in _BY_COLUMN:
        return _BY_COLUMN[column]
    kind, _, name = column.partition("/")
    tag = f"transfer/{name}/{kind}" if kind in OF_A_SET else f"eval/{column}"
    return Metric(column, tag, column, is_goal=True)


def require_known(measures: Iterable[str], where: str = "table.measures") -> None:
    """Raise `UserError` for a measure that no run has; `where` is the setting that names it."""
    for measure in measures:
        if measure not in _BY_COLUMN and measure.partition("/")[0] not in OF_A_SET:
            raise unknown(f"measure in {where}", measure, _BY_COLUMN)
