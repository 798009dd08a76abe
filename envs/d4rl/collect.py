"""Datasets made as D4RL's Gym-MuJoCo sets were, from an online run: `python run.py mode=collect`.

| kind | what D4RL has | what is made here |
|---|---|---|
| random | an untrained policy | uniformly random actions |
| medium | a policy stopped at about a third of the expert | the first evaluated checkpoint a third of the way up |
| expert | a policy trained to completion | the checkpoint with the highest evaluated return |
| medium-expert | medium and expert, as much of each | the same |
| medium-replay | the replay memory of medium until then | the same |
| full-replay | the replay memory of the whole training | the same |

D4RL's policies are stochastic (SAC's), the untrained one's actions close to uniform. Ours are deterministic, which
makes for narrower sets, unless `collect.noise` adds to the actions of medium and expert. D4RL's medium policy is by the
return alone; ours by the way from the untrained policy's return to the expert's, which is D4RL's normalised score and
makes sense of negative returns too. A policy that was trained to completion and then fell off would not be called an
expert: hence the highest return.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from envs.base import world_seed
from envs.d4rl.mixture import mix
from envs.d4rl.settings import CollectConfig
from envs.d4rl.side_by_side import BatchedWorlds, SideBySide, SingleWorlds
from envs.d4rl.writing import Rows, joined, target, write_hdf5
from rlreg.buffers import GOES_ON, STANDS_IN, UNKNOWN, Replay
from rlreg.build import build_task, checkpoint_step, load_agent
from rlreg.checkpoint import Checkpoints, ReplayLog
from rlreg.config import Config, seed_list
from rlreg.errors import UserError, unknown
from rlreg.eval_table import read_evaluations
from rlreg.modes import train
from rlreg.purpose import Purpose
from rlreg.rng import Block, Rng
from rlreg.run_folder import RunFolder, provenance

KINDS = ("random", "medium", "expert", "medium-expert", "medium-replay", "full-replay")
PURPOSE = {
    "random": Purpose.COLLECT_RANDOM,
    "medium": Purpose.COLLECT_MEDIUM,
    "expert": Purpose.COLLECT_EXPERT,
}
"""Of the worlds that a policy gathers in, beside those of training and evaluation; see `envs.base.world_seed`."""
KEEP_ALL = 1_000_000
"""Checkpoints: more than any run has evaluations."""
Act = Callable[[NDArray, int], NDArray]
"""Observations (N, O) and the number of the step to actions (N, A)."""


def collect(cfg: DictConfig) -> None:
    """Write the dataset that `cfg.collect` or `cfg.mixture` describes to `cfg.out`. Raises `UserError`.

    The run is `cfg.run_dir`'s. Without one it is that of the configuration itself, trained here unless it is complete,
    with every checkpoint and its replay memory kept; the random kind only needs its environment.
    """
    settings: Config = OmegaConf.to_object(cfg)
    if settings.collect.kind not in KINDS:
        raise unknown("collect.kind", settings.collect.kind, KINDS)
    path = target(settings.out)
    rows, about = mix(settings.mixture) if settings.mixture else _from_run(cfg, settings.collect)
    if not settings.collect.extras:
        rows = {key: value for key, value in rows.items() if key != "next_observations" and "/" not in key}
    found = provenance()
    about |= {
        "rows": len(rows["rewards"]),
        "command": _command(),
        "commit": found["commit"] or "unknown",
        "versions": json.dumps(found["versions"]),
    }
    returns = _returns(rows)
    about |= {"episodes": len(returns), "mean_return": float(returns.mean()), "std_return": float(returns.std())}
    write_hdf5(path, rows, about)
    print(
        f"written: {path}, {path.stat().st_size / 1e6:.1f} MB: {len(rows['rewards'])} rows, {len(returns)} episodes, "
        f"mean return {returns.mean():.1f} (standard deviation {returns.std():.1f})"
    )


def _command() -> str:
    """What the user typed, with names for whole paths: where things lie on a machine is nobody else's business."""
    if not HydraConfig.initialized():
        return "rlreg.library.run"
    given = [re.sub(r"(?<=[=:])/[^\s,}\]]*/(?=[^/])", "", override) for override in HydraConfig.get().overrides.task]
    return shlex.join(["python", Path(sys.argv[0]).name, *given])


def _returns(rows: Rows) -> NDArray[np.float64]:
    """Of the episodes in `rows`, those cut off too."""
    ends = rows["terminals"] | rows["timeouts"]
    ends[-1] = True
    start = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])
    return np.add.reduceat(rows["rewards"], start, dtype=np.float64)


