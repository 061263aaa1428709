"""Shared memory: nothing half-written is ever seen, overruns are noticed, refused chunks are named."""

import os
import struct
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.deploy.mailbox import ChunkMailbox
from robopolicy.deploy.shm import HEADER_BYTES, SLOT_HEADER, Heartbeat, RecordRing, Segment
from robopolicy.errors import DeployError
from robopolicy.types import ActionChunk

RECORD = np.dtype([("index", "<u8"), ("values", "<u8", (64,))])


def ring(capacity=4):
    segment = Segment.create("test", RecordRing.nbytes(RECORD, capacity))
    return RecordRing(segment, RECORD, capacity, create=True)


def record(i):
    out = np.zeros((), RECORD)
    out["index"] = i
    out["values"] = i
    return out


@given(st.lists(st.integers(0, 12), max_size=12), st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_every_record_is_read_once_or_counted_as_lost(bursts, capacity):
    r = ring(capacity)
    written, cursor, seen, lost = 0, 0, [], 0
    for burst in bursts:
        for _ in range(burst):
            written += 1
            assert r.write(record(written)) == written
        got, cursor, missed = r.since(cursor)
        seen += [int(x["index"]) for x in got]
        lost += missed
        assert missed == max(burst - capacity, 0)
    assert len(seen) + lost == written
    assert seen == sorted(set(seen))
    r.segment.close()


def test_a_second_mapping_sees_the_same_and_a_wrong_layout_is_refused():
    r = ring()
    r.write(record(7))
    other = RecordRing(Segment(os.dup(r.segment.fd), writable=False), RECORD, 4)
    number, found = other.latest()
    assert (number, int(found["index"])) == (1, 7)
    with pytest.raises(ValueError, match=r"read-only|readonly"):
        other._head[3] = 9
    with pytest.raises(DeployError, match="another layout"):
        RecordRing(Segment(os.dup(r.segment.fd)), RECORD, 3)


def test_a_flipped_bit_is_dropped_and_counted():
    r = ring()
    r.write(record(1))
    r.write(record(2))
    at = HEADER_BYTES + 2 * r._slot + SLOT_HEADER.size + 40
    r.segment.view()[at] ^= 1
    number, found = r.latest()
    assert (number, int(found["index"]), r.torn) == (1, 1, 1)
    r.segment.view()[at] ^= 1  # control: whole again
    assert r.latest()[0] == 2


def test_a_concurrent_writer_never_shows_half_a_record():
    r = ring(2)
    reader = RecordRing(Segment(os.dup(r.segment.fd), writable=False), RECORD, 2)
    stop = threading.Event()

    def write():
        i = 0
        while not stop.is_set():
            i += 1
            r.write(record(i))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        last, good = 0, 0
        while good < 3000:
            found = reader.latest()
            if found is None:
                continue
            number, value = found
            assert (value["values"] == value["index"]).all()
            assert int(value["index"]) == number
            assert number >= last
            last, good = number, good + 1
    finally:
        stop.set()
        thread.join()


def test_without_the_check_a_torn_record_would_pass():
    """Control of the test above: the payload of a slot caught in the middle of a write is indeed mixed."""
    r = ring(2)
    r.write(record(1))
    at = HEADER_BYTES + r._slot + SLOT_HEADER.size
    r.segment.view()[at : at + 256] = record(3).tobytes()[:256]
    raw = np.frombuffer(bytes(r.segment.view()[at : at + RECORD.itemsize]), RECORD)[0]
    assert not (raw["values"] == raw["index"]).all()
    assert r.latest() is None
    assert r.torn == 1
    # A writer that died in the middle left number 0 behind; the next writer goes on.
    struct.pack_into("<Q", r.segment.view(), HEADER_BYTES + r._slot, 0)
    assert r.write(record(2)) == 2
    assert int(r.latest()[1]["index"]) == 2


def test_heartbeats_have_ages():
    names = ("a", "b")
    beats = Heartbeat(Segment.create("beats", Heartbeat.nbytes(names)), names)
    assert beats.age_s("a") is None
    beats.beat("a", 1_000_000_000)
    assert beats.age_s("a", 1_500_000_000) == 0.5
    beats.clear("a")
    assert beats.age_s("a") is None


def mailbox(steps=4, width=3):
    return ChunkMailbox(Segment.create("mail", ChunkMailbox.nbytes(steps, width)), steps, width, create=True)


def chunk(value=0.0, *, steps=3, width=3, dt=0.05, embodiment="abc"):
    return ActionChunk(np.full((steps, width), value), 100, dt, embodiment)


CHECK = {"epoch": 5, "embodiment": "abc", "action_width": 3, "dt_s": 0.05}


def test_the_newest_chunk_arrives_whole_and_once():
    m = mailbox()
    assert m.take() is None
    for i in range(5):
        m.put(chunk(i), epoch=5, obs_id=i, t_made_ns=7)
    got = m.take()
    assert got.refusal(**CHECK) is None
    assert got.obs_id == 4
    np.testing.assert_array_equal(got.chunk().values, np.full((3, 3), 4.0))
    assert got.chunk().t0_ns == 100
    assert m.take() is None


@pytest.mark.parametrize(
    ("sent", "epoch", "reason"),
    [
        (chunk(), 4, "epoch"),
        (chunk(embodiment="other"), 5, "embodiment"),
        (chunk(np.nan), 5, "non_finite"),
        (chunk(np.inf), 5, "non_finite"),
        (chunk(dt=0.1), 5, "dt"),
        (chunk(), 5, None),
    ],
)
def test_refusals_are_named(sent, epoch, reason):
    m = mailbox()
    m.put(sent, epoch=epoch, obs_id=1, t_made_ns=1)
    assert m.take().refusal(**CHECK) == reason


def test_a_chunk_that_does_not_fit_is_refused_at_the_sender():
    with pytest.raises(DeployError, match="does not fit"):
        mailbox().put(chunk(steps=5), epoch=1, obs_id=1, t_made_ns=1)
    with pytest.raises(DeployError, match="does not fit"):
        mailbox().put(chunk(width=4), epoch=1, obs_id=1, t_made_ns=1)


def test_a_torn_chunk_is_dropped_and_counted():
    m = mailbox()
    m.put(chunk(1), epoch=5, obs_id=1, t_made_ns=1)
    m.put(chunk(2), epoch=5, obs_id=2, t_made_ns=1)
    ring_ = m.ring
    at = HEADER_BYTES + 2 * ring_._slot + SLOT_HEADER.size + ring_.dtype.fields["values"][1]
    ring_.segment.view()[at] ^= 1
    assert m.take().obs_id == 1
    assert m.torn == 1
    assert m.take() is None
