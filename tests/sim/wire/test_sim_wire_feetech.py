"""The virtual Feetech bus, frame by frame, on its own terminal and in this process."""

from __future__ import annotations

import os

import numpy as np
import pytest

from robopolicy.embodiment import load_embodiment
from robopolicy.errors import SimulationError
from robopolicy.sim.plant import KinematicPlant
from robopolicy.sim.wire import WireFaults
from robopolicy.sim.wire.box import monotonic_ns
from robopolicy.sim.wire.feetech import FeetechBus, frame, sign_magnitude

CARD = load_embodiment("so101")
PING, READ, WRITE, REG_WRITE, ACTION, SYNC_READ, SYNC_WRITE, ALL = 1, 2, 3, 4, 5, 0x82, 0x83, 0xFE


class Wire:
    """The driver's side of a box."""

    def __init__(self, **options):
        self.box = FeetechBus(CARD, KinematicPlant(CARD, rate_hz=240), WireFaults(), **options)
        self.fd = os.open(self.box.address["device"], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)

    def say(self, data):
        os.write(self.fd, data)
        for _, callback in self.box.files():
            callback()
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return b""

    def tick(self, n=1):
        for _ in range(n):
            self.box.tick(monotonic_ns())

    def goal(self, steps):
        entries = b"".join(bytes([k + 1]) + int(s).to_bytes(2, "little") for k, s in enumerate(steps))
        return self.say(frame(ALL, SYNC_WRITE, bytes([42, 2]) + entries))

    def power(self):
        for number in range(1, 7):
            present = self.box.motion.present_step(number - 1)
            self.say(frame(number, WRITE, bytes([42]) + present.to_bytes(2, "little")))
            self.say(frame(number, WRITE, bytes([40, 1])))
        return np.array([self.box.motion.present_step(k) for k in range(6)])


@pytest.fixture
def wire():
    made = Wire()
    yield made
    os.close(made.fd)
    made.box.close()


def test_frames_are_those_of_the_protocol():
    assert frame(1, 0x02, bytes([0x38, 2])) == bytes.fromhex("ff ff 01 04 02 38 02 be")
    assert sign_magnitude(-5, 15) == 0x8005
    assert sign_magnitude(5, 10) == 5


def test_ping_read_write_and_damage(wire):
    assert wire.say(frame(3, PING)) == frame(3, 0)
    assert wire.say(frame(9, PING)) == b""
    assert wire.say(frame(3, READ, bytes([3, 2]))) == frame(3, 0, (777).to_bytes(2, "little"))
    good = frame(3, WRITE, bytes([46, 7, 1]))
    assert wire.say(good[:-1] + bytes([good[-1] ^ 1])) == b""
    assert wire.box.servos[3].get(46, 2) == 0
    assert wire.say(b"\x00\xff noise" + good) == frame(3, 0)
    assert wire.box.servos[3].get(46, 2) == 263
    assert wire.say(good[:4]) == b""  # a packet may come in pieces
    assert wire.say(good[4:]) == frame(3, 0)
    assert wire.say(frame(3, WRITE, bytes([56, 1, 1]))) == frame(3, 0)
    assert wire.box.servos[3].get(56, 2) != 257  # what is measured cannot be written


def test_registered_writes_wait_for_the_action_and_a_broadcast_is_not_answered(wire):
    for number in (1, 2):
        assert wire.say(frame(number, REG_WRITE, bytes([41, 9]))) == frame(number, 0)
    assert wire.box.servos[1].get(41, 1) == 0
    assert wire.say(frame(ALL, ACTION)) == b""
    assert [wire.box.servos[n].get(41, 1) for n in (1, 2, 3)] == [9, 9, 0]
    assert wire.say(frame(ALL, WRITE, bytes([41, 50]))) == b""
    assert {s.get(41, 1) for s in wire.box.servos.values()} == {50}


def test_a_sync_read_is_answered_in_the_order_that_was_asked(wire):
    wire.tick()
    answer = wire.say(frame(ALL, SYNC_READ, bytes([56, 2, 5, 2, 77])))
    steps = [wire.box.motion.present_step(n - 1) for n in (5, 2)]
    assert answer == b"".join(frame(n, 0, s.to_bytes(2, "little")) for n, s in zip((5, 2), steps, strict=True))


def test_goals_move_the_arm_within_the_rated_speed_only_when_powered(wire):
    home = wire.box.plant.measure()[0].copy()
    there = np.array([wire.box.motion.present_step(k) for k in range(6)]) + np.array([300, 0, 0, 0, 0, 0])
    wire.goal(there)
    wire.tick(50)
    assert (wire.box.plant.measure()[0] == home).all()
    assert wire.box.state()["unpowered_goals"] == 1
    wire.power()
    wire.goal(there)
    fastest = 0.0
    for _ in range(120):
        wire.tick()
        fastest = max(fastest, float(np.abs(wire.box.plant.measure()[1][0])))
    assert wire.box.plant.measure()[0][0] - home[0] == pytest.approx(300 * 2 * np.pi / 4096, abs=1e-3)
    assert fastest <= 4.7 * 1.001
    assert wire.box.recorder.report()["violations"]["velocity"] == 0  # the first of a stream: a jump, not a speed
    assert wire.box.recorder.report()["violations"]["jump"] == 1


