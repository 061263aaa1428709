"""Our pure samplers against diffusers' schedulers on the same grid, and parameterisations against each other."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from robopolicy.diffusion.grid import time_grid
from robopolicy.diffusion.parameterization import PREDICTIONS, target, to_epsilon, to_x0
from robopolicy.diffusion.samplers import ddim, ddpm
from robopolicy.diffusion.schedule import NoiseSchedule
from robopolicy.errors import ConfigError

SHAPE = (3, 16, 10)
NAMES = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


def network(x, t):
    """Any smooth function of both arguments."""
    return torch.tanh(x * 0.7 + t / 50.0) + 0.1 * x


def draws(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *_: torch.randn(SHAPE, generator=generator)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 5, 10, 20, 100])
def test_ddim_equals_diffusers_on_the_same_grid(prediction, steps):
    scheduler = DDIMScheduler(
        100, beta_schedule="squaredcos_cap_v2", prediction_type=NAMES[prediction], timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    grid = time_grid(100, steps)
    assert scheduler.timesteps.tolist() == grid.tolist()
    noise = draws(0)()
    expected = noise
    for t in scheduler.timesteps:
        expected = scheduler.step(network(expected, int(t)), int(t), expected).prev_sample
    ours = ddim(network, noise, scheduler.alphas_cumprod, grid.tolist(), prediction=prediction)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    if steps > 1:  # control: the scheduler's own default grid gives something else
        other = ddim(network, noise, scheduler.alphas_cumprod, [t - 9 for t in grid if t >= 9], prediction=prediction)
        assert (other - expected).abs().max() > 1e-2


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddpm_equals_diffusers(prediction, monkeypatch):
    scheduler = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", prediction_type=NAMES[prediction])
    scheduler.set_timesteps(100)
    noise, theirs, ours = draws(0)(), draws(1), draws(1)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: theirs())
    expected = noise
    for t in scheduler.timesteps:
        expected = scheduler.step(network(expected, int(t)), int(t), expected).prev_sample
    got = ddpm(network, noise, scheduler.alphas_cumprod, list(range(99, -1, -1)), ours, prediction=prediction)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
    without = ddpm(
        network, noise, scheduler.alphas_cumprod, list(range(99, -1, -1)), lambda _: torch.zeros(SHAPE),
        prediction=prediction,
    )  # fmt: skip
    assert (without - expected).abs().max() > 1e-2


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_parameterisations_agree(prediction):
    schedule = NoiseSchedule(prediction=prediction)
    scheduler = schedule.scheduler()
    x0, noise = torch.rand(SHAPE) * 2 - 1, torch.randn(SHAPE)
    step = torch.tensor([3, 40, 90])
    alpha_bar = scheduler.alphas_cumprod[step][:, None, None]
    x_t = scheduler.add_noise(x0, noise, step)
    output = target(prediction, x0, noise, alpha_bar)
    torch.testing.assert_close(to_x0(prediction, output, x_t, alpha_bar), x0, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(to_epsilon(prediction, output, x_t, alpha_bar), noise, atol=1e-3, rtol=1e-3)


def test_a_perfect_denoiser_is_sampled_back():
    """With the true noise as the network's output every grid, even one step, returns the clean sample."""
    scheduler = NoiseSchedule().scheduler()
    alphas = scheduler.alphas_cumprod
    x0 = torch.rand(SHAPE) * 2 - 1

    def perfect(x, t):
        return (x - alphas[t].sqrt() * x0) / (1 - alphas[t]).sqrt()

    for steps in (1, 4, 16):
        torch.testing.assert_close(
            ddim(perfect, torch.randn(SHAPE), alphas, time_grid(100, steps)), x0, atol=2e-2, rtol=0
        )


def test_published_schedule_and_refusals():
    alphas = NoiseSchedule().scheduler().alphas_cumprod
    assert len(alphas) == 100
    assert alphas[0] > 0.99
    assert alphas[-1] < 1e-4
    with pytest.raises(ConfigError, match="prediction"):
        NoiseSchedule(prediction="score")
    with pytest.raises(ConfigError, match="prediction"):
        target("score", torch.zeros(1), torch.zeros(1), torch.ones(1))
