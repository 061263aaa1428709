"""MCAP recordings: asynchronous topics, clocks, gaps, frames, damage."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from data_mcap import (
    START_NS,
    base64_text,
    header,
    joint_message,
    jpeg,
    jpeg_message,
    json_stamp,
    pose_message,
    position,
    raw_message,
    rotation,
    times,
    write_json,
    write_map,
    write_ros2,
)
from data_mcap import Message as Plain
from data_replay import open_source, store_all
from mcap.writer import Writer

from robopolicy.data.convert import mcap_decode
from robopolicy.data.convert.engine import convert
from robopolicy.data.convert.mcap_log import FORMAT
from robopolicy.data.convert.recognise import recognise
from robopolicy.data.episode import EncodedFrames
from robopolicy.errors import ConfigError, DataError, MissingDependencyError

POSE, JOINTS, JPEG = "geometry_msgs/msg/PoseStamped", "sensor_msgs/msg/JointState", "sensor_msgs/msg/CompressedImage"
TOPICS = {"/tcp": POSE, "/gripper": JOINTS, "/cmd": POSE, "/camera/image": JPEG}
GRIPPER = {"topic": "/gripper", "field": "position", "names": "name", "pick": ["finger"], "closed": 0.0, "opened": 0.08}
RATE_HZ = 20.0
DELAY_NS = 30_000_000


def width(name: str, t_s: float) -> float:
    return 0.04 + 0.03 * np.sin(t_s) if name == "finger" else -1.0


def samples(seed: int = 0, seconds: float = 4.0, drop: float = 0.05) -> list:
    """Jittered, thinned topics of four rates; messages are logged 30 ms after their capture."""
    rng = np.random.default_rng(seed)
    found = []
    for stamp in times(97.0, seconds, rng, 0.002, drop).tolist():
        found.append((stamp + DELAY_NS, "/tcp", pose_message(stamp), stamp))
    for i, stamp in enumerate(times(41.0, seconds, rng, 0.004, drop).tolist()):
        names = ["finger", "other"] if i % 2 else ["other", "finger"]  # the order of a JointState is not fixed
        found.append((stamp + DELAY_NS, "/gripper", joint_message(stamp, names, width), stamp))
    for stamp in times(RATE_HZ, seconds, rng, 0.003).tolist():
        found.append((stamp + DELAY_NS, "/cmd", pose_message(stamp), stamp))
    for i, stamp in enumerate(times(30.0, seconds, rng, 0.003, drop).tolist()):
        found.append((stamp + DELAY_NS, "/camera/image", jpeg_message(stamp, i), stamp))
    return found


def basic_map(path, **changes):
    grip = {**GRIPPER, "channels": ["gripper"]}
    entries = {
        "rate_hz": RATE_HZ,
        "state": [{"topic": "/tcp", "pose": "pose", "rule": "interpolate"}, grip],
        "action": [{"topic": "/cmd", "pose": "pose"}, grip],
        "images": {"front": {"topic": "/camera/image"}},
        "max_age_s": 0.3,
    }
    return write_map(path / "map.yaml", **{**entries, **changes})


@pytest.fixture
def recording(tmp_path):
    return write_ros2(tmp_path / "pick.mcap", TOPICS, samples())


def test_rows_hold_the_truth_of_their_time(tmp_path, recording):
    assert recognise(recording) == "mcap"
    source = open_source(FORMAT, recording, map=str(basic_map(tmp_path)))
    store, readings = store_all(source, tmp_path / "out.zarr", codec="jpeg")
    assert not readings[0].findings
    streams = readings[0].episode.streams
    time_ns = streams["time_ns"]
    np.testing.assert_array_equal(np.diff(time_ns), round(1e9 / RATE_HZ))
    for row, t in enumerate((time_ns - START_NS) / 1e9):
        assert np.abs(streams["state"][row, :3] - position(t)).max() < 3e-4, "interpolated over 10 ms"
        matrix = rotation(t).as_matrix()
        np.testing.assert_allclose(streams["state"][row, 3:9], np.r_[matrix[:, 0], matrix[:, 1]], atol=1e-6)
    stamp = streams["stamp_ns/gripper"]
    held = [width("finger", (s - START_NS) / 1e9) / 0.08 for s in stamp]
    np.testing.assert_allclose(streams["state"][:, 9], held, atol=1e-6)
    report = store.info(0)["metadata"]["alignment"]["/tcp"]
    assert report["rate_hz"] == pytest.approx(97 * 0.95, rel=0.05)
    assert report["log_minus_stamp_s"]["median"] == pytest.approx(0.03)


def test_no_sample_comes_from_the_future_and_none_is_older_than_needed(tmp_path, recording):
    source = open_source(FORMAT, recording, map=str(basic_map(tmp_path)))
    streams = source.read("pick").episode.streams
    stamps = {t: np.array(sorted(s[3] for s in samples() if s[1] == t)) for t in TOPICS}
    for topic, name in (("/gripper", "gripper"), ("/camera/image", "camera.image")):
        used = streams[f"stamp_ns/{name}"]
        rows = streams["time_ns"]
        assert (used <= rows).all()
        np.testing.assert_array_equal(used, [stamps[topic][stamps[topic] <= r].max() for r in rows])
        nearest = stamps[topic][np.abs(stamps[topic][None] - rows[:, None]).argmin(axis=1)]
        assert (nearest > rows).any(), "the careless rule takes from the future in this recording"
    step = round(1e9 / RATE_HZ)
    used = streams["stamp_ns/cmd.step_end"]
    assert (used <= streams["time_ns"] + step).all()
    np.testing.assert_array_equal(used, [stamps["/cmd"][stamps["/cmd"] <= r + step].max() for r in streams["time_ns"]])
    assert (used > streams["time_ns"]).mean() > 0.9, "a command that answers an observation comes after it"


def test_jpeg_files_arrive_byte_for_byte_and_in_their_row(tmp_path, recording):
    source = open_source(FORMAT, recording, map=str(basic_map(tmp_path)))
    streams = source.read("pick").episode.streams
    frames = streams["image/front"]
    assert isinstance(frames, EncodedFrames)
    by_stamp = {s[3]: s[2].data for s in samples() if s[1] == "/camera/image"}
    assert list(frames.blobs) == [by_stamp[int(s)] for s in streams["stamp_ns/camera.image"]]


def test_the_time_of_the_log_is_another_clock(tmp_path, recording):
    source = open_source(FORMAT, recording, map=str(basic_map(tmp_path, time="log")))
    streams = source.read("pick").episode.streams
    logs = np.array(sorted(s[0] for s in samples() if s[1] == "/gripper"))
    np.testing.assert_array_equal(streams["stamp_ns/gripper"], [logs[logs <= r].max() for r in streams["time_ns"]])


def test_a_topic_can_be_the_clock(tmp_path, recording):
    source = open_source(FORMAT, recording, map=str(basic_map(tmp_path, clock="/cmd")))
    streams = source.read("pick").episode.streams
    stamps = {s[3] for s in samples() if s[1] == "/cmd"}
    assert set(streams["time_ns"].tolist()) <= stamps
    assert len(streams["time_ns"]) > 70


def test_a_gap_is_an_error_that_names_topic_and_age(tmp_path):
    quiet = [s for s in samples() if not (s[1] == "/gripper" and 1.0 < (s[3] - START_NS) / 1e9 < 2.0)]
    path = write_ros2(tmp_path / "gap.mcap", TOPICS, quiet)
    source = open_source(FORMAT, path, map=str(basic_map(tmp_path)))
    reading = source.read("gap")
    finding = next(f for f in reading.findings if f.kind == "gap")
    assert (finding.severity, finding.repair) == ("error", "stale_samples")
    assert "/gripper" in finding.message
    rows = reading.episode.streams
    ages = (rows["time_ns"] - rows["stamp_ns/gripper"]) / 1e9
    assert ages.max() > 0.9
    assert f"{(ages > 0.3).sum()} of {len(ages)}" in finding.message


def test_stamps_out_of_order_are_sorted_and_told(tmp_path):
    mixed = [
        (log + (200_000_000 if topic == "/gripper" and i % 9 == 0 else 0), topic, message, stamp)
        for i, (log, topic, message, stamp) in enumerate(samples())
    ]
    path = write_ros2(tmp_path / "mixed.mcap", TOPICS, mixed)
    reading = open_source(FORMAT, path, map=str(basic_map(tmp_path))).read("mixed")
    assert [f.kind for f in reading.findings] == ["time_order"]
    plain = write_ros2(tmp_path / "plain.mcap", TOPICS, samples())
    ordered = open_source(FORMAT, plain, map=str(basic_map(tmp_path))).read("plain")
    np.testing.assert_array_equal(reading.episode.streams["state"], ordered.episode.streams["state"])


def test_stamps_that_were_never_set_or_of_another_clock(tmp_path):
    unset = [(log, t, Plain(**{**vars(m), "header": header(0)}), p) for log, t, m, p in samples()]
    path = write_ros2(tmp_path / "unset.mcap", TOPICS, unset)
    with pytest.raises(DataError, match="time: log"):
        open_source(FORMAT, path, map=str(basic_map(tmp_path))).read("unset")
    shifted = [(log + 5 * 10**9, t, m, p) for log, t, m, p in samples()]
    path = write_ros2(tmp_path / "shifted.mcap", TOPICS, shifted)
    findings = open_source(FORMAT, path, map=str(basic_map(tmp_path))).read("shifted").findings
    assert {f.kind for f in findings} == {"clock"}


def test_raw_colour_and_depth(tmp_path):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (6, 10, 3), dtype=np.uint8)
    depth = rng.integers(0, 5000, (6, 10, 1), dtype=np.uint16)
    image = "sensor_msgs/msg/Image"
    topics = {"/tcp": POSE, "/rgb": image, "/bgr": image, "/depth": image, "/metres": image}
    found = []
    for i in range(20):
        stamp = START_NS + i * 50_000_000
        found += [
            (stamp, "/tcp", pose_message(stamp), stamp),
            (stamp, "/rgb", raw_message(stamp, colour, "rgb8"), stamp),
            (stamp, "/bgr", raw_message(stamp, np.ascontiguousarray(colour[..., ::-1]), "bgr8", padding=2), stamp),
            (stamp, "/depth", raw_message(stamp, depth, "16UC1"), stamp),
            (stamp, "/metres", raw_message(stamp, (depth / 1000).astype(np.float32), "32FC1"), stamp),
        ]
    path = write_ros2(tmp_path / "raw.mcap", topics, found)
    tcp = [{"topic": "/tcp", "pose": "pose"}]
    images = {"a": {"topic": "/rgb"}, "b": {"topic": "/bgr"}}
    depths = {"a": {"topic": "/depth"}, "b": {"topic": "/metres"}}
    chart = basic_map(tmp_path, state=tcp, action=tcp, images=images, depth=depths)
    source = open_source(FORMAT, path, map=str(chart))
    store, _ = store_all(source, tmp_path / "out.zarr")
    for stream in ("image/a", "image/b"):
        np.testing.assert_array_equal(store.read(stream)[3], colour)
    for stream in ("depth/a", "depth/b"):
        np.testing.assert_array_equal(store.read(stream)[3], depth)


def test_json_messages_with_foxglove_images_labels_and_marks(tmp_path):
    found = []
    for i in range(200):
        stamp = START_NS + i * 20_000_000
        found.append((stamp, "/s", {**json_stamp(stamp), "q": [i, 2 * i], "deep": {"list": [7, i]}}))
        image = {**json_stamp(stamp), "format": "jpeg", "data": base64_text(jpeg(i % 250))}
        found.append((stamp, "/cam", image))
    for at, mark in ((30, "start"), (90, "stop"), (120, "start"), (180, "stop")):
        found.append((START_NS + at * 20_000_000, "/mark", {"data": mark}))
    found.append((START_NS + 125 * 20_000_000, "/task", {"data": "put the cup down"}))
    found.append((START_NS + 179 * 20_000_000, "/done", {"ok": True}))
    path = write_json(tmp_path / "session.mcap", found)
    chart = write_map(
        tmp_path / "map.yaml",
        rate_hz=25,
        state=[{"topic": "/s", "field": "q", "channels": ["a", "b"], "scale": 0.5, "offset": 1.0, "unit": "rad"}],
        action=[{"topic": "/s", "field": ["q.0", "deep.list.1"], "channels": ["x", "y"]}],
        images={"cam": {"topic": "/cam"}},
        extra={"seven": {"parts": [{"topic": "/s", "field": "deep.list.0", "channels": ["n"], "unit": "N"}]}},
        split={"by": "topic", "topic": "/mark"},
        language={"topic": "/task", "field": "data"},
        success={"topic": "/done", "field": "ok"},
    )
    source = open_source(FORMAT, path, map=str(chart), language="none")
    assert source.info.episodes == ("session#0000", "session#0001")
    store, readings = store_all(source, tmp_path / "out.zarr", codec="jpeg")
    rows = np.arange(30, 90, 2)[: len(readings[0].episode.streams["state"])]
    np.testing.assert_allclose(readings[0].episode.streams["state"], np.stack([rows / 2 + 1, rows + 1], 1))
    np.testing.assert_allclose(readings[0].episode.streams["action"][:, 0], rows + 2, err_msg="a step of two later")
    assert [store.info(i)["language"] for i in (0, 1)] == ["none", "put the cup down"]
    assert [store.info(i)["success"] for i in (0, 1)] == [None, True]
    assert (store.read("seven") == 7).all()


def test_several_files_and_gaps_are_several_episodes(tmp_path):
    folder = tmp_path / "session"
    folder.mkdir()
    write_ros2(folder / "b.mcap", TOPICS, samples(1, 2.0))
    write_ros2(folder / "a.mcap", TOPICS, samples(2, 2.0))
    source = open_source(FORMAT, folder, map=str(basic_map(tmp_path)))
    assert source.info.episodes == ("a", "b")
    pause = 6_000_000_000
    second = [
        (log + pause, t, Plain(**{**vars(m), "header": header(p + pause)}), p) for log, t, m, p in samples(3, 2.0)
    ]
    path = write_ros2(tmp_path / "both.mcap", TOPICS, [*samples(2, 2.0), *second])
    chart = basic_map(tmp_path, split={"by": "gap", "topic": "/tcp", "gap_s": 2.0})
    source = open_source(FORMAT, path, map=str(chart))
    assert source.info.episodes == ("both#0000", "both#0001")
    first, last = (source.read(e).episode.streams["time_ns"] for e in source.info.episodes)
    assert last[0] - first[-1] > 3e9
    assert len(first) > 30 < len(last)


def test_files_of_one_rosbag_are_one_episode(tmp_path):
    folder = tmp_path / "bag"
    folder.mkdir()
    found = sorted(samples(), key=lambda s: s[0])
    write_ros2(folder / "bag_0.mcap", TOPICS, found[: len(found) // 2])
    write_ros2(folder / "bag_1.mcap", TOPICS, found[len(found) // 2 :])
    (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: {}\n")
    whole = write_ros2(tmp_path / "whole.mcap", TOPICS, found)
    chart = str(basic_map(tmp_path))
    parts = open_source(FORMAT, folder, map=chart)
    assert parts.info.episodes == ("bag",)
    a, b = parts.read("bag").episode, open_source(FORMAT, whole, map=chart).read("whole").episode
    for name in ("state", "action", "time_ns"):
        np.testing.assert_array_equal(a.streams[name], b.streams[name])
    assert a.streams["image/front"] == b.streams["image/front"]


def test_a_card_gives_the_order_of_the_channels(tmp_path, recording):
    chart = basic_map(tmp_path, embodiment="umi")
    source = open_source(FORMAT, recording, map=str(chart))
    assert source.info.embodiment.name == "umi"
    state = source.read("pick").episode.streams["state"]
    swapped = basic_map(
        tmp_path,
        embodiment="umi",
        state=[{**GRIPPER, "channels": ["gripper"]}, {"topic": "/tcp", "pose": "pose", "rule": "interpolate"}],
    )
    source = open_source(FORMAT, recording, map=str(swapped))
    np.testing.assert_array_equal(source.read("pick").episode.streams["state"], state)
    wrong = basic_map(tmp_path, embodiment="umi", state=[{"topic": "/tcp", "pose": "pose"}])
    with pytest.raises(ConfigError, match="does not match card 'umi'"):
        open_source(FORMAT, recording, map=str(wrong))


def test_without_a_map_the_topics_are_listed(recording):
    with pytest.raises(ConfigError) as caught:
        open_source(FORMAT, recording)
    for topic, schema in TOPICS.items():
        assert f"{topic}  {schema} (cdr)" in str(caught.value)


def test_faults_of_a_map_are_named(tmp_path, recording):
    with pytest.raises(ConfigError, match="did you mean 'rate_hz'"):
        open_source(FORMAT, recording, map=str(basic_map(tmp_path, rate_hs=3)))
    with pytest.raises(DataError, match="has no topics"):
        open_source(FORMAT, recording, map=str(basic_map(tmp_path, images={"front": {"topic": "/camera"}})))
    with pytest.raises(ConfigError, match="either field or pose"):
        open_source(FORMAT, recording, map=str(basic_map(tmp_path, state=[{"topic": "/tcp"}])))
    bad = [{"topic": "/tcp", "field": "pose.position.q", "channels": ["q"]}]
    with pytest.raises(DataError, match="no field 'q'"):
        open_source(FORMAT, recording, map=str(basic_map(tmp_path, state=bad))).read("pick")
    with pytest.raises(ConfigError, match="cannot be read"):
        open_source(FORMAT, recording, map=str(tmp_path / "none.yaml"))


def test_a_cut_recording_is_refused_or_salvaged(tmp_path, recording):
    content = recording.read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(content[: len(content) * 3 // 5])
    chart = str(basic_map(tmp_path))
    with pytest.raises(DataError, match="cut_file=salvage"):
        open_source(FORMAT, cut, map=chart)
    whole = open_source(FORMAT, recording, map=chart).read("pick").episode.streams
    reading = open_source(FORMAT, cut, map=chart, cut_file="salvage").read("cut")
    assert [f.kind for f in reading.findings] == ["truncated"]
    rows = len(reading.episode.streams["time_ns"])
    assert 20 < rows < len(whole["time_ns"])
    for name in ("state", "action", "time_ns"):
        np.testing.assert_array_equal(reading.episode.streams[name], whole[name][:rows])


def test_flipped_bytes_never_pass_for_data(tmp_path, recording):
    content, chart = recording.read_bytes(), str(basic_map(tmp_path))
    whole = open_source(FORMAT, recording, map=chart).read("pick").episode.streams
    rng = np.random.default_rng(0)
    hurt = tmp_path / "pick2.mcap"
    refused = 0
    for at in rng.integers(8, len(content), 60):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(rng.integers(8))
        hurt.write_bytes(flipped)
        try:
            streams = open_source(FORMAT, hurt, map=chart).read("pick2").episode.streams
        except DataError:
            refused += 1
            continue
        for name in ("state", "action", "time_ns"):
            np.testing.assert_array_equal(streams[name], whole[name], err_msg=f"byte {at}")
        assert streams["image/front"] == whole["image/front"]
    assert refused > 40


def test_frames_of_another_size_are_refused(tmp_path):
    mixed = samples()
    i = next(i for i in range(len(mixed)) if mixed[i][1] == "/camera/image" and mixed[i][2].data == jpeg(20))
    log, topic, _, stamp = mixed[i]
    mixed[i] = (log, topic, jpeg_message(stamp, 20, (8, 8)), stamp)
    path = write_ros2(tmp_path / "mixed.mcap", TOPICS, mixed)
    with pytest.raises(DataError, match="another size"):
        open_source(FORMAT, path, map=str(basic_map(tmp_path))).read("mixed")


@pytest.mark.parametrize("options", [{"use_chunking": False}, {"use_statistics": False, "repeat_channels": False}])
def test_recordings_without_an_index_are_read_in_a_line(tmp_path, options):
    found = [(START_NS + i * 50_000_000, "/s", {"q": i}) for i in range(40)]
    path = write_json(tmp_path / "line.mcap", found, **options)
    part = [{"topic": "/s", "field": "q", "channels": ["q"]}]
    chart = write_map(tmp_path / "map.yaml", rate_hz=20, time="log", state=part, action=part)
    streams = open_source(FORMAT, path, map=str(chart)).read("line").episode.streams
    assert streams["state"][:, 0].tolist() == list(range(39))
    assert streams["action"][:, 0].tolist() == list(range(1, 40))


def encoded(path, encoding: str, schema_encoding: str):
    """Numbers as doubles, in an encoding that its decoder's package reads from the schema's text."""
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        schema = writer.register_schema("std_msgs/Float64", schema_encoding, b"float64 data")
        channel = writer.register_channel("/x", encoding, schema)
        for i in range(20):
            writer.add_message(channel, START_NS + i * 100_000_000, struct.pack("<d", i / 4), START_NS)
        writer.finish()
    return path


def test_ros1_messages(tmp_path):
    part = [{"topic": "/x", "field": "data", "channels": ["x"]}]
    chart = write_map(tmp_path / "map.yaml", rate_hz=10, time="log", state=part, action=part)
    path = encoded(tmp_path / "old.mcap", "ros1", "ros1msg")
    streams = open_source(FORMAT, path, map=str(chart)).read("old").episode.streams
    np.testing.assert_allclose(streams["state"][:, 0], np.arange(19) / 4)


def test_a_decoder_that_is_not_there_is_named(tmp_path, monkeypatch):
    part = [{"topic": "/x", "field": "data", "channels": ["x"]}]
    chart = str(write_map(tmp_path / "map.yaml", rate_hz=10, time="log", state=part, action=part))
    monkeypatch.setitem(mcap_decode.FACTORIES, "protobuf", ("no_such_module", "mcap-protobuf-support"))
    with pytest.raises(MissingDependencyError, match="pip install mcap-protobuf-support"):
        open_source(FORMAT, encoded(tmp_path / "a.mcap", "protobuf", "protobuf"), map=chart).read("a")
    with pytest.raises(DataError, match="no decoder for this encoding"):
        open_source(FORMAT, encoded(tmp_path / "b.mcap", "cbor", ""), map=chart).read("b")


def test_the_engine_refuses_a_gap_until_its_repair_is_chosen(tmp_path):
    quiet = [s for s in samples() if not (s[1] == "/gripper" and 1.0 < (s[3] - START_NS) / 1e9 < 2.0)]
    path = write_ros2(tmp_path / "gap.mcap", TOPICS, quiet)
    options = {"map": str(basic_map(tmp_path))}
    with pytest.raises(DataError, match="stale_samples"):
        convert(path, tmp_path / "out.zarr", options=options)
    report = convert(path, tmp_path / "held.zarr", options=options, repair=("stale_samples",))
    assert report.episodes == 1
    assert any(f.kind == "gap" for f in report.findings)