def test_a_profile_is_kept_and_its_own_motion_is_not_a_violation(wire):
    here = wire.power()
    acceleration = int(30.0 * 4096 / (2 * np.pi) / 100)
    entries = b"".join(
        bytes([k + 1, min(acceleration, 187 if k == 5 else 255)])
        + int(s - (400 if k == 0 else 0)).to_bytes(2, "little")
        for k, s in enumerate(here)
    )
    before = wire.box.recorder.report()["violated"]
    wire.say(frame(ALL, SYNC_WRITE, bytes([41, 3]) + entries))
    speeds = []
    for _ in range(240):
        wire.tick()
        speeds.append(wire.box.plant.measure()[1][0])
    assert wire.box.recorder.report()["violated"] == before
    assert np.abs(np.diff(speeds)).max() * 240 <= 30.0 * 1.05
    assert wire.box.motion.present_step(0) == pytest.approx(here[0] - 400, abs=2)


def test_goals_outside_the_servos_own_limits_are_cut_off(wire):
    wire.power()
    wire.say(frame(1, WRITE, bytes([9]) + (1900).to_bytes(2, "little")))
    wire.say(frame(1, WRITE, bytes([42]) + (1000).to_bytes(2, "little")))
    wire.tick(240)
    assert wire.box.motion.present_step(0) == pytest.approx(1900, abs=2)


def test_torque_off_is_counted_and_the_joint_goes_limp(wire):
    wire.power()
    assert wire.box.state()["powered"]
    wire.say(frame(2, WRITE, bytes([40, 0])))
    wire.tick()
    state = wire.box.state()
    assert state["torque_dropped"] == 1
    assert state["torque"] == [True, False, True, True, True, True]


def test_an_overload_latches_until_the_supply_was_off(wire):
    wire.power()
    wire.box.faults.set(protective_stop=True)
    wire.tick()
    assert wire.say(frame(2, PING)) == frame(2, 0x20)
    wire.box.faults.set(protective_stop=False)
    wire.tick()
    assert wire.say(frame(2, PING)) == frame(2, 0x20)
    wire.box.recover()
    assert wire.say(frame(2, PING)) == frame(2, 0)
    assert not any(wire.box.state()["torque"])
    assert wire.box.state()["torque_dropped"] == 0


def test_faults_of_the_wire(wire):
    ask = frame(1, READ, bytes([56, 2]))
    whole = wire.say(ask)
    wire.box.faults.set(drop=1.0)
    assert wire.say(ask) == b""
    wire.box.faults.set(drop=0.0, corrupt=1.0)
    damaged = wire.say(ask)
    assert len(damaged) == len(whole)
    assert sum(a != b for a, b in zip(damaged, whole, strict=True)) == 1
    wire.box.faults.set(corrupt=0.0, delay_s=0.01)
    assert wire.say(ask) == b""
    end = monotonic_ns() + 20_000_000
    while monotonic_ns() < end:
        wire.tick()
    assert os.read(wire.fd, 100) == whole
    wire.box.faults.set(delay_s=0.0, freeze=True)
    assert wire.box.files() == []
    os.write(wire.fd, ask)
    wire.tick()
    wire.box.faults.set(freeze=False)
    wire.tick()
    assert wire.say(b"") == b""  # what was said to a frozen bus is lost
    wire.box.faults.set(emergency_stop=True)
    wire.tick()
    assert wire.say(ask) == b""
    wire.box.faults.set(emergency_stop=False)
    wire.tick()
    assert wire.say(ask) == whole


def test_a_hung_servo_answers_and_stands(wire):
    here = wire.power()
    wire.box.faults.set(silent_clock=True)
    wire.goal(here + 20)
    wire.tick(100)
    assert wire.say(frame(1, READ, bytes([42, 2]))) == frame(1, 0, int(here[0] + 20).to_bytes(2, "little"))
    assert wire.say(frame(1, READ, bytes([56, 2]))) == frame(1, 0, int(here[0]).to_bytes(2, "little"))
    assert wire.box.motion.present_step(0) == here[0]


def test_a_pulled_cable_cuts_an_answer_and_a_new_device_comes(wire, tmp_path):
    link = tmp_path / "bus"
    other = Wire(link=str(link))
    other.box.faults.set(disconnect=True)
    old = os.readlink(link)
    os.write(other.fd, frame(1, PING))
    other.box.files()[0][1]()
    assert other.box.files() == []
    assert not link.is_symlink()
    other.box.faults.set(refuse=True)
    other.tick()
    assert other.box.files() == []
    other.box.faults.set(refuse=False)
    other.tick()
    assert os.readlink(link) != old
    os.close(other.fd)
    other.fd = os.open(link, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    assert other.say(frame(1, PING)) == frame(1, 0)
    os.close(other.fd)
    other.box.close()
    assert not link.is_symlink()


@pytest.mark.parametrize("options", [{"ids": [1, 1, 2, 3, 4, 5]}, {"hand": "foot"}, {"calibration": {"knee": {}}}])
def test_wrong_options_are_refused(options):
    with pytest.raises(SimulationError):
        FeetechBus(CARD, KinematicPlant(CARD, rate_hz=240), WireFaults(), **options)
