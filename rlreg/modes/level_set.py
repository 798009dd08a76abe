"""`mode=level_set`: a set of levels, built, looked at or drawn, or new wall layouts."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from rlreg.build import locate


def run(cfg: DictConfig) -> None:
    """Have `level_set._target_` do what its settings say: `mode=level_set level_set.set=... level_set.out=...`."""
    locate(cfg.level_set._target_)(OmegaConf.to_object(cfg.level_set))
