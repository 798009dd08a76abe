"""torch's Adam on parameter dictionaries stacked over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from rlreg.networks import Params


def gradients(loss: Callable[[Params], tuple[Tensor, Any]], params: Params) -> tuple[Params, Any]:
    """Gradients of `loss(params) -> ((S,) losses, aux)` with respect to `params`, and `aux`.

    The seeds' losses are summed: each depends on its own slice of the parameters only, so the slices of the
    gradient stay independent.
    """

    def total(params: Params) -> tuple[Tensor, Any]:
        losses, aux = loss(params)
        return losses.sum(), aux

    if torch.compiler.is_compiling():  # the one form that compiles; eagerly the other is faster
        return torch.func.grad(total, has_aux=True)(params)
    with torch.enable_grad():
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        value, aux = total(leaves)
        grads = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, grads, strict=True)), aux


class Adam:
    """Adam (Kingma & Ba 2015) as torch computes it. Elementwise, hence independent over seeds."""

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

    def step(self, params: Params, grads: Mapping[str, Tensor], alive: Tensor) -> None:
        """Update `params` in place. Seeds with `alive` (S,) false get no gradient (theirs may be NaN)."""
        masked = [
            torch.where(alive.view(-1, *[1] * (grad.dim() - 1)), grad, 0.0) for grad in map(grads.get, params)
        ]
        adam(
            list(params.values()),
            masked,
            list(self.exp_avg.values()),
            list(self.exp_avg_sq.values()),
            [],
            list(self.steps.values()),
            # The fused kernel is the fast one by itself; inside torch.compile Inductor fuses the plain one.
            fused=not torch.compiler.is_compiling(),
            foreach=False,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )

    def state(self) -> dict[str, Params]:
        """The live tensors of the optimiser's state."""
        return {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq, "steps": self.steps}
