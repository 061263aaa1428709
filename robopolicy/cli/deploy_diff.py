"""``robopolicy deploy diff``: commanded against measured, joint by joint: lag, RMS and largest difference.

Examples:
  robopolicy deploy diff runs/pick/deploy
  robopolicy deploy diff run.mcap json=diff.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from robopolicy.cli.deploy_replay import recording_argument
from robopolicy.errors import CommandError, explain

__all__ = ["begin"]


def begin(argv: Sequence[str]) -> int:
    """Print the table of every session; returns 0."""
    from robopolicy.deploy.replay import logs_of
    from robopolicy.deploy.replay_diff import compare_motion, table

    path, rest = recording_argument("diff", argv)
    unknown = [word for word in rest if not word.startswith("json=")]
    if unknown:
        raise CommandError(explain("unknown key", given=unknown, allowed="json=FILE"))
    found = {}
    for log in logs_of(path, ("/binary/tape", "/binary/state", "/binary/frame")):
        joints = compare_motion(log)
        found[str(log.run["session"])] = [joint.to_dict() for joint in joints]
        print(f"session {log.run['session']}")
        print(table(joints))
    for word in rest:
        Path(word.removeprefix("json=")).write_text(json.dumps(found, indent=1) + "\n")
    return 0
