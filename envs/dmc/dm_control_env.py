"""A task of `dm_control.suite`, stepped by dm_control itself, as a Gymnasium environment."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.dmc.task_names import EPISODE_STEPS, check
from envs.notices import NOTICE
from rlreg.errors import NonFiniteError, UserError
from rlreg.video.opengl import drawing, import_without_drawing

with warnings.catch_warnings():
    # Without a display its import says so, once a process; `render` says it where it matters.
    warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing")
    try:
        suite = import_without_drawing("dm_control.suite")
        from dm_control.rl import control
        from dm_control.rl.control import PhysicsError
    except ModuleNotFoundError as error:
        if error.name != "dm_control":
            raise
        raise UserError(
            "dm-control is not installed: pip install -c constraints.txt --no-deps dm-control (by itself, because "
            "labmaze, which it asks for and the suite does not use, has no wheels after Python 3.12)"
        ) from None

# MuJoCo announces, for every world, the removal of an attribute that the suite's own models use.
logging.getLogger("absl").addFilter(lambda record: NOTICE not in record.getMessage())


class DMControlEnv(gymnasium.Env):
    """`suite.load(domain, task, task_kwargs={'random': seed})` behind Gymnasium's interface.

    Observations are dm_control's, concatenated in its own order, as float32. Actions in [-1, 1] are mapped to
    the action spec. Rewards are float64 and dm_control's to the bit. Episodes end after 1000 control steps by
    truncation, except where the task sets the discount to zero (`lqr` alone): that is termination.
    """

    def __init__(
        self,
        task: str,
        seed: int | None = None,
        action_repeat: int = 1,
        render_mode: str | None = None,
        render_size: tuple[int, int] = (480, 640),
    ) -> None:
        """`action_repeat`: control steps an agent step, their rewards summed. `render_size`: (height, width).

        Raises `UserError` for an unknown task or an impossible repeat.
        """
        if not 1 <= action_repeat <= EPISODE_STEPS:
            raise UserError(f"action_repeat={action_repeat}: give 1 (none) to {EPISODE_STEPS}")
        self.task, self.action_repeat = task, action_repeat
        self.max_episode_steps = -(-EPISODE_STEPS // action_repeat)
        self.render_mode, self._render_size = render_mode, render_size
        self._load(seed)

        spec = self._env.action_spec()
        # Not low and range: so the mapping is the identity, to the bit, where the spec is [-1, 1].
        self._centre, self._half_range = (spec.maximum + spec.minimum) / 2, (spec.maximum - spec.minimum) / 2
        (obs_dim,) = self._env.observation_spec()["observations"].shape
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, spec.shape, np.float32)
        fps = round(1 / (self._env.control_timestep() * action_repeat))
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": max(fps, 1)}

    @property
    def np_random(self) -> np.random.RandomState:
        """The task's own generator, from which dm_control draws all that is random."""
        return self._env.task.random

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode. With a seed the task is loaded anew, as `lqr` draws its very model from it."""
        super().reset(seed=seed)
        if seed is not None and not (self._fresh and seed == self._seed):
            self._load(seed)
        self._steps, self._fresh = 0, False
        return self._observation(self._env.reset()), {}

    def step(self, action: NDArray) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Raises `NonFiniteError` where MuJoCo reports a diverged state."""
        control = self._centre + self._half_range * action
        reward = 0.0
        try:
            for _ in range(self.action_repeat):
                time_step = self._env.step(control)
                reward += time_step.reward
                self._steps += 1
                if time_step.last() or self._steps == EPISODE_STEPS:
                    break
        except PhysicsError as error:
            raise NonFiniteError(f"simulation diverged ({' '.join(str(error).split())})") from error
        terminated = bool(time_step.last() and time_step.discount == 0.0)
        truncated = not terminated and (time_step.last() or self._steps == EPISODE_STEPS)
        return self._observation(time_step), reward, terminated, truncated, {}

    def render(self) -> NDArray[np.uint8] | None:
        """The task's first camera as (height, width, 3), or None without `render_mode='rgb_array'`.

        Raises `UserError` where OpenGL does not work.
        """
        if self.render_mode is None:
            return None
        height, width = self._render_size
        with drawing(self.task):
            return self._env.physics.render(height, width, camera_id=0)

    def close(self) -> None:
        self._env.close()

    def load(self, seed: int | None) -> control.Environment:
        """dm_control's own environment, with flat observations; a task of one's own overrides this alone."""
        check(self.task)
        domain, _, name = self.task.partition("-")
        return suite.load(domain, name, task_kwargs={"random": seed}, environment_kwargs={"flat_observation": True})

    def _load(self, seed: int | None) -> None:
        self._seed, self._fresh = seed, True
        self._env = self.load(seed)
        if self.render_mode is None:
            # `quadruped-escape` asks for a renderer at every reset, to show it the new terrain: without this
            # line it could not run where there is no OpenGL.
            self._env.physics._make_rendering_contexts = lambda: None

    @staticmethod
    def _observation(time_step: Any) -> NDArray[np.float32]:
        return time_step.observation["observations"].astype(np.float32)
