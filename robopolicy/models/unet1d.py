"""FiLM-conditioned 1-D convolutional U-Net over an action chunk (Chi et al. 2023, section 3.1 and appendix A.2).

Two residual blocks per level, kernel 5, GroupNorm 8, Mish, stride-2 down and up between levels. The condition
(step embedding beside observation features) modulates each residual block after its first convolution as
``scale * x + bias`` (Perez et al. 2018, FiLM).

There are two ways through it, with the same parameters: the plain one, layer by layer, and that of
:mod:`robopolicy.models.tap_convolution`, which takes its place on a CPU in single or double precision.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robopolicy.errors import ConfigError, explain
from robopolicy.models.denoiser import ChunkDenoiser
from robopolicy.models.features import Features, FeatureWidths
from robopolicy.models.norm_mish import norm_mish
from robopolicy.models.tap_convolution import arrange, convolve, downsample, upsample
from robopolicy.models.unet_plan import LARGEST_BATCH, Plan
from robopolicy.schema import build as build_config

__all__ = ["FilmResidualBlock", "FilmUNet1d", "StepEmbedding", "UNetConfig", "build"]


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the network; the published ones are (256, 512, 1024) for state and (512, 1024, 2048) for images."""

    down: tuple[int, ...] = (256, 512, 1024)
    step_dim: int = 256
    kernel: int = 5
    groups: int = 8


class StepEmbedding(nn.Module):
    """Sinusoidal embedding of the diffusion step, then a two-layer MLP. [B] -> [B, dim]."""

    frequencies: Tensor

    def __init__(self, dim: int):
        super().__init__()
        half = dim // 2
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(half) / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))

    def forward(self, step: Tensor) -> Tensor:
        """Int or float [B] -> [B, dim]."""
        angle = step.to(self.frequencies.dtype)[:, None] * self.frequencies
        return self.mlp(torch.cat([angle.sin(), angle.cos()], dim=-1))


class FilmResidualBlock(nn.Module):
    """conv-norm-mish, FiLM, conv-norm-mish, residual. [B, in, T] -> [B, out, T]."""

    def __init__(self, inputs: int, outputs: int, condition: int, kernel: int, groups: int):
        super().__init__()
        pad = kernel // 2
        self.first = nn.Sequential(
            nn.Conv1d(inputs, outputs, kernel, padding=pad), nn.GroupNorm(groups, outputs), nn.Mish()
        )
        self.second = nn.Sequential(
            nn.Conv1d(outputs, outputs, kernel, padding=pad), nn.GroupNorm(groups, outputs), nn.Mish()
        )
        film = nn.Linear(condition, 2 * outputs)
        self.film = nn.Sequential(nn.Mish(), film)
        self.residual = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        # The form is the published scale * x + bias; beginning near scale 1 instead of 0 lets the signal through.
        with torch.no_grad():
            film.bias[:outputs] += 1.0

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """``film`` [B, 2 * out] is what ``self.film`` made of the condition."""
        scale, bias = film[:, :, None].chunk(2, dim=1)
        return self.second(scale * self.first(x) + bias) + self.residual(x)

    def by_taps(self, x: Tensor, film: Tensor) -> Tensor:
        """The same in time-first layout. [T, B, in] -> [T, B, out]."""
        scale, shift = film.chunk(2, dim=1)
        h = _by_taps(self.first, x, scale, shift)
        residual = x if isinstance(self.residual, nn.Identity) else convolve(x, cast(nn.Conv1d, self.residual))
        return _by_taps(self.second, h) + residual


@dataclass(frozen=True)
class _Planned:
    """What a pass at one time of a chunk needs."""

    plan: Plan
    films: Sequence[tuple[Tensor, Tensor]]


