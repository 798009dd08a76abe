"""The online loop: step the worlds, store, update; evaluate, log and checkpoint as it goes."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from rlreg.buffers import Replay
from rlreg.checkpoint import Checkpoints, ReplayLog, copy_into, flatten, save_synced
from rlreg.config import EvalConfig, TrainConfig
from rlreg.errors import NonFiniteError, UserError
from rlreg.evaluation import evaluate, representation
from rlreg.graphs import prepare
from rlreg.logger import EvalTable, Logger
from rlreg.rng import Block, Rng
from rlreg.runs import RunFolder, flat_settings

# TensorBoard's names for the columns of eval.csv.
EVAL_TAGS = {
    "return": "eval/mean_reward",
    "return_std": "eval/std_reward",
    "length": "eval/mean_ep_length",
    "q_error": "value/error",
    "q_bias": "value/bias",
    "rank": "representation/rank",
    "srank": "representation/srank",
    "cosine": "representation/cosine",
    "bound": "representation/bound",
}


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the run was saved and can go on."""


class OnlineTraining:
    """One run of S seeds. Everything that it needs to continue is in `save` and `restore`."""

    def __init__(
        self,
        agent: Any,
        make_env: Callable[[int, int], Any],
        train: TrainConfig,
        evaluation: EvalConfig,
        folder: RunFolder,
        compile: str,
    ) -> None:
        """`make_env(num_worlds, purpose)` gives the training worlds (purpose 0) and the evaluation's (1)."""
        self.agent, self.cfg, self.eval_cfg, self.folder = agent, train, evaluation, folder
        seeds, device = agent.seeds, agent.device
        self.env = make_env(train.num_worlds, 0)
        self.eval_env = make_env(evaluation.episodes, 1)
        self.eval_env.reset()
        self.eval_start = self.eval_env.state_dict()
        capacity = min(train.buffer_capacity, train.total_steps)
        self.replay = Replay(seeds, capacity, agent.obs_dim, agent.action_dim, device)
        self.checkpoints = Checkpoints(folder.checkpoints, train.keep_checkpoints)
        self.replay_log = ReplayLog(folder.replay)

        rng, shape = Rng(seeds, device), (train.num_worlds, agent.action_dim)
        self.random_action = Block(rng, "uniform", "act/warmup", shape)
        self.noise = Block(rng, "normal", "act/noise", shape)
        updates = max(0, train.total_steps - train.warmup_steps) * train.updates_per_step
        torch.compiler.reset()  # an earlier run of this process has used up Dynamo's recompilations
        self.update = prepare(self._update, compile, device, updates)
        self.update_number = torch.zeros((), dtype=torch.int64, device=device)

        self.step = 0
        """Environment steps made, a seed."""
        self.updates = 0
        zeros = torch.zeros(len(seeds), train.num_worlds, device=device)
        self.episode_return, self.episode_length = zeros.clone(), zeros.clone()
        nothing = torch.full((len(seeds),), torch.nan, device=device)
        self.last_episode = {"rollout/ep_rew_mean": nothing.clone(), "rollout/ep_len_mean": nothing.clone()}
        self.metrics: dict[str, Tensor] = {}
        self.reported_dead = torch.zeros(len(seeds), dtype=torch.bool)

    # ------------------------------------------------------------- the loop

    def run(self) -> dict[str, Any]:
        """Train to the end, continuing from the newest checkpoint. Returns the final figures, a list a seed."""
        resumed = self.restore()
        if not resumed:
            self.obs = self.env.reset()
        self.logger = Logger(self.folder.tensorboard, self.agent.seeds, self.step + 1 if resumed else 0)
        self.eval_table = EvalTable(self.folder.eval_csv, self.agent.seeds, self.step if resumed else None)
        self.started, self.first_step = time.perf_counter(), self.step
        with interrupts() as interrupted, self._progress() as bar:
            if not resumed:
                self._evaluate(bar)
            while self.step < self.cfg.total_steps:
                self._iterate()
                bar.update(self.cfg.num_worlds)
                if self._passed(self.cfg.log_every):
                    self._log()
                if self._passed(self.eval_cfg.every) or self.step == self.cfg.total_steps:
                    self._evaluate(bar)
                stop = interrupted()
                if stop or self._passed(self.cfg.checkpoint_every) or self.step == self.cfg.total_steps:
                    self.save()
                if stop:
                    raise Interrupted(f"stopped at step {self.step}; the same command goes on from there")
        return self._results()

    def _iterate(self) -> None:
        """One step of every world, then the updates that are due."""
        iteration = self.step // self.cfg.num_worlds
        learning = self.step >= self.cfg.warmup_steps

        # ACT
        with torch.no_grad():
            if learning:
                action = self.agent.act(self.obs, self.noise.at(iteration))
            else:
                action = 2.0 * self.random_action.at(iteration) - 1.0
        with self._naming_the_step():
            obs, reward, terminated, truncated, final_obs = self.env.step(action)

        # STORE: the observation the action led to, and whether the task (not the clock) ended there
        self.replay.add(self.obs, action, reward, final_obs, terminated)
        self._count_episodes(reward, terminated | truncated)
        self.obs = obs
        self.step += self.cfg.num_worlds

        # LEARN
        if learning:
            for _ in range(self.cfg.updates_per_step * self.cfg.num_worlds):
                self.updates += 1
                self.update_number.fill_(self.updates)
                self.metrics |= self.update(
                    self.update_number, self.updates % self.agent.config.policy_delay == 0
                )

    def _update(self, number: Tensor, update_actor: bool) -> dict[str, Tensor]:
        batch = self.replay.sample("replay", number, self.agent.config.batch_size)
        return self.agent.update(batch, number, update_actor)

    def _count_episodes(self, reward: Tensor, done: Tensor) -> None:
        self.episode_return += reward
        self.episode_length += 1
        if done.any():  # most steps end no episode
            for tag, total in (
                ("rollout/ep_rew_mean", self.episode_return),
                ("rollout/ep_len_mean", self.episode_length),
            ):
                mean = torch.where(done, total, 0.0).sum(dim=1) / done.sum(dim=1)  # NaN where none ended
                self.last_episode[tag] = torch.where(mean.isnan(), self.last_episode[tag], mean)
                total.masked_fill_(done, 0.0)

    @contextmanager
    def _naming_the_step(self) -> Iterator[None]:
        try:
            yield
        except NonFiniteError as error:
            raise NonFiniteError(f"step {self.step}: {error}; the last checkpoint stays") from None

    def _passed(self, interval: int) -> bool:
        """Whether the last iteration crossed a multiple of `interval`."""
        return self.step // interval > (self.step - self.cfg.num_worlds) // interval

    # --------------------------------------------------- what is looked at

    def _evaluate(self, bar: tqdm) -> None:
        cfg, agent = self.eval_cfg, self.agent
        with self._naming_the_step():
            values = evaluate(agent, self.eval_env, self.eval_start, agent.config.discount)
        if self.replay.inserted:
            batch = self.replay.sample("measure", self.step, cfg.samples)
            values |= representation(agent, batch, cfg.rank_epsilon)
        else:  # nothing to measure on before the first step
            nothing = torch.full_like(values["return"], torch.nan)
            values |= dict.fromkeys(("rank", "srank", "cosine", "bound"), nothing)
        self.eval_table.add(self.step, values)
        self.logger.scalars(self.step, {EVAL_TAGS[name]: value for name, value in values.items()})
        self.logger.flush()
        bar.set_postfix_str(f"return {values['return'].mean():.1f}")
        if bar.disable:
            fps = (self.step - self.first_step) / max(time.perf_counter() - self.started, 1e-9)
            print(f"step {self.step}: return {values['return'].mean():.1f}, {fps:.0f} steps/s", flush=True)

    def _log(self) -> None:
        self.logger.scalars(self.step, self.metrics | self.last_episode)
        elapsed = time.perf_counter() - self.started
        self.logger.scalar(self.step, "time/fps", (self.step - self.first_step) / elapsed)
        self.logger.scalar(self.step, "train/n_updates", self.updates)
        self._report_frozen_seeds()

    def _report_frozen_seeds(self) -> None:
        """Say once of each seed that its loss turned non-finite, and write what it held to a file."""
        dead = ~self.agent.alive.cpu()
        for i in (dead & ~self.reported_dead).nonzero().flatten().tolist():
            seed = self.agent.seeds[i]
            path = self.folder.path / f"frozen-seed-{seed}-step-{self.step}.safetensors"
            held = {k: v[i].contiguous() for k, v in flatten(self.agent.state()).items() if v.dim()}
            save_synced(held, path)
            tqdm.write(
                f"warning: seed {seed}: the loss turned non-finite at or before step {self.step}; this seed is "
                f"frozen, its state is in {path}, the others go on",
                file=sys.stderr,
            )
        self.reported_dead |= dead

    def _results(self) -> dict[str, Any]:
        final = {name: self.eval_table.column(name)[-1].tolist() for name in EVAL_TAGS}
        last_ten = self.eval_table.column("return")[-10:].mean(dim=0).tolist()
        settings = OmegaConf.to_container(self.folder.load_config())
        self.logger.hparams(flat_settings(settings), {"eval/mean_reward": sum(final["return"]) / len(final["return"])})
        self.logger.close()
        self.env.close()
        self.eval_env.close()
        return {
            "seeds": list(self.agent.seeds),
            "steps": self.step,
            "final": final,
            "return_last_ten": last_ten,
            "frozen": [s for s, alive in zip(self.agent.seeds, self.agent.alive.tolist(), strict=True) if not alive],
            "seconds": round(time.perf_counter() - self.started, 1),
        }

    def _progress(self) -> tqdm:
        return tqdm(
            total=self.cfg.total_steps,
            initial=self.step,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            smoothing=0.05,
        )

    # --------------------------------------------------------------- resume

    def _tensors(self) -> dict[str, Any]:
        return {
            "agent": self.agent.state(),
            "loop": {
                "episode_return": self.episode_return,
                "episode_length": self.episode_length,
                **{tag: self.last_episode[tag] for tag in sorted(self.last_episode)},
            },
        }

    def save(self) -> None:
        """Write a checkpoint of this moment. There is no generator to save: random numbers are counted."""
        self.logger.flush()  # no point older than the checkpoint is lost with this process
        info = {
            "step": self.step,
            "updates": self.updates,
            "env": self.env.state_dict(),
            "replay": {"inserted": self.replay.inserted, "chunks": self.replay_log.extend(self.replay)},
        }
        self.checkpoints.save(self.step, flatten(self._tensors()), info)
        oldest_kept = self.checkpoints.info(self.checkpoints.steps()[0])
        self.replay_log.prune(oldest_kept["replay"]["inserted"] - self.replay.capacity)

    def restore(self) -> bool:
        """Continue from the newest checkpoint; False where there is none."""
        found = self.checkpoints.load()
        if found is None:
            return False
        self.step, tensors, info = found
        copy_into(self._tensors(), tensors, str(self.folder.checkpoints))
        self.updates = info["updates"]
        self.replay_log.restore(self.replay, info["replay"]["chunks"])
        if self.replay.inserted != info["replay"]["inserted"]:
            raise UserError(f"{self.folder.replay}: {self.replay.inserted} rows, not {info['replay']['inserted']}")
        self.obs = self.env.load_state_dict(info["env"])
        self.reported_dead = ~self.agent.alive.cpu()
        return True


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag that the loop looks at; a second one stops at once."""
    caught: list[int] = []

    def note(number: int, _: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
