"""The online loop: step the worlds, store, update; evaluate, log and checkpoint as it goes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from rlreg.agent import BatchAgent
from rlreg.buffers import Replay
from rlreg.checkpoint import Damaged, ReplayLog
from rlreg.config import Config, EvalConfig, TrainConfig
from rlreg.errors import require
from rlreg.purpose import Purpose
from rlreg.rng import Block, Rng
from rlreg.run_folder import RunFolder
from rlreg.task import Task, VectorEnv
from rlreg.training.base import FEWEST_STEPS, BatchTraining, warn
from rlreg.training.episodes import EpisodeWindow


class OnlineTraining(BatchTraining):
    """One run of S seeds that gather their own data. Steps are environment steps per seed."""

    @classmethod
    def of(cls, agent: BatchAgent, task: Task, settings: Config, folder: RunFolder) -> Self:
        warmup, total = settings.train.warmup_steps, settings.train.total_steps
        less = f"fewer than train.total_steps={total}, or nothing is ever learnt"
        require(warmup < total, "train.warmup_steps", warmup, less)
        make_env = partial(task.vector_env, agent.seeds, device=agent.device)
        return cls(agent, make_env, settings.train, settings.eval, folder, settings.compile, settings.products)

    def __init__(
        self,
        agent: BatchAgent,
        make_env: Callable[[int, Purpose], VectorEnv],
        train: TrainConfig,
        evaluation: EvalConfig,
        folder: RunFolder,
        compile: str,
        products: str = "auto",
    ) -> None:
        """`make_env(num_envs, purpose)` gives the training worlds and those to evaluate in."""
        seeds, device = agent.seeds, agent.device
        self.env, self.stride = make_env(train.num_envs, Purpose.TRAIN), train.num_envs
        last_step = -(-train.total_steps // train.num_envs) * train.num_envs  # of the iteration that ends the run
        capacity = min(train.buffer_capacity, last_step)
        ahead = (train.n_step, agent.discount, train.num_envs) if train.n_step > 1 else ()
        self.replay = Replay(seeds, capacity, agent.obs_dim, agent.action_dim, device, *ahead)
        self.replay_log = ReplayLog(folder.replay)
        iterations = max(0, train.total_steps - train.warmup_steps) // train.num_envs
        updates = iterations * train.updates_an_iteration
        per_call = train.updates_per_iteration or 1  # on a GPU one graph
        super().__init__(
            agent, make_env, train, evaluation, folder, compile, self.replay, updates, per_call, products
        )
        self.closing.callback(self.env.close)

        rng, shape = Rng(seeds, device), (train.num_envs, agent.action_dim)
        self.random_action = Block(rng, "uniform", "act/warmup", shape)
        self.noise = Block(rng, "normal", "act/noise", shape)
        self.noise_share = torch.linspace(train.least_noise, train.most_noise, train.num_envs, device=device)[:, None]
        self.episodes = EpisodeWindow(len(seeds), train.num_envs, device)
        self.first_update = train.warmup_steps
        """The step from which on there are updates."""
        self.bad_steps = torch.zeros(len(seeds), dtype=torch.int64, device=device)
        """(S,): steps so far that came to nothing; see `envs.base.Step.bad`."""
        self.told_bad_steps = 0

    # ------------------------------------------------------------- the loop

    def _begin(self) -> None:
        self.obs = self.env.reset()

    def _iterate(self) -> None:
        """One step of every world, then the updates that are due."""
        iteration = self.step // self.cfg.num_envs
        learning = self.step >= self.first_update
        if learning and self.step < self.first_update + self.cfg.num_envs:
            self.speed.restart(self.step)

        # ACT
        self.agent.observe(self.obs)
        with torch.no_grad():
            if self.step >= self.cfg.warmup_steps:
                noise = self.noise.at(iteration)
                action = self.agent.act(self.obs, noise * self.noise_share)
            else:
                action = 2.0 * self.random_action.at(iteration) - 1.0
        obs, reward, terminated, truncated, final_obs, bad = self.env.step(action)

        # STORE: the observation the action led to, and whether the task (not the clock) ended there
        self.replay.add(self.obs, action, reward, final_obs, terminated, bad, truncated)
        self.bad_steps += bad.sum(dim=1)
        self.episodes.add(reward, terminated | truncated)
        self.obs = obs
        self.step += self.cfg.num_envs

        # LEARN
        if learning:
            for _ in range(self.cfg.updates_an_iteration // self.per_call):
                self._learn()

    def _log(self) -> None:
        self.env.check()
        self.logger.scalars(self.step, self.episodes.means() | {"env/bad_steps": self.bad_steps})
        super()._log()

    def _look_after_seeds(self) -> None:
        """Tell of bad steps, each time there are twice as many, and stop the seeds that have too many of them."""
        bad = self.bad_steps.tolist()
        if sum(bad) >= max(1, 2 * self.told_bad_steps):
            self.told_bad_steps = sum(bad)
            which = ", ".join(f"{n} of seed {seed}" for n, seed in zip(bad, self.agent.seeds, strict=True) if n)
            why = next(iter(self.env.problems()), "the simulation diverged")
            warn(
                f"{which} of {self.step} steps each were bad, such as this one: {why}; their episodes are cut there, "
                "their rows left out"
            )
        allowed = self.cfg.max_bad_share * max(self.step, FEWEST_STEPS)
        for i, n in enumerate(bad):
            if n > allowed and self.agent.alive[i]:
                self._stop_seed(
                    i, f"{n} of {self.step} steps were bad, more than train.max_bad_share={self.cfg.max_bad_share:g}"
                )
        super()._look_after_seeds()

    def _results(self) -> dict[str, Any]:
        return super()._results() | {"bad_steps": self.bad_steps.tolist()}

    # --------------------------------------------------------------- resume

    def _tensors(self) -> dict[str, Any]:
        return super()._tensors() | {"loop": self.episodes.state()}

    def _as_today(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if "loop/returns" in tensors:
            return tensors
        # An earlier version kept the last episode instead of a window: the window begins anew.
        window = {f"loop/{name}": value for name, value in self.episodes.state().items()}
        kept = {name: value for name, value in tensors.items() if not name.startswith("loop/rollout/")}
        return window | kept

    def _info(self) -> dict[str, Any]:
        return super()._info() | {
            "env": self.env.state_dict(),
            "bad_steps": self.bad_steps.tolist(),
            "first_update": self.first_update,
            "replay": {
                "inserted": self.replay.inserted,
                "chunks": self.replay_log.extend(self.replay),
                "checksums": self.replay_log.checksums(),
            },
        }

    def save(self) -> None:
        super().save()
        with suppress(Damaged):  # of an oldest one that cannot be read, nothing is known
            oldest_kept = self.checkpoints.info(self.checkpoints.steps()[0])
            self.replay_log.prune(oldest_kept["replay"]["inserted"] - self.replay.capacity)

    def _restore_info(self, info: dict[str, Any]) -> None:
        super()._restore_info(info)
        self.first_update = info.get("first_update", self.cfg.warmup_steps)
        self.bad_steps.copy_(torch.tensor(info.get("bad_steps", 0)))
        self.told_bad_steps = int(self.bad_steps.sum())
        self.obs = self.env.load_state_dict(info["env"])
        if problems := self.env.problems():
            warn(f"going on from step {self.step}, but not exactly as if the run had not stopped: {problems[0]}")
        if self.folder.complete and not self.folder.replay.exists():
            self.first_update = self.step + max(self.cfg.warmup_steps, self.agent.batch_size)
            print(
                f"the replay memory was not kept at the run's end (train.keep_replay=true does that): the next updates "
                f"come at step {self.first_update}, after as many steps by the policy as the run's warm-up had",
                flush=True,
            )
            return
        if self.step >= self.cfg.total_steps:
            return  # nothing is learnt any more, and the memory may be gone
        replay = info["replay"]
        self.replay_log.restore(self.replay, replay["chunks"], replay.get("checksums"))
        if self.replay.inserted != replay["inserted"]:
            raise Damaged(f"{self.folder.replay}: {self.replay.inserted} rows, not {replay['inserted']}")
