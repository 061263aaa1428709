"""The virtual control box of an xArm: frames, servo mode, errors, reports, gripper, faults. No vendor's package."""

import contextlib
import socket
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.embodiment import load_embodiment
from robopolicy.errors import SimulationError
from robopolicy.sim.plant import KinematicPlant
from robopolicy.sim.wire import WireFaults
from robopolicy.sim.wire.box import BoxLoop
from robopolicy.sim.wire.xarm import REACH_S, SERVO_MODE, STANDBY, STOPPED, VirtualXArm
from robopolicy.sim.wire.xarm_frames import MOST_BYTES, take_request
from robopolicy.sim.wire.xarm_gripper import GripperRegisters

CARD = load_embodiment("xarm7")
HOME = CARD.home_position[:7]
ENABLE, SET_STATE, GET_STATE, ERRORS, CLEAR, MODE, SERVO, JOINTS, BUS = 11, 12, 13, 15, 16, 19, 29, 42, 124


class Bench:
    """A box in this process, one command connection, stepped by hand."""

    def __init__(self, **options):
        plant = KinematicPlant(CARD, rate_hz=1 / VirtualXArm.period_s)
        self.faults = WireFaults()
        self.box = VirtualXArm(CARD, plant, self.faults, port=0, report_port=0, **options)
        self.loop = BoxLoop(self.box)
        self.number, self.open = 0, []
        self.line = self.connect(self.box.address["port"])

    def connect(self, port):
        line = socket.create_connection((self.box.address["address"], port), 1.0)
        line.setblocking(False)
        self.open.append(line)
        return line

    def report(self, kind):
        return self.connect(self.box.address["report_port"] + kind - 30000)

    def run(self, cycles=1):
        done = 0
        while done < cycles:
            done += self.loop.step()

    def send(self, function, payload=b""):
        self.number += 1
        self.line.sendall(struct.pack(">HHHB", self.number, 2, 1 + len(payload), function) + payload)

    def take(self, line=None):
        found = b""
        with contextlib.suppress(BlockingIOError):
            while data := (line or self.line).recv(65536):
                found += data
        return found

    def ask(self, function, payload=b"", cycles=3):
        """-> (state byte, data), or None when no answer came."""
        self.take()
        self.send(function, payload)
        self.run(cycles)
        answer = self.take()
        while answer:
            number, _, length, back = struct.unpack_from(">HHHB", answer)
            packet, answer = answer[: 6 + length], answer[6 + length :]
            if number == self.number:
                assert back == function
                return packet[7], packet[8:]
        return None

    def ready(self):
        for function, payload in ((ENABLE, b"\x08\x01"), (MODE, b"\x01"), (SET_STATE, b"\x00")):
            self.ask(function, payload)
        return self

    def servo(self, joints, cycles=1):
        self.send(SERVO, np.asarray([*joints, 0, 0, 0], "<f4").tobytes())
        self.run(cycles)

    def close(self):
        for line in self.open:
            line.close()
        self.loop.close()


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.close()


def test_requests_are_cut_from_a_stream():
    one = struct.pack(">HHHB", 7, 2, 3, ENABLE) + b"\x08\x01"
    request, left = take_request(one + one[:4])
    assert (request.number, request.function, request.payload, left) == (7, ENABLE, b"\x08\x01", one[:4])
    assert take_request(one[:8]) == (None, one[:8])
    heartbeat = struct.pack(">HHH", 0, 1, 0)
    assert take_request(heartbeat + one) == (None, one)
    with pytest.raises(ValueError, match="bytes"):
        take_request(struct.pack(">HHH", 0, 2, MOST_BYTES + 1))


def test_setpoints_count_only_when_powered_in_servo_mode(bench):
    bench.servo(HOME)
    bench.ask(ENABLE, b"\x08\x01")
    bench.servo(HOME)
    bench.ask(MODE, b"\x01")
    bench.servo(HOME, 2)
    assert bench.box.recorder.received == 0
    assert bench.box.state()["refused"] == 3
    bench.ask(SET_STATE, b"\x00")
    assert bench.ask(GET_STATE)[1] == bytes([STANDBY])
    bench.servo(HOME, 2)
    assert bench.box.recorder.received == 1
    assert bench.box.state()["mode"] == SERVO_MODE


