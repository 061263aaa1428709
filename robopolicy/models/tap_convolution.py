"""The layers of a 1-D U-Net over short chunks as matrix products in time-first layout [T, B, C], for CPUs.

A kernel of K taps over T steps is ``out[t] = sum_k x[t + k - K // 2] @ W[k]``. With time in front, every tap is one
product of two contiguous slices: nothing is unfolded and nothing multiplies the padding (a third of the work of a
kernel of 5 over 4 steps). Convolution libraries are built for long signals and lose half of their time at these sizes.

Weights keep the shapes of ``nn.Conv1d`` [out, in, K] and ``nn.ConvTranspose1d`` [in, out, K]; :func:`arrange` stores
them tap after tap in memory, so that ``W[k]`` [in, out] is a view. In any other order they are copied at each use.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robopolicy.models.norm_mish import over_time

__all__ = ["arrange", "convolve", "downsample", "upsample"]

FEW_ROWS = 64
"""Up to this many rows T * B, one product over unfolded steps takes less time than one per tap."""


def arrange(module: nn.Module) -> None:
    """Lay out the weights of all convolutions below ``module``: tap after tap on a CPU, standard elsewhere.

    Shapes, values and names stay as they are.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d) and layer.kernel_size[0] > 1:
            weight = layer.weight
            order = (2, 1, 0) if isinstance(layer, nn.Conv1d) else (2, 0, 1)
            if weight.device.type == "cpu":
                back = tuple(order.index(axis) for axis in range(3))
                weight.data = weight.data.permute(order).contiguous().permute(back)
            else:
                weight.data = weight.data.contiguous()


def convolve(x: Tensor, layer: nn.Conv1d) -> Tensor:
    """Stride 1, odd kernel, zeros around. [T, B, in] -> [T, B, out]."""
    weight, bias = layer.weight, cast(Tensor, layer.bias)
    if weight.shape[2] == 1:
        return F.linear(x, weight.flatten(1), bias)
    taps = weight.permute(2, 1, 0)  # [K, in, out]
    if torch.is_grad_enabled():
        return cast(Tensor, _Convolution.apply(x, taps, bias))
    return _convolved(x, taps, bias)


def downsample(x: Tensor, layer: nn.Conv1d) -> Tensor:
    """Kernel 3, stride 2, one zero before and after. [T, B, in] -> [T / 2, B, out]; T even."""
    pairs = x.unflatten(0, (-1, 2))
    even, odd = pairs[:, 0], pairs[:, 1]
    before = torch.cat([torch.zeros_like(odd[:1]), odd[:-1]])
    taps = layer.weight.permute(2, 1, 0).reshape(-1, layer.out_channels)  # [3 * in, out]
    return _affine(torch.cat([before, even, odd], dim=-1), taps, layer.bias)


def upsample(x: Tensor, layer: nn.ConvTranspose1d) -> Tensor:
    """Transposed, kernel 4, stride 2, one step cut on each side. [T, B, in] -> [2 T, B, out]."""
    zero = torch.zeros_like(x[:1])
    taps = layer.weight.permute(2, 0, 1)  # [4, in, out]
    # out[2 t] = x[t] W[1] + x[t - 1] W[3]    out[2 t + 1] = x[t + 1] W[0] + x[t] W[2]
    even = _affine(torch.cat([x, torch.cat([zero, x[:-1]])], dim=-1), taps[1::2].reshape(-1, taps.shape[2]), layer.bias)
    odd = _affine(torch.cat([torch.cat([x[1:], zero]), x], dim=-1), taps[0::2].reshape(-1, taps.shape[2]), layer.bias)
    return torch.stack([even, odd], dim=1).flatten(0, 1)


def _affine(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    return torch.addmm(cast(Tensor, bias), x.flatten(0, 1), matrix).unflatten(0, x.shape[:2])


def _convolved(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """[T, B, in], [K, in, out], [out] -> [T, B, out]."""
    steps, rows, width = x.shape
    kernel, half = len(taps), len(taps) // 2
    if steps * rows <= FEW_ROWS:
        padded = F.pad(x, (0, 0, 0, 0, half, half))
        windows = padded.as_strided((steps, rows, kernel, width), (rows * width, width, rows * width, 1))
        columns = windows.reshape(steps * rows, kernel * width)
        return torch.addmm(bias, columns, taps.reshape(kernel * width, -1)).view(steps, rows, -1)
    flat = x.reshape(steps * rows, width)
    out = torch.addmm(bias, flat, taps[half])
    for tap, (target, source) in _offsets(kernel, steps, rows):
        out[target].addmm_(flat[source], taps[tap])
    return out.view(steps, rows, -1)


def _offsets(kernel: int, steps: int, rows: int) -> list[tuple[int, tuple[slice, slice]]]:
    """Taps beside the middle one: which rows of the output they reach, from which rows of the input."""
    found = []
    for tap in range(kernel):
        ahead = (tap - kernel // 2) * rows
        if ahead and abs(ahead) < steps * rows:
            total = steps * rows
            early, late = slice(0, total - abs(ahead)), slice(abs(ahead), total)
            found.append((tap, (early, late) if ahead > 0 else (late, early)))
    return found


class _Convolution(torch.autograd.Function):
    """:func:`_convolved` with its derivatives, tap by tap as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps)
        return _convolved(x, taps, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, taps = ctx.saved_tensors
        steps, rows, width = x.shape
        half = len(taps) // 2
        flat, g = x.reshape(steps * rows, width), gradient.reshape(steps * rows, -1)
        offsets = _offsets(len(taps), steps, rows)
        d_x = d_taps = None
        if ctx.needs_input_grad[0]:
            d_x = g @ taps[half].t()
            for tap, (target, source) in offsets:
                d_x[source].addmm_(g[target], taps[tap].t())
            d_x = d_x.view_as(x)
        if ctx.needs_input_grad[1]:
            d_taps = torch.empty(taps.shape, dtype=taps.dtype)
            if len(offsets) < len(taps) - 1:
                d_taps.zero_()
            torch.mm(flat.t(), g, out=d_taps[half])
            for tap, (target, source) in offsets:
                torch.mm(flat[source].t(), g[target], out=d_taps[tap])
        return d_x, d_taps, over_time(g[:, None]).view(-1) if ctx.needs_input_grad[2] else None
