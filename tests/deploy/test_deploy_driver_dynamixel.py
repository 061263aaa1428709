"""The Dynamixel driver on the vendor's SDK against a virtual bus in its own process; goals are judged there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from servo_arms import follow, open_arm, until, wave

from robopolicy.deploy.drivers.dynamixel import DynamixelDriver
from robopolicy.deploy.drivers.servo_survey import ServoSurvey
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError
from robopolicy.protocols import Guarded, RobotDriver
from robopolicy.types import Setpoint

pytest.importorskip("dynamixel_sdk", reason="the extra dynamixel is not installed")

CARD = load_embodiment("widowx")
TARGET = "robopolicy.sim.wire.dynamixel:DynamixelBus"
IDS = [1, 2, 4, 6, 7, 8, 9]
PATIENT = 2.0
"""Watchdog of the tests that are not about it: longer than a loaded machine may leave the loop alone."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    arm = open_arm(DynamixelDriver, TARGET, "widowx", tmp_path_factory.mktemp("bus"), ids=IDS)
    yield arm
    arm.box.close()


@pytest.fixture
def arm(opened):
    opened.fresh()
    return opened


@pytest.fixture
def driver(arm):
    with arm.driver(ids=IDS, watchdog_s=PATIENT) as driver:
        driver.connect()
        driver.enable()
        yield driver


def test_a_smooth_motion_arrives_whole_and_nothing_else_is_on_the_wire(arm, driver):
    assert isinstance(driver, RobotDriver)
    assert issubclass(DynamixelDriver, Guarded)
    before = arm.box.report()
    states = follow(driver, CARD, 120)
    assert until(lambda: arm.box.report()["received"] - before["received"] == 120)
    after = arm.box.report()
    assert after["violated"] == 0, after["first_violation"]
    assert after["torque_dropped"] == 0
    counts = {k: after["instructions"].get(k, 0) - before["instructions"].get(k, 0) for k in after["instructions"]}
    assert counts["sync_write"] == 120
    assert counts["sync_read"] == 121
    assert counts["write"] == counts["ping"] == 0
    assert (np.ptp([s.position for s in states], axis=0) > 0.2).all()
    assert not any(s.fault for s in states)
    # the control: one step of half a radian is seen
    driver.command(Setpoint(0, states[-1].position + np.array([0.5, 0, 0, 0, 0, 0, 0])), 0)
    assert until(lambda: arm.box.report()["violations"]["velocity"] == 1)


@pytest.mark.parametrize("fault", [{"drop": 0.02}, {"corrupt": 0.03}, {"delay_s": 0.003}], ids=lambda f: next(iter(f)))
def test_lost_damaged_and_late_answers_cost_nothing_but_time(arm, driver, fault):
    start = driver.read().position.copy()
    arm.box.fault(**fault, seed=5)
    states = follow(driver, CARD, 60)
    arm.box.fault(drop=0.0, corrupt=0.0, delay_s=0.0)
    commanded = np.array([wave(CARD, start, k) for k in range(60)])
    for k, state in enumerate(states):
        near = np.abs(commanded[max(k - 25, 0) : k + 1] - state.position).max(axis=1).min()
        assert near < 0.15, (k, state.position, commanded[k])
    report = arm.box.report()
    assert report["violated"] == 0, report["first_violation"]
    if "delay_s" not in fault:
        assert driver.misses > 0


def test_a_standing_clock_is_an_error_even_at_rest(arm, driver):
    follow(driver, CARD, 10)
    arm.box.fault(silent_clock=True)
    with pytest.raises(DeployError, match="stand still"):
        _watch(driver, 1000)
    arm.box.fault(silent_clock=False)
    assert until(lambda: not _raises(driver.read))


def test_a_frozen_bus_and_a_pulled_cable_are_errors(arm, driver):
    arm.box.fault(freeze=True)
    with pytest.raises(DeployError, match="no answers"):
        follow(driver, CARD, 400)
    arm.box.fault(freeze=False)
    assert until(lambda: not _raises(driver.read))
    arm.box.fault(disconnect=True)
    with pytest.raises(DeployError, match="gone"):
        follow(driver, CARD, 100)
    assert until(lambda: not _raises(driver.connect))
    driver.enable()
    follow(driver, CARD, 10)
    assert arm.box.report()["torque_dropped"] == 0


