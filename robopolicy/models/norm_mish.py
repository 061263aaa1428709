"""Group norm, Mish and FiLM in time-first layout [T, B, C] as one differentiable function, for CPUs.

Mish and its derivative are made of one exponential: with ``q = 1 + e^y``, ``r = 1 / (q^2 + 1)`` and
``t = tanh(ln q) = 1 - 2 r``, ``mish(y) = y t`` and ``mish'(y) = t + 4 y q r (q r - r)``.

``_norm_mish.c`` does the same in single precision in one pass, several times as fast. Without a C compiler at
installation the operations here do it. Setting the environment variable ``ROBOPOLICY_MODELS`` to ``python`` before the
import leaves the compiled form out.
"""

from __future__ import annotations

import os
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["compiled", "norm_mish", "norm_mish_into", "over_time"]

compiled: Any = None
"""The extension module, or None."""

if os.environ.get("ROBOPOLICY_MODELS") != "python":
    try:  # after torch, whose threads it shares
        from robopolicy.models import _norm_mish as compiled
    except ImportError:
        compiled = None

ROWS_AT_ONCE = 64
"""Of the batch, in the element-wise part: what is between fits into the cache of a core."""

LARGEST_EXPONENT = 20.0
"""Mish is the identity in single precision from here on; e^y is kept from overflowing."""


def norm_mish(x: Tensor, norm: nn.GroupNorm, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """``scale * mish(group_norm(x)) + shift``. [T, B, C] -> [T, B, C].

    Args:
        x: [T, B, C].
        norm: Of C channels.
        scale, shift: [B, C], both or none.
    """
    if torch.is_grad_enabled():
        kind = _CompiledNormMish if _takes(x, norm, scale, shift) else _NormMish
        return cast(Tensor, kind.apply(x, norm.weight, norm.bias, scale, shift, norm.num_groups, norm.eps))
    if _takes(x, norm, scale, shift):
        out = x.new_empty(x.shape)
        norm_mish_into(out, x, norm, scale, shift)
        return out
    if x.shape[1] == 1:  # time-first is channels-last then, which the library's own kernel reads
        channels = x.permute(1, 2, 0)[..., None]
        normed = F.group_norm(channels, norm.num_groups, norm.weight, norm.bias, norm.eps)
        h = F.mish(normed)[..., 0].permute(2, 0, 1)
        return h if scale is None or shift is None else torch.addcmul(shift, h, scale)
    return _normed(x, norm.weight, norm.bias, scale, shift, norm.num_groups, norm.eps)[0]


def norm_mish_into(
    out: Tensor, x: Tensor, norm: nn.GroupNorm, scale: Tensor | None = None, shift: Tensor | None = None
) -> bool:
    """:func:`norm_mish` into memory that is there, without gradients; of any layout with channels side by side.

    Args:
        out: [T, B, C].
        x: [T, B, C].
        norm: Of C channels.
        scale, shift: [B, C], both or none.

    Returns:
        Whether it was done; False, with ``out`` as it was, where there is no compiled form for ``x``.
    """
    fits = out.shape == x.shape and out.dtype == torch.float32 and out.stride(2) == 1
    if not (fits and _takes(x, norm, scale, shift)):
        return False
    _forward(out, x, norm.weight, norm.bias, scale, shift, norm.num_groups, norm.eps)
    return True


def _takes(x: Tensor, norm: nn.GroupNorm, scale: Tensor | None, shift: Tensor | None) -> bool:
    """Whether the compiled form can: it reads memory as single precision on a CPU, whatever it was and however much.

    What does not fit together is left to the tensor operations, which say so.
    """
    if compiled is None or norm.num_channels != x.shape[2] or x.shape[2] > compiled.MOST_CHANNELS:
        return False
    films = [film for film in (scale, shift) if film is not None]
    if len(films) == 1 or any(film.shape != x.shape[1:] for film in films):
        return False
    return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (x, norm.weight, norm.bias, *films))


