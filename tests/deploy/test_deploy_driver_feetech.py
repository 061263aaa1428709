"""The Feetech driver on the vendor's SDK against a virtual bus in its own process; goals are judged there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
from servo_arms import follow, open_arm, until, wave

from robopolicy.cli.deploy_calibrate_servos import survey
from robopolicy.deploy.config import RobotConfig
from robopolicy.deploy.drivers.feetech import FeetechDriver
from robopolicy.deploy.drivers.servo_calibration import load_calibration
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import CommandError, DeployError
from robopolicy.protocols import Guarded, RobotDriver
from robopolicy.sim.wire import WireProcess
from robopolicy.types import Setpoint

pytest.importorskip("scservo_sdk", reason="the extra feetech is not installed")

CARD = load_embodiment("so101")
TARGET = "robopolicy.sim.wire.feetech:FeetechBus"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    arm = open_arm(FeetechDriver, TARGET, "so101", tmp_path_factory.mktemp("bus"))
    yield arm
    arm.box.close()


@pytest.fixture
def arm(opened):
    opened.fresh()
    return opened


@pytest.fixture
def driver(arm):
    with arm.driver() as driver:
        driver.connect()
        driver.enable()
        yield driver


def test_it_is_a_driver_whose_robot_can_be_stopped_from_elsewhere(arm):
    assert isinstance(arm.driver(), RobotDriver)
    assert issubclass(FeetechDriver, Guarded)
    with pytest.raises(DeployError, match="connect"):
        arm.driver().read()


def test_a_smooth_motion_arrives_whole_and_nothing_else_is_on_the_wire(arm, driver):
    before = arm.box.report()
    states = follow(driver, CARD, 72)
    assert until(lambda: arm.box.report()["received"] - before["received"] == 72)
    after = arm.box.report()
    assert after["violated"] == 0, after["first_violation"]
    assert after["torque_dropped"] == 0
    counts = {k: after["instructions"].get(k, 0) - before["instructions"].get(k, 0) for k in after["instructions"]}
    assert counts["sync_write"] == 72
    assert counts["sync_read"] == 73
    assert counts["write"] == counts["ping"] == 0
    assert counts["read"] <= 73 * CARD.tick_s / 0.5 + 40  # one servo's health each half second, however long it took
    moved = np.ptp([s.position for s in states], axis=0)
    assert (moved > 0.2).all()
    assert not any(s.fault for s in states)
    assert all(b.time_ns > a.time_ns for a, b in pairwise(states))
    # the control: one step of half a radian is seen
    driver.command(Setpoint(0, states[-1].position + np.array([0.5, 0, 0, 0, 0, 0])), 0)
    assert until(lambda: arm.box.report()["violations"]["velocity"] == 1)


@pytest.mark.parametrize("fault", [{"drop": 0.02}, {"corrupt": 0.03}, {"delay_s": 0.004}], ids=lambda f: next(iter(f)))
def test_lost_damaged_and_late_answers_cost_nothing_but_time(arm, driver, fault):
    start = driver.read().position.copy()
    arm.box.fault(**fault, seed=3)
    states = follow(driver, CARD, 60)
    arm.box.fault(drop=0.0, corrupt=0.0, delay_s=0.0)
    commanded = np.array([wave(CARD, start, k) for k in range(60)])
    for k, state in enumerate(states):
        # a damaged answer that was believed would be anywhere in a turn
        near = np.abs(commanded[max(k - 15, 0) : k + 1] - state.position).max(axis=1).min()
        assert near < 0.15, (k, state.position, commanded[k])
    report = arm.box.report()
    assert report["violated"] == 0, report["first_violation"]
    assert report["torque_dropped"] == 0
    if "delay_s" not in fault:
        assert driver.misses > 0
        repeated = [b.time_ns == a.time_ns for a, b in pairwise(states)]
        assert any(repeated)


def test_a_frozen_bus_is_an_error_and_a_thawed_one_is_not(arm, driver):
    follow(driver, CARD, 10)
    arm.box.fault(freeze=True)
    with pytest.raises(DeployError, match="no answers"):
        follow(driver, CARD, 200)
    arm.box.fault(freeze=False)
    assert until(lambda: not _raises(driver.read))
    assert not driver.read().fault
    assert arm.box.report()["torque_dropped"] == 0


def test_answers_that_come_too_late_are_never_taken_for_new_ones(arm):
    with arm.driver(packet_timeout_s=0.01) as driver:
        driver.connect()
        driver.enable()
        first = driver.read()
        arm.box.fault(delay_s=0.03)
        ages: list[int] = []
        with pytest.raises(DeployError):
            _read_on(driver, ages)
        arm.box.fault(delay_s=0.0)
        assert set(ages[1:]) <= {first.time_ns, ages[0]}


def test_a_hung_servo_shows_as_soon_as_its_goal_moves(arm, driver):
    follow(driver, CARD, 10)
    arm.box.fault(silent_clock=True)
    time.sleep(0.05)
    for _ in range(20):  # what stands still with its goal cannot be told from what hangs
        driver.read()
        time.sleep(0.01)
    with pytest.raises(DeployError, match="stand still"):
        follow(driver, CARD, 200, size=0.6)
    arm.box.fault(silent_clock=False)


def test_a_pulled_cable_is_an_error_and_connect_finds_the_new_device(arm, driver):
    follow(driver, CARD, 10)
    old = os.readlink(arm.link)
    arm.box.fault(disconnect=True)
    with pytest.raises(DeployError, match="gone"):
        follow(driver, CARD, 100)
    with pytest.raises(DeployError, match="connect"):
        driver.read()
    assert until(lambda: (arm.link.is_symlink() and os.path.exists(arm.link) and os.readlink(arm.link) != old) or True)
    assert until(lambda: not _raises(driver.connect))
    driver.enable()
    follow(driver, CARD, 10)
    assert arm.box.report()["torque_dropped"] == 0


def test_an_overload_is_a_fault_until_the_supply_was_off(arm, driver):
    follow(driver, CARD, 10)
    arm.box.fault(protective_stop=True)
    assert until(lambda: driver.read().fault)
    assert "overload" in driver.fault_reason
    driver.stop()
    with pytest.raises(DeployError, match="latched"):
        driver.enable()
    assert arm.box.report()["torque_dropped"] == 0
    arm.box.recover()
    assert until(lambda: not driver.read().fault)
    assert not any(arm.box.report()["torque"])
    driver.enable()
    assert not driver.read().fault
    assert all(arm.box.report()["torque"])


def test_a_cut_supply_is_an_error_and_torque_that_came_back_off_is_a_fault(arm, driver):
    follow(driver, CARD, 10)
    arm.box.fault(emergency_stop=True)
    with pytest.raises(DeployError, match="no answers"):
        follow(driver, CARD, 200)
    arm.box.fault(emergency_stop=False)
    assert until(lambda: _fault(driver))
    assert "torque is gone" in driver.fault_reason or "not taken" in driver.fault_reason


def test_torque_is_dropped_only_when_asked_for(arm):
    with arm.driver() as driver:
        driver.connect()
        driver.enable()
        follow(driver, CARD, 10)
    assert all(arm.box.report()["torque"])
    assert arm.box.report()["torque_dropped"] == 0
    with arm.driver(torque_off_on_close=True) as driver:
        driver.connect()
        driver.enable()
    report = arm.box.report()
    assert report["torque_dropped"] == len(CARD.joints)
    assert not any(report["torque"])


def test_nothing_that_is_not_a_number_is_sent(arm, driver):
    before = arm.box.report()["received"]
    for wrong in (np.full(6, np.nan), np.full(5, 0.0), np.array([0, 0, np.inf, 0, 0, 0])):
        with pytest.raises(DeployError, match="finite"):
            driver.command(Setpoint(0, wrong), 0)
    assert arm.box.report()["received"] == before


def test_a_stop_in_motion_is_the_servos_own_and_breaks_no_limit(arm, driver):
    follow(driver, CARD, 30, size=0.5)
    driver.stop()
    assert until(lambda: arm.box.report()["at_rest"])
    report = arm.box.report()
    assert report["violated"] == 0, report["first_violation"]
    held = np.array(report["position"])
    driver.stop()  # again: a held arm stays where it is
    assert until(lambda: arm.box.report()["at_rest"])
    assert np.abs(np.array(arm.box.report()["position"]) - held).max() < 0.01
    assert all(report["torque"])


def test_one_bus_has_one_driver_and_the_guardian_may_still_stop_it(arm, driver):
    with pytest.raises(DeployError, match="owns"):
        arm.driver().connect()
    follow(driver, CARD, 30, size=0.5)
    channel = FeetechDriver.stop_channel(CARD, {"device": str(arm.link), "calibration": "nominal"})
    channel.stop()
    channel.close()
    assert until(lambda: arm.box.report()["at_rest"])
    report = arm.box.report()
    assert report["violated"] == 0, report["first_violation"]
    assert report["torque_dropped"] == 0
    arm.box.fault(freeze=True)
    with pytest.raises(DeployError):
        channel.stop()
    arm.box.fault(freeze=False)


CLIENT = """
import sys
sys.path.insert(0, sys.argv[3])
from servo_arms import follow
from robopolicy.embodiment import load_embodiment
from robopolicy.registry import load_target
card = load_embodiment(sys.argv[2])
kind = load_target(sys.argv[4])
driver = kind(card, tick_s=card.tick_s, timeout_s=5.0, device=sys.argv[1], calibration="nominal", packet_timeout_s=0.05)
driver.connect(); driver.enable()
follow(driver, card, 20, size=0.5)
print("moving", flush=True)
follow(driver, card, 100000, size=0.5)
"""


def test_a_killed_driver_leaves_an_arm_that_stands_powered(arm):
    command = [sys.executable, "-c", CLIENT, str(arm.link), "so101", os.path.dirname(__file__)]
    client = subprocess.Popen([*command, "robopolicy.deploy.drivers.feetech:FeetechDriver"], stdout=subprocess.PIPE)
    assert client.stdout is not None
    with client.stdout:
        assert client.stdout.readline() == b"moving\n"
        client.send_signal(signal.SIGKILL)
        client.wait()
    assert until(lambda: arm.box.report()["at_rest"])
    report = arm.box.report()
    assert report["violated"] == 0, report["first_violation"]
    assert report["torque_dropped"] == 0
    assert all(report["torque"])


def test_a_goal_that_is_not_where_the_arm_stands_is_seen_when_torque_comes(arm):
    with arm.driver() as driver:
        driver.connect()
        link = driver.link
        link.write(3, 42, 2, [0, 4], str)
        link.write(3, 40, 1, [1], str)
    assert arm.box.report()["violations"]["jump"] == 1
    arm.box.reset("train", 0)
    with arm.driver() as driver:  # the driver itself writes the goal first
        driver.connect()
        driver.enable()
    assert arm.box.report()["violated"] == 0


def test_lerobots_calibration_is_read_and_compared_with_the_servos(arm, tmp_path):
    entry = {"drive_mode": 0, "homing_offset": 0, "range_min": 1000, "range_max": 3000}
    data = {n: {"id": k + 1, **entry} for k, n in enumerate(CARD.joints.names)}
    data["elbow_flex"]["drive_mode"] = 1
    path = tmp_path / "follower.json"
    path.write_text(json.dumps(data))
    scale = load_calibration(CARD, str(path))
    assert scale.steps(np.zeros(6))[0] == 2000
    assert scale.position(np.full(6, 2100.0))[1] == pytest.approx(100 * 2 * np.pi / 4096)
    assert scale.position(np.full(6, 2100.0))[2] == pytest.approx(-100 * 2 * np.pi / 4096)
    assert scale.position(np.full(6, 1500.0))[5] == pytest.approx(0.25)
    assert (scale.steps(np.array([9.0, -9, 9, -9, 9, 9])) == [3000, 1000, 1000, 1000, 3000, 3000]).all()
    with arm.driver(calibration=str(path)) as driver:
        driver.connect()
    data["wrist_flex"]["homing_offset"] = -37
    path.write_text(json.dumps(data))
    with pytest.raises(DeployError, match=r"wrist_flex.*homing offset"):
        arm.driver(calibration=str(path)).connect()


@pytest.mark.parametrize(
    "entry",
    [
        {"zero_step": 10, "sign": 1, "lower_step": 1000, "upper_step": 3000},
        {"zero_step": 2000, "sign": 2, "lower_step": 1000, "upper_step": 3000},
        {"zero_step": 2000, "sign": 1, "lower_step": 3000, "upper_step": 1000},
        {"zero_step": float("nan"), "sign": 1},
        {"zero_steps": 2000},
    ],
)
def test_a_calibration_that_cannot_be_true_is_refused(entry):
    with pytest.raises(DeployError, match="elbow_flex"):
        load_calibration(CARD, {n: entry if n == "elbow_flex" else {} for n in CARD.joints.names})
    with pytest.raises(DeployError, match="missing"):
        load_calibration(CARD, {"elbow_flex": {}})
    with pytest.raises(DeployError, match="calibrate-servos"):
        load_calibration(CARD, "")


def test_calibration_by_hand_finds_zero_sign_and_ends(tmp_path):
    truth = {"shoulder_pan": {"zero_step": 1900}, "elbow_flex": {"zero_step": 2100, "sign": -1}}
    truth["gripper"] = {"lower_step": 3000, "upper_step": 1800}
    robot = RobotConfig("robopolicy.deploy.drivers.feetech:FeetechDriver", "so101")
    link = tmp_path / "bus"
    with WireProcess(TARGET, "so101", hand="sweep", calibration=truth, link=str(link)) as box:
        robot.driver["device"] = str(link)
        robot.driver["packet_timeout_s"] = 0.05
        wanted = load_calibration(CARD, {n: truth.get(n, {}) for n in CARD.joints.names})
        zero = np.rint(np.where(CARD.joints.names == "gripper", 3000, wanted.zero_step)).astype(int)
        spans = wanted.last_step - wanted.first_step
        found = survey(robot, ["elbow_flex"], _person(zero, spans))
        assert box.report()["torque_dropped"] == 0  # they were off already
        with pytest.raises(DeployError, match="moved through"):
            survey(robot, ["elbow_flex"], _person(zero, 0.0 * spans))
    for name, entry in found.items():
        joint = CARD.joints.index(name)
        if name == "gripper":
            assert entry["lower_step"] == pytest.approx(3000, abs=15)
            assert entry["upper_step"] == pytest.approx(1800, abs=15)
        else:
            assert entry["zero_step"] == pytest.approx(wanted.zero_step[joint], abs=2)
            assert entry["sign"] == np.sign(wanted.gain[joint])
            assert entry["lower_step"] == pytest.approx(wanted.first_step[joint], abs=25)
            assert entry["upper_step"] == pytest.approx(wanted.last_step[joint], abs=25)
    load_calibration(CARD, found)
    with pytest.raises(CommandError, match="no bus of servos"):
        survey(RobotConfig("robopolicy.deploy.drivers.sim_robot:SimRobotDriver", "panda"), [], _person(zero, spans))


def _person(zero, spans):
    """Who goes on when the arm is at its zero, and when every joint has been moved by ``spans`` steps."""
    step = iter(("off", "zero", "range"))

    def wait(prompt, poll):
        stage, low, high = next(step), np.full(6, 10**6), np.full(6, -(10**6))

        def done():
            nonlocal low, high
            seen = poll()
            if seen is None:
                return stage == "off"
            low, high = np.minimum(low, seen), np.maximum(high, seen)
            return (np.abs(seen - zero) <= 1).all() if stage == "zero" else (high - low >= spans - 20).all()

        assert until(done, seconds=30.0), (prompt, low, high, zero, spans)

    return wait


def _read_on(driver, ages):
    for _ in range(200):
        ages.append(driver.read().time_ns)
        time.sleep(CARD.tick_s)


def _raises(call):
    try:
        call()
    except DeployError:
        return True
    return False


def _fault(driver):
    try:
        return driver.read().fault
    except DeployError:
        return False
