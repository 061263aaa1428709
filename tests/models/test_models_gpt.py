"""The causal transformer as a denoiser: what sees what, and that nothing is computed twice."""

import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.models.features import Features, FeatureWidths
from robopolicy.models.networks import build_network

TP, A, B = 8, 3, 4
WIDTHS = FeatureWidths(horizon=2, step=7, extra=5, goal=6, language=4)
SMALL = {"width": 24, "layers": 3, "heads": 4}


def make(widths=WIDTHS, horizon=TP, **parameters):
    torch.manual_seed(0)
    net = build_network("gpt", {**SMALL, **parameters}, channels=A, widths=widths, horizon=horizon).eval()
    for block in net.blocks:  # weights large enough that everything leaves a trace
        torch.nn.init.normal_(block.query_key_value.weight, std=0.5)
    return net


def features(widths=WIDTHS, rows=B):
    draw = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(*shape, generator=draw)

    given = torch.cat([random(rows, widths.goal - 1), torch.ones(rows, 1)], dim=1) if widths.goal else None
    return Features(
        random(rows, widths.horizon, widths.step),
        random(rows, widths.extra) if widths.extra else None,
        given,
        random(rows, widths.language) if widths.language else None,
    )


def chunk(rows=B):
    return torch.randn(rows, TP, A, generator=torch.Generator().manual_seed(2))


def in_one_pass(net, x, time, seen):
    """The same network over the whole sequence at once, causal, nothing kept."""
    tokens = torch.cat(
        [net.time(time)[:, None], net._tokens(seen), net.action(x) + net.position[1:]],
        dim=1,
    )
    for block in net.blocks:
        tokens = block.attend(tokens, *block.project(tokens), None)
    return net.head(net.norm(tokens))[:, -TP:]


@pytest.mark.parametrize("widths", [WIDTHS, FeatureWidths(2, 5), FeatureWidths(3, 5, goal=6)])
def test_kept_keys_are_the_whole_sequence_at_once(widths):
    net, seen, x = make(widths), features(widths), chunk()
    time = torch.linspace(-130, 0, B)
    torch.testing.assert_close(net(x, time, seen), in_one_pass(net, x, time, seen), atol=1e-5, rtol=1e-4)
    late = Features(seen.steps.roll(1, 0), seen.extra, seen.goal, seen.language)
    assert (net(x, time, late) - in_one_pass(net, x, time, seen)).abs().max() > 1e-3  # control


def test_all_times_of_a_grid_in_one_pass():
    net, seen, x = make(), features(), chunk()
    times = torch.tensor([-1.0, -60.0, -130.0])
    for time, kept in zip(times, net.conditions(times, seen), strict=True):
        torch.testing.assert_close(net.denoise(x, kept), net(x, time.expand(B), seen), atol=1e-6, rtol=1e-5)
    assert (net.denoise(x, net.conditions(times, seen)[0]) - net(x, times[2].expand(B), seen)).abs().max() > 1e-3


def test_an_action_sees_earlier_actions_only():
    net, seen, x = make(), features(), chunk()
    time = torch.zeros(B)
    other = x.clone()
    other[:, 5] += 1
    change = (net(other, time, seen) - net(x, time, seen)).abs().amax(dim=(0, 2))
    assert (change[:5] == 0).all()
    assert (change[5:] > 1e-5).all()


@pytest.mark.parametrize("part", ["steps", "extra", "goal", "language"])
def test_every_feature_counts(part):
    net, x = make(), chunk()
    plain, moved = features(), features()
    setattr(moved, part, getattr(moved, part) + 0.5)
    assert (net(x, torch.zeros(B), moved) - net(x, torch.zeros(B), plain)).abs().max() > 1e-4
    same = features()
    assert torch.equal(net(x, torch.zeros(B), same), net(x, torch.zeros(B), plain))  # control


def test_goal_shares_the_embedding_of_observations_where_it_is_as_wide():
    shared, own = make(FeatureWidths(2, 5, goal=6)), make(FeatureWidths(2, 7, goal=6))
    assert shared.shared_goal
    assert not hasattr(shared, "goal")
    assert own.goal.in_features == 6
    assert not own.shared_goal
    seen = features(FeatureWidths(2, 5, goal=6))
    as_observation = shared.observation(seen.goal[:, :-1])
    torch.testing.assert_close(shared._goal_token(seen.goal), as_observation + shared.goal_given)
    # a goal that is 0 in every entry is not a goal that is withheld
    with torch.no_grad():
        shared.goal_given.fill_(0.5)
    zero = torch.zeros(B, 6)
    given = zero.clone()
    given[:, -1] = 1
    assert not torch.equal(shared._goal_token(zero), shared._goal_token(given))


def test_dropout_is_drawn_in_training_only():
    net, seen, x = make(dropout=0.3, attention_dropout=0.3), features(), chunk()
    time = torch.zeros(B)
    assert torch.equal(net(x, time, seen), net(x, time, seen))
    net.train()
    torch.manual_seed(0)
    first = net(x, time, seen)
    assert not torch.equal(first, net(x, time, seen))
    torch.manual_seed(0)
    assert torch.equal(first, net(x, time, seen))


def test_every_parameter_learns():
    net = make(FeatureWidths(2, 5, extra=4, goal=6, language=3)).train()
    with torch.no_grad():
        net.goal_given.fill_(0.1)
    seen = features(FeatureWidths(2, 5, extra=4, goal=6, language=3))
    net(chunk(), torch.linspace(-100, 0, B), seen).square().sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


@pytest.mark.parametrize(
    ("parameters", "horizon", "words"),
    [
        ({"heads": 5}, TP, "heads divide"),
        ({"layers": 0}, TP, "a layer"),
        ({"dropout": 1.0, "attention_dropout": -0.1}, TP, "dropout out of range.*\n.*attention_dropout"),
        ({"depth": 3}, TP, "unknown key"),
        ({}, 1, "Tp >= To"),
    ],
)
def test_sizes_that_do_not_fit(parameters, horizon, words):
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        make(horizon=horizon, **parameters)


def test_a_chunk_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="another length"):
        make()(chunk()[:, :4], torch.zeros(B), features())
