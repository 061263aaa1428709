"""Consistency Policy (Prasad et al. 2024, arXiv 2405.07503): a teacher distilled into one or a few jumps.

A second stage of a recipe, after one that trained any denoising policy on the same network::

    stages:
      teacher: {policy: beso, parameters: {network: unet, karras: {sigma_min: 0.02, sigma_max: 80, density: lognormal}}}
      policy:  {policy: consistency, initialize_from: teacher, parameters: {teacher: karras, karras: {... the same}}}

Loss, for entries i < j of a grid of N times, x_i = alpha x0 + sigma eps, and jumps G of
:mod:`robopolicy.diffusion.jumps` (consistency trajectory, Kim et al. 2024, arXiv 2310.02279)::

    trajectory   d( G-(G(x_i, i, j), j, N),  G-(G-(x_i+1, i + 1, j), j, N) )    x_i+1 = one Heun step of the teacher
    denoising    | network's answer at (x_i, i, i) - target |^2

G- is an average of the weights over the steps of training; d is the pseudo-Huber distance (Song and Dhariwal 2024,
arXiv 2310.14189). Departures: the teacher's step is always one entry of the grid long; the observation encoder stays
the teacher's, and is frozen, so that the teacher, the average and the student share one pass of it; no dropout; d is of
the root mean square per value of the chunk, which does not depend on the chunk's size.

Weights: ``network`` and ``target`` (G-) are in every checkpoint. The teacher is in none: a stage that begins or is
resumed takes it from the checkpoint of the stage before. Acting needs ``network`` alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from robopolicy.checkpoint import Checkpoint
from robopolicy.config import build as build_config
from robopolicy.config import to_dict
from robopolicy.diffusion.jumps import Jumps, move
from robopolicy.diffusion.parameterization import input_scale, target, to_x0
from robopolicy.diffusion.process import Flow, FlowConfig, Karras, KarrasConfig, NoiseProcess, VariancePreserving
from robopolicy.diffusion.schedule import NoiseSchedule
from robopolicy.embodiment import Embodiment
from robopolicy.errors import CheckpointError, ConfigError, explain
from robopolicy.models.denoiser import ChunkDenoiser
from robopolicy.models.features import Features
from robopolicy.models.jump_embedding import JumpEmbedding
from robopolicy.models.unet1d import StepEmbedding
from robopolicy.normalize import Normalizer
from robopolicy.policies.chunk_network import increment_ranges, masked_mean
from robopolicy.policies.denoising import DenoisingConfig, DenoisingPolicy, SamplerConfig
from robopolicy.policies.loading import load_weights
from robopolicy.types import Batch, Losses

__all__ = ["ConsistencyPolicy", "ConsistencyPolicyConfig", "build", "derived_ranges"]

HUBER = 0.00054
"""Where the distance passes from square to linear, in normalised units (Song and Dhariwal 2024)."""
SHARED = ("observation_horizon", "prediction_horizon", "state", "environment_state", "cameras", "goal", "action_form")
"""Parameters that teacher and student must have in common, beside the sizes of their networks."""


def _published() -> KarrasConfig:
    return KarrasConfig(sigma_min=0.02, sigma_max=80.0, density="lognormal")


@dataclass(frozen=True)
class ConsistencyPolicyConfig(DenoisingConfig):
    """Everything that decides the policy's architecture and behaviour, see the classes that it derives from.

    Attributes:
        teacher: Noise process of the teacher: ``karras``, ``flow`` or ``diffusion``.
        karras, flow, schedule: Its parameters; those of the other two are not used. ``schedule`` needs a prediction
            whose clean sample does not blow up at pure noise: ``x0`` or ``v``.
        bins: N, times of the grid; 80 is published.
        spacing: Of the grid, as the teacher's process names them; ``auto`` is ``karras`` there, and its own elsewhere.
        target_decay: Of the averaged weights G-, per step of training.
        denoising_weight: Of the denoising loss against that of the trajectory; 1 is published.
        sampler: ``multistep_consistency``, the published one, or ``ddim``, which draws no noise between steps.
    """

    teacher: Literal["karras", "flow", "diffusion"] = "karras"
    karras: KarrasConfig = field(default_factory=_published)
    flow: FlowConfig = field(default_factory=FlowConfig)
    schedule: NoiseSchedule = field(default_factory=lambda: NoiseSchedule(prediction="v"))
    bins: int = 80
    spacing: str = "auto"
    target_decay: float = 0.999
    denoising_weight: float = 1.0
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(kind="multistep_consistency", steps=1))

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.bins < 2:
            problems.append(explain("bins must be at least 2", given=self.bins))
        if not 0 <= self.target_decay < 1:
            problems.append(explain("target_decay out of range", given=self.target_decay, allowed="0 <= mu < 1"))
        if self.denoising_weight < 0:
            problems.append(explain("denoising_weight must not be negative", given=self.denoising_weight))
        if self.teacher == "diffusion" and self.schedule.prediction == "epsilon":
            problems.append(
                explain(
                    "one jump from pure noise is not possible with a network that answers epsilon",
                    given="schedule.prediction=epsilon",
                    allowed=("v", "x0"),
                    mend="train a teacher with schedule.prediction=v",
                )
            )
        return problems

    def process(self) -> NoiseProcess:
        """Of the teacher."""
        if self.teacher == "karras":
            return Karras(self.karras)
        return Flow(self.flow) if self.teacher == "flow" else VariancePreserving(self.schedule)


class ConsistencyPolicy(DenoisingPolicy):
    """See :class:`DenoisingPolicy`; the noise process is :class:`Jumps` over the teacher's.

    Attributes:
        target: G-, the average of :attr:`network` that the loss compares with; follows it, never trained.
    """

    config: ConsistencyPolicyConfig
    process: Jumps

    def __init__(
        self,
        config: ConsistencyPolicyConfig,
        embodiment: Embodiment,
        normalizer: Normalizer,
        environment_state: int = 0,
    ):
        spacing = "karras" if (config.teacher, config.spacing) == ("karras", "auto") else config.spacing
        process = Jumps(config.process(), config.bins, spacing)
        super().__init__(config, process, embodiment, normalizer, environment_state)
        self.encoder.requires_grad_(False)
        self.target: ChunkDenoiser = copy.deepcopy(self.network).requires_grad_(False)
        self._teacher: list[ChunkDenoiser] = []  # in a list, so that it is part of no checkpoint and no optimiser

    def _make_network(self) -> ChunkDenoiser:
        """The teacher's network, but told two times; begins as if it were not told the second."""
        network = super()._make_network()
        found = [name for name, module in network.named_children() if isinstance(module, StepEmbedding)]
        if not isinstance(network, ChunkDenoiser) or network.per_step_time or not found:
            raise ConfigError(
                explain(
                    "a network that takes no second time", given=self.config.network, allowed=("unet", "dit", "gpt")
                )
            )
        setattr(network, found[0], JumpEmbedding(2 * len(getattr(network, found[0]).frequencies)))
        return network

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``target``, ``parameters``, ``environment_state``, schedule."""
        return {"target": f"{__name__}:build", **super().description()}

    def take_over(self, stored: Checkpoint) -> None:
        """Begin as the policy of a checkpoint, and be taught by it.

        Raises:
            CheckpointError: it is of another noise process, observes or predicts something else, or its weights do not
                fit.
        """
        self._check_teacher(stored)
        tensors = stored.tensors("ema")
        parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "network": {}}
        for name, tensor in tensors.items():
            part, _, inner = name.partition(".")
            parts.setdefault(part, {})[inner] = tensor
        teacher = super()._make_network()
        assert isinstance(teacher, ChunkDenoiser)
        load_weights(teacher, parts.pop("network"), stored.path)
        load_weights(self.encoder, parts.pop("encoder"), stored.path)
        if parts:
            raise CheckpointError(
                explain("a teacher with further weights", given=sorted(parts), allowed=("encoder", "network"))
            )
        self.network.load_state_dict({**self.network.state_dict(), **teacher.state_dict()})
        self.target.load_state_dict(self.network.state_dict())
        self._teacher = [teacher.eval().requires_grad_(False)]

    def _check_teacher(self, stored: Checkpoint) -> None:
        document = stored.document("policy")
        theirs, own = document["parameters"], to_dict(self.config)
        name = "schedule" if self.config.teacher == "diffusion" else self.config.teacher
        prediction = document.get("schedule", {}).get("prediction")
        differ = [key for key in (*SHARED, name) if theirs.get(key) != own[key]]
        if prediction != self.process.prediction or differ:
            raise CheckpointError(
                explain(
                    f"{stored.path} is no teacher of this policy",
                    given={"prediction": prediction, **{key: theirs.get(key) for key in differ}},
                    allowed={"prediction": self.process.prediction, **{key: own[key] for key in differ}},
                    mend="give both stages the same parameters, and name the teacher's noise process in teacher",
                )
            )

    def after_step(self) -> None:
        """The average follows the weights; called by the trainer."""
        average: list[Tensor] = list(self.target.parameters())
        weights: list[Tensor] = list(self.network.parameters())
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1.0 - self.config.target_decay)

    def loss(self, batch: Batch, *, rng: torch.Generator | None = None, present: Tensor | None = None) -> Losses:
        """See this module; masked, withheld and repeated as in :meth:`DenoisingPolicy.loss`.

        Args:
            batch: Physical units; see :mod:`robopolicy.types`.
            rng: Source of crops, withheld goals, jumps and noise, on the batch's device.
            present: [B, A], see :meth:`DenoisingPolicy.loss`.

        Raises:
            ConfigError: there is no teacher.
        """
        if not self._teacher:
            raise ConfigError(
                explain(
                    "a consistency policy is distilled from a teacher, and there is none",
                    mend="make it a later stage, with initialize_from: <stage of the teacher>",
                )
            )
        with torch.no_grad():
            features, x0, mask, here = self._seen(batch, rng, present)
        start = self.process.draw(len(x0), rng, x0.device)
        share = torch.rand(len(x0), generator=rng, device=x0.device)
        stop = start + 1 + (share * (len(self.process.bins) - start)).long()
        noise = torch.randn(x0.shape, generator=rng, device=x0.device) * here
        trajectory, denoising = self._both(x0, noise, start, stop, features, mask)
        per_sample = trajectory + self.config.denoising_weight * denoising
        total = per_sample.mean()
        parts: dict[str, float | Tensor] = {
            "trajectory": trajectory.mean().detach(),
            "denoising": denoising.mean().detach(),
        }
        repeat = self.config.noise_samples
        return Losses(total, parts, per_sample.detach().unflatten(0, (-1, repeat)).mean(1))

    def _seen(
        self, batch: Batch, rng: torch.Generator | None, present: Tensor | None
    ) -> tuple[Features, Tensor, Tensor, Tensor]:
        """Features, clean chunks, what counts and what there is, each row ``noise_samples`` times."""
        keep, here = None, torch.ones(1, 1, 1, device=batch.action.device)
        if self.config.goal_dropout:
            draw = torch.rand(len(batch.action), generator=rng, device=batch.action.device)
            keep = draw >= self.config.goal_dropout
        features, x0 = self._encoded(batch, rng, keep)
        mask = batch.action_mask if self.config.masked_loss else torch.ones_like(batch.action_mask)
        if present is not None:
            here = present[:, None, :].to(x0.dtype)
        repeat = self.config.noise_samples
        rows = (v.expand(x0.shape).repeat_interleave(repeat, dim=0) for v in (x0 * here, mask & (here > 0), here))
        clean, counts, there = rows
        return features.repeated(repeat), clean, counts, there

    def _both(
        self, x0: Tensor, noise: Tensor, start: Tensor, stop: Tensor, features: Features, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Losses [B] of the trajectory and of denoising."""
        process, prediction = self.process, self.process.prediction
        end = torch.full_like(stop, len(process.bins))
        alpha, sigma = (level[:, None, None] for level in process.levels(start))
        x = alpha * x0 + sigma * noise
        twice = Features(*(None if p is None else torch.cat([p, p]) for p in vars(features).values()))  # type: ignore[arg-type]
        shown = x * input_scale(prediction, sigma)
        told = torch.cat([process.told(start, stop), process.told(start, start)])
        far, near = self.network(torch.cat([shown, shown]), told, twice).float().chunk(2)
        denoising = masked_mean((near - target(prediction, x0, noise, alpha, sigma)).square(), mask)
        jumped = self._moved(x, to_x0(prediction, far, x, alpha, sigma), start, stop)
        with torch.no_grad():
            teacher = self._teacher[0].to(x.device)

            def clean(x: Tensor, entry: Tensor) -> Tensor:
                return self._answer(teacher, x, entry, process.told(entry, entry)[:, 0], features)

            later = process.heun(lambda x, entry: self._clipped(clean(x, entry)), x, start)
            wanted = self._jump(self._jump(later, start + 1, stop, features), stop, end, features)
        reached = self._jump(jumped, stop, end, features)
        return masked_mean((reached - wanted).square(), mask).add(HUBER**2).sqrt() - HUBER, denoising

    def _jump(self, x: Tensor, start: Tensor, stop: Tensor, features: Features) -> Tensor:
        """G-: [B, Tp, A] from entries ``start`` to entries ``stop``."""
        return self._moved(
            x, self._answer(self.target, x, start, self.process.told(start, stop), features), start, stop
        )

    def _answer(self, network: ChunkDenoiser, x: Tensor, start: Tensor, told: Tensor, features: Features) -> Tensor:
        """Clean sample [B, Tp, A] that a network sees; at the clean end anything that is finite."""
        prediction = self.process.prediction
        alpha, sigma = (level[:, None, None] for level in self.process.levels(start))
        output = network(x * input_scale(prediction, sigma), told, features).float()
        return to_x0(prediction, output, x, alpha, sigma)

    def _moved(self, x: Tensor, clean: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        levels = [level[:, None, None] for entry in (start, stop) for level in self.process.levels(entry)]
        return move(x, clean, *levels)

    def _clipped(self, x0: Tensor) -> Tensor:
        clip = self.process.clip
        return x0 if clip is None else x0.clamp(-clip, clip)


def build(
    parameters: Mapping[str, Any], *, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
) -> ConsistencyPolicy:
    """The registry's entry: a policy from plain parameters.

    Raises:
        ConfigError: every unknown, missing or contradictory parameter.
    """
    config = build_config(ConsistencyPolicyConfig, parameters, where="policy")
    return ConsistencyPolicy(config, embodiment, normalizer, environment_state)


def derived_ranges(
    parameters: Mapping[str, Any], embodiment: Embodiment, windows: Callable[[int, int], Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Ranges of the increments, where the policy denoises those; see the function of this name beside diffusion."""
    return increment_ranges(build_config(ConsistencyPolicyConfig, parameters, where="policy"), embodiment, windows)
