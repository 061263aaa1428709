"""The U-Net's pass for a few rows without gradients, with all memory laid out beforehand.

For one row the network is some hundreds of small operations, and taking them up costs more time than doing them. A plan
owns every buffer between the layers for one chunk, each with room for the padding that the next convolution reads, and
every view of them. A convolution is then four operations: unfold, product, norm, Mish with FiLM::

    padded [B, p + T + p, in] --windows--> columns [B T, K in] --weights--> [B T, out] --norm, Mish, FiLM--> padded

Weights are views of the parameters, never copies: a plan is made for each chunk and does not outlive it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robopolicy.models.norm_mish import norm_mish_into

__all__ = ["LARGEST_BATCH", "Plan"]

LARGEST_BATCH = 8
"""Rows up to which the time goes into taking up operations, not into arithmetic."""

Film = tuple[Tensor, Tensor]


class _Room:
    """[B, T, C] with zeros before and after."""

    def __init__(self, like: Tensor, rows: int, steps: int, width: int, kernel: int):
        self.rows, self.steps, self.width, self.pad = rows, steps, width, kernel // 2
        self.all = torch.zeros(rows, steps + 2 * self.pad, width, dtype=like.dtype)
        self.inner = self.all[:, self.pad : self.pad + steps]

    def windows(self, kernel: int, stride: int = 1) -> Tensor:
        """[B, T / stride, kernel * C]: overlapping views, tap after tap."""
        outer, width = self.all.stride(0), self.width
        skipped = (self.pad - kernel // 2) * width
        shape = (self.rows, self.steps // stride, kernel * width)
        return self.all.as_strided(shape, (outer, stride * width, 1), skipped)


class Plan:
    """A pass of one :class:`~robopolicy.models.unet1d.FilmUNet1d` on a CPU; not for two threads at once.

    Args:
        network: Its parameters.
        rows: B.
    """

    def __init__(self, network: Any, rows: int):
        self._rows, self._like = rows, network.head[3].weight
        self._kernel = int(network.head[0].kernel_size[0])
        self._steps: list[Callable[[Sequence[Film]], None]] = []
        self._blocks = 0
        entry = self._room(network.horizon, network.down_blocks[0][0].first[0].in_channels)
        self._input = entry.inner
        skips: list[_Room] = []
        for level, blocks in enumerate(network.down_blocks):
            entry = self._pair(blocks, entry)
            if level:
                skips.append(entry)
            if level < len(network.downsample):
                entry = self._down(network.downsample[level], entry)
        entry = self._pair(network.middle, entry)
        for blocks, up in zip(network.up_blocks, network.upsample, strict=True):
            entry = self._up(up, self._pair(blocks, self._joined(entry, skips.pop())))
        last = self._conv_norm_mish(network.head, entry)
        head = network.head[3]
        self._output = self._product(head.weight.flatten(1).t(), head.bias, last.inner)

    def __call__(self, x: Tensor, films: Sequence[Film]) -> Tensor:
        """[B, Tp, A] and the FiLM parameters of each block, ``scale`` and ``shift`` [B, C] -> [B, Tp, A]."""
        self._input.copy_(x)
        for step in self._steps:
            step(films)
        return self._output.clone()

    def _room(self, steps: int, width: int) -> _Room:
        return _Room(self._like, self._rows, steps, width, self._kernel)

    def _product(self, matrix: Tensor, bias: Tensor, source: Tensor) -> Tensor:
        """Queue ``source [B, T, K] @ matrix + bias``. -> where it will stand, [B, T, out]."""
        rows, steps, width = source.shape
        columns = torch.empty(rows, steps, width, dtype=source.dtype)
        flat = columns.view(-1, width)
        out = torch.empty(rows * steps, matrix.shape[1], dtype=source.dtype)

        def run(_: Sequence[Film]) -> None:
            columns.copy_(source)
            torch.addmm(bias, flat, matrix, out=out)

        self._steps.append(run)
        return out.view(rows, steps, -1)

    def _conv_norm_mish(self, layers: nn.Sequential, entry: _Room, block: int | None = None) -> _Room:
        conv: Any = layers[0]
        norm: Any = layers[1]
        matrix = conv.weight.permute(2, 1, 0).reshape(-1, conv.out_channels)
        y = self._product(matrix, conv.bias, entry.windows(self._kernel))
        room = self._room(entry.steps, conv.out_channels)
        target, channels = room.inner, y.transpose(1, 2)[..., None]  # channels-last in memory
        steps_first, target_first = y.transpose(0, 1), target.transpose(0, 1)
        groups, weight, bias, eps = norm.num_groups, norm.weight, norm.bias, norm.eps

        def run(films: Sequence[Film]) -> None:
            scale, shift = (None, None) if block is None else films[block]
            if norm_mish_into(target_first, steps_first, norm, scale, shift):
                return
            h = F.mish(F.group_norm(channels, groups, weight, bias, eps))[..., 0].transpose(1, 2)
            if scale is None or shift is None:
                target.copy_(h)
            else:
                torch.addcmul(shift[:, None], h, scale[:, None], out=target)

        self._steps.append(run)
        return room

    def _pair(self, blocks: Any, entry: _Room) -> _Room:
        for block in blocks:
            inner = self._conv_norm_mish(block.first, entry, self._blocks)
            self._blocks += 1
            room = self._conv_norm_mish(block.second, inner)
            added = entry.inner
            if not isinstance(block.residual, nn.Identity):
                layer = block.residual
                added = self._product(layer.weight.flatten(1).t(), layer.bias, entry.inner)
            target = room.inner
            self._steps.append(lambda _, target=target, added=added: target.add_(added))  # type: ignore[misc]
            entry = room
        return entry

    def _down(self, layer: nn.Conv1d, entry: _Room) -> _Room:
        matrix = layer.weight.permute(2, 1, 0).reshape(-1, layer.out_channels)
        assert layer.bias is not None
        y = self._product(matrix, layer.bias, entry.windows(3, stride=2))
        return self._moved(y, self._room(entry.steps // 2, layer.out_channels))

    def _up(self, layer: nn.ConvTranspose1d, entry: _Room) -> _Room:
        """Each pair of steps from three of the input: both products are one of twice the width."""
        taps = layer.weight.permute(2, 0, 1)  # [4, in, out]
        none = torch.zeros_like(taps[0])
        even, odd = torch.cat([taps[3], taps[1], none]), torch.cat([none, taps[2], taps[0]])
        assert layer.bias is not None
        y = self._product(torch.cat([even, odd], dim=1), torch.cat([layer.bias, layer.bias]), entry.windows(3))
        return self._moved(y.view(self._rows, 2 * entry.steps, -1), self._room(2 * entry.steps, layer.out_channels))

    def _joined(self, first: _Room, second: _Room) -> _Room:
        room = self._room(first.steps, first.width + second.width)
        self._moved(first.inner, room, slice(0, first.width))
        return self._moved(second.inner, room, slice(first.width, None))

    def _moved(self, source: Tensor, room: _Room, columns: slice = slice(None)) -> _Room:
        target = room.inner[..., columns]
        self._steps.append(lambda _: target.copy_(source))  # type: ignore[arg-type, return-value]
        return room
