"""A causal transformer over one sequence as the denoiser of a chunk (Reuss et al. 2023, arXiv 2304.02532, appendix B).

::

    [time] [goal] [language] [extra] [o_0 .. o_To-1] | [a_0 .. a_Tp-1]
     \\_____________ prefix: no x in it ____________/   \\_ noisy steps of the chunk; the answers are read here

Attention is causal and the chunk stands last, so nothing in the prefix ever sees it: keys and values of the prefix are
made once per chunk, for all times of a grid in one pass (:meth:`ChunkGpt.conditions`), and the sampler's loop runs over
the Tp action tokens only. Goal, language and extra tokens are there where the features have them.

Observation i and action i belong to the same control step and share a position; the time token has none. The goal is
put through the embedding of observations where it is one, that is where it is as wide, and through its own otherwise.
Beyond the paper: chunks, so that there are more actions than observations; actions are not interleaved with
observations, for To > 1 the chunk begins with the steps that are past; the time is embedded by sinusoids, which serves
discrete steps as well as the logarithm of a noise level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from robopolicy.errors import ConfigError, explain
from robopolicy.models.denoiser import ChunkDenoiser
from robopolicy.models.features import Features, FeatureWidths
from robopolicy.models.unet1d import StepEmbedding
from robopolicy.schema import build as build_config

__all__ = ["ChunkGpt", "GptConfig", "build"]

Past = list[tuple[Tensor, Tensor]]
"""Keys and values [B, heads, P, width / heads] of the prefix, one pair per layer."""


@dataclass(frozen=True)
class GptConfig:
    """Sizes of the network; published are (240, 4, 12) with attention dropout 0.05 and (360, 6, 6) with 0.3.

    Attributes:
        width: Of a token.
        layers, heads: Of the transformer; ``heads`` divides ``width``.
        dropout: After the embedding and of what every layer adds.
        attention_dropout: Of the attention weights.
    """

    width: int = 240
    layers: int = 4
    heads: int = 12
    dropout: float = 0.0
    attention_dropout: float = 0.05

    def __post_init__(self) -> None:
        problems = []
        if min(self.width, self.layers, self.heads) < 1 or self.width % self.heads or self.width % 2:
            problems.append(
                explain(
                    "needs an even width that the heads divide, and a layer",
                    given=f"width={self.width} heads={self.heads} layers={self.layers}",
                )
            )
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(explain(f"{name} out of range", given=getattr(self, name), allowed="0 <= p < 1"))
        if problems:
            raise ConfigError(problems)


class _Block(nn.Module):
    """Pre-norm attention and a perceptron of four times the width. [B, N, width] -> [B, N, width]."""

    def __init__(self, config: GptConfig):
        super().__init__()
        width = config.width
        self.heads, self.attention_dropout = config.heads, config.attention_dropout
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(config.dropout)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values, each [B, heads, N, width / heads]."""
        split = self.query_key_value(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        return query, key, value

    def attend(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """The block's output; causal where there is no mask."""
        dropout = self.attention_dropout if self.training else 0.0
        seen = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None
        )
        x = x + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        x = x + self.dropout(self.perceptron(self.norm_perceptron(x)))
        return x


class ChunkGpt(ChunkDenoiser):
    """Denoiser of an action chunk.

    Args:
        config: Sizes.
        channels: A, width of the action.
        widths: Of the features.
        horizon: Tp, at least To.

    Raises:
        ConfigError: more observations than steps of the chunk.
    """

    mask: Tensor

    def __init__(self, config: GptConfig, channels: int, widths: FeatureWidths, horizon: int):
        super().__init__()
        if widths.horizon > horizon:
            raise ConfigError(
                explain("the chunk must cover the observations: Tp >= To", given=f"To={widths.horizon} Tp={horizon}")
            )
        self.horizon, width = horizon, config.width
        self.time = StepEmbedding(width)
        self.observation, self.action = nn.Linear(widths.step, width), nn.Linear(channels, width)
        self.shared_goal = widths.goal == widths.step + 1
        if self.shared_goal:
            self.goal_given = nn.Parameter(torch.zeros(width))
        elif widths.goal:
            self.goal = nn.Linear(widths.goal, width)
        self.language = nn.Linear(widths.language, width) if widths.language else None
        self.extra = nn.Linear(widths.extra, width) if widths.extra else None
        self.widths = widths
        self.position = nn.Parameter(torch.zeros(1 + horizon, width))  # the goal's, then one per control step
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList([_Block(config) for _ in range(config.layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, channels)
        prefix = 1 + widths.horizon + sum(bool(w) for w in (widths.goal, widths.language, widths.extra))
        causal = torch.ones(horizon, horizon, dtype=torch.bool).tril()
        mask = torch.cat([torch.ones(horizon, prefix, dtype=torch.bool), causal], dim=1)
        self.register_buffer("mask", mask, persistent=False)  # [Tp, P + Tp]
        self._initialize(config.layers)

    def _initialize(self, layers: int) -> None:
        """Normal weights of deviation 0.02; what a layer adds begins smaller the more layers there are (GPT-2)."""
        for module in [*self.blocks.modules(), self.observation, self.action, self.head]:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            for last in (block.out, block.perceptron[2]):  # type: ignore[union-attr, index]
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * layers))  # type: ignore[union-attr, arg-type]
        nn.init.normal_(self.position, std=0.02)

    def condition(self, time: Tensor, features: Features) -> Past:
        """See :class:`ChunkDenoiser`: keys and values of the prefix."""
        return self._past(torch.cat([self.time(time)[:, None], self._tokens(features)], dim=1))

    def conditions(self, times: Tensor, features: Features) -> list[Past]:
        """See :class:`ChunkDenoiser`: the prefixes of all times in one pass."""
        count, rows = len(times), len(features)
        tokens = self._tokens(features)  # [B, P - 1, width]
        time = self.time(times)[:, None, None].expand(count, rows, 1, -1)
        joint = torch.cat([time, tokens.expand(count, *tokens.shape)], dim=2)  # [n, B, P, width]
        past = [
            (k.unflatten(0, (count, rows)), v.unflatten(0, (count, rows))) for k, v in self._past(joint.flatten(0, 1))
        ]
        return [[(k[i], v[i]) for k, v in past] for i in range(count)]

    def denoise(self, x: Tensor, condition: Past) -> Tensor:
        """[B, Tp, A] and the prefix -> [B, Tp, A]."""
        h = self.dropout(self.action(x) + self.position[1:])
        for block, (key, value) in zip(self.blocks, condition, strict=True):
            query, own_key, own_value = block.project(h)  # type: ignore[operator, misc]
            both = torch.cat([key, own_key], dim=2), torch.cat([value, own_value], dim=2)
            h = block.attend(h, query, *both, self.mask)  # type: ignore[operator]
        return self.head(self.norm(h))

    def _tokens(self, features: Features) -> Tensor:
        """[B, P - 1, width]: everything of the prefix but the time."""
        tokens = []
        if features.goal is not None:
            tokens.append(self._goal_token(features.goal) + self.position[0])
        for layer, part in ((self.language, features.language), (self.extra, features.extra)):
            if layer is not None and part is not None:
                tokens.append(layer(part))
        steps = self.observation(features.steps) + self.position[1 : 1 + self.widths.horizon]
        return self.dropout(torch.cat([*(token[:, None] for token in tokens), steps], dim=1))

    def _goal_token(self, goal: Tensor) -> Tensor:
        """[B, width]; the last feature of a goal says whether there is one."""
        if not self.shared_goal:
            return self.goal(goal)
        return self.observation(goal[:, :-1]) + goal[:, -1:] * self.goal_given

    def _past(self, x: Tensor) -> Past:
        """Keys and values of every layer for prefixes [B, P, width]; the last layer's output is not needed."""
        past: Past = []
        for block in self.blocks:
            query, key, value = block.project(x)  # type: ignore[operator, misc]
            past.append((key, value))
            if len(past) < len(self.blocks):
                x = block.attend(x, query, key, value, None)  # type: ignore[operator]
        return past


def build(parameters: Mapping[str, Any], *, channels: int, widths: FeatureWidths, horizon: int) -> ChunkGpt:
    """See :func:`robopolicy.models.networks.build_network`."""
    return ChunkGpt(build_config(GptConfig, parameters, where="gpt"), channels, widths, horizon)
