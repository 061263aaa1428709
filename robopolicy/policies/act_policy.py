"""Action Chunking with Transformers (Zhao et al. 2023, arXiv 2304.13705): L1 regression of a chunk with a CVAE.

Encoder, action form and plumbing are those of :mod:`robopolicy.policies.chunk_network`; the network is
:mod:`robopolicy.models.act`. Unlike the published code the streams are scaled to [-1, 1] by their ranges, as for every
policy of this project, and not by mean and standard deviation; backbones start from random weights with group norm
unless ``vision.weights`` names a file. Temporal ensembling is a choice of whoever runs the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.config import build as build_config
from robopolicy.embodiment import Embodiment
from robopolicy.errors import explain
from robopolicy.models.act import ActNetwork, ActNetworkConfig
from robopolicy.models.features import Features
from robopolicy.models.image_tokens import TokenEncoder, TokenFeatures
from robopolicy.models.language import build_language
from robopolicy.models.vision import VisionConfig
from robopolicy.normalize import Normalizer
from robopolicy.policies.chunk_network import ChunkConfig, ChunkNetwork, increment_ranges, masked_mean
from robopolicy.types import ActionChunk, Batch, Losses, Observation

__all__ = ["ActPolicy", "ActPolicyConfig", "build", "derived_ranges"]


@dataclass(frozen=True)
class ActPolicyConfig(ChunkConfig):
    """Everything that decides the policy's architecture and behaviour, see also :class:`ChunkConfig`.

    Attributes:
        act: Sizes of the network.
        kl_weight: Of the Kullback-Leibler divergence beside the L1 error.
        masked_loss: Mean over the valid entries; False gives the published mean, to which padding adds 0 but counts.
        vision: Backbones and crop; ``keypoints``, ``feature_dim`` and ``pool`` are of no use here.
    """

    observation_horizon: int = 1
    action_horizon: int = 100
    prediction_horizon: int = 100
    network: str = "act"
    act: ActNetworkConfig = field(default_factory=ActNetworkConfig)
    kl_weight: float = 10.0
    masked_loss: bool = True
    vision: VisionConfig = field(default_factory=lambda: VisionConfig(crop=0, shared=True))

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.network != "act" or self.unet or self.dit or self.gpt:
            problems.append(
                explain(
                    "ACT has one network", given=f"network={self.network}", mend="leave network out; set act.width ..."
                )
            )
        if self.kl_weight < 0:
            problems.append(explain("kl_weight must be at least 0", given=self.kl_weight))
        return problems


class ActPolicy(ChunkNetwork):
    """A :class:`~robopolicy.protocols.TrainablePolicy`; stateless, and without any randomness in :meth:`act`.

    Args:
        config: See :class:`ActPolicyConfig`.
        embodiment: Card of the robot.
        normalizer: Ranges of the streams; its widths must fit.
        environment_state: Width E in the data; used only where the config reads it.

    Raises:
        ConfigError: sizes that do not fit together, or privileged state that the data do not have.
        DataError: statistics missing or of the wrong width.
    """

    config: ActPolicyConfig
    network: ActNetwork
    encoder: TokenEncoder

    def __init__(
        self, config: ActPolicyConfig, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
    ):
        super().__init__(config, embodiment, normalizer, environment_state)

    def _make_encoder(self) -> TokenEncoder:
        config = self.config
        words = build_language(config.language)
        return TokenEncoder(self._spec, self.normalizer, config.vision, config.observation_mlp, words)

    def _make_network(self) -> ActNetwork:
        return ActNetwork(
            self.config.act,
            channels=self.action_form.width,
            widths=self.encoder.widths,
            horizon=self.config.prediction_horizon,
        )

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``target``, ``parameters``, ``environment_state``."""
        return {"target": f"{__name__}:build", **super().description()}

    def loss(self, batch: Batch, *, rng: torch.Generator | None = None) -> Losses:
        """L1 error of each sample plus ``kl_weight`` times the divergence of its posterior, then the mean over samples.

        Args:
            batch: Physical units; see :mod:`robopolicy.types`.
            rng: Source of z and of crops, on the batch's device.
        """
        features, wanted = self._encoded(batch, rng)
        assert isinstance(features, TokenFeatures)
        mask = batch.action_mask
        # absent channels must not tell the posterior anything, whatever stands in them
        seen = torch.where(mask, wanted, 0.0).to(torch.float32)
        output = self.network(features, seen, ~mask.any(-1), rng)
        error = (output.chunk.float() - wanted).abs()
        if self.config.masked_loss:
            per_sample = masked_mean(error, mask)
        else:
            per_sample = (error * mask).mean((1, 2))
        parts: dict[str, float | Tensor] = {"l1": per_sample.mean().detach()}
        if output.posterior is not None:
            divergence = output.posterior.divergence()
            parts["kl"] = divergence.mean().detach()
            per_sample = per_sample + self.config.kl_weight * divergence
        return Losses(per_sample.mean(), parts, per_sample.detach())

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator = 0,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """The chunk of z = 0, see :meth:`ChunkNetwork.act`; ``rng`` and ``prefix`` are not used."""
        return super().act(observation, rng=rng, prefix=prefix, goal=goal)

    def _sample(self, features: Features, generators: Sequence[np.random.Generator]) -> Tensor:
        assert isinstance(features, TokenFeatures)
        chunk: Tensor = self.network(features).chunk
        return chunk


def build(
    parameters: Mapping[str, Any], *, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
) -> ActPolicy:
    """The registry's entry: a policy from plain parameters.

    Raises:
        ConfigError: every unknown, missing or contradictory parameter.
    """
    config = build_config(ActPolicyConfig, parameters, where="policy")
    return ActPolicy(config, embodiment, normalizer, environment_state)


def derived_ranges(
    parameters: Mapping[str, Any], embodiment: Embodiment, windows: Callable[[int, int], Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Ranges of the increments, where the policy regresses those; see the function of this name beside diffusion."""
    return increment_ranges(build_config(ActPolicyConfig, parameters, where="policy"), embodiment, windows)
