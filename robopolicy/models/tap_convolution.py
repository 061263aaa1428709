"""The layers of a 1-D U-Net over short chunks as matrix products in time-first layout [T, B, C], for CPUs.

A kernel of K taps over T steps is ``out[t] = sum_k x[t + k - K // 2] @ W[k]``. With time in front, every tap is one
product of two contiguous slices: nothing is unfolded and nothing multiplies the padding (a third of the work of a kernel
of 5 over 4 steps). Convolution libraries are built for long signals and lose half of their time at these sizes.

Group norm, Mish and FiLM are one differentiable function, with Mish and its derivative in one exponential:
with ``q = 1 + e^y`` and ``d = q^2 + 1``, ``mish(y) = y tanh(ln q) = y - 2 y / d`` and
``mish'(y) = 1 - 2 / d + 4 y (q - 1) q / d^2``.

Weights keep the shapes of ``nn.Conv1d`` [out, in, K] and ``nn.ConvTranspose1d`` [in, out, K]; :func:`arrange` stores
them tap after tap in memory, so that ``W[k]`` [in, out] is a view. In any other order they are copied at each use.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["arrange", "convolve", "downsample", "norm_mish", "upsample"]

FEW_ROWS = 64
"""Up to this many rows T * B, one product over unfolded steps takes less time than one per tap."""

LARGEST_EXPONENT = 20.0
"""Mish is the identity in single precision from here on; e^y is kept from overflowing."""


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
        return F.linear(x, weight[:, :, 0], bias)
    taps = weight.permute(2, 1, 0)  # [K, in, out]
    if torch.is_grad_enabled():
        return cast(Tensor, _Convolution.apply(x, taps, bias))
    return _convolved(x, taps, bias)


def norm_mish(x: Tensor, norm: nn.GroupNorm, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """``scale * mish(group_norm(x)) + shift``. [T, B, C] -> [T, B, C].

    Args:
        x: [T, B, C].
        norm: Of C channels.
        scale, shift: [B, C], both or none.
    """
    if torch.is_grad_enabled():
        return cast(Tensor, _NormMish.apply(x, norm.weight, norm.bias, scale, shift, norm.num_groups, norm.eps))
    if x.shape[1] == 1:  # time-first is channels-last then, which the library's own kernel reads
        channels = x.permute(1, 2, 0)[..., None]
        normed = F.group_norm(channels, norm.num_groups, norm.weight, norm.bias, norm.eps)
        h = F.mish(normed)[..., 0].permute(2, 0, 1)
    else:
        centred, factor, _ = _centred(x, norm.weight, norm.num_groups, norm.eps)
        h = _mish(centred.mul_(factor).add_(norm.bias))[0]
    return h if scale is None or shift is None else torch.addcmul(shift, h, scale)


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
            here = (slice(0, total - ahead), slice(ahead, total)) if ahead > 0 else (slice(-ahead, total), slice(0, total + ahead))
            found.append((tap, here))
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
        return d_x, d_taps, g.sum(0) if ctx.needs_input_grad[2] else None


def _centred(x: Tensor, weight: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """``x - mean`` [T, B, C], ``weight / deviation`` [B, C] and ``1 / deviation`` [B, G, 1]."""
    steps, rows, width = x.shape
    count = steps * (width // groups)
    mean = x.sum(0).view(rows, groups, -1).sum(2, keepdim=True) / count
    centred = (x.view(steps, rows, groups, -1) - mean).view_as(x)
    squares = centred.square().sum(0).view(rows, groups, -1).sum(2, keepdim=True)
    inverse = (squares / count + eps).rsqrt()  # [B, G, 1]
    return centred, (weight.view(groups, -1) * inverse).view(rows, width), inverse


def _mish(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mish, ``q`` and ``d`` (see this module)."""
    q = y.clamp(max=LARGEST_EXPONENT).exp_().add_(1.0)
    d = q.square().add_(1.0)
    return torch.addcdiv(y, y, d, value=-2.0), q, d


class _NormMish(torch.autograd.Function):
    """:func:`norm_mish` with its derivatives."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        groups: int,
        eps: float,
    ) -> Tensor:
        centred, factor, inverse = _centred(x, weight, groups, eps)
        y = torch.addcmul(bias, centred, factor)
        h, q, d = _mish(y)
        ctx.groups = groups
        ctx.save_for_backward(centred, factor, inverse, y, q, d, h if scale is not None else None, scale)
        return h if scale is None or shift is None else torch.addcmul(shift, h, scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, factor, inverse, y, q, d, h, scale = ctx.saved_tensors
        steps, rows, width = centred.shape
        d_scale = d_shift = None
        if scale is not None:
            d_scale, d_shift = (gradient * h).sum(0), gradient.sum(0)
            gradient = gradient * scale
        # mish'(y) = 1 + (4 y (q - 1) q / d - 2) / d
        slope = (q - 1.0).mul_(q).mul_(y).div_(d).mul_(4.0).sub_(2.0).div_(d).add_(1.0)
        g = slope.mul_(gradient)  # at y
        d_bias = g.sum(0)  # [B, C]
        d_factor = (g * centred).sum(0)  # [B, C]
        grouped = (rows, ctx.groups, -1)
        d_weight = (d_factor.view(grouped) * inverse).sum(0).view(width)
        count = steps * (width // ctx.groups)
        mean = (d_bias * factor).view(grouped).sum(2, keepdim=True) / count
        lean = (d_factor * factor).view(grouped).sum(2, keepdim=True) * inverse.square() / count
        spread = (rows, ctx.groups, width // ctx.groups)
        d_x = g.mul_(factor).view(steps, *spread).sub_(mean)
        d_x = d_x.addcmul_(centred.view(steps, *spread), lean, value=-1.0).view(steps, rows, width)
        return d_x, d_weight, d_bias.sum(0), d_scale, d_shift, None, None
