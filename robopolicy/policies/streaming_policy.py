"""Streaming Diffusion Policy (Hoeg et al. 2024, arXiv 2406.04806): noise that rises over the chunk.

The chunk falls into h parts, the first of To-1+Ta steps, the others of Ta. A call begins with the parts at 1/h, 2/h ..
1 of all noise and ends with them at 0, 1/h .. (h-1)/h, which takes N/h of the N steps of a full denoising. What is
executed is the first part; moved on by Ta, the others stand where the next call begins::

    begin   1/3 | 2/3 | 1          N/h steps of DDIM, all levels fall together
    end      0  | 1/3 | 2/3        execute the first part
    next        | 1/3 | 2/3 | 1    the same steps, seen from the next observation; new noise at the end

The network takes a time for every step of the chunk. Training draws levels as above, at a random point between begin
and end, for a share of the samples, and one level for the whole chunk for the others.

**How this departs from the published algorithm.** There, a buffer that lives in the policy keeps the noisy chunk from
call to call, and has to be reset with every episode. Policies here are stateless: what the next call starts from is
``prefix``, the chunk that is still scheduled, given by whoever runs the policy. So

- the parts that are not clean leave :meth:`StreamingPolicy.act` as the clean values that the network sees in them at
  the end of the call, and the next call puts fresh noise on them up to its levels, in the place of the one they had;
- without a prefix, or with one that has fewer values left than the buffer would, all N steps are taken at one level for
  the whole chunk: the beginning of an episode needs no filling of a buffer;
- the To-1 steps that are past are taken from the prefix's first value, as for real-time chunking;
- a prefix does not fix the values that are executed while the policy thinks: their noise is that of the first part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robopolicy.config import build as build_config
from robopolicy.diffusion.guidance import Inpainting, classifier_free
from robopolicy.diffusion.parameterization import target, to_x0
from robopolicy.diffusion.process import VariancePreserving
from robopolicy.diffusion.schedule import NoiseSchedule
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.models.features import Features
from robopolicy.models.networks import build_network
from robopolicy.normalize import Normalizer
from robopolicy.policies.chunk_network import increment_ranges
from robopolicy.policies.denoising import DenoisingPolicy, SamplerConfig
from robopolicy.policies.diffusion_policy import DiffusionPolicyConfig

__all__ = ["RisingNoise", "StreamingPolicy", "StreamingPolicyConfig", "build", "derived_ranges", "parts"]


def parts(observation_horizon: int, action_horizon: int, prediction_horizon: int) -> NDArray[np.int64]:
    """Which part each step of a chunk belongs to: 0 for the first To-1+Ta, then 1, 2 ... for Ta each. -> int64 [Tp]."""
    index = np.arange(prediction_horizon) - (observation_horizon - 1)
    return np.maximum(index, 0) // action_horizon


@dataclass(frozen=True)
class StreamingPolicyConfig(DiffusionPolicyConfig):
    """Everything that decides the policy's architecture and behaviour, see the classes that it derives from.

    Attributes:
        prediction_horizon: Tp = To - 1 + h Ta for h >= 2.
        network: One that takes a time per step: ``dit``.
        constant_share: Share of training samples with one level for the whole chunk; 0.2 is published.
        sampler: ``ddim``; ``steps`` are those of a full denoising, a call with a prefix takes an h-th of them.
    """

    # not Ta: it decides the levels of noise that were trained
    CHANGEABLE: ClassVar[tuple[str, ...]] = ("guidance", "sampler")
    prediction_horizon: int = 17
    network: str = "dit"
    constant_share: float = 0.2
    sampler: SamplerConfig = dataclasses.field(default_factory=lambda: SamplerConfig(kind="ddim", steps=16))

    @property
    def count(self) -> int:
        """h, parts of a chunk."""
        return (self.prediction_horizon - self.observation_horizon + 1) // self.action_horizon

    def _problems(self) -> list[str]:
        problems = super()._problems()
        to, ta, tp = self.observation_horizon, self.action_horizon, self.prediction_horizon
        rest = (tp - to + 1) % ta if ta > 0 else 0
        if not problems and (rest or self.count < 2):
            near = to - 1 + ta * max(self.count, 2)
            problems.append(
                explain(
                    "a streamed chunk is Tp = To-1 + h Ta, h at least 2",
                    given=f"To={to} Ta={ta} Tp={tp}",
                    mend=f"use prediction_horizon={near} or {near + ta}",
                )
            )
        if not 0 <= self.constant_share <= 1:
            problems.append(explain("constant_share out of range", given=self.constant_share, allowed="0 <= p <= 1"))
        return problems


class RisingNoise(VariancePreserving):
    """Discrete noise steps, one for every step of the chunk; -1 is clean.

    Args:
        schedule: See :class:`NoiseSchedule`.
        part: int64 [Tp], see :func:`parts`.
        constant_share: See :class:`StreamingPolicyConfig`.
    """

    samplers: tuple[str, ...] = ("ddim",)  # type: ignore[assignment]

    def __init__(self, schedule: NoiseSchedule, part: NDArray[np.int64], constant_share: float):
        super().__init__(schedule)
        self.part, self.constant_share = part, constant_share

    def draw(self, count: int, rng: torch.Generator | None, device: torch.device) -> Tensor:
        """Noise steps [count, Tp]: of the first part in the first h-th of all noise, each later one an h-th above."""
        share = torch.rand(count, 2, generator=rng, device=device)
        part = torch.as_tensor(self.part, device=device)
        rising = (part + 1 - share[:, :1]) / (part[-1] + 1)
        constant = share[:, 1:] < self.constant_share
        return self.steps_of(torch.where(constant, 1 - share[:, :1], rising))

    def steps_of(self, level: Tensor) -> Tensor:
        """Share of all noise, 0 to 1 -> noise step -1 .. T-1, int64 of the same shape."""
        return (level * self.schedule.train_steps - 1e-4).ceil().long() - 1

    def levels(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`NoiseProcess`; 1 and 0 for a clean step."""
        alpha, sigma = super().levels(time.clamp(min=0))
        clean = time < 0
        return alpha.masked_fill(clean, 1.0), sigma.masked_fill(clean, 0.0)


