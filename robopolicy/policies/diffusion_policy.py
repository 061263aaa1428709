"""Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): discrete noise steps; state and image inputs.

Loss and sampling are those of :mod:`robopolicy.policies.denoising`, the network any of
:mod:`robopolicy.models.networks`; published are the FiLM U-Net and a transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from robopolicy.config import build as build_config
from robopolicy.config import to_dict
from robopolicy.diffusion.process import VariancePreserving
from robopolicy.diffusion.schedule import NoiseSchedule
from robopolicy.embodiment import Embodiment
from robopolicy.normalize import Normalizer
from robopolicy.policies.chunk_network import increment_ranges
from robopolicy.policies.denoising import DenoisingConfig, DenoisingPolicy

__all__ = ["DiffusionPolicy", "DiffusionPolicyConfig", "build", "derived_ranges"]


@dataclass(frozen=True)
class DiffusionPolicyConfig(DenoisingConfig):
    """Everything that decides the policy's architecture and behaviour, see the classes that it derives from.

    Attributes:
        schedule: Noise steps, and what the network predicts.
    """

    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)


class DiffusionPolicy(DenoisingPolicy):
    """See :class:`DenoisingPolicy`; the noise process is a variance-preserving one of T steps."""

    config: DiffusionPolicyConfig

    def __init__(
        self, config: DiffusionPolicyConfig, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
    ):
        super().__init__(config, VariancePreserving(config.schedule), embodiment, normalizer, environment_state)

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``target``, ``parameters``, ``environment_state``, schedule."""
        described = super().description()
        schedule = {**to_dict(self.config.schedule), **described["schedule"]}
        return {"target": f"{__name__}:build", **described, "schedule": schedule}


def build(
    parameters: Mapping[str, Any], *, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
) -> DiffusionPolicy:
    """The registry's entry: a policy from plain parameters.

    Raises:
        ConfigError: every unknown, missing or contradictory parameter.
    """
    config = build_config(DiffusionPolicyConfig, parameters, where="policy")
    return DiffusionPolicy(config, embodiment, normalizer, environment_state)


def derived_ranges(
    parameters: Mapping[str, Any], embodiment: Embodiment, windows: Callable[[int, int], Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Ranges that the policy needs beyond the store's own statistics, made from the training windows.

    Args:
        parameters: As for :func:`build`.
        embodiment: Card of the robot.
        windows: ``(To, Tp) -> {state, action, action_mask}`` over the training windows.

    Returns:
        Stream -> ``min`` and ``max``, to be joined to the store's statistics.
    """
    config = build_config(DiffusionPolicyConfig, parameters, where="policy")
    return increment_ranges(config, embodiment, windows)
