"""The seeds axis: a seed's result does not depend on its companions."""

from __future__ import annotations

import pytest
import torch

from agents.td3 import TD3, TD3Config
from rlreg.buffers import Replay
from rlreg.regularizers import BEER, InFeR, Regularizer

OBS, ACT, ROWS = 5, 2, 200


def data(seed: int) -> torch.Tensor:
    """A seed's own transitions, (1, ROWS, width)."""
    rows = torch.randn(1, ROWS, 2 * OBS + ACT + 2, generator=torch.Generator().manual_seed(seed))
    rows[..., -2:] = (rows[..., -2:] > 1.5).float()  # terminated, truncated
    return rows


def train(seeds: list[int], config: TD3Config, regularizer: Regularizer, updates: int = 100) -> TD3:
    agent = TD3(config, regularizer, OBS, ACT, seeds)
    replay = Replay(seeds, ROWS, OBS, ACT)
    replay.write(0, torch.cat([data(seed) for seed in seeds]))
    for number in range(1, updates + 1):
        step = torch.tensor(number)
        batch = replay.sample("replay", step, config.batch_size)
        agent.update(batch, step, number % config.policy_delay == 0)
    return agent


def compare(together: TD3, index: int, alone: TD3, exact: bool) -> None:
    tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-3, "atol": 1e-5}
    for name in ("actor_params", "critic_params", "actor_target", "critic_target"):
        for key, value in getattr(alone, name).items():
            torch.testing.assert_close(getattr(together, name)[key][index], value[0], **tolerance)


@pytest.mark.parametrize(
    ("changes", "regularizer"),
    [
        ({"num_critics": 1, "policy_delay": 1, "target_noise": 0.0}, BEER()),
        ({}, BEER(next_feature="target")),
        ({}, InFeR(heads=3)),
    ],
    ids=["ddpg-beer", "td3-beer", "td3-infer"],
)
def test_a_seed_alone_equals_the_seed_among_ten(changes: dict, regularizer: Regularizer) -> None:
    config = TD3Config(hidden=[32, 32], batch_size=16, **changes)
    compare(train(list(range(10)), config, regularizer), 3, train([3], config, regularizer), exact=False)


def test_initial_parameters_do_not_depend_on_companions() -> None:
    config = TD3Config(hidden=[32, 32])
    together, alone = (TD3(config, InFeR(), OBS, ACT, seeds) for seeds in (range(10), [3]))
    compare(together, 3, alone, exact=True)


def test_two_runs_are_equal_to_the_bit() -> None:
    config = TD3Config(hidden=[32, 32], batch_size=16)
    first, second = (train([3], config, BEER(), updates=30) for _ in range(2))
    compare(first, 0, second, exact=True)


def test_a_seed_whose_loss_turns_nan_stops_and_the_others_go_on() -> None:
    config = TD3Config(hidden=[32, 32], batch_size=16)
    healthy = train([3, 4], config, BEER(), updates=20)
    agent = TD3(config, BEER(), OBS, ACT, [3, 4])
    replay = Replay([3, 4], ROWS, OBS, ACT)
    replay.write(0, torch.cat([data(3), torch.full_like(data(4), torch.nan)]))
    before = {name: value[1].clone() for name, value in agent.critic_params.items()}
    for number in range(1, 21):
        step = torch.tensor(number)
        agent.update(replay.sample("replay", step, config.batch_size), step, number % config.policy_delay == 0)
    assert agent.alive.tolist() == [True, False]
    for name, value in agent.critic_params.items():
        assert torch.equal(value[1], before[name])
        assert torch.equal(value[0], healthy.critic_params[name][0])
