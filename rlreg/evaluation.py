"""Evaluation: returns, the error of Q against Monte-Carlo returns, and the rank of the representation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlreg.agent import Policy
from rlreg.buffers import Batch
from rlreg.regularizers import BEER
from rlreg.task import VectorEnv

REPRESENTATION = ("rank", "srank", "cosine", "bound", "above_bound")
"""What `representation` measures."""
COLUMNS = ("return", "return_std", "length", "q_error", "q_bias", *REPRESENTATION)
"""What eval.csv has of an agent that acts in worlds, beside their own `measures`; see `rlreg.metrics`."""


@torch.no_grad()
def evaluate(agent: Policy, env: VectorEnv, start: dict) -> dict[str, Tensor]:
    """One episode in each world from the states in `start`; all results (S,), float32.

    `q_error` and `q_bias` are the mean of |Q(s, a) - G| and of Q(s, a) - G over the visited (s, a), G the
    discounted return from there to the episode's end. Where a time limit cut the episode the last
    log(0.01) / log(gamma) steps are left out: beyond them at most 1 % of a constant reward's value is
    missing from G. NaN where no step remains, and for an agent without a value function. `bad_steps` counts episodes
    that a bad step cut: their returns are those until then. The worlds' own `measures` come last.
    """
    obs = env.load_state_dict(start)
    seen, taken, rewards, going = [], [], [], []
    running = torch.ones(obs.shape[:2], dtype=torch.bool, device=obs.device)
    ended_by_task = torch.zeros_like(running)
    cut = torch.zeros_like(running)
    for _ in range(env.max_episode_steps):
        action = agent.act(obs)
        seen.append(obs)
        taken.append(action)
        going.append(running)
        obs, reward, terminated, truncated, _, bad = env.step(action)
        rewards.append(torch.where(running, reward, 0.0))
        ended_by_task = ended_by_task | (running & terminated)
        cut = cut | (running & bad)
        running = running & ~(terminated | truncated)
        if not running.any():
            break

    reward, mask = torch.stack(rewards), torch.stack(going)  # (T, S, N)
    length = mask.sum(dim=0)  # (S, N)
    returns = reward.double().sum(dim=0)
    values = {
        "return": returns.mean(dim=-1).float(),
        "return_std": returns.std(dim=-1, correction=0).float(),
        "length": length.float().mean(dim=-1),
        "bad_steps": cut.sum(dim=-1).float(),
    }
    nothing = torch.full_like(values["length"], torch.nan)
    own = env.measure(agent)
    if agent.discount is None:
        return values | {"q_error": nothing, "q_bias": nothing} | own

    to_go = torch.empty_like(reward)
    total = torch.zeros_like(reward[0])
    for t in range(len(reward) - 1, -1, -1):
        total = reward[t] + agent.discount * total
        to_go[t] = total
    horizon = math.ceil(math.log(0.01) / math.log(agent.discount))
    remaining = length - torch.arange(len(reward), device=length.device)[:, None, None]
    counted = mask & (ended_by_task | (remaining > horizon))
    q = torch.stack([agent.q_value(s, a) for s, a in zip(seen, taken, strict=True)])
    error = torch.where(counted, q - to_go, 0.0)
    count = counted.sum(dim=(0, 2))
    return values | {
        "q_error": torch.where(count > 0, error.abs().sum(dim=(0, 2)) / count, nothing),
        "q_bias": torch.where(count > 0, error.sum(dim=(0, 2)) / count, nothing),
        **own,
    }


@torch.no_grad()
def representation(agent: Policy, batch: Batch, epsilon: float) -> dict[str, Tensor]:
    """What the BEER paper looks at, on a batch of n transitions; of the first critic, all (S,), float32.

    `rank`: the number of singular values of Phi / sqrt(n) above `epsilon` (Definition 1; its epsilon and n
    are not known, both are ours). `srank`: the least k whose largest singular values hold 99 % of their sum
    (Kumar et al. 2021), for comparison. `cosine` and `bound`: means of the two sides of Remark 1 as the
    released code computes them, whatever the agent's own regulariser; `above_bound`: the share of transitions
    whose cosine exceeds the bound. NaN for an agent without critics.
    """
    features = agent.critic_features(agent.critic_params, batch)
    if features is None:
        nothing = torch.full(batch.reward.shape[:1], torch.nan, device=batch.reward.device)
        return dict.fromkeys(REPRESENTATION, nothing)
    _, metrics = BEER().loss(features, {})
    phi = features.feature[:, 0].float()  # (S, n, H)
    values = torch.linalg.svdvals(phi / math.sqrt(phi.shape[1]))
    share = values.cumsum(dim=-1) / values.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    return {
        "rank": (values > epsilon).sum(dim=-1).float(),
        "srank": ((share < 0.99).sum(dim=-1) + 1).float(),
        "cosine": metrics["regularizer/cosine"],
        "bound": metrics["regularizer/bound"],
        "above_bound": metrics["regularizer/active"],
    }
