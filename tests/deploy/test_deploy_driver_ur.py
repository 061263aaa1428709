"""The UR driver on ur_rtde against the virtual controller in its own process; what arrived is judged there."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.deploy.drivers.ur import URDriver
from robopolicy.deploy.drivers.ur_dashboard import DashboardLine
from robopolicy.deploy.drivers.ur_options import require_known, require_plausible, require_remote
from robopolicy.deploy.drivers.ur_state import HEADER, LAYOUT, RtdeReader
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError
from robopolicy.protocols import ForceSensing, Guarded, RobotDriver, SpeedScaled
from robopolicy.sim.wire import WireProcess
from robopolicy.types import Setpoint

pytest.importorskip("rtde_control", reason="the extra ur is not installed")

HOST = f"127.{20 + os.getpid() % 200}.{1 + os.getpid() // 200 % 250}.8"
TICK_S, TIMEOUT_S = 0.002, 0.5
CARD = load_embodiment("ur5e_2f85")
NO_FAULT = {"freeze": False, "silent_clock": False, "drop": 0.0, "delay_s": 0.0, "corrupt": 0.0, "refuse": False}
CLIENT = """
import sys, time
import numpy as np
from robopolicy.deploy.drivers.ur import URDriver
from robopolicy.embodiment import load_embodiment
from robopolicy.types import Setpoint
card = load_embodiment("ur5e_2f85")
driver = URDriver(card, tick_s=0.002, timeout_s=5.0, address=sys.argv[1], lookahead_s=0.03, watchdog_hz=5.0)
driver.connect()
driver.enable()
q, k = driver.read().position.copy(), 0
while True:
    k += 1
    p = q.copy()
    p[:6] += 0.2 * (1 - np.cos(2 * np.pi * k / 1500))
    driver.read()
    driver.command(Setpoint(0, p), 0)
    if k == 400:
        print("moving", flush=True)
    time.sleep(0.002)
"""


@pytest.fixture(scope="module")
def box():
    with WireProcess("robopolicy.sim.wire.ur:VirtualUR", card="ur5e_2f85", host=HOST) as arm:
        yield arm


@pytest.fixture
def arm(box):
    box.fault(**NO_FAULT, speed_scale=1.0)
    box.recover()
    box.reset("train", 0)
    return box


def _driver(**options) -> URDriver:
    given = {"address": HOST, "gripper": "robotiq", "lookahead_s": 0.03, "watchdog_hz": 1.0, **options}
    return URDriver(CARD, tick_s=TICK_S, timeout_s=TIMEOUT_S, **given)


@pytest.fixture
def driver(arm):
    with _driver() as made:
        made.connect()
        made.enable()
        yield made


def _stream(driver, count, *, amplitude=0.1, period=500, each=lambda state: None):
    """A slow sine that begins and ends at rest when ``count`` is a multiple of ``period``."""
    start, due_s = driver.read().position.copy(), time.monotonic()
    for k in range(count):
        position = start.copy()
        position[:6] += amplitude * (1 - np.cos(2 * np.pi * k / period)) / 2
        each(driver.read())
        driver.command(Setpoint(0, position), 0)
        due_s = max(due_s + TICK_S, time.monotonic() - 0.02)
        time.sleep(max(due_s - time.monotonic(), 0.0))
    return start


def _until(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "never came"
        time.sleep(0.005)


def _raises_within(driver, seconds):
    """Seconds until ``read`` raised, and what."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        try:
            driver.read()
        except DeployError as error:
            return time.monotonic() - begun, str(error)
        time.sleep(TICK_S)
    return None, ""


def test_it_is_what_the_daemon_wants(driver):
    assert all(isinstance(driver, kind) for kind in (RobotDriver, SpeedScaled, ForceSensing, Guarded))
    assert driver.buffered is False
    assert driver.wrench().shape == (6,)


def test_five_hundred_setpoints_arrive_within_limits_and_the_arm_follows(driver, arm):
    seen = []
    start = _stream(driver, 500, each=lambda state: seen.append(state.position[:6] - CARD.home_position[:6]))
    _until(lambda: arm.report()["received"] >= 500)
    report = arm.report()
    assert (report["received"], report["streams"], report["ignored"]) == (500, 1, 0)
    assert driver.sent == 500
    assert (report["violated"], report["first_violation"]) == (0, "")
    assert report["worst"]["velocity"] > 0.05
    assert np.max(seen) == pytest.approx(0.1, abs=0.02)
    _until(lambda: np.abs(driver.read().position[:6] - start[:6]).max() < 1e-3)
    driver.stop()
    _until(lambda: not arm.report()["servoing"])