def _side_by_side(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _forward(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Compiled; fills ``out``. -> ``mean`` and ``1 / deviation`` [B, groups]."""
    steps, rows, width = x.shape
    x, weight, bias = _side_by_side(x), weight.contiguous(), bias.contiguous()
    kept = x.new_empty(2, rows, groups)
    film = 0
    if scale is not None and shift is not None:
        scale, shift = _side_by_side(scale), _side_by_side(shift)
        if scale.stride(0) != shift.stride(0):
            scale, shift = scale.contiguous(), shift.contiguous()
        film = scale.stride(0)
    compiled.forward(
        x.data_ptr(),
        (x.stride(0), x.stride(1)),
        out.data_ptr(),
        (out.stride(0), out.stride(1)),
        kept[0].data_ptr(),
        kept[1].data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        scale.data_ptr() if scale is not None else 0,
        shift.data_ptr() if shift is not None else 0,
        film,
        steps,
        rows,
        width,
        groups,
        eps,
        torch.get_num_threads(),
    )
    return kept[0], kept[1]


class _CompiledNormMish(torch.autograd.Function):
    """:func:`norm_mish` with its derivatives, compiled; only the input is kept for them."""

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
        out = x.new_empty(x.shape)
        mean, inverse = _forward(out, x, weight, bias, scale, shift, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, inverse, scale)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse, scale = ctx.saved_tensors
        steps, rows, width = x.shape
        x, gradient, weight, bias = _side_by_side(x), _side_by_side(gradient), weight.contiguous(), bias.contiguous()
        d_x, d_bias, d_weight = x.new_empty(x.shape), x.new_empty(rows, width), x.new_empty(rows, width)
        d_scale = d_shift = None
        film = 0
        if scale is not None:
            scale = _side_by_side(scale)
            d_scale, d_shift = x.new_empty(rows, width), x.new_empty(rows, width)
            film = scale.stride(0)
        compiled.backward(
            x.data_ptr(),
            (x.stride(0), x.stride(1)),
            gradient.data_ptr(),
            (gradient.stride(0), gradient.stride(1)),
            d_x.data_ptr(),
            (d_x.stride(0), d_x.stride(1)),
            mean.data_ptr(),
            inverse.data_ptr(),
            weight.data_ptr(),
            bias.data_ptr(),
            scale.data_ptr() if scale is not None else 0,
            d_bias.data_ptr(),
            d_weight.data_ptr(),
            d_scale.data_ptr() if d_scale is not None else 0,
            d_shift.data_ptr() if d_shift is not None else 0,
            film,
            steps,
            rows,
            width,
            mean.shape[1],
            torch.get_num_threads(),
        )
        return (
            d_x,
            over_time(d_weight[:, None]).view(-1),
            over_time(d_bias[:, None]).view(-1),
            d_scale,
            d_shift,
            None,
            None,
        )


def over_time(x: Tensor) -> Tensor:
    """[T, B, C] -> sum [B, C], as a product, which takes less time than a reduction."""
    return torch.mm(x.new_ones(1, len(x)), x.reshape(len(x), -1)).view(x.shape[1:])


def _pooled(x: Tensor, groups: int, count: int) -> Tensor:
    """Sum over each group divided by ``count``, in the place of every channel of it. [B, C] -> [B, C]."""
    grouped = x.view(len(x), groups, -1)
    return (grouped.sum(2, keepdim=True) / count).expand_as(grouped).contiguous().view(x.shape)


def _parts(rows: int) -> list[slice]:
    return [slice(first, min(first + ROWS_AT_ONCE, rows)) for first in range(0, rows, ROWS_AT_ONCE)]


def _exponential(y: Tensor) -> tuple[Tensor, Tensor]:
    """``q`` and ``r``, see this module."""
    q = y.clamp(max=LARGEST_EXPONENT).exp_().add_(1.0)
    return q, (q * q).add_(1.0).reciprocal_()


def _normed(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The answer of :func:`norm_mish`, ``mean`` and ``1 / deviation`` [B, C]."""
    count = len(x) * (x.shape[2] // groups)
    mean = _pooled(over_time(x), groups, count)
    out, inverse = torch.empty_like(x), torch.empty_like(mean)
    for rows in _parts(x.shape[1]):
        y = x[:, rows] - mean[rows]
        deviation = _pooled(over_time(y * y), groups, count).add_(eps).rsqrt_()
        inverse[rows] = deviation
        torch.addcmul(bias, y, deviation.mul_(weight), out=y)
        t = _exponential(y)[1].mul_(-2.0).add_(1.0)
        if scale is None or shift is None:
            torch.mul(y, t, out=out[:, rows])
        else:
            torch.addcmul(shift[rows], y.mul_(t), scale[rows], out=out[:, rows])
    return out, mean, inverse


class _NormMish(torch.autograd.Function):
    """:func:`norm_mish` with its derivatives.

    Only the input is kept for them. At these sizes memory is slower than arithmetic: what lies between is made anew,
    for as many rows at once as stay in the cache.
    """

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
        out, mean, inverse = _normed(x, weight, bias, scale, shift, groups, eps)
        ctx.groups = groups
        ctx.save_for_backward(x, weight, bias, mean, inverse, scale)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse, scale = ctx.saved_tensors
        count = len(x) * (x.shape[2] // ctx.groups)
        d_x, d_y, d_factor = torch.empty_like(x), torch.empty_like(mean), torch.empty_like(mean)
        d_scale = None if scale is None else torch.empty_like(mean)
        for rows in _parts(x.shape[1]):
            g, centred = gradient[:, rows], x[:, rows] - mean[rows]
            factor = inverse[rows] * weight
            y = torch.addcmul(bias, centred, factor)
            u, r = _exponential(y)
            t = torch.add(y.new_ones(()), r, alpha=-2.0)
            if scale is not None and d_scale is not None:
                d_scale[rows] = over_time((y * t).mul_(g))
                g = g * scale[rows]
            u.mul_(r)
            slope = r.neg_().add_(u).mul_(u).mul_(y)
            at_y = t.add_(slope, alpha=4.0).mul_(g)
            d_y[rows] = over_time(at_y)
            d_factor[rows] = over_time(torch.mul(at_y, centred, out=slope))
            common = _pooled(d_y[rows] * factor, ctx.groups, count)
            lean = _pooled(d_factor[rows] * factor, ctx.groups, count).mul_(inverse[rows]).mul_(inverse[rows])
            at_y.mul_(factor).sub_(common)
            torch.addcmul(at_y, centred, lean, value=-1.0, out=d_x[:, rows])
        d_shift = None if scale is None else over_time(gradient)
        return d_x, (d_factor * inverse).sum(0), d_y.sum(0), d_scale, d_shift, None, None
