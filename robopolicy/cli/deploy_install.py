"""Write the systemd unit that runs a daemon as a service; nothing is installed or started.

The unit watches the arm's loop and never starts again by itself; after boot the arm is OFFLINE until a person arms it.

Examples:
  robopolicy deploy install-service runs/pick robot=ur5e out=/var/lib/robopolicy/pick deploy.operator.port=8765
  robopolicy deploy install-service runs/pick robot=sim_panda --user
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence
from pathlib import Path

from robopolicy.cli.arguments import parse
from robopolicy.config import to_dict
from robopolicy.deploy.config import DaemonConfig, write_daemon
from robopolicy.deploy.control_socket import request
from robopolicy.deploy.policy_source import cameras_of, check_policy
from robopolicy.deploy.systemd import unit_name, unit_text
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import CommandError, DeployError, explain

__all__ = ["begin", "install_service"]


def begin(argv: Sequence[str]) -> int:
    """``robopolicy deploy install-service RUN robot=... [--user]``. Returns 0.

    Raises:
        CommandError: a daemon runs in the folder.
    """
    from robopolicy.cli.deploy import CliConfig

    user = "--user" in argv
    config = parse(CliConfig, "deploy", [a for a in argv if a != "--user"], positional=("policy",))
    # A service begins in its own folder: a path that is relative here would mean something else there.
    policy = str(Path(config.policy).resolve()) if Path(config.policy).exists() else config.policy
    home = Path(policy) / "deploy" if Path(policy).is_dir() else Path("runs/deploy")
    card = load_embodiment(config.robot.embodiment)
    check_policy(policy)
    cameras = cameras_of(policy, card, config.deploy.remote) if config.cameras is None else config.cameras
    daemon = DaemonConfig(policy, config.robot, config.deploy, to_dict(config.control), cameras)
    path, commands = install_service(daemon, Path(config.out) if config.out else home, user=user)
    print(path)
    print("look at it, then:")
    for command in commands:
        print(f"  {command}")
    return 0


def install_service(config: DaemonConfig, out: Path, *, user: bool) -> tuple[Path, list[str]]:
    """Write ``deploy.json`` and the unit.

    Args:
        config: What the service runs.
        out: Run folder of the daemon.
        user: Into the user's own units; otherwise into the run folder, for an administrator to install.

    Returns:
        Where the unit stands, and the commands that take it up.

    Raises:
        CommandError: a daemon runs in that folder.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        request(out, "status", timeout_s=2.0)
    except DeployError:
        write_daemon(config, out)
    else:
        raise CommandError(explain("a daemon runs in this folder", given=out, mend=f"robopolicy deploy shutdown {out}"))
    name = unit_name(out, config.robot.embodiment)
    units = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"
    folder = units if user else out
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    account = "" if user else getpass.getuser()
    path.write_text(unit_text(out, config.robot.embodiment, user=user, path=path, account=account))
    manager = "systemctl --user" if user else "sudo systemctl"
    first = [] if user else [f"sudo install -m 644 '{path}' /etc/systemd/system/{name}"]
    return path, [*first, f"{manager} daemon-reload", f"{manager} start {name}", f"{manager} status {name}"]
