"""The regularisers against values worked by hand, and against the paper's identity."""

import numpy as np
import pytest
import torch

from agents.td3 import TD3, TD3Config
from rlreg.buffers import Batch
from rlreg.errors import UserError
from rlreg.regularizers import BEER, DR3, BEERInner, CriticFeatures, InFeR
from rlreg.rng import Rng

GAMMA = 0.9


def features(f, target, online=None, reward=4.0, terminated=0.0, weight=(1.0, 1.0)):
    """One seed, one critic, one transition, all leaves of a graph."""

    def leaf(values, *shape):
        return torch.tensor(values, dtype=torch.float64).view(*shape).requires_grad_()

    online = leaf(target if online is None else online, 1, 1, 1, 2)
    f, target = leaf(f, 1, 1, 1, 2), leaf(target, 1, 1, 1, 2)
    return CriticFeatures(
        params={},
        feature=f,
        next_feature_target=lambda: target,
        next_feature_online=lambda: online,
        features_by=lambda other: other["phi0"],
        head_weight=leaf(weight, 1, 1, 2),
        reward=leaf([reward], 1, 1),
        terminated=torch.tensor([[terminated]], dtype=torch.float64),
        discount=GAMMA,
    )


# phi = (3, 4) and phi' = (4, 3): norms 5 and 5, cosine 24/25; |w|^2 = 2; r = 4, so r^2 / |w|^2 = 8.
def test_beer_target_reading_by_hand():
    f = features((3, 4), (4, 3), online=(0, 4))
    loss, _ = BEER(beta=0.5, next_feature="target").loss(f, {})
    bound = (25 + 0.81 * 25 - 8) / (2 * 0.9 * 25)  # 0.82777...
    assert loss.item() == pytest.approx(0.5 * (0.96 - bound), abs=1e-12)


def test_beer_released_reading_by_hand():
    f = features((3, 4), (4, 3), online=(0, 4))
    loss, metrics = BEER(beta=0.5).loss(f, {})
    bound = (25 + 0.81 * 16 - 8) / (2 * 0.9 * 25)  # 0.66577...: |phi'|^2 is the online network's, 16
    assert loss.item() == pytest.approx(0.5 * (0.96 - bound), abs=1e-12)
    assert metrics["regularizer/bound"].item() == pytest.approx(bound)
    assert metrics["regularizer/cosine"].item() == pytest.approx(0.96)
    assert metrics["regularizer/active"].item() == 1.0


def test_beer_gradient_reaches_the_online_feature_only():
    f = features((3, 4), (4, 3), online=(0, 4))
    loss, _ = BEER(beta=0.5).loss(f, {})
    loss.sum().backward()
    # d cos / d phi = phi' / (|phi| |phi'|) - cos phi / |phi|^2
    expected = 0.5 * (torch.tensor([4.0, 3.0]) / 25 - 0.96 * torch.tensor([3.0, 4.0]) / 25)
    assert torch.allclose(f.feature.grad.flatten(), expected.double(), atol=1e-12)
    assert f.head_weight.grad is None and f.reward.grad is None
    assert f.next_feature_online().grad is None


def test_beer_is_zero_wherever_the_cosine_is_within_the_bound():
    f = features((3, 4), (4, 3), reward=2.0)  # bound (25 + 20.25 - 2) / 45 = 0.961 > 0.96
    loss, metrics = BEER(beta=1.0, next_feature="target").loss(f, {})
    loss.sum().backward()
    assert loss.item() == 0.0 and metrics["regularizer/active"].item() == 0.0
    assert f.feature.grad.abs().max() == 0.0


def random_features(generator, count=4096, reward=None):
    phi, target = (torch.relu(torch.randn(2, 3, count, 8, generator=generator)).double() for _ in range(2))
    weight = torch.randn(2, 3, 8, generator=generator).double()
    reward = torch.randn(2, count, generator=generator).double() if reward is None else reward
    zeros = torch.zeros_like(reward)
    return CriticFeatures(
        {}, phi, lambda: target, lambda: target, lambda other: other["phi0"], weight, reward, zeros, GAMMA
    )


def test_the_papers_identity_and_r_zero():
    """cos - bound = (r^2/|w|^2 - |phi - gamma phi'|^2) / (2 gamma |phi| |phi'|); bound >= 1 at r = 0."""
    f = random_features(torch.Generator().manual_seed(0))
    loss, _ = BEER(beta=1.0, next_feature="target").loss(f, {})
    phi, nxt = f.feature, f.next_feature_target()
    gap = f.reward[:, None] ** 2 / (f.head_weight**2).sum(-1)[..., None] - ((phi - GAMMA * nxt) ** 2).sum(-1)
    alive = (phi.norm(dim=-1) > 0) & (nxt.norm(dim=-1) > 0)
    right = torch.where(alive, gap / (2 * GAMMA * phi.norm(dim=-1) * nxt.norm(dim=-1)), 0.0).relu()
    assert (right > 0).any()
    assert torch.allclose(loss, right.mean(-1).sum(-1), rtol=1e-9)

    still = random_features(torch.Generator().manual_seed(1), reward=torch.zeros(2, 4096).double())
    loss, metrics = BEER(beta=1.0, next_feature="target").loss(still, {})
    assert loss.abs().max() == 0.0 and metrics["regularizer/active"].max() == 0.0


