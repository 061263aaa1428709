"""Starting a daemon and talking to it from Python: the client side of the control socket."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from robopolicy.deploy.config import DaemonConfig, write_daemon
from robopolicy.deploy.control_socket import SOCKET_NAME, request
from robopolicy.errors import DeployError, explain

__all__ = ["Daemon"]

READY_S = 120.0
"""Loading a checkpoint on a slow disk takes a while."""


class Daemon:
    """A running daemon; leaving the context stops the arm as planned and ends every process.

    Args:
        run_dir: Folder of the run; made when missing.
        config: What to run.
    """

    def __init__(self, run_dir: str | Path, config: DaemonConfig):
        self.run_dir, self.config = Path(run_dir), config
        self.run_dir.mkdir(parents=True, exist_ok=True)
        write_daemon(config, self.run_dir)
        (self.run_dir / SOCKET_NAME).unlink(missing_ok=True)
        with (self.run_dir / "supervisor.log").open("ab") as log:
            # A session of its own: Ctrl-C in the terminal reaches the client, which then asks for a planned stop.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "robopolicy.deploy.supervisor", str(self.run_dir), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._await_socket()
        except BaseException:
            self.close()
            raise

    def request(self, command: str, **arguments: Any) -> dict[str, Any]:
        """One request to the supervisor.

        Raises:
            DeployError: refused, or the daemon is gone; the message ends with what its logs say.
        """
        return request(self.run_dir, command, **arguments)

    def status(self) -> dict[str, Any]:
        """State of the arm, the processes, the scene and the robot's report."""
        return self.request("status")

    def wait(
        self, condition: Callable[[dict[str, Any]], bool], *, what: str, timeout_s: float = 10.0, poll_s: float = 0.01
    ) -> dict[str, Any]:
        """Poll the status until ``condition`` holds. -> that status.

        Raises:
            DeployError: it did not come true in time, or a process has died on its own.
        """
        until = time.monotonic() + timeout_s
        while True:
            status = self.status()
            if condition(status):
                return status
            if time.monotonic() > until:
                raise DeployError(
                    explain(
                        f"waited {timeout_s} s in vain for {what}",
                        given=f"state {status['state']}, reason '{status['reason']}', message '{status['message']}'",
                        mend=f"read the logs in {self.run_dir}: {self.log_tail()}",
                    )
                )
            time.sleep(poll_s)

    def send(self, event: str, state: str, *, timeout_s: float = 10.0) -> dict[str, Any]:
        """Send an event and wait for the state that it has to lead to. -> status.

        Raises:
            DeployError: it did not.
        """
        number = self.request(event)["event"]
        return self.wait(
            lambda s: s["state"] == state and s.get("events_done", 0) >= number,
            what=f"{state} after {event}",
            timeout_s=timeout_s,
        )

    def wait_ready(self, timeout_s: float = READY_S) -> dict[str, Any]:
        """Until every process has reported for duty, the policy warmed up.

        Raises:
            DeployError: one of them ended.
        """

        def ready(status: dict[str, Any]) -> bool:
            # nobody waits for the logger
            needed = {n: p for n, p in status["processes"].items() if n != "logger"}
            dead = [n for n, p in needed.items() if not p["alive"]]
            if dead:
                raise DeployError(
                    explain(f"process {', '.join(dead)} ended while starting", given=self.log_tail(*dead))
                )
            return all(p["ready"] for p in needed.values())

        return self.wait(ready, what="all processes to be ready", timeout_s=timeout_s)

    def up(self) -> None:
        """From wherever to HOLD: ready, connected, armed, enabled."""
        status = self.wait_ready()
        if status["state"] == "OFFLINE":
            status = self.send("connect", "CONNECTED")
        if status["state"] in ("CONNECTED", "FAULT", "ESTOP"):
            status = self.send("arm", "ARMED")
        if status["state"] == "ARMED":
            self.send("enable", "HOLD")

    def log_tail(self, *names: str) -> str:
        """Last lines of the logs, for messages."""
        chosen = names or ("supervisor", "realtime", "worker", "robot")
        tails = []
        for name in chosen:
            path = self.run_dir / f"{name}.log"
            lines = path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
            if lines:
                tails.append(f"{name}: {lines[-1][:400]}")
        return " | ".join(tails) or "(empty)"

    def close(self) -> None:
        """Planned stop, then the end of every process."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _await_socket(self) -> None:
        until = time.monotonic() + 30.0
        while True:
            if self.process.poll() is not None:
                raise DeployError(explain("the supervisor ended while starting", given=self.log_tail("supervisor")))
            try:
                self.status()
            except DeployError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
            else:
                return
