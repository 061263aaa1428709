"""The Franka driver: its spline and clock, and its 1 kHz process on a library that plays ``pylibfranka``.

The real libfranka against ``franky-sim`` is tests/claims/deploy/franka_wire.py, which brings its own environment.
"""

import json
import os
import signal
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.control.setpoint_check import SetpointCheck
from robopolicy.deploy.drivers.franka import FrankaDriver
from robopolicy.deploy.drivers.franka_spline import KnotSpline, RobotClock
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError
from robopolicy.protocols import Guarded, RobotDriver
from robopolicy.types import Setpoint

CARD = load_embodiment("panda")
HOME = CARD.home_position
TICK_S = 0.01
LIMITS = [CARD.joints.limit(f"max_{kind}")[:7] for kind in ("velocity", "acceleration", "jerk")]


def spline(standing=HOME[:7]):
    made = KnotSpline(TICK_S, LIMITS[1], LIMITS[2])
    made.begin(standing)
    return made


def judged(values, tick_s=0.001, times_s=None):
    """Violations of a 1 kHz sequence [N, 7], gripper resting."""
    check = SetpointCheck(CARD, tick_s=tick_s)
    check.restart(HOME)
    times_s = np.arange(len(values)) * tick_s if times_s is None else times_s
    for time_s, value in zip(times_s, values, strict=True):
        check.check(round(time_s * 1e9), np.append(value, HOME[7]))
    return check.violations, check.worst


def limited(rng, ticks):
    """A random stream at a tick whose differences use the limits to the full: jerk is drawn, the rest follows."""
    v, a, q = np.zeros(7), np.zeros(7), HOME[:7].copy()
    found = []
    for _ in range(ticks):
        low = np.maximum(-LIMITS[2], (-LIMITS[1] - a) / TICK_S)
        high = np.minimum(LIMITS[2], (LIMITS[1] - a) / TICK_S)
        jerk = low + rng.random(7) * (high - low)
        # back to the middle before speed or place run out
        towards = -np.sign(v) * LIMITS[1] * (np.abs(v) > 0.3 * LIMITS[0]) - 2.0 * (q - HOME[:7])
        jerk = np.where(np.abs(v) + np.abs(q - HOME[:7]) > 0.25, np.clip((towards - a) / TICK_S, low, high), jerk)
        a = np.clip(a + jerk * TICK_S, -LIMITS[1], LIMITS[1])
        v = np.clip(v + a * TICK_S, -LIMITS[0], LIMITS[0])
        q = q + v * TICK_S
        found.append(q.copy())
    return np.array(found)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_is_limited_at_the_tick_is_limited_at_1_khz(seed):
    stream = limited(np.random.default_rng(seed), 40)
    at_tick, _ = judged(stream, TICK_S)
    made = spline()
    for k, q in enumerate(stream):
        assert made.put(k * TICK_S, q)
    values = [made.at(t) for t in np.arange(-0.03, 0.37, 0.001)]
    found, worst = judged(values)
    if not sum(at_tick.values()):
        assert not sum(found.values()), worst
    assert worst["jerk"] < 1.5
    assert worst["acceleration"] > 0.05


def test_straight_lines_between_setpoints_would_not_do():
    """The control: the same stream, played as the lines between its setpoints."""
    stream = limited(np.random.default_rng(0), 40)
    times = np.arange(0, 0.37, 0.001)
    lines = np.column_stack([np.interp(times, np.arange(40) * TICK_S, stream[:, j]) for j in range(7)])
    assert judged(lines)[0]["jerk"] > 10


def test_the_spline_passes_by_its_setpoints():
    made = spline()
    path = HOME[:7] + 0.1 * (1 - np.cos(np.linspace(0, 2 * np.pi, 100)))[:, None]
    for k, q in enumerate(path):
        made.put(k * TICK_S, q)
    off = [np.abs(made.at(k * TICK_S) - path[k]).max() for k in range(90)]
    assert max(off) < 1e-4
    assert not made.dry


def test_a_stream_that_ends_in_motion_brakes_and_is_latched():
    made = spline()
    ramp = [HOME[:7] + 0.5 * TICK_S * k * min(k / 20, 1.0) for k in range(60)]
    for k, q in enumerate(ramp):
        made.put(k * TICK_S, q)
    values = [made.at(t) for t in np.arange(-0.03, 1.2, 0.001)]
    assert made.dry
    found, worst = judged(values[400:])
    assert found["acceleration"] == found["jerk"] == 0, worst
    assert np.abs(values[-1] - values[-2]).max() < 1e-9
    assert not made.put(1.21, values[-1]), "until it is enabled again"
    made.begin(values[-1])
    assert made.put(1.21, values[-1])


