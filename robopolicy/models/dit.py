"""A transformer over the noisy steps of a chunk, with cross-attention to the observation.

::

    x [B, Tp, A] --embed, positions--> Tp tokens --L x (self-attention, cross-attention, perceptron)--> [B, Tp, A]
                                                        ^                   ^
    time --sinusoids, perceptron--+--> modulation ------'                   |
    features, pooled -------------'                                         |
    o_0 .. o_To-1, extra, goal, language --tokens, perceptron--> keys and values of all layers

Two forms of the same blocks. ``adaln_zero`` (Peebles and Xie 2023, arXiv 2212.09748, section 3.2): time and pooled
features shift and scale what each part of a block sees and gate what it adds, at first by 0, so that every block begins
as the identity; cross-attention is added to it as a part of its own. ``token`` (Chi et al. 2023, arXiv 2303.04137,
appendix A.2): plain pre-norm decoder blocks, the time is one more token beside the observations. Published with
``causal``: step k of the chunk sees steps up to k, and observations up to the one of its own control step.

Nothing but the tokens of the chunk depends on x, so modulations, keys and values are made once per chunk, for all times
of a grid in one pass. With ``per_step_time`` every step of the chunk has a time of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from robopolicy.errors import ConfigError, explain
from robopolicy.models.denoiser import ChunkDenoiser
from robopolicy.models.features import Features, FeatureWidths
from robopolicy.models.unet1d import StepEmbedding
from robopolicy.schema import build as build_config

__all__ = ["FORMS", "ChunkTransformer", "DiTCondition", "DiTConfig", "build"]

FORMS = ("adaln_zero", "token")
"""How a block is told the time, see this module."""
PARTS = 9
"""Modulations of one block: shift, scale and gate of its three parts."""


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of the network; Chi et al. use width 256, 8 layers, 4 heads, dropout 0.01 to 0.3, ``token``, ``causal``.

    Attributes:
        width: Of a token; even, divisible by ``heads``.
        layers: Blocks.
        heads: Of both attentions.
        ratio: Hidden width of the perceptrons in widths.
        dropout: Of attention weights and of what is added to the tokens.
        time: One of :data:`FORMS`.
        causal: See this module.
        per_step_time: Take a time for every step of the chunk; for ``adaln_zero``.
    """

    width: int = 256
    layers: int = 8
    heads: int = 4
    ratio: int = 4
    dropout: float = 0.0
    time: str = "adaln_zero"
    causal: bool = False
    per_step_time: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.time not in FORMS:
            problems.append(explain("unknown form of the time", given=self.time, allowed=FORMS))
        if min(self.width, self.layers, self.heads, self.ratio) < 1 or self.width % 2 or self.width % self.heads:
            given = f"width={self.width} layers={self.layers} heads={self.heads} ratio={self.ratio}"
            problems.append(explain("width must be even and divisible by heads, all of them positive", given=given))
        if not 0 <= self.dropout < 1:
            problems.append(explain("dropout out of range", given=self.dropout, allowed="0 <= p < 1"))
        if self.per_step_time and self.time == "token":
            problems.append(
                explain("one token cannot tell a time per step", given="time=token", mend="use time=adaln_zero")
            )
        if problems:
            raise ConfigError(problems)


@dataclass
class DiTCondition:
    """What the tokens of a chunk are told.

    Attributes:
        modulation: [B, 1 or Tp, 9 L + 2, W]; None where the time is a token.
        memory: Keys and values of every block, [B, heads, M, W / heads] each.
    """

    modulation: Tensor | None
    memory: list[tuple[Tensor, Tensor]]