def test_only_the_newest_is_carried_out_at_full_speed(bench):
    bench.ready()
    before = bench.box.plant.measure()[0][0]
    for step in (0.02, 0.04, 0.06):
        bench.send(SERVO, np.asarray([HOME[0] + step, *HOME[1:], 0, 0, 0], "<f4").tobytes())
    positions = []
    for _ in range(12):
        bench.run()
        positions.append(bench.box.plant.measure()[0][0])
    assert bench.box.recorder.received == 3
    assert positions[-1] - before == pytest.approx(0.06, abs=1e-6)
    steps = np.diff([before, *positions])
    # three steps of 0.02 in three ticks of 10 ms would be 2 rad/s; the arm goes as fast as it can
    assert steps.max() == pytest.approx(CARD.joints.limit("max_velocity")[0] * VirtualXArm.period_s, rel=1e-3)
    assert bench.ask(JOINTS)[1] == np.asarray([HOME[0] + np.float32(0.06), *HOME[1:]], "<f4").tobytes()


def test_a_step_too_far_is_c24_and_a_tip_too_fast_c60(bench):
    bench.ready()
    far = HOME.copy()
    far[0] += 1.1 * REACH_S * CARD.joints.limit("max_velocity")[0]
    bench.servo(far, 3)
    assert bench.ask(ERRORS)[1] == bytes([24, 0])
    assert bench.box.state()["arm_state"] == STOPPED
    assert bench.ask(SET_STATE, b"\x00")[0] & 0x40
    assert bench.box.state()["arm_state"] == STOPPED, "an error must be cleared first"
    bench.ask(CLEAR)
    bench.ready()
    assert bench.box.state()["arm_state"] == STANDBY
    other = Bench(tip_speed_m_s=0.1)
    try:
        other.ready()
        for k in range(40):
            moved = other.box.plant.measure()[0][:7].copy()
            moved[0] = HOME[0] + 0.002 * k  # 0.5 rad/s at half a metre
            other.servo(moved)
        assert other.ask(ERRORS)[1] == bytes([60, 0])
    finally:
        other.close()


def test_the_sequence_is_judged_not_the_arrival(bench):
    bench.ready()
    smooth = HOME[0] + 0.02 * (1 - np.cos(np.linspace(0, np.pi, 60)))
    for q in smooth:
        bench.send(SERVO, np.asarray([q, *HOME[1:], 0, 0, 0], "<f4").tobytes())
    bench.run(60)
    assert bench.box.recorder.report()["violated"] == 0
    bench.servo([smooth[-1] + 0.05, *HOME[1:]], 3)
    assert bench.box.recorder.report()["violations"]["jerk"] >= 1
    bench.servo([np.nan, *HOME[1:]], 3)
    assert bench.box.recorder.report()["violations"]["non_finite"] == 1
    assert np.isfinite(bench.box.plant.measure()[0]).all()


def test_reports_have_their_length_state_and_time(bench):
    bench.ready()
    lines = {kind: bench.report(kind) for kind in (30000, 30001, 30003)}
    bench.run(120)
    for kind, size, rate in ((30000, 804, 1), (30001, 145, 50), (30003, 135, 2)):
        data = bench.take(lines[kind])
        packets = [data[i : i + size] for i in range(0, len(data) - size + 1, size)]
        assert 120 // rate - 12 // rate - 1 <= len(packets) <= 120 // rate + 1
        assert all(struct.unpack_from(">I", p)[0] == size for p in packets)
        head = 12 if kind == 30000 else 4
        assert packets[-1][head] == STANDBY | SERVO_MODE << 4
        at = 116 if kind == 30000 else 7
        assert np.frombuffer(packets[-1], "<f4", 7, at) == pytest.approx(HOME, abs=1e-6)


def _times(bench, line, cycles):
    bench.take(line)
    bench.run(cycles)
    data = bench.take(line)
    return [struct.unpack_from(">Q", data, i + 4)[0] for i in range(0, len(data) - 803, 804)]


def test_a_silent_clock_stands_while_reports_go_on(bench):
    line = bench.report(30000)
    bench.run(5)
    assert len(set(_times(bench, line, 10))) >= 9
    bench.faults.set(silent_clock=True)
    bench.run(2)
    found = _times(bench, line, 10)
    assert len(found) >= 9
    assert len(set(found)) == 1


def test_a_frozen_box_neither_reads_nor_answers(bench):
    bench.ready()
    line = bench.report(30000)
    bench.run(3)
    bench.faults.set(freeze=True)
    assert bench.ask(GET_STATE) is None
    assert not _times(bench, line, 5)
    bench.faults.set(freeze=False)
    bench.run(3)
    assert bench.take(), "what was asked meanwhile is answered afterwards"


