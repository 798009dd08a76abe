"""`mode=evaluate`: measure a run's checkpoint again."""

from __future__ import annotations

from omegaconf import DictConfig

from rlreg.build import build_task, load_agent
from rlreg.evaluation import evaluate
from rlreg.purpose import Purpose
from rlreg.run_folder import RunFolder
from rlreg.task import Loop
from rlreg.training.curriculum import transfer


def run(cfg: DictConfig) -> None:
    """Evaluate a run's checkpoint: `mode=evaluate run_dir=...`, `eval.episodes` episodes per seed.

    A curriculum's is evaluated once on each level of the run's sets; where the run's `env=` is given too, on what that
    one's settings say (`Task.measured_on`). Training levels and time limit are always the run's.
    """
    folder = RunFolder.given(cfg)
    run_cfg = folder.load_config(cfg.trust)
    agent, step = load_agent(folder, cfg.device, cfg.checkpoint, cfg.trust)
    task = build_task(run_cfg)
    if task.loop is Loop.CURRICULUM:
        if cfg.env.name == run_cfg.env.name:
            for name in task.measured_on:
                run_cfg.env[name] = cfg.env[name]
        values = transfer(agent, build_task(run_cfg).level_space(cfg.device), step)
        what = "every level once"
    else:
        env = task.vector_env(agent.seeds, cfg.eval.episodes, Purpose.EVALUATE, cfg.device)
        env.reset()
        values = evaluate(agent, env, env.state_dict())
        if (score := task.score()) is not None:
            values["score"] = score(values["return"])
        env.close()
        what = f"{cfg.eval.episodes} episodes per seed"
    print(f"{folder.path} at step {step}, {what}")
    if "bad_steps" in values and not values["bad_steps"].any():
        del values["bad_steps"]
    for i, seed in enumerate(agent.seeds):
        print(f"seed {seed}: " + ", ".join(f"{name} {value[i]:.2f}" for name, value in values.items()))