class _Block(nn.Module):
    """Self-attention, cross-attention and a perceptron, each on what a norm and the modulation make of the tokens."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        width, told = config.width, config.time == "token"
        self.heads, self.causal, self.dropout = config.heads, config.causal, config.dropout
        self.norms = nn.ModuleList([nn.LayerNorm(width, elementwise_affine=told, eps=1e-6) for _ in range(3)])
        self.qkv, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.seen = nn.Linear(width, width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, config.ratio * width), nn.GELU(approximate="tanh"), nn.Linear(config.ratio * width, width)
        )
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, modulation: Tensor | None, memory: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        """[B, Tp, W]; ``modulation`` [B, 1 or Tp, 9, W]; ``mask`` bool [Tp, M], True where a token is seen."""
        rate = self.dropout if self.training else 0.0
        q, k, v = self._heads(self.qkv(self._enter(0, x, modulation))).chunk(3, dim=1)
        own = scaled_dot_product_attention(q, k, v, is_causal=self.causal, dropout_p=rate)
        x = x + self._leave(0, self.joined(_merged(own)), modulation)
        q = self._heads(self.query(self._enter(1, x, modulation)))
        other = scaled_dot_product_attention(q, *memory, attn_mask=mask, dropout_p=rate)
        x = x + self._leave(1, self.seen(_merged(other)), modulation)
        return x + self._leave(2, self.perceptron(self._enter(2, x, modulation)), modulation)

    def _enter(self, part: int, x: Tensor, modulation: Tensor | None) -> Tensor:
        x = self.norms[part](x)
        if modulation is None:
            return x
        return torch.addcmul(modulation[:, :, 3 * part], x, 1 + modulation[:, :, 3 * part + 1])

    def _leave(self, part: int, x: Tensor, modulation: Tensor | None) -> Tensor:
        x = self.drop(x)
        return x if modulation is None else x * modulation[:, :, 3 * part + 2]

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, n W] -> [B, n heads, T, W / heads]."""
        return x.unflatten(-1, (-1, self.query.out_features // self.heads)).transpose(1, 2)


class ChunkTransformer(ChunkDenoiser):
    """Denoiser of an action chunk, see this module.

    Args:
        config: See :class:`DiTConfig`.
        channels: A, width of the action.
        widths: Of the features.
        horizon: Tp.

    Attributes:
        step: Embedding of the time.
    """

    mask: Tensor | None

    def __init__(self, config: DiTConfig, channels: int, widths: FeatureWidths, horizon: int):
        super().__init__()
        self.config, self.horizon, self.per_step_time = config, horizon, config.per_step_time
        width = config.width
        self.step = StepEmbedding(width)
        self.embed = nn.Linear(channels, width)
        self.position = nn.Parameter(torch.empty(horizon, width))
        named = {"steps": widths.step, "extra": widths.extra, "goal": widths.goal, "language": widths.language}
        self.tokens = nn.ModuleDict({name: nn.Linear(size, width) for name, size in named.items() if size})
        others = [name for name in self.tokens if name != "steps"] + (["time"] if config.time == "token" else [])
        self.memory_position = nn.Parameter(torch.empty(widths.horizon + len(others), width))
        self.memory_perceptron = nn.Sequential(
            nn.Linear(width, config.ratio * width), nn.Mish(), nn.Linear(config.ratio * width, width)
        )
        self.memory_norm = nn.LayerNorm(width)
        self.keys_values = nn.Linear(width, config.layers * 2 * width)
        self.blocks = nn.ModuleList([_Block(config) for _ in range(config.layers)])
        told = config.time == "token"
        self.pooled = None if told else nn.Linear(widths.vector, width)
        self.modulation = None if told else nn.Linear(width, (PARTS * config.layers + 2) * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=told, eps=1e-6)
        self.head = nn.Linear(width, channels)
        mask = None
        if config.causal:
            mask = torch.ones(horizon, len(self.memory_position), dtype=torch.bool)
            mask[:, : widths.horizon] = torch.arange(widths.horizon) <= torch.arange(horizon)[:, None]
        self.register_buffer("mask", mask, persistent=False)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.position, std=0.02)
        nn.init.normal_(self.memory_position, std=0.02)
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.head.weight)

    def condition(self, time: Tensor, features: Features) -> DiTCondition:
        """See :class:`ChunkDenoiser`; where :attr:`per_step_time`, a time [B] is that of all steps."""
        shared = not self.per_step_time or time.ndim == 1
        embedded = self._embedded(time)
        embedded = embedded[:, None] if shared else embedded  # [B, 1 or Tp, W]
        if self.modulation is None:
            return DiTCondition(None, self._memory(features, embedded))
        pooled = self._pooled(features)[:, None]
        return DiTCondition(self._modulated(embedded + pooled), self._memory(features, None))

    def conditions(self, times: Tensor, features: Features) -> Sequence[DiTCondition]:
        """See :class:`ChunkDenoiser`; times [n], or [n, Tp] where :attr:`per_step_time`. All of them in one pass."""
        rows = len(features)
        if self.modulation is None:
            known = self._memory_tokens(features)
            told = self._told(self._embedded(times))[:, None].expand(-1, rows, -1, -1)  # [n, B, 1, W]
            joined = [self._split(torch.cat([known, one], dim=1)) for one in told]
            return [DiTCondition(None, memory) for memory in joined]
        memory = self._memory(features, None)
        # a grid has few levels besides those that its steps share
        each, where = (times, None) if not self.per_step_time else times.unique(return_inverse=True)
        made = self._modulated(self._embedded(each)[:, None] + self._pooled(features))  # [m, B, 9 L + 2, W]
        if where is None or times.ndim == 1:
            order = range(len(times)) if where is None else where.tolist()
            return [DiTCondition(made[i][:, None], memory) for i in order]
        return [DiTCondition(made[steps].transpose(0, 1), memory) for steps in where]

    def denoise(self, x: Tensor, condition: DiTCondition) -> Tensor:
        """[B, Tp, A] and the result of :meth:`condition` -> [B, Tp, A]."""
        h = self.embed(x) + self.position
        modulation = condition.modulation
        for i, (block, memory) in enumerate(zip(self.blocks, condition.memory, strict=True)):
            own = None if modulation is None else modulation[:, :, PARTS * i : PARTS * (i + 1)]
            h = block(h, own, memory, self.mask)
        h = self.norm(h)
        if modulation is not None:
            h = torch.addcmul(modulation[:, :, -2], h, 1 + modulation[:, :, -1])
        return self.head(h)

    def _embedded(self, time: Tensor) -> Tensor:
        """Times -> [..., W]; each row of ``time`` is what the embedding takes for one time."""
        if not self.per_step_time:
            return self.step(time)
        return self.step(time.reshape(-1)).unflatten(0, time.shape)

    def _pooled(self, features: Features) -> Tensor:
        """[B, W]."""
        assert self.pooled is not None
        return self.pooled(features.vector)

    def _modulated(self, told: Tensor) -> Tensor:
        """[..., W] -> [..., 9 L + 2, W]."""
        assert self.modulation is not None
        return self.modulation(silu(told)).unflatten(-1, (-1, self.config.width))

    def _memory(self, features: Features, time: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        known = self._memory_tokens(features)
        return self._split(known if time is None else torch.cat([known, self._told(time[:, 0])], dim=1))

    def _memory_tokens(self, features: Features) -> Tensor:
        """[B, M, W] of what is observed; each token by itself, so the time can join them later."""
        parts = [self.tokens["steps"](features.steps)]
        for name in self.tokens:
            if name != "steps":
                parts.append(self.tokens[name](getattr(features, name))[:, None])
        tokens = torch.cat(parts, dim=1)
        return self.memory_norm(self.memory_perceptron(tokens + self.memory_position[: tokens.shape[1]]))

    def _told(self, embedded: Tensor) -> Tensor:
        """The token [B, 1, W] of a time [B, W], the last of the memory."""
        return self.memory_norm(self.memory_perceptron(embedded + self.memory_position[-1]))[:, None]

    def _split(self, memory: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every block."""
        layers, heads = self.config.layers, self.config.heads
        split = self.keys_values(memory).unflatten(-1, (2 * layers, heads, -1)).permute(2, 0, 3, 1, 4)
        return [(split[2 * i], split[2 * i + 1]) for i in range(layers)]


def _merged(x: Tensor) -> Tensor:
    """[B, heads, T, W / heads] -> [B, T, W]."""
    return x.transpose(1, 2).flatten(2)


def build(parameters: Mapping[str, Any], *, channels: int, widths: FeatureWidths, horizon: int) -> ChunkTransformer:
    """See :func:`robopolicy.models.networks.build_network`.

    Raises:
        ConfigError: every unknown, missing or contradictory parameter.
    """
    return ChunkTransformer(build_config(DiTConfig, parameters, where="dit"), channels, widths, horizon)
