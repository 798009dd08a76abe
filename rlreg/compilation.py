"""One update as one compiled program: `torch.compile` on the CPU, one CUDA graph on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from rlreg import products
from rlreg.errors import UserError, require

MODES = ("auto", "compile", "graph", "eager")
WORTHWHILE_UPDATES = 20_000
"""On a GPU `auto` compiles only runs of more updates. On the CPU it goes by measured costs: `rlreg.compile_costs`."""

Function = Callable[..., Any]
Update = Function
Watch = Callable[[Function], Function]
_Run = tuple[Function, Sequence[Tensor], Sequence[Tensor]]
"""A program, what it was given, and its results."""
_seen: list[_Run] = []
"""Of the last call by way of Dynamo, which gives functions that are alike one program, whosever it was first."""


def check_mode(mode: str, device: torch.device) -> None:
    """Raises `UserError` for an unknown mode, or one that the device does not have."""
    require(mode in MODES, "compile", mode, "one of " + ", ".join(MODES))
    require(mode != "graph" or device.type == "cuda", "compile", mode, "auto, compile or eager on the CPU")


def prepare(
    update: Update,
    mode: str,
    device: torch.device,
    worthwhile: bool = True,
    per_call: int = 1,
    watch: Callable[[Update], Update] | None = None,
    parts: Sequence[Part] = (),
) -> Update:
    """`update(step, variant)` made fast.

    `step` is a 0-d int64 tensor, and `variant` anything hashable that `update` branches on, such as whether the policy
    moves too: for each of its values there is a program of its own.
    Modes: `eager`; `compile` (torch.compile); `graph` (a CUDA graph of the compiled update, of the eager
    one where no compiler is at hand); `auto`, which is `eager` unless compiling is `worthwhile`, else the faster of the
    other two that there is, and falls back to eager with one warning where the compiler fails. All modes compute the
    same update to rounding. `watch` is put around the compiled update. Where there are `parts`, whose updates
    together are `update`, it is their one program that is compiled on the CPU: `OneAfterTheOther`.

    With `per_call` above 1 a call is `updates(step, variants)`: that many updates, the first of which has the number
    `step`, with a tuple of as many variants. They are one CUDA graph; where there is none, the one compiled update in a
    loop, since a program of them all would take the compiler as many times as long.
    """
    check_mode(mode, device)
    strict = mode == "compile"
    if mode == "auto":
        mode = "eager" if not worthwhile else "compile" if device.type == "cpu" else "graph"
    if mode == "eager":
        return _several(update, per_call)
    # On a GPU it is the graph that spares the way by Dynamo.
    if parts and device.type == "cpu":
        program = OneAfterTheOther(parts, strict)
    else:
        program = DirectCalls(update) if device.type == "cpu" else compiled(update, device)
        program = _Compiled(program, None if strict else update)
    program = _several(watch(program) if watch else program, per_call)
    return CudaGraph(program) if mode == "graph" else program


def compiled_or_eager(function: Function, strict: bool) -> Function:
    """`compiled`, or where the compiler fails the function itself with one warning; `UserError` instead if `strict`."""
    return _Compiled(compiled(function), None if strict else function)


def compiled(function: Function, device: torch.device | str = "cpu", watch: Watch | None = None) -> Function:
    """`function` by `torch.compile`, in one piece and for the shapes that it is called with.

    `watch` is put around each program that the compiler makes of it: a function of tensors that gives tensors.
    """
    products.tell_compiler()
    # Unguarded are module constants and library functions, which stay as they are while a run lasts; checking
    # hundreds of them would cost 2-4 % of an update. Whatever hangs on `function` itself stays guarded.
    skip = getattr(torch.compiler, "skip_guard_on_globals_unsafe", None)  # torch 2.8
    guards: dict[str, Any] = {"guard_filter_fn": skip} if skip else {}
    options: dict[str, Any] = {}
    if torch.device(device).type == "cuda":
        # Inductor would fold the random generator's products into the arithmetic of indices, which is of 32 bits there:
        # its multipliers are larger, and Triton refuses them.
        options["constant_and_index_propagation"] = False
    else:
        # Worth 3 to 6 % of an update together: Inductor would turn `x @ w + bias` back into a product that begins from
        # a copy of the bias, and check every buffer's sizes at each call.
        options = {"pattern_matcher": False, "size_asserts": False}
        # Worth 4 to 7 %: C++, not Python, calls one kernel after the other. The same bits.
        options["cpp_wrapper"] = True
    if watch is None:
        return torch.compile(function, fullgraph=True, dynamic=False, options=guards | options)

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Function:
        return watch(torch._inductor.compile(graph, inputs, options))

    return torch.compile(function, backend=backend, fullgraph=True, dynamic=False, options=guards)


def _several(update: Update, per_call: int) -> Update:
    """`updates(step, variants)`, which makes updates step, step + 1, ... and returns the last metrics of each name."""
    if per_call == 1:
        return update

    def updates(step: Tensor, variants: tuple[Hashable, ...]) -> dict[str, Tensor]:
        metrics = {}
        for k, variant in enumerate(variants):
            metrics |= update(step + k, variant)
        return metrics

    return updates


class _Compiled:
    """A compiled function; when the compiler fails it turns into the eager one, or raises `UserError` without one.

    The compiler works on descriptions of tensors: when it fails, nothing of the update has been done.
    """

    def __init__(self, compiled: Update, eager: Update | None) -> None:
        self._function, self._eager = compiled, eager

    def __call__(self, *args: Any) -> Any:
        try:
            return self._function(*args)
        except (torch._dynamo.exc.TorchDynamoException, OSError) as error:  # OSError: its cache is not writable
            if self._function is self._eager:
                raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = lines[0] if not lines[0].endswith(":") else f"{lines[0]} {lines[-1]}"  # a worker's traceback
            if self._eager is None:
                raise UserError(f"compile=compile: torch.compile failed ({reason}); give compile=auto") from error
            warnings.warn(f"updates run eagerly, since torch.compile failed: {reason}", stacklevel=2)
            self._function = self._eager
            return self._function(*args)


class DirectCalls:
    """A compiled `update(step, variant)` that is called directly once it is known what its program is given.

    A call by way of Dynamo fetches some sixty tensors (parameters, optimiser state, replay memory) from the objects
    that hold them and checks each, which takes 6 % of an update of two 256x256 networks. Where two calls of a
    variant in a row gave one program the very same tensors, `step` apart, and returned nothing but its results, all
    later calls go straight to that program. As with a CUDA graph, those tensors must be changed in place only.
    """

    def __init__(self, update: Update) -> None:
        """`update(step, variant, *parts)`: parts that Dynamo finds alike share a program."""
        self._update = compiled(update, "cpu", _watched)
        self._calls: dict[Hashable, _Call | None] = {}
        self._direct: dict[Hashable, _Call] = {}

    def is_direct(self, variant: Hashable, *parts: Part) -> bool:
        """Whether such calls go past Dynamo by now."""
        return (variant, *map(id, parts)) in self._direct

    def __call__(self, step: Tensor, variant: Hashable, *parts: Part) -> Any:
        which = (variant, *map(id, parts))
        if direct := self._direct.get(which):
            return direct(step)
        _seen.clear()
        out = self._update(step, variant, *parts)
        call = _Call.of(_seen, step, out)
        before, self._calls[which] = self._calls.get(which), call
        if call is not None and before is not None and call.same_as(before):
            self._direct[which] = call
        _seen.clear()  # no results are kept alive
        return out


def _watched(program: Function) -> Function:
    def run(*inputs: Tensor) -> Sequence[Tensor]:
        results = program(*inputs)
        _seen.append((program, inputs, results))
        return results

    return run


class Part(Protocol):
    """Some of the seeds of a stack."""

    def update(self, step: Tensor, variant: Any) -> dict[str, Tensor]:
        """Theirs; metrics (seeds,)."""


class OneAfterTheOther:
    """`update(step, variant)` of a stack as those of its parts, which are alike and hence of one program."""

    def __init__(self, parts: Sequence[Part], strict: bool = False) -> None:
        self._parts, self.program = parts, DirectCalls(_update_of)
        # Where the compiler fails at a later part, those before it have been updated: each falls back for itself.
        self._update = _Compiled(self.program, None if strict else _update_of)

    def __call__(self, step: Tensor, variant: Hashable) -> dict[str, Tensor]:
        metrics = [self._update(step, variant, part) for part in self._parts]
        return {name: torch.cat([own[name] for own in metrics]) for name in metrics[0]}


def _update_of(step: Tensor, variant: Hashable, part: Part) -> dict[str, Tensor]:
    return part.update(step, variant)


@dataclass(frozen=True)
class _Call:
    """What one call of an update gave its program, and which of the program's results the update returned."""

    program: Function
    inputs: tuple[Tensor | None, ...]
    """None where it was `step`."""
    places: tuple[int, ...]
    """Of what the update returned among the program's results, leaf by leaf."""
    spec: TreeSpec

    @classmethod
    def of(cls, seen: Sequence[_Run], step: Tensor, out: Any) -> _Call | None:
        """None where there is more to the call than one program."""
        if len(seen) != 1:
            return None
        [(program, inputs, results)] = seen
        leaves, spec = tree_flatten(out)
        places = {id(result): place for place, result in enumerate(results)}
        if any(id(leaf) not in places for leaf in leaves):
            return None
        given = tuple(None if tensor is step else tensor for tensor in inputs)
        return cls(program, given, tuple(places[id(leaf)] for leaf in leaves), spec)

    def same_as(self, other: _Call) -> bool:
        return (
            self.program is other.program
            and (self.places, self.spec) == (other.places, other.spec)
            and all(a is b for a, b in zip(self.inputs, other.inputs, strict=True))
        )

    def __call__(self, step: Tensor) -> Any:
        results = self.program(*(step if tensor is None else tensor for tensor in self.inputs))
        return tree_unflatten([results[place] for place in self.places], self.spec)


class CudaGraph:
    """`update(step, variant)` captured as a CUDA graph, one for each variant (or tuple of them), and replayed.

    The captured program reads and writes the very tensors it was captured with (parameters, optimiser
    state, replay memory), so those must be changed in place only. The returned metrics are overwritten by
    the next call.
    """

    WARM_UP = 3

    def __init__(self, update: Update) -> None:
        self._update = update
        self._step: Tensor | None = None
        self._calls: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any]] = {}

    def __call__(self, step: Tensor, variant: Hashable) -> Any:
        if self._step is None:
            self._step = step.clone()
        self._step.copy_(step)
        self._calls[variant] = self._calls.get(variant, 0) + 1
        # The first calls are real updates, made on a side stream as capture wants them.
        if self._calls[variant] <= self.WARM_UP:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                out = tree_map(lambda x: x.clone(), self._update(self._step, variant))
            torch.cuda.current_stream().wait_stream(side)
            return out
        if variant not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # capture records without running
                out = self._update(self._step, variant)
            self._graphs[variant] = (graph, out)
        graph, out = self._graphs[variant]
        graph.replay()
        return out
