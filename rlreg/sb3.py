"""Stable-Baselines3 (SB3): our agents as its models, its models as our agents, our worlds as its own."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from rlreg.agent import Agent, Policy
from rlreg.build import build_task, check_device, load_agent
from rlreg.config import TrainConfig, seed_list
from rlreg.errors import UserError
from rlreg.files import written_beside
from rlreg.run_folder import RunFolder
from rlreg.task import VectorEnv

NETWORKS = ("actor", "actor_target", "critic", "critic_target")
TD3_PARTS = {*NETWORKS, "actor_optimizer", "critic_optimizer"}


# ------------------------------------------------------------------ our runs as SB3's models


def load(
    run_dir: str | Path,
    seed: int = 0,
    checkpoint: int | str | None = None,
    device: str = "cpu",
    render_mode: str | None = None,
    trust: bool = False,
) -> BaseAlgorithm:
    """One seed of a run as a Stable-Baselines3 model, attached to a fresh environment of the run's task.

    The model holds the seed's networks and targets from the newest checkpoint, or from `checkpoint` (best, last or a
    step), and the run's hyperparameters; that of an online agent its Adam moments and update count too, where an
    offline agent's Adam begins afresh. `render_mode='rgb_array'` is what `VecVideoRecorder(model.get_env(), ...)`
    wants.

    `model.learn` goes on training, as SB3 does: plain TD3 or DDPG in float32, without the run's regulariser.
    The replay memory stays behind. `learn(n)` therefore begins with `model.learning_starts` random steps
    (the run's `train.warmup_steps`; set it to choose), while `learn(n, reset_num_timesteps=False)` goes on
    counting from the run's own steps: it acts with the policy and learns from the first transition on.

    The folder's configuration may only name what rlreg has; `trust=True` follows one that names code of its own.

    Raises `UserError` for a folder without a run or checkpoint, a seed that the run does not hold, and an
    agent that has no counterpart in SB3.
    """
    check_device(device)
    folder = RunFolder(Path(run_dir))
    cfg = folder.load_config(trust)
    seeds = seed_list(cfg.seeds)
    if seed not in seeds:
        raise UserError(f"seed={seed}: run_dir={folder.path} holds {', '.join(map(str, seeds))}")
    agent, step = load_agent(folder, device, checkpoint, trust)
    if type(agent).to_sb3 is Agent.to_sb3:  # before an environment is made, which there need not be
        raise agent.no_counterpart()
    train = TrainConfig(**{**cfg.train, "num_envs": 1})
    model = agent.to_sb3(seeds.index(seed), build_task(cfg).single_env(seed, render_mode), train)
    model.num_timesteps = step
    return model


def export_zip(run_dir: str | Path, seed: int, checkpoint: int | str | None = None, trust: bool = False) -> Path:
    """Write `load`'s model as SB3's own zip, `<run_dir>/sb3/seed-<k>.zip`, and return its path.

    It opens with the `load` of SB3's class, such as `stable_baselines3.TD3.load`, where this package is not installed,
    and fits the environment that `gymnasium.make` gives: its spaces are that one's, where these are a Box of
    observations and a Box of real actions, or discrete ones. For other tasks, such as dm_control's, they are those of
    our single environments: flat float32 observations, actions in [-1, 1]. Raises `UserError`.
    """
    model = load(run_dir, seed, checkpoint, trust=trust)
    _fit_the_original(model)
    path = Path(run_dir) / "sb3" / f"seed-{seed}.zip"
    try:
        RunFolder(Path(run_dir)).refuse_links()
        path.parent.mkdir(exist_ok=True)
        with written_beside(path) as beside, beside.open("xb") as file:
            model.save(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give a writable run folder") from None
    finally:
        model.get_env().close()
    return path


def _fit_the_original(model: BaseAlgorithm) -> None:
    """Give the model, before it is saved, the spaces of the environment that ours wraps.

    SB3's actors act in [-1, 1] and scale to the bounds of its action space, as our wrapper does; observations are
    flattened by its policy. A Dict of observations, or actions that are no real numbers, stay ours.
    """
    try:
        observations, actions = model.get_env().envs[0].get_wrapper_attr("original_spaces")
    except AttributeError:
        return
    real = isinstance(actions, gymnasium.spaces.Box) and np.issubdtype(actions.dtype, np.floating)
    if isinstance(observations, gymnasium.spaces.Box) and (real or actions == model.action_space):
        model.observation_space, model.action_space = observations, actions


def td3_model(
    config: Any,
    state: Mapping[str, Any],
    i: int,
    env: gymnasium.Env,
    train: TrainConfig,
    device: torch.device | str = "cpu",
    fold: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
) -> stable_baselines3.TD3:
    """Seed number `i` of a deterministic actor-critic as SB3's TD3, or DDPG where the config amounts to that.

    `fold` is for networks that normalise what they observe: it makes of their parameters those that take raw
    observations. Adam then begins afresh in `learn`, as its moments are of the parameters before.

    `config` has the fields of `agents.td3.TD3Config`; `state` holds `TD3_PARTS`, laid out as in
    `agents.td3.TD3.state`: parameters (S, in, out) for the actor and (S, E, in, out) for the critics.
    """
    is_ddpg = config.num_critics == 1 and config.policy_delay == 1 and config.target_noise == 0
    only_td3 = {
        "policy_delay": config.policy_delay,
        "target_policy_noise": config.target_noise,
        "target_noise_clip": config.target_noise_clip,
    }
    warn_of_one_learning_rate(config)
    model = with_networks(
        {name: fold(state[name]) if fold else state[name] for name in NETWORKS},
        i,
        env,
        train,
        algorithm=stable_baselines3.DDPG if is_ddpg else stable_baselines3.TD3,
        learning_rate=config.critic_learning_rate,
        batch_size=config.batch_size,
        tau=config.tau,
        gamma=config.discount,
        action_noise=action_noise(config.exploration_noise, env.action_space.shape[0]),
        device=device,
        **({} if is_ddpg else only_td3),
    )
    if fold:
        return model
    with torch.no_grad():
        for name in ("actor", "critic"):
            network, optimizer = getattr(model, name), state[f"{name}_optimizer"]
            for moment in ("exp_avg", "exp_avg_sq"):
                _fill(network, optimizer[moment], i, adam_part(network, moment))
            steps = next(iter(optimizer["steps"].values()))
            for parameter in network.parameters():
                adam_part(network, "step")(parameter).copy_(steps)
    model._n_updates = int(steps)
    return model


def warn_of_one_learning_rate(config: Any) -> None:
    """Warn where actor and critic learn at different rates, which SB3 cannot."""
    if config.actor_learning_rate != config.critic_learning_rate:
        warnings.warn(
            "Stable-Baselines3 has one learning rate for actor and critic: going on training uses the critic's "
            f"{config.critic_learning_rate} for the actor, not {config.actor_learning_rate}",
            stacklevel=4,
        )


def with_networks(
    networks: Mapping[str, Mapping[str, Tensor]],
    i: int,
    env: gymnasium.Env,
    train: TrainConfig,
    algorithm: type[OffPolicyAlgorithm] = stable_baselines3.TD3,
    **settings: Any,
) -> OffPolicyAlgorithm:
    """An SB3 model on entry i of stacked networks, attached to `env`; `settings` are arguments of `algorithm`.

    `networks` are the actor and any of the other `NETWORKS`, with weights (S, [E,] in, out) that take what `env`
    observes; SB3's own initial ones stand in for the rest. Widths, depths and the number of critics are theirs. Adam
    begins afresh in `learn`.
    """
    actor, critic = networks["actor"], networks.get("critic")
    net_arch = {"pi": _hidden(actor), "qf": _hidden(critic or actor)}
    num_critics = critic["0.weight"].shape[1] if critic else 2
    policy = {"net_arch": net_arch, "n_critics": num_critics}
    model = algorithm("MlpPolicy", env, policy_kwargs=policy, **off_policy_settings(train), **settings)
    with torch.no_grad():
        for name, params in networks.items():
            _fill(getattr(model, name), params, i)
    return model


def dqn_model(
    networks: Mapping[str, Mapping[str, Tensor]], i: int, env: gymnasium.Env, train: TrainConfig, **settings: Any
) -> stable_baselines3.DQN:
    """Entry i of stacked networks `q_net` and `q_net_target`, s to Q(s, .), as SB3's DQN with further `settings`.

    Their weights are (S, in, out). As ours does, it follows its target at every step and clips no gradient.
    """
    model = stable_baselines3.DQN(
        "MlpPolicy",
        env,
        policy_kwargs={"net_arch": _hidden(networks["q_net"])},
        train_freq=1,
        target_update_interval=1,
        max_grad_norm=float("inf"),
        **off_policy_settings(train),
        **settings,
    )
    with torch.no_grad():
        for name, params in networks.items():
            _fill(getattr(model, name), params, i)
    return model


def off_policy_settings(train: TrainConfig) -> dict[str, Any]:
    """The keyword arguments of SB3's off-policy algorithms that our online loop's settings decide."""
    return {
        "buffer_size": train.buffer_capacity,
        "learning_starts": train.warmup_steps,
        "gradient_steps": train.updates_an_iteration,
    }


def action_noise(scale: float, action_dim: int) -> NormalActionNoise | None:
    """Gaussian exploration noise of standard deviation `scale`; None for 0."""
    return NormalActionNoise(np.zeros(action_dim), np.full(action_dim, scale)) if scale > 0 else None


def _fill(
    network: nn.Module,
    params: Mapping[str, Tensor],
    i: int,
    of: Callable[[nn.Parameter], Tensor] = lambda parameter: parameter,
) -> None:
    """Copy entry i of stacked parameters (or Adam moments) into SB3's actor or critics: weights transposed."""
    for index, layers in _layers(network, i):
        for layer, parts in enumerate(layers):
            ours = params[f"{layer}.weight"][index], params[f"{layer}.bias"][index]
            weights, biases = (whole.chunk(len(parts), dim=-1) for whole in ours)
            for linear, weight, bias in zip(parts, weights, biases, strict=True):
                of(linear.weight).copy_(weight.T)
                of(linear.bias).copy_(bias.squeeze(0))


def _layers(network: nn.Module, i: int) -> Iterator[tuple[tuple[int, ...], list[list[nn.Linear]]]]:
    """SB3's linear layers of each of a network's MLPs, and where entry i of ours has it.

    A layer of ours is one of SB3's, but for the last of SAC's actor: two share its outputs, mean and log std.
    """

    def linears(mlp: nn.Sequential) -> list[list[nn.Linear]]:
        return [[module] for module in mlp if isinstance(module, nn.Linear)]

    if hasattr(network, "latent_pi"):
        yield (i,), [*linears(network.latent_pi), [network.mu, network.log_std]]
    elif hasattr(network, "mu"):
        yield (i,), linears(network.mu)
    elif hasattr(network, "q_net"):
        yield (i,), linears(network.q_net)
    else:
        yield from (((i, e), linears(q)) for e, q in enumerate(network.q_networks))


def _hidden(params: Mapping[str, Tensor]) -> list[int]:
    """The widths of a stacked MLP's hidden layers."""
    layers = sum(name.removesuffix(".weight").isdecimal() for name in params)
    return [params[f"{layer}.weight"].shape[-1] for layer in range(layers - 1)]


# ------------------------------------------------------------------ the state of SB3's models


def adam_state(optimizer: torch.optim.Adam) -> dict[nn.Parameter, dict[str, Tensor]]:
    """The live moments and step count of each parameter; where Adam has none yet, as it would start."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if not optimizer.state[parameter]:
            optimizer.state[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter.detach()),
                "exp_avg_sq": torch.zeros_like(parameter.detach()),
            }
    return {parameter: optimizer.state[parameter] for parameter in parameters}


def adam_part(network: nn.Module, part: str) -> Callable[[nn.Parameter], Tensor]:
    """parameter -> its 'exp_avg', 'exp_avg_sq' or 'step' in the network's optimiser."""
    moments = adam_state(network.optimizer)
    return lambda parameter: moments[parameter][part]


def model_state(model: BaseAlgorithm) -> dict[str, Any]:
    """Every tensor that an SB3 model saves, live and nested by name. Its optimisers have to be Adam."""
    modules_and_optimizers, variables = model._get_torch_save_params()
    state: dict[str, Any] = {}
    for name in modules_and_optimizers:
        part = recursive_getattr(model, name)
        if isinstance(part, torch.optim.Optimizer):
            state[name] = {str(n): moments for n, moments in enumerate(adam_state(part).values())}
        else:
            state[name] = part.state_dict()
    return state | {name: recursive_getattr(model, name).detach() for name in variables}


# ------------------------------------------------------------------ SB3's models as our agents


class Models(Policy):
    """S models of SB3, one for each seed, as `rlreg.evaluation` wants an agent."""

    def __init__(self, models: Sequence[BaseAlgorithm]) -> None:
        self.models = list(models)
        self.discount = self.models[0].gamma

    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """What `predict` gives without exploration: (S, N, O) -> (S, N, A). SB3 has noise of its own."""
        per_seed = zip(self.models, obs.numpy(force=True), strict=True)
        actions = [model.predict(o, deterministic=True)[0] for model, o in per_seed]
        return torch.from_numpy(np.stack(actions)).to(obs.device)

    def q_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """min_i Q_i(s, a): (S, B, O), (S, B, A) -> (S, B). NaN for algorithms without Q, such as PPO.

        SAC's Q counts the entropy bonus of the steps to come, the returns that it is compared with do not.
        """
        values = []
        for model, s, a in zip(self.models, obs, action, strict=True):
            if isinstance(model, OffPolicyAlgorithm):
                q = torch.stack(model.critic(s.to(model.device), a.to(model.device)))  # (E, B, 1)
                values.append(q.amin(dim=0).squeeze(-1).to(obs.device))
            else:
                values.append(torch.full(obs.shape[1:2], torch.nan, device=obs.device))
        return torch.stack(values)


class SB3Agent(Models, Agent):
    """An agent whose seeds are models of SB3 that SB3 itself trains: `rlreg.training.sb3_baselines`."""

    @abstractmethod
    def build(self, seed: int, env: gymnasium.Env | VecEnv, train: TrainConfig) -> BaseAlgorithm:
        """A fresh model for `env`, all of its generators seeded with `seed`. Raises `UserError`."""


# ------------------------------------------------------------------ our worlds as SB3's environments


class Spaces(gymnasium.Env):
    """The spaces of a task without the task: what SB3 needs to build the networks."""

    def __init__(self, obs_dim: int, action_dim: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (action_dim,), np.float32)


class VecWorlds(VecEnv):
    """The S * N worlds of an `envs.base.VectorEnv`, seed by seed, behind SB3's vector interface.

    `VecWorlds(envs.dmc.make("cheetah-run", seeds=[0], num_envs=64))` are 64 batched worlds in this process.
    """

    render_mode = None

    def __init__(self, worlds: VectorEnv) -> None:
        self._worlds = worlds
        self._shape = len(worlds.seeds), worlds.num_envs, worlds.action_dim
        self.bad = np.zeros(len(worlds.seeds) * worlds.num_envs, bool)
        """(S * N,): whose last step came to nothing; see `envs.base.Step.bad`."""
        self.bad_steps = 0
        spaces = Spaces(worlds.obs_dim, worlds.action_dim)
        super().__init__(len(worlds.seeds) * worlds.num_envs, spaces.observation_space, spaces.action_space)

    def reset(self) -> NDArray[np.float32]:
        """Observations (S * N, O). What was given to `seed` counts where worlds can be given other seeds."""
        if self._seeds[0] is not None and self._worlds.reseedable:
            self._worlds.reseed(self._seeds)
        self._reset_seeds()
        return self._worlds.reset().flatten(0, 1).numpy(force=True)

    def step_async(self, actions: NDArray[np.float32]) -> None:
        self._action = torch.as_tensor(actions, device=self._worlds.device).view(self._shape)

    def step_wait(self) -> tuple[NDArray, NDArray, NDArray, list[dict[str, Any]]]:
        """Observations (S * N, O), rewards and dones (S * N,), infos with the episodes' last observations."""
        step = self._worlds.step(self._action)
        obs, reward, terminated, truncated, final_obs, bad = (part.flatten(0, 1).numpy(force=True) for part in step)
        self.bad, self.bad_steps = bad, self.bad_steps + int(bad.sum())
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in done]
        for n in np.flatnonzero(done):
            cut = bool(truncated[n] and not terminated[n])  # SB3 bootstraps these
            infos[n] = {"terminal_observation": final_obs[n], "TimeLimit.truncated": cut}
        return obs, reward, done, infos

    def problems(self) -> list[str]:
        """What went wrong in the worlds since this was last asked, in words."""
        return self._worlds.problems()

    def close(self) -> None:
        self._worlds.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"the worlds have no attribute '{attr_name}' to set")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(f"the worlds have no method '{method_name}'")

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]
