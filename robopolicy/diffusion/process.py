"""How noise is mixed into a chunk: ``x_t = alpha(t) * x0 + sigma(t) * eps``, and how a sampler goes back.

A process says which times training draws, what the network is told of a time, and which times a sampler visits. Every
one of them gives the same three things to a sampler, so samplers know none of them::

    process.grid(steps) --> Grid(time, alpha, sigma), noise first, clean last
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robopolicy.diffusion.grid import Grid, time_grid
from robopolicy.diffusion.schedule import NoiseSchedule
from robopolicy.errors import ConfigError, explain

__all__ = ["Flow", "FlowConfig", "Karras", "KarrasConfig", "NoiseProcess", "VariancePreserving"]


class NoiseProcess(ABC):
    """One way from data to noise.

    Attributes:
        prediction: What the network answers, see :mod:`robopolicy.diffusion.parameterization`.
        clip: Bound of the clean sample in normalised units while sampling, None for none.
        samplers: Names that can sample it, see :mod:`robopolicy.diffusion.samplers`.
    """

    prediction: str
    clip: float | None
    samplers: tuple[str, ...]

    @abstractmethod
    def draw(self, count: int, rng: torch.Generator | None, device: torch.device) -> Tensor:
        """Times of a training batch [count]."""

    @abstractmethod
    def levels(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha`` and ``sigma`` of times of any shape, f32."""

    @abstractmethod
    def network_time(self, time: Tensor) -> Tensor:
        """What the network is told of times: f32 of the same shape, of the order of 0 to 100."""

    @abstractmethod
    def grid(self, steps: int, spacing: str = "auto") -> Grid:
        """Times that a sampler of that many steps visits; ``auto`` is the process's usual spacing.

        Raises:
            ConfigError: too many steps, or a spacing that the process does not have.
        """

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says of it beside its configuration."""
        return {}


class VariancePreserving(NoiseProcess):
    """Discrete steps 0 .. T-1 with ``alpha^2 + sigma^2 = 1`` (Ho et al. 2020; Chi et al. 2023).

    Args:
        schedule: See :class:`NoiseSchedule`.
    """

    samplers = ("ddim", "ddpm", "dpmpp_2m", "heun")

    def __init__(self, schedule: NoiseSchedule):
        self.schedule, self.prediction, self.clip = schedule, schedule.prediction, schedule.clip
        self.alphas_cumprod: Tensor = schedule.scheduler().alphas_cumprod.clone()
        self._levels = self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()

    def draw(self, count: int, rng: torch.Generator | None, device: torch.device) -> Tensor:
        """Uniform steps, int64 [count]."""
        return torch.randint(0, self.schedule.train_steps, (count,), generator=rng, device=device)

    def levels(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`NoiseProcess`; times are steps."""
        alpha, sigma = (level.to(time.device) for level in self._levels)
        self._levels = alpha, sigma
        return alpha[time.long()], sigma[time.long()]

    def network_time(self, time: Tensor) -> Tensor:
        """The step itself."""
        return time.to(torch.float32)

    def grid(self, steps: int, spacing: str = "auto") -> Grid:
        """See :func:`robopolicy.diffusion.grid.time_grid`; ``auto`` is ``trailing``."""
        visited = time_grid(self.schedule.train_steps, steps, "trailing" if spacing == "auto" else spacing)
        bar = self.alphas_cumprod.double().cpu().numpy()[visited]
        return Grid.ending_clean(visited.astype(float), np.sqrt(bar), np.sqrt(1 - bar))

    def describe(self) -> dict[str, Any]:
        """``alphas_cumprod`` [T]."""
        return {"alphas_cumprod": self.alphas_cumprod.double().tolist()}


@dataclass(frozen=True)
class KarrasConfig:
    """Continuous noise levels (Karras et al. 2022; Reuss et al. 2023, arXiv 2304.02532).

    Attributes:
        sigma_min, sigma_max: Lowest and highest noise level.
        rho: Exponent of the ``karras`` spacing.
        density: How training draws: ``loglogistic`` (centre ``sigma_data``, scale 0.5, cut to the range) or
            ``lognormal`` (mean -1.2, deviation 1.2).
        clip: Bound of the clean sample while sampling.
    """

    sigma_min: float = 0.005
    sigma_max: float = 1.0
    rho: float = 7.0
    density: str = "loglogistic"
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ConfigError(explain("needs 0 < sigma_min < sigma_max", given=(self.sigma_min, self.sigma_max)))
        if self.density not in ("loglogistic", "lognormal"):
            raise ConfigError(
                explain("unknown density of noise levels", given=self.density, allowed=("loglogistic", "lognormal"))
            )