def test_a_step_is_recorded_as_a_violation(driver, arm):
    _stream(driver, 50, amplitude=0.0)
    assert arm.report()["violated"] == 0
    position = driver.read().position.copy()
    position[:6] += 0.2
    driver.read()
    driver.command(Setpoint(0, position), 0)
    _until(lambda: arm.report()["violated"])
    assert arm.report()["violations"]["velocity"] >= 1


def test_what_is_no_setpoint_is_refused_and_never_arrives(driver, arm):
    for wrong in (np.full(7, np.nan), CARD.home_position * [1, np.inf, 1, 1, 1, 1, 1], np.zeros(6)):
        with pytest.raises(DeployError, match="no setpoint"):
            driver.command(Setpoint(0, wrong), 0)
    _stream(driver, 20, amplitude=0.0)
    _until(lambda: arm.report()["received"] >= 20)
    assert (arm.report()["received"], arm.report()["violated"]) == (20, 0)


def test_gripper_closes_without_a_wait_in_command(driver, arm):
    _stream(driver, 20, amplitude=0.0)
    position = driver.read().position.copy()
    position[6] = 0.25
    begun = driver.sent
    while driver.read().position[6] > 0.26:
        driver.command(Setpoint(0, position), 0)
        assert driver.sent - begun < 10_000
        time.sleep(TICK_S)
    assert arm.report()["gripper_goal"] == pytest.approx(0.25, abs=1 / 255)
    assert arm.report()["violated"] == 0


def test_a_frozen_controller_is_found_by_its_clock(driver, arm):
    _stream(driver, 100)
    assert _raises_within(driver, 2 * TIMEOUT_S)[0] is None
    arm.fault(freeze=True)
    after_s, why = _raises_within(driver, 20.0)
    arm.fault(freeze=False)
    assert after_s is not None
    assert after_s > TIMEOUT_S * 0.9
    assert "clock stands still" in why
    _until(lambda: _raises_within(driver, 0.1)[0] is None)


def test_why_the_clients_word_does_not_count(arm):
    rtde_control = pytest.importorskip("rtde_control")
    kind = rtde_control.RTDEControlInterface
    client = kind(HOST, 500.0, kind.FLAG_UPLOAD_SCRIPT | kind.FLAG_NO_EXT_FT)
    try:
        assert client.servoJ(CARD.home_position[:6].tolist(), 0, 0, TICK_S, 0.03, 300)
        arm.fault(freeze=True)
        said = [client.servoJ(CARD.home_position[:6].tolist(), 0, 0, TICK_S, 0.03, 300) for _ in range(20)]
        assert said == [True] * 20
        assert client.isConnected()
    finally:
        arm.fault(freeze=False)
        client.disconnect()


def test_a_clock_that_stands_behind_a_live_connection_is_found(driver, arm):
    arm.fault(silent_clock=True)
    after_s, why = _raises_within(driver, 20.0)
    arm.fault(silent_clock=False)
    assert after_s is not None
    assert "clock stands still" in why
    _until(lambda: _raises_within(driver, 0.1)[0] is None)


@pytest.mark.parametrize("kind", ["protective_stop", "emergency_stop"])
def test_a_safety_stop_is_a_fault_and_nothing_more_is_sent(driver, arm, kind):
    _stream(driver, 100)
    arm.fault(**{kind: True})
    _until(lambda: driver.read().fault)
    sent = driver.sent
    with pytest.raises(DeployError, match="takes no setpoints"):
        _stream(driver, 20)
    assert driver.sent == sent
    assert arm.report()["ignored"] == 0
    driver.stop()
    with pytest.raises(DeployError, match="clear it at the pendant"):
        driver.enable()
    arm.recover()
    _until(lambda: not driver.read().fault)
    driver.enable()
    _stream(driver, 500)
    assert arm.report()["violated"] == 0
    assert driver.sent == sent + 500


