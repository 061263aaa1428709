"""RoboMIND: all ten layouts give what was written; every planted fault is told and mended only when that is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import robomind_files as files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robopolicy.data.convert.forward_kinematics import is_stuck
from robopolicy.data.convert.hdf5_episode import Hdf5File
from robopolicy.data.convert.robomind import FORMAT, RobomindOptions, RobomindSource
from robopolicy.data.convert.robomind_layouts import LAYOUTS, layout_of
from robopolicy.data.convert.source import Finding, Reading
from robopolicy.data.episode import EncodedFrames, check_episode
from robopolicy.data.shard import decode_frames
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError, NonFiniteError
from robopolicy.rotations import rotation_6d_to_matrix
from robopolicy.schema import build

JPEG_LEVELS = 12
"""Largest error that JPEG q95 makes on the generator's smooth frames is below this; red and blue differ by 100."""


def source_of(root: Path, layout: str, **options: Any) -> RobomindSource:
    given = {**files.OPTIONS.get(layout, {}), **options}
    return FORMAT.open(root / layout, build(RobomindOptions, given))  # type: ignore[return-value]


def read(root: Path, layout: str, **options: Any) -> Reading:
    source = source_of(root, layout, **options)
    return source.read(source.info.episodes[0])


def kinds(findings: list[Finding], severity: str = "error") -> set[str]:
    return {f.kind for f in findings if f.severity == severity}


def pixels(frames: Any) -> np.ndarray:
    return decode_frames(frames) if isinstance(frames, EncodedFrames) else np.asarray(frames)


def joints_of(reading: Reading, source: RobomindSource, kind: str) -> np.ndarray:
    assert reading.episode is not None
    stream = {"state": "joint_position", "action": "joint_command"}[kind] if source.info.joints else kind
    return np.asarray(reading.episode.streams[stream])


def test_generator_and_converter_know_the_same_layouts() -> None:
    assert set(files.LAYOUTS) == set(LAYOUTS)
    assert len(LAYOUTS) == 10
    assert {n for n, layout in LAYOUTS.items() if layout.bgr} == set(files.BGR)


@pytest.mark.parametrize("layout", files.LAYOUTS)
def test_layout_gives_what_was_written(tmp_path: Path, layout: str) -> None:
    truth = files.write(tmp_path, layout)
    source = source_of(tmp_path, layout)
    assert FORMAT.detect(tmp_path / layout)
    assert source.info.episodes == (truth.id,)
    reading = source.read(truth.id)
    assert reading.episode is not None
    assert not kinds(reading.findings)
    names = source.info.embodiment.joints.names
    for kind, wanted in (("state", truth.state), ("action", truth.action)):
        joints = joints_of(reading, source, kind)
        np.testing.assert_allclose(joints, np.stack([wanted[n] for n in names], axis=1), atol=1e-6)
    for camera, frames in truth.frames.items():
        got = pixels(reading.episode.streams[f"image/{camera}"]).astype(int)
        assert np.abs(got - frames).max() <= JPEG_LEVELS, camera
        assert np.abs(got[..., ::-1] - frames).max() > 80, "control: exchanged colours would show"
    with EpisodeStore.create(
        tmp_path / "set.zarr",
        source.info.embodiment,
        task=source.info.task,
        cameras=source.info.cameras,
        joints=source.info.joints,
        extra=source.info.extra,
        codec="jpeg",
        fps=source.info.fps,
    ) as store:
        episode = reading.episode
        episode.streams = {k: v if isinstance(v, EncodedFrames) else np.asarray(v) for k, v in episode.streams.items()}
        store.append(episode)
        np.testing.assert_array_equal(store.read("action"), np.asarray(episode.streams["action"], np.float32))


@pytest.mark.parametrize("layout", ["h5_franka_1rgb", "h5_ur_1rgb", "h5_sim_franka_3rgb"])
def test_poses_are_those_of_an_independent_product(tmp_path: Path, layout: str) -> None:
    truth = files.write(tmp_path, layout)
    episode = read(tmp_path, layout).episode
    assert episode is not None
    for stream in ("state", "source/end_effector"):
        values = np.asarray(episode.streams[stream])[:, :9]
        np.testing.assert_allclose(values[:, :3], truth.poses[""][:, :3, 3], atol=1e-9)
        np.testing.assert_allclose(rotation_6d_to_matrix(values[:, 3:]), truth.poses[""][:, :3, :3], atol=1e-6)
    np.testing.assert_allclose(np.asarray(episode.streams["action"])[:-1], np.asarray(episode.streams["state"])[1:])


