"""The replay ring."""

from __future__ import annotations

import pytest
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


@pytest.mark.parametrize("n_step", [1, 2, 5])
def test_n_step_returns_equal_a_naive_loop(n_step: int) -> None:
    """Over ends by the task and by the clock, rows left out, the newest rows and a ring that has gone round twice."""
    worlds, steps, capacity, discount = 3, 40, 50, 0.9
    replay = Replay(SEEDS, capacity, OBS, ACT, "cpu", n_step, discount, worlds)
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.rand(len(SEEDS), worlds, *shape, generator=generator)  # noqa: E731
    history = []  # a step of all worlds: (obs, action, reward, next_obs, terminated), truncated, left out
    for _ in range(steps):
        terminated, truncated, left_out = draw() < 0.1, draw() < 0.1, draw() < 0.1
        columns = (draw(OBS), draw(ACT), draw(), draw(OBS), terminated & ~left_out)
        history.append((columns, truncated & ~terminated | left_out, left_out))
        replay.add(*columns, left_out, history[-1][1])
    oldest = worlds * steps - capacity
    slots = torch.arange(capacity).expand(len(SEEDS), -1)
    batch = replay.returns(slots) if n_step > 1 else replay.batch(replay.rows)
    for s in range(len(SEEDS)):
        for number in range(oldest, worlds * steps):
            slot, t, n = number % capacity, number // worlds, number % worlds
            if history[t][2][s, n]:  # stands for the one before it, of one step only
                assert torch.equal(batch.reward[s, slot], replay.rows[s, slot, OBS + ACT])
                assert n_step == 1 or batch.discount[s, slot] == pytest.approx(discount)
                continue
            wanted, k = 0.0, 0
            while True:
                (_, _, reward, next_obs, terminated), ended, _ = history[t + k]
                wanted += discount**k * reward[s, n].item()
                k += 1
                over = terminated[s, n] or ended[s, n] or k == n_step or t + k == steps
                if over or history[t + k][2][s, n]:
                    break
            assert batch.reward[s, slot].item() == pytest.approx(wanted, rel=1e-6)
            assert torch.equal(batch.obs[s, slot], history[t][0][0][s, n])
            assert torch.equal(batch.action[s, slot], history[t][0][1][s, n])
            assert torch.equal(batch.next_obs[s, slot], next_obs[s, n])
            assert batch.terminated[s, slot] == terminated[s, n].float()
            if n_step > 1:
                assert batch.discount[s, slot].item() == pytest.approx(discount**k, rel=1e-6)


def test_n_step_samples_are_functions_of_the_ring_and_the_step_alone() -> None:
    """As one-step samples are; and the same rows, whatever the number of steps."""
    one, three = Replay(SEEDS, 30, OBS, ACT), Replay(SEEDS, 30, OBS, ACT, "cpu", 3, 0.9, 2)
    three.rows.fill_(torch.nan)  # as memory may be that was not written yet
    for first in range(0, 22, 2):
        columns = transitions(first, 2)
        nowhere = torch.zeros_like(columns[-1])
        one.add(*columns), three.add(*columns, nowhere, nowhere)
    ours, again, plain = three.sample("replay", 5, 16), three.sample("replay", 5, 16), one.sample("replay", 5, 16)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    assert torch.equal(ours.obs, plain.obs) and torch.equal(ours.action, plain.action)
    assert (ours.discount < 0.9).any() and all(torch.isfinite(part).all() for part in ours)
