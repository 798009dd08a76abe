"""The recurrent student: GAE and PPO's losses by hand, sequences against steps, regularisers, seeds, and learning."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from agents.ppo import PPO, PPOConfig
from envs.cave.edits import empty_rooms
from envs.cave.space import CaveEscape
from envs.cave.worlds import CaveWorlds
from rlreg.objectives import clipped_policy_loss, clipped_value_loss, gae, sampled_category, standardized
from rlreg.optim import clip_by_norm
from rlreg.regularizers import BEER, DR3, InFeR, Regularizer
from rlreg.rng import Rng
from rlreg.rollouts import play

SMALL = {"hidden_dim": 16, "filters": 4, "head_dim": 8, "num_envs": 6, "rollout_length": 40, "epochs": 2}


def student(seeds=(0,), regularizer=None, **settings):
    return PPO(PPOConfig(**(SMALL | settings)), regularizer or Regularizer(), CaveEscape.observation, 7, seeds)


def rolled_out(agent, number=1, size=6, max_episode_steps=15):
    """A rollout in rooms of `size`, a new one for each episode."""
    c, seeds = agent.config, len(agent.seeds)
    rooms = empty_rooms(Rng(agent.seeds), "rooms", 0, 20, size)
    schedule = Rng(agent.seeds).integers("schedule", number, (c.rollout_length, c.num_envs), 20)
    worlds = CaveWorlds(range(seeds), c.num_envs, size, max_episode_steps)
    return play(agent, worlds, rooms, schedule, Rng(agent.seeds), "test", number)


def test_gae_is_the_double_sum():
    generator = torch.Generator().manual_seed(0)
    reward, value, next_value = torch.randn(3, 2, 12, 5, generator=generator)
    done = torch.rand(2, 12, 5, generator=generator) < 0.2
    discount, trace = 0.9, 0.8
    got = gae(reward, value, next_value, done, discount, trace)
    delta = reward + discount * next_value - value
    for t in range(12):
        expected = torch.zeros(2, 5)
        for k in range(t, 12):
            uninterrupted = ~done[:, t:k].any(dim=1)
            expected += (discount * trace) ** (k - t) * delta[:, k] * uninterrupted
        torch.testing.assert_close(got[:, t], expected)


@pytest.mark.parametrize("bootstrap", ["none", "value"])
def test_what_an_end_is_worth(bootstrap):
    """Goal and lava are worth nothing; time-outs and the rollout's end nothing or V, as the setting has it."""
    agent = student(bootstrap=bootstrap)
    rollout = rolled_out(agent)
    assert rollout.truncated.any() and not (rollout.final_value[rollout.terminated] != 0).any()
    ends = rollout.truncated.clone()
    ends[:, -1] |= ~rollout.terminated[:, -1]
    assert (rollout.final_value != 0).logical_and(~ends).any().item() is False
    assert bool((rollout.final_value[ends] != 0).all()) == (bootstrap == "value")
    t, n = 39, 0  # the last step: its advantage is one TD error
    expected = rollout.reward[0, t, n] + 0.995 * rollout.final_value[0, t, n] - rollout.value[0, t, n]
    torch.testing.assert_close(agent.advantage(rollout)[0, t, n], expected)


def test_a_cut_is_worth_what_the_student_thinks_of_the_step_after():
    """V of a time-out and of the rollout's end: what the student says where the same episode goes on."""
    agent = student(bootstrap="value")
    rooms = empty_rooms(Rng([0]), "rooms", 0, 20, 6)

    def played(length, max_episode_steps):
        schedule = Rng([0]).integers("schedule", 0, (length, 6), 20)
        return play(agent, CaveWorlds([0], 6, 6, max_episode_steps), rooms, schedule, Rng([0]), "test", 0)

    short, longer = played(40, 100), played(41, 100)  # random numbers are counted: the first 40 steps are the same
    goes_on = ~short.done[:, -1]
    assert goes_on.any() and torch.equal(short.action, longer.action[:, :40])
    torch.testing.assert_close(short.final_value[:, -1][goes_on], longer.value[:, -1][goes_on])

    limited, unlimited = played(40, 15), played(40, 16)
    at_limit = limited.truncated[:, 14]
    assert at_limit.any() and not unlimited.done[:, 14][at_limit].any()
    torch.testing.assert_close(limited.final_value[:, 14][at_limit], unlimited.value[:, 15][at_limit])


