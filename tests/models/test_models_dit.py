"""The transformer denoiser: shapes, what depends on what, one pass for all times, a time per step."""

import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.models.features import Features, FeatureWidths
from robopolicy.models.networks import build_network

WIDTHS = FeatureWidths(horizon=2, step=5, extra=3, goal=4, language=6)
SMALL = {"width": 16, "layers": 2, "heads": 2}
HORIZON, CHANNELS, B = 8, 3, 4


def features(rows=B, seed=0):
    rng = torch.Generator().manual_seed(seed)
    shapes = ((rows, 2, 5), (rows, 3), (rows, 4), (rows, 6))
    return Features(*(torch.randn(shape, generator=rng) for shape in shapes))


def make(widths=WIDTHS, **parameters):
    """With weights that are nowhere 0, so that everything that is connected shows."""
    torch.manual_seed(0)
    network = build_network("dit", {**SMALL, **parameters}, channels=CHANNELS, widths=widths, horizon=HORIZON).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def chunk(seed=1):
    return torch.randn(B, HORIZON, CHANNELS, generator=torch.Generator().manual_seed(seed))


def differs(a, b):
    """bool [Tp]: which steps of the chunk differ."""
    return (a - b).abs().amax(dim=(0, 2)) > 1e-6


@pytest.mark.parametrize("parameters", [{}, {"time": "token"}, {"causal": True}, {"time": "token", "causal": True}])
def test_conditions_of_a_grid_are_those_of_its_times(parameters):
    network, seen, x = make(**parameters), features(), chunk()
    times = torch.tensor([90.0, 50.0, 3.0])
    for time, condition in zip(times, network.conditions(times, seen), strict=True):
        torch.testing.assert_close(network.denoise(x, condition), network(x, time.expand(B), seen))
    assert differs(network(x, times[:1].expand(B), seen), network(x, times[1:2].expand(B), seen)).all()


def test_conditions_of_times_per_step():
    network, seen, x = make(per_step_time=True), features(), chunk()
    times = torch.tensor([[10.0] * 4 + [60.0] * 4, [0.0] * 4 + [50.0] * 4])
    for row, condition in zip(times, network.conditions(times, seen), strict=True):
        torch.testing.assert_close(network.denoise(x, condition), network(x, row.expand(B, -1), seen))
    for time, condition in zip(times[:, 0], network.conditions(times[:, 0], seen), strict=True):
        torch.testing.assert_close(network.denoise(x, condition), network(x, time.expand(B), seen))
        torch.testing.assert_close(network(x, time.expand(B, HORIZON), seen), network(x, time.expand(B), seen))


def test_a_time_per_step_modulates_its_own_step_first():
    network, seen, x = make(per_step_time=True, layers=1, causal=True), features(), chunk()
    time = torch.full((B, HORIZON), 20.0)
    later = time.clone()
    later[:, 5] = 70.0
    changed = differs(network(x, time, seen), network(x, later, seen))
    assert not changed[:5].any()
    assert changed[5]


def test_adaln_zero_begins_by_saying_nothing_and_learns():
    torch.manual_seed(0)
    network = build_network("dit", SMALL, channels=CHANNELS, widths=WIDTHS, horizon=HORIZON)
    wanted, time = chunk(2), torch.zeros(B)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        answer = network(chunk(), time, features())
        losses.append((answer - wanted).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert torch.equal(losses[0], wanted.square().mean())  # all answers are 0 at first
    assert losses[-1] < 0.05 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("form", ["adaln_zero", "token"])
@pytest.mark.parametrize("part", ["steps", "extra", "goal", "language"])
def test_everything_observed_is_seen(form, part):
    network, seen, other, x = make(time=form), features(), features(), chunk()
    setattr(other, part, getattr(other, part) + 1.0)
    assert differs(network(x, torch.zeros(B), seen), network(x, torch.zeros(B), other)).all()


def test_causal_means_causal():
    plain, causal, seen, x = make(), make(causal=True), features(), chunk()
    changed = x.clone()
    changed[:, 4] += 1.0
    time = torch.full((B,), 7.0)
    assert differs(causal(x, time, seen), causal(changed, time, seen)).tolist() == [False] * 4 + [True] * 4
    assert differs(plain(x, time, seen), plain(changed, time, seen)).all()


def test_causal_step_sees_no_later_observation():
    widths = FeatureWidths(horizon=2, step=5)
    rng = torch.Generator().manual_seed(3)
    seen, later = (Features(torch.randn(B, 2, 5, generator=rng)) for _ in range(2))
    later.steps[:, 0] = seen.steps[:, 0]
    network, x, time = make(widths, time="token", causal=True), chunk(), torch.zeros(B)
    assert differs(network(x, time, seen), network(x, time, later)).tolist() == [False] + [True] * 7


def test_another_time_embedding_may_take_more_than_a_number():
    network, seen, x = make(), features(), chunk()

    class Two(torch.nn.Module):
        def __init__(self, one):
            super().__init__()
            self.one = one

        def forward(self, time):
            return self.one(time[:, 0]) + self.one(time[:, 1])

    network.step = Two(network.step)
    times = torch.tensor([[3.0, 9.0], [9.0, 3.0], [1.0, 0.0]])
    made = network.conditions(times, seen)
    torch.testing.assert_close(network.denoise(x, made[0]), network.denoise(x, made[1]))
    torch.testing.assert_close(network.denoise(x, made[2]), network(x, times[2].expand(B, 2), seen))


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"width": 15}, "even"),
        ({"heads": 3}, "divisible"),
        ({"time": "film"}, "adaln_zero"),
        ({"dropout": 1.0}, "dropout"),
        ({"time": "token", "per_step_time": True}, "adaln_zero"),
        ({"depth": 4}, "layers"),
    ],
)
def test_refusals_name_what_is_allowed(parameters, told):
    with pytest.raises(ConfigError, match=told):
        make(**parameters)


def test_a_chunk_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="Tp"):
        make()(torch.zeros(B, HORIZON + 1, CHANNELS), torch.zeros(B), features())
