"""Losses and targets as pure functions of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, discount: float) -> Tensor:
    """One-step target r + gamma (1 - terminated) V(s').

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


def cosine_decay(step: Tensor, num_steps: int) -> Tensor:
    """(1 + cos(pi step / num_steps)) / 2, from 1 at step 0 to 0 at num_steps and after; `step` 0-d."""
    return 0.5 * (1.0 + torch.cos(math.pi * (step / num_steps).clamp(0.0, 1.0)))