def test_a_hardware_error_is_a_fault_until_the_supply_was_off(arm, driver):
    arm.box.fault(protective_stop=True)
    assert until(lambda: driver.read().fault)
    assert "shoulder" in driver.fault_reason
    assert "hardware error" in driver.fault_reason
    driver.stop()
    with pytest.raises(DeployError, match="overload"):
        driver.enable()
    arm.box.recover()
    driver.enable()
    assert not driver.read().fault
    assert arm.box.report()["torque_dropped"] == 0


CLIENT = """
import sys
sys.path.insert(0, sys.argv[2])
from servo_arms import follow
from robopolicy.deploy.drivers.dynamixel import DynamixelDriver
from robopolicy.embodiment import load_embodiment
card = load_embodiment("widowx")
driver = DynamixelDriver(card, tick_s=card.tick_s, timeout_s=5.0, device=sys.argv[1], calibration="nominal",
                         packet_timeout_s=0.05, ids=[1, 2, 4, 6, 7, 8, 9], watchdog_s=float(sys.argv[3]))
driver.connect(); driver.enable()
follow(driver, card, 30, size=0.5)
print("moving", flush=True)
follow(driver, card, 100000, size=0.5)
"""


@pytest.mark.parametrize("watchdog_s", [0.5, 0.0])
def test_the_bus_watchdog_stops_the_arm_of_a_killed_driver(arm, watchdog_s):
    command = [sys.executable, "-c", CLIENT, str(arm.link), os.path.dirname(__file__), str(watchdog_s)]
    client = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert client.stdout is not None
    with client.stdout:
        assert client.stdout.readline() == b"moving\n"
        client.send_signal(signal.SIGKILL)
        client.wait()
    if not watchdog_s:  # the control
        time.sleep(0.6)
        assert arm.box.report()["watchdog_stops"] == 0
        return
    assert until(lambda: arm.box.report()["watchdog_stops"] > 0)
    report = arm.box.report()
    assert report["at_rest"]
    assert all(report["torque"])
    assert report["torque_dropped"] == 0
    with arm.driver(ids=IDS, watchdog_s=PATIENT) as driver:
        driver.connect()
        with pytest.raises(DeployError, match="out of range"):  # goals are read-only now
            driver.link.write(1, 116, 4, [0, 8, 0, 0], driver._trouble)
        driver.enable()
        follow(driver, CARD, 10)
        assert not driver.read().fault


def test_a_watchdog_that_expired_under_a_stream_is_a_fault_and_enable_clears_it(arm):
    with arm.driver(ids=IDS, watchdog_s=0.5, timeout_s=5.0) as driver:
        driver.connect()
        driver.enable()
        time.sleep(0.8)
        start = driver.read().position

        def streamed():
            driver.command(Setpoint(0, start + 0.01), 0)
            return driver.read().fault

        assert until(streamed)
        assert "watchdog" in driver.fault_reason or "not taken" in driver.fault_reason
        driver.stop()
        assert until(lambda: not driver.read().fault)  # nothing is expected of it now, so that it can be enabled
        with arm.driver(ids=IDS) as other, pytest.raises(DeployError, match="owns"):
            other.connect()
    with arm.driver(ids=IDS, watchdog_s=PATIENT) as driver:
        driver.connect()
        driver.enable()
        follow(driver, CARD, 10)
        assert not driver.read().fault


def test_a_stop_in_motion_is_the_servos_own_and_breaks_no_limit(arm, driver):
    follow(driver, CARD, 40, size=0.5)
    driver.stop()
    assert until(lambda: arm.box.report()["at_rest"])
    report = arm.box.report()
    assert report["violated"] == 0, report["first_violation"]
    assert all(report["torque"])
    driver.close()
    time.sleep(0.1)
    assert arm.box.report()["watchdog_stops"] == 0  # it was taken off duty


def test_shadows_modes_and_offsets_are_looked_at_before_anything_moves(arm):
    with pytest.raises(DeployError, match="does not answer"):
        arm.driver(ids=IDS, shadows={"shoulder": 3}).connect()
    with pytest.raises(DeployError, match="fight"):
        arm.driver(ids=IDS, shadows={"shoulder": 4}).connect()
    with pytest.raises(DeployError, match="do not answer"):
        arm.driver(ids=[1, 2, 4, 6, 7, 8, 33]).connect()
    with arm.driver(ids=IDS) as driver:
        driver.connect()
        driver.link.write(6, 11, 1, [1], driver._trouble)
        with pytest.raises(DeployError, match="operating mode"):
            driver.connect()
        driver.open()
        driver.link.write(6, 11, 1, [4], driver._trouble)
        driver.connect()


