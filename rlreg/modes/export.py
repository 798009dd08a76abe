"""`mode=export`: a run's agents as files of Stable-Baselines3."""

from __future__ import annotations

from omegaconf import DictConfig

from rlreg.config import seed_list
from rlreg.run_folder import RunFolder


def run(cfg: DictConfig) -> None:
    """Write a Stable-Baselines3 zip for each seed into the run's folder: `mode=export run_dir=...`."""
    from rlreg.sb3 import export_zip  # here: only this mode pays for the import of Stable-Baselines3

    folder = RunFolder.given(cfg)
    for seed in seed_list(folder.load_config(cfg.trust).seeds):
        print(export_zip(folder.path, seed, cfg.checkpoint, cfg.trust))
