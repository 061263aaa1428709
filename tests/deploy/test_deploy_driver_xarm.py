"""The xArm driver on the vendor's client against the virtual control box, in a process of its own."""

import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from robopolicy.deploy.drivers.xarm import XArmDriver
from robopolicy.deploy.drivers.xarm_client import XArmStopChannel
from robopolicy.deploy.drivers.xarm_reports import TIMED, ReportStream
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError
from robopolicy.protocols import Guarded, RobotDriver, SpeedScaled
from robopolicy.sim.wire import WireProcess
from robopolicy.types import Setpoint

pytest.importorskip("xarm")

CARD = load_embodiment("xarm7")
TICK_S = 0.01
HOME = CARD.home_position


@pytest.fixture(scope="module")
def box():
    target = "robopolicy.sim.wire.xarm:VirtualXArm"
    with WireProcess(target, card="xarm7", setpoint_hz=1 / TICK_S, port=0, report_port=0) as made:
        yield made


@pytest.fixture
def arm(box):
    box.fault(freeze=False, silent_clock=False, drop=0.0, corrupt=0.0, delay_s=0.0, refuse=False)
    box.recover()
    box.reset("test", 0)
    made = XArmDriver(CARD, tick_s=TICK_S, timeout_s=0.5, **box.address)
    yield made
    box.fault(freeze=False, silent_clock=False, drop=0.0, corrupt=0.0, delay_s=0.0, refuse=False)
    made.close()


def stream(arm, path, ticks):
    states = []
    for k in range(ticks):
        states.append(arm.read())
        arm.command(Setpoint(0, path(k)), 0)
        time.sleep(TICK_S)
    return states


def sine(k, size=0.05, period=60):
    wanted = HOME.copy()
    wanted[:7] += size * (1 - np.cos(2 * np.pi * k / period))
    return wanted


