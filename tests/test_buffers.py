"""The replay ring."""

from __future__ import annotations

import torch

from rlreg.buffers import Replay

OBS, ACT, SEEDS = 3, 2, (4, 9)


def transitions(first: int, count: int) -> tuple[torch.Tensor, ...]:
    """Transitions first .. first + count - 1: every number of transition i of seed s is i + s / 10."""
    number = torch.arange(first, first + count).float() + torch.tensor(SEEDS)[:, None] / 10
    wide = number[..., None]
    return wide.expand(-1, -1, OBS), wide.expand(-1, -1, ACT), number, wide.expand(-1, -1, OBS) + 0.5, number % 2 < 1


def test_written_rows_come_back() -> None:
    replay = Replay(SEEDS, 8, OBS, ACT)
    replay.add(*transitions(0, 5))
    assert replay.inserted == 5 and replay.size == 5
    batch = replay.batch(replay.read(1, 4))
    obs, action, reward, next_obs, terminated = transitions(1, 3)
    for got, expected in zip(batch, (obs, action, reward, next_obs, terminated.float()), strict=True):
        assert torch.equal(got, expected)


def test_the_ring_wraps_around() -> None:
    replay = Replay(SEEDS, 8, OBS, ACT)
    for first in range(0, 21, 3):  # 21 rows, three at a time: writes that straddle the end too
        replay.add(*transitions(first, 3))
    assert replay.inserted == 21 and replay.size == 8
    assert torch.equal(replay.batch(replay.read(13, 21)).reward, transitions(13, 8)[2])


def test_samples_lie_in_the_ring_and_each_seed_sees_its_own() -> None:
    replay = Replay(SEEDS, 1000, OBS, ACT)
    replay.add(*transitions(0, 40))
    batch = replay.sample("replay", 1, 4000)
    own, number = transitions(0, 40)[2], batch.reward
    for s in range(len(SEEDS)):
        assert set(number[s].tolist()) == set(own[s].tolist())
        counts = torch.unique(number[s], return_counts=True)[1]
        assert (counts - 100).abs().max() < 50  # uniform: five standard deviations
    assert torch.equal(batch.next_obs[..., 0], batch.obs[..., 0] + 0.5)


def test_a_sample_is_a_function_of_seed_stream_and_step() -> None:
    together, alone = Replay(SEEDS, 50, OBS, ACT), Replay(SEEDS[1:], 50, OBS, ACT)
    together.add(*transitions(0, 50))
    alone.add(*(x[1:] for x in transitions(0, 50)))
    first = together.sample("replay", 7, 16)
    assert torch.equal(first.obs, together.sample("replay", torch.tensor(7), 16).obs)
    assert torch.equal(first.obs[1], alone.sample("replay", 7, 16).obs[0])
    assert not torch.equal(first.obs, together.sample("replay", 8, 16).obs)
    assert not torch.equal(first.obs, together.sample("other", 7, 16).obs)
