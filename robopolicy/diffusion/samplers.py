"""Samplers as pure functions of a denoiser, a start noise and an explicit time grid.

``denoise(x, t)`` maps ``x [B, Tp, A]`` at training step ``t`` (int) to the network's output. Nothing here holds state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robopolicy.diffusion.parameterization import to_epsilon, to_x0

__all__ = ["Denoiser", "ddim", "ddpm"]

Denoiser = Callable[[Tensor, int], Tensor]


def ddim(
    denoise: Denoiser,
    noise: Tensor,
    alphas_cumprod: Tensor,
    grid: Sequence[int],
    *,
    prediction: str = "epsilon",
    clip: float | None = 1.0,
) -> Tensor:
    """Deterministic DDIM, eta = 0 (Song et al. 2021, arXiv 2010.02502, equation 12).

    Args:
        denoise: Network as a function of (x, t).
        noise: [B, Tp, A], standard normal.
        alphas_cumprod: [T].
        grid: Training steps, decreasing; after the last the sample is clean.
        prediction: What ``denoise`` returns, see :mod:`~robopolicy.diffusion.parameterization`.
        clip: Bound of the predicted clean sample at every step; None for none.

    Returns:
        [B, Tp, A] clean sample.
    """
    x = noise
    alphas = [alphas_cumprod[int(t)] for t in grid]
    alphas_after = [*alphas[1:], torch.ones_like(alphas_cumprod[0])]
    for t, alpha, alpha_after in zip(grid, alphas, alphas_after, strict=True):
        output = denoise(x, int(t))
        x0 = to_x0(prediction, output, x, alpha)
        epsilon = to_epsilon(prediction, output, x, alpha)
        if clip is not None:
            x0 = x0.clamp(-clip, clip)
        x = alpha_after.sqrt() * x0 + (1 - alpha_after).sqrt() * epsilon
    return x


def ddpm(
    denoise: Denoiser,
    noise: Tensor,
    alphas_cumprod: Tensor,
    grid: Sequence[int],
    step_noise: Callable[[int], Tensor],
    *,
    prediction: str = "epsilon",
    clip: float | None = 1.0,
) -> Tensor:
    """Ancestral sampling with the small fixed variance (Ho et al. 2020, arXiv 2006.11239, equations 6, 7).

    Args:
        denoise: Network as a function of (x, t).
        noise: [B, Tp, A], standard normal.
        alphas_cumprod: [T].
        grid: Training steps, decreasing; all T of them for the published sampler.
        step_noise: ``t -> [B, Tp, A]`` standard normal; not asked after the last step.
        prediction: What ``denoise`` returns.
        clip: Bound of the predicted clean sample at every step; None for none.

    Returns:
        [B, Tp, A] clean sample.
    """
    x = noise
    alphas = [alphas_cumprod[int(t)] for t in grid]
    alphas_after = [*alphas[1:], torch.ones_like(alphas_cumprod[0])]
    last = len(alphas) - 1
    for i, (t, alpha, alpha_after) in enumerate(zip(grid, alphas, alphas_after, strict=True)):
        x0 = to_x0(prediction, denoise(x, int(t)), x, alpha)
        if clip is not None:
            x0 = x0.clamp(-clip, clip)
        alpha_step = alpha / alpha_after
        x0_weight = alpha_after.sqrt() * (1 - alpha_step) / (1 - alpha)
        x_weight = alpha_step.sqrt() * (1 - alpha_after) / (1 - alpha)
        x = x0_weight * x0 + x_weight * x
        if i < last:
            variance = ((1 - alpha_after) / (1 - alpha) * (1 - alpha_step)).clamp(min=1e-20)
            x = x + variance.sqrt() * step_noise(int(t))
    return x
