"""UMI data sets: poses, next-pose actions, JPEG XL frames, damaged files."""

from __future__ import annotations

import builtins
import zipfile

import numpy as np
import pytest
from data_replay import JPEGXL_KEYS, jpegxl, old_codecs, open_source, smooth_frames, store_all, write_buffer
from scipy.spatial.transform import Rotation

from robopolicy.data.convert.engine import convert
from robopolicy.data.convert.recognise import recognise
from robopolicy.data.convert.umi import FORMAT
from robopolicy.data.store import EpisodeStore
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DataError, MissingDependencyError

ENDS = (7, 8, 20)
WIDTH_M = 0.09


def arrays(robots: int = 1, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = ENDS[-1]
    found: dict[str, np.ndarray] = {}
    for i in range(robots):
        found[f"robot{i}_eef_pos"] = rng.normal(size=(rows, 3)).astype(np.float32)
        found[f"robot{i}_eef_rot_axis_angle"] = rng.uniform(-2, 2, (rows, 3)).astype(np.float32)
        found[f"robot{i}_gripper_width"] = rng.uniform(0, WIDTH_M, (rows, 1)).astype(np.float32)
        for key in ("demo_start_pose", "demo_end_pose"):
            found[f"robot{i}_{key}"] = np.repeat(rng.normal(size=(3, 6)), np.diff([0, *ENDS]), axis=0)
        found[f"camera{i}_rgb"] = smooth_frames(rows, 24, 32, seed + i)
    return found


def write(path, robots: int = 1, **changes):
    values = {**arrays(robots), **changes}
    codecs = {key: jpegxl() for key in values if key.endswith("_rgb")}
    write_buffer(path, values, ENDS, codecs=codecs)
    old_codecs(path)
    return path, values


def expected(values: dict[str, np.ndarray], robot: int) -> np.ndarray:
    """[N, 10] by scipy: position, first two columns, width over its maximum."""
    matrix = Rotation.from_rotvec(values[f"robot{robot}_eef_rot_axis_angle"]).as_matrix()
    columns = np.concatenate([matrix[:, :, 0], matrix[:, :, 1]], axis=1)
    return np.concatenate(
        [values[f"robot{robot}_eef_pos"], columns, values[f"robot{robot}_gripper_width"] / WIDTH_M], axis=1
    )


def test_every_number_of_a_zip_arrives_and_the_action_is_the_next_pose(tmp_path):
    path, values = write(tmp_path / "dataset.zarr.zip")
    assert recognise(path) == "umi"
    source = open_source(FORMAT, path)
    assert source.info.embodiment == load_embodiment("umi")
    store, readings = store_all(source, tmp_path / "out.zarr")
    wanted = expected(values, 0)
    np.testing.assert_allclose(store.read("state"), wanted, atol=2e-6)
    np.testing.assert_array_equal(store.read("image/camera0"), values["camera0_rgb"])
    np.testing.assert_array_equal(store.read("source/robot0_gripper_width"), values["robot0_gripper_width"])
    assert store.episode_ends.tolist() == list(ENDS)
    action, start = store.read("action"), 0
    for end, reading in zip(ENDS, readings, strict=True):
        np.testing.assert_allclose(action[start : end - 1], wanted[start + 1 : end], atol=2e-6)
        np.testing.assert_allclose(action[end - 1], wanted[end - 1], atol=2e-6)
        assert reading.episode.metadata["robot0_demo_end_pose"] == values["robot0_demo_end_pose"][start].tolist()
        start = end
    same_row = np.abs(action[:6] - wanted[:6]).max()
    assert same_row > 0.1, "an action taken from its own row would differ"
    source.close()


def test_a_step_keeps_rows_and_looks_a_whole_step_ahead(tmp_path):
    path, values = write(tmp_path / "dataset.zarr.zip")
    source = open_source(FORMAT, path, step=3)
    episode = source.read("000002").episode
    wanted = expected(values, 0)[8:20]
    np.testing.assert_allclose(episode.streams["state"], wanted[::3], atol=2e-6)
    np.testing.assert_allclose(episode.streams["action"], wanted[[3, 6, 9, 11]], atol=2e-6)
    np.testing.assert_array_equal(episode.streams["image/camera0"], values["camera0_rgb"][8:20:3])
    assert source.info.fps == pytest.approx(59.94 / 3, abs=1e-3)
    assert source.info.embodiment.control_hz == source.info.fps
    assert np.diff(episode.streams["time_ns"])[0] == pytest.approx(3 * 1001 / 60000 * 1e9, abs=1)
    store_all(source, tmp_path / "out.zarr")
    source.close()


def test_two_arms_are_right_and_left(tmp_path):
    path, values = write(tmp_path / "dataset.zarr.zip", robots=2)
    source = open_source(FORMAT, path)
    card = source.info.embodiment
    assert card == load_embodiment("umi_bimanual")
    store, _ = store_all(source, tmp_path / "out.zarr")
    state = store.read("state")
    np.testing.assert_allclose(state[:, card.state.select("right")], expected(values, 0), atol=2e-6)
    np.testing.assert_allclose(state[:, card.state.select("left")], expected(values, 1), atol=2e-6)
    assert set(store.cameras) == {"camera0", "camera1"}
    source.close()


def test_a_wider_gripper_is_told_and_its_width_is_kept(tmp_path):
    wide = np.full((ENDS[-1], 1), 0.1, np.float32)
    path, _ = write(tmp_path / "dataset.zarr.zip", robot0_gripper_width=wide)
    source = open_source(FORMAT, path)
    reading = source.read("000000")
    assert [f.kind for f in reading.findings] == ["clipped"]
    assert "0.1000 m" in reading.findings[0].message
    source.close()
    source = open_source(FORMAT, path, gripper_width_m=0.12)
    reading = source.read("000000")
    assert not reading.findings
    np.testing.assert_allclose(reading.episode.streams["state"][:, -1], 0.1 / 0.12, rtol=1e-6)
    assert source.info.embodiment.gripper_width_m == 0.12
    source.close()


def test_a_cut_zip_is_refused_and_says_so(tmp_path):
    path, _ = write(tmp_path / "dataset.zarr.zip")
    whole = path.read_bytes()
    for part in (0.3, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(DataError, match=r"cannot be read as a zip file|is not a replay buffer"):
            open_source(FORMAT, path)


def test_a_damaged_frame_refuses_its_episode_and_no_other(tmp_path):
    path, _ = write(tmp_path / "dataset.zarr.zip")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("data/camera0_rgb/9.0.0.0")
        at = entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2
    data[at] ^= 0xFF
    path.write_bytes(bytes(data))
    source = open_source(FORMAT, path)
    with pytest.raises(DataError, match=r"data/camera0_rgb.*rows 8 to 20"):
        source.read("000002")
    assert source.read("000000").episode is not None
    source.close()


def test_a_missing_frame_is_an_error_with_a_repair(tmp_path):
    path, _ = write(tmp_path / "dataset.zarr.zip")
    with zipfile.ZipFile(path) as archive:
        files = {n: archive.read(n) for n in archive.namelist() if n != "data/camera0_rgb/3.0.0.0"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    source = open_source(FORMAT, path)
    finding = source.read("000000").findings[0]
    assert (finding.kind, finding.severity, finding.repair) == ("missing_chunk", "error", "missing_chunks")
    assert not source.read("000001").findings
    source.close()
    with pytest.raises(DataError, match="missing_chunks"):
        convert(path, tmp_path / "out.zarr", codec="raw")
    report = convert(path, tmp_path / "filled.zarr", codec="raw", repair=("missing_chunks",))
    assert report.episodes == 3
    assert not EpisodeStore.open(tmp_path / "filled.zarr").images("camera0").read(3, 4).any()
    report = convert(path, tmp_path / "without.zarr", codec="raw", skip_bad=True)
    assert report.skipped == ("000000",)


def test_without_imagecodecs_the_extra_is_named(tmp_path, monkeypatch):
    path, _ = write(tmp_path / "dataset.zarr.zip")
    source = open_source(FORMAT, path)
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "imagecodecs":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=r"robopolicy\[formats\]"):
        source.read("000000")
    source.close()


def test_missing_or_misshapen_keys_are_named(tmp_path):
    values = arrays()
    del values["robot0_gripper_width"]
    write_buffer(tmp_path / "a.zarr", values, ENDS)
    with pytest.raises(DataError, match="robot0_gripper_width"):
        open_source(FORMAT, tmp_path / "a.zarr")
    values = {**arrays(), "robot0_eef_pos": np.zeros((ENDS[-1], 4), np.float32)}
    write_buffer(tmp_path / "b.zarr", values, ENDS)
    with pytest.raises(DataError, match=r"robot0_eef_pos has another width"):
        open_source(FORMAT, tmp_path / "b.zarr")


def test_the_files_of_these_tests_hold_only_what_the_published_codec_class_takes(tmp_path):
    path, _ = write(tmp_path / "dataset.zarr.zip")
    with zipfile.ZipFile(path) as archive:
        text = archive.read("data/camera0_rgb/.zarray").decode()
    assert "imagecodecs_jpegxl" in text
    assert "squeeze" not in text
    assert "squeeze" not in JPEGXL_KEYS
