"""What bends a sampler's prediction: classifier-free guidance, and inpainting towards a chunk under execution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robopolicy.diffusion.grid import Grid
from robopolicy.diffusion.samplers import Predict
from robopolicy.errors import ConfigError, explain

__all__ = ["Inpainting", "classifier_free", "inpainted", "soft_weights"]


def classifier_free(with_goal: Tensor, without: Tensor, strength: Tensor | float) -> Tensor:
    """``x_u + lambda (x_c - x_u)`` (Ho and Salimans 2022, arXiv 2207.12598, on clean samples).

    Args:
        with_goal, without: [B, Tp, A] predicted clean samples.
        strength: lambda, one or [B, 1, 1]; 0 ignores the goal, 1 is the plain conditional policy.
    """
    return without + strength * (with_goal - without)


@dataclass(frozen=True)
class Inpainting:
    """What a new chunk shall agree with.

    Attributes:
        values: f32 [B, Tp, A], in the network's form.
        weights: f32 [B, Tp], 1 where it is fixed, 0 where it is free.
        strongest: Bound of the guidance, beta of the paper, one or f32 [B]; 0 is no guidance.
        jacobian: ``network``, as published, by one backward pass per step; ``identity`` takes that of unit Gaussian
            data, ``alpha / (alpha^2 + sigma^2)``, in its place: no backward pass, firmer where the network is sure of
            itself and hardly listens to ``x``, and never a pull of more than the whole way, however strong.
    """

    values: Tensor
    weights: Tensor
    strongest: float | Tensor
    jacobian: str


def soft_weights(horizon: int, fixed: int, overlap: int) -> NDArray[np.float32]:
    """Weights of real-time chunking (Black et al. 2025, arXiv 2506.07339, equation 5).

    Args:
        horizon: H, values of the new chunk from its first one that is still to come.
        fixed: d, values that will have been executed before the chunk is there.
        overlap: H - s, values that the old chunk still has; at least ``fixed``.

    Returns:
        f32 [H]: 1 up to ``fixed``, an exponential decay to 0 at ``overlap``, 0 after it.

    Raises:
        ConfigError: not 0 <= fixed <= overlap <= horizon.
    """
    if not 0 <= fixed <= overlap <= horizon:
        raise ConfigError(
            explain(
                "needs 0 <= fixed <= overlap <= horizon", given=(fixed, overlap, horizon), mend="plan further ahead"
            )
        )
    index = np.arange(horizon)
    c = (overlap - index) / (overlap - fixed + 1)
    decay = c * (np.exp(c) - 1) / (math.e - 1)
    return np.where(index < fixed, 1.0, np.where(index < overlap, decay, 0.0)).astype(np.float32)


def inpainted(predict: Predict, grid: Grid, wanted: Inpainting, clip: float | None = None) -> Predict:
    """A predictor that is drawn towards a chunk: pseudo-inverse guidance (Song et al. 2023; Black et al. 2025).

    The clean sample moves by ``sigma min(beta, sigma / (alpha r^2)) J^T diag(W) (Y - x0)`` with
    ``r^2 = sigma^2 / (alpha^2 + sigma^2)`` and ``J = d x0 / d x``. For a flow (alpha = t, sigma = 1 - t) that is
    equations 2 to 4 of the paper, whose correction of the velocity is this over ``1 - t``. For every other process it
    is the same at the same ratio of noise to signal, whatever the scale of ``x``: with ``x = alpha z`` the shift is
    ``s min(beta, (1 + s^2) / s) (d x0 / d z)^T diag(W) (Y - x0)``, ``s = sigma / alpha``. So one beta means the same
    everywhere.

    It costs one backward pass through the network per step, with ``jacobian="identity"`` none.

    Args:
        predict: The predictor to bend; it is differentiated, so no inference mode may be active.
        grid: Of the sampler.
        wanted: See :class:`Inpainting`.
        clip: Of the sampler. What is compared and differentiated is the clean sample that the sampler goes on with; the
            one before clipping is noise over ``alpha`` at the first steps of a network that answers epsilon, and
            following it destroys the chunk.
    """
    weights = wanted.weights[..., None]
    strongest = torch.as_tensor(wanted.strongest, dtype=wanted.values.dtype, device=wanted.values.device)
    if strongest.ndim:
        strongest = strongest[:, None, None]

    def clipped(x0: Tensor) -> Tensor:
        return x0 if clip is None else x0.clamp(-clip, clip)

    def bent(x: Tensor, i: int) -> Tensor:
        alpha, sigma = grid.alpha[i], grid.sigma[i]
        square = sigma**2 / (alpha**2 + sigma**2)
        strength = strongest if alpha * square <= 0 else strongest.clamp(max=sigma / (alpha * square))
        if wanted.jacobian == "identity":
            with torch.no_grad():
                raw = predict(x, i)
                x0 = clipped(raw)
                pulled = x0 + sigma * strength * alpha / (alpha**2 + sigma**2) * weights * (wanted.values - x0)
                return torch.where(weights > 0, pulled, raw)
        with torch.enable_grad():
            held = x.detach().requires_grad_(True)
            x0 = predict(held, i)
            seen = clipped(x0)
            pull = (weights * (wanted.values - seen)).detach()
            (gradient,) = torch.autograd.grad(seen, held, grad_outputs=pull)
        return x0.detach() + sigma * strength * gradient

    return bent
