"""ACT's network: every decoder layer counts, the CVAE, padding, positions, tokens of all kinds."""

import dataclasses
import math

import pytest
import torch

from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError
from robopolicy.models.act import ActNetwork, ActNetworkConfig, Posterior
from robopolicy.models.image_tokens import (
    TokenEncoder,
    TokenFeatures,
    TokenWidths,
    sine_positions_1d,
    sine_positions_2d,
)
from robopolicy.models.vision import VisionConfig
from robopolicy.normalize import Normalizer
from robopolicy.protocols import PolicySpec

SIZES = ActNetworkConfig(width=32, heads=4, feedforward=48, encoder_layers=2, decoder_layers=3, latent=4, dropout=0.0)
WIDTHS = TokenWidths(
    horizon=2, step=7, goal=3, language=5, low_dim=(("state", 4), ("environment_state", 3)), maps=2, channels=6
)
B, TP, A = 3, 8, 2


def network(seed=0, widths=WIDTHS, **changes):
    torch.manual_seed(seed)
    return ActNetwork(dataclasses.replace(SIZES, **changes), channels=A, widths=widths, horizon=TP)


def features(seed=0):
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=rng)

    maps = (draw(B, 2, 6, 3, 4), draw(B, 2, 6, 3, 4))
    return TokenFeatures(draw(B, 2, 7), goal=draw(B, 3), language=draw(B, 5), maps=maps)


def demonstrated(seed=0):
    actions = torch.randn((B, TP, A), generator=torch.Generator().manual_seed(seed))
    return actions, torch.zeros(B, TP, dtype=torch.bool)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def from_layer(net, index, given):
    """The chunk as it would be if it were read from a given decoder layer; -1 is as it is meant."""
    kept = net.layers
    net.layers = kept[: index + 1] if index >= 0 else kept
    try:
        return net(given).chunk
    finally:
        net.layers = kept


def spoil(module):
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn(weight.shape, generator=rng(7)) * 0.3)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_every_layer_has_a_gradient_and_changes_the_answer(pre_norm):
    net = network(pre_norm=pre_norm)
    output = net(features(), *demonstrated(), rng())
    (output.chunk.abs().mean() + output.posterior.divergence().mean()).backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # scaling the norm of the zeros that queries begin with does nothing
    assert idle == (["layers.0.look.norm.weight"] if pre_norm else [])
    net = network(pre_norm=pre_norm).eval()
    for part in [*net.layers, *net.encoder.layers]:
        before = {name: value.clone() for name, value in part.state_dict().items()}
        plain = net(features()).chunk
        spoil(part)
        assert (net(features()).chunk - plain).abs().max() > 1e-3
        part.load_state_dict(before)
        torch.testing.assert_close(net(features()).chunk, plain)


def test_control_reading_the_first_layer_leaves_the_others_idle():
    """The published fault: what comes after the first decoder layer neither matters nor learns."""
    net = network()
    from_layer(net, 0, features()).abs().mean().backward()
    idle = {name.split(".")[1] for name, p in net.named_parameters() if name.startswith("layers.") and p.grad is None}
    assert idle == {"1", "2"}
    net.eval()
    first, last = from_layer(net, 0, features()), from_layer(net, -1, features())
    assert (first - last).abs().max() > 1e-3
    spoil(net.layers[2])
    torch.testing.assert_close(from_layer(net, 0, features()), first)
    assert (from_layer(net, -1, features()) - last).abs().max() > 1e-3


@pytest.mark.parametrize("part", ["steps", "goal", "language", "maps"])
def test_every_kind_of_token_is_seen(part):
    net, given = network().eval(), features()
    plain = net(given).chunk
    values = getattr(given, part)
    changed = (values[0], values[1] + 1) if part == "maps" else values + 1
    assert (net(dataclasses.replace(given, **{part: changed})).chunk - plain).abs().max() > 1e-3
    torch.testing.assert_close(net(dataclasses.replace(given, **{part: values})).chunk, plain)


