"""The daemon as a systemd service: readiness, a watchdog that is fed only while the arm's loop ticks, and the unit.

The protocol is one datagram of ``KEY=value`` lines to the socket named in ``NOTIFY_SOCKET`` (sd_notify(3)); a name that
begins with ``@`` lies in the abstract namespace. Nothing is linked, and without that variable nothing is sent.

``python -m robopolicy.deploy.systemd RUN_DIR PID`` is the unit's ``ExecStop``: it asks for the planned end and waits.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

from robopolicy.deploy.control_socket import request
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.errors import DeployError, explain

__all__ = ["STOP_PATIENCE_S", "Service", "main", "unit_name", "unit_text"]

FRESH_S = 0.25
"""A real-time heartbeat younger than this is alive; the loop beats every tick."""
BLOCKED_S = 15.0
"""As above while nothing is streamed: a driver may take its time to connect to the robot and to power it."""
STOP_PATIENCE_S = 25.0
"""Longer than the planned stop of every process one after another (supervisor.PATIENCE_S each)."""
STATUS_EVERY_S = 1.0


class Service:
    """What the supervisor tells systemd. Does nothing where it was not started by systemd.

    Args:
        environment: Where the variables stand; they are taken out, so that no child speaks for the daemon.
        now_ns: Monotonic clock.

    Attributes:
        active: Whether there is anybody to tell.
    """

    def __init__(
        self, environment: MutableMapping[str, str] | None = None, now_ns: Callable[[], int] = monotonic_ns
    ) -> None:
        variables = os.environ if environment is None else environment
        name = variables.pop("NOTIFY_SOCKET", "")
        interval, meant_for = variables.pop("WATCHDOG_USEC", ""), variables.pop("WATCHDOG_PID", "")
        self._now_ns, self._ready = now_ns, False
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self.active = name.startswith(("/", "@"))
        watched = interval.isdigit() and int(interval) > 0 and meant_for in ("", str(os.getpid()))
        # A third of the interval, so that one late round does not look like a dead loop.
        self._feed_ns = int(interval) * 1000 // 3 if watched else 0
        self._fed_ns = self._told_ns = 0
        self._status = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if self.active else None
        if self._socket is not None:
            self._socket.setblocking(False)

    def poll(self, *, ready: bool, realtime_age_s: float | None, streaming: bool, status: str) -> None:
        """Called in every round of the supervisor.

        Args:
            ready: Every process has reported for duty; told once.
            realtime_age_s: Age of the real-time loop's heartbeat; None while it has none.
            streaming: Whether setpoints are sent in the arm's present state.
            status: One line for ``systemctl status``.
        """
        if self._socket is None:
            return
        now_ns = self._now_ns()
        lines = []
        if ready and not self._ready and self._send("READY=1"):  # again in the next round when it did not go out
            self._ready = True
        fresh = realtime_age_s is not None and realtime_age_s <= (FRESH_S if streaming else BLOCKED_S)
        if fresh and self._feed_ns and now_ns - self._fed_ns >= self._feed_ns:
            self._fed_ns = now_ns
            lines.append("WATCHDOG=1")
        if status != self._status and now_ns - self._told_ns >= STATUS_EVERY_S * 1e9:
            self._told_ns, self._status = now_ns, status
            lines.append("STATUS=" + status.replace("\n", " "))
        if lines:
            self._send("\n".join(lines))

    def stopping(self) -> None:
        """Say that the planned end has begun."""
        if self._socket is not None:
            self._send("STOPPING=1\nSTATUS=stopping as planned")

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> bool:
        # A manager that does not listen must not hold up the daemon; its watchdog then does what it is for.
        try:
            assert self._socket is not None
            self._socket.sendto(message.encode(), self._address)
        except OSError:
            return False
        return True


SYSTEM_HARDENING = """\
# What the daemon never needs. Left out on purpose, because it would break the arm's loop, its drivers or the policy:
# RestrictRealtime (SCHED_FIFO), MemoryDenyWriteExecute (ctypes, compiled networks), PrivateDevices (serial ports,
# cameras, GPU), PrivateNetwork (the robot's controller), a SystemCallFilter (mlockall, memfd_create, vendors' clients).
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={run}
PrivateTmp=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_CAN AF_PACKET
"""

UNIT = """\
# {path}
# Written by `robopolicy deploy install-service`; what runs is in {run_comment}/deploy.json.
# The service brings the arm up to OFFLINE and no further: a person connects, arms and enables it.
[Unit]
Description=robopolicy daemon of {robot}
Documentation=https://www.freedesktop.org/software/systemd/man/latest/systemd.service.html
After={after}
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={python} -m robopolicy.deploy.supervisor {run}
# Asks for the planned end and waits for it, so that nothing below is sent before the arm rests.
ExecStop=-{python} -m robopolicy.deploy.systemd {run} $MAINPID
WorkingDirectory={run_directory}
Environment=OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1{extra_environment}
{user_line}TimeoutStartSec=180
# Fed only while the real-time loop's heartbeat is fresh. A loop that is dead or stuck: planned end, not an abort.
WatchdogSec=1
WatchdogSignal=SIGTERM
TimeoutStopSec={stop_s:.0f}
TimeoutAbortSec={stop_s:.0f}
# Not mixed: when the supervisor dies, mixed has SIGKILL for the real-time loop at once, in motion. Here it gets
# SIGTERM, brakes within its limits, and ends.
KillMode=control-group
KillSignal=SIGTERM
# An arm that has stopped for a reason is not started by a machine; a person looks first.
Restart=no
LimitRTPRIO=90
LimitMEMLOCK=infinity
LimitNOFILE=8192
OOMScoreAdjust=-500
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
{hardening}
[Install]
WantedBy={wanted_by}
"""


def unit_name(run_dir: Path, robot: str) -> str:
    """File name of the unit of a run: ``robopolicy-<robot>-<folder>.service``, letters that systemd takes."""
    words = f"robopolicy-{robot}-{run_dir.resolve().name}"
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", words)[:200] + ".service"


def unit_text(
    run_dir: Path, robot: str, *, user: bool, path: Path, account: str = "", python: str = sys.executable
) -> str:
    """The unit that runs the daemon of ``run_dir``.

    Args:
        run_dir: Folder with ``deploy.json``.
        robot: For the description.
        user: For the user's own manager: no account, and without the lines that need the system's.
        path: Where the unit is going to stand; its first line says so.
        account: User under whom a system service runs; empty leaves it to whoever edits the unit.
        python: Interpreter in which robopolicy is installed.

    Raises:
        DeployError: a path that no unit can name.
    """
    run = str(run_dir.resolve())
    for text in (run, python, str(path), robot, account):
        if not text.isprintable():
            raise DeployError(explain("not to be written into a unit", given=ascii(text), mend="rename the folder"))
    quoted = _quoted(run)
    source = os.environ.get("PYTHONPATH", "")
    return UNIT.format(
        path=path,
        robot=robot.replace("%", "%%"),
        python=_quoted(python),
        run=quoted,
        run_directory=run.replace("%", "%%"),
        run_comment=run,
        after="default.target" if user else "network-online.target",
        extra_environment=f" {_quoted('PYTHONPATH=' + source)}" if source else "",
        user_line="" if user or not account else f"User={account}\n",
        stop_s=STOP_PATIENCE_S + 5.0,
        hardening="" if user else SYSTEM_HARDENING.format(run=quoted),
        wanted_by="default.target" if user else "multi-user.target",
    )


def _quoted(word: str) -> str:
    """One word of a command line in a unit: no specifier, no variable, no split."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[\s'\"\\;]", escaped) else escaped


def main(argv: list[str] | None = None) -> int:
    """Ask the daemon of RUN_DIR to end as planned and wait until process PID is gone. -> 0 when it is."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    run_dir, main_pid = Path(arguments[0]), int(arguments[1]) if len(arguments) > 1 and arguments[1].isdigit() else 0
    try:
        request(run_dir, "shutdown", timeout_s=2.0)
    except DeployError as error:
        print(error, file=sys.stderr)
        return 1
    until = time.monotonic() + STOP_PATIENCE_S
    while main_pid and os.path.exists(f"/proc/{main_pid}"):
        if time.monotonic() > until:
            return 1
        time.sleep(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(main())
