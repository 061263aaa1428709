"""The one loss and the one way to sample of every policy that denoises a chunk.

::

    training   time ~ process.draw   x_t = alpha x0 + sigma eps   network(x_t, time, features) ~ target(prediction)
    acting     grid = process.grid(n)   sampler(predict, noise, grid)   predict = network -> clean sample [-> guidance]

A family is a noise process (:mod:`robopolicy.diffusion.process`), a network (:mod:`robopolicy.models.networks`) and the
defaults of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robopolicy.config import to_dict
from robopolicy.diffusion.grid import Grid
from robopolicy.diffusion.guidance import Inpainting, classifier_free, inpainted
from robopolicy.diffusion.parameterization import input_scale, target, to_x0
from robopolicy.diffusion.process import NoiseProcess
from robopolicy.diffusion.samplers import SAMPLERS, Predict
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain, suggest
from robopolicy.models.denoiser import ChunkDenoiser
from robopolicy.models.features import Features
from robopolicy.normalize import Normalizer
from robopolicy.policies.changes import changed_config
from robopolicy.policies.chunk_network import ChunkConfig, ChunkNetwork, masked_mean
from robopolicy.types import Batch, Losses

__all__ = ["DenoisingConfig", "DenoisingPolicy", "SamplerConfig"]


@dataclass(frozen=True)
class SamplerConfig:
    """How a chunk is sampled.

    Attributes:
        kind: One of :data:`robopolicy.diffusion.samplers.SAMPLERS` that the noise process allows.
        steps: Steps per chunk; network evaluations, but for ``heun``, which needs two for all steps except the last.
        spacing: Of the times visited; ``auto`` takes the process's own.
    """

    kind: str = "ddim"
    steps: int = 16
    spacing: str = "auto"

    def __post_init__(self) -> None:
        if self.kind not in SAMPLERS:
            known = tuple(SAMPLERS)
            raise ConfigError(
                explain("unknown sampler", given=self.kind, allowed=known, mend=suggest(self.kind, known))
            )


@dataclass(frozen=True)
class DenoisingConfig(ChunkConfig):
    """Parameters that all families of this kind have, beside those of a chunk.

    Attributes:
        masked_loss: Leave padding and absent channels out of the loss; False reproduces the published loss.
        noise_samples: Noise draws per window and encoder pass. 1 is published; more make an image encoder's pass,
            the costly part, go further.
        goal_dropout: Share of the samples that do not see their goal, drawn per sample: what classifier-free guidance
            needs.
        guidance: Strength lambda of classifier-free guidance while acting; 1 is the plain policy, at no extra cost.
        sampler: See :class:`SamplerConfig`.
    """

    CHANGEABLE: ClassVar[tuple[str, ...]] = ("action_horizon", "guidance", "sampler")

    masked_loss: bool = True
    noise_samples: int = 1
    goal_dropout: float = 0.0
    guidance: float = 1.0
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.noise_samples < 1:
            problems.append(explain("noise_samples must be at least 1", given=self.noise_samples))
        if not 0 <= self.goal_dropout < 1:
            problems.append(explain("goal_dropout out of range", given=self.goal_dropout, allowed="0 <= p < 1"))
        if self.guidance != 1.0 and not (self.goal and self.goal_dropout):
            problems.append(
                explain(
                    "guidance needs a policy that was trained with and without its goal",
                    given=f"guidance={self.guidance} goal={self.goal} goal_dropout={self.goal_dropout}",
                    mend="set goal and goal_dropout=0.1, or guidance=1",
                )
            )
        return problems


class DenoisingPolicy(ChunkNetwork):
    """A :class:`~robopolicy.protocols.TrainablePolicy`; stateless between calls.

    Args:
        config: Parameters of the family.
        process: Its noise process.
        embodiment: Card of the robot.
        normalizer: Ranges of the streams; its widths must fit.
        environment_state: Width E in the data; used only where the config reads it.

    Attributes:
        process: Its noise process.
        network: A :class:`~robopolicy.models.denoiser.ChunkDenoiser`.
        grid: Times that are visited when acting.

    Raises:
        ConfigError: sizes that do not fit together, a sampler that the process does not have, or privileged state that
            the data do not have.
        DataError: statistics missing or of the wrong width.
    """

    CONTINUES: ClassVar[bool] = True

    config: DenoisingConfig
    network: ChunkDenoiser

    def __init__(
        self,
        config: DenoisingConfig,
        process: NoiseProcess,
        embodiment: Embodiment,
        normalizer: Normalizer,
        environment_state: int = 0,
    ):
        super().__init__(config, embodiment, normalizer, environment_state)
        self.process = process
        self.set_sampler(config.sampler)

    def change(self, changes: Mapping[str, Any]) -> None:
        """See :meth:`ChunkNetwork.change`; here sampler, its steps and spacing, and guidance may be changed too.

        Raises:
            ConfigError: also a sampler or a grid that the noise process does not have; then nothing is changed.
        """
        self.set_sampler(changed_config(self.config, changes).sampler)
        super().change(changes)

    def set_sampler(self, sampler: SamplerConfig) -> None:
        """Act with another sampler from now on; nothing is trained again.

        Raises:
            ConfigError: a sampler that the noise process does not have, or a grid that it does not have.
        """
        if sampler.kind not in self.process.samplers:
            raise ConfigError(
                explain(
                    f"'{sampler.kind}' cannot sample a process whose network answers '{self.process.prediction}'",
                    given=f"sampler.kind={sampler.kind}",
                    allowed=self.process.samplers,
                )
            )
        self.grid: Grid = self.process.grid(sampler.steps, sampler.spacing)
        self.sampler = sampler

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``parameters``, ``environment_state``, ``schedule``."""
        return {
            **super().description(),
            "schedule": {
                "prediction": self.process.prediction,
                **self.process.describe(),
                "sampler": to_dict(self.sampler),
                "grid": {"time": self.grid.time, "alpha": self.grid.alpha, "sigma": self.grid.sigma},
            },
        }

    def loss(self, batch: Batch, *, rng: torch.Generator | None = None, present: Tensor | None = None) -> Losses:
        """Squared error of the network's answer at one time per sample (for epsilon: Chi et al. 2023, equation 5).

        Masked: the mean over the valid entries of each sample, then over samples, so that any division of a batch
        over processes or micro-batches has the same mean.

        Args:
            batch: Physical units; see :mod:`robopolicy.types`.
            rng: Source of crops, withheld goals, times and noise, on the batch's device.
            present: [B, A], 0 for channels that a sample's robot does not have: the network is shown 0 there, without
                noise, and what it says there does not count. None: all are there.
        """
        keep = None
        if self.config.goal_dropout:
            draw = torch.rand(len(batch.action), generator=rng, device=batch.action.device)
            keep = draw >= self.config.goal_dropout
        features, x0 = self._encoded(batch, rng, keep)
        mask = batch.action_mask if self.config.masked_loss else torch.ones_like(batch.action_mask)
        here = None
        if present is not None:
            here = present[:, None, :].to(x0.dtype)  # [B, 1, A]
            mask = mask & (here > 0)
        repeat = self.config.noise_samples
        if repeat > 1:
            features = features.repeated(repeat)
            x0, mask = (v.repeat_interleave(repeat, dim=0) for v in (x0, mask))
            here = None if here is None else here.repeat_interleave(repeat, dim=0)
        time = self.process.draw(len(x0), rng, x0.device)
        noise = torch.randn(x0.shape, generator=rng, device=x0.device)
        if here is not None:
            x0, noise = x0 * here, noise * here
        squared = self._squared_error(x0, noise, time, features)
        per_sample = masked_mean(squared, mask)
        total = per_sample.mean() if self.config.masked_loss or here is not None else squared.mean()
        return Losses(total, {"denoising": total.detach()}, per_sample.detach().unflatten(0, (-1, repeat)).mean(1))

    def _squared_error(self, x0: Tensor, noise: Tensor, time: Tensor, features: Features) -> Tensor:
        """[B, Tp, A] of the network's answer to a noisy chunk."""
        alpha, sigma = (level[:, None, None] for level in self.process.levels(time))
        prediction = self.process.prediction
        x_t = alpha * x0 + sigma * noise
        output = self.network(x_t * input_scale(prediction, sigma), self.process.network_time(time), features)
        return (output.float() - target(prediction, x0, noise, alpha, sigma)).square()

    def sample(
        self,
        state: Tensor | None,
        environment_state: Tensor | None,
        images: dict[str, Tensor],
        generator: np.random.Generator,
        *,
        image_mask: Mapping[str, Tensor] | None = None,
        present: Tensor | None = None,
        language: Sequence[str] | None = None,
    ) -> Tensor:
        """A normalised chunk f32 [1, Tp, A] for observations that are tensors already [1, To, ...].

        Args:
            state, environment_state, images: As in a batch of one.
            generator: The only source of randomness.
            image_mask: Camera -> bool [1], False for a camera that is not there.
            present: [1, A], see :meth:`loss`; the chunk is 0 where it is.
            language: One instruction.
        """
        features = self.encoder(state, environment_state, images, image_mask=image_mask, language=language)
        return self._sample(features, [generator], present)

    def predictor(self, features: Features, present: Tensor | None = None) -> Predict:
        """``(x, i) -> clean chunk`` at entry i of the grid; the work that x does not enter is done here, once.

        Args:
            features: Of B observations.
            present: [B, 1, A], 0 for channels that carry neither noise nor what the network said of them.
        """
        prediction, grid = self.process.prediction, self.grid
        guided = self.config.guidance != 1.0
        device = features.steps.device
        times = self.process.network_time(torch.as_tensor(grid.time, device=device, dtype=torch.float32))
        conditions = self.network.conditions(times, features.with_and_without_goal() if guided else features)
        levels = torch.tensor([grid.alpha, grid.sigma], device=device, dtype=torch.float32)

        def predict(x: Tensor, i: int) -> Tensor:
            x = x if present is None else x * present
            alpha, sigma = levels[0, i], levels[1, i]
            shown = x * input_scale(prediction, sigma)
            if not guided:
                return to_x0(prediction, self.network.denoise(shown, conditions[i]), x, alpha, sigma)
            both = self.network.denoise(torch.cat([shown, shown]), conditions[i])
            clean = to_x0(prediction, both, torch.cat([x, x]), alpha, sigma)
            with_goal, without = clean.chunk(2)
            return classifier_free(with_goal, without, self.config.guidance)

        return predict

    def _sample(
        self, features: Features, generators: Sequence[np.random.Generator], present: Tensor | None = None
    ) -> Tensor:
        """See :class:`ChunkNetwork`; ``present`` [B, A] as in :meth:`sample`."""
        here = None if present is None else present[:, None, :].to(torch.float32)
        return self._run(self.predictor(features, here), generators, features.steps.device, here)

    def _continue(self, features: Features, generators: Sequence[np.random.Generator], wanted: Inpainting) -> Tensor:
        """Real-time chunking, see :func:`robopolicy.diffusion.guidance.inpainted`."""
        # a network may prepare itself otherwise where nothing will be differentiated
        with torch.set_grad_enabled(wanted.jacobian == "network"):
            free = self.predictor(features)
        predict = inpainted(free, self.grid, wanted, self.process.clip)
        return self._run(predict, generators, features.steps.device)

    def _run(
        self,
        predict: Predict,
        generators: Sequence[np.random.Generator],
        device: torch.device,
        here: Tensor | None = None,
    ) -> Tensor:
        draw = self._noise(generators, device)
        sampler, noisy = SAMPLERS[self.sampler.kind]
        extra = (draw,) if noisy else ()
        chunk = sampler(predict, draw(-1), self.grid, *extra, clip=self.process.clip)
        return chunk if here is None else chunk * here

    def _noise(self, generators: Sequence[np.random.Generator], device: torch.device) -> Callable[[int], Tensor]:
        """Standard normal chunks [B, Tp, A]; row b from ``generators[b]`` alone."""
        shape = (1, self._spec.prediction_horizon, self.action_form.width)

        def draw(_: int) -> Tensor:
            noise = [generator.standard_normal(shape, dtype=np.float32) for generator in generators]
            return torch.as_tensor(np.concatenate(noise), device=device)

        return draw
