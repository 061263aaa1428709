"""From a batch of observations to the features that condition a network.

::

    state [B, To, S] --normalise--.
    environment_state [B, To, E] -+-- concat per step --> steps [B, To, D]
    image[cam] [B, To, H, W, C] --CameraEncoders--'
                       low-dimensional ones of all steps --perceptron--> extra [B, X]
    goal [B, G] --normalise--------------------------.
    goal_image[cam] [B, H, W, C] --CameraEncoders--- +-- a 1, withhold --> goal [B, G + cameras * feature_dim + 1]
    language --> [B, L]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError, ShapeError, explain
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
        spec: Which streams, how wide, how many steps, the width of the goal and the cameras of its picture. The picture
            of a camera that is observed too goes through the encoder of that camera, in one pass with its frames;
            others have an encoder of their own.
        normalizer: Must hold the streams that the spec reads; ``goal`` too where there is one.
        vision: Encoders of the cameras.
        hidden: Width of a two-layer perceptron over all low-dimensional features whose output joins the features;
            0 for none. FiLM alone sees observations through one linear layer.
        language: Of the instruction, see :func:`robopolicy.models.language.build_language`.
        goal_difference: The goal's features hold the difference of its entries to the last observation too.

    Attributes:
        widths: Of what it gives.

    Raises:
        DataError: a stream without statistics, or of the wrong width.
        ConfigError: a difference of entries that are not observed.
    """

    def __init__(
        self,
        spec: PolicySpec,
        normalizer: Normalizer,
        vision: VisionConfig,
        hidden: int = 0,
        language: TableLanguage | SentenceLanguage | None = None,
        goal_difference: bool = False,
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
        self.goal_cameras = spec.goal_cameras
        cameras = {name: spec.embodiment.camera(name) for name in (*spec.cameras, *spec.goal_cameras)}
        self.vision = CameraEncoders(vision, {name: (c.height, c.width) for name, c in cameras.items()})
        width += vision.feature_dim * len(spec.cameras)
        self.goal = Affine(normalizer.require_width("goal", spec.goal)) if spec.goal else None
        self.compared = _compared(spec) if goal_difference else []
        told = spec.goal + len(self.compared) + vision.feature_dim * len(spec.goal_cameras)
        self.language = language
        self.widths = FeatureWidths(
            horizon=self.horizon,
            step=width,
            extra=hidden if self.hidden is not None else 0,
            goal=told + 1 if told else 0,
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
        goal_images: Mapping[str, Tensor] | None = None,
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
            goal_images: Camera -> uint8 [B, H, W, C], of all cameras of the goal; None withholds it likewise.
            keep_goal: bool [B], False for rows that do not see their goal.
            language: B instructions; None is an empty one for all.

        Raises:
            ShapeError: a camera is missing, or its pictures have the wrong size; half of a goal.
        """
        features, extra = [], None
        for name, values in (("state", state), ("environment_state", environment_state)):
            if name in self.low_dim:
                assert values is not None
                features.append(self.low_dim[name](values))  # [B, To, S or E]
        if self.hidden is not None:
            extra = self.hidden(torch.cat(features, dim=-1).flatten(1))
        seen, wanted = self._see(images, goal_images, augment, rng)
        for name, each in seen.items():  # f32 [B, To, feature_dim]
            features.append(each * image_mask[name][:, None, None] if image_mask and name in image_mask else each)
        steps = torch.cat(features, dim=-1)
        words = None
        if self.language is not None:
            words = self.language([""] * len(steps) if language is None else list(language))
        return Features(steps, extra, self._goal(goal, wanted, keep_goal, steps, environment_state), words)

    def _see(
        self,
        images: Mapping[str, Tensor],
        goal_images: Mapping[str, Tensor] | None,
        augment: bool,
        rng: torch.Generator | None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Features of what is seen, camera -> f32 [B, To, feature_dim], and of what is wanted, [B, feature_dim]."""
        shown = {name: images[name] for name in self.cameras if name in images}
        goals = self.goal_cameras if goal_images is not None else ()
        for name in goals:
            if goal_images is None or name not in goal_images:
                raise ShapeError(
                    explain(
                        f"the picture of the goal from camera '{name}' is missing",
                        given=sorted(goal_images or ()),
                        allowed=self.goal_cameras,
                        mend="give one of each of these cameras",
                    )
                )
            picture = goal_images[name][:, None]  # one more step of that camera, the last
            shown[name] = torch.cat([shown[name], picture], dim=1) if name in shown else picture
        looked = tuple(dict.fromkeys((*self.cameras, *goals)))
        found = self.vision(shown, augment=augment, rng=rng, cameras=looked)
        seen = {name: found[name][:, : self.horizon] if name in goals else found[name] for name in self.cameras}
        return seen, {name: found[name][:, -1] for name in goals}

    def _goal(
        self,
        goal: Tensor | None,
        pictures: Mapping[str, Tensor],
        keep: Tensor | None,
        steps: Tensor,
        seen: Tensor | None,
    ) -> Tensor | None:
        """Normalised goal, differences, features of its pictures [B, feature_dim] and a 1; all 0 where withheld."""
        if not self.widths.goal:
            return None
        given = [goal is not None] * (self.goal is not None) + [bool(pictures)] * bool(self.goal_cameras)
        if not any(given):
            return steps.new_zeros((len(steps), self.widths.goal))
        if not all(given):
            raise ShapeError(
                explain(
                    "the goal is a vector and pictures, and only one of them is given",
                    given="the vector" if goal is not None else "pictures",
                    mend="give both, or neither to withhold the goal",
                )
            )
        parts = [self.goal(goal)] if self.goal is not None else []
        if self.compared and goal is not None and seen is not None:
            assert self.goal is not None
            parts.append((goal - seen[:, -1, self.compared]) * self.goal.scale)
        told = torch.cat([*parts, *pictures.values(), steps.new_ones((len(steps), 1))], dim=-1)
        return told if keep is None else told * keep[:, None].to(told.dtype)


def _compared(spec: PolicySpec) -> list[int]:
    """Where the goal's entries stand in the observed environment state."""
    missing = [name for name in spec.goal_names if name not in spec.environment_names]
    if missing or not spec.goal_names:
        raise ConfigError(
            explain(
                "goal.difference needs every entry of the goal among what is observed",
                given=f"goal.names {missing or '()'}",
                allowed=spec.environment_names,
                mend="name them in environment_names, or set goal.difference=false",
            )
        )
    return [spec.environment_names.index(name) for name in spec.goal_names]
