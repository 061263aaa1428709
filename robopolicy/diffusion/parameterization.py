"""What a denoiser predicts, and the conversions between the forms.

With ``x_t = alpha * x0 + sigma * eps`` for any noise process (:mod:`robopolicy.diffusion.process`):

=============  =====================================  ============================================================
prediction     the network is trained to answer       source
=============  =====================================  ============================================================
``epsilon``    ``eps``                                Ho et al. 2020, arXiv 2006.11239
``x0``         ``x0``                                 the same
``v``          ``alpha * eps - sigma * x0``           Salimans and Ho 2022, arXiv 2202.00512, section 4
``flow``       ``x0 - eps``                           Lipman et al. 2023, arXiv 2210.02747 (time from noise to data)
``edm``        ``(x0 - c_skip * x_t) / c_out``        Karras et al. 2022, arXiv 2206.00364, table 1
=============  =====================================  ============================================================

All tensors are ``[B, Tp, A]``; ``alpha`` and ``sigma`` broadcast. ``v`` and ``edm`` presuppose a process of their kind:
``alpha^2 + sigma^2 = 1`` and ``alpha = 1``.
"""

from __future__ import annotations

from torch import Tensor

from robopolicy.errors import ConfigError, explain

__all__ = ["PREDICTIONS", "input_scale", "target", "to_epsilon", "to_x0"]

PREDICTIONS = ("epsilon", "x0", "v", "flow", "edm")

SIGMA_DATA = 0.5
"""Standard deviation of the data that ``edm`` presupposes; chunks in [-1, 1] have about that."""


def target(prediction: str, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the network is trained to output.

    Raises:
        ConfigError: unknown prediction type.
    """
    _check(prediction)
    if prediction == "epsilon":
        return noise
    if prediction == "x0":
        return x0
    if prediction == "v":
        return alpha * noise - sigma * x0
    if prediction == "flow":
        return x0 - noise
    skip, out = _edm(sigma)
    return (x0 - skip * (alpha * x0 + sigma * noise)) / out


def to_x0(prediction: str, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Clean sample implied by a network output."""
    _check(prediction)
    if prediction == "epsilon":
        return (x_t - sigma * output) / alpha
    if prediction == "x0":
        return output
    if prediction == "v":
        return alpha * x_t - sigma * output
    if prediction == "flow":
        return (x_t + sigma * output) / (alpha + sigma)
    skip, out = _edm(sigma)
    return skip * x_t + out * output


def to_epsilon(x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Noise implied by a clean sample; ``sigma`` > 0."""
    return (x_t - alpha * x0) / sigma


def input_scale(prediction: str, sigma: Tensor) -> Tensor | float:
    """What the noisy chunk is multiplied with before the network sees it: ``c_in`` for ``edm``, 1 for all others."""
    if prediction == "edm":
        return (sigma.square() + SIGMA_DATA**2).rsqrt()
    return 1.0


def _edm(sigma: Tensor) -> tuple[Tensor, Tensor]:
    total = sigma.square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, sigma * SIGMA_DATA * total.rsqrt()


def _check(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise ConfigError(explain("unknown prediction type", given=prediction, allowed=PREDICTIONS))