class Karras(NoiseProcess):
    """``alpha = 1``, time is the noise level sigma itself.

    Args:
        config: See :class:`KarrasConfig`.
    """

    prediction = "edm"
    samplers = ("ddim", "euler_ancestral", "heun", "dpmpp_2m")

    def __init__(self, config: KarrasConfig):
        self.config, self.clip = config, config.clip

    def draw(self, count: int, rng: torch.Generator | None, device: torch.device) -> Tensor:
        """Noise levels [count] of the configured density, by inversion of its distribution cut to the range."""
        config = self.config
        u = torch.rand(count, generator=rng, device=device, dtype=torch.float64)
        low, high = math.log(config.sigma_min), math.log(config.sigma_max)
        if config.density == "loglogistic":
            centre, scale = math.log(0.5), 0.5
            edges = [1 / (1 + math.exp(-(edge - centre) / scale)) for edge in (low, high)]
            share = edges[0] + u * (edges[1] - edges[0])
            log_sigma = centre + scale * torch.logit(share)
        else:
            centre, scale = -1.2, 1.2
            edges = [0.5 * (1 + math.erf((edge - centre) / scale / math.sqrt(2))) for edge in (low, high)]
            share = edges[0] + u * (edges[1] - edges[0])
            log_sigma = centre + scale * math.sqrt(2) * torch.erfinv(2 * share - 1)
        return log_sigma.exp().float()

    def levels(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """1 and the time."""
        return torch.ones_like(time), time

    def network_time(self, time: Tensor) -> Tensor:
        """25 ln sigma: a quarter of the logarithm, as published, times 100."""
        return 25.0 * time.log()

    def grid(self, steps: int, spacing: str = "auto") -> Grid:
        """``exponential`` (``auto``): even in the logarithm; ``karras``: in the 1/rho-th power; ``linear``: in it."""
        config = self.config
        if steps < 1:
            raise ConfigError(explain("sample_steps out of range", given=steps, allowed="1 or more"))
        u = np.linspace(0, 1, steps) if steps > 1 else np.zeros(1)
        low, high = config.sigma_min, config.sigma_max
        if spacing in ("auto", "exponential"):
            sigma = np.exp(math.log(high) + u * (math.log(low) - math.log(high)))
        elif spacing == "karras":
            root = 1 / config.rho
            sigma = (high**root + u * (low**root - high**root)) ** config.rho
        elif spacing == "linear":
            sigma = high + u * (low - high)
        else:
            raise ConfigError(explain("unknown spacing", given=spacing, allowed=("exponential", "karras", "linear")))
        return Grid.ending_clean(sigma, np.ones(steps), sigma)


@dataclass(frozen=True)
class FlowConfig:
    """Straight paths from noise to data (Lipman et al. 2023; Liu et al. 2023, arXiv 2209.03003).

    Attributes:
        density: How training draws the time: ``uniform``, or ``beta`` which favours noisy times (Black et al. 2024,
            arXiv 2410.24164, appendix B: 0.999 (1 - Beta(1.5, 1)) from noise to data).
        clip: Bound of the clean sample while sampling.
    """

    density: str = "uniform"
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.density not in ("uniform", "beta"):
            raise ConfigError(explain("unknown density of times", given=self.density, allowed=("uniform", "beta")))


class Flow(NoiseProcess):
    """``alpha = t``, ``sigma = 1 - t``: t = 0 is noise, t = 1 data.

    Args:
        config: See :class:`FlowConfig`.
    """

    prediction = "flow"
    samplers = ("ddim", "euler", "heun")

    def __init__(self, config: FlowConfig):
        self.config, self.clip = config, config.clip

    def draw(self, count: int, rng: torch.Generator | None, device: torch.device) -> Tensor:
        """Times [count] in [0, 1)."""
        u = torch.rand(count, generator=rng, device=device)
        if self.config.density == "beta":  # Beta(1.5, 1) by inversion: u^(1 / 1.5)
            return 0.999 * (1 - u.pow(1 / 1.5))
        return u

    def levels(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """t and 1 - t."""
        return time, 1 - time

    def network_time(self, time: Tensor) -> Tensor:
        """100 t."""
        return 100.0 * time

    def grid(self, steps: int, spacing: str = "auto") -> Grid:
        """0, 1/n, ..., (n-1)/n."""
        if steps < 1:
            raise ConfigError(explain("sample_steps out of range", given=steps, allowed="1 or more"))
        if spacing not in ("auto", "linear"):
            raise ConfigError(explain("unknown spacing", given=spacing, allowed=("auto", "linear")))
        time: NDArray[np.float64] = np.arange(steps) / steps
        return Grid.ending_clean(time, time, 1 - time)
