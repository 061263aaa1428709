"""Write an episode store in another format.

`robopolicy list formats` shows which ones. The result gets its name when it is complete; an export that was stopped
leaves nothing and starts over.

Examples:
  robopolicy data export runs/set.zarr runs/set_lerobot format=lerobot_v30
  robopolicy data export runs/set.zarr runs/set_lerobot format=lerobot_v30 options.codec=h264 options.crf=18
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robopolicy.cli.arguments import parse
from robopolicy.config import setting

__all__ = ["CONFIG", "ExportConfig", "run"]


@dataclass(frozen=True)
class ExportConfig:
    """Keys of ``robopolicy data export``."""

    store: str = setting("episode store")
    out: str = setting("file or folder to write")
    format: str = setting("name of the format")
    options: dict[str, Any] = setting("options of the format, as options.key=value", default={})


CONFIG = ExportConfig


def run(argv: Sequence[str]) -> int:
    """Export and say what could not be kept."""
    config = parse(ExportConfig, "data/export", argv, positional=("store", "out"))
    from robopolicy.data.export.engine import export

    report = export(config.store, config.out, format=config.format, options=config.options)
    for finding in report.findings:
        print(f"  {finding.severity:<8} {finding.kind}: {finding.message}")
    spent = f"{report.wall_s:.1f} s, {report.cpu_s:.1f} CPU-s"
    print(f"{report.out} ({report.format}): {report.episodes} episodes, {report.steps} steps; {spent}")
    return 0
