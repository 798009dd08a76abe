"""`mode=video`: films of a run's policies."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from rlreg.build import build_task, load_agent
from rlreg.run_folder import RunFolder
from rlreg.task import Loop
from rlreg.video.film import film, film_levels


def run(cfg: DictConfig) -> None:
    """An MP4 and a contact sheet for each seed, in `out` or `<run_dir>/videos`: `mode=video run_dir=... episodes=2`."""
    given = RunFolder.given(cfg)
    agent, step = load_agent(given, cfg.device, cfg.checkpoint, cfg.trust)
    run_cfg = given.load_config(cfg.trust)
    if "evaluate_on" in run_cfg.env:  # only the first set is filmed: the others need not be made
        run_cfg.env.evaluate_on = run_cfg.env.evaluate_on[:1]
    task = build_task(run_cfg)
    folder = Path(cfg.out) if cfg.out else given.path / "videos"
    print(f"{given.path} at step {step}, {cfg.episodes} episodes per seed", flush=True)
    if task.loop is Loop.CURRICULUM:
        found = film_levels(agent, task.level_space(cfg.device), folder, cfg.episodes, step)
    else:
        found = (film(agent, task, seed, folder / f"seed-{seed}.mp4", cfg.episodes) for seed in agent.seeds)
    for seed, footage in zip(agent.seeds, found, strict=True):
        returns = ", ".join(f"{value:.4g}" for value in footage.returns)
        print(f"seed {seed}: {footage.path} and {footage.sheet.name}, returns {returns}", flush=True)
