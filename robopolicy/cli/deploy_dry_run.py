"""``robopolicy deploy dry-run``: the robot is read, the policy decides, the limiter judges, and nothing is sent.

Ctrl-C ends it. What would have been sent is in the black box of the run folder: robopolicy deploy diff.

Examples:
  robopolicy deploy dry-run runs/pick robot=ur5e
  robopolicy deploy dry-run expert robot=sim_panda
"""

from __future__ import annotations

from collections.abc import Sequence

from robopolicy.errors import CommandError, explain

__all__ = ["begin"]


def begin(argv: Sequence[str]) -> int:
    """Returns what ``robopolicy deploy`` returns.

    Raises:
        CommandError: episodes are asked for; nothing would happen in them.
    """
    from robopolicy.cli.deploy import run

    if any(word.startswith("episodes=") for word in argv):
        raise CommandError(explain("a dry run has no episodes: nothing moves", mend="leave episodes= out"))
    out = [] if any(word.startswith("out=") for word in argv) else ["out=runs/dry_run"]
    return run([*argv, *out, "deploy.dry_run=true", "deploy.blackbox=true", "deploy.guardian=false"])
