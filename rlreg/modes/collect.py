"""`mode=collect`: a dataset made from a run, or of other datasets."""

from __future__ import annotations

from omegaconf import DictConfig

from rlreg.build import locate


def run(cfg: DictConfig) -> None:
    """Have `collect._target_` write the dataset: `mode=collect collect.kind=medium out=...`."""
    locate(cfg.collect._target_)(cfg)
