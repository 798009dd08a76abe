"""`BatchedEnv` on a device that is never waited for within an episode: its steps are launched, not looked at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.base import Step
from envs.batched import BatchedEnv

GROUPS = 5
"""What `spread` makes of a seed's worlds at most, each of which begins its episodes together. A beginning takes all
worlds' time, however few begin: up to that of hundreds of steps, where bodies have to settle."""


class GPUBatchedEnv(BatchedEnv):
    """The same worlds, cut and begun anew alike, with a step that is one captured program (`Physics.prepare`).

    New episodes are begun outside of it, since they settle bodies and try poses until one fits: the host knows by the
    clock when they are due, and looks at the device then only. Two exceptions. Where a task can end by itself, every
    step is looked at. A world that has diverged is told to the host without a wait, a step or a few later; until then
    it stands still: bad and truncated at every step, with its last good observation and no reward.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        block = -(-self.task.max_episode_steps // GROUPS)
        self._head_start = self._head_start // block * block
        self._terminates = self.task.get_termination() is not None
        self._ended = torch.zeros_like(self._all)  # (W,) worlds to begin anew
        self._diverged_worlds = torch.zeros((), dtype=torch.int64, device=self._all.device)
        pinned = self._all.device.type == "cuda"
        self._told = torch.zeros((), dtype=torch.int64, pin_memory=pinned)  # their number, as far as the host knows
        self._dealt_with = 0
        self._program = self.physics.prepare(self._act_and_cut)
        self._look_at_clocks()

    def reset(self) -> Tensor:
        self._ended.zero_()
        return super().reset()

    def step(self, action: Tensor) -> Step:
        action = action.reshape(-1, self.action_dim)
        obs, reward, terminated, truncated, bad = self._program(action)
        final_obs = obs
        self._told.copy_(self._diverged_worlds, non_blocking=True)
        self._steps_left -= self.action_repeat
        told = int(self._told)
        if self._steps_left <= 0 or told != self._dealt_with or (self._terminates and bool(self._ended.any())):
            self._dealt_with = told
            obs = self._begin_ended()
        return Step(*map(self._shaped, (obs, reward, terminated, truncated, final_obs, bad)))

    def _act_and_cut(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """obs (W, O), reward, terminated, truncated, bad (W,) before any new episode. Static; nothing is waited for."""
        obs, reward, terminated, truncated = self._advance(action)
        bad = self.physics.bad() | ~torch.isfinite(obs.sum(dim=1) + reward)
        new = bad & ~self._ended
        self._bad.add_(new)
        self._diverged_worlds.add_(new.sum())
        still = bad | self._ended
        obs = torch.where(still[:, None], self._obs, obs)
        reward = reward.masked_fill(still, 0.0)
        terminated = terminated & ~still
        truncated = (truncated | still) & ~terminated
        self._ended.copy_(terminated | truncated)
        self._obs.copy_(obs)
        return obs, reward, terminated, truncated, still

    def _truncated(self) -> Tensor:
        return self._clock >= self.task.max_episode_steps

    def _begin_ended(self) -> Tensor:
        """New episodes in the worlds whose last has ended; obs (W, O), fresh."""
        ended = self._ended.clone()
        self._begin(ended)
        obs = torch.where(ended[:, None], self._observe(), self._obs)
        self._obs.copy_(obs)
        self._ended.zero_()
        self._look_at_clocks()
        return obs

    def check(self) -> None:
        self.physics.check()

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        self._ended.zero_()
        return super().load_state_dict(state)
