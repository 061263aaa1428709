"""Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): FiLM 1-D U-Net, state and image inputs.

Index convention (see :mod:`robopolicy.types`): prediction index 0 belongs to the oldest observation; :meth:`act`
returns indices ``To-1 .. Tp-1``, of which the first ``Ta`` are meant to be executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.config import build as build_config
from robopolicy.config import to_dict
from robopolicy.diffusion.grid import time_grid
from robopolicy.diffusion.parameterization import target
from robopolicy.diffusion.samplers import ddim, ddpm
from robopolicy.diffusion.schedule import NoiseSchedule
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, NonFiniteError, explain
from robopolicy.models.action_form import INCREMENT_STREAM, ActionForm, increment_range
from robopolicy.models.observation import ObservationEncoder
from robopolicy.models.robomimic_vision import VisionConfig
from robopolicy.models.unet1d import FilmUNet1d
from robopolicy.normalize import Normalizer
from robopolicy.policies.checks import check_observation
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Batch, Losses, Observation

__all__ = ["DiffusionPolicy", "DiffusionPolicyConfig", "SamplerConfig", "UNetConfig", "build", "derived_ranges"]


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the denoiser; the published ones are (256, 512, 1024) for state and (512, 1024, 2048) for images."""

    down: tuple[int, ...] = (256, 512, 1024)
    step_dim: int = 256
    kernel: int = 5
    groups: int = 8


@dataclass(frozen=True)
class SamplerConfig:
    """How a chunk is sampled.

    Attributes:
        kind: ``ddim`` or ``ddpm``.
        steps: Network evaluations per chunk.
        spacing: See :data:`robopolicy.diffusion.grid.SPACINGS`.
    """

    kind: str = "ddim"
    steps: int = 16
    spacing: str = "trailing"

    def __post_init__(self) -> None:
        if self.kind not in ("ddim", "ddpm"):
            raise ConfigError(explain("unknown sampler", given=self.kind, allowed=("ddim", "ddpm")))


