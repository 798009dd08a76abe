"""Small environments for tests: ones that go wrong, draw from somewhere else, or have odd spaces.

`register()` makes them known to Gymnasium as `rlreg-test/<Name>-v0`; a process of its own imports this module by
`env.id=worlds:rlreg-test/<Name>-v0` with `tests` on its path.
"""

from __future__ import annotations

import random

import gymnasium
import numpy as np

LIMIT = 50
"""Steps of an episode."""


class Walk(gymnasium.Env):
    """A point on a line that is pushed: quick, with continuous actions. What the subclasses do wrong, it does not."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x, self.v = 0, self.draw(), 0.0
        return self.obs(), {}

    def step(self, action):
        self.t += 1
        self.v = 0.9 * self.v + 0.1 * float(np.ravel(action)[0]) + self.push()
        self.x += self.v
        return self.obs(), self.reward(), False, False, {}

    def obs(self):
        return np.array([self.x, self.v, self.t / LIMIT])

    def reward(self) -> float:
        return -abs(self.x)

    def draw(self) -> float:
        return self.np_random.uniform(-1, 1)

    def push(self) -> float:
        return 0.0


class NanReward(Walk):
    """Its 20th step of an episode rewards with NaN."""

    def reward(self):
        return np.nan if self.t == 20 else super().reward()


class NanObservation(Walk):
    """Its 20th observation is NaN."""

    def obs(self):
        return super().obs() * (np.nan if self.t == 20 else 1)


class HugeReward(Walk):
    """A finite float64 that float32 cannot hold."""

    def reward(self):
        return 1e39 if self.t == 20 else super().reward()


class HugeObservation(Walk):
    def obs(self):
        return super().obs() + (1e300 if self.t == 20 else 0)


class BadStart(Walk):
    """Every second episode would begin with NaN."""

    episodes = 0

    def obs(self):
        if self.t == 0:
            self.episodes += 1
        return super().obs() * (np.nan if self.t == 0 and self.episodes % 2 == 0 else 1)


class AlwaysBad(Walk):
    """No reset gives anything."""

    def obs(self):
        return super().obs() * np.nan


class SickSeed(Walk):
    """From its 150th step on nothing but NaN, in the training world of seed 1 alone."""

    sick = False
    steps = 0

    def reset(self, *, seed=None, options=None):
        self.sick |= seed == 1
        return super().reset(seed=seed)

    def reward(self):
        self.steps += 1
        return np.nan if self.sick and self.steps >= 150 else super().reward()


class GlobalNumpy(Walk):
    """Draws from numpy's global generator, at resets and within episodes."""

    def draw(self):
        return np.random.uniform(-1, 1)

    def push(self):
        return 0.01 * np.random.randn()


class GlobalPython(Walk):
    def draw(self):
        return random.uniform(-1, 1)

    def push(self):
        return random.gauss(0, 0.01)


class OwnGenerator(Walk):
    """Made in the constructor, never seeded."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.rng = np.random.default_rng()
        self.other = random.Random()

    def draw(self):
        return self.rng.uniform(-1, 1)

    def push(self):
        return self.other.gauss(0, 0.01)


class GeneratorOfReset(Walk):
    """Made in reset, from its seed, as older environments do."""

    def reset(self, *, seed=None, options=None):
        if seed is not None or not hasattr(self, "state_rng"):
            self.state_rng = np.random.RandomState(seed)
        return super().reset(seed=seed)

    def draw(self):
        return self.state_rng.uniform(-1, 1)


class SpacesSample(Walk):
    def draw(self):
        return float(self.action_space.sample()[0])

    def push(self):
        return 0.01 * float(self.action_space.sample()[0])


class Remembers(Walk):
    """Keeps something over its episodes: each begins further out."""

    episodes = 0

    def draw(self):
        self.episodes += 1
        return 0.1 * self.episodes


class Clock(Walk):
    """Draws from where nobody can follow."""

    def draw(self):
        return random.SystemRandom().uniform(-1, 1)


class NoRenderMode(Walk):
    def __init__(self) -> None:
        super().__init__()


class Camera(Walk):
    """Observes pictures."""

    observation_space = gymnasium.spaces.Box(0, 255, (84, 84, 3), np.uint8)


class CameraInDict(Walk):
    """Observes pictures beside numbers."""

    observation_space = gymnasium.spaces.Dict({"eye": Camera.observation_space, "x": Walk.observation_space})


class InTuple(Walk):
    observation_space = gymnasium.spaces.Tuple((Walk.observation_space, Walk.observation_space))


class ManySwitches(Walk):
    action_space = gymnasium.spaces.MultiDiscrete([3, 2])


class Unbounded(Walk):
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)


class DictOfActions(Walk):
    action_space = gymnasium.spaces.Dict({"push": Walk.action_space})


class RaisesInStep(Walk):
    """Of its own doing, at its 20th step."""

    def reward(self):
        return {}["no such thing"] if self.t == 20 else super().reward()


class RaisesInReset(Walk):
    """In its second episode."""

    begun = False

    def draw(self):
        if self.begun:
            raise FileNotFoundError("no such\nmap")
        self.begun = True
        return super().draw()


class Exits(Walk):
    """Would end the whole process, and call that a success."""

    def reward(self):
        return exit(0) if self.t == 20 else super().reward()


class RaisesWhenMade(Walk):
    def __init__(self, render_mode=None) -> None:
        raise OSError("no licence")


class OldStep(Walk):
    """Gym's API of long ago: four values."""

    def step(self, action):
        return super().step(action)[:4]


class WrongSize(Walk):
    """Observes one number more than it says."""

    def obs(self):
        return np.append(super().obs(), 0.0)


ODD_SPACES = (CameraInDict, InTuple, ManySwitches, Unbounded, DictOfActions)
RAISES = (RaisesInStep, RaisesInReset, Exits, RaisesWhenMade, OldStep, WrongSize)
GOES_WRONG = (NanReward, NanObservation, HugeReward, HugeObservation)
DRAWS_ELSEWHERE = (GlobalNumpy, GlobalPython, OwnGenerator, GeneratorOfReset, SpacesSample)
CANNOT_BE_SAVED = (Remembers, Clock)


def register() -> None:
    others = (Walk, BadStart, AlwaysBad, SickSeed, NoRenderMode, Camera, *ODD_SPACES)
    for kind in (*others, *RAISES, *GOES_WRONG, *DRAWS_ELSEWHERE, *CANNOT_BE_SAVED):
        name = f"rlreg-test/{kind.__name__}-v0"
        if name not in gymnasium.registry:
            gymnasium.register(name, kind, max_episode_steps=LIMIT)
    if "rlreg-test/Endless-v0" not in gymnasium.registry:
        gymnasium.register("rlreg-test/Endless-v0", Walk)


register()
