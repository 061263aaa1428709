"""Group norm, Mish and FiLM in one pass: compiled, in tensor operations, and layer by layer are the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robopolicy.models import norm_mish as fused

needs_compiled = pytest.mark.skipif(fused.compiled is None, reason="installed without a C compiler")


def case(steps, rows, channels, groups, film, seed=0):
    rng = torch.Generator().manual_seed(seed)
    norm = nn.GroupNorm(groups, channels)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=rng))
        norm.bias.copy_(3.0 * torch.randn(channels, generator=rng))
    x = (2.0 * torch.randn(steps, rows, channels, generator=rng) + 1.0).requires_grad_()
    both = torch.randn(rows, 2 * channels, generator=rng).requires_grad_() if film else None
    return norm, x, both


def plain(x, norm, both):
    """Layer by layer."""
    h = F.mish(F.group_norm(x.permute(1, 2, 0), norm.num_groups, norm.weight, norm.bias, norm.eps)).permute(2, 0, 1)
    if both is None:
        return h
    scale, shift = both.chunk(2, dim=1)
    return scale * h + shift


def in_one(x, norm, both):
    return fused.norm_mish(x, norm, *(both.chunk(2, dim=1) if both is not None else ()))


def answers(function, norm, x, both):
    out = function(x, norm, both)
    weight = torch.linspace(-1.0, 1.0, out.numel()).view_as(out)
    wanted = [x, norm.weight, norm.bias, *([both] if both is not None else [])]
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), wanted)]


CASES = [(16, 1, 16, 8, True), (4, 70, 64, 8, True), (3, 5, 24, 3, False), (1, 300, 8, 1, True), (8, 200, 40, 5, False)]


@needs_compiled
@pytest.mark.parametrize("sizes", CASES)
def test_compiled_is_layer_by_layer(sizes):
    arguments = case(*sizes)
    for fast, slow in zip(answers(in_one, *arguments), answers(plain, *arguments), strict=True):
        torch.testing.assert_close(fast, slow, atol=2e-5 * max(1.0, float(slow.abs().max())), rtol=2e-5)


@pytest.mark.parametrize("sizes", CASES)
def test_tensor_operations_are_layer_by_layer(sizes, monkeypatch):
    monkeypatch.setattr(fused, "compiled", None)
    arguments = case(*sizes)
    for fast, slow in zip(answers(in_one, *arguments), answers(plain, *arguments), strict=True):
        torch.testing.assert_close(fast, slow, atol=2e-5 * max(1.0, float(slow.abs().max())), rtol=2e-5)


@needs_compiled
def test_another_gradient_is_seen():
    norm, x, both = case(4, 70, 64, 8, True)
    right = answers(in_one, norm, x, both)
    with torch.no_grad():
        norm.bias[0] += 1e-2
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(right, answers(in_one, norm, x, both), strict=True))


@needs_compiled
def test_threads_do_not_change_a_bit():
    arguments, threads, found = case(16, 64, 64, 8, True), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(answers(in_one, *arguments))
    finally:
        torch.set_num_threads(threads)
    for one, two, three in zip(*found, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


@needs_compiled
def test_any_layout_with_channels_side_by_side():
    norm, x, both = case(8, 6, 16, 4, True)
    scale, shift = both.detach().chunk(2, dim=1)
    with torch.no_grad():
        right = fused.norm_mish(x, norm, scale, shift)
        room = torch.full((6, 12, 16), 7.0)
        batch_first = x.detach().transpose(0, 1).contiguous().transpose(0, 1)
        assert fused.norm_mish_into(room[:, 2:10].transpose(0, 1), batch_first, norm, scale, shift)
        turned = fused.norm_mish(x.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0), norm, scale, shift)
    torch.testing.assert_close(room[:, 2:10].transpose(0, 1), right)
    torch.testing.assert_close(turned, right)
    assert (room[:, :2] == 7.0).all()
    assert (room[:, 10:] == 7.0).all()


@needs_compiled
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30, 1e30])
def test_numbers_at_the_edge_come_out_as_layer_by_layer(value):
    norm, x, both = case(4, 3, 16, 4, True)
    with torch.no_grad():
        x[1, 1, 3] = value
        fast, slow = in_one(x, norm, both), plain(x, norm, both)
    assert torch.equal(fast.isfinite(), slow.isfinite())
    torch.testing.assert_close(fast[:, [0, 2]], slow[:, [0, 2]], atol=1e-5, rtol=1e-5)


def test_double_precision_is_not_read_as_single():
    norm, x, both = case(4, 3, 16, 4, True)
    wide = in_one(x.double(), norm.double(), both.double())
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide, plain(x.double(), norm, both.double()), atol=1e-12, rtol=1e-12)


@needs_compiled
def test_one_film_for_all_rows_counts():
    """Expanded over the batch its stride is 0, which must not read as no film."""
    norm, x, both = case(4, 6, 16, 4, True)
    shared = both.detach()[:1].expand(6, -1)
    torch.testing.assert_close(in_one(x, norm, shared), plain(x, norm, shared), atol=1e-4, rtol=1e-4)
    assert (plain(x, norm, shared) - plain(x, norm, None)).abs().max() > 0.1  # control


@pytest.mark.parametrize("wrong", ["channels", "film rows", "film dtype"])
def test_what_does_not_fit_is_never_read_from_memory(wrong):
    norm, x, both = case(4, 6, 16, 4, True)
    scale, shift = both.detach().chunk(2, dim=1)
    if wrong == "film dtype":
        with torch.no_grad():
            assert not fused.norm_mish_into(torch.empty(x.shape), x, norm, scale.double(), shift.double())
        return
    arguments = (nn.GroupNorm(4, 32), scale, shift) if wrong == "channels" else (norm, scale[:3], shift[:3])
    with pytest.raises(RuntimeError):
        fused.norm_mish(x, *arguments)
