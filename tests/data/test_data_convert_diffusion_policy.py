"""Replay buffers of diffusion_policy: conventions, image scales, episode ends, damage."""

from __future__ import annotations

import json
import shutil
import zipfile

import imagecodecs
import numcodecs
import numpy as np
import pytest
from data_replay import jpeg2k, old_codecs, open_source, smooth_frames, store_all, write_buffer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from robopolicy.data.convert.diffusion_policy import FORMAT
from robopolicy.data.convert.recognise import recognise
from robopolicy.errors import ConfigError, DataError

ENDS = (4, 9, 15)
ROWS = ENDS[-1]


def pusht(seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "img": smooth_frames(ROWS, 12, 12).astype(np.float32),
        "state": rng.uniform(0, 512, (ROWS, 5)).astype(np.float32),
        "action": rng.uniform(0, 512, (ROWS, 2)).astype(np.float32),
        "keypoint": rng.uniform(0, 512, (ROWS, 9, 2)).astype(np.float32),
        "n_contacts": rng.integers(0, 3, (ROWS, 1)).astype(np.float32),
    }


def robosuite(robots: int = 1, seed: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = {"agentview_image": smooth_frames(ROWS, 16, 16), "object": rng.normal(size=(ROWS, 10)).astype(np.float32)}
    actions = []
    for i in range(robots):
        opening = rng.uniform(0, 0.04, (ROWS, 1))
        values[f"robot{i}_eef_pos"] = rng.normal(size=(ROWS, 3)).astype(np.float32)
        values[f"robot{i}_eef_quat"] = Rotation.random(ROWS, random_state=seed + i).as_quat().astype(np.float32)
        values[f"robot{i}_gripper_qpos"] = np.concatenate([opening, -opening], axis=1).astype(np.float32)
        target = Rotation.random(ROWS, random_state=50 + i).as_matrix()
        grip = rng.choice([-1.0, 1.0], (ROWS, 1))
        actions.append(np.concatenate([rng.normal(size=(ROWS, 3)), target[:, 0], target[:, 1], grip], axis=1))
    return {**values, "action": np.concatenate(actions, axis=1).astype(np.float32)}


def test_pusht_numbers_and_float_images_arrive_exactly(tmp_path):
    values = pusht()
    disk = numcodecs.Blosc("zstd", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE)
    path = write_buffer(tmp_path / "pusht.zarr", values, ENDS, codecs=dict.fromkeys(values, disk))
    assert recognise(path) == "diffusion_policy"
    source = open_source(FORMAT, path)
    store, _ = store_all(source, tmp_path / "out.zarr")
    assert store.fps == 10
    assert store.embodiment.action.names == ("agent.x", "agent.y")
    assert store.environment_state_names == ("block.x", "block.y", "block.angle")
    np.testing.assert_array_equal(store.read("state"), values["state"][:, :2])
    np.testing.assert_array_equal(store.read("environment_state"), values["state"][:, 2:])
    np.testing.assert_array_equal(store.read("action"), values["action"])
    np.testing.assert_array_equal(store.read("source/keypoint"), values["keypoint"].reshape(ROWS, 18))
    np.testing.assert_array_equal(store.read("image/img"), values["img"].astype(np.uint8))
    assert store.episode_ends.tolist() == list(ENDS)
    source.close()


def test_a_zip_with_a_folder_inside_opens_in_place(tmp_path):
    values = pusht()
    flat = write_buffer(tmp_path / "flat.zarr.zip", values, ENDS)
    nested = tmp_path / "pusht.zip"
    with zipfile.ZipFile(flat) as source, zipfile.ZipFile(nested, "w") as archive:
        for name in source.namelist():
            archive.writestr(f"pusht/replay.zarr/{name}", source.read(name))
    source = open_source(FORMAT, nested)
    np.testing.assert_array_equal(source.read("000001").episode.streams["action"], values["action"][4:9])
    source.close()


def test_robosuite_rotations_are_rows_and_hand_to_tool(tmp_path):
    values = robosuite()
    path = write_buffer(tmp_path / "lift.zarr.zip", values, ENDS, codecs={"agentview_image": jpeg2k(), "object": None})
    old_codecs(path)
    source = open_source(FORMAT, path)
    assert source.convention.name == "abs10"
    store, _ = store_all(source, tmp_path / "out.zarr")
    action = store.read("action")
    raw = values["action"]
    third = np.cross(raw[:, 3:6], raw[:, 6:9])
    matrix = np.stack([raw[:, 3:6], raw[:, 6:9], third], axis=1)
    np.testing.assert_allclose(action[:, 3:6], matrix[:, :, 0], atol=1e-6)
    np.testing.assert_allclose(action[:, 6:9], matrix[:, :, 1], atol=1e-6)
    assert np.abs(action[:, 3:9] - raw[:, 3:9]).max() > 0.5, "rows taken for columns would be equal"
    np.testing.assert_allclose(action[:, 9], (1 - raw[:, 9]) / 2, atol=1e-6)
    turned = (Rotation.from_quat(values["robot0_eef_quat"]) * Rotation.from_euler("z", -90, degrees=True)).as_matrix()
    state = store.read("state")
    np.testing.assert_allclose(state[:, 3:6], turned[:, :, 0], atol=1e-6)
    np.testing.assert_allclose(state[:, 9], values["robot0_gripper_qpos"][:, 0] * 2 / 0.08, atol=1e-5)
    np.testing.assert_array_equal(store.read("source/action"), raw)
    decoded = [imagecodecs.jpeg2k_decode(imagecodecs.jpeg2k_encode(f, level=50)) for f in values["agentview_image"]]
    np.testing.assert_array_equal(store.read("image/agentview_image"), decoded)
    source.close()


def test_two_arms_of_twenty_numbers(tmp_path):
    values = robosuite(2)
    path = write_buffer(tmp_path / "transport.zarr", values, ENDS)
    source = open_source(FORMAT, path)
    assert source.convention.name == "abs20"
    store, _ = store_all(source, tmp_path / "out.zarr")
    card = store.embodiment
    second = store.read("action")[:, card.action.select("robot1")]
    np.testing.assert_allclose(second[:, :3], values["action"][:, 10:13], atol=1e-6)
    np.testing.assert_allclose(second[:, 9], (1 - values["action"][:, 19]) / 2, atol=1e-6)
    source.close()


def test_anything_else_keeps_its_numbers_and_needs_a_rate(tmp_path):
    rng = np.random.default_rng(0)
    values = {
        "action": rng.normal(size=(ROWS, 6)),
        "robot_eef_pose": rng.normal(size=(ROWS, 6)),
        "stage": rng.integers(0, 3, ROWS),
    }
    path = write_buffer(tmp_path / "real.zarr", values, ENDS)
    with pytest.raises(DataError, match=r"options\.fps"):
        open_source(FORMAT, path)
    source = open_source(FORMAT, path, fps=10)
    store, _ = store_all(source, tmp_path / "out.zarr")
    assert store.embodiment.state.names == tuple(f"robot_eef_pose.{i}" for i in range(6))
    np.testing.assert_array_equal(store.read("action"), values["action"].astype(np.float32))
    np.testing.assert_array_equal(store.read("source/stage"), values["stage"])
    assert [f.kind for f in source.info.findings] == ["convention"]
    source.close()


def test_recorded_seconds_become_the_time_and_the_rate(tmp_path):
    stamps = 1.7e9 + np.arange(ROWS) * 0.1 + np.random.default_rng(0).uniform(0, 0.01, ROWS)
    values = {"action": np.zeros((ROWS, 2)), "obs": np.zeros((ROWS, 3)), "timestamp": stamps}
    source = open_source(FORMAT, write_buffer(tmp_path / "a.zarr", values, ENDS))
    assert source.info.fps == pytest.approx(10, abs=0.5)
    time_ns = source.read("000001").episode.streams["time_ns"]
    np.testing.assert_allclose(time_ns / 1e9, stamps[4:9], atol=1e-6)
    source.close()
    values["timestamp"] = stamps.astype(np.float32)  # steps of 128 s: says nothing
    source = open_source(FORMAT, write_buffer(tmp_path / "b.zarr", values, ENDS), fps=10)
    reading = source.read("000001")
    assert [f.kind for f in reading.findings] == ["rate_drift"]
    assert np.diff(reading.episode.streams["time_ns"]).tolist() == [100_000_000] * 4
    source.close()


@pytest.mark.parametrize(("scale", "given"), [(1.0, "auto"), (255.0, "auto"), (255.0, "0..1")])
def test_float_images_of_either_scale_are_exact(tmp_path, scale, given):
    frames = smooth_frames(ROWS, 8, 8)
    values = {"action": np.zeros((ROWS, 2)), "obs": np.zeros((ROWS, 3)), "rgb": (frames / scale).astype(np.float32)}
    source = open_source(FORMAT, write_buffer(tmp_path / "a.zarr", values, ENDS), fps=5, float_images=given)
    reading = source.read("000000")
    np.testing.assert_array_equal(reading.episode.streams["image/rgb"], frames[:4])
    assert not reading.findings
    source.close()


def test_float_images_of_a_wrong_or_unknown_scale_are_not_guessed(tmp_path):
    values = {"action": np.zeros((ROWS, 2)), "obs": np.zeros((ROWS, 3)), "rgb": np.zeros((ROWS, 8, 8, 3), np.float32)}
    path = write_buffer(tmp_path / "black.zarr", values, ENDS)
    with pytest.raises(DataError, match="float_images"):
        open_source(FORMAT, path, fps=5)
    values["rgb"] = smooth_frames(ROWS, 8, 8) + np.float32(0.3)
    source = open_source(FORMAT, write_buffer(tmp_path / "inexact.zarr", values, ENDS), fps=5)
    assert [f.kind for f in source.read("000000").findings] == ["rounded"]
    source.close()
    source = open_source(FORMAT, tmp_path / "inexact.zarr", fps=5, float_images="0..1")
    with pytest.raises(DataError, match=r"not within 0\.\.1"):
        source.read("000000")
    source.close()


def test_blue_first_images_are_turned_when_told_so(tmp_path):
    frames = smooth_frames(ROWS, 8, 8)
    values = {"action": np.zeros((ROWS, 2)), "obs": np.zeros((ROWS, 3)), "cam": frames}
    path = write_buffer(tmp_path / "a.zarr", values, ENDS)
    source = open_source(FORMAT, path, fps=5, bgr=["cam"])
    np.testing.assert_array_equal(source.read("000000").episode.streams["image/cam"], frames[:4, ..., ::-1])
    source.close()
    with pytest.raises(DataError, match="no such image array"):
        open_source(FORMAT, path, fps=5, bgr=["camera"])


def test_ends_that_contradict_the_arrays_are_refused_or_truncated(tmp_path):
    values = pusht()
    longer = {**values, "action": np.concatenate([values["action"], values["action"][:3]])}
    path = write_buffer(tmp_path / "longer.zarr", longer, ENDS)
    with pytest.raises(DataError, match="length_mismatch"):
        open_source(FORMAT, path)
    source = open_source(FORMAT, path, length_mismatch="truncate")
    assert len(source.info.episodes) == 3
    source.close()
    shorter = {**values, "img": values["img"][:11]}
    path = write_buffer(tmp_path / "shorter.zarr", shorter, ENDS)
    source = open_source(FORMAT, path, length_mismatch="truncate")
    assert source.info.episodes == ("000000", "000001", "000002")
    assert len(source.read("000002").episode.streams["action"]) == 2
    source.close()
    shorter["img"] = values["img"][:9]
    path = write_buffer(tmp_path / "shortest.zarr", shorter, ENDS)
    source = open_source(FORMAT, path, length_mismatch="truncate")
    assert source.info.episodes == ("000000", "000001")
    assert source.info.expected_episodes == 3
    source.close()
    with pytest.raises(DataError, match="decreases at episode 1"):
        open_source(FORMAT, write_buffer(tmp_path / "wild.zarr", values, (9, 4, 15)))


def test_an_episode_without_rows_is_named(tmp_path):
    path = write_buffer(tmp_path / "a.zarr", pusht(), (4, 4, 15))
    source = open_source(FORMAT, path)
    reading = source.read("000001")
    assert reading.episode is None
    assert [f.severity for f in reading.findings] == ["error"]
    source.close()


def test_wrong_options_and_conventions_are_told(tmp_path):
    path = write_buffer(tmp_path / "a.zarr", pusht(), ENDS)
    with pytest.raises(DataError, match=r"does not fit"):
        open_source(FORMAT, path, convention="abs10")
    with pytest.raises(ConfigError, match="did you mean"):
        open_source(FORMAT, path, convension="pusht")
    with pytest.raises(DataError, match="not a replay buffer"):
        open_source(FORMAT, tmp_path)
    values = pusht()
    del values["action"]
    with pytest.raises(DataError, match="no data/action"):
        open_source(FORMAT, write_buffer(tmp_path / "b.zarr", values, ENDS))


def test_an_episode_is_read_alone(tmp_path, monkeypatch):
    """Rows of other episodes are not decoded: frames are one chunk each."""
    path = write_buffer(tmp_path / "a.zarr", pusht(), ENDS)
    for row in [*range(4), *range(9, ROWS)]:
        (path / "data/img" / f"{row}.0.0.0").write_bytes(b"broken")
    source = open_source(FORMAT, path, float_images="0..255")
    assert source.read("000001").episode is not None
    with pytest.raises(DataError, match="data/img"):
        source.read("000000")
    source.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_passes_for_data(tmp_path, data):
    """Cut files, altered metadata: a DataError, or the very numbers."""
    values = pusht()
    clean = tmp_path / "clean.zarr"
    if not clean.exists():
        write_buffer(clean, values, ENDS, codecs=dict.fromkeys(values, numcodecs.Zstd(checksum=True)))
    path = tmp_path / "hurt.zarr"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(clean, path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name not in (".zgroup", ".zattrs"))
    victim = data.draw(st.sampled_from(files))
    content = victim.read_bytes()
    if data.draw(st.booleans()) and victim.name == ".zarray":
        meta = json.loads(content)
        key = data.draw(st.sampled_from(["shape", "chunks", "dtype", "zarr_format", "compressor"]))
        meta[key] = data.draw(st.sampled_from([None, [], [2**40], "<f4", "|O", 3, {"id": "nonsense"}]))
        victim.write_text(json.dumps(meta))
    else:
        victim.write_bytes(content[: data.draw(st.integers(0, max(len(content) - 1, 0)))])
    try:
        source = open_source(FORMAT, path, float_images="0..255", fps=10)
    except DataError:
        return
    try:
        for name, start, stop in zip(source.info.episodes, (0, *ENDS[:-1]), ENDS, strict=True):
            try:
                reading = source.read(name)
            except DataError:
                continue
            if not any(f.severity == "error" for f in reading.findings):
                np.testing.assert_array_equal(reading.episode.streams["action"], values["action"][start:stop])
    finally:
        source.close()