def test_ordinary_files_pass_through_and_exchanged_ones_do_not(tmp_path: Path) -> None:
    files.write(tmp_path, "h5_franka_1rgb")
    files.write(tmp_path, "h5_agilex_3rgb")
    franka, agilex = (read(tmp_path, name).episode for name in ("h5_franka_1rgb", "h5_agilex_3rgb"))
    assert franka is not None
    assert agilex is not None
    assert isinstance(franka.streams["image/top"], EncodedFrames)
    assert not isinstance(agilex.streams["image/front"], EncodedFrames)


def test_rows_filled_up_with_zeros_are_trimmed(tmp_path: Path) -> None:
    truth = files.write(tmp_path, "h5_franka_1rgb")
    key = "observations/rgb_images/camera_top"
    with h5py.File(truth.path, "a") as file:
        rows = [np.asarray(row) for row in file[key]]
        filled = np.zeros((len(rows), 5000), np.uint8)
        for place, row in zip(filled, rows, strict=True):
            place[: len(row)] = row
        del file[key]
        file[key] = filled
    episode = read(tmp_path, "h5_franka_1rgb").episode
    assert episode is not None
    frames = episode.streams["image/top"]
    assert isinstance(frames, EncodedFrames)
    assert frames.blobs[0] == rows[0].tobytes()


def test_colour_option_overrides_the_layout(tmp_path: Path) -> None:
    truth = files.write(tmp_path, "h5_franka_1rgb")
    wrong = read(tmp_path, "h5_franka_1rgb", colour="rgb").episode
    assert wrong is not None
    assert np.abs(pixels(wrong.streams["image/top"]).astype(int)[..., ::-1] - truth.frames["top"]).max() <= JPEG_LEVELS


