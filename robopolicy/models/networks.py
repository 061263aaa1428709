"""Which denoising networks there are, and how one is built from a policy's parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from robopolicy.errors import ConfigError, explain, suggest
from robopolicy.models.denoiser import ChunkDenoiser
from robopolicy.models.features import FeatureWidths
from robopolicy.registry import load_target

__all__ = ["NETWORKS", "build_network"]

NETWORKS: dict[str, str] = {
    "unet": "robopolicy.models.unet1d:build",
    "dit": "robopolicy.models.dit:build",
    "gpt": "robopolicy.models.gpt:build",
}
"""Name -> ``build(parameters, channels, widths, horizon) -> ChunkDenoiser``."""


def build_network(
    name: str, parameters: Mapping[str, Any], *, channels: int, widths: FeatureWidths, horizon: int
) -> ChunkDenoiser:
    """A denoiser of chunks [B, Tp, A].

    Args:
        name: One of :data:`NETWORKS`.
        parameters: Its own, such as ``down`` of the U-Net; what is left out has its default.
        channels: A.
        widths: Of the features.
        horizon: Tp.

    Raises:
        ConfigError: unknown network or parameter, or sizes that do not fit together.
    """
    if name not in NETWORKS:
        raise ConfigError(
            explain("unknown network", given=name, allowed=tuple(NETWORKS), mend=suggest(name, tuple(NETWORKS)))
        )
    build: Callable[..., ChunkDenoiser] = load_target(NETWORKS[name])
    return build(parameters, channels=channels, widths=widths, horizon=horizon)
