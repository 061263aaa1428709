"""Behaviour cloning by regression: one chunk per observation, mean squared error.

The control of every claim about multimodality: encoder, network and chunks are those of
:mod:`robopolicy.policies.diffusion_policy` (see :mod:`robopolicy.policies.chunk_network`), and only the loss differs.
Where demonstrations do two things after the same observation, the least squared error is between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.config import build as build_config
from robopolicy.embodiment import Embodiment
from robopolicy.models.robomimic_vision import VisionConfig
from robopolicy.normalize import Normalizer
from robopolicy.policies.chunk_network import ChunkConfig, ChunkNetwork, UNetConfig, increment_ranges, masked_mean
from robopolicy.types import ActionChunk, Batch, Losses, Observation

__all__ = ["BehaviourCloningConfig", "BehaviourCloningPolicy", "build", "derived_ranges"]


@dataclass(frozen=True)
class BehaviourCloningConfig(ChunkConfig):
    """Everything that decides the policy's architecture and behaviour.

    Attributes:
        observation_horizon, action_horizon, prediction_horizon, state, environment_state, cameras: See
            :class:`~robopolicy.policies.chunk_network.ChunkConfig`.
        action_form: What is regressed, see :mod:`robopolicy.models.action_form`.
        observation_mlp: Width of a two-layer perceptron over the low-dimensional observations, 0 for none.
        unet: Sizes of the network.
        vision: Encoder of each camera.
    """

    action_form: str = "absolute"
    observation_mlp: int = 0
    unet: UNetConfig = field(default_factory=UNetConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)


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
        super().__init__(
            config,
            embodiment,
            normalizer,
            environment_state,
            action_form=config.action_form,
            observation_mlp=config.observation_mlp,
            unet=config.unet,
            vision=config.vision,
        )
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
        condition, wanted = self._encoded(batch, rng)
        squared = (self._predict(condition).float() - wanted).square()
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

    def _sample(self, condition: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
        return self._predict(condition)

    def _predict(self, condition: Tensor) -> Tensor:
        """Features [B, F] -> [B, Tp, A]."""
        rows = len(condition)
        step = torch.zeros(rows, dtype=torch.long, device=condition.device)
        return self.unet(self.query.expand(rows, -1, -1), step, condition)


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
    return increment_ranges(config, config.action_form, embodiment, windows)
