"""Guidance of real-time chunking: the published formula, on models whose posterior is known, for every process."""

import math

import numpy as np
import pytest
import torch

from robopolicy.diffusion.grid import Grid
from robopolicy.diffusion.guidance import Inpainting, inpainted, soft_weights
from robopolicy.diffusion.process import Flow, FlowConfig, Karras, KarrasConfig, VariancePreserving
from robopolicy.diffusion.samplers import ddim
from robopolicy.diffusion.schedule import NoiseSchedule
from robopolicy.errors import ConfigError

PROCESSES = {
    "vp": lambda: VariancePreserving(NoiseSchedule()),
    "karras": lambda: Karras(KarrasConfig(sigma_max=20.0)),
    "flow": lambda: Flow(FlowConfig()),
}
TP, A, FIXED = 8, 2, 3
RHO = 0.9


def wanted(batch, weights, strongest=1e9, value=0.7):
    weights = torch.as_tensor(weights, dtype=torch.float32).expand(batch, TP)
    return Inpainting(torch.full((batch, TP, A), value), weights, strongest, "network")


def hard():
    return soft_weights(TP, FIXED, FIXED)


def gaussian(grid, covariance):
    """Expected clean chunk of data N(0, covariance [TP, TP]) in every channel."""
    covariance = torch.as_tensor(covariance, dtype=torch.float32)

    def predict(x, i):
        alpha, sigma = grid.alpha[i], grid.sigma[i]
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(TP))
        return torch.einsum("tu,bua->bta", gain, x)

    return predict


def smooth_covariance():
    """A first-order autoregression with unit variance: neighbouring steps agree."""
    steps = torch.arange(TP)
    return RHO ** (steps[:, None] - steps[None]).abs().float()


def draw(batch=1, seed=0):
    return torch.randn(batch, TP, A, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PROCESSES)
def test_for_unit_gaussian_data_it_is_the_exact_posterior(name):
    """p(y | x_t) is N(x0, r^2) exactly there, so the bent prediction is E[x0 | x_t, y]: y where it is known."""
    grid = PROCESSES[name]().grid(12)
    plain = gaussian(grid, torch.eye(TP))
    bent = inpainted(plain, grid, wanted(1, hard()))
    tried = 0
    for i in range(len(grid)):
        if grid.alpha[i] == 0:  # pure noise says nothing: no guidance can be derived, the bound alone counts
            continue
        tried += 1
        x = draw(seed=i) * math.hypot(grid.alpha[i], grid.sigma[i])
        exact = plain(x, i).clone()
        exact[:, :FIXED] = 0.7
        torch.testing.assert_close(bent(x, i), exact, atol=2e-4, rtol=1e-4)
        assert (bent(x, i) - plain(x, i)).abs().max() > 0.05  # control
    assert tried >= 11


@pytest.mark.parametrize("name", PROCESSES)
def test_half_a_weight_is_a_measurement_with_noise(name):
    """W = r^2 / (r^2 + s^2): the posterior of unit Gaussian data under an observation of deviation s."""
    grid = PROCESSES[name]().grid(12)
    i = len(grid) // 2
    plain = gaussian(grid, torch.eye(TP))
    r2 = grid.sigma[i] ** 2 / (grid.alpha[i] ** 2 + grid.sigma[i] ** 2)
    weight = r2 / (r2 + 0.25)
    x = draw() * math.hypot(grid.alpha[i], grid.sigma[i])
    prior = plain(x, i)
    exact = (prior / r2 + 0.7 / 0.25) / (1 / r2 + 1 / 0.25)
    torch.testing.assert_close(inpainted(plain, grid, wanted(1, np.full(TP, weight)))(x, i), exact, atol=1e-4, rtol=0)


def test_for_a_flow_it_is_the_published_velocity():
    """Equations 2 to 4 of arXiv 2506.07339, written out for the velocity."""
    grid = Flow(FlowConfig()).grid(5)
    plain = gaussian(grid, smooth_covariance())
    weights = soft_weights(TP, FIXED, 6)
    bent = inpainted(plain, grid, wanted(2, weights, strongest=5.0))
    for i, t in enumerate(grid.time):
        x = draw(2, seed=i).requires_grad_(True)
        clean = plain(x, i)
        velocity = (clean - x) / (1 - t)
        pull = torch.as_tensor(weights)[None, :, None] * (0.7 - (x + (1 - t) * velocity))
        (product,) = torch.autograd.grad(clean, x, pull.detach())
        r2 = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
        published = velocity + min(5.0, (1 - t) / (t * r2) if t else math.inf) * product
        torch.testing.assert_close((bent(x.detach(), i) - x) / (1 - t), published, atol=1e-4, rtol=1e-4)


