"""Adam and gradients on parameters stacked over seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rlreg.networks import Params
from rlreg.optim import Adam, _debiasing, gradients

SHAPES = {"weight": (3, 4, 5), "bias": (3, 1, 5)}  # three seeds


def params() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


FINITE = torch.zeros(3)
"""Three seeds' losses, where they do not matter."""


def written_out(adam: Adam, params: Params, grads: Params, *_: torch.Tensor) -> None:
    """The step as torch.compile gets it."""
    adam._written_out(params, list(grads.values()))


@pytest.mark.parametrize("step", [Adam.step, written_out])
def test_adam_equals_torchs(step: Callable[..., None]) -> None:
    ours, reference = params(), [p.requires_grad_() for p in params().values()]
    alive = torch.ones(3, dtype=torch.bool)
    adam = Adam(ours, 3e-4)
    torch_adam = torch.optim.Adam(reference, 3e-4)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        grads = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        for parameter, grad in zip(reference, grads.values(), strict=True):
            parameter.grad = grad.clone()
        torch_adam.step()
        step(adam, ours, grads, FINITE, alive)
    for parameter, expected in zip(ours.values(), reference, strict=True):
        # Written out it divides in another order, which may cost the last bits.
        torch.testing.assert_close(parameter, expected.detach(), rtol=3e-7 if step is written_out else 0, atol=1e-7)


@pytest.mark.parametrize("beta", [0.9, 0.999])
@pytest.mark.parametrize("step", [1, 2, 10, 1000, 1_000_000])
def test_debiasing_is_exact_to_float32(beta: float, step: int) -> None:
    expected = torch.tensor(1 / (1 - beta**step))
    torch.testing.assert_close(_debiasing(beta, torch.tensor(float(step))), expected, rtol=5e-7, atol=0)


def test_adam_takes_gradients_of_any_strides() -> None:
    """A gradient may come transposed in memory, such as that of a product computed transposed."""
    one, other = params(), params()
    generator = torch.Generator().manual_seed(1)
    grads = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    Adam(one, 0.1).step(one, grads, FINITE, torch.ones(3, dtype=torch.bool))
    transposed = {name: grad.mT.contiguous().mT for name, grad in grads.items()}
    assert not transposed["weight"].is_contiguous()
    Adam(other, 0.1).step(other, transposed, FINITE, torch.ones(3, dtype=torch.bool))
    assert torch.equal(one["weight"], other["weight"])


@pytest.mark.parametrize("compiled", [False, True])
def test_moments_of_idle_units_end_at_zero(compiled: bool) -> None:
    """Decaying they would stay subnormal for good, which is slow to compute with; parameters move as by torch's."""
    ours, reference = params(), [p.requires_grad_() for p in params().values()]
    adam, torch_adam = Adam(ours, 3e-4, betas=(0.9, 0.9)), torch.optim.Adam(reference, 3e-4, betas=(0.9, 0.9))
    step = torch.compile(adam.step, backend="eager") if compiled else adam.step
    alive = torch.ones(3, dtype=torch.bool)
    generator = torch.Generator().manual_seed(1)
    tiny = torch.finfo(torch.float32).tiny
    for number in range(1000):
        grads = {name: 1e-3 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        if number > 0:
            for grad in grads.values():
                grad[..., :2] = 0.0  # what goes into two units of five that are switched off from here on
        for parameter, grad in zip(reference, grads.values(), strict=True):
            parameter.grad = grad.clone()
        torch_adam.step()
        step(ours, grads, FINITE, alive)
    for state in torch_adam.state.values():  # what is guarded against
        for moment in (state["exp_avg"], state["exp_avg_sq"]):
            assert ((moment != 0) & (moment.abs() < tiny))[..., :2].any()
    for moment in (*adam.exp_avg.values(), *adam.exp_avg_sq.values()):
        assert (moment[..., :2] == 0).all()
        assert (moment[..., 2:].abs() >= tiny).all()
    for parameter, expected in zip(ours.values(), reference, strict=True):
        torch.testing.assert_close(parameter, expected.detach(), rtol=0, atol=1e-6 if compiled else 1e-7)


def test_a_diverged_seed_gets_no_gradient() -> None:
    """Its own may be NaN; the other seeds go on as if it had never been there."""
    broken, whole = params(), params()
    grads = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    poisoned = {name: grad.clone() for name, grad in grads.items()}
    for grad in poisoned.values():
        grad[1] = torch.nan
    Adam(broken, 0.1).step(broken, poisoned, FINITE, torch.tensor([True, False, True]))
    Adam(whole, 0.1).step(whole, grads, FINITE, torch.ones(3, dtype=torch.bool))
    for name, start in params().items():
        assert torch.equal(broken[name][1], start[1])
        assert torch.equal(broken[name][[0, 2]], whole[name][[0, 2]])


def test_a_seed_whose_loss_or_gradient_is_not_finite_leaves_and_stays_as_it_is() -> None:
    """By its loss alone, by its gradient alone, and not at all."""
    ours, alive = params(), torch.ones(3, dtype=torch.bool)
    grads = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    grads["bias"][1] = torch.inf
    Adam(ours, 0.1).step(ours, grads, torch.tensor([torch.nan, 1.0, 1.0]), alive)
    assert alive.tolist() == [False, False, True]
    for name, start in params().items():
        assert torch.equal(ours[name][:2], start[:2]) and not torch.equal(ours[name][2], start[2])


def test_gradients_of_the_seeds_are_independent() -> None:
    def loss(p: dict[str, torch.Tensor], factor: float) -> tuple[torch.Tensor, str]:
        return factor * torch.square(p["weight"]).sum(dim=(1, 2)), "aux"

    start = params()
    with torch.no_grad():  # whatever surrounds it
        grads, losses, aux = gradients(loss, start, 1.0)
    assert aux == "aux"
    assert torch.equal(losses, loss(start, 1.0)[0]) and not losses.requires_grad
    torch.testing.assert_close(grads["weight"], 2 * start["weight"])
    assert torch.equal(grads["bias"], torch.zeros(SHAPES["bias"]))  # a parameter that the loss does not touch
    assert not any(p.requires_grad for p in start.values())
