"""The returns and lengths of a run's own episodes, as Stable-Baselines3 reports them: means over the last hundred."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 100
"""SB3's `stats_window_size`."""


class EpisodeWindow:
    """The last `WINDOW` episodes of each seed, over all of its N worlds; tensors only, nothing waits for a GPU."""

    def __init__(self, num_seeds: int, num_envs: int, device: torch.device | str = "cpu") -> None:
        zeros = torch.zeros(num_seeds, num_envs, device=device)
        self.episode_return, self.episode_length = zeros.clone(), zeros.clone()
        """(S, N): of the episodes that run."""
        # One slot more than the window: where what is not to be kept is written.
        self.returns = torch.full((num_seeds, WINDOW + 1), torch.nan, device=device)
        self.lengths = self.returns.clone()
        self.count = torch.zeros(num_seeds, 1, dtype=torch.int64, device=device)
        """(S, 1): episodes that have ended so far."""

    def add(self, reward: Tensor, done: Tensor) -> None:
        """One step: rewards and ends of episodes (S, N)."""
        self.episode_return += reward
        self.episode_length += 1
        self._record(self.episode_return, self.episode_length, done)
        self.episode_return.masked_fill_(done, 0.0)
        self.episode_length.masked_fill_(done, 0.0)

    def add_rollout(self, reward: Tensor, done: Tensor) -> None:
        """T steps (S, T, N) of worlds that all begin an episode with the first: what no end came to is left out."""
        total, steps = reward.cumsum(dim=1), torch.arange(1.0, reward.shape[1] + 1, device=reward.device)
        length = steps[:, None].expand_as(total)
        step = torch.where(done, torch.arange(reward.shape[1], device=done.device)[:, None], -1)
        before = F.pad(step.cummax(dim=1).values[:, :-1], (0, 0, 1, 0), value=-1)  # where the episode before ended
        begun = before.clamp_min(0)
        episode_return, episode_length = (
            x - torch.where(before >= 0, x.gather(1, begun), 0.0) for x in (total, length)
        )
        self._record(*(x.flatten(1) for x in (episode_return, episode_length, done)))

    def _record(self, episode_return: Tensor, episode_length: Tensor, done: Tensor) -> None:
        """Take up those episodes (S, K) that are `done`, in their order."""
        rank = done.cumsum(dim=1)  # 1, 2, ... for those that ended now
        ended = rank[:, -1:]
        kept = done & (rank > ended - WINDOW)
        slot = torch.where(kept, (self.count + rank - 1) % WINDOW, WINDOW)
        self.returns.scatter_(1, slot, episode_return)
        self.lengths.scatter_(1, slot, episode_length)
        self.count += ended

    def means(self) -> dict[str, Tensor]:
        """`rollout/ep_rew_mean` and `rollout/ep_len_mean`, (S,); NaN before a seed's first episode has ended."""
        return {
            "rollout/ep_rew_mean": self.returns[:, :WINDOW].nanmean(dim=1),
            "rollout/ep_len_mean": self.lengths[:, :WINDOW].nanmean(dim=1),
        }

    def state(self) -> dict[str, Tensor]:
        """Every tensor, live."""
        names = ("episode_return", "episode_length", "returns", "lengths", "count")
        return {name: getattr(self, name) for name in names}
