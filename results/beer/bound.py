"""How often BEER's bound was exceeded, from the TensorBoard events of a table's runs: `bound.csv`.

    python results/beer/bound.py runs > results/beer/bound.csv
"""

import csv
import statistics
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

table = csv.writer(sys.stdout, lineterminator="\n")
shares = ("mean_share_above_bound", "max_share_above_bound")
table.writerow(["env", "seed", "batches", *shares, "mean_regularizer_loss", "mean_critic_loss"])
for folder in sorted(Path(sys.argv[1]).glob("dmc/*/beer/*/tensorboard/seed-*")):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = ("regularizer/active", "regularizer/loss", "train/critic_loss")
    active, penalty, td = ([point.value for point in events.Scalars(tag)] for tag in tags)
    env, seed = f"dmc/{folder.parts[-5]}", folder.name.removeprefix("seed-")
    means = f"{statistics.mean(penalty):.3g}", f"{statistics.mean(td):.4g}"
    table.writerow([env, seed, len(active), f"{statistics.mean(active):.4f}", f"{max(active):.4f}", *means])
