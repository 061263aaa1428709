"""BESO (Reuss et al. 2023, arXiv 2304.02532): goals, continuous noise levels, and a sampler chosen after training.

Loss and sampling are those of :mod:`robopolicy.policies.denoising`. What makes the family:

- noise levels sigma with Karras' preconditioning, drawn from a truncated log-logistic density; three steps suffice;
- goals in hindsight from unlabelled play (:mod:`robopolicy.goals`), withheld from a share of the samples, so that one
  network is the policy with and without goal, and classifier-free guidance mixes the two;
- a causal transformer over time, goal, observations and actions (:mod:`robopolicy.models.gpt`).

Published are single actions from To observations (``prediction_horizon = observation_horizon``, ``action_horizon = 1``)
and a goal withheld per element; here chunks are the default, and a goal is withheld as a whole, which is what guidance
presupposes. ``policy.sampler``, ``policy.guidance`` and ``policy.action_horizon`` may be changed at evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from robopolicy.config import build as build_config
from robopolicy.diffusion.process import Karras, KarrasConfig
from robopolicy.embodiment import Embodiment
from robopolicy.normalize import Normalizer
from robopolicy.policies.chunk_network import increment_ranges
from robopolicy.policies.denoising import DenoisingConfig, DenoisingPolicy, SamplerConfig

__all__ = ["BesoPolicy", "BesoPolicyConfig", "build", "derived_ranges"]


@dataclass(frozen=True)
class BesoPolicyConfig(DenoisingConfig):
    """Everything that decides the policy's architecture and behaviour, see the classes that it derives from.

    Attributes:
        network: ``gpt`` is published.
        goal_dropout: Share of the samples without goal; the published variant with guidance has 0.1.
        sampler: ``ddim``, ``euler_ancestral``, ``heun`` or ``dpmpp_2m``, on a grid that is ``exponential``, ``karras``
            or ``linear``.
        karras: Noise levels, and which of them training draws.
    """

    network: str = "gpt"
    goal_dropout: float = 0.1
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(kind="ddim", steps=3, spacing="exponential"))
    karras: KarrasConfig = field(default_factory=KarrasConfig)


class BesoPolicy(DenoisingPolicy):
    """See :class:`DenoisingPolicy`; the noise process is that of Karras et al. 2022."""

    config: BesoPolicyConfig

    def __init__(
        self, config: BesoPolicyConfig, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
    ):
        super().__init__(config, Karras(config.karras), embodiment, normalizer, environment_state)

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``target``, ``parameters``, ``environment_state``, schedule."""
        return {"target": f"{__name__}:build", **super().description()}


def build(
    parameters: Mapping[str, Any], *, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
) -> BesoPolicy:
    """The registry's entry: a policy from plain parameters.

    Raises:
        ConfigError: every unknown, missing or contradictory parameter.
    """
    config = build_config(BesoPolicyConfig, parameters, where="policy")
    return BesoPolicy(config, embodiment, normalizer, environment_state)


def derived_ranges(
    parameters: Mapping[str, Any], embodiment: Embodiment, windows: Callable[[int, int], Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Ranges of the increments, where the policy denoises those; see the function of this name beside diffusion."""
    return increment_ranges(build_config(BesoPolicyConfig, parameters, where="policy"), embodiment, windows)
