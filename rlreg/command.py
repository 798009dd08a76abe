"""Does what a configuration says: checks what all modes share, then hands it to the one that `mode` names."""

from __future__ import annotations

import torch
from omegaconf import DictConfig, OmegaConf

from rlreg import old_names
from rlreg.build import check_device
from rlreg.compilation import check_mode
from rlreg.config import Config, seed_list
from rlreg.errors import UserError, unknown
from rlreg.modes import collect, evaluate, export, level_set, report, runs, table, train, video
from rlreg.product_choice import check_setting

MODES = {
    "train": train.run,
    "evaluate": evaluate.run,
    "collect": collect.run,
    "export": export.run,
    "table": table.run,
    "report": report.run,
    "level_set": level_set.run,
    "video": video.run,
    "runs": runs.run,
}


def run(cfg: DictConfig) -> None:
    """Check the whole configuration, then do what `mode` says. Raises `UserError`."""
    settings: Config = OmegaConf.to_object(cfg)
    if now := old_names.MODES.get(settings.mode):
        raise UserError(f"mode={settings.mode} is now called mode={now}")
    if settings.mode not in MODES:
        raise unknown("mode", str(settings.mode), MODES)
    seed_list(settings.seeds)
    check_device(settings.device)
    check_mode(settings.compile, torch.device(settings.device))
    check_setting(settings.products)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    MODES[settings.mode](cfg)
