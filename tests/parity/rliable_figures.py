"""Writes what rliable makes of some figures, for `tests/test_rliable.py`: tests/data/rliable.json.

rliable needs pandas < 3, so it gets an environment of its own, without torch:

    python -m venv rliable && rliable/bin/pip install "rliable==1.2.0" "pandas<3"
    rliable/bin/python tests/parity/rliable_figures.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent.parent / "data" / "rliable.json"
OPTIMAL = 80.0
THRESHOLDS = np.linspace(0.0, 120.0, 25)


def scores() -> dict[str, np.ndarray]:
    """(runs, tasks) of two methods; some figures are equal, and methods have different numbers of runs."""
    rng = np.random.default_rng(0)
    level = np.array([20.0, 50.0, 70.0, 90.0])
    return {
        "x": np.round(rng.normal(level + 6.0, 15.0, size=(10, 4))),
        "y": np.round(rng.normal(level, 15.0, size=(5, 4))),
    }


def figures(reps: int) -> dict:
    """Every estimate of both methods with rliable's interval: name -> [value, low, high], in lists where many."""
    from rliable import library, metrics

    found = {}
    for name, values in scores().items():
        for estimate, function in {
            "mean": metrics.aggregate_mean,
            "median": metrics.aggregate_median,
            "iqm": metrics.aggregate_iqm,
            "optimality_gap": lambda s: metrics.aggregate_optimality_gap(s, OPTIMAL),
        }.items():
            state = np.random.RandomState(0)
            point, ends = library.get_interval_estimates(
                {name: values}, lambda s, f=function: np.array([f(s)]), reps=reps, random_state=state
            )
            found[f"{name} {estimate}"] = [float(point[name][0]), *ends[name][:, 0].tolist()]
        profile, ends = library.create_performance_profile({name: values}, THRESHOLDS, reps=reps)
        found[f"{name} profile"] = [profile[name].tolist(), *ends[name].tolist()]
    pair = {"x,y": (scores()["x"], scores()["y"])}
    point, ends = library.get_interval_estimates(
        pair, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=reps
    )
    found["improvement"] = [float(point["x,y"][0]), *ends["x,y"][:, 0].tolist()]
    return found


if __name__ == "__main__":
    np.random.seed(0)
    made = {"rliable": version("rliable"), "reps": 5000, "figures": figures(5000)}
    OUT.write_text(json.dumps(made, indent=1) + "\n")
    print(OUT)