@dataclass(frozen=True)
class DiffusionPolicyConfig:
    """Everything that decides the policy's architecture and behaviour.

    Attributes:
        observation_horizon: To.
        action_horizon: Ta, executed before re-planning.
        prediction_horizon: Tp.
        state: Read proprioception.
        environment_state: Read the privileged object state (simulation).
        cameras: Cameras to read, in this order.
        masked_loss: Leave padding and absent channels out of the loss; False reproduces the published loss.
        action_form: What is denoised, see :mod:`robopolicy.models.action_form`; ``absolute`` is published.
        observation_mlp: Width of a two-layer perceptron over the low-dimensional observations whose output joins
            them; 0 (published) for none.
        noise_samples: Noise draws per window and encoder pass. 1 is published; more make an image encoder's pass,
            the costly part, go further.
    """

    observation_horizon: int = 2
    action_horizon: int = 8
    prediction_horizon: int = 16
    state: bool = True
    environment_state: bool = True
    cameras: tuple[str, ...] = ()
    masked_loss: bool = True
    action_form: str = "absolute"
    observation_mlp: int = 0
    noise_samples: int = 1
    unet: UNetConfig = field(default_factory=UNetConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        problems = []
        to, ta, tp = self.observation_horizon, self.action_horizon, self.prediction_horizon
        if min(to, ta, tp) < 1 or to - 1 + ta > tp:
            problems.append(
                explain(
                    "horizons need To-1+Ta <= Tp", given=f"To={to} Ta={ta} Tp={tp}", mend="raise prediction_horizon"
                )
            )
        if not (self.state or self.environment_state or self.cameras):
            problems.append(explain("the policy observes nothing", mend="switch state or a camera on"))
        if self.noise_samples < 1:
            problems.append(explain("noise_samples must be at least 1", given=self.noise_samples))
        if problems:
            raise ConfigError(problems)


class DiffusionPolicy(nn.Module):
    """A :class:`~robopolicy.protocols.TrainablePolicy`; stateless between calls.

    Args:
        config: See :class:`DiffusionPolicyConfig`.
        embodiment: Card of the robot.
        normalizer: Ranges of the streams; its widths must fit.
        environment_state: Width E in the data; used only where the config reads it.

    Raises:
        ConfigError: sizes that do not fit together, or privileged state that the data do not have.
        DataError: statistics missing or of the wrong width.
    """

    alphas_cumprod: Tensor

    def __init__(
        self, config: DiffusionPolicyConfig, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
    ):
        super().__init__()
        if config.environment_state and not environment_state:
            raise ConfigError(
                explain(
                    "the policy reads environment_state, the data have none",
                    mend="set environment_state=false and name cameras, or record it",
                )
            )
        self.config = config
        self.normalizer = normalizer
        self._spec = PolicySpec(
            embodiment=embodiment,
            observation_horizon=config.observation_horizon,
            action_horizon=config.action_horizon,
            prediction_horizon=config.prediction_horizon,
            state=config.state,
            environment_state=environment_state if config.environment_state else 0,
            cameras=config.cameras,
        )
        self.action_form = ActionForm(
            config.action_form, embodiment, normalizer, config.observation_horizon, config.prediction_horizon
        )
        self.encoder = ObservationEncoder(self._spec, normalizer, config.vision, config.observation_mlp)
        unet = config.unet
        self.unet = FilmUNet1d(
            self.action_form.width,
            self.encoder.output_dim,
            horizon=config.prediction_horizon,
            down=unet.down,
            step_dim=unet.step_dim,
            kernel=unet.kernel,
            groups=unet.groups,
        )
        self.scheduler = config.schedule.scheduler()
        self.register_buffer("alphas_cumprod", self.scheduler.alphas_cumprod.clone(), persistent=False)
        self.grid = time_grid(config.schedule.train_steps, config.sampler.steps, config.sampler.spacing)

    @property
    def spec(self) -> PolicySpec:
        """Its needs."""
        return self._spec

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``target``, ``parameters``, ``environment_state``, schedule."""
        return {
            "target": f"{__name__}:build",
            "parameters": to_dict(self.config),
            "environment_state": self._spec.environment_state,
            "schedule": {
                **to_dict(self.config.schedule),
                "alphas_cumprod": self.alphas_cumprod.double().tolist(),
                "sampler": self.config.sampler.kind,
                "grid": self.grid.tolist(),
            },
        }

    def loss(self, batch: Batch, *, rng: torch.Generator | None = None, present: Tensor | None = None) -> Losses:
        """Denoising error at one uniform step per sample (Chi et al. 2023, equation 5).

        Masked: the mean over the valid entries of each sample, then over samples, so that any division of a batch
        over processes or micro-batches has the same mean.

        Args:
            batch: Physical units; see :mod:`robopolicy.types`.
            rng: Source of crops, steps and noise, on the batch's device.
            present: [B, A], 0 for channels that a sample's robot does not have: the network is shown 0 there, without
                noise, and what it says there does not count. None: all are there.
        """
        streams = (batch.state, batch.environment_state, batch.image)
        condition = self.encoder(*streams, augment=self.training, rng=rng, image_mask=batch.image_mask)
        x0 = self.action_form.encode(batch.action, batch.state)  # [B, Tp, A]
        mask = batch.action_mask if self.config.masked_loss else torch.ones_like(batch.action_mask)
        here = None
        if present is not None:
            here = present[:, None, :].to(x0.dtype)  # [B, 1, A]
            mask = mask & (here > 0)
        repeat = self.config.noise_samples
        if repeat > 1:
            condition, x0, mask = (v.repeat_interleave(repeat, dim=0) for v in (condition, x0, mask))
            here = None if here is None else here.repeat_interleave(repeat, dim=0)
        device = x0.device
        step = torch.randint(0, self.config.schedule.train_steps, (len(x0),), generator=rng, device=device)
        noise = torch.randn(x0.shape, generator=rng, device=device)
        if here is not None:
            x0, noise = x0 * here, noise * here
        x_t = self.scheduler.add_noise(x0, noise, cast(torch.IntTensor, step))
        output = self.unet(x_t, step, condition)
        alpha_bar = self.alphas_cumprod[step][:, None, None]
        squared = (output.float() - target(self.config.schedule.prediction, x0, noise, alpha_bar)).square()
        weight = mask.to(squared.dtype)
        per_sample = (squared * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)
        total = per_sample.mean() if self.config.masked_loss or here is not None else squared.mean()
        return Losses(total, {"denoising": total.detach()}, per_sample.detach().unflatten(0, (-1, repeat)).mean(1))

    def sample(
        self,
        state: Tensor | None,
        environment_state: Tensor | None,
        images: dict[str, Tensor],
        generator: np.random.Generator,
        *,
        image_mask: Mapping[str, Tensor] | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """A normalised chunk f32 [1, Tp, A] for observations that are tensors already [1, To, ...].

        Args:
            state, environment_state, images: As in a batch of one.
            generator: The only source of randomness.
            image_mask: Camera -> bool [1], False for a camera that is not there.
            present: [1, A], see :meth:`loss`; the chunk is 0 where it is.
        """
        condition = self.encoder(state, environment_state, images, image_mask=image_mask)
        return self._sample(condition, [generator], present)

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """Sample a chunk; the same observation and seed give the same chunk. ``prefix`` and ``goal`` are not used.

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
        """One chunk per observation in one pass of the network; the noise of each comes from its own generator.

        Of a batch of one it is :meth:`act`. The kernels of other batch sizes may round the last bits otherwise.

        Args:
            observations: B of them.
            rngs: B seeds or generators.

        Raises:
            ShapeError, NonFiniteError, EmbodimentMismatchError: as :meth:`act`, for any of the observations.
        """
        for observation in observations:
            check_observation(observation, self._spec)
        generators = [np.random.default_rng(rng) for rng in rngs]
        with torch.inference_mode():
            sample = self._sample(self._condition(observations), generators)
            state = np.stack([np.asarray(observation.state, np.float64) for observation in observations])
            decoded = self.action_form.decode(sample.double(), torch.as_tensor(state, device=sample.device))
        values = decoded.cpu().numpy()[:, self._spec.observation_horizon - 1 :]
        if not np.isfinite(values).all():
            raise NonFiniteError(
                explain("the policy's output is not finite", mend="the weights are damaged: load another checkpoint")
            )
        card = self._spec.embodiment
        return [
            ActionChunk(
                values=own,
                t0_ns=int(observation.time_ns[-1]),
                dt_s=card.control_dt_s,
                embodiment=card.hash,
                horizon=self._spec.action_horizon,
            )
            for own, observation in zip(values, observations, strict=True)
        ]

    def _condition(self, observations: Sequence[Observation]) -> Tensor:
        """Features [B, F] of observations."""
        device, spec = self.alphas_cumprod.device, self._spec

        def tensor(name: str) -> Tensor:
            rows = [np.asarray(getattr(observation, name), np.float32) for observation in observations]
            return torch.tensor(np.stack(rows), device=device)

        images = {
            n: torch.tensor(np.stack([np.asarray(o.image[n]) for o in observations]), device=device)
            for n in spec.cameras
        }
        environment = tensor("environment_state") if spec.environment_state else None
        return self.encoder(tensor("state") if spec.state else None, environment, images)

    def _sample(
        self, condition: Tensor, generators: Sequence[np.random.Generator], present: Tensor | None = None
    ) -> Tensor:
        """Features [B, F] -> normalised chunks [B, Tp, A]; row b draws from ``generators[b]`` alone.

        ``present`` as in :meth:`sample`.
        """
        device, rows = condition.device, len(condition)
        shape = (1, self._spec.prediction_horizon, self.action_form.width)
        here = None if present is None else present[:, None, :].to(torch.float32)

        def draw(_: int = 0) -> Tensor:
            noise = [generator.standard_normal(shape, dtype=np.float32) for generator in generators]
            return torch.as_tensor(np.concatenate(noise), device=device)

        # The FiLM parameters of all steps depend on (step, observation) only: one batched pass instead of one per step.
        steps = torch.as_tensor(self.grid, device=device)
        films = self.unet.films(steps.repeat_interleave(rows), condition.repeat(len(steps), 1))
        row = {int(t): i * rows for i, t in enumerate(self.grid)}

        def denoise(x: Tensor, t: int) -> Tensor:
            i = row[t]
            # Absent channels carry neither noise nor what the network said of them at an earlier step.
            return self.unet.denoise(x if here is None else x * here, [f[i : i + rows] for f in films])

        schedule = self.config.schedule
        options: dict[str, Any] = {"prediction": schedule.prediction, "clip": schedule.clip}
        if self.config.sampler.kind == "ddpm":
            chunk = ddpm(denoise, draw(), self.alphas_cumprod, self.grid.tolist(), draw, **options)
        else:
            chunk = ddim(denoise, draw(), self.alphas_cumprod, self.grid.tolist(), **options)
        return chunk if here is None else chunk * here


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
    if config.action_form != "increment":
        return {}
    gathered = windows(config.observation_horizon, config.prediction_horizon)
    return {INCREMENT_STREAM: increment_range(gathered, embodiment, config.observation_horizon)}
