"""The U-Net by taps answers what the plain one answers, with its gradients, and whatever the memory order."""

import pytest
import torch

from robopolicy.models.features import Features
from robopolicy.models.unet1d import FilmUNet1d
from robopolicy.training.optim import make_optimizer
from robopolicy.training.recipe import OptimizerConfig

SIZES = [(1, 16, (16, 32, 64)), (3, 8, (16,)), (70, 16, (16, 32)), (2, 32, (16, 16, 32, 32))]


def case(rows, horizon, down, dtype=torch.float32):
    torch.manual_seed(0)
    net = FilmUNet1d(10, 6, horizon=horizon, down=down, step_dim=16).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    x = torch.randn(rows, horizon, 10, dtype=dtype, requires_grad=True)
    return net, x, torch.linspace(0, 99, rows, dtype=dtype), Features(torch.randn(rows, 2, 3, dtype=dtype))


def answers(net, x, time, features, by_taps):
    net.by_taps = by_taps
    net.zero_grad()
    out = net(x, time, features)
    weight = torch.linspace(-1, 1, out[0].numel(), dtype=out.dtype).view_as(out[0])
    gradients = torch.autograd.grad((out * weight).sum(), [x, *net.parameters()])
    return [out.detach(), *gradients]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("rows", "horizon", "down"), SIZES)
def test_output_and_gradients_are_the_plain_ones(rows, horizon, down, dtype, bound):
    arguments = case(rows, horizon, down, dtype)
    for fast, plain in zip(answers(*arguments, True), answers(*arguments, False), strict=True):
        assert (fast - plain).abs().max() <= bound * max(1.0, float(plain.abs().max()))


def test_a_wrong_tap_is_seen():
    net, *rest = case(3, 16, (16, 32))
    plain = answers(net, *rest, False)[0]
    with torch.no_grad():
        conv = net.middle[0].first[0]
        conv.weight.copy_(conv.weight.flip(2))
    assert (answers(net, *rest, True)[0] - plain).abs().max() > 1e-4


@pytest.mark.parametrize(("rows", "horizon", "down"), SIZES)
def test_laid_out_pass_of_a_chunk(rows, horizon, down):
    net, x, _, features = case(rows, horizon, down)
    times = torch.tensor([99.0, 50.0, 9.0])
    with torch.inference_mode():
        fast = [net.denoise(x, condition) for condition in net.conditions(times, features)]
        plain = [net.denoise_plainly(x, net.condition(t.expand(rows), features)) for t in times]
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    assert (fast[0] - plain[1]).abs().max() > 1e-5


def test_optimiser_steps_alike_in_any_memory_order():
    """The fused operation runs over raw memory: one order for weights, another for averages would mix channels up."""
    found = []
    for standard in (False, True):
        net, x, time, features = case(3, 16, (16, 32))
        if standard:
            for p in net.parameters():
                p.data = p.data.contiguous()
        else:
            assert any(not p.is_contiguous() for p in net.parameters())
        optimizer = make_optimizer(net, OptimizerConfig())
        net.by_taps = False
        for _ in range(3):
            net(x, time, features).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append([p.detach().clone() for p in net.parameters()])
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)
