"""Stable-Baselines3's own algorithms as baselines: `agent=sb3/td3`, `agent=sb3/sac`, `agent=sb3/ppo`.

SB3 trains (`rlreg.training.sb3_baselines`); ours are the worlds, the evaluation, the run folder and the tables. Of
`train` apply `total_steps`, `num_envs` and `log_every`, and but for PPO `warmup_steps`, `updates_per_step` and
`buffer_capacity`; a checkpoint is written at a seed's end. `compile` does not apply.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import stable_baselines3
import torch
from omegaconf import MISSING
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from rlreg import checks
from rlreg.agent import AgentConfig
from rlreg.checkpoint import copy_into, flatten
from rlreg.config import TrainConfig
from rlreg.errors import UserError, unknown
from rlreg.regularizers import Regularizer
from rlreg.sb3 import SB3Agent, Spaces, action_noise, model_state, off_policy_settings
from rlreg.training.sb3_baselines import SB3Training

ALGORITHMS = ("DDPG", "PPO", "SAC", "TD3")
# Arguments of SB3's constructors that follow from other settings.
_OURS = {
    "self", "policy", "env", "gamma", "policy_kwargs", "action_noise", "buffer_size", "learning_starts",
    "gradient_steps", "seed", "device", "tensorboard_log", "verbose", "_init_setup_model",
}  # fmt: skip


@dataclass
class SB3Config(AgentConfig):
    """An algorithm of Stable-Baselines3 and its settings."""

    _target_: str = "agents.sb3_baselines.SB3"
    algorithm: str = MISSING
    """TD3, DDPG, SAC or PPO."""
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the hidden layers of policy and critic."""
    discount: float = 0.99
    exploration_noise: float = 0.0
    """Standard deviation of the Gaussian noise on actions while training (TD3, DDPG, SAC)."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the algorithm, by SB3's names."""

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise unknown("agent.algorithm", str(self.algorithm), ALGORITHMS)
        checks.widths(self, "agent", "hidden")
        checks.within(self, "agent", "discount", interval="(0, 1)")
        checks.not_negative(self, "agent", "exploration_noise")
        valid = inspect.signature(getattr(stable_baselines3, self.algorithm).__init__).parameters.keys() - _OURS
        for key in self.settings:
            if key not in valid:
                raise unknown("key", f"agent.settings.{key}", [f"agent.settings.{name}" for name in valid])


class SB3(SB3Agent):
    """S models of one of SB3's algorithms, for evaluation, checkpoints and export."""

    Config = SB3Config
    Training = SB3Training

    def __init__(
        self,
        config: SB3Config,
        regularizer: Regularizer,
        obs_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        """Raises `UserError` for a regulariser and for settings that SB3 refuses."""
        if type(regularizer) is not Regularizer:
            raise UserError(
                f"regularizer={regularizer.name}: agent={config.name} is Stable-Baselines3's own; give regularizer=none"
            )
        self.config, self.device = config, torch.device(device)
        self.obs_dim, self.action_dim, self.seeds = obs_dim, action_dim, tuple(seeds)
        self.alive = torch.ones(len(self.seeds), dtype=torch.bool, device=device)
        nothing_stored = TrainConfig(buffer_capacity=1)
        super().__init__([self.build(seed, Spaces(obs_dim, action_dim), nothing_stored) for seed in self.seeds])

    def build(self, seed: int, env: gymnasium.Env | VecEnv, train: TrainConfig) -> BaseAlgorithm:
        """A fresh model. As SB3 does, this seeds the generators of Python, NumPy and torch."""
        c, kind = self.config, getattr(stable_baselines3, self.config.algorithm)
        settings = dict(c.settings)
        if issubclass(kind, OffPolicyAlgorithm):
            settings |= off_policy_settings(train) | {
                "action_noise": action_noise(c.exploration_noise, self.action_dim)
            }
        try:
            return kind(
                "MlpPolicy",
                env,
                gamma=c.discount,
                policy_kwargs={"net_arch": list(c.hidden)},
                seed=seed,
                device=self.device,
                **settings,
            )
        except (AssertionError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"agent.settings: SB3's {c.algorithm} refuses them ({reason})") from error

    def to_sb3(self, i: int, env: gymnasium.Env, train: TrainConfig) -> BaseAlgorithm:
        """Seed number i as a model of its own, attached to `env`."""
        model = self.build(self.seeds[i], env, train)
        copy_into(model_state(model), flatten(model_state(self.models[i])), self.config.name)
        return model

    def state(self) -> dict[str, Any]:
        """Every tensor of every seed's networks and optimisers, live and nested by name."""
        return {f"seed-{seed}": model_state(model) for seed, model in zip(self.seeds, self.models, strict=True)}