class StreamingPolicy(DenoisingPolicy):
    """See :class:`DenoisingPolicy` and this module."""

    config: StreamingPolicyConfig
    process: RisingNoise

    def __init__(
        self, config: StreamingPolicyConfig, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
    ):
        horizons = config.observation_horizon, config.action_horizon, config.prediction_horizon
        process = RisingNoise(config.schedule, parts(*horizons), config.constant_share)
        super().__init__(config, process, embodiment, normalizer, environment_state)

    def _make_network(self) -> torch.nn.Module:
        config, name = self.config, self.config.network
        if name != "dit":
            raise ConfigError(
                explain("a network that takes no time per step of the chunk", given=name, allowed=("dit",))
            )
        return build_network(
            name,
            {**config.dit, "per_step_time": True},
            channels=self.action_form.width,
            widths=self.encoder.widths,
            horizon=config.prediction_horizon,
        )

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``target``, ``parameters``, ``environment_state``, schedule."""
        return {"target": f"{__name__}:build", **super().description()}

    @property
    def steps_per_call(self) -> int:
        """Network evaluations of a call with a prefix."""
        return max(1, round(self.sampler.steps / self.config.count))

    def _squared_error(self, x0: Tensor, noise: Tensor, time: Tensor, features: Features) -> Tensor:
        """[B, Tp, A]; ``time`` [B, Tp]."""
        alpha, sigma = (level[..., None] for level in self.process.levels(time))
        output = self.network(alpha * x0 + sigma * noise, self.process.network_time(time), features)
        return (output.float() - target(self.process.prediction, x0, noise, alpha, sigma)).square()

    def _continue(self, features: Features, generators: Sequence[np.random.Generator], wanted: Inpainting) -> Tensor:
        """Rows whose prefix holds all that a buffer would go on from it; the others begin anew."""
        needed = self.config.action_horizon * (self.config.count - 1)
        left = (wanted.weights > 0).sum(dim=1) >= needed
        chunk = torch.empty_like(wanted.values)
        for rows, streamed in ((left.nonzero()[:, 0], True), ((~left).nonzero()[:, 0], False)):
            if not len(rows):
                continue
            seen = Features(*(None if p is None else p[rows] for p in vars(features).values()))  # type: ignore[arg-type]
            own = [generators[int(row)] for row in rows]
            chunk[rows] = self._streamed(seen, own, wanted.values[rows]) if streamed else self._sample(seen, own)
        return chunk

    def _streamed(self, features: Features, generators: Sequence[np.random.Generator], known: Tensor) -> Tensor:
        """An h-th of a denoising. -> [B, Tp, A]: clean values of the first part, and what the others look like.

        Args:
            features: Of B observations.
            generators: B of them.
            known: [B, Tp, A], what the chunk was going to be; nothing is read of it where all is noise.
        """
        process, n, device = self.process, self.steps_per_call, known.device
        part = torch.as_tensor(process.part, device=device, dtype=torch.float32)
        share = torch.linspace(1, 0, n + 1, device=device)[:, None]
        times = process.steps_of((part + share) / self.config.count)  # [n + 1, Tp]
        alpha, sigma = (level[..., None] for level in process.levels(times))  # [n + 1, Tp, 1]
        predict = self._per_step(features, times[:-1], alpha, sigma)
        noise = self._noise(generators, device)(-1)
        everything = (part + 1 == self.config.count)[:, None]
        x = torch.where(everything, sigma[0] * noise, alpha[0] * known + sigma[0] * noise)
        clip, x0 = self.process.clip, x
        for i in range(n):
            raw = predict(x, i)
            x0 = raw if clip is None else raw.clamp(-clip, clip)
            epsilon = (x - alpha[i] * raw) / sigma[i]
            x = alpha[i + 1] * x0 + sigma[i + 1] * epsilon
        return torch.where(times[-1][:, None] < 0, x, x0)

    def _per_step(
        self, features: Features, times: Tensor, alpha: Tensor, sigma: Tensor
    ) -> Callable[[Tensor, int], Tensor]:
        """:meth:`predictor` for times [n, Tp]."""
        guided = self.config.guidance != 1.0
        told = self.process.network_time(times)
        conditions = self.network.conditions(told, features.with_and_without_goal() if guided else features)
        prediction = self.process.prediction

        def predict(x: Tensor, i: int) -> Tensor:
            if not guided:
                return to_x0(prediction, self.network.denoise(x, conditions[i]), x, alpha[i], sigma[i])
            both = torch.cat([x, x])
            clean = to_x0(prediction, self.network.denoise(both, conditions[i]), both, alpha[i], sigma[i])
            with_goal, without = clean.chunk(2)
            return classifier_free(with_goal, without, self.config.guidance)

        return predict


def build(
    parameters: Mapping[str, Any], *, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
) -> StreamingPolicy:
    """The registry's entry: a policy from plain parameters.

    Raises:
        ConfigError: every unknown, missing or contradictory parameter.
    """
    config = build_config(StreamingPolicyConfig, parameters, where="policy")
    return StreamingPolicy(config, embodiment, normalizer, environment_state)


def derived_ranges(
    parameters: Mapping[str, Any], embodiment: Embodiment, windows: Callable[[int, int], Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Ranges of the increments, where the policy denoises those; see the function of this name beside diffusion."""
    return increment_ranges(build_config(StreamingPolicyConfig, parameters, where="policy"), embodiment, windows)
