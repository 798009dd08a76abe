"""What each thing that is done for speed alone is worth: the plain way's time over ours, each by the same operands.

    OMP_NUM_THREADS=1 python benchmarks/tricks.py

One thread; what is counted is CPU time; a figure is the median over the rounds of the pair's own ratio, the two right
after each other and in changing order. Each trick stands behind a function of its own, which quotes its figure.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from rlreg import networks, optim, products
from rlreg.lstm import LSTM
from rlreg.rng import Rng

Pair = tuple[Callable[[], object], Callable[[], object]]
"""The plain way, and ours."""


def with_gradients(layer: Callable[[Tensor, Tensor, Tensor], Tensor], *shapes: tuple[int, ...]) -> Callable[[], object]:
    """A layer's product, and the gradients of what it takes."""
    leaves = [torch.randn(shape).requires_grad_() for shape in shapes]
    return lambda: torch.autograd.grad(layer(*leaves).square().sum(), leaves)


def narrow(outputs: int) -> Pair:
    """The last layer of a policy: a batch of 256, 256 inputs."""
    shapes = (256, 256), (256, outputs), (1, outputs)
    return with_gradients(products.plain, *shapes), with_gradients(products.transposed, *shapes)


def one_matrix() -> Pair:
    """A hidden layer of 256 at one seed: a batched product over one matrix, and a plain one."""
    shapes = (256, 256), (256, 256), (1, 256)
    batched = [(1, *shape) for shape in shapes]
    return with_gradients(products.plain, *batched), with_gradients(products.plain, *shapes)


def masking() -> Pair:
    """The gradient of a layer of 256 x 256 where its seed still learns."""
    mask, grad = torch.ones(1, 1, 1, dtype=torch.bool), torch.randn(1, 256, 256)
    return lambda: torch.where(mask, grad, 0.0), lambda: optim._where(mask, grad)


def round_widths() -> Pair:
    """A layer of 750 x 750, and the same with two units more that are of no effect."""
    return tuple(with_gradients(products.plain, (256, n), (n, n), (1, n)) for n in (750, 752))


def adam() -> Pair:
    """Adam compiled, on a critic of 256 x 256: 1 / (1 - beta^t) as it stands, and by a hyperbolic tangent."""

    def compiled(debiasing: Callable[[float, Tensor], Tensor]) -> Callable[[], object]:
        params = networks.Critic(67, 21, [256, 256]).init(Rng([0]))
        optimizer, grads = optim.Adam(params, 3e-4), [torch.randn_like(p) for p in params.values()]

        def step() -> None:
            optimizer._written_out(params, grads)

        program, before = torch.compile(step, fullgraph=True, dynamic=False), optim._debiasing
        optim._debiasing = debiasing
        program()
        optim._debiasing = before
        return program

    return compiled(lambda beta, step: 1.0 / (1.0 - beta**step)), compiled(optim._debiasing)


def recurrence() -> Pair:
    """DRED's student on a rollout, forward and backward: torch's LSTM, cleared step by step, and ours."""
    size, length, envs = 256, 64, 32
    x, keep = torch.randn(1, length, envs, size), torch.ones(1, length, envs, 1)
    torchs = torch.nn.LSTMCell(size, size)

    def plain() -> None:
        state = torch.zeros(envs, size), torch.zeros(envs, size)
        hidden = []
        for t in range(length):
            state = torchs(x[0, t], (state[0] * keep[0, t], state[1] * keep[0, t]))
            hidden.append(state[0])
        torch.autograd.grad(torch.stack(hidden).square().sum(), list(torchs.parameters()))

    cell = LSTM(size, size)
    params = {name: p.requires_grad_() for name, p in cell.init(Rng([0]), "lstm").items()}
    start, state = torch.zeros(1, length, envs, dtype=torch.bool), cell.initial_state(1, envs)

    def ours() -> None:
        hidden, _ = cell(params, x, start, state)
        torch.autograd.grad(hidden.square().sum(), list(params.values()))

    return plain, ours


TRICKS: dict[str, Callable[[], Pair]] = {
    "6 outputs transposed": lambda: narrow(6),
    "21 outputs transposed": lambda: narrow(21),
    "one matrix as a matrix, not as a stack": one_matrix,
    "a gradient masked by a bitwise and": masking,
    "752 units for 750": round_widths,
    "the LSTM's backward pass written out": recurrence,
    "Adam's debiasing by a hyperbolic tangent (compiled)": adam,
}


def ratios(pair: Pair, rounds: int, seconds: float) -> list[float]:
    """Time of the plain way / time of ours, of each round."""

    def turn(work: Callable[[], object], times: int) -> float:
        before = time.process_time()
        for _ in range(times):
            work()
        return time.process_time() - before

    for work in pair:
        turn(work, 3)
    times = max(1, round(seconds / max(turn(pair[1], 3) / 3, 1e-6)))
    found = []
    for k in range(rounds):
        order = pair if k % 2 else pair[::-1]
        took = {work: turn(work, times) for work in order}
        found.append(took[pair[0]] / took[pair[1]])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=0.05, help="of a turn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| trick | plain / ours | middle half |\n|---|--:|--:|")
    for name, make in TRICKS.items():
        low, middle, high = statistics.quantiles(ratios(make(), args.rounds, args.seconds), n=4)
        print(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} |", flush=True)


if __name__ == "__main__":
    main()
