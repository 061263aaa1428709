"""Several cameras, one encoder or one each; crops and colour jitter."""

from __future__ import annotations

import pytest
import torch

from robopolicy.errors import ConfigError, ShapeError
from robopolicy.models.image_augmentation import colour_jitter, random_crop
from robopolicy.models.vision import CameraEncoders, VisionConfig

SMALL = {"backbone": "CompactConv", "crop": 28, "feature_dim": 8, "keypoints": 4}


def pictures(n=2, steps=2, side=32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, steps, side, side, 3), dtype=torch.uint8, generator=draw)


def encoders(shared, cameras=("front", "wrist"), **over):
    torch.manual_seed(0)
    return CameraEncoders(VisionConfig(**{**SMALL, "shared": shared, **over}), dict.fromkeys(cameras, (32, 32)))


def test_one_encoder_for_all_cameras_has_one_set_of_weights():
    one, each = encoders(True), encoders(False)
    assert sum(p.numel() for p in each.parameters()) == 2 * sum(p.numel() for p in one.parameters())
    same = {"front": pictures(), "wrist": pictures()}
    found = one(same)
    assert {name: tuple(f.shape) for name, f in found.items()} == {"front": (2, 2, 8), "wrist": (2, 2, 8)}
    torch.testing.assert_close(found["front"], found["wrist"], atol=1e-6, rtol=1e-5)
    apart = each(same)  # the control
    assert (apart["front"] - apart["wrist"]).abs().max() > 1e-3


def test_a_batch_of_all_cameras_is_what_each_gives_alone():
    both = encoders(True)
    given = {"front": pictures(seed=1), "wrist": pictures(seed=2)}
    together = both(given)
    for name, images in given.items():
        alone = both["shared"](images.flatten(0, 1)).unflatten(0, (2, 2))
        torch.testing.assert_close(together[name], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_augmentation_is_a_function_of_the_generator(shared):
    both = encoders(shared, jitter=0.3)
    given = {"front": pictures(seed=1), "wrist": pictures(seed=2)}

    def run(seed):
        return both(given, augment=True, rng=torch.Generator().manual_seed(seed))

    one, same, other = run(1), run(1), run(2)
    assert all(torch.equal(one[n], same[n]) for n in given)
    assert all(not torch.equal(one[n], other[n]) for n in given)
    still = both(given)
    assert all(torch.equal(still[n], both(given)[n]) for n in given)


def test_refusals():
    with pytest.raises(ConfigError, match=r"different sizes.*front 32x32, wrist 32x48.*vision.shared=false"):
        CameraEncoders(VisionConfig(**SMALL, shared=True), {"front": (32, 32), "wrist": (32, 48)})
    CameraEncoders(VisionConfig(**SMALL), {"front": (32, 32), "wrist": (32, 48)})
    with pytest.raises(ShapeError, match=r"\['wrist'\] are missing; given: \['front'\]"):
        encoders(True)({"front": pictures()})
    with pytest.raises(ShapeError, match=r"wrong kind.*32, 32, 3"):
        encoders(True)({"front": pictures(), "wrist": pictures(side=40)})
    assert encoders(True, cameras=())({}) == {}


def test_crops_of_oblong_pictures_are_squares_of_them():
    rng = torch.Generator().manual_seed(0)
    row = torch.arange(20)[:, None].expand(20, 30)
    column = torch.arange(30)[None].expand(20, 30)
    number = torch.arange(50)[:, None, None]
    images = torch.stack([row.expand(50, 20, 30), column.expand(50, 20, 30), number.expand(50, 20, 30)], dim=-1)
    crops = random_crop(images.to(torch.uint8), 12, rng).long()
    top, left = crops[:, :1, :1, 0], crops[:, :1, :1, 1]
    assert torch.equal(crops[..., 0], top + torch.arange(12)[:, None].expand(12, 12))
    assert torch.equal(crops[..., 1], left + torch.arange(12).expand(12, 12))
    assert torch.equal(crops[..., 2], number.expand(50, 12, 12))
    assert set(top.flatten().tolist()) == set(range(9))
    assert left.min() == 0
    assert left.max() == 18
    # of a view that is not contiguous, the same
    turned = images.to(torch.uint8).transpose(1, 2).contiguous().transpose(1, 2)
    again = random_crop(turned, 12, torch.Generator().manual_seed(0)).long()
    assert torch.equal(again, crops)


def test_colour_jitter_is_brightness_then_contrast_then_saturation():
    images = torch.rand(6, 5, 7, 3, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.35  # far from both ends
    found = colour_jitter(images, 0.2, torch.Generator().manual_seed(3))
    draw = torch.rand(6, 3, 1, 1, generator=torch.Generator().manual_seed(3)) * 2 - 1
    grey = torch.tensor([0.299, 0.587, 0.114])
    factors = (1 + 0.2 * draw).squeeze().tolist()
    for one, wanted, (bright, contrast, saturation) in zip(images, found, factors, strict=True):
        plain = one * bright
        plain = plain * contrast + (plain @ grey).mean() * (1 - contrast)
        plain = plain * saturation + (plain @ grey)[..., None] * (1 - saturation)
        torch.testing.assert_close(wanted, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(colour_jitter(images, 0.0, None), images, atol=1e-6, rtol=1e-6)
    wide = colour_jitter(torch.rand(8, 4, 4, 3), 1.0, torch.Generator().manual_seed(1))
    assert wide.min() >= 0
    assert wide.max() <= 1
