"""Whether compiling the updates of a run pays on this machine: measured as runs go, and remembered for the next."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from rlreg.agent import BatchAgent
from rlreg.checkpoint import copy_into, flatten
from rlreg.files import write_atomic
from rlreg.machine import cache_folder
from rlreg.regularizers import Regularizer

LEAST_UPDATES = 1000
"""Shorter runs stay eager without a measurement: no update measured saves the 30 ms that compiling would have to."""
EXPECTED_SECONDS = 40.0
"""Of compiling, where it has not been measured yet: 18 to 47 s on two CPU cores (results/speed)."""
EXPECTED_SHARE = 0.5
"""Of an eager update's time that a compiled one takes, where that is not measured yet: 0.44 to 0.54 of DDPG's, TD3's,
BEER's, TD3+BC's and IQL's, 0.65 of A2PR's (results/speed)."""
EXPECTED_CYCLE_SHARE = 0.75
"""The same of a curriculum's cycle: 0.70 to 0.82 (results/speed), since worlds are played in it too."""
WARM_SHARE = 0.35
"""Of the first compiling's time that the next one takes, as Inductor finds its programs in its cache: once 12 of 62 s
(TD3 on a loaded Intel Xeon, one thread)."""
MARGIN = 1.25
"""What has to be saved for each second of compiling: estimates are rough, and a run may be stopped early."""
WATCHED = 40
"""Compiled updates that are timed, once each variant has its program."""


@dataclass
class Costs:
    """What is known of one update on this machine; None where nothing is."""

    eager_ms: float | None = None
    share: float | None = None
    """Of an eager update's CPU time that a compiled one took, one measured right after the other."""
    seconds: float | None = None
    """That compiling took, the least so far."""
    times: int = 0
    """How often it has been compiled here."""
    expected_share: float = EXPECTED_SHARE
    """The `share` where none has been measured yet."""

    def saved(self, num_updates: int) -> float | None:
        """Seconds that compiled updates are expected to save in all, without those of compiling."""
        if self.eager_ms is None:
            return None
        share = self.expected_share if self.share is None else self.share
        return num_updates * self.eager_ms * (1 - share) / 1000

    def next_seconds(self) -> float:
        """Seconds that compiling is expected to take the next time."""
        if self.seconds is None:
            return EXPECTED_SECONDS
        return self.seconds * (WARM_SHARE if self.times == 1 else 1.0)

    def pays(self, num_updates: int) -> bool:
        """Whether a run of so many updates is expected to end sooner when they are compiled."""
        saved = self.saved(num_updates)
        return saved is not None and saved > MARGIN * self.next_seconds()

    def reason(self, num_updates: int) -> str:
        """The expectation that `pays` goes by, in words."""
        choice = "compiled" if self.pays(num_updates) else "eager"
        whole, saved = num_updates * (self.eager_ms or 0.0) / 1000, self.saved(num_updates) or 0.0
        return (
            f"updates are {choice}, since {num_updates} eager ones take some {whole:.0f} s here, of which compiling "
            f"saves some {saved:.0f}, and takes some {self.next_seconds():.0f}"
        )


class Costly(Protocol):
    """What costs are of: a `BatchAgent`, or the student of a curriculum."""

    config: Any
    regularizer: Regularizer

    def state(self) -> dict[str, Any]: ...


class CostBook:
    """The costs of a learner's update on this machine, in a file beside the compiled programs.

    If Inductor's cache is deleted, what is known of it goes with it. A file that cannot be read or written costs the
    knowledge and nothing else.
    """

    def __init__(self, agent: Costly, expected_share: float = EXPECTED_SHARE) -> None:
        self.path = cache_folder() / f"rlreg-{_key(agent)}.json"
        self._expected_share = expected_share

    def read(self) -> Costs:
        nothing = Costs(expected_share=self._expected_share)
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            numbers = {name: found.get(name) for name in ("eager_ms", "share", "seconds")}
            times = found.get("times", 0)
        except (OSError, ValueError, AttributeError):
            return nothing
        known = {name: float(value) for name, value in numbers.items() if _is_time(value)}
        return replace(nothing, **known, times=times if isinstance(times, int) else 0)

    def note(self, eager_ms: float | None = None, share: float | None = None, seconds: float | None = None) -> Costs:
        """Add what was measured: of times the least so far, as other programs can only have made them longer."""
        known = self.read()
        known.eager_ms = _least(known.eager_ms, eager_ms)
        known.share = known.share if share is None else share
        known.seconds, known.times = _least(known.seconds, seconds), known.times + (seconds is not None)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            measured = {name: value for name, value in vars(known).items() if name != "expected_share"}
            write_atomic(self.path, json.dumps(measured))
        except OSError:
            pass
        return known