def test_image_tokens_know_their_place_and_their_camera():
    net, given = network().eval(), features()
    spot = torch.zeros(B, 2, 6, 3, 4)
    spot[..., 0, 0] = 3.0
    moved, none = spot.flip(-1), torch.zeros_like(spot)

    def chunk(*maps):
        return net(dataclasses.replace(given, maps=maps)).chunk

    assert (chunk(spot, none) - chunk(moved, none)).abs().max() > 1e-3
    # as published, cameras are told apart by nothing: that is where training starts
    torch.testing.assert_close(chunk(spot, none), chunk(none, spot), atol=1e-5, rtol=1e-4)
    spoilt = torch.randn(net.camera.shape, generator=rng())
    net.camera.data.copy_(spoilt)
    assert (chunk(spot, none) - chunk(none, spot)).abs().max() > 1e-3


def test_acting_takes_the_middle_of_the_prior():
    net = network().eval()
    drawn = net(features(), *demonstrated(), rng(1))
    assert torch.equal(net(features(), *demonstrated(), rng(1)).chunk, drawn.chunk)
    assert (net(features(), *demonstrated(), rng(2)).chunk - drawn.chunk).abs().max() > 1e-3
    torch.manual_seed(5)
    free = net(features())
    assert free.posterior is None
    assert torch.equal(net(features()).chunk, free.chunk)
    posterior = Posterior(torch.zeros(B, 4), torch.full((B, 4), -60.0))  # z = 0 and no spread
    net.style.forward = lambda *_: posterior
    torch.testing.assert_close(net(features(), *demonstrated(), rng(3)).chunk, free.chunk)


def test_without_a_latent_the_demonstrated_chunk_does_not_enter():
    net = network(latent=0).eval()
    output = net(features(), *demonstrated(), rng())
    assert output.posterior is None
    assert torch.equal(output.chunk, net(features()).chunk)
    assert not [name for name, _ in net.named_parameters() if "style" in name or "latent" in name]


def test_padding_tells_the_posterior_nothing():
    net = network().eval()
    actions, padding = demonstrated()
    padding[:, 5:] = True
    other = actions.clone()
    other[:, 5:] += 9.0
    one, same = (net(features(), a, padding, rng()).posterior.mean for a in (actions, other))
    torch.testing.assert_close(one, same)
    none = torch.zeros_like(padding)
    assert (net(features(), other, none, rng()).posterior.mean - one).abs().max() > 1e-3  # control


def test_the_posterior_reads_proprioception_and_no_images():
    net, given = network().eval(), features()
    plain = net(given, *demonstrated(), rng()).posterior.mean
    other = dataclasses.replace(given, maps=tuple(m + 1 for m in given.maps), goal=given.goal + 1)
    torch.testing.assert_close(net(other, *demonstrated(), rng()).posterior.mean, plain)
    state = given.steps.clone()
    state[:, -1, :4] += 1
    moved = dataclasses.replace(given, steps=state)
    assert (net(moved, *demonstrated(), rng()).posterior.mean - plain).abs().max() > 1e-3