FAULTS = {
    "stuck_ee": ("h5_ur_1rgb", "stuck_channel", "stuck_ee"),
    "half_stuck_ee": ("h5_franka_1rgb", "stuck_channel", "stuck_ee"),
    "missing_camera": ("h5_franka_3rgb", "missing_camera", "missing_camera"),
    "raw_frame": ("h5_franka_1rgb", "raw_frame", "raw_frame"),
    "broken_frame": ("h5_tienkung_gello_1rgb", "undecodable_frame", "broken_frame"),
    "cut_frame": ("h5_franka_3rgb", "undecodable_frame", "broken_frame"),
    "length": ("h5_agilex_3rgb", "length", "length"),
    "time": ("h5_sim_franka_3rgb", "rate_drift", "nominal_time"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_refused_unless_its_repair_is_chosen(tmp_path: Path, fault: str) -> None:
    layout, kind, repair = FAULTS[fault]
    more = {"fps": 15.0} if fault == "time" else {}
    files.write(tmp_path, layout, 0)
    truth = files.write(tmp_path, layout, 1, faults=[fault])
    source = source_of(tmp_path, layout, **more)
    assert source.read(source.info.episodes[0]).episode is not None, "the clean one is not touched"
    refused = source.read(truth.id)
    assert refused.episode is None
    assert kinds(refused.findings) == {kind}
    assert {f.repair for f in refused.findings if f.severity == "error"} == {repair}
    other = next(r for _, _, r in FAULTS.values() if r != repair)
    assert source_of(tmp_path, layout, repair=[other], **more).read(truth.id).episode is None
    mended = source_of(tmp_path, layout, repair=[repair], **more).read(truth.id)
    assert mended.episode is not None
    assert all(f.repaired for f in mended.findings if f.severity == "error")
    check_mended(fault, truth, mended.episode.streams, mended.episode.metadata)


def check_mended(fault: str, truth: files.Truth, streams: dict[str, Any], metadata: dict[str, Any]) -> None:
    """What a repaired episode has to look like."""
    if fault.endswith("stuck_ee"):
        np.testing.assert_allclose(streams["source/end_effector"][:, :3], truth.poses[""][:, :3, 3], atol=1e-3)
    elif fault == "missing_camera":
        assert metadata["absent_cameras"] == ["top"]
        assert pixels(streams["image/top"]).max() == 0
        assert np.abs(pixels(streams["image/left"]).astype(int) - truth.frames["left"]).max() <= JPEG_LEVELS
    elif fault == "raw_frame":
        assert np.abs(pixels(streams["image/top"]).astype(int) - truth.frames["top"]).max() <= JPEG_LEVELS
    elif fault in ("broken_frame", "cut_frame"):
        row = 7 if fault == "broken_frame" else 8
        got = pixels(streams["image/top"])
        np.testing.assert_array_equal(got[row], got[row - 1])
        assert np.abs(got[row + 1].astype(int) - truth.frames["top"][row + 1]).max() <= JPEG_LEVELS
    elif fault == "length":
        assert len(streams["time_ns"]) == 27
        np.testing.assert_allclose(streams["state"][:, 0], truth.state["left.joint1"][:27])
    elif fault == "time":
        np.testing.assert_allclose(np.diff(streams["time_ns"]), 1e9 / 15, rtol=1e-6)


def test_a_store_without_the_missing_camera_needs_no_repair(tmp_path: Path) -> None:
    files.write(tmp_path, "h5_franka_3rgb", faults=["missing_camera"])
    reading = read(tmp_path, "h5_franka_3rgb", cameras=["left", "camera_right"])
    assert reading.episode is not None
    assert not kinds(reading.findings)
    assert "image/top" not in reading.episode.streams
    with pytest.raises(ConfigError, match="no such cameras"):
        read(tmp_path, "h5_franka_3rgb", cameras=["wrist"])


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    files.write(tmp_path, "h5_franka_1rgb", faults=["other_size"])
    reading = read(tmp_path, "h5_franka_1rgb", repair=["raw_frame", "broken_frame"])
    assert reading.episode is None
    assert kinds(reading.findings) == {"frame_size"}


@pytest.mark.parametrize("layout", ["h5_franka_1rgb", "h5_sim_franka_3rgb", "h5_agilex_3rgb"])
def test_depth_is_in_millimetres(tmp_path: Path, layout: str) -> None:
    truth = files.write(tmp_path, layout, depth=True)
    source = source_of(tmp_path, layout, depth=True)
    camera = next(iter(truth.frames))
    assert source.info.extra[f"depth/{camera}"].shape == (*files.SIZE, 1)
    episode = source.read(truth.id).episode
    assert episode is not None
    np.testing.assert_array_equal(np.asarray(episode.streams[f"depth/{camera}"])[..., 0], truth.depth_mm[camera])


def test_depth_in_metres_is_converted_only_when_chosen(tmp_path: Path) -> None:
    truth = files.write(tmp_path, "h5_franka_1rgb", depth=True, faults=["depth_metres"])
    refused = read(tmp_path, "h5_franka_1rgb", depth=True)
    assert refused.episode is None
    assert kinds(refused.findings) == {"units"}
    mended = read(tmp_path, "h5_franka_1rgb", depth=True, repair=["depth_unit"]).episode
    assert mended is not None
    np.testing.assert_array_equal(np.asarray(mended.streams["depth/top"])[..., 0], truth.depth_mm["top"])
    assert read(tmp_path, "h5_franka_1rgb").episode is not None, "without depth its unit does not matter"


def test_a_resting_arm_or_hand_is_not_stuck(tmp_path: Path) -> None:
    files.write(tmp_path, "h5_franka_fr3_dual", still_arm=True)
    files.write(tmp_path, "h5_tienkung_xsens_1rgb", still_arm=True)
    assert not kinds(read(tmp_path, "h5_franka_fr3_dual").findings)
    assert not kinds(read(tmp_path, "h5_tienkung_xsens_1rgb").findings)


def test_a_stuck_arm_without_chain_cannot_be_repaired_but_left_out(tmp_path: Path) -> None:
    files.write(tmp_path, "h5_agilex_3rgb", faults=["stuck_ee"])
    refused = read(tmp_path, "h5_agilex_3rgb", repair=["stuck_ee"])
    assert refused.episode is None
    assert {f.repair for f in refused.findings if f.kind == "stuck_channel"} == {""}
    without = read(tmp_path, "h5_agilex_3rgb", end_effector=False)
    assert without.episode is not None
    assert "source/end_effector" not in without.episode.streams


@given(rows=st.integers(20, 60), index=st.integers(0, 50), start=st.floats(0, 0.7), noise=st.floats(0, 1e-4))
@settings(max_examples=40, deadline=None)
def test_stuck_is_seen_wherever_it_begins_and_clean_never(rows: int, index: int, start: float, noise: float) -> None:
    rng = np.random.default_rng([5, index])
    joints = files.smooth(rng, rows, 7, files.PANDA_MIDDLE)
    clean = np.stack([files.euler(files.panda_pose(q)) for q in joints])
    assert not is_stuck(clean, joints)
    first = int(start * rows)
    held = clean.copy()
    held[first:] = held[first] + noise * rng.uniform(-1, 1, held[first:].shape)
    if rows - first >= max(rows // 4, 8) * 1.25 and np.ptp(joints[first:], axis=0).max() > 0.3:
        assert is_stuck(held, joints)


def test_gripper_ends_are_asked_for_where_they_are_not_known(tmp_path: Path) -> None:
    files.write(tmp_path, "h5_agilex_3rgb")
    with pytest.raises(
        DataError, match=r"does not say what the gripper.*options\.gripper=\[0,0\.04\].*command_gripper"
    ):
        FORMAT.open(tmp_path / "h5_agilex_3rgb", RobomindOptions())
    reading = read(tmp_path, "h5_agilex_3rgb", command_gripper=(0.0, 1.0))
    assert reading.episode is None
    assert kinds(reading.findings) == {"units"}
    files.write(tmp_path, "h5_franka_1rgb")
    noted = source_of(tmp_path, "h5_franka_1rgb").info.findings
    assert any(f.severity == "warning" and "gripper: 1 closed, 0 open" in f.message for f in noted)


def test_language_from_the_table_and_the_annotations(tmp_path: Path) -> None:
    truth = files.write(tmp_path, "h5_franka_1rgb")
    other = files.write(tmp_path, "h5_franka_1rgb", 1, task="other_task", split="val")
    files.write_language(tmp_path, [truth])
    source = source_of(tmp_path, "h5_franka_1rgb")
    first, second = (source.read(t.id).episode for t in (truth, other))
    assert first is not None
    assert second is not None
    assert first.language == files.INSTRUCTION
    assert first.metadata["steps"] == [{"description": "grab the cup", "start": 2, "end": 11}]
    assert first.metadata["source"]["split"] == "train"
    assert (second.language, second.metadata["source"]["split"]) == ("", "val")
    with h5py.File(other.path, "a") as file:
        file["language_raw"] = [b"open the drawer"]
    again = source.read(other.id).episode
    assert again is not None
    assert again.language == "open the drawer"
    assert source_of(tmp_path, "h5_franka_1rgb", splits=["val"]).info.episodes == (other.id,)
    with pytest.raises(DataError, match="no such file"):
        source_of(tmp_path, "h5_franka_1rgb", language=[str(tmp_path / "none.csv")])
    (tmp_path / "bad.json").write_text('[{"id": 1}]')
    with pytest.raises(DataError, match="not a file of step annotations"):
        source_of(tmp_path, "h5_franka_1rgb", language=[str(tmp_path / "bad.json")])


def test_action_source_and_shift(tmp_path: Path) -> None:
    truth = files.write(tmp_path, "h5_franka_1rgb")
    master = read(tmp_path, "h5_franka_1rgb", action="master").episode
    assert master is not None
    assert len(master.streams["time_ns"]) == 30
    np.testing.assert_allclose(
        np.asarray(master.streams["joint_command"])[:29, 0], truth.state["joint1"] + 0.01, atol=1e-9
    )
    unshifted = read(tmp_path, "h5_franka_1rgb", shift=0).episode
    assert unshifted is not None
    np.testing.assert_array_equal(unshifted.streams["action"], unshifted.streams["state"])
    with pytest.raises(ConfigError, match="the master records no pose"):
        read(tmp_path, "h5_franka_1rgb", pose="recorded", action="master")
    recorded = read(tmp_path, "h5_franka_1rgb", pose="recorded").episode
    assert recorded is not None
    np.testing.assert_allclose(np.asarray(recorded.streams["action"])[:-1], np.asarray(recorded.streams["state"])[1:])
    files.write(tmp_path, "h5_sim_tienkung_1rgb")
    with pytest.raises(ConfigError, match="is simulated and has no such robot"):
        read(tmp_path, "h5_sim_tienkung_1rgb", action="master")


def test_layout_without_its_folder_is_recognised_by_its_arrays(tmp_path: Path) -> None:
    for name in files.LAYOUTS:
        truth = files.write(tmp_path / name, name, folder="somewhere")
        with Hdf5File(truth.path) as file:
            found = layout_of(Path("somewhere/trajectory.hdf5"), file)
        assert found.name.replace("_prod1", "") == name.replace("_prod1", "")
    truth = files.write(tmp_path / "unclear", "h5_franka_3rgb", folder="x", faults=["missing_camera"])
    with pytest.raises(DataError, match=r"is not clear.*options\.layout"):
        FORMAT.open(truth.path, RobomindOptions())
    assert FORMAT.open(truth.path, RobomindOptions(layout="h5_franka_3rgb")).info.episodes == ("1014_100000",)


def test_version_one_name_of_the_simulated_franka(tmp_path: Path) -> None:
    files.write(tmp_path, "h5_sim_franka_3rgb", folder="h5_simulation")
    source = FORMAT.open(tmp_path / "h5_simulation", RobomindOptions(gripper=(0.0, 0.04)))
    assert source.info.provenance["layout"] == "h5_sim_franka_3rgb"
    assert source.info.fps == pytest.approx(15.0)


def test_one_store_holds_one_embodiment(tmp_path: Path) -> None:
    files.write(tmp_path, "h5_franka_1rgb")
    files.write(tmp_path, "h5_ur_1rgb")
    with pytest.raises(DataError, match=r"several embodiments.*h5_ur_1rgb.*store of its own"):
        FORMAT.open(tmp_path, RobomindOptions())
    with pytest.raises(ConfigError, match="did you mean 'h5_ur_1rgb'"):
        FORMAT.open(tmp_path, RobomindOptions(layout="h5_ur_rgb"))
    with pytest.raises(ConfigError, match="has other joints than h5_franka_1rgb"):
        FORMAT.open(tmp_path / "h5_franka_1rgb", RobomindOptions(embodiment="widowx"))


def test_damage_is_told_with_file_and_place(tmp_path: Path) -> None:
    truth = files.write(tmp_path, "h5_franka_1rgb", faults=["nan"])
    with pytest.raises(NonFiniteError, match=r"'puppet/joint_position' is not finite at row 3, column 1"):
        read(tmp_path, "h5_franka_1rgb")
    with h5py.File(truth.path, "a") as file:
        del file["puppet/joint_position"]
    with pytest.raises(DataError, match="has no 'puppet/joint_position'"):
        read(tmp_path, "h5_franka_1rgb")
    truth.path.write_bytes(truth.path.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"cannot be opened|damaged"):
        read(tmp_path, "h5_franka_1rgb")
    assert FORMAT.detect(tmp_path / "nothing") is None


@given(cut=st.floats(0.02, 0.98))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_file_is_an_error_or_right_data(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    root = tmp_path_factory.mktemp("cut")
    truth = files.write(root, "h5_ur_1rgb")
    whole = truth.path.read_bytes()
    truth.path.write_bytes(whole[: int(cut * len(whole))])
    try:
        episode = read(root, "h5_ur_1rgb").episode
    except DataError:
        return
    assert episode is not None
    np.testing.assert_allclose(np.asarray(episode.streams["joint_position"])[:, 0], truth.state["shoulder_pan"])


def test_streams_are_as_promised(tmp_path: Path) -> None:
    files.write(tmp_path, "h5_sim_franka_3rgb", depth=True)
    source = source_of(tmp_path, "h5_sim_franka_3rgb", depth=True)
    episode = source.read(source.info.episodes[0]).episode
    assert episode is not None
    info = source.info
    from robopolicy.data.episode import joint_streams, stream_specs

    specs = stream_specs(info.embodiment, (), info.cameras, {**joint_streams(info.embodiment), **info.extra})
    episode.streams = {k: v if isinstance(v, EncodedFrames) else np.asarray(v) for k, v in episode.streams.items()}
    check_episode(episode, 0, specs, {}, info.fps)
    assert episode.success
    assert episode.metadata["source"]["task"] == "put_cup"
