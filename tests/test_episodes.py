"""Means over the last hundred episodes, against Stable-Baselines3's own way of counting them: a deque a seed."""

from collections import deque

import pytest
import torch

from rlreg.training.episodes import WINDOW, EpisodeWindow
from rlreg.training.speed import SECONDS, Speed


@pytest.mark.parametrize("num_envs", [1, 3, 130])
def test_the_means_are_those_of_a_deque(num_envs):
    generator = torch.Generator().manual_seed(0)
    window = EpisodeWindow(2, num_envs)
    deques = [deque(maxlen=WINDOW) for _ in range(2)]
    running = [[[0.0, 0] for _ in range(num_envs)] for _ in range(2)]
    assert all(mean.isnan().all() for mean in window.means().values())
    for _ in range(400 if num_envs < 100 else 20):
        reward = torch.rand(2, num_envs, generator=generator)
        done = torch.rand(2, num_envs, generator=generator) < 0.5
        window.add(reward, done)
        for s in range(2):
            for n in range(num_envs):
                running[s][n][0] += reward[s, n].item()
                running[s][n][1] += 1
                if done[s, n]:
                    deques[s].append(tuple(running[s][n]))
                    running[s][n] = [0.0, 0]
    for k, tag in enumerate(("rollout/ep_rew_mean", "rollout/ep_len_mean")):
        wanted = [sum(episode[k] for episode in one) / len(one) for one in deques]
        torch.testing.assert_close(window.means()[tag], torch.tensor(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("done_share", [0.02, 0.3])
def test_rollouts_count_as_steps_do(done_share):
    """Whole rollouts at once, against the same steps one by one; what no end came to is begun anew."""
    generator = torch.Generator().manual_seed(1)
    window = EpisodeWindow(2, 5)
    deques = [deque(maxlen=WINDOW) for _ in range(2)]
    for _ in range(4):
        reward = torch.rand(2, 40, 5, generator=generator)
        done = torch.rand(2, 40, 5, generator=generator) < done_share
        window.add_rollout(reward, done)
        running = torch.zeros(2, 2, 5)
        for t in range(40):
            running[0] += reward[:, t]
            running[1] += 1
            for s, n in done[:, t].nonzero().tolist():
                deques[s].append(running[:, s, n].tolist())
                running[:, s, n] = 0
    for k, tag in enumerate(("rollout/ep_rew_mean", "rollout/ep_len_mean")):
        wanted = torch.tensor([sum(episode[k] for episode in one) / len(one) for one in deques])
        torch.testing.assert_close(window.means()[tag], wanted, rtol=1e-5, atol=1e-5)


def test_the_speed_is_of_the_last_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    speed = Speed(0)
    for _ in range(200):  # 100 steps a second, then 10
        now[0] += 1
        assert speed.at(int(now[0]) * 100) == pytest.approx(100)
    for second in range(1, 2 * int(SECONDS) + 1):
        now[0] += 1
        rate = speed.at(20_000 + 10 * second)
    assert rate == pytest.approx(10)
    speed.restart(0)
    now[0] += 2
    assert speed.at(6) == pytest.approx(3)
