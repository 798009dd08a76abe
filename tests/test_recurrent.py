"""The recurrent trunk against PyTorch's own LSTM and layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from envs.cave.space import CaveEscape
from envs.cave.worlds import Observation
from rlreg.lstm import LSTM, LSTMState
from rlreg.networks import orthogonal_init
from rlreg.recurrent import RecurrentActorCritic
from rlreg.rng import Rng

T, N, INPUTS, HIDDEN = 21, 5, 7, 6  # more steps than the backward pass prepares at once, and no multiple


def torch_lstm(params, seed):
    """One seed's parameters in a `torch.nn.LSTM`."""
    lstm = torch.nn.LSTM(INPUTS, HIDDEN)
    for theirs, ours in (("weight_ih", "input.weight"), ("weight_hh", "hidden.weight")):
        getattr(lstm, f"{theirs}_l0").data = params[ours][seed].detach().T.clone()
    for theirs, ours in (("bias_ih", "input.bias"), ("bias_hh", "hidden.bias")):
        getattr(lstm, f"{theirs}_l0").data = params[ours][seed, 0].detach().clone()
    return lstm


def by_torch(lstm, x, start, state):
    """Step by step, the state zeroed where an episode starts: x (T, N, I), start (T, N)."""
    outputs = []
    hidden, cell = state
    for t in range(len(x)):
        keep = (~start[t]).float()[None, :, None]
        out, (hidden, cell) = lstm(x[t : t + 1], (hidden * keep, cell * keep))
        outputs.append(out[0])
    return torch.stack(outputs), (hidden, cell)


@pytest.fixture(params=[1, 3])
def setting(request):
    seeds = list(range(request.param))
    lstm = LSTM(INPUTS, HIDDEN)
    params = lstm.init(Rng(seeds), "lstm")
    generator = torch.Generator().manual_seed(0)
    params = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in params.items()}
    x = torch.randn(len(seeds), T, N, INPUTS, generator=generator)
    start = torch.rand(len(seeds), T, N, generator=generator) < 0.3
    state = LSTMState(*torch.randn(2, len(seeds), N, HIDDEN, generator=generator))
    return lstm, params, x, start, state


def test_outputs_and_gradients_are_those_of_torch(setting):
    lstm, params, x, start, state = setting
    params = {k: v.requires_grad_() for k, v in params.items()}
    x.requires_grad_()
    weight = torch.randn(T, N, HIDDEN, generator=torch.Generator().manual_seed(1))
    out, final = lstm(params, x, start, state)
    (out.square() * weight).sum().backward()
    for seed in range(len(x)):
        theirs = torch_lstm(params, seed)
        own_x = x[seed].detach().requires_grad_()
        expected, (hidden, cell) = by_torch(theirs, own_x, start[seed], [s[seed : seed + 1] for s in state])
        (expected.square() * weight).sum().backward()
        torch.testing.assert_close(out[seed], expected)
        torch.testing.assert_close(final.hidden[seed], hidden[0])
        torch.testing.assert_close(final.cell[seed], cell[0])
        torch.testing.assert_close(x.grad[seed], own_x.grad, rtol=1e-4, atol=1e-5)
        for name, grad in (
            ("input.weight", theirs.weight_ih_l0.grad.T),
            ("hidden.weight", theirs.weight_hh_l0.grad.T),
            ("input.bias", theirs.bias_ih_l0.grad[None]),
            ("hidden.bias", theirs.bias_hh_l0.grad[None]),
        ):
            torch.testing.assert_close(params[name].grad[seed], grad, rtol=1e-4, atol=1e-5)


def test_a_sequence_is_its_steps_one_by_one(setting):
    lstm, params, x, start, state = setting
    whole, final = lstm(params, x, start, state)
    for t in range(T):
        out, state = lstm(params, x[:, t : t + 1], start[:, t : t + 1], state)
        torch.testing.assert_close(out[:, 0], whole[:, t])
    torch.testing.assert_close(state, final)


def test_an_episode_does_not_see_the_one_before(setting):
    lstm, params, x, start, state = setting
    start[:, 4] = True
    changed = x.clone()
    changed[:, :4] += 1.0
    torch.testing.assert_close(
        lstm(params, changed, start, state)[0][:, 4:], lstm(params, x, start, state)[0][:, 4:], rtol=0, atol=0
    )


def test_the_network_is_the_published_one():
    net = RecurrentActorCritic(CaveEscape.observation, num_actions=7)
    params = net.init(Rng([5]))
    assert sum(p.numel() for p in params.values()) == 433_953
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 11, (1, 1, 4, 5, 5, 3), generator=generator, dtype=torch.uint8)
    direction = torch.randint(0, 4, (1, 1, 4), generator=generator)
    start = torch.ones(1, 1, 4, dtype=torch.bool)
    trunk, _ = net.trunk(params, Observation(image, direction), start, net.initial_state(1, 4))

    # The same by torch.nn.functional, channels first, as the released network is written down.
    kernel = params["image.weight"][0].T.reshape(16, 3, 3, 3)
    seen = F.conv2d(image[0, 0].permute(0, 3, 1, 2) / 10.0, kernel, params["image.bias"][0, 0])
    seen = F.relu(seen.permute(0, 2, 3, 1).flatten(1))
    faced = F.one_hot(direction[0, 0], 4).float() @ params["direction.weight"][0] + params["direction.bias"][0]
    x = torch.cat([seen, faced], dim=1)
    lstm = torch.nn.LSTMCell(149, 256)
    lstm.weight_ih.data, lstm.weight_hh.data = params["lstm.input.weight"][0].T, params["lstm.hidden.weight"][0].T
    lstm.bias_ih.data, lstm.bias_hh.data = params["lstm.input.bias"][0, 0], params["lstm.hidden.bias"][0, 0]
    hidden, _ = lstm(x)
    torch.testing.assert_close(trunk[0, 0], hidden)
    value = torch.tanh(hidden @ params["value.0.weight"][0, 0]) @ params["value.1.weight"][0, 0]
    ours = net.value(params, net.value_features(params, trunk[:, 0]))
    torch.testing.assert_close(ours[0], value[:, 0])
    logits = torch.tanh(hidden @ params["policy.0.weight"][0]) @ params["policy.1.weight"][0]
    torch.testing.assert_close(net.logits(params, trunk[:, 0])[0], logits)


@pytest.mark.parametrize("shape", [(149, 1024), (256, 32), (4, 4)])
def test_initial_weights_are_orthogonal(shape):
    weight = orthogonal_init(Rng([0, 1]), "w", *shape, gain=2.0)
    assert weight.shape == (2, *shape)
    gram = weight @ weight.mT if shape[0] <= shape[1] else weight.mT @ weight
    torch.testing.assert_close(gram, 4.0 * torch.eye(min(shape)).expand_as(gram), rtol=0, atol=1e-4)
    assert not torch.equal(weight[0], weight[1])
