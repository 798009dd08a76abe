"""`BatchedEnv`: a task and a physics engine as S x N worlds that are stepped together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.base import Step, VectorEnv
from envs.physics.base import Physics
from envs.physics.batched_task import BatchedTask
from envs.streams import EpisodeStreams
from rlreg.errors import UserError
from rlreg.purpose import Purpose


class BatchedEnv(VectorEnv):
    """S seeds times N worlds of `task`, bound to `physics`, whose W = S * N worlds are in that order, seed by seed.

    World n of seed k begins its i-th episode by draws keyed by (k, n, i): it does not depend on the other worlds.
    A world whose simulation diverged is cut: truncated, its reward zero, its final observation the last good one;
    `bad_states` counts them.

    It looks at values as it goes, which costs nothing on a CPU; for a GPU there is `envs.batched_gpu.GPUBatchedEnv`.
    """

    def __init__(
        self,
        task: BatchedTask,
        physics: Physics,
        seeds: Sequence[int],
        num_envs: int,
        purpose: Purpose = Purpose.TRAIN,
        action_repeat: int = 1,
        spread: bool = False,
        device: str | torch.device | None = None,
    ) -> None:
        """`purpose`: training and evaluation worlds of a seed draw from different streams.

        `spread` cuts the first episodes of a seed's training worlds at equally spaced times, so that later ones do not
        all end at the same step. `device` is where actions come from and results go, by default the physics' own.
        Raises `UserError` for no seeds, no worlds or an impossible repeat.
        """
        if not seeds or num_envs < 1:
            raise UserError(f"at least one seed and one world, not {len(seeds)} seeds of {num_envs} worlds")
        if not 1 <= action_repeat <= task.max_episode_steps:
            raise UserError(f"action_repeat={action_repeat}: give 1 (none) to {task.max_episode_steps}")
        self.seeds, self.num_envs = tuple(seeds), num_envs
        self.device = torch.device(physics.device if device is None else device)
        home = physics.device
        self._moves = home.type != self.device.type
        self.task, self.physics, self.action_repeat = task, physics, action_repeat
        self.max_episode_steps = -(-task.max_episode_steps // action_repeat)
        task.bind(physics)
        task.draw_models([seed for seed in self.seeds for _ in range(num_envs)])
        low, high = task.action_bounds
        self.action_dim = len(low)
        # Not low and range: so the mapping is the identity, to the bit, where the bounds are -1 and 1.
        self._centre, self._half_range = task.tensor((high + low) / 2), task.tensor((high - low) / 2)
        self._identity = bool((low == -1).all() and (high == 1).all())

        worlds = len(self.seeds) * num_envs
        self.random = EpisodeStreams(self.seeds, num_envs, purpose, home, physics.dtype)
        self._all = torch.ones(worlds, dtype=torch.bool, device=home)
        self._clock = torch.zeros(worlds, dtype=torch.int64, device=home)
        first = torch.arange(num_envs, device=home) * task.max_episode_steps // num_envs
        spreads = spread and purpose == Purpose.TRAIN
        self._head_start = first.repeat(len(self.seeds)) if spreads else torch.zeros_like(self._clock)
        self._bad = torch.zeros(worlds, dtype=torch.int64, device=home)
        self._nowhere = torch.zeros_like(self._all)
        self._steps_left = 0  # control steps until the next world's time is up
        self._begin(self._all)
        self._obs = self._observe()  # (W, O): what the worlds are acted on next
        self.obs_dim = self._obs.shape[1]
        self.random.episode.fill_(-1)

    @property
    def bad_states(self) -> Tensor:
        """(S,) int64: episodes cut so far because their simulation diverged."""
        return self._bad.view(len(self.seeds), -1).sum(dim=1).to(self.device)

    # ------------------------------------------------------------- episodes

    reseedable = True

    def reseed(self, seeds: Sequence[int]) -> None:
        """Give every world a seed of its own, (W,): the next `reset` begins with its first episode, as of its world 0.

        What else belongs to a seed, such as `lqr`'s model, is drawn anew.
        """
        self.random.reseed(seeds)
        self.task.draw_models(seeds)

    def reset(self) -> Tensor:
        first = self.random.episode == -1
        self._begin(self._all)
        self._clock.copy_(torch.where(first, self._head_start, self._clock))
        self._obs.copy_(self._observe())
        self._look_at_clocks()
        return self._shaped(self._obs.clone())

    def _begin(self, mask: Tensor) -> None:
        self.random.episode.add_(mask)
        self._clock.mul_(~mask)
        self.task.begin_episode(mask, self.random.of(mask))

    def _look_at_clocks(self) -> None:
        self._steps_left = self.task.max_episode_steps - int(self._clock.max())

    # ------------------------------------------------------------- stepping

    def step(self, action: Tensor) -> Step:
        action = action.reshape(-1, self.action_dim)
        return Step(*map(self._shaped, self._step(action.cpu() if self._moves else action)))

    def _step(self, action: Tensor) -> tuple[Tensor, ...]:
        """`step` without the axis of seeds: actions (W, A) to the six tensors of a `Step`, all fresh."""
        obs, reward, terminated, truncated = self._advance(action)
        bad = self._nowhere
        if self._diverged(obs, reward):
            bad = self.physics.bad() | ~torch.isfinite(obs.sum(dim=1) + reward)
            self._bad += bad
            obs = torch.where(bad[:, None], self._obs, obs)
            reward = reward.masked_fill(bad, 0.0)
            truncated, terminated = truncated | bad, terminated & ~bad
        final_obs, done = obs, terminated | truncated
        if done.any():
            truncated = truncated & ~terminated
            self._begin(done)
            obs = torch.where(done[:, None], self._observe(), obs)
            self._look_at_clocks()
        self._obs.copy_(obs)
        return obs, reward, terminated, truncated, final_obs, bad

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One agent step: obs (W, O), reward, terminated and truncated (W,), before any new episode."""
        task, physics = self.task, self.physics
        if not self._identity:
            action = self._centre + self._half_range * action
        reward, truncated = None, self._nowhere
        for _ in range(self.action_repeat):
            task.before_step(action)
            physics.control_step()
            if reward is None:
                self._clock += 1
                obs, reward, terminated = self._observe(), task.get_reward(), self._terminated()
            else:  # worlds whose episode has ended step on, unseen, until they begin anew
                running = ~(truncated | terminated)
                self._clock += running
                obs = torch.where(running[:, None], self._observe(), obs)
                reward = reward + task.get_reward() * running
                terminated = terminated | (running & self._terminated())
            truncated = self._truncated()
        return obs, reward.float(), terminated, truncated

    def _terminated(self) -> Tensor:
        terminated = self.task.get_termination()
        return self._nowhere if terminated is None else terminated

    def _truncated(self) -> Tensor:
        self._steps_left -= 1
        if self._steps_left > 0:
            return self._nowhere
        return self._clock >= self.task.max_episode_steps

    def _diverged(self, obs: Tensor, reward: Tensor) -> bool:
        """Whether there may be a diverged world: a sum that is not finite, for one look at all values."""
        return self.physics.any_bad() or not math.isfinite(obs.sum() + reward.sum())

    def _observe(self) -> Tensor:
        """(W, O) float32, fresh: computed in the physics' precision and rounded once."""
        parts = [part if part.dim() == 2 else part[:, None] for part in self.task.get_observation().values()]
        return torch.cat(parts, dim=1).float()

    def _shaped(self, rows: Tensor) -> Tensor:
        if self._moves:
            rows = rows.to(self.device)
        return rows.view(len(self.seeds), self.num_envs, *rows.shape[1:])

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Arrays, (W, ...) each: nothing is replayed, so that continuing takes no longer the later it is."""
        return {
            "seeds": list(self.seeds),
            "num_envs": self.num_envs,
            "worlds": {name: values.numpy(force=True).copy() for name, values in self._own().items()},
            "task": {name: values.numpy(force=True).copy() for name, values in self.task.state().items()},
            "physics": self.physics.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        if tuple(state["seeds"]) != self.seeds or state.get("num_envs") != self.num_envs:
            raise UserError(
                f"environment state of seeds {list(state['seeds'])} with {state.get('num_envs')} worlds each does not "
                f"fit seeds {list(self.seeds)} with {self.num_envs} worlds each"
            )
        self.physics.load_state_dict(state["physics"])
        for live, saved in ((self._own(), state["worlds"]), (self.task.state(), state["task"])):
            for name, values in live.items():
                values.copy_(torch.from_numpy(np.asarray(saved[name])))
        self._look_at_clocks()
        return self._shaped(self._obs.clone())

    def _own(self) -> dict[str, Tensor]:
        return {"clock": self._clock, "obs": self._obs, "bad": self._bad} | self.random.state()

    def close(self) -> None:
        self.physics.close()