def test_worlds_that_repeat_a_level_keep_the_direction():
    agent = student()
    rooms = empty_rooms(Rng([0]), "rooms", 0, 6, 6)
    schedule = torch.arange(6).expand(1, 40, 6)
    again, anew = (
        play(agent, CaveWorlds([0], 6, 6, 15), rooms, schedule, Rng([0]), "test", 0, repeat) for repeat in (True, False)
    )
    for rollout in (again, anew):
        assert torch.equal(rollout.level, schedule) and (rollout.start.sum(dim=1) > 1).all()
    for n in range(6):
        assert len(set(again.obs.direction[0, :, n][again.start[0, :, n]].tolist())) == 1
    assert any(len(set(anew.obs.direction[0, :, n][anew.start[0, :, n]].tolist())) > 1 for n in range(6))
    assert len(set(again.obs.direction[0, 0].tolist())) > 1


def test_an_update_is_torch_s():
    """Two epochs against PPO's loss written out with torch.distributions, torch's Adam and its gradient clipping."""
    agent = student(entropy_coefficient=0.1, learning_rate=1e-3, max_grad_norm=0.05)
    agent.params["policy.1.weight"].mul_(100.0)  # a policy near the uniform one would have no gradient of its entropy
    rollout = rolled_out(agent)
    leaves = {name: torch.nn.Parameter(p.clone()) for name, p in agent.params.items()}
    adam = torch.optim.Adam(leaves.values(), lr=1e-3, eps=1e-5)
    advantage = agent.advantage(rollout).flatten()
    old_value, old_log_prob = rollout.value.flatten(), rollout.log_prob.flatten()
    returns = advantage + old_value
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-5)
    for _ in range(2):
        out = agent.outputs(leaves, rollout)
        policy, value = torch.distributions.Categorical(logits=out.log_probs[0]), out.value[0]
        ratio = (policy.log_prob(rollout.action.flatten()) - old_log_prob).exp()
        surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        near = old_value + (value - old_value).clamp(-0.2, 0.2)
        value_loss = torch.max((value - returns) ** 2, (near - returns) ** 2) / 2
        loss = -surrogate.mean() + 0.5 * value_loss.mean() - 0.1 * policy.entropy().mean()
        adam.zero_grad()
        loss.backward()
        norm = clip_grad_norm_(leaves.values(), 0.05)
        assert norm > 0.05
        adam.step()
    metrics = agent.update(rollout)
    torch.testing.assert_close(metrics["train/grad_norm"][0], norm, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metrics["train/entropy"][0], policy.entropy().mean())
    for name, p in agent.params.items():
        torch.testing.assert_close(p, leaves[name].detach(), rtol=1e-4, atol=2e-6)


def test_losses_by_hand():
    log_prob = torch.tensor([[1.5, 0.5, 1.5, 0.5]]).log()
    advantage = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    # ratios 1.5, .5, 1.5, .5: min(1.5, 1.2), min(.5, .8), min(-1.5, -1.2), min(-.5, -.8)
    loss = clipped_policy_loss(log_prob, torch.zeros(1, 4), advantage, 0.2)
    torch.testing.assert_close(loss, torch.tensor([-(1.2 + 0.5 - 1.5 - 0.8) / 4]))
    value, old, target = torch.tensor([[1.0, 0.1]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 1.0]])
    # clipped values .2 and .1: max(1, 3.24), max(.81, .81)
    loss = clipped_value_loss(value, old, target, 0.2)
    torch.testing.assert_close(loss, torch.tensor([(3.24 + 0.81) / 4]))
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    torch.testing.assert_close(standardized(x).flatten(), (x.flatten() - 2.5) / (x.std() + 1e-5))


def test_categories_come_in_their_proportions():
    probability = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = sampled_category(probability.log(), Rng([0]).uniform("u", 0, (40_000, 4))[0])
    share = torch.bincount(drawn, minlength=4) / 40_000
    torch.testing.assert_close(share, probability, rtol=0, atol=4 * (0.25 / 40_000) ** 0.5)


def test_gradients_are_clipped_seed_by_seed_as_torch_does():
    generator = torch.Generator().manual_seed(0)
    grads = {"a": torch.randn(2, 3, 4, generator=generator), "b": torch.randn(2, 1, 5, generator=generator)}
    grads = {k: v * torch.tensor([0.01, 10.0]).view(2, 1, 1) for k, v in grads.items()}
    clipped, norm = clip_by_norm(grads, 0.5)
    for seed in range(2):
        params = [torch.nn.Parameter(torch.zeros_like(v[seed])) for v in grads.values()]
        for p, v in zip(params, grads.values(), strict=True):
            p.grad = v[seed].clone()
        torch.testing.assert_close(norm[seed], clip_grad_norm_(params, 0.5))
        for p, v in zip(params, clipped.values(), strict=True):
            torch.testing.assert_close(v[seed], p.grad)


