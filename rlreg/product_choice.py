"""Which way a run takes each of its matrix products: the fastest on this machine, measured once and remembered."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from rlreg.errors import require
from rlreg.files import write_atomic
from rlreg.machine import cache_folder, cpu
from rlreg.products import PLAIN, WAYS, Layer, Ways, has_onednn, using, watching

SETTINGS = ("auto", "aten", "onednn")
FORCED = {"aten": PLAIN, "onednn": Ways("onednn", "onednn", "onednn")}
ROUNDS, SECONDS = 10, 0.003
"""Each way of a product is timed so often, or until so much time has gone by, four times at least."""
FASTER = 0.9
"""What another way may take of the plain one's time, to be preferred: a measurement is not exact."""
LEAST_SAVED = 150e-6
"""Seconds that other ways have to save in a layer: its autograd function costs a third of that in an eager update, and
in a compiled one the plain way is fused with what is around it."""

Needs = Mapping[Layer, tuple[bool, bool]]
"""Layers, and whether the gradients of their inputs and weights are asked for."""


def check_setting(products: str) -> None:
    """Raises `UserError` for an unknown one."""
    require(products in SETTINGS, "products", products, "one of " + ", ".join(SETTINGS))


class ProductChoice:
    """How a run takes its products. What was chosen once stays, in its checkpoints too: a resumed run is the same."""

    def __init__(self, setting: str, device: torch.device, long: bool) -> None:
        """`setting` is one of `SETTINGS`; only a `long` run is worth a measurement. Raises `UserError`."""
        check_setting(setting)
        self.otherwise = FORCED.get(setting, PLAIN)
        self.worthwhile = setting == "auto" and device.type == "cpu" and long
        self.chosen: dict[Layer, Ways] | None = None

    @property
    def open(self) -> bool:
        """Whether it is still to be chosen."""
        return self.worthwhile and self.chosen is None

    def choose(self, work: Callable[[], Any]) -> str:
        """Choose for the layers of `work`, which is done once, in plain ways; what to tell the user."""
        with watching() as needs:
            work()
        book = ChoiceBook()
        known = book.read()
        started = time.perf_counter()
        new = {layer: fastest(layer, *needed) for layer, needed in needs.items() if layer not in known}
        if new:
            book.add(new)
        seconds = time.perf_counter() - started
        self.chosen = {layer: known.get(layer) or new[layer] for layer in needs}
        how = f"measured in {1000 * seconds:.0f} ms" if new else "as measured earlier"
        return f"products=auto: {self.told()} ({how})"

    def told(self) -> str:
        """In words."""
        if self.chosen is None:
            return "torch's own" if self.otherwise == PLAIN else "oneDNN's wherever it can"
        others = {layer: ways for layer, ways in self.chosen.items() if ways != PLAIN}
        if not others:
            return f"torch's own for all {len(self.chosen)} layers"
        named = (f"{layer.stack} x {layer.fan_in}x{layer.fan_out} {'/'.join(ways)}" for layer, ways in others.items())
        rest = len(self.chosen) - len(others)
        return f"torch's own for {rest} layers; output/input's gradient/weight's for the others: {', '.join(named)}"

    def using(self) -> AbstractContextManager[None]:
        """Within it the run's products are taken as chosen."""
        return using(self.chosen or {}, self.otherwise)

    def saved(self) -> list[Any] | None:
        """For a checkpoint."""
        return None if self.chosen is None else rows(self.chosen)

    def restore(self, saved: Any) -> None:
        """Take up what a checkpoint says. Raises `ValueError` or `TypeError` for what makes no sense."""
        self.chosen = None if saved is None else choices(saved)


def rows(chosen: Mapping[Layer, Ways]) -> list[Any]:
    return [[*layer, *ways] for layer, ways in chosen.items()]


