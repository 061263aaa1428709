"""Behaviour cloning by regression: one chunk per observation, mean squared error.

The control of every claim about multimodality: encoder, network and chunks are those of
:mod:`robopolicy.policies.diffusion_policy`, and only the loss differs. Where demonstrations do two things after the
same observation, the least squared error is between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.config import build as build_config
from robopolicy.config import to_dict
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, NonFiniteError, explain
from robopolicy.models.action_form import INCREMENT_STREAM, ActionForm, increment_range
from robopolicy.models.observation import ObservationEncoder
from robopolicy.models.robomimic_vision import VisionConfig
from robopolicy.models.unet1d import FilmUNet1d
from robopolicy.normalize import Normalizer
from robopolicy.policies.checks import check_observation
from robopolicy.policies.diffusion_policy import UNetConfig
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Batch, Losses, Observation

__all__ = ["BehaviourCloningConfig", "BehaviourCloningPolicy", "build", "derived_ranges"]


@dataclass(frozen=True)
class BehaviourCloningConfig:
    """Everything that decides the policy's architecture and behaviour.

    Attributes:
        observation_horizon: To.
        action_horizon: Ta, executed before re-planning.
        prediction_horizon: Tp.
        state: Read proprioception.
        environment_state: Read the privileged object state (simulation).
        cameras: Cameras to read, in this order.
        action_form: What is regressed, see :mod:`robopolicy.models.action_form`.
        observation_mlp: Width of a two-layer perceptron over the low-dimensional observations, 0 for none.
        unet: Sizes of the network.
        vision: Encoder of each camera.
    """

    observation_horizon: int = 2
    action_horizon: int = 8
    prediction_horizon: int = 16
    state: bool = True
    environment_state: bool = True
    cameras: tuple[str, ...] = ()
    action_form: str = "absolute"
    observation_mlp: int = 0
    unet: UNetConfig = field(default_factory=UNetConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)

    def __post_init__(self) -> None:
        to, ta, tp = self.observation_horizon, self.action_horizon, self.prediction_horizon
        problems = []
        if min(to, ta, tp) < 1 or to - 1 + ta > tp:
            problems.append(
                explain(
                    "horizons need To-1+Ta <= Tp", given=f"To={to} Ta={ta} Tp={tp}", mend="raise prediction_horizon"
                )
            )
        if not (self.state or self.environment_state or self.cameras):
            problems.append(explain("the policy observes nothing", mend="switch state or a camera on"))
        if problems:
            raise ConfigError(problems)


class BehaviourCloningPolicy(nn.Module):
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

    def __init__(
        self, config: BehaviourCloningConfig, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
    ):
        super().__init__()
        if config.environment_state and not environment_state:
            raise ConfigError(
                explain(
                    "the policy reads environment_state, the data have none",
                    mend="set environment_state=false and name cameras, or record it",
                )
            )
        self.config, self.normalizer = config, normalizer
        horizon, unet = config.prediction_horizon, config.unet
        self._spec = PolicySpec(
            embodiment=embodiment,
            observation_horizon=config.observation_horizon,
            action_horizon=config.action_horizon,
            prediction_horizon=horizon,
            state=config.state,
            environment_state=environment_state if config.environment_state else 0,
            cameras=config.cameras,
        )
        self.action_form = ActionForm(config.action_form, embodiment, normalizer, config.observation_horizon, horizon)
        self.encoder = ObservationEncoder(self._spec, normalizer, config.vision, config.observation_mlp)
        width = self.action_form.width
        self.unet = FilmUNet1d(
            width,
            self.encoder.output_dim,
            horizon=horizon,
            down=unet.down,
            step_dim=unet.step_dim,
            kernel=unet.kernel,
            groups=unet.groups,
        )
        # takes the place of the noisy chunk; without it the network could hardly tell one step of a chunk from another
        self.query = nn.Parameter(torch.linspace(-1, 1, horizon)[:, None].repeat(1, width))  # [Tp, A]

    @property
    def spec(self) -> PolicySpec:
        """Its needs."""
        return self._spec

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``target``, ``parameters``, ``environment_state``."""
        return {
            "target": f"{__name__}:build",
            "parameters": to_dict(self.config),
            "environment_state": self._spec.environment_state,
        }

    def loss(self, batch: Batch, *, rng: torch.Generator | None = None) -> Losses:
        """Mean squared error over the valid entries of each sample, then over samples.

        Args:
            batch: Physical units; see :mod:`robopolicy.types`.
            rng: Source of crops, on the batch's device.
        """
        streams = (batch.state, batch.environment_state, batch.image)
        condition = self.encoder(*streams, augment=self.training, rng=rng, image_mask=batch.image_mask)
        wanted = self.action_form.encode(batch.action, batch.state)  # [B, Tp, A]
        squared = (self._predict(condition).float() - wanted).square()
        weight = batch.action_mask.to(squared.dtype)
        per_sample = (squared * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)
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
        """The mean chunk; ``rng``, ``prefix`` and ``goal`` are not used.

        Returns:
            values f64 [Tp-To+1, A] in physical units.

        Raises:
            ShapeError, NonFiniteError, EmbodimentMismatchError: an observation that does not fit the spec.
            NonFiniteError: the network's output is not finite.
        """
        return self.act_batch([observation], [rng])[0]

    def act_batch(
        self, observations: Sequence[Observation], rngs: Sequence[int | np.random.Generator]
    ) -> list[ActionChunk]:
        """One chunk per observation in one pass of the network; ``rngs`` are not used.

        Raises:
            ShapeError, NonFiniteError, EmbodimentMismatchError: as :meth:`act`, for any of the observations.
        """
        for observation in observations:
            check_observation(observation, self._spec)
        with torch.inference_mode():
            chunk = self._predict(self._condition(observations)).double()
            state = np.stack([np.asarray(observation.state, np.float64) for observation in observations])
            decoded = self.action_form.decode(chunk, torch.as_tensor(state, device=chunk.device))
        values = decoded.cpu().numpy()[:, self._spec.observation_horizon - 1 :]
        if not np.isfinite(values).all():
            raise NonFiniteError(
                explain("the policy's output is not finite", mend="the weights are damaged: load another checkpoint")
            )
        card, horizon = self._spec.embodiment, self._spec.action_horizon
        return [
            ActionChunk(own, int(seen.time_ns[-1]), card.control_dt_s, card.hash, horizon=horizon)
            for own, seen in zip(values, observations, strict=True)
        ]

    def _predict(self, condition: Tensor) -> Tensor:
        """Features [B, F] -> [B, Tp, A]."""
        rows = len(condition)
        step = torch.zeros(rows, dtype=torch.long, device=condition.device)
        return self.unet(self.query.expand(rows, -1, -1), step, condition)

    def _condition(self, observations: Sequence[Observation]) -> Tensor:
        """Features [B, F] of observations."""
        device, spec = self.query.device, self._spec

        def tensor(rows: list[Any], dtype: Any) -> Tensor:
            return torch.tensor(np.stack([np.asarray(row, dtype) for row in rows]), device=device)

        images = {name: tensor([o.image[name] for o in observations], np.uint8) for name in spec.cameras}
        state = tensor([o.state for o in observations], np.float32) if spec.state else None
        wide = spec.environment_state
        return self.encoder(
            state, tensor([o.environment_state for o in observations], np.float32) if wide else None, images
        )


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
    if config.action_form != "increment":
        return {}
    gathered = windows(config.observation_horizon, config.prediction_horizon)
    return {INCREMENT_STREAM: increment_range(gathered, embodiment, config.observation_horizon)}
