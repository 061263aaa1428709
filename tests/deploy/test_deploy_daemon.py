"""The whole daemon with real processes: what happens to the arm when each of them is killed.

The robot is the kinematic plant, the policy a sine; what counts is the robot's own record. Nothing here depends on how
fast the machine is, only on what comes after what.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from robopolicy.deploy.config import DaemonConfig, DeployConfig, RobotConfig
from robopolicy.deploy.control_socket import request
from robopolicy.deploy.daemon import Daemon
from robopolicy.deploy.episodes import kill_test, run_deploy_episodes
from robopolicy.errors import DeployError

ROBOT = RobotConfig(
    target="robopolicy.deploy.drivers.sim_robot:SimRobotDriver",
    embodiment="panda",
    process="robopolicy.deploy.drivers.sim_process",
    plant="robopolicy.sim.plant:KinematicPlant",
    options={"success_m": 0.03},
)
# Wide enough for a machine that does other things as well.
PATIENT = DeployConfig(lookahead_ticks=10, robot_timeout_s=1.0, robot_watchdog_s=0.5, supervisor_timeout_s=5.0)
SWEEP, HOLD = "robopolicy.deploy.scripted:sweep", "robopolicy.deploy.scripted:hold"


def config(policy=SWEEP, deploy=PATIENT):
    return DaemonConfig(policy, ROBOT, deploy)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_gone(pids, limit_s=20.0):
    until = time.monotonic() + limit_s
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return [pid for pid in pids if alive(pid)]


def pids(daemon):
    status = daemon.status()
    return {"supervisor": status["pid"], **{name: p["pid"] for name, p in status["processes"].items()}}


def drive(daemon):
    """Up and in motion."""
    daemon.up()
    daemon.request("start")

    def moves(status):
        if status["state"] == "HOLD" and status["reason"] == "overrun":
            daemon.request("start")  # the machine stood still for a while, which is not what is tested here
        return status["state"] == "RUNNING" and not status["report"]["at_rest"]

    return daemon.wait(moves, what="motion", timeout_s=30.0, poll_s=0.05)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with Daemon(tmp_path_factory.mktemp("daemon"), config()) as it:
        yield it
        ids = pids(it)
    assert wait_gone(ids.values()) == []
    assert not (it.run_dir / "supervisor.sock").exists()


def test_the_realtime_process_imports_nothing_heavy(daemon):
    daemon.wait_ready()
    assert "heavy modules loaded: []" in (daemon.run_dir / "realtime.log").read_text()
    maps = Path(f"/proc/{pids(daemon)['realtime']}/maps").read_text()
    assert "libtorch" not in maps
    assert "libmujoco" not in maps
    assert "numpy" in maps  # control: the list does show what was loaded


def test_it_drives_and_stops_as_planned(daemon):
    drive(daemon)
    status = daemon.send("stop", "HOLD")
    assert status["reason"] == "operator"
    daemon.wait(lambda s: s["report"]["at_rest"], what="rest")
    assert sum(daemon.status()["report"]["violations"].values()) == 0


def test_a_command_that_makes_no_sense_is_refused(daemon):
    daemon.up()
    for command, arguments in (("fly", {}), ("reset_scene", {"split": "test", "index": -1}), ("restart_worker", {})):
        with pytest.raises(DeployError, match=r"mend|allowed"):
            daemon.request(command, **arguments)
    with pytest.raises(DeployError, match="disable first"):
        daemon.request("reset_scene", split="test", index=0)


def test_pause_and_resume_begin_a_new_epoch(daemon):
    before = drive(daemon)["epoch"]
    daemon.send("pause", "PAUSED")
    daemon.request("resume")
    status = daemon.wait(lambda s: s["state"] == "RUNNING", what="RUNNING again", timeout_s=20.0)
    assert status["epoch"] == before + 1
    daemon.send("stop", "HOLD")


def test_sigkill_of_the_policy_in_motion_ends_in_hold_within_all_limits(daemon):
    daemon.up()
    result = kill_test(daemon, split="test", index=0, after_s=0.2)
    assert result["passed"], result
    assert result["reason"] == "worker_lost"
    assert result["stopping_ticks"] > 3  # a limited stop takes time; a dead stop would not
    trace = np.load(daemon.run_dir / "setpoints" / "test-00000.npy")
    assert len(trace) > 15
    assert np.abs(np.diff(trace["position"], axis=0)).max() > 0
    assert np.abs(np.diff(trace["position"][-3:], axis=0)).max() < 1e-9
    drive(daemon)  # the fresh worker works
    daemon.send("stop", "HOLD")


def test_estop_is_latched_until_armed(daemon):
    drive(daemon)
    daemon.send("estop", "ESTOP")
    for command in ("enable", "start", "resume", "connect"):
        number = daemon.request(command)["event"]
        status = daemon.wait(lambda s, n=number: s["events_done"] >= n, what=command)
        assert status["state"] == "ESTOP"
    daemon.wait(lambda s: s["report"]["at_rest"], what="rest")
    daemon.send("arm", "ARMED")
    daemon.send("enable", "HOLD")


def test_a_second_daemon_in_the_same_folder_is_refused(daemon):
    code = subprocess.run(
        [sys.executable, "-m", "robopolicy.deploy.supervisor", str(daemon.run_dir)], capture_output=True, text=True
    )
    assert code.returncode == 2
    assert "already runs" in code.stderr


def test_sigkill_of_the_realtime_loop_is_stopped_by_the_robot(tmp_path):
    with Daemon(tmp_path, config()) as daemon:
        drive(daemon)
        ids = pids(daemon)
        os.kill(ids["realtime"], signal.SIGKILL)
        status = daemon.wait(lambda s: s["report"]["watchdog_stops"] == 1 and s["report"]["at_rest"], what="watchdog")
        assert status["state"] == "OFFLINE"
        assert sum(status["report"]["violations"].values()) == 0
        assert not status["processes"]["realtime"]["alive"]
    assert wait_gone(ids.values()) == []


def test_sigkill_of_the_supervisor_leaves_no_process_behind(tmp_path):
    daemon = Daemon(tmp_path, config())
    try:
        drive(daemon)
        ids = pids(daemon)
        os.kill(ids["supervisor"], signal.SIGKILL)
        daemon.process.wait()
        assert wait_gone(ids.values()) == []
        with pytest.raises(DeployError, match="no daemon answers"):
            request(tmp_path, "status")
    finally:
        daemon.close()


def test_a_policy_that_cannot_be_built_is_reported_with_its_error(tmp_path):
    with Daemon(tmp_path, config("robopolicy.deploy.scripted:sweeep")) as daemon:
        with pytest.raises(DeployError, match=r"worker ended.*sweeep"):
            daemon.up()
        with pytest.raises(DeployError, match="policy is not ready"):
            daemon.request("start")


def test_episodes_run_one_after_another_and_are_counted(tmp_path):
    shown = []
    block = run_deploy_episodes(
        SWEEP, ROBOT, range(2), "test", tmp_path, deploy=PATIENT, max_steps=60, kill=False, progress=shown.append
    )
    assert block["n"] == len(block["episodes"]) == len(shown) == 2
    assert block["success_rate"] == 1.0  # the sine leaves its starting place
    assert sum(block["violations"].values()) == 0
    for episode in block["episodes"]:
        assert episode["termination"] == "success"
        assert episode["chunks"] >= 1
        assert episode["ticks"] > 10
    still = tmp_path / "still"
    hold = run_deploy_episodes(HOLD, ROBOT, range(1), "test", still, deploy=PATIENT, max_steps=20, kill=False)
    assert hold["success_rate"] == 0.0  # control: who does not move does not succeed
    assert hold["episodes"][0]["termination"] == "timeout"