def choices(saved: Any) -> dict[Layer, Ways]:
    """`rows` undone. Raises `ValueError` or `TypeError` for what makes no sense."""
    found = {}
    for row in saved:
        *layer, forward, of_input, of_weight = row
        layer, ways = Layer(*layer), Ways(forward, of_input, of_weight)
        sizes = layer[1:5]
        if not (isinstance(layer.dtype, str) and all(type(n) is int and n > 0 for n in sizes)):
            raise ValueError(f"no layer: {layer}")
        if type(layer.relu) is not bool or not all(isinstance(way, str) and way in WAYS for way in ways):
            raise ValueError(f"no ways of taking products: {ways}")
        found[layer] = ways
    return found


class ChoiceBook:
    """What was found on this machine, in a file beside the compiled programs: of one CPU, torch and number of threads,
    by today's rule.

    A file that cannot be read or written costs the knowledge and nothing else.
    """

    def __init__(self) -> None:
        kind = (cpu(), torch.__version__, torch.get_num_threads(), FASTER, LEAST_SAVED, ROUNDS)
        self.path = cache_folder() / f"rlreg-products-{hashlib.sha256(repr(kind).encode()).hexdigest()[:16]}.json"

    def read(self) -> dict[Layer, Ways]:
        try:
            return choices(json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def add(self, new: Mapping[Layer, Ways]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, json.dumps(rows({**self.read(), **new})))
        except OSError:
            pass


def fastest(layer: Layer, of_input: bool, of_weight: bool) -> Ways:
    """The fastest ways of a layer's products; gradients that are not asked for are taken the plain way."""
    a, b, bias, grad = _operands(layer)
    forward, saved = _fastest(a, b, bias, layer.relu)
    ways = {"forward": forward}
    for name, asked, operands in (("input", of_input, (grad, b.mT)), ("weight", of_weight, (a.mT, grad))):
        if asked:
            ways[name], more = _fastest(*operands)
            saved += more
    return Ways(**ways) if saved >= LEAST_SAVED else PLAIN


def _operands(layer: Layer) -> tuple[Tensor, ...]:
    """Input, weight, bias and a gradient of the output. Not drawn: a run's random numbers are its own."""
    lead = (layer.stack,) if layer.stack > 1 else ()
    batch, fan_in, fan_out = layer.batch, layer.fan_in, layer.fan_out
    shapes = (batch, fan_in), (fan_in, fan_out), (1, fan_out), (batch, fan_out)
    sizes = [torch.Size((*lead, *shape)) for shape in shapes]
    dtype = getattr(torch, layer.dtype)
    return tuple(torch.linspace(-1.0, 1.0, size.numel()).view(size).to(dtype) for size in sizes)


def _fastest(a: Tensor, b: Tensor, bias: Tensor | None = None, relu: bool = False) -> tuple[str, float]:
    """The way that takes the least time, and the seconds it saves; plain unless another is ahead of it twice."""
    best, saved, names = "plain", 0.0, _candidates(a, bias)
    for _ in range(2):
        least = _race(names, a, b, bias, relu)
        best = min(least, key=least.__getitem__)
        if least[best] >= FASTER * least["plain"]:
            return "plain", 0.0
        saved, names = least["plain"] - least[best], ["plain", best]
    return best, saved


def _race(names: list[str], *operands: Any) -> dict[str, float]:
    """The least seconds that each way took, in turns."""
    # Of a single thread its own time, which other programs cannot lengthen.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    least: dict[str, float] = {}
    gone = 0.0
    with torch.no_grad():
        for turn in range(ROUNDS + 1):
            for name in names:
                if turn > 1 and least[name] > 1.5 * min(least.values()):
                    continue  # out of the race
                started = clock()
                WAYS[name](*operands)
                taken = clock() - started
                gone += taken
                if turn:  # the first time memory is taken and kernels are made
                    least[name] = min(taken, least.get(name, taken))
            if turn >= 4 and gone > SECONDS * len(least):
                break
    return least


def _candidates(a: Tensor, bias: Tensor | None) -> list[str]:
    names = ["plain", "transposed"]
    if a.dim() == 3:
        names.append("loop")
    if has_onednn(a):
        names += ["onednn"] if bias is not None else ["onednn", "onednn transposed"]
    return names