def test_the_released_reading_can_fire_at_r_zero():
    f = random_features(torch.Generator().manual_seed(2), reward=torch.zeros(2, 4096).double())
    f.next_feature_online = lambda: 0.5 * f.next_feature_target()
    loss, _ = BEER(beta=1.0).loss(f, {})
    assert (loss > 0).all()


@pytest.mark.parametrize(("f", "target"), [((0, 0), (4, 3)), ((3, 4), (0, 0)), ((0, 0), (0, 0))])
def test_beer_survives_dead_features(f, target):
    f = features(f, target, online=(1, 1))
    loss, metrics = BEER(beta=1.0).loss(f, {})
    loss.sum().backward()
    assert loss.item() == 0.0
    assert torch.isfinite(f.feature.grad).all()
    assert metrics["regularizer/active"].item() == 0.0
    assert metrics["regularizer/bound"].isnan().all()  # nothing to report: no transition is constrained


def test_beer_has_no_successor_at_a_terminal():
    loss, _ = BEER(beta=1.0).loss(features((3, 4), (4, 3), terminated=1.0), {})
    assert loss.item() == 0.0


def test_beer_sums_over_critics_and_averages_over_the_batch():
    f = random_features(torch.Generator().manual_seed(3), count=64)
    whole, _ = BEER(beta=1.0).loss(f, {})
    parts = torch.zeros(2).double()
    for e in range(3):
        following = f.next_feature_target()[:, e : e + 1]
        one = CriticFeatures(
            {}, f.feature[:, e : e + 1], lambda x=following: x, lambda x=following: x, f.features_by,
            f.head_weight[:, e : e + 1], f.reward, f.terminated, GAMMA,
        )  # fmt: skip
        parts += BEER(beta=1.0).loss(one, {})[0]
    assert torch.allclose(whole, parts)


# As above, and <phi, phi'> = 24.
@pytest.mark.parametrize(("reading", "following"), [("target", 25), ("released", 16)])
def test_the_inner_product_by_hand(reading, following):
    f = features((3, 4), (4, 3), online=(0, 4))
    loss, metrics = BEERInner(beta=0.5, next_feature=reading).loss(f, {})
    bound = (25 + 0.81 * following - 8) / (2 * 0.9)
    assert loss.item() == pytest.approx(0.5 * (24 - bound), abs=1e-12)
    assert metrics["regularizer/bound"].item() == pytest.approx(bound)
    assert metrics["regularizer/inner_product"].item() == pytest.approx(24)
    loss.sum().backward()
    assert torch.allclose(f.feature.grad.flatten(), 0.5 * torch.tensor([4.0, 3.0]).double())  # beta phi'
    assert f.head_weight.grad is None and f.reward.grad is None and f.next_feature_online().grad is None
    assert BEERInner(beta=0.5, next_feature=reading).loss(features((3, 4), (4, 3), terminated=1.0), {})[0].item() == 0.0


@pytest.mark.parametrize("kind", [BEER, BEERInner])
def test_a_penalty_s_gradient_equals_finite_differences(kind):
    """Of the equation written out in NumPy, phi' and the bound held where they are."""
    f = random_features(torch.Generator().manual_seed(4), count=40)
    for feature in (f.feature, f.next_feature_target()):
        feature += 0.01  # none is dead
    phi, following = f.feature.numpy().copy(), f.next_feature_target().numpy()
    w, reward = f.head_weight.numpy(), f.reward.numpy()

    def both_norms(x):
        return np.linalg.norm(x, axis=-1) * np.linalg.norm(following, axis=-1) if kind is BEER else 1.0

    squares = (phi**2).sum(-1) + GAMMA**2 * (following**2).sum(-1) - reward[:, None] ** 2 / (w**2).sum(-1)[..., None]
    bound = squares / (2 * GAMMA * both_norms(phi))

    def penalty(x):
        excess = (x * following).sum(-1) / both_norms(x) - bound
        return 0.3 * np.maximum(excess, 0).mean(-1).sum()

    f.feature.requires_grad_()
    loss, _ = kind(beta=0.3, next_feature="target").loss(f, {})
    loss.sum().backward()
    assert loss.sum().item() == pytest.approx(penalty(phi), rel=1e-9) and loss.min() > 0
    for index in np.ndindex(2, 3, 5, 8):
        step = np.zeros_like(phi)
        step[index] = 1e-6
        slope = (penalty(phi + step) - penalty(phi - step)) / 2e-6
        assert f.feature.grad[index].item() == pytest.approx(slope, abs=1e-8)


