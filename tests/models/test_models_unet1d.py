"""FiLM U-Net: shapes, gradients, dependence on step and condition, refused sizes."""

import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.models.features import Features
from robopolicy.models.unet1d import FilmUNet1d


def small(**kw):
    torch.manual_seed(0)
    return FilmUNet1d(10, 7, **{"horizon": 16, "down": (16, 32, 64), "step_dim": 16, **kw})


def told(vector):
    """Features of one step, [B, 7]."""
    return Features(vector[:, None])


@pytest.mark.parametrize(("horizon", "down"), [(16, (16, 32, 64)), (8, (16,)), (4, (8, 16)), (32, (8, 8, 16, 16))])
def test_shape_and_every_parameter_gets_a_gradient(horizon, down):
    net = small(horizon=horizon, down=down)
    x = torch.randn(3, horizon, 10)
    out = net(x, torch.tensor([0, 50, 99]), told(torch.randn(3, 7)))
    assert out.shape == x.shape
    out.square().sum().backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_output_depends_on_step_condition_and_every_time():
    net = small()
    x, c, t = torch.randn(1, 16, 10), torch.randn(1, 7), torch.tensor([50.0])
    base = net(x, t, told(c))
    assert (net(x, torch.tensor([51.0]), told(c)) - base).abs().max() > 1e-5
    assert (net(x, t, told(c + 1)) - base).abs().max() > 1e-4
    moved = x.clone()
    moved[0, 15] += 1.0
    assert (net(moved, t, told(c)) - base).abs()[0, 0].max() > 1e-6  # the receptive field spans the chunk


def test_film_is_scale_times_x_plus_bias():
    block = small().down_blocks[0][0]
    x = torch.randn(2, 10, 16)
    width = 16
    film = torch.cat([torch.full((2, width), 2.0), torch.full((2, width), 3.0)], dim=1)
    expected = block.second(2.0 * block.first(x) + 3.0) + block.residual(x)
    torch.testing.assert_close(block(x, film), expected)
    assert (block(x, torch.zeros_like(film)) - block(x, film)).abs().max() > 1e-3


def test_batched_films_are_the_films_of_each_step():
    """A sampler makes them for the whole grid at once; that must change nothing."""
    net = small().eval()
    times, c, x = torch.tensor([99.0, 50.0, 9.0]), torch.randn(2, 7), torch.randn(2, 16, 10)
    conditions = net.conditions(times, told(c))
    for i, t in enumerate(times):
        torch.testing.assert_close(net.denoise(x, conditions[i]), net(x, t.expand(2), told(c)))
    assert (net.denoise(x, conditions[0]) - net.denoise(x, conditions[1])).abs().max() > 1e-5


def test_published_size():
    """Chi et al. report 65 M for the state U-Net (256, 512, 1024); ours is of that size for a 20-wide condition."""
    net = FilmUNet1d(10, 40, horizon=16)
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    assert 60 < millions < 72


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"horizon": 10}, "divisible by 4.*use Tp=8"),
        ({"horizon": 0}, "divisible"),
        ({"down": (12, 32)}, "8 groups"),
        ({"down": ()}, "at least one level"),
        ({"kernel": 4}, "odd"),
        ({"step_dim": 3}, "step_dim"),
    ],
)
def test_sizes_that_do_not_fit(sizes, words):
    with pytest.raises(ConfigError, match=words):
        small(**sizes)


def test_wrong_chunk_length():
    with pytest.raises(ConfigError, match="another length"):
        small()(torch.zeros(1, 12, 10), torch.zeros(1), told(torch.zeros(1, 7)))
