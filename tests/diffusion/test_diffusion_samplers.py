"""Our pure samplers against diffusers' schedulers on the same grid, and against what is known of each process."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from robopolicy.diffusion.grid import Grid, time_grid
from robopolicy.diffusion.parameterization import PREDICTIONS, input_scale, target, to_epsilon, to_x0
from robopolicy.diffusion.process import Flow, FlowConfig, Karras, KarrasConfig, VariancePreserving
from robopolicy.diffusion.samplers import SAMPLERS, ddim, ddpm, dpmpp_2m, heun
from robopolicy.diffusion.schedule import NoiseSchedule
from robopolicy.errors import ConfigError

SHAPE = (3, 16, 10)
NAMES = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
PROCESSES = {
    "vp": lambda: VariancePreserving(NoiseSchedule()),
    "karras": lambda: Karras(KarrasConfig()),
    "flow": lambda: Flow(FlowConfig()),
}


def network(x, t):
    """Any smooth function of both arguments."""
    return torch.tanh(x * 0.7 + t / 50.0) + 0.1 * x


def predictor(prediction, grid, answer=network):
    """What a sampler asks, made of a network's answer."""

    def predict(x, i):
        alpha, sigma = torch.tensor(grid.alpha[i]), torch.tensor(grid.sigma[i])
        return to_x0(prediction, answer(x, grid.time[i]), x, alpha, sigma)

    return predict


