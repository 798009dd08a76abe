"""Cartpole: a pole, or a chain of them, hinged to a cart on a rail."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.dmc.suite.base import BatchedTask, Domain, load_model
from envs.dmc.suite.rewards import tolerance
from envs.physics.base import Physics
from envs.streams import EpisodeStreams

SUITE = Domain("cartpole")


@SUITE.add
def balance() -> BatchedTask:
    return Balance(swing_up=False, sparse=False)


@SUITE.add
def balance_sparse() -> BatchedTask:
    return Balance(swing_up=False, sparse=True)


@SUITE.add
def swingup() -> BatchedTask:
    return Balance(swing_up=True, sparse=False)


@SUITE.add
def swingup_sparse() -> BatchedTask:
    return Balance(swing_up=True, sparse=True)


@SUITE.add
def two_poles() -> BatchedTask:
    return Balance(swing_up=True, sparse=False, num_poles=2)


@SUITE.add
def three_poles() -> BatchedTask:
    return Balance(swing_up=True, sparse=False, num_poles=3)


class Balance(BatchedTask):
    """Keep the poles upright, beginning close to there or (`swing_up`) hanging."""

    CART_RANGE = (-0.25, 0.25)
    """Where the cart counts as centred in the sparse task (m)."""
    ANGLE_COSINE_RANGE = (0.995, 1.0)
    """Where a pole counts as upright in the sparse task."""

    def __init__(self, swing_up: bool, sparse: bool, num_poles: int = 1) -> None:
        super().__init__(load_model("cartpole", num_poles=num_poles))
        self._swing_up, self._sparse = swing_up, sparse

    def bind(self, physics: Physics) -> None:
        super().bind(physics)
        xmat = physics.data("xmat")
        self.cart_position = physics.named("qpos", "slider")[:, 0]
        self.angular_vel = physics.qvel[:, 1:]
        self.pole_angle_cosine = xmat[:, 2:, 8]  # zz, of the bodies after the world and the cart
        self._xmat = xmat.flatten(1)
        columns = [9 * body + column for body in range(2, self.model.nbody) for column in (8, 2)]  # zz, xz
        self._angles = self.tensor(columns, torch.int64)

    def bounded_position(self) -> Tensor:
        """The cart's position and each pole's angle as cosine and sine, (W, 1 + 2 poles)."""
        return torch.cat([self.cart_position[:, None], self._xmat[:, self._angles]], dim=1)

    def initialize_episode(self, mask: Tensor, random: EpisodeStreams) -> None:
        nv = self.model.nv
        if self._swing_up:
            cart = 0.01 * random.normal("cart", (1,))
            first = math.pi + 0.01 * random.normal("first pole", (1,))
            qpos = torch.cat([cart, first, 0.1 * random.normal("other poles", (nv - 2,))], dim=1)
        else:
            cart = random.uniform("cart", -0.1, 0.1, (1,))
            qpos = torch.cat([cart, random.uniform("poles", -0.034, 0.034, (nv - 1,))], dim=1)
        self.physics.set_state(mask, qpos, 0.01 * random.normal("velocity", (nv,)))

    def get_observation(self) -> dict[str, Tensor]:
        return {"position": self.bounded_position(), "velocity": self.physics.qvel}

    def get_reward(self) -> Tensor:
        if self._sparse:
            cart_in_bounds = tolerance(self.cart_position, self.CART_RANGE)
            angle_in_bounds = tolerance(self.pole_angle_cosine, self.ANGLE_COSINE_RANGE).prod(dim=1)
            return cart_in_bounds * angle_in_bounds
        upright = (self.pole_angle_cosine + 1) / 2
        centered = (1 + tolerance(self.cart_position, margin=2)) / 2
        small_control = tolerance(self.physics.ctrl[:, 0], margin=1, value_at_margin=0, sigmoid="quadratic")
        small_control = (4 + small_control) / 5
        small_velocity = (1 + tolerance(self.angular_vel, margin=5).amin(dim=1)) / 2
        return upright.mean(dim=1) * small_control * small_velocity * centered
