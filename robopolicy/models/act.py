"""Action Chunking with Transformers (Zhao et al. 2023, arXiv 2304.13705): an encoder-decoder and a CVAE.

::

    training only   [CLS, state, action_1 .. action_Tp] --encoder--> mean, log variance --> z ~ N(mean, variance)
    both            [z | state.. | environment.. | goal | language | image tokens..] --encoder--> memory
                    Tp learned queries --decoder(memory)--> Linear --> chunk [B, Tp, A]
    acting          z = 0, the middle of its prior

Encoder and decoder are DETR's (Carion et al. 2020): positions are added to queries and keys of every layer and not to
values; ReLU; the norm comes after each residual sum unless ``pre_norm``. Departures from the published code:

- the chunk is read from the *last* decoder layer. There it is read from the first, and the others do nothing;
- the first decoder layer has no self-attention, which on the zeros that it begins with adds a constant at most;
- the image tokens of a camera carry a learned vector of that camera, 0 at first; there, cameras share their positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robopolicy.errors import ConfigError, explain
from robopolicy.models.image_tokens import TokenFeatures, TokenWidths, sine_positions_1d, sine_positions_2d

__all__ = ["ActNetwork", "ActNetworkConfig", "ActOutput", "Posterior"]


@dataclass(frozen=True)
class ActNetworkConfig:
    """Sizes; the defaults are the published ones.

    Attributes:
        width: W of all tokens, divisible by 4 and by ``heads``.
        heads: Of attention.
        feedforward: Hidden width of the perceptron in each layer.
        encoder_layers: Of the observation encoder, and of the CVAE's.
        decoder_layers: All of them are used. The published code sets 7 and uses 1.
        latent: Width of z; 0 leaves the CVAE out.
        dropout: In training.
        pre_norm: Norm before attention and perceptron, instead of after the sum.
    """

    width: int = 512
    heads: int = 8
    feedforward: int = 3200
    encoder_layers: int = 4
    decoder_layers: int = 7
    latent: int = 32
    dropout: float = 0.1
    pre_norm: bool = False

    def __post_init__(self) -> None:
        if self.width < 4 or self.heads < 1 or self.width % 4 or self.width % self.heads:
            raise ConfigError(
                explain("width must be divisible by 4 and by heads", given=f"width={self.width} heads={self.heads}")
            )
        if min(self.feedforward, self.encoder_layers, self.decoder_layers) < 1 or self.latent < 0:
            raise ConfigError(explain("at least one of each layer, latent at least 0", given=self))
        if not 0 <= self.dropout < 1:
            raise ConfigError(explain("dropout out of range", given=self.dropout, allowed="0 <= p < 1"))


@dataclass
class Posterior:
    """What the CVAE's encoder makes of a demonstrated chunk.

    Attributes:
        mean, log_variance: f32 [B, Z] of a diagonal normal distribution.
    """

    mean: Tensor
    log_variance: Tensor

    def draw(self, rng: torch.Generator | None) -> Tensor:
        """z, f32 [B, Z], with a gradient to both (Kingma and Welling 2014, section 2.4)."""
        noise = torch.randn(self.mean.shape, generator=rng, device=self.mean.device)
        return self.mean + (self.log_variance / 2).exp() * noise

    def divergence(self) -> Tensor:
        """Kullback-Leibler divergence from the standard normal distribution, summed over Z: f32 [B], in nats."""
        terms = 1 + self.log_variance - self.mean.square() - self.log_variance.exp()
        return -0.5 * terms.sum(-1)


@dataclass
class ActOutput:
    """Attributes:
    chunk: f32 [B, Tp, A].
    posterior: Of training passes with a CVAE.
    """

    chunk: Tensor
    posterior: Posterior | None = None


class _Sublayer(nn.Module):
    """x -> x + dropout(inner(x)), with the norm on one side or the other."""

    def __init__(self, config: ActNetworkConfig):
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(config.width), nn.Dropout(config.dropout)
        self.pre_norm = config.pre_norm

    def enter(self, x: Tensor) -> Tensor:
        """What the inner function sees."""
        return self.norm(x) if self.pre_norm else x

    def leave(self, x: Tensor, inner: Tensor) -> Tensor:
        """The residual sum."""
        joined = x + self.dropout(inner)
        return joined if self.pre_norm else self.norm(joined)


class _Attend(_Sublayer):
    """Attention of x to itself or to a memory."""

    def __init__(self, config: ActNetworkConfig):
        super().__init__(config)
        self.attention = nn.MultiheadAttention(config.width, config.heads, config.dropout, batch_first=True)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        memory: Tensor | None = None,
        memory_position: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> Tensor:
        """[B, N, W]; ``padding`` bool [B, M] is True for keys that nobody looks at."""
        seen = self.enter(x)
        query = seen + position
        key, value = query, seen
        if memory is not None and memory_position is not None:
            key, value = memory + memory_position, memory
        return self.leave(x, self.attention(query, key, value, key_padding_mask=padding, need_weights=False)[0])


class _Perceptron(_Sublayer):
    def __init__(self, config: ActNetworkConfig):
        super().__init__(config)
        self.rise = nn.Linear(config.width, config.feedforward)
        self.fall = nn.Linear(config.feedforward, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(x, self.fall(self.dropout(functional.relu(self.rise(self.enter(x))))))


class _EncoderLayer(nn.Module):
    def __init__(self, config: ActNetworkConfig):
        super().__init__()
        self.attend, self.perceptron = _Attend(config), _Perceptron(config)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.perceptron(self.attend(x, position, padding=padding))


class _DecoderLayer(nn.Module):
    def __init__(self, config: ActNetworkConfig, first: bool):
        super().__init__()
        # the first layer begins at zeros, all values are the same: attention among them could add one constant only
        self.attend = None if first else _Attend(config)
        self.look, self.perceptron = _Attend(config), _Perceptron(config)

    def forward(self, x: Tensor, query: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        if self.attend is not None:
            x = self.attend(x, query)
        return self.perceptron(self.look(x, query, memory, position))


class _Encoder(nn.Module):
    """Layers, and a last norm where the layers leave none."""

    def __init__(self, config: ActNetworkConfig):
        super().__init__()
        self.layers = nn.ModuleList(_EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.width) if config.pre_norm else nn.Identity()

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, position, padding)
        normed: Tensor = self.norm(x)
        return normed


class _StyleEncoder(nn.Module):
    """[CLS, state, actions] -> posterior of z; images are left out, as published."""

    positions: Tensor

    def __init__(self, config: ActNetworkConfig, channels: int, state: int, horizon: int):
        super().__init__()
        self.summary = nn.Parameter(torch.randn(1, 1, config.width))
        self.state = nn.Linear(state, config.width) if state else None
        self.action = nn.Linear(channels, config.width)
        self.encoder = _Encoder(config)
        self.head = nn.Linear(config.width, 2 * config.latent)
        length = 1 + bool(state) + horizon
        self.register_buffer("positions", sine_positions_1d(length, config.width), persistent=False)

    def forward(self, state: Tensor, actions: Tensor, padding: Tensor) -> Posterior:
        """[B, S], [B, Tp, A] and bool [B, Tp], True where an action is padding."""
        tokens = [self.summary.expand(len(actions), -1, -1)]
        if self.state is not None:
            tokens.append(self.state(state)[:, None])
        ahead = padding.new_zeros((len(actions), len(tokens)))
        tokens.append(self.action(actions))
        encoded = self.encoder(torch.cat(tokens, dim=1), self.positions, torch.cat([ahead, padding], dim=1))
        return Posterior(*self.head(encoded[:, 0]).chunk(2, dim=-1))


class ActNetwork(nn.Module):
    """Token features -> chunk.

    Args:
        config: Sizes.
        channels: A.
        widths: Of the features.
        horizon: Tp.
    """

    def __init__(self, config: ActNetworkConfig, *, channels: int, widths: TokenWidths, horizon: int):
        super().__init__()
        self.config, self.widths, self.horizon, width = config, widths, horizon, config.width
        self.style: _StyleEncoder | None = None
        if config.latent:
            state = dict(widths.low_dim).get("state", 0)
            self.style = _StyleEncoder(config, channels, state, horizon)
            self.latent = nn.Linear(config.latent, width)
        single = {"extra": widths.extra, "goal": widths.goal, "language": widths.language}
        self.single = tuple(name for name, size in single.items() if size)
        self.project = nn.ModuleDict({name: nn.Linear(size, width) for name, size in widths.low_dim})
        self.project.update({name: nn.Linear(single[name], width) for name in self.single})
        count = bool(config.latent) + len(widths.low_dim) * widths.horizon + len(self.single)
        self.positions = nn.Parameter(torch.randn(1, count, width))  # of all tokens but the images
        if widths.maps:
            self.image = nn.Conv2d(widths.channels, width, 1)
            self.camera = nn.Parameter(torch.zeros(widths.maps, widths.horizon, width))
        self.encoder = _Encoder(config)
        self.layers = nn.ModuleList(_DecoderLayer(config, i == 0) for i in range(config.decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(1, horizon, width))
        self.head = nn.Linear(width, channels)
        for part in (self.encoder, self.layers):
            for weight in part.parameters():
                if weight.dim() > 1:
                    nn.init.xavier_uniform_(weight)

    def forward(
        self,
        features: TokenFeatures,
        actions: Tensor | None = None,
        padding: Tensor | None = None,
        rng: torch.Generator | None = None,
    ) -> ActOutput:
        """A chunk; with ``actions`` the one of a z drawn from their posterior, without them the one of z = 0.

        Args:
            features: Of B observations.
            actions: f32 [B, Tp, A], demonstrated, normalised.
            padding: bool [B, Tp], True where they are padding; needed with ``actions``.
            rng: Source of z.
        """
        posterior = None
        z = features.steps.new_zeros((len(features), self.config.latent))
        if self.style is not None and actions is not None:
            assert padding is not None
            posterior = self.style(features.steps[:, -1, : dict(self.widths.low_dim).get("state", 0)], actions, padding)
            z = posterior.draw(rng)
        tokens, position = self._tokens(features, z)
        memory = self.encoder(tokens, position)
        query = self.query.expand(len(tokens), -1, -1)
        x = torch.zeros_like(query)
        for layer in self.layers:
            x = layer(x, query, memory, position)
        return ActOutput(self.head(self.norm(x)), posterior)

    def _tokens(self, features: TokenFeatures, z: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, W] of the observations and their positions [1, N, W]."""
        tokens = [] if self.style is None else [self.latent(z)[:, None]]
        low_dim = features.steps.split([size for _, size in self.widths.low_dim], dim=-1) if self.widths.low_dim else ()
        for (name, _), values in zip(self.widths.low_dim, low_dim, strict=True):
            tokens.append(self.project[name](values))  # [B, To, W]
        tokens += [self.project[name](getattr(features, name))[:, None] for name in self.single]
        positions: list[Tensor] = [self.positions]
        for camera, values in enumerate(features.maps):
            flat = self.image(values.flatten(0, 1))  # [B * To, W, h, w]
            tokens.append(flat.flatten(2).transpose(1, 2).unflatten(0, values.shape[:2]).flatten(1, 2))
            height, width = values.shape[-2:]
            place = sine_positions_2d(height, width, self.config.width).to(flat.device).flatten(0, 1)
            positions.append((place + self.camera[camera][:, None]).flatten(0, 1)[None])
        return torch.cat(tokens, dim=1), torch.cat(positions, dim=1)
