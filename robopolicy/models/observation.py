"""From a batch of observations to the features that condition a network.

::

    state [B, To, S] --normalise--.
    environment_state [B, To, E] -+-- concat per step --> steps [B, To, D]
    image[cam] [B, To, H, W, C] --CameraEncoders--'
                       low-dimensional ones of all steps --perceptron--> extra [B, X]
    goal [B, G] --normalise, withhold--> goal [B, G + 1]
    language --> [B, L]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robopolicy.models.affine import Affine
from robopolicy.models.features import Features, FeatureWidths
from robopolicy.models.language import SentenceLanguage, TableLanguage
from robopolicy.models.vision import CameraEncoders, VisionConfig
from robopolicy.normalize import Normalizer
from robopolicy.protocols import PolicySpec

__all__ = ["ObservationEncoder"]


class ObservationEncoder(nn.Module):
    """Concatenates normalised low-dimensional streams and camera features per observation step.

    Args:
        spec: Which streams, how wide, how many steps, and the width of the goal.
        normalizer: Must hold the streams that the spec reads; ``goal`` too where there is one.
        vision: Encoders of the cameras.
        hidden: Width of a two-layer perceptron over all low-dimensional features whose output joins the features;
            0 for none. FiLM alone sees observations through one linear layer.
        language: Of the instruction, see :func:`robopolicy.models.language.build_language`.

    Attributes:
        widths: Of what it gives.

    Raises:
        DataError: a stream without statistics, or of the wrong width.
    """

    def __init__(
        self,
        spec: PolicySpec,
        normalizer: Normalizer,
        vision: VisionConfig,
        hidden: int = 0,
        language: TableLanguage | SentenceLanguage | None = None,
    ):
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
        cameras = {name: spec.embodiment.camera(name) for name in spec.cameras}
        self.vision = CameraEncoders(vision, {name: (c.height, c.width) for name, c in cameras.items()})
        width += vision.feature_dim * len(cameras)
        self.goal = Affine(normalizer.require_width("goal", spec.goal)) if spec.goal else None
        self.language = language
        self.widths = FeatureWidths(
            horizon=self.horizon,
            step=width,
            extra=hidden if self.hidden is not None else 0,
            goal=spec.goal + 1 if spec.goal else 0,
            language=0 if language is None else language.width,
        )

    def forward(
        self,
        state: Tensor | None,
        environment_state: Tensor | None,
        images: dict[str, Tensor],
        *,
        augment: bool = False,
        rng: torch.Generator | None = None,
        image_mask: Mapping[str, Tensor] | None = None,
        goal: Tensor | None = None,
        keep_goal: Tensor | None = None,
        language: Sequence[str] | None = None,
    ) -> Features:
        """Shapes as above; ``augment`` crops and colours images at random.

        Args:
            state, environment_state, images: Physical units, as in a batch.
            augment: Crop and colour at random, from ``rng``.
            rng: Source of both.
            image_mask: Camera -> bool [B]; where False, its features are 0 and have no gradient.
            goal: f32 [B, G] physical units; None withholds it from all rows.
            keep_goal: bool [B], False for rows that do not see their goal.
            language: B instructions; None is an empty one for all.
        """
        features, extra = [], None
        for name, values in (("state", state), ("environment_state", environment_state)):
            if name in self.low_dim:
                assert values is not None
                features.append(self.low_dim[name](values))  # [B, To, S or E]
        if self.hidden is not None:
            extra = self.hidden(torch.cat(features, dim=-1).flatten(1))
        for name, seen in self.vision(images, augment=augment, rng=rng).items():  # f32 [B, To, feature_dim]
            if image_mask and name in image_mask:
                seen = seen * image_mask[name][:, None, None]
            features.append(seen)
        steps = torch.cat(features, dim=-1)
        words = None
        if self.language is not None:
            words = self.language([""] * len(steps) if language is None else list(language))
        return Features(steps, extra, self._goal(goal, keep_goal, steps), words)

    def _goal(self, goal: Tensor | None, keep: Tensor | None, steps: Tensor) -> Tensor | None:
        """Normalised goal and a 1 where there is one; all 0 where it is withheld."""
        if self.goal is None:
            return None
        if goal is None:
            return steps.new_zeros((len(steps), self.widths.goal))
        told = torch.cat([self.goal(goal), torch.ones_like(goal[:, :1])], dim=-1)
        return told if keep is None else told * keep[:, None].to(told.dtype)