def _key(agent: Costly) -> str:
    """The same for updates that cost the same: of one kind and size, on one version of torch and number of threads.

    Of the settings sizes and switches count, and numbers such as step sizes do not.
    """
    shapes = sorted((name, tuple(value.shape)) for name, value in flatten(agent.state()).items())
    switches = sorted((name, value) for name, value in vars(agent.config).items() if not isinstance(value, float))
    kind = (type(agent).__name__, type(agent.regularizer).__name__, repr(switches), shapes)
    kind += (torch.__version__, torch.get_num_threads())
    return hashlib.sha256(repr(kind).encode()).hexdigest()[:16]


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _least(known: float | None, new: float | None) -> float | None:
    return min((value for value in (known, new) if value is not None), default=None)


@dataclass(frozen=True)
class Seconds:
    """By the clock, and of this process's CPUs, which other programs cannot take much of."""

    clock: float
    cpu: float


def seconds(work: Callable[[], Any]) -> Seconds:
    """How long `work` takes."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - clock, time.process_time() - cpu)


def least(times: Sequence[Seconds]) -> Seconds:
    """The least of each kind: what other programs took is none of the work's."""
    return Seconds(min(t.clock for t in times), min(t.cpu for t in times))


def share(compiled: Seconds, eager: Seconds) -> float | None:
    """Of the eager update's CPU time; None where the system's clock is too coarse for it."""
    return compiled.cpu / eager.cpu if eager.cpu > 0 else None


def time_eager(agent: BatchAgent, update: Callable[..., Any], variants: list[tuple[Hashable, ...]]) -> Seconds:
    """An eager update's time, the mean over `variants`; the agent is then as it was.

    Of each variant the least counts: the first ones allocate, and what other programs take is none of the update's. An
    update is a function of the agent's state, the batch and its number, so that one made and taken back leaves no
    trace.
    """
    number = torch.ones((), dtype=torch.int64, device=agent.device)
    times = defaultdict(list)
    with put_back(agent.state):
        for variant in [*variants, *variants]:
            times[variant].append(seconds(partial(update, number, variant)))
    return _mean(times, variants)


def _mean(times: Mapping[Hashable, Sequence[Seconds]], variants: Iterable[Hashable]) -> Seconds:
    """Over `variants`, of the least that each took."""
    taken = [least(times[variant]) for variant in variants]
    return Seconds(statistics.fmean(t.clock for t in taken), statistics.fmean(t.cpu for t in taken))


def choice(
    earlier: dict[str, Any], num_updates: int, book: CostBook, time_one: Callable[[], Seconds]
) -> dict[str, Any]:
    """Whether `compile=auto` compiles a run of so many updates: `pays`, decided once in a run and then kept with it.

    So a resumed run goes on by the same program: `earlier` is what was decided before, and `time_one` measures an eager
    update where it is not decided yet.
    """
    if earlier.get("updates") == num_updates:
        return earlier
    costs = book.note(eager_ms=1000 * time_one().clock)
    print(f"compile=auto: {costs.reason(num_updates)}", flush=True)
    return {"updates": num_updates, "pays": costs.pays(num_updates)}


@contextmanager
def put_back(state: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
    """Whatever the block makes of the live tensors that `state()` gives, they are then as they were."""
    before = {name: value.clone() for name, value in flatten(state()).items()}
    try:
        yield
    finally:
        copy_into(state(), before, "before")


class Watched:
    """A compiled `update(number, variant)` that notes what compiling took and what it saves, then only passes on."""

    def __init__(self, update: Callable[..., Any], book: CostBook, time_eager: Callable[[], Seconds]) -> None:
        """`time_eager` measures the eager update, beside which the compiled one is seen."""
        self._update, self._book, self._time_eager = update, book, time_eager
        self._first: dict[Hashable, Seconds] = {}
        self._later: dict[Hashable, list[Seconds]] = defaultdict(list)
        self._variants: list[Hashable] = []
        """Of the later calls, one by one."""

    def __call__(self, number: Tensor, variant: Hashable) -> Any:
        if len(self._variants) == WATCHED:
            return self._update(number, variant)
        out = None

        def update() -> None:
            nonlocal out
            out = self._update(number, variant)

        taken = seconds(update)
        if variant in self._first:
            self._variants.append(variant)
            self._later[variant].append(taken)
        else:
            self._first[variant] = taken
            self._variants.clear()
            self._later.clear()
        if len(self._variants) == WATCHED:
            usual = _mean(self._later, self._variants)
            compiling = sum(first.clock for first in self._first.values()) - usual.clock * len(self._first)
            self._book.note(share=share(usual, self._time_eager()), seconds=max(compiling, 0.0))
        return out
