"""What TensorBoard's Custom Scalars tab shows of a run: for each kind of loop, what that loop is about comes first."""

from __future__ import annotations

from collections.abc import Collection

from rlreg.task import Loop

Charts = dict[str, dict[str, str]]
"""Category -> a chart's title -> the quantity (tag) that it shows."""

_VALUE = {
    "error of Q": "value/error",
    "bias of Q": "value/bias",
    "error of Q against optimal values": "value/true_error",
    "Q of the replay memory": "train/q",
}
_REGULARISER = {
    "cosine of consecutive features": "representation/cosine",
    "its bound": "representation/bound",
    "share of transitions above the bound": "representation/above_bound",
    "penalty": "regularizer/loss",
}
LAYOUTS: dict[Loop, Charts] = {
    Loop.ONLINE: {
        "return": {"evaluation": "eval/mean_reward", "training": "rollout/ep_rew_mean"},
        "regulariser": _REGULARISER,
        "representation": {"rank": "representation/rank"},
        "value": _VALUE,
    },
    Loop.OFFLINE: {
        "score": {"normalised score": "eval/score", "return": "eval/mean_reward"},
        "offline": {
            "loss of the behaviour policy": "behaviour/vae_loss",
            "share of VAE actions": "behaviour/share_of_vae_actions",
            "state value": "train/value",
        },
        "value": _VALUE,
        "regulariser": _REGULARISER,
        "representation": {"rank": "representation/rank"},
    },
    Loop.CURRICULUM: {
        "curriculum": {
            "solve rate, held out": "eval/solved",
            "solve rate, training levels": "transfer/train_solved",
            "generalisation gap": "transfer/generalisation_gap",
            "shift gap": "transfer/shift_gap",
            "mutual information of features and levels": "transfer/mutual_information",
            "new levels solved": "levels/new_solved",
            "share of the dataset in what is drawn": "levels/dataset_mass",
        },
        "regulariser": {"penalty": "regularizer/loss", "cosine": "regularizer/cosine", "bound": "regularizer/bound"},
    },
}


def quantities(loop: Loop) -> set[str]:
    """The tags that a loop's layout shows."""
    return {tag for charts in LAYOUTS[loop].values() for tag in charts.values()}


def layout(loop: Loop, there: Collection[str]) -> Charts:
    """The loop's charts of those quantities that are there."""
    chosen = {
        category: {title: tag for title, tag in charts.items() if tag in there}
        for category, charts in LAYOUTS[loop].items()
    }
    return {category: charts for category, charts in chosen.items() if charts}
