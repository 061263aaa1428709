"""Claim: a diffusion policy keeps both ways around an obstacle; a regressor (control) takes the mean of them."""

import numpy as np
import pytest
import torch

from robopolicy.diffusion.parameterization import input_scale, target, to_x0
from robopolicy.diffusion.process import Flow, FlowConfig, Karras, KarrasConfig, VariancePreserving
from robopolicy.diffusion.samplers import ddim
from robopolicy.diffusion.schedule import NoiseSchedule
from robopolicy.models.features import Features
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


PROCESSES = {
    "epsilon": lambda: VariancePreserving(NoiseSchedule()),
    "x0": lambda: VariancePreserving(NoiseSchedule(prediction="x0")),
    "flow": lambda: Flow(FlowConfig()),
    "edm": lambda: Karras(KarrasConfig()),
}


def shown(rows):
    """Features of the one observation that there is."""
    return Features(torch.zeros(rows, 1, 1))


@pytest.mark.parametrize("name", PROCESSES)
def test_denoising_covers_both_modes_and_regression_averages_them(name):
    process = PROCESSES[name]()
    prediction = process.prediction

    def denoising(net, x0, _):
        time, noise = process.draw(len(x0), None, x0.device), torch.randn_like(x0)
        alpha, sigma = (level[:, None, None] for level in process.levels(time))
        x_t = (alpha * x0 + sigma * noise) * input_scale(prediction, sigma)
        answer = net(x_t, process.network_time(time), shown(len(x0)))
        return (answer - target(prediction, x0, noise, alpha, sigma)).square().mean()

    def regression(net, x0, _):
        return (net(torch.zeros_like(x0), torch.zeros(len(x0)), shown(len(x0))) - x0).square().mean()

    middle = HORIZON // 2
    diffusion, regressor = train(denoising), train(regression, steps=150)
    grid = process.grid(16)
    with torch.inference_mode():
        conditions = diffusion.conditions(process.network_time(torch.tensor(grid.time)), shown(200))

        def predict(x, i):
            alpha, sigma = torch.tensor(grid.alpha[i]), torch.tensor(grid.sigma[i])
            answer = diffusion.denoise(x * input_scale(prediction, sigma), conditions[i])
            return to_x0(prediction, answer, x, alpha, sigma)

        sampled = ddim(predict, torch.randn(200, HORIZON, 2), grid)[:, middle, 1]
        mean = regressor(torch.zeros(1, HORIZON, 2), torch.zeros(1), shown(1))[0, middle, 1]
    share = (sampled > 0).float().mean()
    assert 0.3 < share < 0.7
    assert (sampled.abs() > 0.4).float().mean() > 0.9
    assert mean.abs() < 0.2  # the control drives into the obstacle
