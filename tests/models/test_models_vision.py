"""The robomimic adapter: VisualCore behind one file, crops from a given generator, quiet import."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from robopolicy.errors import ConfigError, ShapeError
from robopolicy.models.robomimic_vision import ROBOMIMIC
from robopolicy.models.vision import VisionConfig, VisualEncoder


def images(n=2, side=96):
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backbone", ROBOMIMIC)
def test_feature_shape_gradient_and_no_batch_norm(backbone):
    torch.manual_seed(0)
    encoder = VisualEncoder(VisionConfig(backbone), 96, 96)
    features = encoder(images(), augment=True)
    assert features.shape == (2, 64)
    features.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)
    assert not [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert type(encoder.core).__module__.startswith("robomimic")


def test_a_sample_does_not_depend_on_its_batch():
    encoder = VisualEncoder(VisionConfig("CompactConv"), 96, 96).eval()
    batch = images(4)
    torch.testing.assert_close(encoder(batch)[1:2], encoder(batch[1:2]), atol=1e-5, rtol=1e-4)


def test_crops_are_a_function_of_the_generator():
    encoder = VisualEncoder(VisionConfig("CompactConv"), 96, 96)
    batch = images(8)
    one = encoder.crop(batch, augment=True, rng=torch.Generator().manual_seed(1))
    torch.manual_seed(99)  # the global generator has no part in it
    same = encoder.crop(batch, augment=True, rng=torch.Generator().manual_seed(1))
    other = encoder.crop(batch, augment=True, rng=torch.Generator().manual_seed(2))
    assert one.shape == (8, 84, 84, 3)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(encoder.crop(batch), batch[:, 6:90, 6:90])


def test_crops_reach_both_corners():
    encoder = VisualEncoder(VisionConfig("CompactConv", crop=94), 96, 96)
    row = torch.arange(96, dtype=torch.uint8)[None, :, None, None].expand(200, 96, 96, 3)
    tops = encoder.crop(row, augment=True, rng=torch.Generator().manual_seed(0))[:, 0, 0, 0]
    assert set(tops.tolist()) == {0, 1, 2}


def test_features_follow_a_moved_spot():
    """What a spatial softmax is for; the control is a spot that stays."""
    torch.manual_seed(0)
    encoder = VisualEncoder(VisionConfig("CompactConv", crop=0), 96, 96).eval()
    image = torch.zeros(3, 96, 96, 3, dtype=torch.uint8)
    image[0, 20:30, 20:30] = image[1, 20:30, 20:30] = 255
    image[2, 60:70, 60:70] = 255
    features = encoder(image)
    assert (features[0] - features[2]).abs().max() > 1e-3
    torch.testing.assert_close(features[0], features[1], atol=1e-6, rtol=1e-5)


def test_refusals():
    with pytest.raises(ConfigError, match="backbone"):
        VisionConfig("ResNet50")
    with pytest.raises(ConfigError, match="crop larger"):
        VisualEncoder(VisionConfig(crop=84), 64, 64)
    encoder = VisualEncoder(VisionConfig("CompactConv"), 96, 96)
    with pytest.raises(ShapeError, match="wrong kind"):
        encoder(images(side=90))
    with pytest.raises(ShapeError, match="uint8"):
        encoder(images().float())


def test_importing_it_prints_nothing():
    code = "from robopolicy.models.vision import VisionConfig, VisualEncoder;VisualEncoder(VisionConfig(), 96, 96)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
