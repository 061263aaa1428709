"""Normaliser: round trip, untouched rotations, near-constant channels, refusals."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DataError
from robopolicy.normalize import NEAR_CONSTANT, Normalizer, StreamNormalizer

EMBODIMENT = load_embodiment("panda")
WIDTH = len(EMBODIMENT.action)
finite = st.floats(-50, 50, width=64)


def fitted(low, high, name="environment_state"):
    return Normalizer.from_statistics({name: {"min": low, "max": high}}, EMBODIMENT).stream(name)


@settings(max_examples=60, deadline=None)
@given(low=arrays(float, 4, elements=finite), span=arrays(float, 4, elements=st.floats(0, 20)))
def test_round_trip_and_range(low, span):
    stream = fitted(low, low + span)
    x = low + span * np.linspace(0, 1, 7)[:, None]
    normalised = stream.normalize(x)
    np.testing.assert_allclose(stream.denormalize(normalised), x, atol=1e-9)
    scaled = span >= 2 * NEAR_CONSTANT
    np.testing.assert_allclose(normalised[0, scaled], -1, atol=1e-6)
    np.testing.assert_allclose(normalised[-1, scaled], 1, atol=1e-6)


def test_near_constant_channel_is_shifted_not_scaled():
    stream = fitted(np.array([2.0, 0.0]), np.array([2.0 + NEAR_CONSTANT / 2, 1.0]))
    assert stream.scale[0] == 1.0
    assert abs(stream.normalize(np.array([2.0, 0.5]))[0]) < NEAR_CONSTANT
    assert stream.scale[1] == 2.0  # control: a channel with a real range is scaled


def test_rotation_channels_stay_unscaled():
    low, high = np.full(WIDTH, -0.3), np.full(WIDTH, 0.4)
    stream = fitted(low, high, "action")
    rotation = EMBODIMENT.action.select("ee_rotation")
    position = EMBODIMENT.action.select("ee_position")
    assert (stream.scale[rotation] == 1).all()
    assert (stream.offset[rotation] == 0).all()
    assert (stream.scale[position] != 1).all()


def test_json_keeps_every_bit():
    rng = np.random.default_rng(0)
    low = rng.normal(size=WIDTH)
    normalizer = Normalizer.from_statistics({"action": {"min": low, "max": low + rng.random(WIDTH)}}, EMBODIMENT)
    again = Normalizer.from_dict(json.loads(json.dumps(normalizer.to_dict())))
    assert (again.stream("action").scale == normalizer.stream("action").scale).all()
    assert (again.stream("action").offset == normalizer.stream("action").offset).all()


def test_torch_buffers_agree_with_numpy():
    torch = pytest.importorskip("torch")
    from robopolicy.models.affine import Affine

    stream = fitted(np.array([-1.0, 5.0]), np.array([3.0, 9.0]))
    x = np.random.default_rng(0).uniform(-1, 9, (5, 2)).astype(np.float32)
    np.testing.assert_allclose(Affine(stream)(torch.tensor(x)).numpy(), stream.normalize(x), atol=1e-6)
    assert not Affine(stream).state_dict()  # JSON is the one source of the numbers


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Normalizer({}).stream("action"), "no statistics"),
        (lambda: fitted(np.zeros(3), np.full(3, np.nan)), "not finite"),
        (lambda: fitted(np.full(3, np.inf), np.full(3, -np.inf)), "not finite"),  # statistics of an empty store
        (lambda: fitted(np.zeros(3), np.ones(3), "action"), "channels"),
        (lambda: Normalizer.from_statistics({"state": {"min": np.zeros(3)}}, EMBODIMENT), "no 'max'"),
        (lambda: fitted(np.zeros(3), np.ones(3)).normalize(np.zeros((2, 4))), "width"),
        (lambda: Normalizer({"s": StreamNormalizer(np.ones(2), np.zeros(2))}).require_width("s", 3), "width"),
        (lambda: StreamNormalizer(np.zeros(2), np.zeros(2)), "positive"),
        (lambda: Normalizer.from_dict({"s": {"scale": [1.0]}}), "not a normaliser"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(DataError, match=words):
        make()