def draws(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *_: torch.randn(SHAPE, generator=generator)


@pytest.mark.parametrize("prediction", tuple(NAMES))
@pytest.mark.parametrize("steps", [1, 5, 10, 20, 100])
def test_ddim_equals_diffusers_on_the_same_grid(prediction, steps):
    scheduler = DDIMScheduler(
        100, beta_schedule="squaredcos_cap_v2", prediction_type=NAMES[prediction], timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    process = VariancePreserving(NoiseSchedule(prediction=prediction))
    grid = process.grid(steps)
    assert scheduler.timesteps.tolist() == time_grid(100, steps).tolist() == list(grid.time)
    noise = draws(0)()
    expected = noise
    for t in scheduler.timesteps:
        expected = scheduler.step(network(expected, int(t)), int(t), expected).prev_sample
    ours = ddim(predictor(prediction, grid), noise, grid)
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-4)
    if 1 < steps < 100:  # control: another grid gives something else
        other = process.grid(max(steps // 2, 1))
        assert (ddim(predictor(prediction, other), noise, other) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("prediction", tuple(NAMES))
def test_ddpm_equals_diffusers(prediction, monkeypatch):
    scheduler = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", prediction_type=NAMES[prediction])
    scheduler.set_timesteps(100)
    noise, theirs, ours = draws(0)(), draws(1), draws(1)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: theirs())
    expected = noise
    for t in scheduler.timesteps:
        expected = scheduler.step(network(expected, int(t)), int(t), expected).prev_sample
    grid = VariancePreserving(NoiseSchedule(prediction=prediction)).grid(100)
    got = ddpm(predictor(prediction, grid), noise, grid, ours)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
    without = ddpm(predictor(prediction, grid), noise, grid, lambda _: torch.zeros(SHAPE))
    assert (without - expected).abs().max() > 1e-2


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_parameterisations_agree(prediction):
    if prediction == "edm":
        process, time = Karras(KarrasConfig()), torch.tensor([0.01, 0.3, 0.9])
    elif prediction == "flow":
        process, time = Flow(FlowConfig()), torch.tensor([0.1, 0.5, 0.9])
    else:
        process, time = VariancePreserving(NoiseSchedule(prediction=prediction)), torch.tensor([3, 40, 90])
    assert process.prediction == prediction
    x0, noise = torch.rand(SHAPE) * 2 - 1, torch.randn(SHAPE)
    alpha, sigma = (level[:, None, None] for level in process.levels(time))
    x_t = alpha * x0 + sigma * noise
    output = target(prediction, x0, noise, alpha, sigma)
    clean = to_x0(prediction, output, x_t, alpha, sigma)
    torch.testing.assert_close(clean, x0, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(to_epsilon(clean, x_t, alpha, sigma), noise, atol=2e-3, rtol=1e-3)


def test_edm_inputs_and_targets_have_unit_variance():
    """What the preconditioning is for (Karras et al. 2022, appendix B.6): data of deviation 0.5 at any noise level."""
    torch.manual_seed(0)
    for level in (0.02, 0.5, 5.0):
        sigma = torch.tensor(level)
        x0, noise = 0.5 * torch.randn(200_000), torch.randn(200_000)
        shown = (x0 + sigma * noise) * input_scale("edm", sigma)
        wanted = target("edm", x0, noise, torch.tensor(1.0), sigma)
        assert shown.std() == pytest.approx(1.0, abs=0.01)
        assert wanted.std() == pytest.approx(1.0, abs=0.01)
    assert (x0 + sigma * noise).std() > 3  # control


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("steps", [1, 4, 16])
def test_a_perfect_denoiser_is_sampled_back(name, steps):
    """With the true clean chunk as the prediction every sampler on every grid, even one step, returns it."""
    process, x0 = PROCESSES[name](), torch.rand(SHAPE) * 1.8 - 0.9
    grid = process.grid(steps)
    for kind in process.samplers:
        sampler, noisy = SAMPLERS[kind]
        extra = (draws(3),) if noisy else ()
        torch.testing.assert_close(sampler(lambda x, i: x0, draws(0)(), grid, *extra), x0, atol=2e-3, rtol=0)
        other = sampler(lambda x, i: 0.5 * x0, draws(0)(), grid, *extra)
        assert (other - x0).abs().max() > 0.1  # control


def exact(grid, deviation):
    """The clean chunk that is expected of data drawn from N(0, deviation^2)."""

    def predict(x, i):
        alpha, sigma = grid.alpha[i], grid.sigma[i]
        return alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * x

    return predict


@pytest.mark.parametrize("name", PROCESSES)
def test_second_order_samplers_are_nearer_to_the_flow_of_gaussian_data(name):
    """For data N(0, s^2) the deterministic flow is a scaling by the ratio of the marginal deviations."""
    process, deviation = PROCESSES[name](), 0.3
    errors = {}
    for kind in set(process.samplers) & {"ddim", "heun", "dpmpp_2m"}:
        grid, noise = process.grid(8), draws(0)()
        start = math.hypot(grid.alpha[0] * deviation, grid.sigma[0])
        truth = noise * grid.sigma[0] * deviation / start
        # the same last level for all: from there to clean data they take the same step of first order
        got = SAMPLERS[kind][0](exact(grid, deviation), noise, grid, clip=None)
        errors[kind] = float((got - truth).abs().max() / truth.abs().max())
    first = errors.pop("ddim")
    assert first > 0.01
    assert all(error < 0.8 * first for error in errors.values()), (first, errors)


def test_densities_stay_in_their_range():
    rng = torch.Generator().manual_seed(0)
    for density in ("loglogistic", "lognormal"):
        sigma = Karras(KarrasConfig(density=density)).draw(20_000, rng, torch.device("cpu"))
        assert 0.005 <= sigma.min() < 0.02
        assert 0.9 < sigma.max() <= 1.0
    median = Karras(KarrasConfig(sigma_max=80.0)).draw(20_000, rng, torch.device("cpu")).median()
    assert median == pytest.approx(0.5, rel=0.05)  # centre of the log-logistic distribution
    uniform, beta = (Flow(FlowConfig(density=d)).draw(20_000, rng, torch.device("cpu")) for d in ("uniform", "beta"))
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    assert beta.mean() == pytest.approx(0.4, abs=0.01)  # 1 - 1.5 / 2.5
    assert beta.max() < 1


def test_published_schedule_and_refusals():
    process = VariancePreserving(NoiseSchedule())
    alphas = process.alphas_cumprod
    assert len(alphas) == 100
    assert alphas[0] > 0.99
    assert alphas[-1] < 1e-4
    for wrong in ("score", "flow"):
        with pytest.raises(ConfigError, match="prediction"):
            NoiseSchedule(prediction=wrong)
    with pytest.raises(ConfigError, match="prediction"):
        target("score", *[torch.zeros(1)] * 4)
    with pytest.raises(ConfigError, match="spacing"):
        Karras(KarrasConfig()).grid(3, "trailing")
    with pytest.raises(ConfigError, match="sigma_min"):
        KarrasConfig(sigma_min=2.0)
    with pytest.raises(ConfigError, match="noise falls"):
        Grid((0.0, 1.0), (0.5, 0.1, 1.0), (0.5, 0.9, 0.0))


def test_one_sampler_is_the_other_where_they_should_be():
    """Without a second evaluation DPM-Solver++ and Heun are DDIM."""
    for name, make in PROCESSES.items():
        grid = make().grid(1)
        ours = [s(exact(grid, 0.5), draws(0)(), grid) for s in (ddim, heun, dpmpp_2m)]
        torch.testing.assert_close(ours[0], ours[1], msg=name)
        torch.testing.assert_close(ours[0], ours[2], msg=name)
