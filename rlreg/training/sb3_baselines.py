"""Stable-Baselines3's own learning loop for one seed after another, with our evaluation and run folders."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.logger import Logger as SB3Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor
from tqdm import tqdm

from rlreg.checkpoint import Checkpoints, copy_into, flatten
from rlreg.config import Config, EvalConfig, TrainConfig
from rlreg.errors import UserError
from rlreg.eval_table import evaluations_text
from rlreg.evaluation import COLUMNS, evaluate
from rlreg.files import write_atomic
from rlreg.interrupts import Interrupted, interrupts
from rlreg.logger import Logger
from rlreg.metrics import metric
from rlreg.naming import hparams_of
from rlreg.purpose import Purpose
from rlreg.run_folder import RunFolder
from rlreg.sb3 import Models, SB3Agent, VecWorlds, model_state
from rlreg.task import Loop, Task, VectorEnv
from rlreg.training.base import FEWEST_STEPS, end_without_seeds, warn

Row = dict[str, str]


class SB3Training:
    """One run of S seeds, one after another: SB3 has no seeds axis.

    The seeds do not influence each other: SB3 seeds every generator anew for each model. A killed run keeps
    the seeds that were finished, and starts the one that was running again from its first step.
    """

    loop: ClassVar[Loop] = Loop.ONLINE
    unused: ClassVar[tuple[str, ...]] = (
        *("updates_per_call", "updates_per_iteration", "n_step", "least_noise", "most_noise"),
        *("keep_replay", "keep_best", "video_every"),
    )
    """See `Training.unused`."""

    @classmethod
    def of(cls, agent: SB3Agent, task: Task, settings: Config, folder: RunFolder) -> Self:
        """See `Training.of`. `settings.compile` is for our own agents: SB3's updates run as they are."""
        make_env = partial(task.vector_env, device=agent.device)
        return cls(agent, make_env, settings.train, settings.eval, folder)

    def __init__(
        self,
        agent: SB3Agent,
        make_env: Callable[[Sequence[int], int, Purpose], VectorEnv],
        train: TrainConfig,
        evaluation: EvalConfig,
        folder: RunFolder,
    ) -> None:
        """`agent.build(seed, env, train)` gives an SB3 model, `make_env(seeds, num_envs, purpose)` worlds."""
        self.agent, self.make_env, self.cfg, self.eval_cfg, self.folder = (
            agent,
            make_env,
            train,
            evaluation,
            folder,
        )
        self.rows: list[list[Row]] = [[] for _ in agent.seeds]
        """The rows of eval.csv, per seed."""
        self.bad_steps = [0] * len(agent.seeds)
        """Of training; see `envs.base.Step.bad`."""
        self.stopped: dict[int, str] = {}
        """Why a seed was stopped before its last step, by its value."""

    def close(self) -> None:
        """Nothing is held between `run`s."""

    def run(self) -> dict[str, Any]:
        """Train every seed that is not finished yet. Returns the final figures, per seed."""
        seconds = 0.0
        unfinished = not Checkpoints(self.folder.checkpoints / f"seed-{self.agent.seeds[0]}").steps()
        first_step = 0 if unfinished else self.cfg.total_steps + 1
        self.logger = Logger(self.folder.tensorboard, self.agent.seeds, self.loop, first_step)
        self.logger.hparams(hparams_of(self.folder.read_config()))
        with closing(self.logger), interrupts() as interrupted:
            for i, seed in enumerate(self.agent.seeds):
                finished = Checkpoints(self.folder.checkpoints / f"seed-{seed}")
                found = finished.load()
                if found is not None and found[0] != self.cfg.total_steps:
                    raise UserError(
                        f"train.total_steps={self.cfg.total_steps}: seed {seed} has finished with {found[0]} steps, "
                        "and runs of Stable-Baselines3's own agents cannot be extended; give another run_dir"
                    )
                if found is None:
                    started = time.perf_counter()
                    self._train(i, interrupted)
                    tensors = flatten(model_state(self.agent.models[i]))
                    seconds_taken = time.perf_counter() - started
                    info = {"rows": self.rows[i], "seconds": seconds_taken, "bad_steps": self.bad_steps[i]}
                    info |= {"stopped": self.stopped.get(seed)}
                    finished.save(self.cfg.total_steps, tensors, info)
                else:
                    _, tensors, info = found
                    copy_into(model_state(self.agent.models[i]), tensors, str(finished.folder))
                    self.rows[i], self.bad_steps[i] = info["rows"], info.get("bad_steps", 0)
                    if info.get("stopped"):
                        self.stopped[seed] = info["stopped"]
                seconds += info["seconds"]
        self._write_rows()
        end_without_seeds(self.stopped, self.agent.seeds, self.folder)
        # The whole run's checkpoint, where the runner looks for one.
        Checkpoints(self.folder.checkpoints).save(self.cfg.total_steps, flatten({"agent": self.agent.state()}), {})
        returns = torch.tensor([[float(row["return"]) for row in rows] for rows in self.rows], dtype=torch.float64)
        return {
            "seeds": list(self.agent.seeds),
            "steps": self.cfg.total_steps,
            "final": {name: [float(rows[-1][name]) for rows in self.rows] for name in COLUMNS},
            "return_last_ten": returns[:, 1:][:, -10:].mean(dim=1).tolist(),
            "diverged": [seed for seed in self.agent.seeds if seed in self.stopped],
            "bad_steps": self.bad_steps,
            "seconds": round(seconds, 1),
        }

    def _train(self, i: int, interrupted: Callable[[], bool]) -> None:
        """Train seed number i; its networks and optimisers end up in `agent.models[i]`."""
        seed = self.agent.seeds[i]
        env = VecMonitor(VecWorlds(self.make_env((seed,), self.cfg.num_envs, Purpose.TRAIN)))
        eval_env = self.make_env((seed,), self.eval_cfg.episodes, Purpose.EVALUATE)
        model = self.agent.build(seed, env, self.cfg)
        env.venv._reset_seeds()  # SB3 asks for seed, seed + 1, ...: our worlds have streams that no two runs share
        if isinstance(model, OffPolicyAlgorithm):
            _leave_out_bad_rows(model.replay_buffer, env.venv)
        # Of one seed only: the seeds run one after another, and TensorBoard has one value for a step.
        model.set_logger(SB3Logger(None, [_Events(self.logger)] if i == 0 else []))
        self.rows[i] = []
        try:
            watch = _Watch(self, i, eval_env, interrupted)
            model.learn(self.cfg.total_steps, watch, log_interval=None)  # `watch` says when to log
        finally:
            env.close()
            eval_env.close()
        # The trained model itself goes, with its replay memory.
        copy_into(model_state(self.agent.models[i]), flatten(model_state(model)), str(self.folder.path))

    def stop_seed(self, i: int, reason: str) -> None:
        """Say that seed number i learns no more. Its evaluations to come all equal the newest: its policy rests."""
        seed, newest = self.agent.seeds[i], self.rows[i][-1]
        self.stopped[seed] = reason
        warn(f"seed {seed}: {reason}; this seed learns no more, the others go on")
        total, every = self.cfg.total_steps, self.eval_cfg.every
        later = sorted({*range(every, total, every), total})
        self.rows[i] += [newest | {"step": str(step)} for step in later if step > int(newest["step"])]
        self._write_rows()

    def add_row(self, i: int, step: int, values: dict[str, float]) -> None:
        """One evaluation of seed number i, into eval.csv at once."""
        row = {"step": str(step), "seed": str(self.agent.seeds[i])}
        self.rows[i].append(row | {name: repr(values[name]) for name in COLUMNS})
        self._write_rows()
        if i == len(self.rows) - 1:  # the last seed has come here: now there is a mean over all of them
            here = [next(row for row in rows if row["step"] == str(step)) for rows in self.rows]
            means = {metric(name).tag: torch.tensor([float(row[name]) for row in here]) for name in COLUMNS}
            self.logger.scalars(step, means)
            self.logger.flush()

    def _write_rows(self) -> None:
        """eval.csv as a run of our own agents has it: by step, then by seed in the order given."""
        rows = sorted((row for rows in self.rows for row in rows), key=lambda row: int(row["step"]))
        saved = [["step", "seed", *COLUMNS], *(list(row.values()) for row in rows)]
        write_atomic(self.folder.eval_csv, evaluations_text(saved))


