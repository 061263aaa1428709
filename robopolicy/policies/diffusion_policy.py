"""Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): FiLM 1-D U-Net, state and image inputs.

Schedule, sampler and the loss on noise; network and plumbing are :mod:`robopolicy.policies.chunk_network`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from robopolicy.config import build as build_config
from robopolicy.config import to_dict
from robopolicy.diffusion.grid import time_grid
from robopolicy.diffusion.parameterization import target
from robopolicy.diffusion.samplers import ddim, ddpm
from robopolicy.diffusion.schedule import NoiseSchedule
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.models.robomimic_vision import VisionConfig
from robopolicy.normalize import Normalizer
from robopolicy.policies.chunk_network import ChunkConfig, ChunkNetwork, UNetConfig, increment_ranges, masked_mean
from robopolicy.types import Batch, Losses

__all__ = ["DiffusionPolicy", "DiffusionPolicyConfig", "SamplerConfig", "build", "derived_ranges"]


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
class DiffusionPolicyConfig(ChunkConfig):
    """Everything that decides the policy's architecture and behaviour.

    Attributes:
        observation_horizon, action_horizon, prediction_horizon, state, environment_state, cameras: See
            :class:`~robopolicy.policies.chunk_network.ChunkConfig`.
        masked_loss: Leave padding and absent channels out of the loss; False reproduces the published loss.
        action_form: What is denoised, see :mod:`robopolicy.models.action_form`; ``absolute`` is published.
        observation_mlp: Width of a two-layer perceptron over the low-dimensional observations whose output joins
            them; 0 (published) for none.
        noise_samples: Noise draws per window and encoder pass. 1 is published; more make an image encoder's pass,
            the costly part, go further.
    """

    masked_loss: bool = True
    action_form: str = "absolute"
    observation_mlp: int = 0
    noise_samples: int = 1
    unet: UNetConfig = field(default_factory=UNetConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.noise_samples < 1:
            problems.append(explain("noise_samples must be at least 1", given=self.noise_samples))
        return problems


class DiffusionPolicy(ChunkNetwork):
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

    config: DiffusionPolicyConfig
    alphas_cumprod: Tensor

    def __init__(
        self, config: DiffusionPolicyConfig, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
    ):
        super().__init__(
            config,
            embodiment,
            normalizer,
            environment_state,
            action_form=config.action_form,
            observation_mlp=config.observation_mlp,
            unet=config.unet,
            vision=config.vision,
        )
        self.scheduler = config.schedule.scheduler()
        self.register_buffer("alphas_cumprod", self.scheduler.alphas_cumprod.clone(), persistent=False)
        self.grid = time_grid(config.schedule.train_steps, config.sampler.steps, config.sampler.spacing)

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``target``, ``parameters``, ``environment_state``, schedule."""
        return {
            "target": f"{__name__}:build",
            **super().description(),
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
        condition, x0 = self._encoded(batch, rng)
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
        per_sample = masked_mean(squared, mask)
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
    return increment_ranges(config, config.action_form, embodiment, windows)
