"""TD3+BC (Fujimoto & Gu, "A Minimalist Approach to Offline Reinforcement Learning", NeurIPS 2021).

TD3 on a data set, whose actor also clones the data's actions, on normalised states: the actor's loss is
all that differs. Shapes: S seeds, B batch, O and A observation and action sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.td3 import TD3, TD3Config
from rlreg.buffers import Batch
from rlreg.config import TrainConfig
from rlreg.errors import require
from rlreg.networks import Normalizer, Params
from rlreg.objectives import cloning_loss, scaled_policy_gradient
from rlreg.regularizers import Metrics, Regularizer
from rlreg.training.offline import OfflineTraining


@dataclass
class TD3BCConfig(TD3Config):
    """TD3's knobs and two more; the defaults are the paper's (its table 3)."""

    _target_: str = "agents.td3_bc.TD3BC"
    name: str = "td3_bc"
    alpha: float = 2.5
    """Weight of Q against cloning: lambda = alpha / mean |Q|. Larger trusts Q more."""
    normalize_obs: bool = True
    """Whether training fits `normalizer` to the data's states."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha >= 0, "agent.alpha", self.alpha, "a number >= 0")


class TD3BC(TD3):
    """S independent TD3+BC learners. All observations that come in are raw."""

    Config = TD3BCConfig
    Training = OfflineTraining

    def __init__(
        self,
        config: TD3BCConfig,
        regularizer: Regularizer,
        obs_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        *,
        critic_hidden: Sequence[int] | None = None,
    ) -> None:
        self.normalizer = Normalizer(len(seeds), obs_dim, device)
        super().__init__(
            config,
            regularizer,
            obs_dim,
            action_dim,
            seeds,
            device,
            critic_hidden=critic_hidden,
            normalize=self.normalizer,
        )

    def actor_loss(self, params: Params, batch: Batch) -> tuple[Tensor, Metrics]:
        """-lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2, the paper's eq. 5: (S,)."""
        action = self.actor(params, batch.obs)
        policy_gradient, scale = scaled_policy_gradient(self.first_q(batch.obs, action), self.config.alpha)
        cloning = cloning_loss(action, batch.action)
        loss = policy_gradient + cloning
        metrics = {"train/actor_loss": loss, "train/lambda": scale, "behaviour/cloning_loss": cloning}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def state(self) -> dict[str, Params | dict[str, Params]]:
        return super().state() | {"normalizer": self.normalizer.state()}

    def to_sb3(self, i: int, env: Any, train: TrainConfig) -> Any:
        """Seed number i as a Stable-Baselines3 TD3 on raw observations; see `sb3_td3`."""
        c, names = self.config, ("actor", "actor_target", "critic", "critic_target")
        return sb3_td3(
            {name: self.normalizer.fold(self.state()[name]) for name in names},
            i,
            env,
            train,
            learning_rate=c.critic_learning_rate,
            batch_size=c.batch_size,
            tau=c.tau,
            gamma=c.discount,
            policy_delay=c.policy_delay,
            target_policy_noise=c.target_noise,
            target_noise_clip=c.target_noise_clip,
            device=self.device,
        )


def sb3_td3(networks: Mapping[str, Params], i: int, env: Any, train: TrainConfig, **settings: Any) -> Any:
    """Entry i of stacked networks as a `stable_baselines3.TD3` attached to `env`; `settings` are its arguments.

    `networks`: `actor` and perhaps `actor_target`, `critic`, `critic_target`, with weights (S, [E,] in, out)
    that take raw observations; SB3's own initial ones stand in for what is missing. Widths, depths and
    the number of critics are the networks'. Adam begins afresh in `learn`: its moments belong to the
    parameters before the normalisation was folded in.
    """
    import stable_baselines3

    from rlreg.sb3 import off_policy_settings

    critic = networks.get("critic")
    net_arch = {"pi": _hidden(networks["actor"]), "qf": _hidden(critic or networks["actor"])}
    num_critics = critic["0.weight"].shape[1] if critic else 2
    model = stable_baselines3.TD3(
        "MlpPolicy",
        env,
        policy_kwargs={"net_arch": net_arch, "n_critics": num_critics},
        **off_policy_settings(train),
        **settings,
    )
    for name, params in networks.items():
        module = getattr(model, name)
        if name.startswith("actor"):
            module.mu.load_state_dict(_sequential(params, i))
        else:
            for e, q in enumerate(module.q_networks):
                q.load_state_dict(_sequential(params, i, e))
    return model


def _layers(params: Params) -> int:
    return sum(name.removesuffix(".weight").isdecimal() for name in params)


def _hidden(params: Params) -> list[int]:
    return [params[f"{layer}.weight"].shape[-1] for layer in range(_layers(params) - 1)]


def _sequential(params: Params, *index: int) -> Params:
    """One entry of a stacked MLP as the state of SB3's `nn.Sequential`: its Linear layers are 0, 2, 4, ..."""
    layers = range(_layers(params))
    weights = {f"{2 * layer}.weight": params[f"{layer}.weight"][index].T for layer in layers}
    return weights | {f"{2 * layer}.bias": params[f"{layer}.bias"][index].squeeze(0) for layer in layers}