def test_one_bound_means_the_same_for_every_process():
    """At the same ratio of noise to signal the three processes shift the clean chunk by the same amount."""
    ratios = (4.0, 1.5, 0.6, 0.1)
    grids = {
        "karras": Grid((0.0,) * 4, (1.0,) * 5, (*ratios, 0.0)),
        "vp": Grid(
            (0.0,) * 4, (*(1 / math.hypot(1, s) for s in ratios), 1.0), (*(s / math.hypot(1, s) for s in ratios), 0.0)
        ),
        "flow": Grid((0.0,) * 4, (*(1 / (1 + s) for s in ratios), 1.0), (*(s / (1 + s) for s in ratios), 0.0)),
    }
    for i, _ in enumerate(ratios):
        z, found = draw(seed=i), {}
        for name, grid in grids.items():
            plain = gaussian(grid, smooth_covariance())
            found[name] = inpainted(plain, grid, wanted(1, hard(), strongest=1.5))(z * grid.alpha[i], i)
        torch.testing.assert_close(found["vp"], found["karras"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found["flow"], found["karras"], atol=1e-4, rtol=1e-4)


def conditional(covariance, value=0.7):
    """Exact mean [TP] and covariance of the tail of data given that its head is ``value``."""
    head, tail = covariance[:FIXED, :FIXED], covariance[FIXED:, :FIXED]
    gain = tail @ torch.linalg.inv(head)
    spread = covariance[FIXED:, FIXED:] - gain @ covariance[:FIXED, FIXED:]
    return gain @ torch.full((FIXED,), value), spread


@pytest.mark.parametrize("name", PROCESSES)
def test_samples_agree_with_the_head_and_continue_it(name):
    """Correlated data, where the guidance approximates: the head is met, the tail follows, and stays free."""
    covariance, batch = smooth_covariance(), 4000
    grid = PROCESSES[name]().grid(20)
    plain = gaussian(grid, covariance)
    noise = draw(batch)
    free = ddim(plain, noise, grid, clip=None)
    held = ddim(inpainted(plain, grid, wanted(batch, hard(), strongest=5.0)), noise, grid, clip=None)
    mean, spread = conditional(covariance)
    assert (held[:, :FIXED] - 0.7).abs().mean() < 0.1
    assert (free[:, :FIXED] - 0.7).abs().mean() > 0.7  # control: without guidance
    # the first free step has to be near the head, the last is nearly free: its exact deviation is 0.89
    tail = held[:, FIXED:].mean((0, 2))
    torch.testing.assert_close(tail, mean, atol=0.15, rtol=0)
    assert free[:, FIXED:].mean().abs() < 0.1  # control
    deviation = held[:, -1].std()
    assert deviation == pytest.approx(float(spread[-1, -1].sqrt()), rel=0.25)
    assert deviation > 0.5


def test_rows_have_their_own_bound_and_weights():
    grid = Flow(FlowConfig()).grid(5)
    plain = gaussian(grid, smooth_covariance())
    x, weights = draw(3), torch.as_tensor(np.stack([hard(), hard(), np.zeros(TP, np.float32)]))
    strongest = torch.tensor([5.0, 0.0, 5.0])
    bent = inpainted(plain, grid, Inpainting(torch.full((3, TP, A), 0.7), weights, strongest, "network"))(x, 2)
    alone = inpainted(plain, grid, wanted(1, hard(), strongest=5.0))(x[:1], 2)
    torch.testing.assert_close(bent[:1], alone)
    torch.testing.assert_close(bent[1:], plain(x, 2)[1:])  # no bound, no weight: no guidance
    assert (bent[0] - plain(x, 2)[0]).abs().max() > 0.05


def test_weights_are_those_of_equation_5():
    """H = 15, s = 8, d = 2: computed by hand from c = (H - s - i) / (H - s - d + 1)."""
    weights = soft_weights(15, 2, 7)
    c = np.array([5, 4, 3, 2, 1]) / 6
    np.testing.assert_allclose(weights[:2], 1)
    np.testing.assert_allclose(weights[2:7], c * np.expm1(c) / (math.e - 1), rtol=1e-6)
    np.testing.assert_array_equal(weights[7:], 0)
    np.testing.assert_array_equal(soft_weights(15, 3, 3), [1] * 3 + [0] * 12)  # the hard mask
    assert soft_weights(4, 0, 0).sum() == 0
    with pytest.raises(ConfigError, match="fixed <= overlap"):
        soft_weights(15, 5, 4)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_identity_is_the_jacobian_of_unit_gaussian_data(name):
    grid = PROCESSES[name]().grid(6)
    plain = gaussian(grid, torch.eye(TP))
    both = [Inpainting(*vars(wanted(1, hard(), 5.0)).values())] * 2
    both[1] = Inpainting(both[0].values, both[0].weights, 5.0, "identity")
    for i in range(len(grid)):
        x = draw(seed=i)
        one, other = (inpainted(plain, grid, way)(x, i) for way in both)
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_what_is_clipped_does_not_pull():
    """Noise over alpha before clipping, as of a network that answers epsilon: only the clipped sample may count."""
    grid = PROCESSES["vp"]().grid(16)

    def predict(x, i):
        return (x - grid.sigma[i] * 0.9 * x) / grid.alpha[i]

    x = 3 * draw()
    free = predict(x, 0)
    assert free.abs().min() > 1  # alpha is 0.0005
    held = inpainted(predict, grid, wanted(1, hard(), 5.0), 1.0)(x, 0)
    torch.testing.assert_close(held, free)
    assert (inpainted(predict, grid, wanted(1, hard(), 5.0))(x, 0) - free).abs().max() > 1e4  # control


@pytest.mark.parametrize("name", PROCESSES)
def test_with_the_identity_no_bound_pulls_further_than_the_whole_way(name):
    grid = PROCESSES[name]().grid(6)
    plain = gaussian(grid, smooth_covariance())

    def answer(x, i, bound):
        held = wanted(2, hard(), bound)
        return inpainted(plain, grid, Inpainting(held.values, held.weights, bound, "identity"), 1.0)(x, i)

    for i in range(len(grid)):
        if grid.alpha[i] <= 0:
            continue  # x is noise alone: there is nothing to hold yet
        x = 3 * draw(2, seed=i)
        none, some, most = (answer(x, i, bound) for bound in (0.0, 1.0, 1e6))
        gaps = [(way[:, :FIXED] - 0.7).abs() for way in (none, some, most)]
        assert (gaps[2] < 1e-5).all()
        assert (gaps[1] <= gaps[0] + 1e-6).all()
        assert gaps[0].max() > 1e-2  # control
        torch.testing.assert_close(most[:, FIXED:], plain(x, i)[:, FIXED:])  # what is free stays