def _from_run(cfg: DictConfig, wanted: CollectConfig) -> tuple[Rows, dict[str, Any]]:
    """The rows of a kind, and what the file says of how they came about."""
    if wanted.kind == "random":
        run_cfg = RunFolder.of(cfg).load_config(cfg.trust) if cfg.run_dir else cfg
        seed = _seed(wanted, run_cfg)
        _sizes(run_cfg)
        return _random(run_cfg, seed, wanted), _about(run_cfg, wanted, seed) | {"agent": "random"}

    policies = [kind for kind in ("medium", "expert") if kind in wanted.kind.split("-")]
    if cfg.checkpoint is not None and len(policies) > 1:
        raise UserError(f"checkpoint={cfg.checkpoint}: collect.kind={wanted.kind} takes two; leave it out")
    if not cfg.run_dir:
        _seed(wanted, cfg)  # before a run of hours
        _sizes(cfg)
    folder = _run(cfg)
    run_cfg = folder.load_config(cfg.trust)
    seed = _seed(wanted, run_cfg)
    if cfg.run_dir:
        _sizes(run_cfg)
    about = _about(run_cfg, wanted, seed) | {"run_commit": _commit_of(folder)}
    chosen = checkpoint_step(folder, cfg.checkpoint)
    if wanted.kind == "full-replay":
        if chosen is None:
            raise UserError(f"run_dir={folder.path}: no checkpoint yet")
        return _replay(folder, run_cfg, seed, chosen), about | {"steps": [chosen]}

    course = ReturnCurve(folder, seed)
    steps = {kind: course.step(kind, wanted.fraction) if cfg.checkpoint is None else chosen for kind in policies}
    about |= {
        "steps": list(steps.values()),
        "evaluated_returns": [course.returns.get(step, math.nan) for step in steps.values()],
        "untrained_return": course.untrained,
        "expert_return": course.returns[course.best],
    }
    for kind, step in steps.items():
        found = course.returns.get(step, math.nan)
        print(f"{kind}: the policy of step {step}, evaluated return {found:.1f}", flush=True)
    if wanted.kind == "medium-replay":
        return _replay(folder, run_cfg, seed, steps["medium"]), about
    parts = [_by_policy(folder, run_cfg, seed, kind, step, wanted, cfg) for kind, step in steps.items()]
    return joined(parts), about


def _run(cfg: DictConfig) -> RunFolder:
    """The run to collect from, trained first where it is this configuration's own."""
    if cfg.run_dir:
        return RunFolder.of(cfg)
    kept = {"keep_checkpoints": KEEP_ALL, "keep_replay": True, "checkpoint_every": cfg.eval.every}
    own = OmegaConf.merge(cfg, {"mode": "train", "train": kept})
    train.run(own)
    return RunFolder.of(own)


def _seed(wanted: CollectConfig, run_cfg: DictConfig) -> int:
    seeds = seed_list(run_cfg.seeds)
    if wanted.seed is not None and wanted.seed not in seeds:
        raise UserError(f"collect.seed={wanted.seed}: the run has seeds {', '.join(map(str, seeds))}")
    return seeds[0] if wanted.seed is None else wanted.seed


def _about(run_cfg: DictConfig, wanted: CollectConfig, seed: int) -> dict[str, Any]:
    """What the file says of a run: all its settings, without the places that they name."""
    settings = OmegaConf.masked_copy(run_cfg, ["agent", "regularizer", "env", "train", "eval", "seeds"])
    for key in {"path", "mirror"} & settings.env.keys():
        settings.env[key] = None
    return {
        "kind": wanted.kind,
        "env": run_cfg.env.name,
        "agent": run_cfg.agent.name,
        "seed": seed,
        "noise": wanted.noise,
        "run_config": OmegaConf.to_yaml(settings, resolve=True),
    }


def _commit_of(folder: RunFolder) -> str:
    """That a complete run was finished with."""
    if not folder.complete:
        return "unknown: the run is not complete"
    told = folder.results().get("provenance")
    return str((told.get("commit") if isinstance(told, dict) else None) or "unknown")


# ------------------------------------------------------------------ policies