def test_both_bounds_are_exceeded_on_the_same_transitions():
    f = random_features(torch.Generator().manual_seed(5))
    (_, cosine), (_, inner) = (kind(next_feature="target").loss(f, {}) for kind in (BEER, BEERInner))
    dead = (f.feature.norm(dim=-1) * f.next_feature_target().norm(dim=-1) == 0).double().mean(dim=(1, 2))
    assert (cosine["regularizer/active"] > 0).all()
    assert ((inner["regularizer/active"] - cosine["regularizer/active"]).abs() <= dead + 1e-6).all()


def test_dr3_by_hand():
    f = features((3, 4), (4, 3), online=(2, 5))
    loss, _ = DR3(coefficient=0.1).loss(f, {})
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.1 * (3 * 2 + 4 * 5))
    assert torch.allclose(f.feature.grad.flatten(), torch.tensor([0.2, 0.5]).double())  # c phi'
    assert torch.allclose(f.next_feature_online().grad.flatten(), torch.tensor([0.3, 0.4]).double())  # c phi
    assert DR3(coefficient=0.1).loss(features((3, 4), (4, 3), terminated=1.0), {})[0].item() == 0.0


def test_infer_by_hand():
    f = features((3, 4), (4, 3))
    # Two heads, the columns. Now: (3, 4) @ W = (11, 7). At initialisation: (1, 2) @ W0 = (1, 4), times 2.
    f.params = {"infer.weight": torch.tensor([[[[1.0, 1.0], [2.0, 1.0]]]]).double().requires_grad_()}
    constants = {
        "phi0": torch.tensor([[[[1.0, 2.0]]]]).double(),
        "infer.weight": torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]]).double(),
    }
    loss, _ = InFeR(heads=2, alpha=0.1, scale=2.0).loss(f, constants)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.1 * ((11 - 2) ** 2 + (7 - 8) ** 2))
    # d/dW = 2 alpha phi^T error
    expected = 0.2 * torch.tensor([[3.0 * 9, 3.0 * -1], [4.0 * 9, 4.0 * -1]]).double()
    assert torch.allclose(f.params["infer.weight"].grad[0, 0], expected)


def test_infer_heads_and_constants_follow_the_critic():
    agent = TD3(TD3Config(hidden=[8, 6]), InFeR(heads=4, scale=1.0), 5, 2, seeds=[0, 1])
    assert agent.critic_params["infer.weight"].shape == (2, 2, 6, 4)
    assert "2.weight" not in agent.constants and "infer.weight" not in agent.critic_target
    shapes = [(9, 5), (9, 2), (9,), (9, 5), (9,)]
    batch = Batch(*(Rng([0, 1]).normal(name, 0, shape) for name, shape in zip("oarnd", shapes, strict=True)))
    f = agent.critic_features(agent.critic_params, batch)
    # At initialisation, with scale 1, the features and heads are still their own targets.
    assert agent.regularizer.loss(f, agent.constants)[0].abs().max() < 1e-10
    for number in range(1, 4):
        agent.update(batch, torch.tensor(number), True)
    f = agent.critic_features(agent.critic_params, batch)
    assert (agent.regularizer.loss(f, agent.constants)[0] > 0).all()


def test_no_gradient_reaches_targets_or_bound_through_the_agent():
    """The regulariser's gradient by the agent equals the gradient through phi(s, a) alone."""
    agent = TD3(TD3Config(hidden=[8, 6], num_critics=1, target_noise=0.0), BEER(beta=1.0), 5, 2, seeds=[0])
    batch = Batch(*(Rng([0]).normal(n, 0, s) for n, s in zip("oarn", [(64, 5), (64, 2), (64,), (64, 5)], strict=True)),
                  torch.zeros(1, 64))  # fmt: skip
    batch = batch._replace(reward=3 * batch.reward)
    params = {k: v.clone().requires_grad_() for k, v in agent.critic_params.items()}
    f = agent.critic_features(params, batch)
    loss, _ = agent.regularizer.loss(f, {})
    grads = torch.autograd.grad(loss.sum(), list(params.values()), allow_unused=True, retain_graph=True)
    online, weight = f.next_feature_online().detach(), f.head_weight.detach()
    frozen = CriticFeatures(**vars(f) | {"next_feature_online": lambda: online, "head_weight": weight})
    alone = torch.autograd.grad(agent.regularizer.loss(frozen, {})[0].sum(), list(params.values()), allow_unused=True)
    for name, a, b in zip(params, grads, alone, strict=True):
        if name.startswith("2."):
            assert a is None  # nothing to w, which stands only in the bound
        else:
            assert torch.equal(a, b)
    assert loss.item() > 0
    assert all(not v.requires_grad for v in agent.critic_target.values())


@pytest.mark.parametrize(
    "make",
    [
        lambda: BEER(beta=-1),
        lambda: BEER(next_feature="both"),
        lambda: DR3(coefficient=-1),
        lambda: InFeR(heads=0),
        lambda: InFeR(heads=1.5),
    ],
)
def test_impossible_settings_are_one_line(make):
    with pytest.raises(UserError, match="regularizer"):
        make()
