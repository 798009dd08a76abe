"""The environments that policies trained on D4RL's datasets are evaluated in."""

from __future__ import annotations

from importlib.util import find_spec

import gymnasium
import numpy as np

from envs import gym
from envs.d4rl.names import Info, info
from rlreg.errors import UserError

MUJOCO = {"hopper": "Hopper-v4", "halfcheetah": "HalfCheetah-v4", "walker2d": "Walker2d-v4", "ant": "Ant-v4"}
ADROIT = {
    "pen": "AdroitHandPen-v1",
    "door": "AdroitHandDoor-v1",
    "hammer": "AdroitHandHammer-v1",
    "relocate": "AdroitHandRelocate-v1",
}
ADROIT_REACH = {
    "door": lambda obs: obs[35:38],  # palm - handle
    "hammer": lambda obs: obs[33:36] - obs[36:39],  # palm - hammer
    "relocate": lambda obs: obs[30:33],  # palm - ball
}
"""The way from the palm to what it has to take, in observations."""
PEN_HEIGHT, PEN_DROPPED = 26, 0.075
"""Where in pen's observation its height is, and below what, in metres, it has dropped."""
ANT_CONTACT_FORCES = 84
"""Numbers of ant's observation that are zero in D4RL's files."""
NOT_THE_SAME = {
    "antmaze": "gymnasium-robotics' AntMaze has its origin, goals and resets elsewhere",
    "maze2d": "gymnasium-robotics' PointMaze has its origin, goals and rewards elsewhere",
    "kitchen": "gymnasium-robotics' FrankaKitchen observes other quantities",
}
"""Tasks whose successors of the same name would not understand a policy trained on D4RL's files."""


class _NoContactForces(gymnasium.ObservationWrapper, gymnasium.utils.RecordConstructorArgs):
    """Ant's 27 joint positions and velocities, and its 84 contact forces as D4RL's files have them: zero.

    mujoco-py left them at zero from MuJoCo 2.0 on, in D4RL's files too (its issue 143); true ones would be far from
    anything that was trained on. Gymnasium's v4 leaves them out, and their cost with them, unless asked for.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (27 + ANT_CONTACT_FORCES,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.pad(observation, (0, ANT_CONTACT_FORCES))


class _AdroitAsInD4RL(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """Adroit's dense rewards and ends as D4RL has them, from what gymnasium-robotics' v1 gives and observes.

    There the distance of the hand to what it has to take adds a tenth to the reward since version 1.2.1, where D4RL
    subtracts it; and an episode of pen goes on after the pen has dropped, where D4RL ends it.
    """

    def __init__(self, env: gymnasium.Env, task: str) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, task=task)
        gymnasium.Wrapper.__init__(self, env)
        self._task = task

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self._task == "pen":
            terminated = terminated or bool(obs[PEN_HEIGHT] < PEN_DROPPED)
        else:
            reward -= 0.2 * float(np.linalg.norm(ADROIT_REACH[self._task](obs)))
        return obs, reward, terminated, truncated, info


def make_single(id: str, seed: int | None = None, render_mode: str | None = None) -> gymnasium.Env:
    """The task of the D4RL dataset `id`.

    Gym-MuJoCo: Gymnasium's v4. D4RL's published scores come from Gym's v2. v4 kept v2's models, observations,
    rewards and terminations, but v2 ran mujoco-py on MuJoCo 1.50 to 2.1, v4 the current MuJoCo, whose contacts and
    solver have changed: a policy's returns differ a little. v5 changed rewards and observations and is not used.

    Adroit: gymnasium-robotics (extra `adroit`), with D4RL's rewards and ends put back. AntMaze, Maze2D and Kitchen have
    no simulator today with D4RL's observations and goals.

    Raises `UserError` for an unknown name, and for a task that cannot be simulated, saying what is missing.
    """
    wanted = info(id)
    if wanted.task in MUJOCO:
        env = gym.make_single(MUJOCO[wanted.task], seed, render_mode)
        return _NoContactForces(env) if wanted.task == "ant" else env
    if wanted.task in ADROIT:
        return _adroit(wanted, seed, render_mode)
    raise UserError(
        f"'{id}' cannot be evaluated: D4RL's {wanted.task} runs on mujoco-py only, and {NOT_THE_SAME[wanted.task]}"
    )


def _adroit(wanted: Info, seed: int | None, render_mode: str | None) -> gymnasium.Env:
    if find_spec("gymnasium_robotics") is None:
        raise UserError(f"evaluating '{wanted.name}' needs gymnasium-robotics: pip install gymnasium-robotics")
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    env = gym.make_single(ADROIT[wanted.task], seed, render_mode, max_episode_steps=wanted.max_episode_steps)
    return _AdroitAsInD4RL(env, wanted.task)
