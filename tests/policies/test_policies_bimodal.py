"""Claim: a diffusion policy keeps both ways around an obstacle; a regressor (control) takes the mean of them."""

import numpy as np
import pytest
import torch

from robopolicy.diffusion.grid import time_grid
from robopolicy.diffusion.parameterization import target
from robopolicy.diffusion.samplers import ddim
from robopolicy.diffusion.schedule import NoiseSchedule
from robopolicy.models.unet1d import FilmUNet1d

HORIZON, N = 8, 512


def demonstrations():
    """Half the chunks pass left (+1), half right (-1), from the same observation. [N, HORIZON, 2]."""
    side = torch.where(torch.arange(N) % 2 == 0, 0.8, -0.8)
    time = torch.linspace(0, 1, HORIZON)
    return torch.stack([time.expand(N, -1) * 2 - 1, side[:, None] * torch.sin(np.pi * time)], dim=-1)


def train(loss_of, steps=400):
    torch.manual_seed(0)
    net = FilmUNet1d(2, 1, horizon=HORIZON, down=(16, 32), step_dim=16)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    data, condition = demonstrations(), torch.zeros(64, 1)
    for _ in range(steps):
        loss = loss_of(net, data[torch.randint(0, N, (64,))], condition)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
def test_diffusion_covers_both_modes_and_regression_averages_them(prediction):
    scheduler = NoiseSchedule().scheduler()
    alphas = scheduler.alphas_cumprod

    def denoising(net, x0, condition):
        step, noise = torch.randint(0, 100, (len(x0),)), torch.randn_like(x0)
        wanted = target(prediction, x0, noise, alphas[step])
        return (net(scheduler.add_noise(x0, noise, step), step, condition) - wanted).square().mean()

    def regression(net, x0, condition):
        zeros = torch.zeros_like(x0)
        return (net(zeros, torch.zeros(len(x0)), condition) - x0).square().mean()

    middle = HORIZON // 2
    diffusion, regressor = train(denoising), train(regression, steps=150)
    with torch.inference_mode():
        condition = torch.zeros(200, 1)

        def denoise(x, t):
            return diffusion(x, torch.full((len(x),), t), condition)

        sampled = ddim(denoise, torch.randn(200, HORIZON, 2), alphas, time_grid(100, 16), prediction=prediction)[
            :, middle, 1
        ]
        mean = regressor(torch.zeros(1, HORIZON, 2), torch.zeros(1), torch.zeros(1, 1))[0, middle, 1]
    share = (sampled > 0).float().mean()
    assert 0.3 < share < 0.7
    assert (sampled.abs() > 0.4).float().mean() > 0.9
    assert mean.abs() < 0.2  # the control drives into the obstacle