class ReturnCurve:
    """How the evaluated return of one seed of a run went, and which of its checkpoints are there."""

    def __init__(self, folder: RunFolder, seed: int) -> None:
        """Raises `UserError` for a run that has not been evaluated since its first step."""
        self.folder = folder
        self.kept = Checkpoints(folder.checkpoints).steps()
        rows = []
        if folder.eval_csv.exists():
            rows = [row for row in read_evaluations(folder.eval_csv) if int(row["seed"]) == seed]
        course = {int(row["step"]): float(row["return"]) for row in rows}
        self.untrained = course.pop(0, math.nan)
        self.returns = course
        """Evaluated return by step, without the untrained policy's."""
        if not course or math.isnan(self.untrained):
            raise UserError(f"run_dir={folder.path}: seed {seed} has not been evaluated yet")
        self.best = max(course, key=course.__getitem__)

    def step(self, kind: str, fraction: float) -> int:
        """The checkpoint of the expert, or of the medium policy: a `fraction` of the way there. Raises `UserError`."""
        step = self.best
        if kind == "medium":
            if self.returns[step] < self.untrained:
                raise UserError(
                    f"run_dir={self.folder.path}: no evaluation was above the untrained policy's "
                    f"{self.untrained:.1f}, so there is no medium policy; train longer, or name a step by checkpoint="
                )
            enough = self.untrained + fraction * (self.returns[step] - self.untrained)
            step = next(step for step in sorted(self.returns) if self.returns[step] >= enough)
        if step not in self.kept:
            raise UserError(
                f"run_dir={self.folder.path}: the {kind} policy is that of step {step}, whose checkpoint is not there "
                f"({len(self.kept)} are); train with train.keep_checkpoints={KEEP_ALL} and "
                "train.checkpoint_every=<eval.every>, or name one by checkpoint="
            )
        return step


def _random(run_cfg: DictConfig, seed: int, wanted: CollectConfig) -> Rows:
    worlds = _worlds(run_cfg, seed, "random", wanted)
    actions = Block(Rng([seed]), "uniform", "collect/random", (worlds.count, worlds.action_dim))
    act: Act = lambda obs, t: 2.0 * actions.at(t)[0].numpy() - 1.0  # noqa: E731
    return roll_out(act, worlds, wanted.steps, run_cfg.train.max_bad_share)


def _by_policy(
    folder: RunFolder, run_cfg: DictConfig, seed: int, kind: str, step: int, wanted: CollectConfig, cfg: DictConfig
) -> Rows:
    agent, _ = load_agent(folder, cfg.device, step, cfg.trust)
    worlds = _worlds(run_cfg, seed, kind, wanted)
    i, num_seeds = agent.seeds.index(seed), len(agent.seeds)
    noise = Block(Rng([seed]), "normal", f"collect/{kind}", (worlds.count, agent.action_dim))

    @torch.no_grad()
    def act(obs: NDArray, t: int) -> NDArray:
        action = agent.act(torch.from_numpy(obs).to(agent.device).expand(num_seeds, -1, -1))[i].float().cpu()
        if wanted.noise:
            action = (action + wanted.noise * noise.at(t)[0]).clamp(-1.0, 1.0)
        return action.numpy()

    return roll_out(act, worlds, wanted.steps, run_cfg.train.max_bad_share)


def _worlds(run_cfg: DictConfig, seed: int, kind: str, wanted: CollectConfig) -> SideBySide:
    """On the CPU, by what `env.backend` says for so many."""
    count = min(wanted.worlds, wanted.steps)
    task = build_task(run_cfg)
    if task.backend(count, "cpu") in ("mujoco", "warp"):
        return BatchedWorlds(task.vector_env((seed,), count, PURPOSE[kind]))
    seeds = [world_seed(seed, n, PURPOSE[kind]) for n in range(count)]
    return SingleWorlds([task.single_env(seed) for seed in seeds], seeds)