def test_a_stream_that_ends_at_rest_is_no_fault_and_may_go_on_later():
    made = spline()
    for k in range(5):
        made.put(k * TICK_S, HOME[:7])
    assert np.array([made.at(t) for t in np.arange(0, 3.0, 0.01)]) == pytest.approx(np.tile(HOME[:7], (300, 1)))
    assert not made.dry
    assert made.put(9.0, HOME[:7]), "at any time"
    for k in range(1, 9):
        assert made.put(9.0 + k * TICK_S, HOME[:7] + 1e-4 * k)
    assert np.isfinite(made.at(9.05)).all()


def test_a_setpoint_that_does_not_continue_the_stream_is_left_out():
    made = spline()
    assert made.put(1.0, HOME[:7])
    assert not made.put(1.0, HOME[:7])
    assert made.put(1.0 + TICK_S, HOME[:7] + 1e-4)
    assert not made.put(1.0 + 5 * TICK_S, HOME[:7] + 1e-3), "a hole in motion"


def test_late_setpoints_where_the_arm_stands_are_harmless():
    made = spline()
    for k in range(4):
        made.put(k * TICK_S, HOME[:7])
    made.at(0.05)
    assert made.put(4 * TICK_S, HOME[:7]), "late, but of the same pose"
    assert not made.put(5 * TICK_S, HOME[:7] + 1e-3), "late, and somewhere else"
    for k in range(8, 30):
        assert made.put(k * TICK_S, HOME[:7] + 1e-5 * (k - 8) ** 2), "a hole while it stood"
    values = [made.at(t) for t in np.arange(0.05, 0.27, 0.001)]
    assert not made.dry
    assert np.abs(np.diff(values, n=2, axis=0)).max() < 1e-6


def test_the_clock_follows_the_host_without_its_jitter():
    rng, clock = np.random.default_rng(0), RobotClock()
    clock.begin(0.0)
    now, times = 0.0, []
    for k in range(20_000):
        now = (k + 1) * 0.001 * 1.0002  # the robot's quartz is 200 ppm off
        times.append(clock.advance(0.001, now + abs(rng.normal(0, 0.0005))))
    steps = np.diff(times)
    assert steps.min() > 0
    assert abs(times[-1] - now) < 0.002
    assert np.abs(steps[5000:] / 0.001 - 1).max() < 0.005
    # at 2 rad/s the remaining jitter is this jerk, against 7500 of the first joint
    assert np.abs(np.diff(steps[5000:], n=2)).max() / 0.001**3 * 2.0 < 1500


# ------------------------------------------------------------------ the process, on a library that plays pylibfranka

LIBRARY = '''
"""Plays pylibfranka: one robot that is where it was told to be. Steered by faults.json, tells in commands.bin."""
import json, os, struct, time
HERE = os.environ["FAKE_FRANKA"]

class FrankaException(RuntimeError): ...
class ControlException(FrankaException): ...
class CommandException(FrankaException): ...
class NetworkException(FrankaException): ...
class RealtimeConfig: kEnforce, kIgnore = 0, 1
class ControllerMode: JointImpedance = 0
class RobotMode: Idle, Move, Reflex, UserStopped = 1, 2, 4, 5

class Duration:
    def __init__(self, ms): self.ms = ms
    def to_sec(self): return self.ms / 1000

class State: ...
class JointPositions:
    def __init__(self, q): self.q, self.motion_finished = q, False

class Robot:
    def __init__(self, address, realtime):
        if address == "refuses":
            raise NetworkException("libfranka: Connection refused")
        self.q, self.ms, self.mode, self.cycles, self.faults = %s, 0, RobotMode.Idle, 0, {}
        self.due = time.monotonic()
        self.log = open(os.path.join(HERE, "commands.bin"), "ab", buffering=0)

    def cycle(self, controlling):
        # a host that is late has lost cycles: the robot's clock goes on
        now = time.monotonic()
        time.sleep(max(self.due - now, 0))
        step = 1 + max(int((time.monotonic() - self.due) * 1000), 0)
        self.due += step / 1000
        self.cycles += 1
        path = os.path.join(HERE, "faults.json")
        if self.cycles %% 10 == 0 and os.path.exists(path):
            self.faults = json.load(open(path))
        while self.faults.get("freeze"):
            time.sleep(0.01)
            self.faults = json.load(open(path))
            self.due = time.monotonic()
        if self.faults.get("button"):
            self.mode = RobotMode.UserStopped
        elif self.mode == RobotMode.UserStopped:
            self.mode = RobotMode.Idle
        if self.faults.get("abort") and controlling:
            self.mode = RobotMode.Reflex
            raise ControlException("libfranka: Move command aborted: " + self.faults["abort"])
        if controlling and self.faults.get("lost") and self.cycles %% 50 == 0:
            step += 2
        self.ms += step
        state = State()
        state.q, state.dq, state.q_d = list(self.q), [0.0] * 7, list(self.q)
        state.time, state.robot_mode, state.control_command_success_rate = Duration(self.ms), self.mode, 1.0
        return state, Duration(step)

    def read_once(self): return self.cycle(False)[0]
    def start_joint_position_control(self, mode):
        if self.mode != RobotMode.Idle:
            raise CommandException("libfranka: not possible in the current mode")
        self.mode = RobotMode.Move
        return Control(self)
    def automatic_error_recovery(self):
        self.mode = RobotMode.Idle
        open(os.path.join(HERE, "recovered"), "a").write("x")

class Control:
    def __init__(self, robot): self.robot = robot
    def readOnce(self): return self.robot.cycle(True)
    def writeOnce(self, command):
        self.robot.q = command.q
        self.robot.log.write(struct.pack("<8d", self.robot.ms / 1000, *command.q))
        if command.motion_finished:
            self.robot.mode = RobotMode.Idle
'''


