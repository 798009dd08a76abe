"""An agent and the memory that it learns from: one update of theirs, and the same seed by seed."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from rlreg.agent import BatchAgent
from rlreg.buffers import Batch, NStepBatch
from rlreg.checkpoint import flatten
from rlreg.compile_costs import put_back
from rlreg.products import watching

FITS = 2**19
"""Numbers that a layer of a stack may read and write for the stack to be kept: 2 MiB, a second-level cache of an Intel
Xeon. Five DDPGs of 256 x 128 x 128 (0.4 million) are 4 % faster stacked, two TD3s of 256 x 256 x 256 (0.8) and four
(1.6) as fast either way, five A2PRs of 256 x 752 x 752 (4.8) 8 % faster seed by seed (results/speed/products.md)."""


class Memory(Protocol):
    """Where batches come from: `Replay` or `DatasetBuffer`."""

    inserted: int

    def sample(self, stream: str, step: int | Tensor, batch_size: int) -> Batch | NStepBatch: ...

    def of_seed(self, i: int) -> Self: ...


class Learner(NamedTuple):
    """Who learns, and from what."""

    agent: BatchAgent
    memory: Memory

    def update(self, number: Tensor, variant: tuple[Hashable, ...]) -> dict[str, Tensor]:
        """Update `number` (0-d int64), in place; `variant` is the agent's of that number. Returns metrics (S,)."""
        batch = self.memory.sample("replay", number, self.agent.batch_size)
        return self.agent.update(batch, number, *variant)

    def variants(self) -> list[tuple[Hashable, ...]]:
        """Those of the first six updates: as often as each comes in a run."""
        return [self.agent.variant(number) for number in range(1, 7)]

    def rehearse(self) -> None:
        """An update of each kind; the agent is then as it was."""
        number = torch.ones((), dtype=torch.int64, device=self.agent.device)
        with put_back(self.agent.state):
            for variant in dict.fromkeys(self.variants()):
                self.update(number, variant)

    def seed_by_seed(self) -> list[Learner]:
        """Learners of one seed each on this one's tensors, where S updates of theirs are faster than one of the stack.

        None elsewhere. A stacked program makes the first layer of all seeds, then the second: where that is more than
        `FITS`, what a layer was given has left the core's cache before its gradient asks for it. Smaller stacks gain by
        fewer calls, and so do bfloat16's quick products, several threads and GPUs. Nor are there any of an agent that
        is made in a way of its own, or that does not keep its contract to change in place what is in its `state`.
        """
        agent = self.agent
        if len(agent.seeds) == 1 or agent.device.type != "cpu" or torch.get_num_threads() > 1:
            return []
        before = flatten(agent.state())
        with watching() as layers:
            self.rehearse()
        after = flatten(agent.state())
        if before.keys() != after.keys() or any(after[name] is not tensor for name, tensor in before.items()):
            return []
        if not any(layer.dtype == "float32" and layer.size > FITS for layer in layers):
            return []
        alone = [agent.of_seed(i) for i in range(len(agent.seeds))]
        return [] if None in alone else [Learner(one, self.memory.of_seed(i)) for i, one in enumerate(alone)]
