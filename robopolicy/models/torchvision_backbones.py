"""torchvision's image classifiers without their heads, from scratch or with weights from a local file.

Nothing is downloaded. From scratch, BatchNorm is replaced by GroupNorm. With pretrained weights it stays, frozen: its
statistics and its affine part are constants, as in DETR and ACT (Carion et al. 2020; Zhao et al. 2023), so that no
statistics of a batch are ever used or updated, and averaged weights see the layer that the raw ones see.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from robopolicy.errors import ConfigError, explain
from robopolicy.models.vision_layers import group_norm

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "STORED", "TORCHVISION", "build_backbone", "cached_file", "read_tensors"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION: dict[str, tuple[str, tuple[str, ...], int]] = {
    "resnet18": ("ResNet18_Weights", ("avgpool", "fc"), 512),
    "resnet34": ("ResNet34_Weights", ("avgpool", "fc"), 512),
    "mobilenet_v3_small": ("MobileNet_V3_Small_Weights", ("avgpool", "classifier"), 576),
}
"""Name in torchvision -> its weights there, the parts that are cut off, channels of the last map (stride 32)."""
STORED = "stored"
"""In the place of a file: the weights come with the checkpoint that is being loaded."""


def build_backbone(name: str, weights: str | None) -> tuple[nn.Sequential, int]:
    """[N, 3, H, W] -> [N, C, ceil(H / 32), ceil(W / 32)], and C.

    Args:
        name: One of :data:`TORCHVISION`.
        weights: None for from scratch, ``auto`` for torchvision's cache folder, a file (safetensors, or a state dict
            written by ``torch.save``), or :data:`STORED`.

    Raises:
        ConfigError: no such file, an unreadable one, or one of another architecture.
    """
    import torchvision

    _, cut, channels = TORCHVISION[name]
    norm: Any = group_norm
    if weights is not None:
        norm = torchvision.ops.FrozenBatchNorm2d
        if name == "mobilenet_v3_small":
            norm = partial(norm, eps=1e-3)  # the network's own, which a norm_layer of ours would lose
    model = getattr(torchvision.models, name)(weights=None, norm_layer=norm)
    kept = nn.Sequential(OrderedDict((n, part) for n, part in model.named_children() if n not in cut))
    if weights == STORED:
        _poison(kept)
    elif weights is not None:
        path = cached_file(name) if weights == "auto" else Path(weights).expanduser()
        _load(kept, read_tensors(path), name, path, cut)
    return kept, channels


def cached_file(name: str) -> Path:
    """Where torchvision would have put the default weights.

    Raises:
        ConfigError: they are not there.
    """
    import torchvision

    url = getattr(torchvision.models, TORCHVISION[name][0]).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        raise ConfigError(
            explain(
                f"no weights of {name} on this machine, and nothing is downloaded",
                given=path,
                mend="put the file there, give vision.weights=<file>, or vision.weights=null to train from scratch",
            )
        )
    return path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a ``.safetensors`` file, or of a state dict that ``torch.save`` wrote; code is never run.

    Raises:
        ConfigError: absent, damaged, or something else than tensors by name.
    """
    if not path.is_file():
        raise ConfigError(explain("no file of weights", given=path, mend="vision.weights=<file> that exists, or null"))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise what they like on bytes that are not theirs
        raise ConfigError(
            explain(
                "not a file of weights",
                given=f"{path}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                allowed="safetensors, or a state dict of tensors written by torch.save",
            )
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ConfigError(
            explain("not a state dict", given=path, allowed="name -> tensor", mend="save model.state_dict()")
        )
    return dict(found)


def _load(module: nn.Module, tensors: Mapping[str, Tensor], name: str, path: Path, cut: tuple[str, ...]) -> None:
    """Every tensor of the module from the file; the head and BatchNorm's counters stay behind."""
    wanted = module.state_dict()
    kept = {
        key: value
        for key, value in tensors.items()
        if key.partition(".")[0] not in cut and not key.endswith("num_batches_tracked")
    }
    missing, unexpected = sorted(wanted.keys() - kept.keys()), sorted(kept.keys() - wanted.keys())
    misshapen = [key for key in wanted if key in kept and wanted[key].shape != kept[key].shape]
    if missing or unexpected or misshapen:
        raise ConfigError(
            explain(
                f"{path} holds weights of another architecture than {name}: {len(missing)} missing {missing[:2]}, "
                f"{len(unexpected)} unexpected {unexpected[:2]}, {len(misshapen)} of another shape {misshapen[:2]}",
                allowed=f"a state dict of torchvision's {name}",
                mend="choose the backbone that the file was saved from",
            )
        )
    bad = [key for key, value in kept.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if bad:
        raise ConfigError(explain(f"{path} holds weights that are not finite", given=bad[:3]))
    module.load_state_dict(kept, strict=True)


def _poison(module: nn.Module) -> None:
    """NaN until a checkpoint brings the values: nobody can train on what was never loaded."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(torch.nan)
