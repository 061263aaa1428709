"""What a denoiser predicts, and the conversions between the three forms.

With ``x_t = a * x0 + s * eps``, ``a = sqrt(alpha_bar)``, ``s = sqrt(1 - alpha_bar)``,
``v = a * eps - s * x0`` (Salimans and Ho 2022, arXiv 2202.00512, section 4). All tensors are ``[B, Tp, A]``;
``alpha_bar`` broadcasts.
"""

from __future__ import annotations

from torch import Tensor

from robopolicy.errors import ConfigError, explain

__all__ = ["PREDICTIONS", "target", "to_epsilon", "to_x0"]

PREDICTIONS = ("epsilon", "x0", "v")


def target(prediction: str, x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the network is trained to output.

    Raises:
        ConfigError: unknown prediction type.
    """
    _check(prediction)
    if prediction == "epsilon":
        return noise
    if prediction == "x0":
        return x0
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0


def to_x0(prediction: str, output: Tensor, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """Clean sample implied by a network output."""
    _check(prediction)
    if prediction == "epsilon":
        return (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
    if prediction == "x0":
        return output
    return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output


def to_epsilon(prediction: str, output: Tensor, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noise implied by a network output."""
    _check(prediction)
    if prediction == "epsilon":
        return output
    if prediction == "x0":
        return (x_t - alpha_bar.sqrt() * output) / (1 - alpha_bar).sqrt()
    return alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * x_t


def _check(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise ConfigError(explain("unknown prediction type", given=prediction, allowed=PREDICTIONS))
