"""Convert a data set of another format into an episode store, with an audit of what was found.

The format is recognised; `robopolicy list formats` shows them. A conversion that was stopped, by Ctrl-C or worse,
continues when the same command is given again. What was found is in DST.zarr/audit.json.

Examples:
  robopolicy data convert SRC runs/set.zarr
  robopolicy data convert SRC runs/set.zarr workers=2 image_size=[240,320]
  robopolicy data convert SRC runs/set.zarr format=lerobot_v21 options.embodiment=unitree_g1_inspire
  robopolicy data convert format=lerobot_v21 --help      # and the options of that format
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robopolicy.cli.arguments import describe_keys, parse
from robopolicy.config import setting

__all__ = ["CONFIG", "ConvertConfig", "more_help", "run"]


@dataclass(frozen=True)
class ConvertConfig:
    """Keys of ``robopolicy data convert``."""

    source: str = setting("file or folder to convert")
    out: str = setting("episode store to make or to continue")
    format: str = setting("name of the format, auto to recognise it", default="auto")
    options: dict[str, Any] = setting("options of the format, as options.key=value", default={})
    workers: int = setting("processes that read and encode", default=1, ge=1)
    codec: Literal["jpeg", "raw"] = setting("how frames are stored", default="jpeg")
    embodiment: str | None = setting("card that replaces the one of the source", default=None)
    image_size: tuple[int, int] | None = setting("height and width of all cameras, null to leave them", default=None)
    repair: tuple[str, ...] = setting("repairs to be made, as the findings name them", default=())
    skip_bad: bool = setting("leave out episodes that cannot be used", default=False)
    limit: int | None = setting("only so many episodes", default=None, ge=1)
    any_rate: bool = setting("accept episodes of another rate than the nominal one", default=False)
    progress: bool = setting("show progress", default=True)


CONFIG = ConvertConfig


def more_help(overrides: Sequence[str]) -> str:
    """The options of the format that was named, or how to see them."""
    named = [text.removeprefix("format=") for text in overrides if text.startswith("format=")]
    if not named:
        return "\nOptions of a format: robopolicy data convert format=NAME --help"
    from robopolicy.data.convert.recognise import load_format

    return f"\nOptions of {named[-1]}, as options.key=value:\n" + describe_keys(load_format(named[-1]).options, "")


def run(argv: Sequence[str]) -> int:
    """Convert and print the audit in short."""
    config = parse(ConvertConfig, "data/convert", argv, positional=("source", "out"))
    from robopolicy.cli.progress import Progress
    from robopolicy.data.audit import AUDIT_FILE, table
    from robopolicy.data.convert.engine import convert

    bar: Progress | None = None

    def tell(done: int, total: int, note: str) -> None:
        nonlocal bar
        if bar is None:
            bar = Progress("convert", total, done - 1)
            bar.__enter__()
        bar.show(done, note)

    try:
        report = convert(
            config.source,
            config.out,
            format=config.format,
            options=config.options,
            workers=config.workers,
            codec=config.codec,
            embodiment=config.embodiment,
            image_size=config.image_size,
            repair=config.repair,
            skip_bad=config.skip_bad,
            limit=config.limit,
            progress=tell if config.progress else None,
            any_rate=config.any_rate,
        )
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)
    print(table(report.audit))
    rate = f"{report.converted} new in {report.wall_s:.1f} s, {report.cpu_s:.1f} CPU-s"
    left = f"; left out: {', '.join(report.skipped[:8])}" if report.skipped else ""
    print(f"{report.out} ({report.format}): {report.episodes} episodes, {report.steps} steps; {rate}{left}")
    print(f"the whole audit: {report.out / AUDIT_FILE}")
    return 0
