"""The tiny parent of the daemon: owns the intent, starts and watches the other processes, answers the control socket.

``python -m robopolicy.deploy.supervisor RUN_DIR [PARENT_PID]``. It sends events to the real-time loop; whether they are
carried out is decided there, by the table in :mod:`robopolicy.deploy.state_machine`. When the supervisor dies, however
it dies, the kernel ends the worker, the loop brakes and holds, and then loop and simulated robot end by themselves.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from robopolicy.deploy.blackbox_status import Revival, recording_of
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig, read_daemon
from robopolicy.deploy.control_socket import ControlServer
from robopolicy.deploy.monitor import Monitor, report_of
from robopolicy.deploy.process import ParentWatch
from robopolicy.deploy.records import Layout
from robopolicy.deploy.state_machine import OPERATOR_EVENTS, State
from robopolicy.deploy.systemd import Service
from robopolicy.errors import DeployError, explain
from robopolicy.seeding import SPLITS

__all__ = ["Supervisor", "main"]

MODULES = {"realtime": "robopolicy.deploy.realtime", "worker": "robopolicy.deploy.policy_worker"}
POLL_S = 0.01
PATIENCE_S = 6.0


class Supervisor:
    """Processes, events and answers of one daemon.

    Args:
        run_dir: Folder with ``deploy.json``; logs and the socket go there.
        config: What to run.
    """

    def __init__(self, run_dir: Path, config: DaemonConfig):
        self._run_dir, self._config = run_dir, config
        self._modules = dict(MODULES)
        if config.robot.process:
            self._modules["robot"] = config.robot.process
        if config.has_sensors:
            self._modules["sensors"] = "robopolicy.deploy.sensors"
        if config.deploy.guardian:
            self._modules["guardian"] = "robopolicy.deploy.guardian"
        if config.deploy.operator.port >= 0:
            self._modules["operator"] = "robopolicy.deploy.operator"
        if config.deploy.blackbox:
            self._modules["logger"] = "robopolicy.deploy.logger"
        layout = Layout.of(
            config.card,
            cameras=config.cameras,
            chunk_steps=config.deploy.max_chunk_steps,
            state_capacity=config.deploy.state_capacity,
        )
        self._bus = Bus(layout)
        self.monitor = Monitor(self._bus)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, IO[bytes]] = {}
        self._reported: set[int] = set()
        self._service = Service()
        self._revival = Revival()
        self.leaving = False

    def start(self) -> None:
        """Start all processes."""
        for name in ("robot", "guardian", "logger", "realtime", "sensors", "worker", "operator"):
            if name in self._modules:
                self.spawn(name)

    def spawn(self, name: str) -> None:
        """Start (again) the process of that name."""
        if name not in self._logs:
            self._logs[name] = (self._run_dir / f"{name}.log").open("ab")
        self._bus.heartbeat.clear(name)
        self._children[name] = subprocess.Popen(
            [sys.executable, "-m", self._modules[name], str(self._run_dir), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=self._logs[name],
            stderr=self._logs[name],
            pass_fds=tuple(self._bus.fds.values()),
            env={**os.environ, **self._bus.environment()},
        )

    def poll(self) -> None:
        """Show that we live, read what happened, and tell the loop about the dead."""
        self._bus.heartbeat.beat("supervisor")
        self.monitor.poll()
        for name, child in self._children.items():
            if child.poll() is not None and child.pid not in self._reported:
                self._reported.add(child.pid)
                self._bus.heartbeat.clear(name)
                if name in ("worker", "robot"):
                    self._bus.post_event(f"{name}_lost")

        logger = self._children.get("logger")
        if logger is not None and logger.poll() is not None and not self.leaving and self._revival.due():
            self.spawn("logger")
        self._tell_service()

    def _tell_service(self) -> None:
        """Feed systemd's watchdog, only while the arm's loop ticks; nothing where systemd did not start us."""
        if self._service.active:
            beat, state = self._bus.heartbeat, self.monitor.state()
            ready = all(c.poll() is None and beat.age_s(n) is not None for n, c in self._children.items())
            status = f"{state['state']} {state['reason']}".strip()
            streaming = State[state["state"]].streaming
            self._service.poll(ready=ready, realtime_age_s=beat.age_s("realtime"), streaming=streaming, status=status)

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request of the control socket.

        Raises:
            DeployError: unknown command, bad argument, or refused.
        """
        command = request["command"]
        if command in OPERATOR_EVENTS:
            return self._operate(command)
        answers = {
            "status": self._status,
            "episode": lambda: {"episode": self.monitor.episode(), "report": report_of(self._bus)},
            "begin_episode": self._begin_episode,
            "snapshot": lambda: {"order": self._bus.post_command("snapshot")},
            "restart_worker": self._restart_worker,
            "shutdown": self._shutdown,
        }
        if command == "reset_scene":
            return self._reset_scene(request)
        if command not in answers:
            allowed = [*OPERATOR_EVENTS, "reset_scene", *answers]
            raise DeployError(explain("unknown command", given=command, allowed=allowed))
        return answers[command]()

    def _operate(self, command: str) -> dict[str, Any]:
        if command == "start" and self._bus.heartbeat.age_s("worker") is None:
            raise DeployError(
                explain(
                    "the policy is not ready", mend="wait for ready: true in the status, or read worker.log of the run"
                )
            )
        if command == "arm" and "robot" in self._modules:
            self._bus.post_command("recover")
        return {"event": self._bus.post_event(command)}

    def _reset_scene(self, request: dict[str, Any]) -> dict[str, Any]:
        split, index = request.get("split"), request.get("index")
        if split not in SPLITS or not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise DeployError(
                explain("bad scene", given=f"{split!r}, {index!r}", allowed=f"split of {SPLITS}, index >= 0")
            )
        if "robot" not in self._modules:
            raise DeployError(explain("only a simulated robot can set up a scene", given=self._config.robot.target))
        state = self.monitor.state()["state"]
        if state not in ("OFFLINE", "CONNECTED", "ARMED", "FAULT", "ESTOP"):
            raise DeployError(
                explain("a scene is set up while nothing is streamed", given=state, mend="send disable first")
            )
        return {"order": self._bus.post_command("reset", split, index)}

    def _status(self) -> dict[str, Any]:
        beat = self._bus.heartbeat
        processes = {
            name: {
                "pid": child.pid,
                "alive": child.poll() is None,
                "exit": child.returncode,
                "ready": child.poll() is None and beat.age_s(name) is not None,
            }
            for name, child in self._children.items()
        }
        state = self.monitor.state()
        if self._children and self._children["realtime"].poll() is not None:
            state["state"] = "OFFLINE"
        return {
            **state,
            "pid": os.getpid(),
            "processes": processes,
            "scene": self.monitor.scene(),
            "report": report_of(self._bus),
            "blackbox": recording_of(self._bus),
        }

    def _begin_episode(self) -> dict[str, Any]:
        self.monitor.begin_episode()
        return {}

    def _restart_worker(self) -> dict[str, Any]:
        worker = self._children["worker"]
        if worker.poll() is None:
            raise DeployError(explain("the policy worker is alive", given=f"pid {worker.pid}", mend="stop it first"))
        self.poll()
        self.spawn("worker")
        return {"pid": self._children["worker"].pid}

    def _shutdown(self) -> dict[str, Any]:
        self.leaving = True
        return {}

    def close(self) -> None:
        """End everything in order: the loop brakes and holds first, then the worker, then the robot's body."""
        self._service.stopping()
        order = {
            "realtime": signal.SIGTERM,
            "guardian": signal.SIGTERM,
            "worker": signal.SIGKILL,
            "sensors": signal.SIGTERM,
        }
        # the page last but one: it shows how the arm came to rest
        order |= {"operator": signal.SIGTERM, "robot": signal.SIGTERM, "logger": signal.SIGTERM}
        for name, number in order.items():
            child = self._children.get(name)
            if child is not None and child.poll() is None:
                child.send_signal(number)
                self._await(child)
        for log in self._logs.values():
            log.close()
        self._service.close()
        self._bus.close()

    def _await(self, child: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + PATIENCE_S
        while child.poll() is None:
            self._bus.heartbeat.beat("supervisor")
            if time.monotonic() > until:
                child.kill()
            time.sleep(0.005)


def main(argv: list[str] | None = None) -> int:
    """Run until told to leave, by request, by SIGTERM, or because the process that started it is gone."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    run_dir = Path(arguments[0])
    parent = ParentWatch(int(arguments[1])) if len(arguments) > 1 else None
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context((run_dir / "deploy.lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(
                explain("a daemon already runs in this folder", given=run_dir, mend="choose another out="),
                file=sys.stderr,
            )
            return 2
        supervisor = Supervisor(run_dir, read_daemon(run_dir))
        signal.signal(signal.SIGTERM, lambda *_: setattr(supervisor, "leaving", True))
        signal.signal(signal.SIGINT, lambda *_: setattr(supervisor, "leaving", True))
        stack.callback(supervisor.close)
        server = ControlServer(run_dir, supervisor.handle)
        stack.callback(server.close)
        supervisor.start()
        while not supervisor.leaving and not (parent is not None and parent.lost):
            server.poll(POLL_S)
            supervisor.poll()
    return 0


if __name__ == "__main__":
    sys.exit(main())
