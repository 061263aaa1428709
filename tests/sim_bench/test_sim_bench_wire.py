"""Frames: what goes in comes out, and everything else is refused at either end."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.sim.bench.guest import wire
from robopolicy.sim.bench.guest.wire import Channel, ClosedError, DeadlineError, Message, WireError

ARRAYS = st.dictionaries(
    st.text(max_size=8),
    st.tuples(st.sampled_from(wire.DTYPES), st.lists(st.integers(0, 4), max_size=4)).map(
        lambda found: np.arange(int(np.prod(found[1]))).reshape(found[1]).astype(found[0])
    ),
    max_size=4,
)
BODIES = st.dictionaries(st.text(max_size=6), st.none() | st.integers(-9, 9) | st.text(max_size=6), max_size=4)


@pytest.fixture
def pair() -> Any:
    a, b = socket.socketpair()
    ends = [Channel(fd, fd) for fd in (a.detach(), b.detach())]
    yield ends
    for end in ends:
        end.close()


def split(frame: bytes) -> tuple[bytes, bytes]:
    _, header, payload = struct.unpack("<4sIQ", frame[:16])
    return frame[16 : 16 + header], frame[16 + header : 16 + header + payload]


def header_of(**changes: Any) -> bytes:
    entry = {"kind": "ok", "id": 1, "body": {}, "arrays": [["x", "<f8", [2]]], **changes}
    return json.dumps(entry).encode()


@given(BODIES, ARRAYS)
def test_a_frame_survives(body: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    found = Message.decode(*split(Message("step", 7, body, arrays).encode()))
    assert (found.kind, found.id, found.body) == ("step", 7, body)
    assert found.arrays.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found.arrays[name].dtype == value.dtype
        np.testing.assert_array_equal(found.arrays[name], value)


def test_memory_order_does_not_matter() -> None:
    value = np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3))
    found = Message.decode(*split(Message("ok", 1, {}, {"x": value}).encode())).arrays["x"]
    np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize(
    "message",
    [
        Message("ok", 1, {}, {"x": np.array([object()])}),
        Message("ok", 1, {}, {"x": np.zeros(2, np.float16)}),
        Message("ok", 1, {}, {"x": np.zeros(2, ">f8")}),
        Message("ok", 1, {"x": float("nan")}),
        Message("ok", 1, {"x": {1, 2}}),
        Message("ok", 1, {}, {"x": np.zeros(wire.PAYLOAD_LIMIT + 1, np.uint8)}),
        Message("ok", 1, {"x": "y" * (wire.HEADER_LIMIT + 1)}),
        Message("ok", 1, {}, {str(i): np.zeros(1) for i in range(65)}),
    ],
)
def test_what_may_not_travel_is_not_sent(message: Message) -> None:
    with pytest.raises(WireError):
        message.encode()


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (b"\xff\xfe", b""),
        (b"[]", b""),
        (b'{"kind": "ok"}', b""),
        (b"[" * 100_000, b""),
        (header_of(id="1"), bytes(16)),
        (header_of(id=True), bytes(16)),
        (header_of(kind=3), bytes(16)),
        (header_of(body=[]), bytes(16)),
        (header_of(arrays=[["x", "|O", [2]]]), bytes(16)),
        (header_of(arrays=[["x", "<f8", [-2]]]), bytes(16)),
        (header_of(arrays=[["x", "<f8", [2.0]]]), bytes(16)),
        (header_of(arrays=[["x", "<f8", [1, 1, 1, 1, 2]]]), bytes(16)),
        (header_of(arrays=[["x", "<f8", [1 << 62, 4]]]), bytes(16)),
        (header_of(arrays=[["x", "<f8", [1]], ["x", "<f8", [1]]]), bytes(16)),
        (header_of(arrays=[7]), bytes(16)),
        (header_of(), bytes(15)),
        (header_of(), bytes(17)),
        (header_of(body={"x": 1}).replace(b'"x": 1', b'"x": NaN'), bytes(16)),
    ],
)
def test_nonsense_is_refused(header: bytes, payload: bytes) -> None:
    with pytest.raises(WireError):
        Message.decode(header, payload)
    assert Message.decode(header_of(), bytes(16)).arrays["x"].shape == (2,)


def test_sizes_are_checked_before_anything_is_read(pair: Any) -> None:
    a, b = pair
    for prefix in (struct.pack("<4sIQ", b"RPB1", 1 << 31, 0), struct.pack("<4sIQ", b"RPB1", 2, 1 << 60)):
        os.write(a._write_fd, prefix)
        with pytest.raises(WireError, match="too large"):
            b.receive(1.0)
    os.write(a._write_fd, b"GET / HTTP/1.1\r\n")
    with pytest.raises(WireError, match="begins with"):
        b.receive(1.0)


def test_large_frames_in_both_directions_at_once(pair: Any) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (600, 800, 3), dtype=np.uint8)
    found: list[Message] = []
    reader = threading.Thread(target=lambda: found.append(pair[1].receive(20.0)))
    reader.start()
    pair[0].send(Message("ok", 1, {}, {"image": picture}), 20.0)
    reader.join()
    np.testing.assert_array_equal(found[0].arrays["image"], picture)


def test_deadlines_and_closing(pair: Any) -> None:
    a, b = pair
    with pytest.raises(DeadlineError):
        a.receive(0.01)
    os.write(b._write_fd, Message("ok", 1).encode()[:-1])  # all but the last byte
    with pytest.raises(DeadlineError):
        a.receive(0.01)
    with pytest.raises(DeadlineError):
        a.send(Message("ok", 1, {}, {"x": np.zeros(1 << 25, np.uint8)}), 0.05)  # nobody reads
    b.close()
    with pytest.raises(ClosedError):
        a.receive(1.0)
    with pytest.raises(ClosedError):
        a.send(Message("ok", 2), 1.0)