def wait(holds, limit_s=10.0):
    until = time.monotonic() + limit_s
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def error_of(call, limit_s=10.0):
    """The DeployError that the call comes to raise."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        try:
            call()
        except DeployError as error:
            return str(error)
        time.sleep(TICK_S)
    raise AssertionError("no DeployError")


def test_it_is_what_it_says(box):
    made = XArmDriver(CARD, tick_s=TICK_S, timeout_s=0.5, **box.address)
    assert isinstance(made, RobotDriver)
    assert isinstance(XArmDriver, Guarded)
    assert not isinstance(made, SpeedScaled)
    assert not made.buffered


def test_a_stream_arrives_within_all_limits_and_is_followed(arm, box):
    arm.connect()
    assert not box.report()["powered"], "connecting powers nothing"
    arm.enable()
    states = stream(arm, sine, 120)
    seen = wait(lambda: (r := box.report())["received"] == 120 and r)
    assert seen["violated"] == 0, seen["first_violation"]
    assert seen["powered"]
    times = [s.time_ns for s in states]
    assert (np.diff(times) >= 0).all()
    travel = np.ptp([s.position[:7] for s in states], axis=0)
    assert travel == pytest.approx(np.full(7, 0.1), abs=0.02)
    # the played arm jumps to each target and then stands: its speed at an instant is anything
    assert all(np.isfinite(s.velocity).all() for s in states)
    assert arm.dropped == 0


def test_a_stream_with_a_step_is_seen_at_the_wire(arm, box):
    arm.connect()
    arm.enable()
    stream(arm, lambda k: sine(k, 0.05 if k < 20 else 0.051), 40)
    seen = wait(lambda: (r := box.report())["violated"] and r)
    assert seen["violations"]["jerk"] > 0


def test_a_box_that_is_frozen_or_whose_clock_stands_is_silent(arm, box):
    arm.connect()
    arm.enable()
    stream(arm, sine, 5)
    for fault in ("freeze", "silent_clock"):
        box.fault(**{fault: True})
        before = arm.sent
        # a vendor's client would wait for each answer here
        stream_sent = [arm.command(Setpoint(0, sine(5)), 0) for _ in range(20)]
        assert arm.sent - before == len(stream_sent)
        assert "clock stands still" in error_of(arm.read)
        box.fault(**{fault: False})
        wait(lambda: not _raises(arm.read))
        assert np.isfinite(arm.read().position).all()


def _raises(call):
    try:
        call()
    except DeployError:
        return True
    return False


@pytest.mark.parametrize("kind", ["protective_stop", "emergency_stop"])
def test_a_stop_of_the_box_is_a_fault_until_a_person_clears_it(arm, box, kind):
    arm.connect()
    arm.enable()
    stream(arm, sine, 5)
    box.fault(**{kind: True})
    assert wait(lambda: arm.read().fault)
    arm.stop()
    assert "C" in error_of(arm.enable)
    time.sleep(0.3)  # error codes are reported five times a second
    assert arm.read().fault, "it stays one while the error is latched"
    box.recover()
    assert wait(lambda: not arm.read().fault)
    arm.enable()
    stream(arm, lambda k: HOME + (arm.read().position - HOME), 5)
    assert not arm.read().fault


def test_the_stop_channel_works_from_another_process(arm, box):
    arm.connect()
    arm.enable()
    stream(arm, sine, 30)
    code = (
        "import sys; from robopolicy.deploy.drivers.xarm_client import XArmStopChannel as C\n"
        "c = C(sys.argv[1], int(sys.argv[2])); c.stop(); c.close(); print('xarm' in sys.modules)"
    )
    words = [sys.executable, "-c", code, box.address["address"], str(box.address["port"])]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "False", ran.stderr
    seen = box.report()
    assert seen["arm_state"] == 4
    assert seen["powered"]
    arm.command(Setpoint(0, sine(30)), 0)
    assert wait(lambda: arm.read().fault)
    assert wait(lambda: box.report()["refused"])


def test_the_stop_channel_says_when_nobody_is_there(box):
    with pytest.raises(DeployError, match="cannot be reached"):
        XArmStopChannel("127.0.0.1", 1)
    channel = XArmStopChannel(box.address["address"], box.address["port"])
    box.fault(freeze=True)
    with pytest.raises(DeployError, match="emergency stop"):
        channel.stop()
    box.fault(freeze=False)
    channel.stop()
    channel.close()


def test_stop_and_close_keep_the_power_on(arm, box):
    arm.connect()
    arm.enable()
    stream(arm, sine, 20)
    arm.stop()
    assert wait(lambda: box.report()["at_rest"])
    arm.command(Setpoint(0, sine(25)), 0)
    assert arm.dropped == 1
    arm.enable()
    arm.close()
    arm.close()
    assert wait(lambda: box.report()["arm_state"] == 4)
    assert box.report()["powered"]
    with pytest.raises(DeployError, match="connect"):
        arm.read()
    arm.connect()
    assert not arm.read().fault


def test_the_gripper_is_moved_beside_the_stream(box):
    box.reset("test", 0)
    with XArmDriver(CARD, tick_s=TICK_S, timeout_s=0.5, gripper="xarm", **box.address) as arm:
        arm.connect()
        arm.enable()
        assert arm.read().position[7] == pytest.approx(1.0, abs=0.01)

        def path(k):
            return np.append(HOME[:7], 0.3)

        assert wait(lambda: stream(arm, path, 10)[-1].position[7] < 0.31, 20.0)
        assert box.report()["violated"] == 0


def test_damaged_reports_are_left_out(arm, box):
    arm.connect()
    arm.enable()
    box.fault(corrupt=0.3, seed=3)
    states = stream(arm, lambda k: HOME, 60)
    box.fault(corrupt=0.0)
    spread = np.abs([s.position[:7] for s in states])
    assert spread.max() < 60
    assert not np.isnan(spread).any()


def test_the_short_report_will_do(box):
    box.reset("test", 0)
    with XArmDriver(CARD, tick_s=TICK_S, timeout_s=0.5, report="real", **box.address) as arm:
        arm.connect()
        assert box.report()["clients"]["30003"] == 1
        arm.enable()
        states = stream(arm, sine, 60)
        assert all(np.isfinite(s.velocity).all() for s in states)
        box.fault(freeze=True)
        assert "stands still" in error_of(arm.read)
        box.fault(freeze=False)


def test_a_closed_report_stream_is_an_error_and_connecting_again_mends_it(arm, box):
    arm.connect()
    box.fault(disconnect=True)
    assert "closed" in error_of(arm.read) or "stands still" in error_of(arm.read)
    arm.close()
    arm.connect()
    assert np.isfinite(arm.read().position).all()


def test_what_cannot_be_an_xarm_or_its_rate_is_refused(box):
    for card, tick_s, more, said in (
        ("so101", TICK_S, {"report": "rich"}, "unknown option"),
        ("xarm7", 0.002, {}, "250 Hz"),
        ("aloha", TICK_S, {}, "several arms|arms"),
    ):
        with pytest.raises((DeployError, ValueError), match=said):
            XArmDriver(load_embodiment(card), tick_s=tick_s, timeout_s=0.5, **box.address, **more)
    other = XArmDriver(load_embodiment("ur5e_2f85"), tick_s=TICK_S, timeout_s=0.5, **box.address)
    with pytest.raises(DeployError, match="another arm"):
        other.connect()
    nobody = XArmDriver(CARD, tick_s=TICK_S, timeout_s=0.5, address="127.0.0.1", port=1)
    with pytest.raises(DeployError, match="does not answer"):
        nobody.connect()


def test_the_client_changes_nothing_in_the_process(arm, box, capsys):
    """Neither the default timeout of sockets, nor a Unix socket that anybody can put there, nor standard output."""
    path = f"/tmp/xarmcontroller_uds_{box.address['port']}"
    trap = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    trap.bind(path)
    try:
        trap.listen(1)
        trap.setblocking(False)
        before = socket.getdefaulttimeout(), set(threading.enumerate())
        arm.connect()
        assert socket.getdefaulttimeout() == before[0]
        with pytest.raises(BlockingIOError):
            trap.accept()
        arm.close()
        assert wait(lambda: set(threading.enumerate()) == before[1])
        assert capsys.readouterr().out == ""
    finally:
        trap.close()
        os.unlink(path)


def test_a_report_out_of_step_is_found_again():
    here, there = socket.socketpair()
    stream_ = ReportStream(here, TIMED)

    def report(clock):
        body = bytearray(804)
        body[:12] = (804).to_bytes(4, "big") + clock.to_bytes(8, "big")
        return bytes(body)

    there.send(report(1) + report(2)[:700] + report(3) + report(4) + report(5)[:2])
    assert stream_.poll().clock in (3, 4)
    there.send(report(5)[2:] + report(6))
    assert stream_.poll().clock == 6
    assert stream_.damaged >= 1
    there.close()
    stream_.poll()
    assert stream_.closed
    stream_.close()