def test_the_first_epoch_sees_the_policy_that_played():
    """The masked sequence gives the log-probabilities and values of the steps one by one: the ratio is 1."""
    agent = student(seeds=(0, 1))
    rollout = rolled_out(agent)
    assert rollout.done.any()
    out = agent.outputs(agent.params, rollout)
    log_prob = out.log_probs.gather(-1, rollout.action.flatten(1).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_prob, rollout.log_prob.flatten(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.value, rollout.value.flatten(1), rtol=1e-4, atol=1e-5)


def test_a_level_begins_at_the_start_and_where_an_episode_ended():
    agent = student()
    rollout = rolled_out(agent)
    assert rollout.start[:, 0].all()
    assert torch.equal(rollout.start[:, 1:], rollout.done[:, :-1])
    schedule = Rng(agent.seeds).integers("schedule", 1, (40, 6), 20)
    assert torch.equal(rollout.level[rollout.start], schedule[rollout.start])
    same = rollout.level[:, 1:] == rollout.level[:, :-1]
    assert same[~rollout.start[:, 1:]].all()


@pytest.mark.parametrize(
    "regularizer",
    [BEER(beta=1.0), BEER(beta=1.0, next_feature="target"), DR3(coefficient=1.0), InFeR(heads=3)],
    ids=lambda regularizer: regularizer.name,
)
def test_critic_regularisers_take_the_value_head(regularizer):
    plain, agent = student(seeds=(0, 1)), student(seeds=(0, 1), regularizer=regularizer)
    rollout = rolled_out(agent)
    rollout = rollout._replace(reward=rollout.reward + 5.0)  # BEER's bound only bites where there is a reward
    out = agent.outputs(agent.params, rollout)
    f = agent.critic_features(agent.params, rollout, out)
    # phi' is the feature one step later in the same world, but where there is none
    feature = out.feature.view(2, 1, 40, 6, -1)
    following = f.next_feature_target().view(2, 1, 40, 6, -1)
    torch.testing.assert_close(following[:, :, :-1], feature[:, :, 1:])
    assert f.terminated.view(2, 40, 6)[:, -1].all()
    # V = phi^T w + b
    value = (f.feature.squeeze(1) @ f.head_weight.mT).squeeze(-1) + agent.params["value.1.bias"].flatten(1)
    torch.testing.assert_close(value, out.value)
    metrics = agent.update(rollout)
    plain.update(rollout)
    assert torch.isfinite(metrics["regularizer/loss"]).all() and agent.alive.all()
    assert not torch.equal(agent.params["value.0.weight"], plain.params["value.0.weight"])
    assert not torch.equal(agent.params["lstm.hidden.weight"], plain.params["lstm.hidden.weight"])


def test_a_weightless_regulariser_changes_nothing():
    plain, agent = student(), student(regularizer=BEER(beta=0.0))
    rollout = rolled_out(plain)
    plain.update(rollout)
    agent.update(rollout)
    assert all(torch.equal(agent.params[name], value) for name, value in plain.params.items())


def test_a_seed_learns_the_same_beside_others():
    both, alone = student(seeds=(3, 7)), student(seeds=(7,))
    for number in range(3):
        together, single = rolled_out(both, number), rolled_out(alone, number)
        assert torch.equal(together.action[1], single.action[0])
        both.update(together)
        alone.update(single)
    for name, value in alone.params.items():
        torch.testing.assert_close(both.params[name][1], value[0], rtol=1e-3, atol=1e-5)


def test_a_seed_whose_loss_is_not_finite_stands_still():
    agent = student(seeds=(0, 1))
    rollout = rolled_out(agent)
    broken = rollout._replace(reward=rollout.reward.index_fill(0, torch.tensor([1]), torch.nan))
    before = {name: p.clone() for name, p in agent.params.items()}
    agent.update(broken)
    assert agent.alive.tolist() == [True, False]
    assert all(torch.equal(p[1], before[name][1]) for name, p in agent.params.items())
    assert not torch.equal(agent.params["policy.0.weight"][0], before["policy.0.weight"][0])


def test_it_learns_small_empty_rooms():
    """6x6 rooms, any start and goal: from one in ten to nearly always, in well under a minute."""
    agent = student(
        hidden_dim=32, filters=8, num_envs=32, rollout_length=64, epochs=8,
        learning_rate=5e-3, discount=0.97, gae_lambda=0.9,
    )  # fmt: skip
    shares = []
    for number in range(35):
        rollout = rolled_out(agent, number, max_episode_steps=30)
        shares.append((rollout.reward > 0).sum() / rollout.done.sum())
        agent.update(rollout)
    assert shares[0] < 0.3 and sum(shares[-5:]) / 5 > 0.95, shares
