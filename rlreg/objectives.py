"""Losses and targets as pure functions of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, discount: float | Tensor) -> Tensor:
    """r + gamma (1 - terminated) V(s'), of one step; of several with gamma^k for gamma, (S, B).

    All (S, B). A truncated transition has terminated = 0 and bootstraps.
    """
    return reward + discount * (1.0 - terminated) * next_value


def clipped_double_q(q: Tensor) -> Tensor:
    """The least of E critics' values (Fujimoto et al. 2018, eq. 10): (S, E, B) -> (S, B)."""
    return q.amin(dim=1)


def smoothed_action(action: Tensor, noise: Tensor, scale: float, clip: float) -> Tensor:
    """Target policy smoothing (Fujimoto et al. 2018, eq. 14): a + clip(scale * noise), kept in [-1, 1]."""
    return (action + (scale * noise).clamp(-clip, clip)).clamp(-1.0, 1.0)


def ensemble_td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Squared error of each critic to one target, mean over the batch, summed over critics.

    (S, E, B), (S, B) -> (S,).
    """
    return torch.square(q - target.unsqueeze(1)).mean(dim=-1).sum(dim=-1)


def scaled_policy_gradient(q: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """-lambda mean Q(s, pi(s)) with lambda = alpha / mean |Q(s, pi(s))| (Fujimoto & Gu 2021, eqs. 4 and 5).

    lambda makes the term's size that of actions whatever the rewards' is; no gradient flows through it.
    (S, B) -> loss (S,), lambda (S,).
    """
    scale = alpha / q.detach().abs().mean(dim=-1)
    return -scale * q.mean(dim=-1), scale


def cloning_loss(action: Tensor, data_action: Tensor) -> Tensor:
    """Mean squared error of actions, over batch and dimensions: (S, B, A), (S, B, A) -> (S,)."""
    return torch.square(action - data_action).mean(dim=(1, 2))


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """mean |tau - 1(u < 0)| u^2 with u = `error`, target minus estimate (Kostrikov et al. 2022, eqs. 3 to 5).

    tau = 0.5 is half the mean squared error; near 1 the estimate becomes the largest target. (S, B) -> (S,).
    """
    weight = torch.where(error < 0, 1.0 - expectile, expectile)
    return (weight * torch.square(error)).mean(dim=-1)


def advantage_weight(advantage: Tensor, temperature: float, limit: float) -> Tensor:
    """min(exp(beta A), limit), the weight of advantage-weighted regression (Kostrikov et al. 2022, eq. 7)."""
    return torch.exp(temperature * advantage).clamp_max(limit)


def gaussian_log_prob(mean: Tensor, log_std: Tensor, x: Tensor) -> Tensor:
    """log N(x; mean, diag std^2), summed over the last axis: (S, B, A) -> (S, B)."""
    squares = torch.square((x - mean) * torch.exp(-log_std))
    return -0.5 * (squares + 2.0 * log_std + math.log(2.0 * math.pi)).sum(dim=-1)


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """a = tanh(u), u = mean + std * noise, and its log-density (Haarnoja et al. 2018, appendix C, eq. 21):

        log pi(a) = log N(u; mean, diag std^2) - sum log(1 - a^2 + 1e-6)

    with `noise` standard normal: three of (S, B, A) -> (S, B, A), (S, B). The 1e-6 is Stable-Baselines3's.
    """
    action = torch.tanh(mean + torch.exp(log_std) * noise)
    log_prob = -0.5 * (torch.square(noise) + 2.0 * log_std + math.log(2.0 * math.pi)).sum(dim=-1)
    return action, log_prob - torch.log(1.0 - torch.square(action) + 1e-6).sum(dim=-1)


def cosine_decay(step: Tensor, num_steps: int) -> Tensor:
    """(1 + cos(pi step / num_steps)) / 2, from 1 at step 0 to 0 at num_steps and after; `step` 0-d."""
    return 0.5 * (1.0 + torch.cos(math.pi * (step / num_steps).clamp(0.0, 1.0)))


def gae(
    reward: Tensor, value: Tensor, next_value: Tensor, done: Tensor, discount: float, trace: float
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, eq. 16), all (S, T, N).

        A_t = delta_t + gamma lambda (1 - done_t) A_{t+1},   delta_t = r_t + gamma V_{t+1} - V_t

    `next_value` is V_{t+1}, 0 where nothing is bootstrapped; `done` (bool) ends the trace: an episode's end or a cut.
    """
    delta = reward + discount * next_value - value
    decay = discount * trace * (~done).to(delta.dtype)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[:, 0])
    for t in range(delta.shape[1] - 1, -1, -1):
        running = torch.addcmul(delta[:, t], decay[:, t], running)
        advantage[:, t] = running
    return advantage


def standardized(x: Tensor) -> Tensor:
    """(x - mean) / (std + 1e-5) over all but the seeds: (S, ...) -> (S, ...)."""
    flat = x.flatten(1)
    return ((flat - flat.mean(dim=1, keepdim=True)) / (flat.std(dim=1, keepdim=True) + 1e-5)).view_as(x)


def clipped_policy_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's -mean min(r A, clip(r, 1 - eps, 1 + eps) A) (Schulman et al. 2017, eq. 7): (S, B) -> (S,)."""
    ratio = torch.exp(log_prob - old_log_prob)
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage).mean(dim=-1)


def clipped_value_loss(value: Tensor, old_value: Tensor, target: Tensor, clip: float) -> Tensor:
    """mean max((V - R)^2, (V_old + clip(V - V_old, +-eps) - R)^2) / 2, as OpenAI's baselines: (S, B) -> (S,)."""
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return 0.5 * torch.maximum(torch.square(value - target), torch.square(clipped - target)).mean(dim=-1)


def sampled_category(logits: Tensor, uniform: Tensor) -> Tensor:
    """One category a row by the Gumbel-max trick, with `uniform` in (0, 1) of the logits' shape: (..., A) -> (...)."""
    return (logits - torch.log(-torch.log(uniform))).argmax(dim=-1)
