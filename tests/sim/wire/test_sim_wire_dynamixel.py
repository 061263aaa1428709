"""The virtual Dynamixel bus: frames, stuffing, CRC, and what it refuses."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.embodiment import load_embodiment
from robopolicy.sim.plant import KinematicPlant
from robopolicy.sim.wire import WireFaults
from robopolicy.sim.wire.box import monotonic_ns
from robopolicy.sim.wire.dynamixel import DynamixelBus
from robopolicy.sim.wire.dynamixel_frames import (
    Dynamixel,
    Fault,
    crc16,
    frame,
    joined_frame,
    stuff,
    take_frame,
    unstuff,
)

CARD = load_embodiment("widowx")


@given(st.binary(max_size=60), st.integers(0, 252), st.binary(max_size=8))
@settings(max_examples=150, deadline=None)
def test_what_is_framed_is_taken_again(parameters, number, noise):
    packet = frame(number, 0x03, parameters)
    found, rest = take_frame(packet + noise)
    assert found == bytes([number, 0x03]) + parameters
    assert rest == noise
    assert unstuff(stuff(parameters)) == parameters
    assert b"\xff\xff\xfd\x00" not in packet[4:]


@given(st.lists(st.sampled_from([0xFF, 0xFD, 0x00]), max_size=24), st.integers(7, 40), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_flipped_byte_is_never_taken_for_the_truth(values, at, flip):
    parameters = bytes(values)
    packet = bytearray(frame(5, 0x03, parameters))
    at = min(at, len(packet) - 1)
    packet[at] ^= flip
    found, _ = take_frame(bytes(packet))
    assert found in (b"", None)


def test_the_crc_is_that_of_the_vendor():
    sdk = pytest.importorskip("dynamixel_sdk", reason="the extra dynamixel is not installed")
    data = bytes(range(256)) + b"\xff\xff\xfd\xfd"
    assert crc16(data) == sdk.PacketHandler(2.0).updateCRC(0, list(data), len(data))
    # the example of the protocol's documentation: ping of servo 1
    assert frame(1, 0x01) == bytes.fromhex("ff ff fd 00 01 03 00 01 19 4e")
    joined = joined_frame([b"\x00\x01ab", b"\x00\x02cd"])
    assert crc16(joined[:-2]) == int.from_bytes(joined[-2:], "little")
    assert joined[5] == len(joined) - 7


class Wire:
    """The driver's side of a box."""

    def __init__(self):
        self.box = DynamixelBus(CARD, KinematicPlant(CARD, rate_hz=250), WireFaults())
        self.fd = os.open(self.box.address["device"], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)

    def say(self, number, kind, parameters=b""):
        """-> (error byte, data) of every answer."""
        os.write(self.fd, frame(number, kind, parameters))
        self.box.files()[0][1]()
        try:
            rest = os.read(self.fd, 4096)
        except BlockingIOError:
            return []
        answers = []
        while rest:
            found, rest = take_frame(rest)
            assert found
            assert found[1] == 0x55
            answers.append((found[2], found[3:]))
        return answers

    def write(self, number, address, value, size):
        data = address.to_bytes(2, "little") + value.to_bytes(size, "little", signed=True)
        return self.say(number, Dynamixel.WRITE, data)

    def read(self, number, address, size):
        answer = self.say(number, Dynamixel.READ, address.to_bytes(2, "little") + size.to_bytes(2, "little"))
        return int.from_bytes(answer[0][1], "little", signed=True)


@pytest.fixture
def wire():
    made = Wire()
    yield made
    os.close(made.fd)
    made.box.close()


def test_the_eeprom_is_closed_while_powered_and_measurements_are_never_written(wire):
    assert wire.write(2, 11, 3, 1) == [(0, b"")]
    assert wire.write(2, 64, 1, 1) == [(0, b"")]
    assert wire.write(2, 11, 4, 1) == [(Fault.ACCESS, b"")]
    assert wire.read(2, 11, 1) == 3
    assert wire.write(2, 132, 0, 4) == [(Fault.ACCESS, b"")]
    assert wire.say(2, 0x77) == [(Fault.INSTRUCTION, b"")]


def test_a_watchdog_that_expired_makes_goals_read_only_until_it_is_cleared(wire):
    here = wire.read(2, 132, 4)
    wire.write(2, 64, 1, 1)
    wire.write(2, 98, 1, 1)
    wire.write(2, 116, here + 10, 4)
    quiet = monotonic_ns() + 40_000_000
    while monotonic_ns() < quiet:
        wire.box.tick(monotonic_ns())
    assert wire.read(2, 98, 1) == -1
    assert wire.box.recorder.watchdog_stops == 1
    assert wire.write(2, 116, here + 20, 4) == [(Fault.RANGE, b"")]
    assert wire.read(2, 116, 4) == here + 10
    assert wire.read(2, 64, 1) == 1
    assert wire.write(2, 98, 0, 1) == [(0, b"")]
    assert wire.write(2, 116, here + 20, 4) == [(0, b"")]


def test_a_watchdog_that_is_fed_does_not_expire(wire):
    wire.write(2, 64, 1, 1)
    wire.write(2, 98, 127, 1)
    for _ in range(10):
        wire.box.tick(monotonic_ns())
        wire.read(3, 132, 4)  # any instruction on the wire feeds it
    assert wire.read(2, 98, 1) == 127
    assert wire.box.servos[2].heard_ns == wire.box.servos[3].heard_ns


def test_a_hardware_error_lets_go_and_needs_a_reboot(wire):
    wire.write(2, 64, 1, 1)
    wire.box.faults.set(protective_stop=True)
    wire.box.tick(monotonic_ns())
    assert wire.say(2, Dynamixel.PING)[0][0] == 0x80
    assert wire.read(2, 70, 1) == 0x20
    assert wire.read(2, 64, 1) == 0
    assert wire.write(2, 64, 1, 1) == [(0x80 | Fault.RESULT, b"")]
    assert wire.box.state()["torque_dropped"] == 0
    wire.say(2, Dynamixel.REBOOT)
    assert wire.write(2, 64, 1, 1) == [(0, b"")]
    wire.say(2, Dynamixel.REBOOT)
    assert wire.box.state()["torque_dropped"] == 1  # a reboot under load drops the arm


def test_the_clock_runs_and_stands_with_a_hung_servo(wire):
    wire.box.tick(monotonic_ns())
    before = wire.read(4, 120, 2)
    wait = monotonic_ns() + 3_000_000
    while monotonic_ns() < wait:
        pass
    wire.box.tick(monotonic_ns())
    assert wire.read(4, 120, 2) != before
    wire.box.faults.set(silent_clock=True)
    before = wire.read(4, 120, 2)
    wait = monotonic_ns() + 3_000_000
    while monotonic_ns() < wait:
        pass
    wire.box.tick(monotonic_ns())
    assert wire.read(4, 120, 2) == before
