"""`mode=levels`: a set of levels, built, looked at or drawn, or new wall layouts."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from rlreg.build import locate


def run(cfg: DictConfig) -> None:
    """Have `levels._target_` do what its other settings say: `mode=levels levels.set=... levels.out=...`."""
    locate(cfg.levels._target_)(OmegaConf.to_object(cfg.levels))