def test_the_controllers_speed_scaling_is_seen(driver, arm):
    assert driver.speed_scale == 1.0
    arm.fault(speed_scale=0.5)
    _until(lambda: driver.read() is not None and driver.speed_scale == 0.5)
    lag = []
    target = CARD.home_position[:6].max()
    _stream(driver, 250, each=lambda state: lag.append(state.position[:6].max() - target))
    assert max(lag) < 0.099


def test_a_connection_cut_in_a_packet_is_an_error_and_connect_works_again(driver, arm):
    _stream(driver, 100)
    arm.fault(disconnect=True)
    after_s, why = _raises_within(driver, 20.0)
    assert after_s is not None
    assert "UR" in why or "ur_rtde" in why
    driver.stop()
    driver.connect()
    driver.enable()
    _stream(driver, 500)
    report = arm.report()
    assert report["violated"] == 0
    assert report["servoing"]


def test_dashboard_stop_from_another_process(driver, arm):
    stopper = (
        "import sys; from robopolicy.deploy.drivers.ur import URDriver; "
        "from robopolicy.embodiment import load_embodiment; "
        "c = URDriver.stop_channel(load_embodiment('ur5e_2f85'), {'address': sys.argv[1]}); c.stop(); c.close()"
    )
    _stream(driver, 50)
    with subprocess.Popen([sys.executable, "-c", stopper, HOST]) as other:
        faults = []
        while other.poll() is None:
            with contextlib.suppress(DeployError):  # from the stop on
                _stream(driver, 20, each=lambda state: faults.append(state.fault))
        assert other.returncode == 0
    _until(lambda: driver.read().fault)
    report = arm.report()
    assert (report["playing"], report["ended_by"]) == (False, "dashboard")
    assert not faults[0]
    driver.stop()
    _until(lambda: not driver.read().fault)
    driver.enable()
    _stream(driver, 20, amplitude=0.0)
    assert arm.report()["playing"]


