"""Behaviour cloning by regression: one chunk per observation, mean squared error.

The control of every claim about multimodality: encoder, network and chunks are those of
:mod:`robopolicy.policies.diffusion_policy` (see :mod:`robopolicy.policies.chunk_network`), and only the loss differs.
Where demonstrations do two things after the same observation, the least squared error is between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.config import build as build_config
from robopolicy.embodiment import Embodiment
from robopolicy.models.features import Features
from robopolicy.normalize import Normalizer
from robopolicy.policies.chunk_network import ChunkConfig, ChunkNetwork, increment_ranges, masked_mean
from robopolicy.types import ActionChunk, Batch, Losses, Observation

__all__ = ["BehaviourCloningConfig", "BehaviourCloningPolicy", "build", "derived_ranges"]


@dataclass(frozen=True)
class BehaviourCloningConfig(ChunkConfig):
    """Everything that decides the policy's architecture and behaviour; no more than every chunk policy has."""


class BehaviourCloningPolicy(ChunkNetwork):
    """A :class:`~robopolicy.protocols.TrainablePolicy`; stateless, and without any randomness in :meth:`act`.

    Args:
        config: See :class:`BehaviourCloningConfig`.
        embodiment: Card of the robot.
        normalizer: Ranges of the streams; its widths must fit.
        environment_state: Width E in the data; used only where the config reads it.

    Raises:
        ConfigError: sizes that do not fit together, or privileged state that the data do not have.
        DataError: statistics missing or of the wrong width.
    """

    config: BehaviourCloningConfig

    def __init__(
        self, config: BehaviourCloningConfig, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
    ):
        super().__init__(config, embodiment, normalizer, environment_state)
        # takes the place of the noisy chunk; without it the network could hardly tell one step of a chunk from another
        steps = torch.linspace(-1, 1, config.prediction_horizon)[:, None]
        self.query = nn.Parameter(steps.repeat(1, self.action_form.width))  # [Tp, A]

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``target``, ``parameters``, ``environment_state``."""
        return {"target": f"{__name__}:build", **super().description()}

    def loss(self, batch: Batch, *, rng: torch.Generator | None = None) -> Losses:
        """Mean squared error over the valid entries of each sample, then over samples.

        Args:
            batch: Physical units; see :mod:`robopolicy.types`.
            rng: Source of crops, on the batch's device.
        """
        features, wanted = self._encoded(batch, rng)
        squared = (self._predict(features).float() - wanted).square()
        per_sample = masked_mean(squared, batch.action_mask)
        total = per_sample.mean()
        return Losses(total, {"regression": total.detach()}, per_sample.detach())

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator = 0,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """The mean chunk, see :meth:`ChunkNetwork.act`; ``rng``, ``prefix`` and ``goal`` are not used."""
        return super().act(observation, rng=rng, prefix=prefix, goal=goal)

    def _sample(self, features: Features, generators: Sequence[np.random.Generator]) -> Tensor:
        return self._predict(features)

    def _predict(self, features: Features) -> Tensor:
        """[B, Tp, A]."""
        time = torch.zeros(len(features), device=features.steps.device)
        chunk: Tensor = self.network(self.query.expand(len(features), -1, -1), time, features)
        return chunk


def build(
    parameters: Mapping[str, Any], *, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
) -> BehaviourCloningPolicy:
    """The registry's entry: a policy from plain parameters.

    Raises:
        ConfigError: every unknown, missing or contradictory parameter.
    """
    config = build_config(BehaviourCloningConfig, parameters, where="policy")
    return BehaviourCloningPolicy(config, embodiment, normalizer, environment_state)


def derived_ranges(
    parameters: Mapping[str, Any], embodiment: Embodiment, windows: Callable[[int, int], Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Ranges of the increments, where the policy regresses those; see the function of this name beside diffusion."""
    config = build_config(BehaviourCloningConfig, parameters, where="policy")
    return increment_ranges(config, embodiment, windows)
