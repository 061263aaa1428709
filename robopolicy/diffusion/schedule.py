"""The noise schedule: a frozen description, and diffusers' scheduler built from it."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from robopolicy.errors import ConfigError, explain

__all__ = ["NoiseSchedule"]

PREDICTIONS = ("epsilon", "x0", "v")
"""Of those in :mod:`robopolicy.diffusion.parameterization`, the ones that belong to this process."""


@dataclass(frozen=True)
class NoiseSchedule:
    """Forward process of Diffusion Policy (Chi et al. 2023, section 5.1).

    Attributes:
        train_steps: T.
        beta_schedule: Name known to diffusers; ``squaredcos_cap_v2`` is the published one.
        prediction: ``epsilon``, ``x0`` or ``v``.
        clip: Bound of the clean sample in normalised units while sampling.
    """

    train_steps: int = 100
    beta_schedule: str = "squaredcos_cap_v2"
    prediction: str = "epsilon"
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ConfigError(explain("unknown prediction type", given=self.prediction, allowed=PREDICTIONS))
        if self.train_steps < 1:
            raise ConfigError(explain("train_steps must be positive", given=self.train_steps))

    def scheduler(self) -> DDPMScheduler:
        """Diffusers' scheduler: ``add_noise`` and ``alphas_cumprod [T]`` are what the project uses of it."""
        return DDPMScheduler(num_train_timesteps=self.train_steps, beta_schedule=self.beta_schedule)
