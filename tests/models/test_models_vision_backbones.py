"""torchvision backbones with weights from a file, frozen BatchNorm, the small ViT; nothing is downloaded."""

from __future__ import annotations

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from robopolicy.errors import ConfigError
from robopolicy.models.torchvision_backbones import TORCHVISION, build_backbone
from robopolicy.models.vision import VisionConfig, VisualEncoder
from robopolicy.models.vit import ViTConfig


def images(n=2, side=64, seed=0):
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def published(name, seed=0):
    """A classifier of torchvision as it is published: head, BatchNorm with statistics that are not 0 and 1."""
    torch.manual_seed(seed)
    model = getattr(torchvision.models, name)(weights=None)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """ResNet-18 and its two files."""
    folder, model = tmp_path_factory.mktemp("weights"), published("resnet18")
    save_file(model.state_dict(), folder / "resnet18.safetensors")
    torch.save(model.state_dict(), folder / "resnet18.pth")
    return folder, model


@pytest.fixture
def networks_are_out_of_reach(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something was downloaded")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("pool", ["keypoints", "mean"])
def test_from_scratch_there_is_group_norm_only(name, pool):
    torch.manual_seed(0)
    encoder = VisualEncoder(VisionConfig(name, crop=56, pool=pool, feature_dim=24), 64, 64)
    features = encoder(images(), augment=True, rng=torch.Generator().manual_seed(0))
    assert features.shape == (2, 24)
    features.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    kinds = {type(m).__name__ for m in encoder.modules()}
    assert "GroupNorm" in kinds
    assert not {k for k in kinds if "BatchNorm" in k}
    assert encoder.core.backbone(torch.zeros(1, 3, 64, 64)).shape == (1, encoder.map_channels, 2, 2)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_the_weights_of_a_file_give_the_published_network(resnet, suffix):
    folder, model = resnet
    config = VisionConfig("resnet18", crop=0, pool="mean", weights=str(folder / f"resnet18.{suffix}"))
    encoder = VisualEncoder(config, 64, 64).eval()
    batch = images()
    usual = torchvision.transforms.functional.normalize(
        batch.permute(0, 3, 1, 2).float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    without_head = nn.Sequential(*list(model.children())[:-1])
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(batch), encoder.core.head(without_head(usual).flatten(1)), atol=1e-4, rtol=1e-4
        )
        # the control: pictures that are not scaled as in ImageNet
        other = encoder.core.head(without_head(batch.permute(0, 3, 1, 2).float() / 255).flatten(1))
    assert (encoder(batch) - other).abs().max() > 1e-3


def test_mobilenet_keeps_its_own_epsilon(tmp_path):
    model = published("mobilenet_v3_small")
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    backbone, channels = build_backbone("mobilenet_v3_small", str(tmp_path / "m.safetensors"))
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(picture), model.features(picture), atol=1e-5, rtol=1e-4)
    assert channels == 576


def test_training_never_touches_a_statistic_of_frozen_batch_norm(resnet):
    folder, model = resnet
    encoder = VisualEncoder(VisionConfig("resnet18", crop=0, weights=str(folder / "resnet18.pth")), 64, 64).train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, weight_decay=0.1)
    for step in range(2):
        encoder(images(4, seed=step), augment=True).square().mean().backward()
        optimizer.step()
    after = encoder.state_dict()
    frozen = [k for k in after if ".bn" in k or "downsample.1" in k]
    assert len(frozen) == 20 * 4  # weight, bias, mean and variance of 20 layers
    assert all(torch.equal(before[k], after[k]) for k in frozen)
    learnt = [k for k in after if "conv" in k]
    assert all(not torch.equal(before[k], after[k]) for k in learnt)
    batch = images(4)
    torch.testing.assert_close(encoder.train()(batch)[:1], encoder.eval()(batch[:1]), atol=1e-4, rtol=1e-4)
    # the control: plain BatchNorm does both
    plain = nn.Sequential(*list(model.children())[:-2]).train()
    mean = plain[1].running_mean.clone()
    try:
        plain(torch.rand(4, 3, 64, 64))
        assert not torch.equal(mean, plain[1].running_mean)
    finally:
        plain.eval()