def _leave_out_bad_rows(buffer: ReplayBuffer, worlds: VecWorlds) -> None:
    """Have SB3's replay memory store no bad step: a good world's of the same moment stands in, where there is one."""
    add = buffer.add

    def add_good(obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        bad = worlds.bad
        if bad.all():
            return
        if bad.any():
            instead = np.where(bad, np.flatnonzero(~bad)[0], np.arange(len(bad)))
            obs, next_obs, action, reward, done = (x[instead] for x in (obs, next_obs, action, reward, done))
            infos = [infos[n] for n in instead]
        add(obs, next_obs, action, reward, done, infos)

    buffer.add = add_good
class _Events(KVWriter):
    """SB3's own quantities, by its tags, in the run's event stream."""

    def __init__(self, events: Logger) -> None:
        self._events = events

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        for tag, value in key_values.items():
            if isinstance(value, int | float | np.number) and "tensorboard" not in (key_excluded[tag] or ()):
                self._events.scalar(step, tag, float(value))

    def close(self) -> None:
        """The run closes its stream itself."""


class _Watch(BaseCallback):
    """Evaluates and logs at the steps at which our own loop does, shows progress, and ends the training on time.

    SB3 calls it between a step and the update that follows, as it does its own `EvalCallback`.
    """

    def __init__(self, training: SB3Training, i: int, eval_env: VectorEnv, interrupted: Callable[[], bool]) -> None:
        super().__init__()
        self._training, self._i, self._interrupted = training, i, interrupted
        self._seed = training.agent.seeds[i]
        self._total, self._log_every = training.cfg.total_steps, training.cfg.log_every
        self._every = training.eval_cfg.every
        self._env, self._told = eval_env, 0
        self._env.reset()
        self._start = self._env.state_dict()

    def _on_training_start(self) -> None:
        self._bar = tqdm(
            total=self._total,
            desc=f"seed {self._seed}",
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._started = time.perf_counter()
        self._evaluate()

    def _on_step(self) -> bool:
        """False, which ends the training, at the last step: PPO would go on to a whole rollout."""
        if self._interrupted():
            self._bar.close()
            raise Interrupted(
                f"stopped at step {self.num_timesteps} of seed {self._seed}; the same command keeps the "
                "finished seeds and starts this one again"
            )
        self._bar.update(self.training_env.num_envs)
        before = self.num_timesteps - self.training_env.num_envs
        last = self.num_timesteps >= self._total
        worlds = self.training_env.venv
        bad, share = worlds.bad_steps, self._training.cfg.max_bad_share
        self._training.bad_steps[self._i] = bad
        if bad >= max(1, 2 * self._told):
            self._told = bad
            self.logger.record("env/bad_steps", bad)
            why = next(iter(worlds.problems()), "the simulation diverged")
            warn(f"{bad} of {self.num_timesteps} steps of seed {self._seed} were bad, such as this one: {why}")
        if bad > share * max(self.num_timesteps, FEWEST_STEPS):
            self._evaluate()
            self._training.stop_seed(
                self._i, f"{bad} of {self.num_timesteps} steps were bad, more than train.max_bad_share={share:g}"
            )
            return False
        if self.num_timesteps // self._log_every > before // self._log_every:
            self.model.dump_logs()
        if last or self.num_timesteps // self._every > before // self._every:
            self._evaluate()
        return not last

    def _on_training_end(self) -> None:
        self._bar.close()

    def _evaluate(self) -> None:
        """A row of eval.csv. What is measured on a critic's features is left as NaN."""
        values = evaluate(Models([self.model]), self._env, self._start)
        if (cut := values.pop("bad_steps").item()) > 0:
            warn(f"evaluation at step {self.num_timesteps} of seed {self._seed}: {cut:.0f} episodes cut by a bad step")
        row = {name: values[name].item() if name in values else float("nan") for name in COLUMNS}
        self._training.add_row(self._i, self.num_timesteps, row)
        self._bar.set_postfix_str(f"return {row['return']:.1f}")
        if self._bar.disable:
            fps = self.num_timesteps / max(time.perf_counter() - self._started, 1e-9)
            place = f"seed {self._seed}, step {self.num_timesteps}"
            print(f"{place}: return {row['return']:.1f}, {fps:.0f} steps/s", flush=True)