class FilmUNet1d(ChunkDenoiser):
    """Denoiser of an action chunk.

    Args:
        channels: A, width of the action.
        condition: Width of the observation features (already flattened over To).
        horizon: Tp; must be divisible by ``2 ** (len(down) - 1)``.
        down: Channels per level, each divisible by ``groups``.
        step_dim: Width of the step embedding.
        kernel: Odd kernel size.
        groups: Groups of each GroupNorm.

    Attributes:
        by_taps: Take the faster way where there is one; False is the plain one everywhere.

    Raises:
        ConfigError: naming the number that does not fit.
    """

    def __init__(
        self,
        channels: int,
        condition: int,
        *,
        horizon: int,
        down: Sequence[int] = (256, 512, 1024),
        step_dim: int = 256,
        kernel: int = 5,
        groups: int = 8,
    ):
        super().__init__()
        check_unet(horizon, down, step_dim, kernel, groups)
        self.horizon = horizon
        self.step = StepEmbedding(step_dim)
        widths = [channels, *down]
        pairs = list(itertools.pairwise(widths))

        def block(inputs: int, outputs: int) -> FilmResidualBlock:
            return FilmResidualBlock(inputs, outputs, step_dim + condition, kernel, groups)

        self.down_blocks = nn.ModuleList([nn.ModuleList([block(i, o), block(o, o)]) for i, o in pairs])
        self.downsample = nn.ModuleList([nn.Conv1d(o, o, 3, stride=2, padding=1) for _, o in pairs[:-1]])
        self.middle = nn.ModuleList([block(down[-1], down[-1]), block(down[-1], down[-1])])
        up = list(reversed(pairs[1:]))
        self.up_blocks = nn.ModuleList([nn.ModuleList([block(2 * o, i), block(i, i)]) for i, o in up])
        self.upsample = nn.ModuleList([nn.ConvTranspose1d(i, i, 4, stride=2, padding=1) for i, _ in up])
        self.head = nn.Sequential(
            nn.Conv1d(down[0], down[0], kernel, padding=kernel // 2),
            nn.GroupNorm(groups, down[0]),
            nn.Mish(),
            nn.Conv1d(down[0], channels, 1),
        )
        self.by_taps = True
        arrange(self)

    def condition(self, time: Tensor, features: Features) -> list[Tensor]:
        """See :class:`ChunkDenoiser`: the FiLM parameters."""
        return self.films(time, features.vector)

    def conditions(self, times: Tensor, features: Features) -> Sequence[Any]:
        """See :class:`ChunkDenoiser`: all of them in one pass."""
        rows, vector = len(features), features.vector
        films = self.films(times.repeat_interleave(rows, dim=0), vector.repeat(len(times), 1))
        if rows <= LARGEST_BATCH and not torch.is_grad_enabled() and self._takes_taps(vector):
            plan = Plan(self, rows)
            halves = [film.view(len(times), rows, -1).chunk(2, dim=-1) for film in films]
            pairs = [list(zip(scale.unbind(), shift.unbind(), strict=True)) for scale, shift in halves]
            return [_Planned(plan, [pair[i] for pair in pairs]) for i in range(len(times))]
        return [[film[i * rows : (i + 1) * rows] for film in films] for i in range(len(times))]

    def films(self, step: Tensor, condition: Tensor) -> list[Tensor]:
        """FiLM parameters of every residual block; they do not depend on ``x``, so a sampler makes them once.

        Args:
            step: [B].
            condition: [B, C].

        Returns:
            One [B, 2 * out] per block, in the order of the forward pass.
        """
        # every block begins with the Mish of the same condition
        joint = F.mish(torch.cat([self.step(step), condition], dim=-1))
        return [cast(nn.Sequential, b.film)[1](joint) for b in self._blocks()]

    def denoise(self, x: Tensor, condition: Any) -> Tensor:
        """[B, Tp, A] and the result of :meth:`condition` or an entry of :meth:`conditions` -> [B, Tp, A]."""
        if isinstance(condition, _Planned):
            return condition.plan(x, condition.films)
        return self._denoise_by_taps(x, condition) if self._takes_taps(x) else self.denoise_plainly(x, condition)

    def _takes_taps(self, x: Tensor) -> bool:
        wide = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)
        # what is traced (compiled, exported) is better told of convolutions
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        return self.by_taps and x.device.type == "cpu" and wide and not traced

    def denoise_plainly(self, x: Tensor, condition: Sequence[Tensor]) -> Tensor:
        """:meth:`denoise` layer by layer, the network as it is published; what the faster way is held against."""
        film = iter(condition)
        h = x.transpose(1, 2)  # [B, A, Tp]
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down_blocks):
            first, second = cast(nn.ModuleList, blocks)
            h = second(first(h, next(film)), next(film))
            if level:  # the published network concatenates every level's skip but the first
                skips.append(h)
            if level < len(self.downsample):
                h = self.downsample[level](h)
        for middle in self.middle:
            h = middle(h, next(film))
        for blocks, up in zip(self.up_blocks, self.upsample, strict=True):
            first, second = cast(nn.ModuleList, blocks)
            h = torch.cat([h, skips.pop()], dim=1)
            h = up(second(first(h, next(film)), next(film)))
        return self.head(h).transpose(1, 2)

    def _denoise_by_taps(self, x: Tensor, condition: Sequence[Tensor]) -> Tensor:
        films = iter(condition)

        def both(blocks: nn.Module, h: Tensor) -> Tensor:
            for block in cast(nn.ModuleList, blocks):
                h = cast(FilmResidualBlock, block).by_taps(h, next(films))
            return h

        h = x.transpose(0, 1).contiguous()  # [Tp, B, A]
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down_blocks):
            h = both(blocks, h)
            if level:
                skips.append(h)
            if level < len(self.downsample):
                h = downsample(h, cast(nn.Conv1d, self.downsample[level]))
        h = both(self.middle, h)
        for blocks, up in zip(self.up_blocks, self.upsample, strict=True):
            h = both(blocks, torch.cat([h, skips.pop()], dim=-1))
            h = upsample(h, cast(nn.ConvTranspose1d, up))
        h = convolve(_by_taps(self.head, h), cast(nn.Conv1d, self.head[3]))
        return h.transpose(0, 1)

    def _apply(self, fn: Any, recurse: bool = True) -> FilmUNet1d:
        moved = super()._apply(fn, recurse)
        arrange(self)  # each kind of device has its own layout
        return moved

    def _blocks(self) -> list[FilmResidualBlock]:
        blocks: list[FilmResidualBlock] = []
        for pair in self.down_blocks:
            blocks.extend(pair)  # type: ignore[arg-type]
        blocks.extend(self.middle)  # type: ignore[arg-type]
        for pair in self.up_blocks:
            blocks.extend(pair)  # type: ignore[arg-type]
        return blocks


