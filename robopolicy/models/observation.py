"""From a batch of observations to one condition vector per window.

::

    state [B, To, S] --normalise--.
    environment_state [B, To, E] -+-- concat per step --> [B, To, F] --flatten--> [B, To * F]
    image[cam] [B, To, H, W, C] --VisualEncoder--'
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robopolicy.models.affine import Affine
from robopolicy.models.robomimic_vision import VisionConfig, VisualEncoder
from robopolicy.normalize import Normalizer
from robopolicy.protocols import PolicySpec

__all__ = ["ObservationEncoder"]


class ObservationEncoder(nn.Module):
    """Concatenates normalised low-dimensional streams and camera features per observation step.

    Args:
        spec: Which streams, how wide, how many steps.
        normalizer: Must hold the streams that the spec reads.
        vision: Encoder of each camera.
        hidden: Width of a two-layer perceptron over all low-dimensional features whose output joins the features;
            0 for none. FiLM alone sees observations through one linear layer.

    Raises:
        DataError: a stream without statistics, or of the wrong width.
    """

    def __init__(self, spec: PolicySpec, normalizer: Normalizer, vision: VisionConfig, hidden: int = 0):
        super().__init__()
        self.horizon = spec.observation_horizon
        self.cameras = spec.cameras
        self.low_dim = nn.ModuleDict()
        width = 0
        for name, size in (
            ("state", len(spec.embodiment.state) if spec.state else 0),
            ("environment_state", spec.environment_state),
        ):
            if size:
                self.low_dim[name] = Affine(normalizer.require_width(name, size))
                width += size
        flat = width * self.horizon
        self.hidden: nn.Module | None = None
        if hidden and flat:
            self.hidden = nn.Sequential(nn.Linear(flat, hidden), nn.Mish(), nn.Linear(hidden, hidden))
        self.vision = nn.ModuleDict()
        for name in spec.cameras:
            camera = spec.embodiment.camera(name)
            self.vision[name] = VisualEncoder(vision, camera.height, camera.width)
            width += vision.feature_dim
        self.output_dim = width * self.horizon + (hidden if self.hidden is not None else 0)

    def forward(
        self,
        state: Tensor | None,
        environment_state: Tensor | None,
        images: dict[str, Tensor],
        *,
        augment: bool = False,
        rng: torch.Generator | None = None,
        image_mask: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Shapes as above; ``augment`` crops images at random. -> f32 [B, To * F + hidden].

        Where ``image_mask[cam]`` bool [B] is False, the features of that camera are 0 and have no gradient.
        """
        features, extra = [], []
        for name, values in (("state", state), ("environment_state", environment_state)):
            if name in self.low_dim:
                assert values is not None
                features.append(self.low_dim[name](values))  # [B, To, S or E]
        if self.hidden is not None:
            extra.append(self.hidden(torch.cat(features, dim=-1).flatten(1)))
        for name in self.cameras:
            image = images[name]  # uint8 [B, To, H, W, C]
            encoded = self.vision[name](image.flatten(0, 1), augment=augment, rng=rng)  # [B * To, D]
            seen = encoded.unflatten(0, image.shape[:2]).to(torch.float32)
            if image_mask and name in image_mask:
                seen = seen * image_mask[name][:, None, None]
            features.append(seen)
        return torch.cat([torch.cat(features, dim=-1).flatten(1), *extra], dim=-1)
