"""RLDS: the real Bridge shard against an independent decoder, synthetic data sets of every encoding, planted faults."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc

import numpy as np
import pytest
from data_demo_files import into_store, jpeg, png, smooth_frames
from data_rlds_files import example, features_of, image, packed, rlds, tensor, tfrecord
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from recordings import recordings
from scipy.spatial.transform import Rotation

from robopolicy.data.convert.rlds import FORMAT, RldsOptions
from robopolicy.data.convert.tfrecord import index_records, parse_example, read_record
from robopolicy.data.episode import EncodedFrames
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DataError, NonFiniteError, UnknownNameError
from robopolicy.rotations import rotation_6d_to_matrix

TEXT = {"pythonClassName": "Text", "text": {}}
LABEL = {"pythonClassName": "ClassLabel", "classLabel": {"numClasses": "5"}}
STEPS = {
    "observation": {
        "front": image(8, 10),
        "flat": image(8, 10, form="png"),
        "depth": image(8, 10, 1, "uint16", "png"),
        "joints": tensor((3,), "float32"),
        "touch": tensor((2, 2), "float64", "zlib"),
    },
    "action": tensor((4,), "float32", "bytes"),
    "is_first": tensor((), "bool"),
    "is_last": tensor((), "bool"),
    "reward": tensor((), "float32"),
    "phase": LABEL,
    "counts": tensor((2,), "int32"),
    "language_instruction": TEXT,
    "boxes": {"pythonClassName": "Sequence", "sequence": {"feature": tensor((4,), "float32")}},
}


def values(seed: int, rows: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([3, seed])
    return {
        "front": smooth_frames(rng, rows, 8, 10),
        "flat": rng.integers(0, 256, (rows, 8, 10, 3), dtype=np.uint8),
        "depth": rng.integers(0, 60_000, (rows, 8, 10), dtype=np.uint16),
        "joints": rng.normal(size=(rows, 3)).astype(np.float32),
        "touch": rng.normal(size=(rows, 2, 2)),
        "action": rng.normal(size=(rows, 4)).astype(np.float32),
        "phase": rng.integers(0, 5, rows),
        "counts": rng.integers(-(2**31), 2**31, (rows, 2)),
    }


def record(seed: int, rows: int = 5, **changes) -> bytes:
    v, last = values(seed, rows), np.eye(1, rows, rows - 1, dtype=int)[0]
    features = {
        "steps/observation/front": [jpeg(f) for f in v["front"]],
        "steps/observation/flat": [png(f) for f in v["flat"]],
        "steps/observation/depth": [png(f) for f in v["depth"]],
        "steps/observation/joints": v["joints"],
        "steps/observation/touch": packed(v["touch"], "zlib"),
        "steps/action": packed(v["action"], "bytes"),
        "steps/is_first": last[::-1],
        "steps/is_last": last,
        "steps/reward": last.astype(np.float32),
        "steps/phase": v["phase"],
        "steps/counts": v["counts"],
        "steps/language_instruction": [f"do {seed}".encode()] * rows,
        "steps/boxes/ragged_flat_values": np.ones((rows, 4), np.float32),
        "steps/boxes/ragged_row_lengths_0": np.ones(rows, np.int64),
        "episode_metadata/file_path": [b"raw/7"],
    }
    features |= {name.replace("__", "/"): value for name, value in changes.items()}
    return example({k: v for k, v in features.items() if v is not None})


def data_set(tmp_path, shards=None, **options):
    shards = shards or {"train": [[record(0), record(1, 7)], [record(2)]], "val": [[record(3)]]}
    return rlds(tmp_path / "toy" / "1.0.0", "toy", STEPS, shards, extra={"file_path": TEXT}, **options)


def opened(path, **options):
    return FORMAT.open(path, RldsOptions(**options))


def pairs(message: bytes):
    """An independent, recursive reader of protobuf: (field, value)."""
    position = 0

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while position < len(message):
        key = varint()
        assert key & 7 == 2
        size = varint()
        yield key >> 3, message[position : position + size]
        position += size


def raw_bridge(path):
    """Every record as {name: payload of its list}."""
    data, position = path.read_bytes(), 0
    while position < len(data):
        (size,) = struct.unpack_from("<Q", data, position)
        body = data[position + 12 : position + 12 + size]
        entries = [dict(pairs(entry)) for _, features in pairs(body) for _, entry in pairs(features)]
        yield {entry[1].decode(): next(pairs(entry[2]))[1] for entry in entries}
        position += size + 16


def test_every_episode_of_the_real_bridge_shard_converts(tmp_path):
    folder = recordings("rlds_bridge_octo") / "1.0.0"
    source = opened(folder)
    assert source.info.embodiment.name == "widowx"
    assert source.info.embodiment.action_space == "ee_pose"
    assert source.info.fps == 5
    assert source.info.expected_episodes == 50
    assert "bridge_dataset-val.tfrecord-00000-of-00001" in next(
        f.message for f in source.info.findings if f.kind == "missing_episode"
    )
    raw = list(raw_bridge(folder / "bridge_dataset-train.tfrecord-00000-of-00001"))
    with into_store(source, tmp_path / "bridge.zarr", codec="jpeg") as store:
        assert (store.num_episodes, store.num_steps) == (25, 250)
        assert sorted(store.cameras) == [f"image_{i}" for i in range(4)]
        state, action = store.read("state").astype(float), store.read("action").astype(float)
        decoded = {c: store.images(c).read(0, 250) for c in store.cameras}
        for i, features in enumerate(raw):
            rows = slice(10 * i, 10 * i + 10)
            was = np.frombuffer(next(pairs(features["steps/observation/state"]))[1], "<f4").reshape(10, 7).astype(float)
            did = np.frombuffer(next(pairs(features["steps/action"]))[1], "<f4").reshape(10, 7).astype(float)
            np.testing.assert_array_equal(store.read("source/action")[rows], did.astype(np.float32))
            np.testing.assert_allclose(state[rows, :3], was[:, :3], atol=1e-7)
            np.testing.assert_allclose(action[rows, :3], was[:, :3] + did[:, :3], atol=1e-7)
            turned = Rotation.from_euler("xyz", did[:, 3:6]) * Rotation.from_euler("xyz", was[:, 3:6])
            wrong = Rotation.from_euler("XYZ", did[:, 3:6]) * Rotation.from_euler("XYZ", was[:, 3:6])
            target = turned.as_matrix() @ np.diag([-1.0, 1.0, -1.0])
            np.testing.assert_allclose(rotation_6d_to_matrix(action[rows, 3:9]), target, atol=1e-6)
            assert not np.allclose(target, wrong.as_matrix() @ np.diag([-1.0, 1.0, -1.0]), atol=1e-3)
            np.testing.assert_allclose(action[rows, 9], did[:, 6])
            texts = {text for _, text in pairs(features["steps/language_instruction"])}
            assert texts == {store.info(i)["language"].encode()}
            for camera in store.cameras:
                blobs = [blob for _, blob in pairs(features[f"steps/observation/{camera}"])]
                assert store.images(camera).blobs(10 * i, 10 * i + 10) == blobs
                for blob, frame in zip(blobs, decoded[camera][rows], strict=True):
                    np.testing.assert_array_equal(frame, np.asarray(Image.open(io.BytesIO(blob))))
        # The tool of this robot looks down in every row; with another convention it would not.
        assert (rotation_6d_to_matrix(state[:, 3:9])[:, 2, 2] < -0.5).all()
    kinds = {f.kind for name in source.info.episodes for f in source.read(name).findings}
    assert {"cut_episode", "stuck_camera"} <= kinds


def test_every_encoding_of_a_data_set_without_convention(tmp_path):
    path = data_set(tmp_path)
    assert FORMAT.detect(path)
    assert FORMAT.detect(path.parent)
    source = opened(path)
    assert source.info.episodes == ("train:0:0", "train:0:1", "train:1:0", "val:0:0")
    assert any(f.kind == "convention" and f.severity == "warning" for f in source.info.findings)
    assert any(f.kind == "rate" for f in source.info.findings)
    assert [f.stream for f in source.info.findings if f.kind == "not_converted"] == ["boxes"]
    card = source.info.embodiment
    assert card.action.names == tuple(f"action.{i}" for i in range(4))
    assert card.state.names[:3] == tuple(f"observation/joints.{i}" for i in range(3))
    with into_store(source, tmp_path / "toy.zarr") as store:
        assert store.num_steps == 5 + 7 + 5 + 5
        for i, (seed, rows) in enumerate(((0, 5), (1, 7), (2, 5), (3, 5))):
            info, v = store.info(i), values(seed, rows)
            span = (info["start"], info["stop"])
            np.testing.assert_array_equal(store.read("action", *span), v["action"])
            state = np.concatenate([v["joints"], v["touch"].reshape(rows, 4)], axis=1)
            np.testing.assert_array_equal(store.read("state", *span), state.astype(np.float32))
            np.testing.assert_array_equal(store.read("image/flat", *span), v["flat"])
            assert np.abs(store.read("image/front", *span).astype(int) - v["front"]).mean() < 4
            np.testing.assert_array_equal(store.read("source/phase", *span), v["phase"])
            np.testing.assert_array_equal(store.read("source/counts", *span), v["counts"])
            assert info["language"] == f"do {seed}"
            assert info["success"]
            assert info["metadata"]["source"]["episode_metadata"]["file_path"] == "raw/7"
    frames = source.read("train:0:0").episode.streams["image/front"]
    assert isinstance(frames, EncodedFrames)
    np.testing.assert_array_equal(
        np.asarray(source.read("train:0:1").episode.streams["depth/depth"])[..., 0], values(1, 7)["depth"]
    )
    assert opened(path, splits=("val",)).info.episodes == ("val:0:0",)


def test_files_are_counted_without_dataset_info(tmp_path):
    path = data_set(tmp_path, info=False)
    assert opened(path).info.episodes == ("train:0:0", "train:0:1", "train:1:0", "val:0:0")
    (path / "toy-train.tfrecord-00000-of-00002").unlink()
    source = opened(path)
    assert source.info.episodes == ("train:1:0", "val:0:0")
    assert "toy-train.tfrecord-00000-of-00002" in str(source.info.findings)


def test_a_convention_of_the_user(tmp_path):
    path = data_set(tmp_path)
    rule = tmp_path / "mine.yaml"
    pose = "{position: 'observation/joints[0:3]', rotation: 'observation/touch[0:3]', form: axis_angle, "
    rule.write_text(
        f"fps: 7\nstate: {pose}gripper: {{of: 'observation/touch[3:4]', closed: -9, open: 9}}}}\n"
        f"action: {pose}gripper: {{of: 'action[3:4]', closed: 9, open: -9}}}}\nlanguage: [language_instruction]\n"
        "cameras: {front: head}\n"
    )
    source = opened(path, convention=str(rule))
    episode = source.read("train:0:0").episode
    v = values(0)
    np.testing.assert_allclose(episode.streams["state"][:, :3], v["joints"], atol=1e-7)
    np.testing.assert_allclose(episode.streams["action"][:, 9], (9 - v["action"][:, 3]) / 18)
    turned = Rotation.from_rotvec(v["touch"].reshape(5, 4)[:, :3]).as_matrix()
    np.testing.assert_allclose(rotation_6d_to_matrix(episode.streams["state"][:, 3:9]), turned, atol=1e-9)
    assert source.info.fps == 7
    assert "head" in source.info.cameras
    rule.write_text(rule.read_text().replace("touch[3:4]", "touch[3:9]"))
    with pytest.raises(DataError, match="no such columns"):
        opened(path, convention=str(rule)).read("train:0:0")
    with pytest.raises(DataError, match="does not fit"):
        opened(path, convention="bridge")
    with pytest.raises(UnknownNameError, match="bridge"):
        opened(path, convention="bridg")


def test_droid_s_flange_poses_become_poses_of_the_card_s_tool(tmp_path):
    steps = {
        "observation": {
            "cartesian_position": tensor((6,), "float64"),
            "gripper_position": tensor((1,), "float64"),
            "wrist_image_left": image(4, 6),
        },
        "action": tensor((7,), "float64"),
        "action_dict": {"cartesian_position": tensor((6,), "float64"), "gripper_position": tensor((1,), "float64")},
        "language_instruction": TEXT,
        "language_instruction_2": TEXT,
    }
    rng = np.random.default_rng(1)
    at, to = (rng.uniform(-1, 1, (3, 6)).astype(np.float32) for _ in range(2))
    features = {
        "steps/observation/cartesian_position": at,
        "steps/observation/gripper_position": np.array([0.0, 0.25, 1.0], np.float32),
        "steps/observation/wrist_image_left": [jpeg(f) for f in smooth_frames(rng, 3, 4, 6)],
        "steps/action": np.zeros((3, 7), np.float32),
        "steps/action_dict/cartesian_position": to,
        "steps/action_dict/gripper_position": np.array([1.0, 0.5, 0.0], np.float32),
        "steps/language_instruction": [b""] * 3,
        "steps/language_instruction_2": [b"wipe"] * 3,
    }
    path = rlds(tmp_path / "droid" / "1.0.0", "droid", steps, {"train": [[example(features)]]})
    source = opened(path)
    assert source.info.embodiment.hash == load_embodiment("panda_2f85").hash
    assert (source.info.fps, set(source.info.cameras)) == (15, {"wrist"})
    episode = source.read("train:0:0").episode
    position, quaternion = source.info.embodiment.tcp
    for values, pose, opening in (
        (episode.streams["state"], at, [1, 0.75, 0]),
        (episode.streams["action"], to, [0, 0.5, 1]),
    ):
        flange = Rotation.from_euler("xyz", pose[:, 3:])
        tool = flange * Rotation.from_quat([*quaternion[1:], quaternion[0]])
        np.testing.assert_allclose(
            values[:, :3], pose[:, :3] + flange.apply(np.array(position) - [0, 0, 0.107]), atol=1e-6
        )
        np.testing.assert_allclose(rotation_6d_to_matrix(values[:, 3:9]), tool.as_matrix(), atol=1e-6)
        np.testing.assert_allclose(values[:, 9], opening, atol=1e-6)
    assert not np.allclose(episode.streams["state"][:, :3], at[:, :3], atol=1e-2)
    assert episode.language == "wipe"
    into_store(source, tmp_path / "droid.zarr").close()


def test_first_rows_without_action_can_be_left_out(tmp_path):
    steps = {
        "observation": {"state": tensor((7,), "float32"), "image_0": image(4, 4, form="png")},
        "action": tensor((7,), "float32"),
        "language_instruction": TEXT,
    }
    rng = np.random.default_rng(0)
    action = rng.uniform(-0.02, 0.02, (4, 7)).astype(np.float32)
    action[0] = 0
    features = {
        "steps/observation/state": rng.uniform(-0.2, 0.2, (4, 7)).astype(np.float32),
        "steps/observation/image_0": [png(f) for f in smooth_frames(rng, 4, 4, 4)],
        "steps/action": action,
        "steps/language_instruction": [b""] * 4,
    }
    path = rlds(tmp_path / "bridge_orig" / "1.0.0", "bridge_orig", steps, {"train": [[example(features)]]})
    kept = opened(path).read("train:0:0")
    assert [(f.kind, f.repair, f.repaired) for f in kept.findings] == [("dummy_action", "drop_first", False)]
    assert len(kept.episode.streams["action"]) == 4
    cut = opened(path, repair=("drop_first",)).read("train:0:0")
    assert cut.findings[0].repaired
    assert {len(v) for v in cut.episode.streams.values()} == {3}
    np.testing.assert_array_equal(cut.episode.streams["action"], kept.episode.streams["action"][1:])


FAULTS = {
    "another width": ({"steps__observation__joints": np.zeros(14, np.float32)}, "joints"),
    "another length": ({"steps__observation__joints": np.zeros((4, 3), np.float32)}, "joints"),
    "missing key": ({"steps__reward": None}, "reward"),
    "other type": ({"steps__observation__joints": [b"x"] * 5}, "joints"),
    "fewer images": ({"steps__observation__front": [jpeg(np.zeros((8, 10, 3), np.uint8))] * 4}, "front"),
    "zlib": ({"steps__observation__touch": [b"nonsense"] * 5}, "touch"),
    "bytes": ({"steps__action": [b"1234"] * 5}, "action"),
    "infinity": ({"steps__reward": np.array([0, 0, np.inf, 0, 0], np.float32)}, "row 2"),
    "no image": ({"steps__observation__flat": [b"no image"] * 5}, "flat.*row 0"),
    "image of another size": ({"steps__observation__flat": [png(np.zeros((9, 9, 3), np.uint8))] * 5}, "another size"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named(tmp_path, fault):
    changes, words = FAULTS[fault]
    path = data_set(tmp_path, {"train": [[record(0), record(0, **changes)]]})
    source = opened(path)

    def read(name):
        for array in source.read(name).episode.streams.values():
            np.asarray(array) if not isinstance(array, EncodedFrames) else None

    read("train:0:0")
    with pytest.raises(DataError, match=words) as raised:
        read("train:0:1")
    assert "toy-train.tfrecord-00000-of-00001: record 1" in str(raised.value)
    assert isinstance(raised.value, NonFiniteError) == (fault == "infinity")


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.999])
def test_a_cut_file_names_file_and_record(tmp_path, keep):
    path = data_set(tmp_path, {"train": [[record(0), record(1), record(2)]]})
    file = path / "toy-train.tfrecord-00000-of-00001"
    whole = file.read_bytes()
    assert len(index_records(file)) == 3
    file.write_bytes(whole[: int(keep * len(whole))])
    source = opened(path)
    with pytest.raises(DataError, match=r"tfrecord-00000-of-00001: record \d is cut"):
        source.read("train:0:0")


def test_a_record_that_is_listed_and_not_there(tmp_path):
    path = data_set(tmp_path, {"train": [[record(0), record(1)]]})
    file = path / "toy-train.tfrecord-00000-of-00001"
    tfrecord(file, [record(0)])
    with pytest.raises(DataError, match="record 1 is missing"):
        opened(path).read("train:0:1")
    tfrecord(file, [record(0)] * 3)
    assert [f.kind for f in opened(path).read("train:0:0").findings] == ["length"]
    with pytest.raises(DataError, match="did you mean"):
        opened(path).read("train:9:1")


def everything(file):
    return [read_record(file, int(o), int(n), i) for i, (o, n) in enumerate(index_records(file))]


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_a_flipped_bit_is_never_silent(tmp_path_factory, place, bit):
    file = tmp_path_factory.getbasetemp() / "flipped.tfrecord"
    tfrecord(file, [example({"a": np.arange(9.0), "b": [b"xyz"]}), example({"a": np.arange(5.0), "b": [b""]})])
    data = bytearray(file.read_bytes())
    data[place % len(data)] ^= 1 << bit
    file.write_bytes(data)
    with pytest.raises(DataError, match="record"):
        everything(file)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
    st.lists(st.floats(width=32, allow_nan=False), max_size=20),
    st.lists(st.binary(max_size=300), max_size=5),
    st.booleans(),
)
def test_examples_come_back_as_they_were(integers, floats, blobs, is_packed):
    features = {"i": np.array(integers, np.int64), "f": np.array(floats, np.float32), "b": blobs}
    found = parse_example(example(features, packed=is_packed), "here")
    np.testing.assert_array_equal(found["i"], features["i"])
    np.testing.assert_array_equal(found["f"], features["f"])
    assert found["b"] == blobs


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200))
def test_nonsense_is_refused_or_read_as_a_message(data):
    try:
        found = parse_example(data, "here")
    except DataError:
        return
    assert all(isinstance(name, str) for name in found)


def test_damaged_descriptions(tmp_path):
    path = data_set(tmp_path)
    described = path / "dataset_info.json"
    good = described.read_text()
    described.write_text(good[:50])
    with pytest.raises(DataError, match="dataset_info"):
        opened(path)
    described.write_text(good)
    with pytest.raises(DataError, match="no split"):
        opened(path, splits=("test",))
    features = path / "features.json"
    features.write_text(json.dumps({"type": "old"}))
    with pytest.raises(DataError, match="newer"):
        opened(path)
    features.write_text(json.dumps(features_of({"image": image(4, 4)})))
    with pytest.raises(DataError, match="no episodes"):
        opened(path)
    features.unlink()
    assert FORMAT.detect(path) is None
    with pytest.raises(DataError, match=r"features\.json"):
        opened(path)


def test_one_record_at_a_time_is_in_memory(tmp_path):
    size, count = 400_000, 16
    steps = {"observation": {"x": tensor((size,), "float32")}, "action": tensor((1,), "float32")}
    one = example({"steps/observation/x": np.zeros(size, np.float32), "steps/action": np.zeros(1, np.float32)})
    path = rlds(tmp_path / "big" / "1.0.0", "big", steps, {"train": [[one] * count]})
    file = next(path.glob("*.tfrecord*"))
    tracemalloc.start()
    try:
        index = index_records(file)
        assert tracemalloc.get_traced_memory()[1] < 200_000
        for number, (offset, length) in enumerate(index):
            parse_example(read_record(file, int(offset), int(length), number), "here")
        assert tracemalloc.get_traced_memory()[1] < 6 * len(one)
    finally:
        tracemalloc.stop()
