"""The one face of all networks that denoise a chunk.

What depends on (time, observation) alone is made once per chunk for all times that a sampler visits
(:meth:`ChunkDenoiser.conditions`); the sampler's loop runs :meth:`ChunkDenoiser.denoise` only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from robopolicy.errors import ConfigError, explain
from robopolicy.models.features import Features

__all__ = ["ChunkDenoiser"]


class ChunkDenoiser(nn.Module, ABC):
    """Noisy chunk [B, Tp, A], time, features -> answer [B, Tp, A].

    Attributes:
        horizon: Tp.
        per_step_time: Whether it takes a time for every step of the chunk, [B, Tp].
    """

    horizon: int
    per_step_time = False

    @abstractmethod
    def condition(self, time: Tensor, features: Features) -> Any:
        """What :meth:`denoise` needs of a time and of the features.

        Args:
            time: f32 [B], what the noise process tells the network; [B, Tp] where :attr:`per_step_time`.
            features: Of B observations.
        """

    @abstractmethod
    def denoise(self, x: Tensor, condition: Any) -> Tensor:
        """f32 [B, Tp, A] and the result of :meth:`condition` -> f32 [B, Tp, A]."""

    def conditions(self, times: Tensor, features: Features) -> Sequence[Any]:
        """:meth:`condition` for several times [n], the same for all rows; n entries. Batched where that is faster."""
        return [self.condition(time.expand(len(features), *time.shape), features) for time in times]

    def forward(self, x: Tensor, time: Tensor, features: Features) -> Tensor:
        """[B, Tp, A], [B] and features -> [B, Tp, A].

        Raises:
            ConfigError: a chunk of another length.
        """
        if x.shape[1] != self.horizon:
            raise ConfigError(explain("chunk of another length than Tp", given=x.shape[1], allowed=self.horizon))
        return self.denoise(x, self.condition(time, features))
