"""The online loop on a GPU is never held up by the host: no step asks for a value. Rehearsed on the CPU."""

from __future__ import annotations

import pytest
import torch
from conftest import NoLooks
from torch import Tensor

from agents.td3 import TD3, TD3Config
from envs.base import Step
from rlreg.config import EvalConfig, TrainConfig
from rlreg.regularizers import BEER
from rlreg.run_folder import RunFolder
from rlreg.training.online import OnlineTraining
from rlreg.training.speed import Speed

SEEDS, OBS, ACT = (0, 4), 3, 2


class Drift:
    """Worlds that are moved by the action, and end by a clock or where they have gone far."""

    max_episode_steps = 5
    measures = ()

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.where = torch.zeros(len(SEEDS), num_envs, OBS)
        self.clock = torch.zeros(len(SEEDS), num_envs)

    def reset(self) -> Tensor:
        return self.where.zero_().clone()

    def step(self, action: Tensor) -> Step:
        self.where[..., :ACT] += action
        self.clock += 1
        final_obs, reward = self.where.clone(), -self.where.square().sum(dim=-1)
        terminated, truncated = reward < -4, self.clock >= self.max_episode_steps
        done = terminated | truncated
        self.where.masked_fill_(done[..., None], 0.0)
        self.clock.masked_fill_(done, 0.0)
        return Step(self.where.clone(), reward, terminated, truncated & ~terminated, final_obs, torch.zeros_like(done))

    def state_dict(self) -> dict:
        return {}

    def problems(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


def test_acting_storing_sampling_and_updating_look_at_no_value(tmp_path) -> None:
    agent = TD3(TD3Config(hidden=[16, 16], batch_size=16), BEER(), OBS, ACT, SEEDS)
    train = TrainConfig(total_steps=1000, warmup_steps=12, num_envs=4, buffer_capacity=40)
    evaluation = EvalConfig(episodes=2)
    training = OnlineTraining(agent, lambda n, _: Drift(n), train, evaluation, RunFolder(tmp_path), "eager")
    training.speed = Speed(0)
    training._begin()
    with NoLooks():
        for _ in range(14):  # through warm-up, ends of episodes and the ring's wrap
            training._iterate()
    assert training.step == 56 and training.updates == 44
    figures = training.episodes.means()
    assert torch.isfinite(figures["rollout/ep_rew_mean"]).all() and (figures["rollout/ep_len_mean"] <= 5).all()
    with NoLooks(), pytest.raises(AssertionError, match="looks at a value"):
        bool(agent.alive.all())
