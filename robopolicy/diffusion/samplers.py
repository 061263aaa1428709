"""Samplers as pure functions of a predictor, a start noise and an explicit grid.

``predict(x, i)`` maps ``x [B, Tp, A]`` at entry ``i`` of the grid to the clean chunk that the network sees in it; how
the network says that (:mod:`~robopolicy.diffusion.parameterization`), classifier-free guidance and inpainting are the
predictor's business. Nothing here holds state. All samplers serve every process that gives a
:class:`~robopolicy.diffusion.grid.Grid`: for ``alpha = 1`` DDIM is the Euler method in sigma, for flows it is the Euler
method in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from robopolicy.diffusion.grid import Grid

__all__ = [
    "SAMPLERS",
    "Predict",
    "Sampler",
    "StepNoise",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "euler_ancestral",
    "heun",
    "multistep_consistency",
]

LEAST_SIGNAL = 0.05
"""Below this share of data in a noisy chunk, dividing by it would blow up the network's error."""

Predict = Callable[[Tensor, int], Tensor]
StepNoise = Callable[[int], Tensor]
"""Entry of the grid -> standard normal noise of the chunk's shape."""
Sampler = Callable[..., Tensor]


def ddim(predict: Predict, noise: Tensor, grid: Grid, *, clip: float | None = 1.0) -> Tensor:
    """Deterministic DDIM, eta = 0 (Song et al. 2021, arXiv 2010.02502, equation 12); DPM-Solver-1; Euler.

    Args:
        predict: See this module.
        noise: [B, Tp, A], standard normal.
        grid: From noise to clean.
        clip: Bound of the predicted clean sample at every step; None for none.

    Returns:
        [B, Tp, A] clean sample.
    """
    x = noise * grid.sigma[0]
    for i in range(len(grid)):
        raw = predict(x, i)
        epsilon = _epsilon(raw, x, grid, i)
        x = grid.alpha[i + 1] * _clipped(raw, clip) + grid.sigma[i + 1] * epsilon
    return x


def ddpm(predict: Predict, noise: Tensor, grid: Grid, step_noise: StepNoise, *, clip: float | None = 1.0) -> Tensor:
    """Ancestral sampling with the small fixed variance (Ho et al. 2020, arXiv 2006.11239, equations 6, 7).

    Args:
        predict, noise, clip: As in :func:`ddim`.
        grid: Of a variance-preserving process; all of its steps for the published sampler.
        step_noise: Not asked after the last step.

    Returns:
        [B, Tp, A] clean sample.
    """
    x = noise * grid.sigma[0]
    for i in range(len(grid)):
        bar, bar_after = grid.alpha[i] ** 2, grid.alpha[i + 1] ** 2
        step = bar / bar_after
        x0 = _clipped(predict(x, i), clip)
        x0_weight = math.sqrt(bar_after) * (1 - step) / (1 - bar)
        x = x0_weight * x0 + math.sqrt(step) * (1 - bar_after) / (1 - bar) * x
        if i < len(grid) - 1:
            variance = max((1 - bar_after) / (1 - bar) * (1 - step), 1e-20)
            x = x + math.sqrt(variance) * step_noise(i)
    return x


def euler_ancestral(
    predict: Predict, noise: Tensor, grid: Grid, step_noise: StepNoise, *, clip: float | None = 1.0
) -> Tensor:
    """Euler steps to a lower level than asked for, and fresh noise up to it (the sampler of that name in k-diffusion).

    Args:
        predict, noise, clip: As in :func:`ddim`.
        grid: Of a process with ``alpha = 1``.
        step_noise: Not asked after the last step.

    Returns:
        [B, Tp, A] clean sample.
    """
    x = noise * grid.sigma[0]
    for i in range(len(grid)):
        here, after = grid.sigma[i], grid.sigma[i + 1]
        up = math.sqrt(max(after**2 * (here**2 - after**2) / here**2, 0.0))
        down = math.sqrt(max(after**2 - up**2, 0.0))
        raw = predict(x, i)
        x = _clipped(raw, clip) + down * _epsilon(raw, x, grid, i)
        if up > 0:
            x = x + up * step_noise(i)
    return x


