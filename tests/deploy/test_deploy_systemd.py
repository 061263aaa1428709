"""The daemon under systemd: what it says, when it falls silent, and the unit that runs it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robopolicy.cli.deploy_install import begin, install_service
from robopolicy.deploy.config import DaemonConfig, DeployConfig, RobotConfig, read_daemon
from robopolicy.deploy.control_socket import request
from robopolicy.deploy.daemon import Daemon
from robopolicy.deploy.systemd import BLOCKED_S, FRESH_S, STOP_PATIENCE_S, Service, main, unit_name, unit_text
from robopolicy.errors import CommandError, DeployError

S = 10**9
ROBOT = RobotConfig(
    target="robopolicy.deploy.drivers.sim_robot:SimRobotDriver",
    embodiment="panda",
    process="robopolicy.deploy.drivers.sim_process",
    plant="robopolicy.sim.plant:KinematicPlant",
)
PATIENT = DeployConfig(lookahead_ticks=10, robot_timeout_s=1.0, robot_watchdog_s=0.5, supervisor_timeout_s=5.0)
SWEEP = "robopolicy.deploy.scripted:sweep"


class Manager:
    """The other end of the notification socket."""

    def __init__(self, name):
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.setblocking(False)
        self.heard = []

    def read(self):
        """Lines that came since the last call."""
        lines = []
        while True:
            try:
                lines += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                self.heard += lines
                return lines

    def wait(self, line, limit_s=60.0):
        until = time.monotonic() + limit_s
        while line not in self.read():
            assert time.monotonic() < until, f"no {line} among {self.heard}"
            time.sleep(0.02)

    def close(self):
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    name = str(tmp_path / "notify") if request.param == "path" else f"@robopolicy-test-{os.getpid()}"
    it = Manager(name)
    yield it
    it.close()


def service(manager, **variables):
    clock = [100 * S]
    environment = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "1000000", "HOME": "/", **variables}
    it = Service(environment, lambda: clock[0])
    assert environment == {"HOME": "/"}  # no child may speak for the daemon
    return it, clock


def poll(it, age_s=0.01, *, ready=True, streaming=True, status=""):
    it.poll(ready=ready, realtime_age_s=age_s, streaming=streaming, status=status)


def test_ready_is_said_once_and_only_when_all_are(manager):
    it, _ = service(manager)
    poll(it, ready=False)
    assert "READY=1" not in manager.read()
    for _ in range(3):
        poll(it)
    assert manager.read().count("READY=1") == 1
    it.close()


def test_the_watchdog_is_fed_while_the_loop_ticks_and_starves_when_it_does_not(manager):
    it, clock = service(manager)

    def fed(seconds, age_s, **more):
        count = 0
        for _ in range(round(seconds * 100)):
            clock[0] += S // 100
            poll(it, age_s, **more)
            count += manager.read().count("WATCHDOG=1")  # the queue of a socket is short
        return count

    assert 29 <= fed(10, 0.01) <= 31  # three times in each interval
    assert fed(10, FRESH_S + 0.01) == 0
    assert fed(10, None) == 0
    assert fed(1, 5.0, streaming=False) > 0  # a driver that takes its time to connect
    assert fed(10, BLOCKED_S + 1, streaming=False) == 0
    assert fed(1, 0.01) > 0
    it.close()


@pytest.mark.parametrize("variables", [{"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_PID": "1"}])
def test_a_watchdog_that_is_not_ours_is_not_fed(manager, variables):
    it, clock = service(manager, **variables)
    clock[0] += 5 * S
    poll(it)
    assert manager.read() == ["READY=1"]
    it.close()


def test_the_status_is_one_line_and_not_said_all_the_time(manager):
    it, clock = service(manager, WATCHDOG_USEC="")
    for k in range(50):
        clock[0] += S // 100
        poll(it, status=f"RUNNING\n{k}")
    said = [line for line in manager.read() if line.startswith("STATUS=")]
    assert said == ["STATUS=RUNNING 0"]
    it.stopping()
    assert manager.read() == ["STOPPING=1", "STATUS=stopping as planned"]
    it.close()


def test_nobody_to_tell_and_nobody_who_listens_harm_nothing(tmp_path):
    it = Service({})
    assert not it.active
    poll(it)
    it.stopping()
    it.close()
    deaf = Service({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert deaf.active
    poll(deaf)
    deaf.stopping()
    deaf.close()


def test_ready_is_said_again_when_the_manager_was_too_busy_to_hear_it(manager):
    it, clock = service(manager)
    for _ in range(100):  # until the queue is full
        clock[0] += S
        poll(it, ready=False)
    poll(it)
    assert "READY=1" not in manager.read()
    poll(it)
    assert "READY=1" in manager.read()
    it.close()


def test_a_daemon_says_it_is_ready_and_falls_silent_with_its_loop(tmp_path, monkeypatch):
    manager = Manager(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    try:
        with Daemon(tmp_path / "run", DaemonConfig(SWEEP, ROBOT, PATIENT)) as daemon:
            status = daemon.wait_ready()
            manager.wait("READY=1")
            manager.wait("WATCHDOG=1")
            daemon.up()
            loop = status["processes"]["realtime"]["pid"]
            environment = Path(f"/proc/{loop}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in environment
            os.kill(loop, signal.SIGSTOP)
            try:
                time.sleep(2 * FRESH_S)
                manager.read()
                time.sleep(1.0)
                assert "WATCHDOG=1" not in manager.read()  # the supervisor lives, and says nothing
                assert daemon.status()["pid"]
            finally:
                os.kill(loop, signal.SIGCONT)
            manager.wait("WATCHDOG=1")
        manager.wait("STOPPING=1")
    finally:
        manager.close()


def test_the_units_stop_asks_for_the_planned_end_and_waits_for_it(tmp_path):
    with Daemon(tmp_path, DaemonConfig(SWEEP, ROBOT, PATIENT)) as daemon:
        daemon.up()
        pid = daemon.process.pid
        command = [sys.executable, "-m", "robopolicy.deploy.systemd", str(tmp_path), str(pid)]
        stop = subprocess.Popen(command)
        daemon.process.wait(60)  # as the manager would, or it stays in the table
        assert stop.wait(60) == 0
        with pytest.raises(DeployError):
            request(tmp_path, "status")
    assert main([str(tmp_path), str(pid)]) == 1  # control: there is nobody left to ask


def unit(tmp_path, *, user=False, **more):
    return unit_text(tmp_path, "panda", user=user, path=tmp_path / "it.service", **more)


def test_the_unit_says_what_a_robot_needs(tmp_path):
    text = unit(tmp_path, account="ana")
    lines = text.splitlines()
    for line in (
        "Type=notify",
        "NotifyAccess=main",
        "WatchdogSec=1",
        "WatchdogSignal=SIGTERM",
        "Restart=no",
        "LimitRTPRIO=90",
        "LimitMEMLOCK=infinity",
        "KillMode=control-group",
        "User=ana",
        f"ReadWritePaths={tmp_path}",
        f"ExecStart={sys.executable} -m robopolicy.deploy.supervisor {tmp_path}",
    ):
        assert line in lines
    stop_s = next(float(line.partition("=")[2]) for line in lines if line.startswith("TimeoutStopSec="))
    assert stop_s > STOP_PATIENCE_S
    # these would break the loop, the drivers or the policy
    settings = {line.partition("=")[0] for line in lines if not line.startswith("#")}
    broken = {"RestrictRealtime", "MemoryDenyWriteExecute", "PrivateDevices", "PrivateNetwork", "SystemCallFilter"}
    assert settings.isdisjoint(broken)
    own = unit(tmp_path, user=True)
    assert "User=" not in own
    assert "ProtectSystem" not in own
    assert "WantedBy=default.target" in own


def test_awkward_folders_are_quoted_and_impossible_ones_refused(tmp_path):
    awkward = tmp_path / 'a b%c"$d'
    text = unit(awkward)
    assert f'"{tmp_path}/a b%%c\\"$$d"' in text
    assert unit_name(awkward, "panda") == "robopolicy-panda-a-b-c-d.service"
    with pytest.raises(DeployError, match="rename"):
        unit(tmp_path / "x\nExecStartPre=/bin/false")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
@pytest.mark.parametrize("user", [True, False])
def test_systemd_itself_finds_nothing_wrong_with_the_unit(tmp_path, user):
    def complaints(text):
        path = tmp_path / "robopolicy-panda.service"
        path.write_text(text)
        command = ["systemd-analyze", "--user" if user else "--system", "--man=no", "--recursive-errors=no", "verify"]
        checked = subprocess.run(
            [*command, str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        )
        return [line for line in checked.stderr.splitlines() if path.name in line]

    folder = tmp_path / "run folder"
    folder.mkdir()
    text = unit_text(folder, "panda", user=user, path=tmp_path / "robopolicy-panda.service", account="root")
    assert complaints(text) == []
    assert complaints(text.replace("WatchdogSec=1", "WatchdogSeconds=1"))  # control


def test_install_service_writes_the_unit_and_what_it_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    assert begin([SWEEP, "robot=sim_panda", "out=run", "deploy.operator.port=8765", "--user"]) == 0
    path = tmp_path / "config" / "systemd" / "user" / "robopolicy-panda-run.service"
    assert str(path) in capsys.readouterr().out
    assert f"robopolicy.deploy.supervisor {tmp_path / 'run'}" in path.read_text()
    assert read_daemon(tmp_path / "run").deploy.operator.port == 8765
    path, commands = install_service(DaemonConfig(SWEEP, ROBOT, PATIENT), tmp_path / "other", user=False)
    assert path.parent == tmp_path / "other"
    assert commands[0].startswith("sudo install")


def test_install_service_leaves_a_running_daemon_alone(tmp_path):
    with Daemon(tmp_path, DaemonConfig(SWEEP, ROBOT, PATIENT)) as daemon:
        before = (tmp_path / "deploy.json").read_text()
        with pytest.raises(CommandError, match="a daemon runs"):
            install_service(DaemonConfig(SWEEP, ROBOT, DeployConfig()), tmp_path, user=False)
        assert (tmp_path / "deploy.json").read_text() == before
        assert daemon.status()["pid"]
