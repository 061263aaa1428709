"""The wire format: what goes in comes out, what msgpack says we say, and each wrong frame has its own refusal."""

import struct

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robopolicy.deploy import array_errors as errors
from robopolicy.deploy.array_codec import FrameLimits, pack, unpack
from robopolicy.errors import DeployError

DTYPES = [
    "|b1",
    "|i1",
    "|u1",
    *(f"{o}{k}" for o in "<>" for k in ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8")),
]
ARRAYS = st.sampled_from(DTYPES).flatmap(lambda d: hnp.arrays(np.dtype(d), hnp.array_shapes(min_dims=0, min_side=0)))
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary()
    | ARRAYS
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        native = a.astype(a.dtype.newbyteorder("="))
        return (
            type(b) is np.ndarray and b.dtype == native.dtype and b.shape == a.shape and b.tobytes() == native.tobytes()
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (a != a and b != b)
    return type(a) is type(b) and a == b


@given(st.dictionaries(st.text(max_size=8), TREES, max_size=5))
def test_round_trip(message):
    limits = FrameLimits(max_depth=40)
    assert same(message, unpack(pack(message, limits), limits))


def peer_default(value):
    """The rule of the format in its shortest form, by the msgpack package alone."""
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


@given(st.dictionaries(st.text(max_size=8), TREES, max_size=5))
@settings(max_examples=50)
def test_a_peer_that_uses_the_msgpack_package_is_understood(message):
    frame = msgpack.packb(message, default=peer_default)
    assert same(message, unpack(frame, FrameLimits(max_depth=40)))


def test_a_peer_understands_us():
    sent = {"a": np.arange(6, dtype="<f4").reshape(2, 3)[:, ::2], "n": np.float64(2.5), "z": np.array(7, "<i2")}
    read = msgpack.unpackb(pack(sent))
    assert read["a"][b"shape"] == [2, 2]
    assert read["a"][b"dtype"] == "<f4"
    np.testing.assert_array_equal(np.frombuffer(read["a"][b"data"], "<f4"), [0, 2, 3, 5])
    assert read["n"] == {b"__npgeneric__": True, b"data": 2.5, b"dtype": "<f8"}
    assert read["z"][b"shape"] == []


@given(st.sampled_from(DTYPES), st.integers(0, 2**63))
def test_scalars_round_trip(dtype, seed):
    value = np.frombuffer(np.random.default_rng(seed).bytes(8), np.dtype(dtype), 1)[0]
    if dtype == "|b1":
        value = np.bool_(seed % 2)
    back = unpack(pack({"x": value}))["x"]
    assert back.dtype == value.dtype.newbyteorder("=")
    assert back.tobytes() == value.astype(back.dtype).tobytes() or (back != back and value != value)


def test_arrays_are_owned_and_writable():
    array = unpack(pack({"x": np.zeros(3, ">f4")}))["x"]
    array[0] = 1
    assert array.flags.owndata or array.base.flags.owndata
    assert array.dtype.isnative


def array_map(dtype="<f4", shape=(2,), data=b"\0" * 8, **changed):
    fields = {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": list(shape)}
    fields.update({key.encode(): value for key, value in changed.items()})
    return msgpack.packb({"x": {k: v for k, v in fields.items() if v is not ...}})


def scalar_map(data, dtype):
    return msgpack.packb({"x": {b"__npgeneric__": True, b"data": data, b"dtype": dtype}})


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return msgpack.packb(value)


REFUSED = {
    "object dtype": (array_map("|O", (1,)), errors.ArrayDtypeError),
    "void dtype": (array_map("|V8", (1,)), errors.ArrayDtypeError),
    "structured dtype": (array_map([["a", "<f4"]], (1,)), errors.ArrayDtypeError),
    "comma dtype": (array_map("f4,O", (1,)), errors.ArrayDtypeError),
    "text dtype": (array_map("<U2", (1,)), errors.ArrayDtypeError),
    "complex dtype": (array_map("<c8", (1,)), errors.ArrayDtypeError),
    "time dtype": (array_map("<M8[ns]", (1,)), errors.ArrayDtypeError),
    "long double": (array_map("<f16", (0,), b""), errors.ArrayDtypeError),
    "quarter float": (array_map("<f1", (8,)), errors.ArrayDtypeError),
    "wide bool": (array_map("<b2", (4,)), errors.ArrayDtypeError),
    "subarray": (array_map("(2)f4", (1,)), errors.ArrayDtypeError),
    "foreign digits": (array_map("<f\u0664", (2,)), errors.ArrayDtypeError),
    "dtype as bytes": (array_map(b"<f4"), errors.ArrayDtypeError),
    "negative extent": (array_map(shape=(-1,)), errors.ArrayShapeError),
    "two negative extents": (array_map(shape=(-1, -2)), errors.ArrayShapeError),
    "float extent": (array_map(shape=(2.0,)), errors.ArrayShapeError),
    "bool extent": (array_map("<f8", (True,)), errors.ArrayShapeError),
    "huge extent": (array_map(shape=(2**62,)), errors.ArrayShapeError),
    "huge product": (array_map(shape=(2**20, 2**20)), errors.ArrayShapeError),
    "huge beside none": (array_map(shape=(0, 10**12), data=b""), errors.ArrayShapeError),
    "huge product beside none": (array_map(shape=(0, 2**20, 2**20), data=b""), errors.ArrayShapeError),
    "six dimensions": (array_map(shape=(1, 1, 1, 1, 1, 2)), errors.ArrayShapeError),
    "shape a number": (array_map(shape=()).replace(b"\xc4\x05shape\x90", b"\xc4\x05shape\x02"), errors.ArrayShapeError),
    "too little data": (array_map(data=b"\0" * 7), errors.ArrayLengthError),
    "too much data": (array_map(data=b"\0" * 9), errors.ArrayLengthError),
    "text data": (array_map(data="00000000"), errors.ArrayFieldsError),
    "no dtype": (array_map(dtype=...), errors.ArrayFieldsError),
    "another field": (array_map(strides=[4]), errors.ArrayFieldsError),
    "mark false": (array_map(__ndarray__=False), errors.ArrayFieldsError),
    "mark one": (array_map(__ndarray__=1), errors.ArrayFieldsError),
    "bytes key": (msgpack.packb({b"x": 1}), errors.ArrayFieldsError),
    "mixed keys": (msgpack.packb({b"__ndarray__": True, "y": 1}), errors.ArrayFieldsError),
    "int key": (msgpack.packb({1: 2}), errors.MapKeyError),
    "nil key": (b"\x81\xc0\x01", errors.MapKeyError),
    "map key": (b"\x81\x80\x01", errors.MapKeyError),
    "long key": (msgpack.packb({"k" * 257: 1}), errors.MapKeyError),
    "key twice": (b"\x82\xa1a\x01\xa1a\x02", errors.MapKeyError),
    "scalar out of range": (scalar_map(300, "|i1"), errors.FrameValueError),
    "scalar negative": (scalar_map(-1, "<u4"), errors.FrameValueError),
    "scalar too large": (scalar_map(1e300, "<f4"), errors.FrameValueError),
    "scalar of text": (scalar_map("1", "<f4"), errors.ArrayFieldsError),
    "scalar bool for int": (scalar_map(True, "<i4"), errors.ArrayFieldsError),
    "scalar object": (scalar_map(1, "|O"), errors.ArrayDtypeError),
    "extension": (msgpack.packb(msgpack.ExtType(5, b"abc")), errors.MessageTypeError),
    "timestamp": (msgpack.packb(msgpack.Timestamp(1, 2)), errors.MessageTypeError),
    "reserved": (b"\xc1", errors.MessageTypeError),
    "empty": (b"", errors.TruncatedFrameError),
    "cut": (msgpack.packb({"a": 1.0})[:-1], errors.TruncatedFrameError),
    "text announced": (b"\xda\xff\xff", errors.TruncatedFrameError),
    "huge text": (b"\xdb\xff\xff\xff\xff", errors.TextValueError),
    "bytes announced": (b"\xc6\xff\xff\xff\xff", errors.TruncatedFrameError),
    "list announced": (b"\xdd\xff\xff\xff\xff", errors.NodeCountError),
    "map announced": (b"\xdf\x7f\xff\xff\xff", errors.NodeCountError),
    "many values": (msgpack.packb([0] * 9000), errors.NodeCountError),
    "many nested values": (msgpack.packb([[[]] * 4000, [[]] * 4300]), errors.NodeCountError),
    "many arrays": (msgpack.packb([np.zeros(0)] * 129, default=peer_default), errors.ArrayCountError),
    "deep": (nested(9), errors.NestingError),
    "very deep": (nested(500), errors.NestingError),
    "not UTF-8": (b"\xa2\xff\xfe", errors.TextValueError),
    "trailing": (msgpack.packb(1) + b"\0", errors.TrailingBytesError),
    "too large": (b"\xc6\0\0\x01\0" + b"\0" * 256, errors.FrameSizeError),
}
SMALL = FrameLimits(max_bytes=200)


@pytest.mark.parametrize("name", REFUSED)
def test_each_refusal_has_its_own_error(name):
    frame, kind = REFUSED[name]
    limits = SMALL if name == "too large" else FrameLimits()
    with pytest.raises(errors.FrameError) as caught:
        unpack(frame, limits)
    assert type(caught.value) is kind
    assert isinstance(caught.value, DeployError)
    assert len(str(caught.value)) < 500


def test_the_frames_beside_the_refused_ones_are_taken():
    for frame in (
        array_map(),
        array_map(shape=(0, 5), data=b""),
        scalar_map(-128, "|i1"),
        nested(8),
        msgpack.packb([0] * 8000),
        b"\x81\xa1a\x01",
        array_map(shape=(1, 1, 1, 1, 2)),
    ):
        unpack(frame)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finite_is_checked_where_it_is_asked_for(bad):
    for value in (bad, np.float32(bad), np.array([0, bad], "<f2"), [1.0, {"a": bad}]):
        frame = pack({"x": value})
        unpack(frame)
        with pytest.raises(errors.NonFiniteFrameError):
            unpack(frame, finite=True)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.array([None]), errors.ArrayDtypeError),
        (np.array(["a"]), errors.ArrayDtypeError),
        (np.zeros(2, complex), errors.ArrayDtypeError),
        (np.zeros(2, np.longdouble), errors.ArrayDtypeError),
        (object(), errors.MessageTypeError),
        ({1: 2}, errors.MapKeyError),
        ({b"__ndarray__": True}, errors.MapKeyError),
        (2**70, errors.FrameValueError),
        (np.zeros(10**6), errors.FrameSizeError),
    ],
)
def test_what_has_no_place_on_the_wire_is_not_sent(value, kind):
    with pytest.raises(kind):
        pack({"x": value}, FrameLimits(max_bytes=10**6))


def test_a_text_frame_is_no_frame():
    with pytest.raises(errors.MessageTypeError):
        unpack("Traceback (most recent call last)")


VALID = pack({"state": np.zeros((2, 10), "<f4"), "image/front": np.zeros((2, 4, 4, 3), np.uint8), "n": 3, "l": ["a"]})


@given(st.data())
@settings(max_examples=400)
def test_a_mutated_frame_is_read_or_refused_never_anything_else(data):
    frame = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 6))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    for attempt in (bytes(frame), bytes(frame[:cut])):
        try:
            unpack(attempt, finite=True)
        except errors.FrameError:
            continue


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_random_bytes_are_read_or_refused(frame):
    try:
        unpack(frame)
    except errors.FrameError:
        return
