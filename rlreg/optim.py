"""torch's Adam on parameter dictionaries stacked over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from rlreg.networks import Params

Loss = Callable[..., tuple[Tensor, Any]]
"""`loss(params, *args) -> ((S,) losses, aux)`: aux is whatever else is wanted of the computation, metrics above all."""


def gradients(loss: Loss, params: Params, *args: Any) -> tuple[Params, Tensor, Any]:
    """Gradients of `loss(params, *args)` with respect to `params`, with its losses (S,), without gradient, and aux.

    The seeds' losses are summed: each depends on its own slice of the parameters only, so the slices of the
    gradient stay independent.
    """
    if torch.compiler.is_compiling():  # the one form that compiles; eagerly the other is faster
        return _functional_gradients(loss, params, *args)
    with torch.enable_grad():
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        losses, aux = loss(leaves, *args)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, grads, strict=True)), losses.detach(), aux


def _functional_gradients(loss: Loss, params: Params, *args: Any) -> tuple[Params, Tensor, Any]:
    """`gradients` by `torch.func`."""

    def total(params: Params) -> tuple[Tensor, tuple[Tensor, Any]]:
        losses, aux = loss(params, *args)
        return losses.sum(), (losses.detach(), aux)

    grads, (losses, aux) = torch.func.grad(total, has_aux=True)(params)
    return grads, losses, aux


def clip_by_norm(grads: Params, limit: float) -> tuple[Params, Tensor]:
    """Gradients scaled down, of each seed by itself, to a norm of at most `limit` over all parameters; and norms (S,).

    As `torch.nn.utils.clip_grad_norm_` does for one network.
    """
    squares = torch.stack([torch.square(grad.flatten(1)).sum(dim=1) for grad in grads.values()])
    norm = squares.sum(dim=0).sqrt()
    scale = (limit / (norm + 1e-6)).clamp_max(1.0)
    return {k: grad * scale.view(-1, *[1] * (grad.dim() - 1)) for k, grad in grads.items()}, norm


class Adam:
    """Adam (Kingma & Ba 2015) as torch computes it. Elementwise, hence independent over seeds.

    Moments too small for a normal floating point number are zero. A unit that its ReLU has switched off has no gradient
    any more, and its moments decay until rounding holds them among the smallest subnormal numbers, for good. A CPU
    computes with those some hundred times slower: after 90k steps of hopper-hop a sixth of the moments were subnormal,
    and an update took twice its time. Of that size they move no parameter.
    """

    def __init__(
        self,
        params: Params,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.learning_rate, self.betas, self.eps = learning_rate, betas, eps
        self.exp_avg = {name: torch.zeros_like(p) for name, p in params.items()}
        self.exp_avg_sq = {name: torch.zeros_like(p) for name, p in params.items()}
        device = next(iter(params.values())).device
        self.steps = {name: torch.zeros((), device=device) for name in params}

    def step(self, params: Params, grads: Mapping[str, Tensor], losses: Tensor, alive: Tensor) -> None:
        """Update `params` in place, of the seeds that are `alive` (S,).

        A seed whose loss (S,) or gradient is not finite has diverged: it leaves `alive`, and its parameters stay as
        they are from here on.
        """
        alive.logical_and_(torch.isfinite(losses))
        for grad in grads.values():
            alive.logical_and_(torch.isfinite(grad.flatten(1).sum(dim=1)))
        masks = [alive.view(-1, *[1] * (p.dim() - 1)) for p in params.values()]
        # Contiguous, as the parameters: the fused kernel pairs their memory up, whatever the strides.
        masked = [_where(mask, grads[name].contiguous()) for name, mask in zip(params, masks, strict=True)]
        for exp_avg, mask in zip(self.exp_avg.values(), masks, strict=True):
            exp_avg.mul_(mask)  # without momentum and gradient Adam stands still
        if torch.compiler.is_compiling():
            self._written_out(params, masked)
        else:
            self._by_torch(params, masked)
        for moment in (*self.exp_avg.values(), *self.exp_avg_sq.values()):
            _flush_(moment)

    def _by_torch(self, params: Params, grads: Sequence[Tensor]) -> None:
        """Adam by torch's fused kernel."""
        adam(
            list(params.values()),
            list(grads),
            list(self.exp_avg.values()),
            list(self.exp_avg_sq.values()),
            [],
            list(self.steps.values()),
            fused=True,
            foreach=False,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )

    def _written_out(self, params: Params, grads: Sequence[Tensor]) -> None:
        """Adam written out, for `torch.compile`: of torch's own it takes beta^t anew for every few elements."""
        torch._foreach_add_(list(self.steps.values()), 1.0)
        step = next(iter(self.steps.values()))
        (beta1, beta2), eps = self.betas, self.eps
        step_size = self.learning_rate * _debiasing(beta1, step)
        second_scale = _debiasing(beta2, step).sqrt()
        for param, grad, exp_avg, exp_avg_sq in zip(
            params.values(), grads, self.exp_avg.values(), self.exp_avg_sq.values(), strict=True
        ):
            exp_avg.lerp_(grad, 1.0 - beta1)
            exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
            param.sub_(step_size * exp_avg / (second_scale * exp_avg_sq.sqrt() + eps))

    def state(self) -> dict[str, Params]:
        """The live tensors of the optimiser's state."""
        return {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq, "steps": self.steps}


def _debiasing(beta: float, step: Tensor) -> Tensor:
    """1 / (1 - beta^step), as (1 + coth(x)) / 2 with x = step ln(1/beta) / 2: in float32 nothing cancels.

    The hyperbolic tangent occurs once, and Inductor keeps one that many kernels read instead of taking it in each. In
    speed that is worth nothing that can be measured on an Intel Xeon (1.01x, benchmarks/tricks.py).
    """
    return 0.5 + 0.5 / torch.tanh(step * (-0.5 * math.log(beta)))


def _flush_(x: Tensor) -> None:
    """Subnormal numbers to zero, in place."""
    torch.ops.aten.hardshrink.out(x, torch.finfo(x.dtype).tiny, out=x)


def _where(mask: Tensor, x: Tensor) -> Tensor:
    """`x` (float32) where `mask` is true, else 0, even for what is not finite.

    On a CPU the same bits by a bitwise and. Worth (benchmarks/tricks.py): 3.4x for 256 x 256 on an Intel Xeon with
    AVX-512.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.where(mask, x, 0.0)
    return (x.view(torch.int32) & -mask.int()).view(torch.float32)