class Rig:
    def __init__(self, folder):
        self.folder = folder
        (folder / "pylibfranka.py").write_text(LIBRARY % HOME[:7].tolist())

    def fault(self, **values):
        new = self.folder / "faults.new"
        new.write_text(json.dumps(values))
        os.replace(new, self.folder / "faults.json")

    def commands(self):
        """[N, 7], and [N] robot seconds."""
        data = (self.folder / "commands.bin").read_bytes()
        table = np.frombuffer(data[: len(data) // 64 * 64], "<f8").reshape(-1, 8)
        return table[:, 1:], table[:, 0]

    @property
    def recovered(self):
        path = self.folder / "recovered"
        return len(path.read_text()) if path.exists() else 0


@pytest.fixture
def rig(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("FAKE_FRANKA", str(tmp_path))
    return Rig(tmp_path)


@pytest.fixture
def arm(rig):
    with FrankaDriver(CARD, tick_s=TICK_S, timeout_s=0.5, address="here", priority=0) as made:
        made.connect()
        yield made


def wait(holds, limit_s=10.0):
    until = time.monotonic() + limit_s
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def stream(arm, path, ticks):
    states, begin_ns, tick_ns = [], monotonic_ns(), round(TICK_S * 1e9)
    for k in range(ticks):
        states.append(arm.read())
        arm.command(Setpoint(begin_ns + (k + 20) * tick_ns, path(k)), 0)
        time.sleep(max(begin_ns + (k + 1) * tick_ns - monotonic_ns(), 0) / 1e9)
    return states


def controlling(arm):
    arm.read()
    return arm._record[3]


def sine(k, size=0.05, period=100):
    return HOME + np.append(np.full(7, size * (1 - np.cos(2 * np.pi * min(k, period) / period))), 0.0)


def test_a_sine_is_followed_within_all_limits(arm, rig):
    assert isinstance(arm, RobotDriver)
    assert not isinstance(FrankaDriver, Guarded), "a Franka takes one controlling connection"
    assert arm.buffered
    assert arm.read().position == pytest.approx(HOME)
    arm.enable()
    stream(arm, sine, 130)
    assert wait(lambda: rig.commands()[0][-1] == pytest.approx(HOME[:7], abs=1e-6))
    found, times = rig.commands()
    assert np.ptp(found, axis=0) == pytest.approx(np.full(7, 0.1), abs=0.002)
    violations, worst = judged(found, times_s=times)
    assert not sum(violations.values()), worst
    assert not arm.read().fault
    arm.stop()
    assert wait(lambda: not controlling(arm))
    assert not arm.read().fault
    arm.enable()
    assert not arm.read().fault


def test_stop_in_motion_brakes_within_the_limits(arm, rig):
    arm.enable()
    stream(arm, lambda k: sine(k, 0.2, 200), 60)
    arm.stop()
    assert wait(lambda: not controlling(arm))
    found, times = rig.commands()
    violations, worst = judged(found, times_s=times)
    assert violations["acceleration"] == violations["jump"] == 0, worst
    assert np.abs(found[-1] - found[-2]).max() < 1e-5
    assert not arm.read().fault


def test_a_stream_that_runs_dry_is_a_fault(arm, rig):
    arm.enable()
    stream(arm, lambda k: sine(k, 0.2, 200), 60)
    assert wait(lambda: arm.read().fault)
    arm.stop()
    arm.read()
    assert wait(lambda: not arm.read().fault), "a stop ends the fault, also while it still brakes"
    assert wait(lambda: not controlling(arm)), "it has braked and given control back"
    assert not arm.read().fault
    found, times = rig.commands()
    assert np.abs(found[-1] - found[-2]).max() < 1e-5
    violations, worst = judged(found, times_s=times)
    assert violations["acceleration"] == 0, worst
    arm.stop()
    assert wait(lambda: not arm.read().fault)
    arm.enable()
    assert not arm.read().fault


def test_an_abort_is_a_fault_that_only_enable_recovers(arm, rig):
    arm.enable()
    stream(arm, lambda k: HOME, 5)
    rig.fault(abort="[communication_constraints_violation]")
    assert wait(lambda: arm.read().fault)
    assert "communication_constraints_violation" in arm._said
    rig.fault()
    arm.stop()
    assert wait(lambda: not arm.read().fault)
    time.sleep(0.2)
    assert rig.recovered == 0, "nothing recovers by itself"
    arm.enable()
    assert rig.recovered == 1
    assert not arm.read().fault


def test_the_stop_button_is_a_fault_and_refuses_to_enable(arm, rig):
    rig.fault(button=True)
    assert wait(lambda: arm.read().fault)
    with pytest.raises(DeployError, match="stop button"):
        arm.enable()
    rig.fault()
    assert wait(lambda: not arm.read().fault)
    arm.enable()


def test_lost_cycles_are_counted(arm, rig):
    arm.enable()
    rig.fault(lost=True)
    assert wait(lambda: arm.read() and arm.lost >= 4)
    rig.fault()


def test_a_robot_that_falls_silent(arm, rig):
    arm.enable()
    rig.fault(freeze=True)
    with pytest.raises(DeployError, match="clock stands still"):
        read_on(arm)
    rig.fault()
    assert wait(lambda: _reads(arm))


def test_the_death_of_the_1_khz_process_is_silence(arm):
    arm.enable()
    os.kill(arm._children[0].pid, signal.SIGKILL)
    with pytest.raises(DeployError):
        read_on(arm)


def read_on(arm):
    while True:
        arm.read()
        time.sleep(0.01)


def _reads(arm):
    try:
        return arm.read()
    except DeployError:
        return None


def test_the_process_brakes_by_itself_when_the_driver_is_gone(arm, rig):
    arm.enable()
    stream(arm, lambda k: sine(k, 0.2, 200), 60)
    child = arm._children[0]
    arm._line.close()  # what the kernel does for a process that was killed
    arm._line = None
    assert wait(lambda: child.poll() is not None)
    found, times = rig.commands()
    assert np.abs(found[-1] - found[-2]).max() < 1e-5
    violations, worst = judged(found, times_s=times)
    assert violations["acceleration"] == 0, worst


def test_closing_ends_the_process_and_connecting_again_works(arm):
    arm.enable()
    child = arm._children[0]
    arm.close()
    arm.close()
    assert child.poll() == 0
    with pytest.raises(DeployError, match="connect"):
        arm.read()
    arm.connect()
    assert np.isfinite(arm.read().position).all()


def test_what_is_wrong_is_said(rig, tmp_path, monkeypatch):
    def built(card=CARD, **more):
        return FrankaDriver(card, tick_s=TICK_S, timeout_s=0.5, **{"address": "here", "priority": 0, **more})

    for card, more in (("so101", {}), ("panda", {"realtime": "maybe"}), ("panda", {"gripper": "claw"})):
        with pytest.raises(DeployError):
            built(load_embodiment(card), **more)
    with pytest.raises(DeployError, match="Connection refused"):
        built(address="refuses").connect()
    (tmp_path / "pylibfranka.py").write_text("raise ImportError('no')")
    with pytest.raises(DeployError, match=r"robopolicy\[franka\]"):
        built().connect()
    with built() as arm, pytest.raises(DeployError, match="not a setpoint"):
        arm.command(Setpoint(0, np.full(8, np.nan)), 0)
