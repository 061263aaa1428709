"""The noise process of a network that jumps: from one time of a fixed grid to any later one, in one evaluation.

::

    entry of the grid   0 (noise) ... i -----------------------> j ... N (clean)
    jump                x_j = r x_i + (alpha_j - alpha_i r) D(x_i; i, j),    r = sigma_j / sigma_i

D is the clean sample that the network answers when it is told both times. For j = i the jump is the identity whatever
it answers, for j = N it is D itself, and a D that does not depend on j makes it a step of DDIM. With alpha = 1 this is
the parameterisation of consistency trajectory models (Kim et al. 2024, arXiv 2310.02279, section 3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robopolicy.diffusion.grid import Grid
from robopolicy.diffusion.process import NoiseProcess
from robopolicy.diffusion.samplers import LEAST_SIGNAL
from robopolicy.errors import ConfigError, explain

__all__ = ["Jumps", "move"]

TIMES = 100.0
"""What the network is told of the clean end; pure noise is 0."""


class Jumps(NoiseProcess):
    """Another process on N fixed times; its network is told the time and where to go.

    Args:
        process: Whose noise it is.
        bins: N.
        spacing: Of the N times, see ``process.grid``.

    Attributes:
        bins: The grid of all N times.
    """

    samplers = ("multistep_consistency", "ddim")

    def __init__(self, process: NoiseProcess, bins: int, spacing: str = "auto"):
        self.process, self.bins = process, process.grid(bins, spacing)
        self.prediction, self.clip = process.prediction, process.clip
        # nothing is asked of the network at the clean end; its entry only keeps the tables of one length
        times = torch.tensor([*self.bins.time, self.bins.time[-1]])
        self._told = process.network_time(times).to(torch.float32)
        self._levels = torch.tensor([self.bins.alpha, self.bins.sigma], dtype=torch.float32)

    def draw(self, count: int, rng: torch.Generator | None, device: torch.device) -> Tensor:
        """Entries [count] of the grid, int64, all alike, without the clean end."""
        return torch.randint(0, len(self.bins), (count,), generator=rng, device=device)

    def levels(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Of entries 0 .. N."""
        self._levels = self._levels.to(time.device)
        return self._levels[0][time.long()], self._levels[1][time.long()]

    def network_time(self, time: Tensor) -> Tensor:
        """[..., 2] for entries: the time, and the clean end as where to go."""
        return self.told(time, torch.full_like(time, len(self.bins)))

    def told(self, start: Tensor, stop: Tensor) -> Tensor:
        """[..., 2] of jumps between entries: what the inner process says of the first, and the share of the second."""
        self._told = self._told.to(start.device)
        return torch.stack([self._told[start.long()], stop.to(torch.float32) * (TIMES / len(self.bins))], dim=-1)

    def grid(self, steps: int, spacing: str = "auto") -> Grid:
        """``steps`` entries evenly spread over the N, beginning with the first: 0, 27, 54 of 80."""
        count = len(self.bins)
        if not 1 <= steps <= count:
            raise ConfigError(explain("sample_steps out of range", given=steps, allowed=f"1..{count}"))
        if spacing != "auto":
            mend = "set it of the bins, before training"
            raise ConfigError(explain("unknown spacing", given=spacing, allowed=("auto",), mend=mend))
        entries = [-(-i * count // steps) for i in range(steps)]
        chosen = [*entries, count]
        return Grid(
            tuple(float(i) for i in entries),
            tuple(self.bins.alpha[i] for i in chosen),
            tuple(self.bins.sigma[i] for i in chosen),
        )

    def describe(self) -> dict[str, Any]:
        """What the inner process says, and the ``bins``."""
        return {**self.process.describe(), "bins": {"time": self.bins.time, "sigma": self.bins.sigma}}

    def heun(self, clean: Any, x: Tensor, start: Tensor) -> Tensor:
        """One step of Heun's method from entries ``start`` [B] to the next ones (Karras et al. 2022, algorithm 1).

        Args:
            clean: ``(x, entries) -> clean sample`` of the teacher.
            x: [B, Tp, A] at ``start``.
            start: Entries, int64 [B].

        Returns:
            [B, Tp, A]; where there is hardly any signal, or the end is clean, the step is of first order.
        """
        here = [level[:, None, None] for level in self.levels(start)]
        after = [level[:, None, None] for level in self.levels(start + 1)]
        first = clean(x, start)
        moved = move(x, first, *here, *after)
        second = clean(moved, (start + 1).clamp(max=len(self.bins) - 1))
        (alpha, sigma), (alpha_after, sigma_after) = here, after
        both = (alpha > LEAST_SIGNAL) & (sigma_after > 0)
        safe, safe_after = torch.where(both, alpha, 1.0), torch.where(both, sigma_after, 1.0)
        slope = (x - alpha * first) / sigma + (moved - alpha_after * second) / safe_after
        better = alpha_after * (x / safe + 0.5 * (sigma_after / alpha_after - sigma / safe) * slope)
        return torch.where(both, better, moved)


def move(x: Tensor, clean: Tensor, alpha: Tensor, sigma: Tensor, alpha_after: Tensor, sigma_after: Tensor) -> Tensor:
    """The jump of this module; all tensors broadcast to ``x`` [B, Tp, A]. From a clean sample it goes nowhere."""
    ratio = torch.where(sigma > 0, sigma_after / torch.where(sigma > 0, sigma, 1.0), 1.0)
    return ratio * x + (alpha_after - alpha * ratio) * clean