def test_auto_takes_the_cached_file_and_downloads_nothing(resnet, tmp_path, monkeypatch, networks_are_out_of_reach):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match=r"nothing is downloaded.*resnet18-f37072fd.pth"):
        VisualEncoder(VisionConfig("resnet18", crop=0, weights="auto"), 64, 64)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").symlink_to(resnet[0] / "resnet18.pth")
    encoder = VisualEncoder(VisionConfig("resnet18", crop=0, weights="auto"), 64, 64)
    assert torch.equal(encoder.state_dict()["core.backbone.conv1.weight"], resnet[1].conv1.weight)


def test_stored_weights_are_nan_until_a_checkpoint_brings_them(resnet):
    config = VisionConfig("resnet18", crop=0, weights=str(resnet[0] / "resnet18.pth"))
    first = VisualEncoder(config, 64, 64).eval()
    again = VisualEncoder(config.stored(), 64, 64).eval()
    assert not torch.isfinite(again(images())).any()
    again.load_state_dict(first.state_dict())
    assert torch.equal(first(images()), again(images()))


def test_files_that_do_not_fit_are_refused(resnet, tmp_path):
    folder, model = resnet

    def build(path, name="resnet18"):
        build_backbone(name, str(path))

    with pytest.raises(ConfigError, match=r"another architecture than resnet34.*missing.*layer1.2"):
        build(folder / "resnet18.pth", "resnet34")
    with pytest.raises(ConfigError, match="another architecture than mobilenet"):
        build(folder / "resnet18.safetensors", "mobilenet_v3_small")
    with pytest.raises(ConfigError, match=r"no file of weights.*absent.pth"):
        build(tmp_path / "absent.pth")
    (tmp_path / "damaged.safetensors").write_bytes((folder / "resnet18.safetensors").read_bytes()[:500])
    (tmp_path / "damaged.pth").write_bytes(b"nonsense")
    torch.save(model, tmp_path / "whole.pth")  # a pickled module would run code
    for name in ("damaged.safetensors", "damaged.pth", "whole.pth"):
        with pytest.raises(ConfigError, match="not a file of weights"):
            build(tmp_path / name)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="not a state dict"):
        build(tmp_path / "list.pth")
    torch.save({**model.state_dict(), "conv1.weight": torch.full((64, 3, 7, 7), torch.nan)}, tmp_path / "nan.pth")
    with pytest.raises(ConfigError, match=r"not finite.*conv1.weight"):
        build(tmp_path / "nan.pth")


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_vit_sees_where_things_are(pool):
    torch.manual_seed(0)
    encoder = VisualEncoder(VisionConfig("vit", crop=0, pool=pool), 64, 64)
    picture = torch.zeros(3, 64, 64, 3, dtype=torch.uint8)
    picture[0, :8, :8] = picture[1, :8, :8] = 255
    picture[2, 40:48, 16:24] = 255
    features = encoder(picture)
    assert features.shape == (3, 64)
    torch.testing.assert_close(features[0], features[1])
    assert (features[0] - features[2]).abs().max() > 1e-3
    features.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_refusals_of_configurations():
    with pytest.raises(ConfigError, match=r"whole number of patches.*mend: vision.crop=80"):
        VisualEncoder(VisionConfig("vit", crop=84), 96, 96)
    with pytest.raises(ConfigError, match=r"unknown backbone.*did you mean 'resnet18'"):
        VisionConfig("resnet_18")
    with pytest.raises(ConfigError, match=r"no such pool of vit.*cls"):
        VisionConfig("vit", pool="keypoints")
    with pytest.raises(ConfigError, match=r"trained from scratch.*resnet18"):
        VisionConfig("CompactConv", weights="auto")
    with pytest.raises(ConfigError, match="jitter"):
        VisionConfig(jitter=2.0)
    with pytest.raises(ConfigError, match="heads divide"):
        ViTConfig(width=100, heads=3)