def roll_out(act: Act, worlds: SideBySide, steps: int, max_bad_share: float = 0.05) -> Rows:
    """`steps` rows of N worlds side by side, one world's rows after another's; the worlds are closed.

    Where a world's rows end within an episode, this counts as a time-out; so does the last good row before a bad step,
    which is no row itself. Raises `UserError` where more than `max_bad_share` of the steps were bad.
    """
    length = -(-steps // worlds.count)
    obs = worlds.reset()
    columns: dict[str, list[NDArray]] = {}
    for t in tqdm(range(length), unit="step", disable=None):
        row = worlds.physics()
        action = act(obs, t)
        step = worlds.step(action)
        row |= {"observations": obs, "actions": action, "rewards": step.reward, "terminals": step.terminated}
        row["timeouts"] = ~step.terminated & (step.truncated | (t == length - 1))
        row["next_observations"], row["bad"] = step.next_obs, step.bad
        for name, values in row.items():
            columns.setdefault(name, []).append(np.array(values))
        obs = step.obs
    worlds.close()

    rows = {name: np.stack(values, axis=1) for name, values in columns.items()}  # (N, T, ...)
    bad = rows["bad"]
    rows["timeouts"][:, :-1] |= bad[:, 1:] & ~rows["terminals"][:, :-1]
    rows = {name: value.reshape(-1, *value.shape[2:])[:steps] for name, value in rows.items()}
    good = ~rows.pop("bad")
    if not good.all():
        why = next(iter(worlds.problems()), "the simulation diverged")
        told = f"{(~good).sum()} of {steps} steps were bad, such as this one: {why}"
        if 1 - good.mean() > max_bad_share:
            raise UserError(f"{told}; more than train.max_bad_share={max_bad_share:g}")
        print(f"warning: {told}; their episodes are cut there, their rows left out", file=sys.stderr)
        rows = {name: value[good] for name, value in rows.items()}
    rows["timeouts"][-1] = not rows["terminals"][-1]  # the last environment's rows may be cut short
    return rows


# -------------------------------------------------------------- replay memory


def _replay(folder: RunFolder, run_cfg: DictConfig, seed: int, step: int) -> Rows:
    """The replay memory of `seed` as it was at the checkpoint of `step`, one world's rows after another's.

    Where an episode was cut the memory says: by the time limit, or by a step that came to nothing. Where it is of an
    earlier version, it does not: there a row whose successor is not the next one's observation ended an episode.
    """
    info = Checkpoints(folder.checkpoints).info(step) if step in Checkpoints(folder.checkpoints).steps() else {}
    if not folder.replay.is_dir() or "replay" not in info:
        raise UserError(
            f"run_dir={folder.path}: the replay memory at step {step} is not there; train online with "
            f"train.keep_replay=true, train.keep_checkpoints={KEEP_ALL} and train.checkpoint_every=<eval.every>"
        )
    log, held = ReplayLog(folder.replay), info["replay"]["inserted"]
    chunks = info["replay"]["chunks"]
    if chunks[0][0] > 0 or run_cfg.train.buffer_capacity < held:
        raise UserError(
            f"run_dir={folder.path}: its replay memory was overwritten before step {step}; train with "
            f"train.buffer_capacity={held} or more"
        )
    i, worlds = seed_list(run_cfg.seeds).index(seed), run_cfg.train.num_envs
    obs_dim, action_dim = _sizes(run_cfg)
    ring = Replay([seed], held, obs_dim, action_dim)
    for first, last in chunks:
        ring.write(first, log.read(first, last)[i : i + 1])
    table = ring.rows[0].numpy()  # (T * N, width)
    table = table.reshape(-1, worlds, table.shape[-1]).swapaxes(0, 1)  # (N, T, width)
    obs, action, reward, next_obs, terminated, after = np.split(table, np.cumsum(ring.widths)[:-1], axis=-1)
    terminals, after = terminated[..., 0] == 1, after[..., 0]
    followed = np.zeros_like(terminals)
    next_matches = (next_obs[:, :-1] == obs[:, 1:]).all(axis=-1)
    told = (after[:, :-1] == GOES_ON) & (after[:, 1:] != STANDS_IN)
    followed[:, :-1] = np.where(after[:, :-1] == UNKNOWN, next_matches, told)
    rows = {
        "observations": obs,
        "actions": action,
        "rewards": reward[..., 0],
        "terminals": terminals,
        "timeouts": ~followed & ~terminals,
        "next_observations": next_obs,
    }
    own = (after != STANDS_IN).reshape(-1)  # a row that stands for one left out is another one once more
    return {name: value.reshape(-1, *value.shape[2:])[own] for name, value in rows.items()}


def _sizes(run_cfg: DictConfig) -> tuple[int, int]:
    """O and A. Raises `UserError` for discrete actions."""
    env = build_task(run_cfg).single_env(0)
    spaces = env.observation_space, env.action_space
    env.close()
    if isinstance(spaces[1], gymnasium.spaces.Discrete):
        raise UserError(f"env={run_cfg.env.name} has discrete actions, and D4RL's format is for continuous ones")
    return spaces[0].shape[0], spaces[1].shape[0]