def heun(predict: Predict, noise: Tensor, grid: Grid, *, clip: float | None = 1.0) -> Tensor:
    """Heun's second-order method in the ratio of noise to data (Karras et al. 2022, algorithm 1 without churn).

    Two network evaluations per step but one for the last. Where there is hardly any signal yet, the step is DDIM's.

    Args:
        predict, noise, grid, clip: As in :func:`ddim`.

    Returns:
        [B, Tp, A] clean sample.
    """
    x = noise * grid.sigma[0]
    for i in range(len(grid)):
        raw = predict(x, i)
        epsilon = _epsilon(raw, x, grid, i)
        alpha, sigma = grid.alpha[i + 1], grid.sigma[i + 1]
        moved = alpha * _clipped(raw, clip) + sigma * epsilon
        if i < len(grid) - 1 and grid.alpha[i] > LEAST_SIGNAL:
            # d(x / alpha) / d(sigma / alpha) = epsilon: the mean of both ends takes the place of the first
            second = _epsilon(predict(moved, i + 1), moved, grid, i + 1)
            step = sigma / alpha - grid.sigma[i] / grid.alpha[i]
            moved = alpha * (x / grid.alpha[i] + 0.5 * step * (epsilon + second))
        x = moved
    return x


def dpmpp_2m(predict: Predict, noise: Tensor, grid: Grid, *, clip: float | None = 1.0) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): second order, one evaluation per step.

    The last step to a clean sample is of first order, as everywhere: its logarithmic ratio is infinite.

    Args:
        predict, noise, grid, clip: As in :func:`ddim`.

    Returns:
        [B, Tp, A] clean sample.
    """
    x, before, step_before = noise * grid.sigma[0], None, 0.0
    for i in range(len(grid)):
        x0 = _clipped(predict(x, i), clip)
        alpha, sigma = grid.alpha[i + 1], grid.sigma[i + 1]
        if sigma == 0.0 or grid.alpha[i] == 0.0:
            direction, step = x0, 0.0
        else:
            step = math.log(alpha / sigma) - math.log(grid.alpha[i] / grid.sigma[i])
            ratio = step / (2 * step_before) if step_before else 0.0
            direction = x0 if before is None or not step_before else (1 + ratio) * x0 - ratio * before
        shrink = math.exp(-step) if step else 0.0
        if sigma == 0.0:
            x = alpha * direction
        elif grid.alpha[i] == 0.0:
            x = alpha * x0 + sigma * _epsilon(x0, x, grid, i)
        else:
            x = sigma / grid.sigma[i] * x + alpha * (1 - shrink) * direction
        before, step_before = x0, step
    return x


def multistep_consistency(
    predict: Predict, noise: Tensor, grid: Grid, step_noise: StepNoise, *, clip: float | None = 1.0
) -> Tensor:
    """To a clean sample and back to the next level with fresh noise (Song et al. 2023, arXiv 2303.01469, algorithm 1).

    Args:
        predict, noise, grid, clip: As in :func:`ddim`; of a network that was trained to go the whole way at once.
        step_noise: Not asked after the last step.

    Returns:
        [B, Tp, A] clean sample.
    """
    x = noise * grid.sigma[0]
    for i in range(len(grid)):
        x = _clipped(predict(x, i), clip)
        if i < len(grid) - 1:
            x = grid.alpha[i + 1] * x + grid.sigma[i + 1] * step_noise(i)
    return x


SAMPLERS: dict[str, tuple[Sampler, bool]] = {
    "ddim": (ddim, False),
    "euler": (ddim, False),
    "ddpm": (ddpm, True),
    "euler_ancestral": (euler_ancestral, True),
    "heun": (heun, False),
    "dpmpp_2m": (dpmpp_2m, False),
    "multistep_consistency": (multistep_consistency, True),
}
"""Name -> sampler, and whether it draws noise between steps."""


def _clipped(x0: Tensor, clip: float | None) -> Tensor:
    return x0 if clip is None else x0.clamp(-clip, clip)


def _epsilon(x0: Tensor, x: Tensor, grid: Grid, i: int) -> Tensor:
    """Noise that an unclipped clean sample implies."""
    return (x - grid.alpha[i] * x0) / grid.sigma[i]
