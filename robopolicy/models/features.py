"""What a denoiser is told of the world: made by the observation encoder once per chunk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FeatureWidths", "Features"]


@dataclass(frozen=True)
class FeatureWidths:
    """Widths that a network is built for.

    Attributes:
        horizon: To.
        step: D, features of one observation step.
        extra: Width of what is made of all steps together.
        goal: G' of the goal's features, 0 for none.
        language: L of the instruction's features, 0 for none.
    """

    horizon: int
    step: int
    extra: int = 0
    goal: int = 0
    language: int = 0

    @property
    def vector(self) -> int:
        """Of everything in one vector."""
        return self.horizon * self.step + self.extra + self.goal + self.language


@dataclass
class Features:
    """Of B observations.

    Attributes:
        steps: f32 [B, To, D].
        extra: f32 [B, X], or None.
        goal: f32 [B, G'], 0 where the goal is withheld, or None.
        language: f32 [B, L], or None.
    """

    steps: Tensor
    extra: Tensor | None = None
    goal: Tensor | None = None
    language: Tensor | None = None

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def vector(self) -> Tensor:
        """Everything in one vector, f32 [B, C]."""
        parts = [self.steps.flatten(1), self.extra, self.goal, self.language]
        return torch.cat([part for part in parts if part is not None], dim=-1)

    def repeated(self, times: int) -> Features:
        """Each row ``times`` times, one after the other."""

        def repeat(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.repeat_interleave(times, dim=0)

        return Features(
            self.steps.repeat_interleave(times, dim=0), *map(repeat, (self.extra, self.goal, self.language))
        )

    def with_and_without_goal(self) -> Features:
        """2B rows: all as they are, then all with the goal withheld."""
        assert self.goal is not None
        joined = Features(*(None if p is None else torch.cat([p, p]) for p in (self.steps, self.extra)))  # type: ignore[arg-type]
        joined.goal = torch.cat([self.goal, torch.zeros_like(self.goal)])
        joined.language = None if self.language is None else torch.cat([self.language, self.language])
        return joined