def _by_taps(layers: nn.Module, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """Convolution, group norm and Mish, the first three of ``layers``, then FiLM where there is one."""
    conv, norm = cast(nn.Sequential, layers)[0], cast(nn.Sequential, layers)[1]
    return norm_mish(convolve(x, cast(nn.Conv1d, conv)), cast(nn.GroupNorm, norm), scale, shift)


def build(parameters: Mapping[str, Any], *, channels: int, widths: FeatureWidths, horizon: int) -> FilmUNet1d:
    """See :func:`robopolicy.models.networks.build_network`."""
    config = build_config(UNetConfig, parameters, where="unet")
    return FilmUNet1d(
        channels,
        widths.vector,
        horizon=horizon,
        down=config.down,
        step_dim=config.step_dim,
        kernel=config.kernel,
        groups=config.groups,
    )


def check_unet(horizon: int, down: Sequence[int], step_dim: int, kernel: int, groups: int) -> None:
    """Refuse sizes that do not fit together, all at once.

    Raises:
        ConfigError: listing every problem.
    """
    problems = []
    if not down:
        problems.append(explain("down needs at least one level", given=tuple(down)))
    factor = 2 ** max(len(down) - 1, 0)
    if horizon < 1 or horizon % factor:
        near = max(factor, round(horizon / factor) * factor)
        problems.append(
            explain(
                f"prediction horizon Tp must be divisible by {factor} for {len(down)} levels",
                given=horizon,
                mend=f"use Tp={near}, or fewer levels",
            )
        )
    if any(width % groups for width in down):
        problems.append(explain(f"channels must be divisible by {groups} groups", given=tuple(down)))
    if step_dim < 4 or step_dim % 2:
        problems.append(explain("step_dim must be even and at least 4", given=step_dim))
    if kernel % 2 == 0:
        problems.append(explain("kernel must be odd", given=kernel))
    if problems:
        raise ConfigError(problems)