def _kill_in_motion(arm, *, everything: bool) -> tuple[dict, dict]:
    """Reports before a client that servos is killed, and when the arm has come to rest."""
    client = subprocess.Popen(
        *([sys.executable, "-c", CLIENT, HOST],),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"moving\n"
        before = arm.report()
        if everything:
            os.killpg(client.pid, signal.SIGKILL)
        else:
            client.send_signal(signal.SIGKILL)
        _until(lambda: not arm.report()["playing"])
    finally:
        client.kill()
        client.wait()
        client.stdout.close()
    _until(lambda: arm.report()["at_rest"])
    return before, arm.report()


def test_the_watchdog_stops_the_arm_of_a_client_that_is_killed_with_its_child(arm):
    before, after = _kill_in_motion(arm, everything=True)
    assert (before["watchdog_stops"], before["servoing"], before["violated"]) == (0, True, 0)
    assert (after["watchdog_stops"], after["ended_by"], after["violated"]) == (1, "watchdog", 0)
    assert after["rest_after_s"] > 0.1


def test_the_child_stops_the_arm_of_a_client_that_is_killed(arm):
    before, after = _kill_in_motion(arm, everything=False)
    assert before["servoing"]
    assert (after["ended_by"], after["violated"]) == ("stop", 0)


def test_the_end_of_the_child_is_an_error(driver, arm):
    _stream(driver, 50)
    os.kill(driver._control.process, signal.SIGKILL)
    after_s, why = _raises_within(driver, 20.0)
    assert after_s is not None
    assert "ur_rtde has ended" in why
    driver.connect()
    driver.enable()
    _stream(driver, 20, amplitude=0.0)
    assert arm.report()["violated"] == 0


def test_late_lost_and_damaged_packets_never_become_a_pose_that_is_not_true(driver, arm):
    _stream(driver, 20, amplitude=0.0)
    arm.fault(drop=0.3, delay_s=0.01, corrupt=0.3, seed=3)
    home, worst = CARD.home_position, []
    for _ in range(400):
        with contextlib.suppress(DeployError):  # a damaged packet may say that the program has ended
            state = driver.read()
            assert np.isfinite(state.position).all()
            worst.append(np.abs(state.position[:6]).max())
            driver.command(Setpoint(0, home), 0)
        time.sleep(TICK_S)
    assert len(worst) > 20
    arm.fault(drop=0.0, delay_s=0.0, corrupt=0.0)
    driver.close()
    driver.connect()
    _until(lambda: np.abs(driver.read().position[:6] - home[:6]).max() < 1e-3)
    assert max(worst) <= 6.4
    assert arm.report()["violated"] == 0


def test_who_is_not_there_is_said_in_time(arm):
    arm.fault(refuse=True)
    _until(lambda: not _reachable())
    with pytest.raises(DeployError, match="does not answer"):
        _driver().connect()
    arm.fault(refuse=False, freeze=True)
    _until(_reachable)
    with pytest.raises(DeployError, match="does not answer"):
        _driver().connect()
    arm.fault(freeze=False)
    with _driver() as made:
        made.connect()
        assert made.read().position == pytest.approx(CARD.home_position, abs=1e-3)


def test_an_arm_without_power_is_powered_by_enable_and_lost_power_is_a_fault(driver, arm):
    _stream(driver, 50, amplitude=0.0)
    with contextlib.closing(DashboardLine(HOST)) as line:
        line.ask("power off")
    with contextlib.suppress(DeployError):
        _stream(driver, 20, amplitude=0.0)
    _until(lambda: driver.read().fault)
    assert not arm.report()["powered"]
    driver.stop()
    _until(lambda: not driver.read().fault)
    driver.enable()
    _stream(driver, 20, amplitude=0.0)
    assert arm.report()["powered"]
    assert arm.report()["violated"] == 0


def test_local_control_and_other_generations_are_refused():
    class Pendant:
        def ask(self, command):
            return {"is in remote control": "false"}[command]

    with pytest.raises(DeployError, match="local control"):
        require_remote(Pendant())
    for version in ((3, 15, 8, 0), (5, 5, 0, 0), (10, 7, 0, 0)):
        with pytest.raises(DeployError, match="does not know"):
            require_known(version)
    require_known((5, 15, 0, 126))


@settings(max_examples=100)
@given(st.lists(st.one_of(st.binary(max_size=40), st.just("packet"), st.just("text")), max_size=8))
def test_what_comes_over_rtde_is_checked_before_it_is_unpacked(pieces):
    ours, theirs = socket.socketpair()
    reader = RtdeReader.__new__(RtdeReader)
    reader._address, reader._buffer, reader.newest, reader._socket = "test", b"", None, ours
    ours.setblocking(False)
    state = HEADER.pack(3 + LAYOUT.size, ord("U")) + LAYOUT.pack(1, 5.0, *range(18), 1.0, 0.5, 7, 2, 1)
    with ours, theirs:
        sound = True
        for piece in pieces:
            theirs.sendall(
                state if piece == "packet" else HEADER.pack(5, ord("M")) + b"ok" if piece == "text" else piece
            )
            sound &= isinstance(piece, str)
        try:
            found = reader.poll() if pieces else None
        except DeployError:
            assert not sound
            return
    if sound and "packet" in pieces:
        assert (found.clock_s, found.position, found.scale, found.mode) == (5.0, (0, 1, 2, 3, 4, 5), 0.5, 7)


def _reachable() -> bool:
    with socket.socket() as line:
        return line.connect_ex((HOST, 30004)) == 0


def test_what_no_arm_reports_is_refused():
    for pose in ([0.0] * 6, [float("nan")] * 6, [7.0, 0, 0, 0, 0, 0], [1.0] * 5):
        with pytest.raises(DeployError, match="no pose of a real arm"):
            require_plausible(pose)
    require_plausible([0.0, 0, 0, 0, 0, 0.1])


@pytest.mark.parametrize(
    "options",
    [{"address": ""}, {"lookahead_s": 0.01}, {"gain": 99}, {"gripper": "hand"}, {"speed": 1}, {"watchdog_hz": 0}],
)
def test_options_are_checked_before_anything_is_reached(options):
    with pytest.raises(DeployError):
        _driver(**options)
    with pytest.raises(DeployError, match="no UR"):
        URDriver(load_embodiment("panda"), tick_s=TICK_S, timeout_s=TIMEOUT_S, address=HOST)
    with pytest.raises(DeployError, match="500 Hz"):
        URDriver(CARD, tick_s=0.003, timeout_s=TIMEOUT_S, address=HOST)