def test_lost_late_damaged_and_cut_answers(bench):
    bench.faults.set(drop=1.0)
    assert bench.ask(GET_STATE) is None
    bench.faults.set(drop=0.0, corrupt=1.0)
    bench.send(GET_STATE)
    bench.run(3)
    assert bench.take() != struct.pack(">HHHBBB", bench.number, 2, 3, GET_STATE, 0x10, STOPPED)
    bench.faults.set(corrupt=0.0, delay_s=0.05)
    assert bench.ask(GET_STATE, cycles=3) is None
    bench.run(20)
    assert bench.take()
    bench.faults.set(delay_s=0.0, disconnect=True)
    bench.send(GET_STATE)
    bench.run(3)
    assert bench.line.recv(100) == struct.pack(">HHHBBB", bench.number, 2, 3, GET_STATE, 0x10, STOPPED)[:4]
    assert bench.line.recv(100) == b""
    bench.faults.set(refuse=True)
    line = bench.connect(bench.box.address["port"])
    bench.run(3)
    assert line.recv(10) == b""


@pytest.mark.parametrize(("fault", "code", "powered"), [("protective_stop", 31, True), ("emergency_stop", 1, False)])
def test_a_stop_brakes_and_latches(bench, fault, code, powered):
    bench.ready()
    for k in range(30):
        bench.servo([HOME[0] + 0.004 * k, *HOME[1:]])
    speed = bench.box.plant.measure()[1][0]
    assert speed > 0.5
    bench.faults.set(**{fault: True})
    speeds = []
    for _ in range(30):
        bench.servo([HOME[0] + 0.12, *HOME[1:]])
        speeds.append(bench.box.plant.measure()[1][0])
    drop = CARD.joints.limit("max_acceleration")[0] * VirtualXArm.period_s
    assert speeds[-1] == 0
    assert np.diff([speed, *speeds]).min() > -drop - 1e-9
    assert bench.ask(ERRORS)[1] == bytes([code, 0])
    assert bench.box.state()["powered"] is powered
    bench.ask(CLEAR)
    assert bench.box.state()["error"] == code, "the button is still pressed"
    bench.faults.set(**{fault: False})
    bench.box.recover()
    bench.ready()
    assert bench.box.state()["arm_state"] == STANDBY


def test_the_gripper_goes_to_its_target_at_its_own_speed():
    gripper = GripperRegisters(1.0, stroke_s=1.0)
    target = bytes([9, 8, 0x10]) + struct.pack(">HHBi", 0x0700, 2, 4, 425)
    assert gripper.answer(target, 1.0) == bytes([9, 8, 0x10]) + struct.pack(">HH", 0x0700, 2)
    assert gripper.step(0.1) == 1.0, "it is not enabled"
    gripper.answer(bytes([9, 8, 0x10]) + struct.pack(">HHBH", 0x0100, 1, 2, 1), 1.0)
    assert gripper.step(0.1) == pytest.approx(0.9)
    assert gripper.step(9.0) == pytest.approx(0.5)
    read = gripper.answer(bytes([9, 8, 3]) + struct.pack(">HH", 0x0702, 2), 0.5)
    assert read == bytes([9, 8, 3, 4]) + struct.pack(">i", 425)
    for bad in (b"", bytes(7), target[:8], bytes([9, 8, 3]) + struct.pack(">HH", 0, 999)):
        with pytest.raises(ValueError):  # noqa: PT011
            gripper.answer(bad, 0.0)


def test_the_gripper_answers_over_the_box(bench):
    status, data = bench.ask(BUS, bytes([9, 8, 3]) + struct.pack(">HH", 0x0702, 2))
    assert not status & 0x08
    assert data == bytes([9, 8, 3, 4]) + struct.pack(">i", 850)
    assert bench.ask(BUS, b"\x00")[0] & 0x08


def test_a_taken_port_is_told_with_the_mend(bench):
    plant = KinematicPlant(CARD, rate_hz=250)
    with pytest.raises(SimulationError, match="another address"):
        VirtualXArm(CARD, plant, WireFaults(), **bench.box.address)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=6), st.integers(0, 255))
def test_nothing_that_arrives_breaks_the_box(chunks, function):
    bench = Bench()
    try:
        bench.send(function, b"".join(chunks)[:200])
        for chunk in chunks:
            with contextlib.suppress(OSError):
                bench.line.sendall(chunk)
            bench.run()
        bench.line = bench.connect(bench.box.address["port"])
        bench.run(2)
        assert bench.ask(GET_STATE) is not None
    finally:
        bench.close()
