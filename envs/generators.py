"""The random generators that a single environment may draw from, seeded and saved for each world by itself.

Gymnasium asks environments to draw from `np_random`. Many draw from elsewhere as well: generators that they made
themselves, their spaces' `sample()`, or numpy's and Python's global generators, which all worlds of a process share.
Nothing here imports torch: it runs inside worker processes.
"""

from __future__ import annotations

import copy
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

Generator = np.random.Generator | np.random.RandomState | random.Random
PROBATION = 100
"""Calls after which an environment that has not touched the global generators is taken not to, within its episodes."""


def rng_state(rng: Generator) -> dict[str, Any]:
    """The generator's whole state: JSON values, and an array for the Mersenne twister."""
    if isinstance(rng, np.random.RandomState):
        return rng.get_state(legacy=False)
    if isinstance(rng, random.Random):
        version, words, gauss = rng.getstate()
        return {"version": version, "words": np.array(words, np.int64), "gauss": gauss}
    return rng.bit_generator.state


def set_rng_state(rng: Generator, state: dict[str, Any]) -> None:
    """Put `rng` back to a `rng_state`."""
    if isinstance(rng, np.random.RandomState):
        rng.set_state(state)
    elif isinstance(rng, random.Random):
        rng.setstate((state["version"], tuple(state["words"].tolist()), state["gauss"]))
    else:
        rng.bit_generator.state = state


def derived_seed(seed: int, name: str) -> int:
    """A seed for the generator called `name` of a world seeded with `seed`."""
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),))
    return int(sequence.generate_state(1)[0])


class Globals:
    """A world's own edition of numpy's and Python's global generators, in place while the world is called."""

    def __init__(self, seed: int) -> None:
        self.rngs = {"numpy": np.random.mtrand._rand, "python": random._inst}
        self.own = {
            "numpy": rng_state(np.random.RandomState(derived_seed(seed, "numpy"))),
            "python": rng_state(random.Random(derived_seed(seed, "python"))),
        }
        self.used = False
        """Whether the world has ever drawn from one of them."""
        self._calls = 0

    def call(self, function: Callable, *args: Any, within_episode: bool = False, **kwargs: Any) -> Any:
        """`function(...)`. An environment that never drew from them is spared the exchange within its episodes."""
        if within_episode and not self.used and self._calls > PROBATION:
            return function(*args, **kwargs)
        self._calls += 1
        outer = {name: rng.get_state() if name == "numpy" else rng.getstate() for name, rng in self.rngs.items()}
        for name, rng in self.rngs.items():
            set_rng_state(rng, self.own[name])
        try:
            return function(*args, **kwargs)
        finally:
            now = {name: rng_state(rng) for name, rng in self.rngs.items()}
            self.used |= any(not _same(now[name], self.own[name]) for name in now)
            self.own = now
            self.rngs["numpy"].set_state(outer["numpy"])
            self.rngs["python"].setstate(outer["python"])


def own_generators(env: gymnasium.Env) -> dict[str, Generator]:
    """Every generator that an environment, its wrappers and its spaces hold, by name; `np_random` is the first."""
    found: dict[str, Generator] = {"np_random": env.unwrapped.np_random}
    seen = {id(found["np_random"])}

    def note(name: str, value: Any) -> None:
        if isinstance(value, Generator) and id(value) not in seen:
            seen.add(id(value))
            found[name] = value

    for layer in _layers(env):
        kind = type(layer).__name__
        for name, value in vars(layer).items():
            note(f"{kind}.{name}", value)
    for name in ("action_space", "observation_space"):
        for path, space in _spaces(name, getattr(env.unwrapped, name, None)):
            note(path, space._np_random)
    return found


def seed_own_generators(env: gymnasium.Env, seed: int) -> None:
    """Seed what `env.reset(seed=...)` may leave out: its spaces, and generators that it made itself.

    Spaces that a class holds for all its instances become the environment's own.
    """
    base = env.unwrapped
    for name in ("action_space", "observation_space"):
        space = getattr(base, name, None)
        if isinstance(space, gymnasium.Space):
            if name not in vars(base) and not isinstance(getattr(type(base), name, None), property):
                space = copy.deepcopy(space)
                setattr(base, name, space)
            space.seed(derived_seed(seed, name))
    for name, rng in own_generators(env).items():
        if "." not in name:
            continue  # a space's, or np_random, which was seeded when the environment was made
        number = derived_seed(seed, name)
        if isinstance(rng, random.Random | np.random.RandomState):
            rng.seed(number)
        else:
            rng.bit_generator.state = type(rng.bit_generator)(number).state


def _layers(env: gymnasium.Env) -> Iterator[Any]:
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _spaces(path: str, space: Any) -> Iterator[tuple[str, gymnasium.Space]]:
    if not isinstance(space, gymnasium.Space):
        return
    yield path, space
    parts = getattr(space, "spaces", ())
    for name, part in parts.items() if isinstance(parts, dict) else enumerate(parts):
        yield from _spaces(f"{path}[{name}]", part)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states of the same generator are equal."""
    return all(
        _same(value, other[name]) if isinstance(value, dict) else np.array_equal(value, other[name])
        for name, value in one.items()
    )
