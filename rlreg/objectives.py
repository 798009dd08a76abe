"""Losses and targets as pure functions of tensors."""

from __future__ import annotations

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