def test_divergence_is_that_of_the_closed_form():
    torch.manual_seed(0)
    posterior = Posterior(torch.randn(B, 4), torch.randn(B, 4))
    normal = torch.distributions.Normal
    own = normal(posterior.mean, (posterior.log_variance / 2).exp())
    wanted = torch.distributions.kl_divergence(own, normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(posterior.divergence(), wanted)
    assert Posterior(torch.zeros(1, 4), torch.zeros(1, 4)).divergence().item() == 0
    drawn = torch.stack([posterior.draw(rng(seed)) for seed in range(4000)])
    torch.testing.assert_close(drawn.mean(0), posterior.mean, atol=0.15, rtol=0)
    torch.testing.assert_close(drawn.std(0), (posterior.log_variance / 2).exp(), atol=0.15, rtol=0.05)


def test_dropout_is_off_when_acting_and_on_in_training():
    net = network(dropout=0.5)
    assert (net.train()(features()).chunk - net(features()).chunk).abs().max() > 1e-3
    assert torch.equal(net.eval()(features()).chunk, net(features()).chunk)


def test_positions():
    line = sine_positions_1d(10, 8)
    assert line[3, 0].item() == pytest.approx(math.sin(3), abs=1e-6)
    assert line[3, 1].item() == pytest.approx(math.cos(3), abs=1e-6)
    assert line[3, 2].item() == pytest.approx(math.sin(3 / 10_000**0.25), abs=1e-6)
    plane = sine_positions_2d(3, 5, 16)
    assert plane.shape == (3, 5, 16)
    assert torch.equal(plane[1, 0, :8], plane[1, 4, :8])  # the first half tells the row alone
    assert torch.equal(plane[0, 2, 8:], plane[2, 2, 8:])  # and the second the column
    assert torch.unique(plane.flatten(0, 1), dim=0).shape[0] == 15
    # maps of two sizes lie on the same picture
    torch.testing.assert_close(sine_positions_2d(6, 5, 16)[3], plane[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [({"width": 30}, "divisible"), ({"heads": 5}, "divisible"), ({"decoder_layers": 0}, "at least one"),
     ({"latent": -1}, "latent"), ({"dropout": 1.0}, "dropout")],
)  # fmt: skip
def test_sizes_that_do_not_fit(change, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(SIZES, **change)


class TestMaps:
    @pytest.fixture
    def made(self):
        card = load_embodiment("panda")

        def build(cameras=("front", "wrist"), state=True, embodiment=card, **vision):
            torch.manual_seed(0)
            box = {"min": card.state.lower, "max": card.state.upper}
            normalizer = Normalizer.from_statistics({"state": box}, card)
            spec = PolicySpec(embodiment, 2, 4, 8, state=state, cameras=cameras)
            config = {"backbone": "CompactConv", "crop": 0, "shared": True, **vision}
            return TokenEncoder(spec, normalizer, VisionConfig(**config)).eval()

        return build

    @pytest.fixture
    def images(self):
        def draw(seed):
            return torch.randint(0, 255, (2, 2, 96, 96, 3), dtype=torch.uint8, generator=rng(seed))

        return {"front": draw(0), "wrist": draw(1)}

    @pytest.mark.parametrize(("backbone", "shape"), [("CompactConv", (64, 12, 12)), ("ResNet18Conv", (512, 3, 3))])
    def test_backbones_without_pooling(self, made, images, backbone, shape):
        encoder = made(backbone=backbone)
        maps = encoder(torch.zeros(2, 2, 10), None, images).maps
        assert [tuple(m.shape) for m in maps] == [(2, 2, *shape)] * 2
        assert encoder.widths.channels == shape[0]
        sum(m.sum() for m in maps).backward()
        assert all(p.grad is not None for p in encoder.parameters()), "no weights of a pool are left"

    def test_a_backbone_without_a_map_is_refused(self, made):
        with pytest.raises(ConfigError, match="no feature map"):
            made(backbone="vit")

    def test_shared_or_one_each(self, made, images):
        shared, own = made(), made(shared=False)
        state = torch.zeros(2, 2, 10)
        same = {"front": images["front"], "wrist": images["front"]}
        one, two = shared(state, None, same).maps
        assert torch.equal(one, two)
        one, two = own(state, None, same).maps
        assert (one - two).abs().max() > 1e-3
        size = {e: sum(p.numel() for p in e.parameters()) for e in (shared, own)}
        assert size[own] == 2 * size[shared]
        assert shared.widths == own.widths
        assert (shared.widths.maps, shared.widths.channels, shared.widths.step) == (2, 64, 10)

    def test_a_masked_camera_is_not_seen(self, made, images):
        encoder, state = made(), torch.zeros(2, 2, 10)
        mask = {"wrist": torch.tensor([True, False])}
        maps = encoder(state, None, images, image_mask=mask).maps
        assert maps[1][0].abs().sum() > 0
        assert maps[1][1].abs().sum() == 0
        assert maps[0][1].abs().sum() > 0

    def test_cameras_alone(self, made, images):
        given = made(state=False)(None, None, images)
        assert given.steps.shape == (2, 2, 0)
        assert len(given) == 2

    def test_cameras_of_several_sizes_need_a_backbone_each(self, made):
        card = load_embodiment("panda")
        cameras = tuple(dataclasses.replace(c, height=64) if c.name == "wrist" else c for c in card.cameras)
        odd = dataclasses.replace(card, cameras=cameras)
        with pytest.raises(ConfigError, match="sizes"):
            made(embodiment=odd)
        vision = made(embodiment=odd, shared=False).vision
        assert {name: encoder.image_shape[0] for name, encoder in vision.items()} == {"front": 96, "wrist": 64}
