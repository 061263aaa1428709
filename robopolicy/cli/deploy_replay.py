"""``robopolicy deploy replay``: recompute a recorded run, or play its chunks on a robot.

Examples:
  robopolicy deploy replay runs/pick/deploy
  robopolicy deploy replay run.mcap control.velocity_scale=0.8     # what would another limit have done?
  robopolicy deploy replay run.mcap json=replay.json
  robopolicy deploy replay run.mcap robot=sim_panda                # play its chunks
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from robopolicy.cli.arguments import split_arguments
from robopolicy.errors import CommandError, explain

__all__ = ["begin", "recording_argument"]

TOPICS = ("/binary/tape", "/binary/state", "/binary/chunk", "/event")


def begin(argv: Sequence[str]) -> int:
    """Returns 0 when every setpoint came out as recorded."""
    path, rest = recording_argument("replay", argv)
    if any(word.startswith("robot=") for word in rest):
        return _play(path, rest)
    from robopolicy.deploy.replay import logs_of, recompute

    options, control = _options(rest)
    reports = []
    for log in logs_of(path, TOPICS):
        report = recompute(log, control=control)
        reports.append(report)
        print(
            f"session {log.run['session']}: {report.replayed} of {report.recorded} ticks, {report.setpoints} setpoints"
        )
        print(f"  {'every one bit for bit as recorded' if report.exact else f'{report.different} ticks differ'}")
        for line in [*([f"first: {report.first}"] if report.first else []), *report.notes]:
            print(f"  {line}")
    if "json" in options:
        Path(options["json"]).write_text(json.dumps([report.to_dict() for report in reports], indent=1) + "\n")
    return 0 if reports and all(report.exact for report in reports) else 1


def recording_argument(word: str, argv: Sequence[str]) -> tuple[Path, list[str]]:
    """The file or folder that a word is about, and the rest.

    Raises:
        CommandError: none given.
    """
    named, rest = split_arguments(argv, positional=("recording",))
    if "recording" not in named:
        raise CommandError(explain("which recording?", mend=f"robopolicy deploy {word} RUN_DIR or FILE.mcap"))
    return Path(named["recording"]), rest


def _options(rest: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    options: dict[str, str] = {}
    control: dict[str, Any] = {}
    for word in rest:
        key, _, value = word.partition("=")
        if key.startswith("control."):
            control[key.removeprefix("control.")] = yaml.safe_load(value)
        elif key == "json":
            options[key] = value
        else:
            raise CommandError(explain("unknown key", given=word, allowed="json=FILE, control.KEY=VALUE, robot=NAME"))
    return options, control


def _play(path: Path, rest: Sequence[str]) -> int:
    from robopolicy.cli.deploy import run
    from robopolicy.data.convert.blackbox_log import sessions

    file = path if path.is_file() else sessions(path)[-1][0]
    return run([str(file), *rest])
