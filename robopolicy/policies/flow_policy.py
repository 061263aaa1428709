"""Flow matching on chunks (Lipman et al. 2023, arXiv 2210.02747): straight paths, one to ten Euler or Heun steps.

Loss and sampling are those of :mod:`robopolicy.policies.denoising`; it differs from Diffusion Policy in the noise
process alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from robopolicy.config import build as build_config
from robopolicy.diffusion.process import Flow, FlowConfig
from robopolicy.embodiment import Embodiment
from robopolicy.normalize import Normalizer
from robopolicy.policies.chunk_network import increment_ranges
from robopolicy.policies.denoising import DenoisingConfig, DenoisingPolicy, SamplerConfig

__all__ = ["FlowPolicy", "FlowPolicyConfig", "build", "derived_ranges"]


@dataclass(frozen=True)
class FlowPolicyConfig(DenoisingConfig):
    """Everything that decides the policy's architecture and behaviour, see the classes that it derives from.

    Attributes:
        sampler: ``euler`` or ``heun``.
        flow: Which times training draws.
    """

    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(kind="euler", steps=5))
    flow: FlowConfig = field(default_factory=FlowConfig)


class FlowPolicy(DenoisingPolicy):
    """See :class:`DenoisingPolicy`; the noise process is a straight path."""

    config: FlowPolicyConfig

    def __init__(
        self, config: FlowPolicyConfig, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
    ):
        super().__init__(config, Flow(config.flow), embodiment, normalizer, environment_state)

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``target``, ``parameters``, ``environment_state``, schedule."""
        return {"target": f"{__name__}:build", **super().description()}


def build(
    parameters: Mapping[str, Any], *, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
) -> FlowPolicy:
    """The registry's entry: a policy from plain parameters.

    Raises:
        ConfigError: every unknown, missing or contradictory parameter.
    """
    config = build_config(FlowPolicyConfig, parameters, where="policy")
    return FlowPolicy(config, embodiment, normalizer, environment_state)


def derived_ranges(
    parameters: Mapping[str, Any], embodiment: Embodiment, windows: Callable[[int, int], Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Ranges of the increments, where the policy denoises those; see the function of this name beside diffusion."""
    return increment_ranges(build_config(FlowPolicyConfig, parameters, where="policy"), embodiment, windows)
