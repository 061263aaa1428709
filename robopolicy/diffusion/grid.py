"""Explicit time grids of few-step samplers.

A grid is a strictly decreasing list of training steps that begins at the *last* one: pure noise is only what the
network met at step T-1. Scheduler defaults ("leading" spacing) begin at T - T/n (90 of 100 for ten steps), which
feeds the network more noise than the step number says (Lin et al. 2023, arXiv 2305.08891, section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import ConfigError, explain

__all__ = ["SPACINGS", "Grid", "check_grid", "time_grid"]

SPACINGS = ("trailing", "linspace")
"""``trailing``: T-1, T-1-T/n, ..., T/n-1.  ``linspace``: T-1 ... 0, both ends included."""


@dataclass(frozen=True)
class Grid:
    """What a sampler visits, from noise to clean; n network evaluations.

    Attributes:
        time: [n] times of the noise process, for the network.
        alpha, sigma: [n + 1] share of the data and of the noise at them; the last entry is where the sample ends,
            1 and 0 for a clean one.
    """

    time: tuple[float, ...]
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.time)
        falling = all(b < a for a, b in zip(self._ratio(), self._ratio()[1:], strict=False))
        if not count or len(self.alpha) != count + 1 or len(self.sigma) != count + 1 or not falling:
            raise ConfigError(
                explain("not a grid from noise to clean", given=self, allowed="noise falls from entry to entry")
            )

    @classmethod
    def ending_clean(cls, time: NDArray[np.float64], alpha: NDArray[np.float64], sigma: NDArray[np.float64]) -> Grid:
        """Of n times and their levels; the end is clean data."""
        return cls(tuple(time.tolist()), (*alpha.tolist(), 1.0), (*sigma.tolist(), 0.0))

    def __len__(self) -> int:
        return len(self.time)

    def _ratio(self) -> list[float]:
        """Noise to signal, infinite where there is no signal."""
        return [s / a if a > 0 else float("inf") for a, s in zip(self.alpha, self.sigma, strict=True)]


def time_grid(train_steps: int, sample_steps: int, spacing: str = "trailing") -> NDArray[np.int64]:
    """The training steps visited by a sampler, first to last. -> int64 [sample_steps].

    Args:
        train_steps: T, number of steps of the noise schedule.
        sample_steps: n, 1 <= n <= T.
        spacing: One of :data:`SPACINGS`.

    Raises:
        ConfigError: n out of range, or unknown spacing.
    """
    if not 1 <= sample_steps <= train_steps:
        raise ConfigError(explain("sample_steps out of range", given=sample_steps, allowed=f"1..{train_steps}"))
    if spacing not in SPACINGS:
        raise ConfigError(explain("unknown spacing", given=spacing, allowed=SPACINGS))
    if spacing == "trailing":
        grid = np.round(train_steps - np.arange(sample_steps) * (train_steps / sample_steps)).astype(np.int64) - 1
    else:
        grid = np.round(np.linspace(train_steps - 1, 0, sample_steps)).astype(np.int64)
    return check_grid(grid, train_steps)


def check_grid(grid: NDArray[np.int64], train_steps: int) -> NDArray[np.int64]:
    """Pass the grid on if it begins at T-1, decreases strictly and ends at 0 or above.

    Raises:
        ConfigError: otherwise.
    """
    grid = np.asarray(grid, np.int64)
    if grid.ndim != 1 or not len(grid) or grid[0] != train_steps - 1 or grid[-1] < 0 or (np.diff(grid) >= 0).any():
        raise ConfigError(
            explain(
                "not a time grid", given=grid.tolist(), allowed=f"strictly decreasing from {train_steps - 1} to >= 0"
            )
        )
    return grid