def test_everything_the_sdk_can_say_is_understood(arm):
    """Fast sync read, bulk read and write, registered writes, clear, reboot: through the SDK's own classes."""
    from dynamixel_sdk import COMM_SUCCESS, GroupBulkRead, GroupBulkWrite, GroupSyncRead

    with arm.driver(ids=IDS) as driver:
        driver.connect()
        port, handler = driver.link._port, driver.link._sdk.handler
        reader = GroupSyncRead(port, handler, 132, 4)
        bulk, writer = GroupBulkRead(port, handler), GroupBulkWrite(port, handler)
        for number in IDS:
            assert reader.addParam(number)
            assert bulk.addParam(number, 128, 8)
            assert writer.addParam(number, 116, 4, [0, 8, 0, 0])
        if hasattr(reader, "fastSyncRead"):  # 4.0 and later
            assert reader.fastSyncRead() == COMM_SUCCESS
            assert bulk.txRxPacket() == COMM_SUCCESS
            assert [reader.getData(n, 132, 4) for n in IDS] == [bulk.getData(n, 132, 4) for n in IDS]
        assert writer.txPacket() == COMM_SUCCESS
        assert driver.link.read(4, 116, 4) == [0, 8, 0, 0]
        stuffed = [0xFF, 0xFF, 0xFD, 0x00]
        assert handler.writeTxRx(port, 4, 116, 4, stuffed)[0] == COMM_SUCCESS
        assert driver.link.read(4, 116, 4) == stuffed
        assert handler.regWriteTxRx(port, 4, 65, 1, [1])[0] == COMM_SUCCESS
        assert driver.link.read(4, 65, 1) == [0]
        handler.action(port, 0xFE)  # to all, which is what it is for
        assert driver.link.read(4, 65, 1) == [1]
        assert handler.clearMultiTurn(port, 4) == (COMM_SUCCESS, 0)
        driver.link.write(4, 116, 4, driver.link.read(4, 132, 4), driver._trouble)
        driver.link.write(4, 64, 1, [1], driver._trouble)
        assert handler.writeTxRx(port, 4, 11, 1, [3])[1] == 7  # no access to the EEPROM while powered
        assert handler.reboot(port, 4)[0] == COMM_SUCCESS
        assert driver.link.read(4, 64, 1) == [0]
    assert arm.box.report()["torque_dropped"] == 1


def test_a_joint_that_counts_the_other_way_round_is_told_from_a_wrong_zero():
    gain = 4096 / (2 * np.pi)
    lower, upper = CARD.joints.lower.copy(), CARD.joints.upper.copy()
    arm = SimpleNamespace(embodiment=CARD, at=np.full(7, 2048))
    arm.present_steps = lambda: np.rint(arm.at).astype(int)

    def moved(flip=(), shift=0.0):
        survey = ServoSurvey(arm)  # type: ignore[arg-type]
        sign = np.array([-1.0 if n in flip else 1.0 for n in CARD.joints.names])
        arm.at = np.full(7, 2048.0) + shift
        survey.look()
        survey.take_zero()
        for x in np.sin(np.linspace(0, 2 * np.pi, 60)):
            arm.at = 2048.0 + sign * gain * 0.97 * (upper * max(x, 0.0) + lower * max(-x, 0.0))
            survey.look()
        return survey

    assert moved().result()["elbow"]["zero_step"] == 2048
    with pytest.raises(DeployError, match=r"elbow: it counts the other way round; reversed=\[elbow\]"):
        moved(flip=("elbow",)).result()
    assert moved(flip=("elbow",)).result(["elbow"])["elbow"]["sign"] == -1
    with pytest.raises(DeployError, match="which is not its zero"):
        moved(shift=600).result()
    with pytest.raises(DeployError, match="no such joint"):
        moved().result(["elbows"])
    survey = moved()
    arm.at = arm.at - 3000
    survey.look()  # from 2048 to what a turn later would be
    with pytest.raises(DeployError, match="over the end of its turn"):
        survey.result()


def _watch(driver, times):
    for _ in range(times):
        driver.read()
        time.sleep(0.01)


def _raises(call):
    try:
        call()
    except DeployError:
        return True
    return False
