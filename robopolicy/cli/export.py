"""Write a trained policy as ONNX, to be run without its weights in torch.

The graph goes from an observation and a noise to the normalised chunk; policy.json beside it has the embodiment, the
normaliser and the sampler's grid. robopolicy deploy takes the folder in the place of a run.

Examples:
  robopolicy export runs/pick out=runs/pick_onnx
  robopolicy export runs/pick out=runs/pick_fast 'sampler={kind: ddim, steps: 4}'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robopolicy.cli.arguments import parse
from robopolicy.config import setting

__all__ = ["CONFIG", "ExportConfig", "run"]


@dataclass(frozen=True)
class ExportConfig:
    """Keys of ``robopolicy export``."""

    policy: str = setting("run or checkpoint folder; also the first argument")
    out: str = setting("folder to write, or a name that ends in .onnx")
    embodiment: str | None = setting("of a policy of several robots: the one it shall drive")
    sampler: dict[str, Any] | None = setting("other sampler than the trained one: {kind: ddim, steps: 4}")
    weights: Literal["ema", "raw"] = setting("averaged weights, or those of the last step")
    which: Literal["last", "best"] = setting("checkpoint of a run: the last, or the one chosen by validation loss")


CONFIG = ExportConfig


def run(argv: Sequence[str]) -> int:
    """Load, export, say where."""
    config = parse(ExportConfig, "export", argv, positional=("policy",))
    from robopolicy.export import export_policy
    from robopolicy.exported import read_document
    from robopolicy.policies.denoising import DenoisingPolicy, SamplerConfig
    from robopolicy.policies.loading import load_policy
    from robopolicy.schema import build

    policy = load_policy(
        config.policy, device="cpu", weights=config.weights, which=config.which, embodiment=config.embodiment
    )
    if config.sampler and isinstance(policy, DenoisingPolicy):
        policy.set_sampler(build(SamplerConfig, config.sampler, where="sampler"))
    folder = export_policy(policy, config.out)
    print(f"exported: {folder}")
    difference = read_document(folder)["largest_difference"]
    told = "not compared: onnxruntime is not installed" if difference is None else f"differs by {difference:.1e}"
    print(f"normalised chunks, graph and policy: {told}")
    return 0
