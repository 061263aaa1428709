"""Mixtures of diagonal Gaussians over actions: masked likelihood, and sampling from numpy generators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["LOW_NOISE", "GaussianMixture"]

LOW_NOISE = 1e-4
"""Standard deviation, in normalised units, of a sample that shall be the mean of its mode (robomimic 0.3)."""


@dataclass(frozen=True)
class GaussianMixture:
    """One mixture of K modes per step of a sequence.

    Attributes:
        means: f32 [B, T, K, A].
        scales: f32 [B, T, K, A] standard deviations, positive.
        logits: f32 [B, T, K] of the weights, not normalised.
    """

    means: Tensor
    scales: Tensor
    logits: Tensor

    def log_likelihood(self, action: Tensor, mask: Tensor) -> Tensor:
        """``log sum_k w_k prod_a N(a | mean_ka, scale_ka)`` over the entries that count.

        An entry that does not count is integrated out: its density is left out of the product.

        Args:
            action: f32 [B, T, A].
            mask: bool [B, T, A], True where an entry counts.

        Returns:
            [B, T], 0 where nothing counts.
        """
        modes = torch.distributions.Normal(self.means, self.scales, validate_args=False)
        each = torch.where(mask[:, :, None], modes.log_prob(action[:, :, None]), 0.0)
        joint = each.sum(-1) + torch.log_softmax(self.logits, dim=-1)  # [B, T, K]
        return torch.logsumexp(joint, dim=-1)

    def mode(self) -> Tensor:
        """Mean of the most likely mode, [B, T, A]."""
        best = self.logits.argmax(-1)[..., None, None]  # [B, T, 1, 1]
        return self.means.gather(2, best.expand(*best.shape[:3], self.means.shape[-1]))[:, :, 0]

    def sample(self, generators: Sequence[np.random.Generator], low_noise: bool) -> Tensor:
        """One draw per row and step, [B, T, A]; row b from ``generators[b]`` alone.

        Args:
            generators: B of them.
            low_noise: Draw a mode by its weight, then its mean give or take :data:`LOW_NOISE`.
        """
        _, steps, modes, width = self.means.shape
        uniform = np.stack([rng.random(steps) for rng in generators])
        noise = np.stack([rng.standard_normal((steps, width)) for rng in generators])
        device, dtype = self.means.device, self.means.dtype
        below = torch.softmax(self.logits.double(), dim=-1).cumsum(-1)
        threshold = torch.as_tensor(uniform, device=device)[..., None]
        # the last sum may round to less than a draw just under 1
        drawn = (below < threshold).sum(-1).clamp(max=modes - 1)[..., None, None]
        drawn = drawn.expand(*drawn.shape[:3], width)
        mean, scale = (values.gather(2, drawn)[:, :, 0] for values in (self.means, self.scales))
        if low_noise:
            scale = torch.full_like(mean, LOW_NOISE)
        return mean + scale * torch.as_tensor(noise, device=device, dtype=dtype)
