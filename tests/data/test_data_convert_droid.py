"""DROID raw: joints, poses, frames, ranges of steps, cameras without a readable recording."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest
import robomind_files as motion

from robopolicy.data.convert.droid import FORMAT, DroidOptions, DroidSource
from robopolicy.data.convert.source import Finding
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError, NonFiniteError
from robopolicy.rotations import rotation_6d_to_matrix
from robopolicy.schema import build

SIZE = (48, 64)
SERIALS = {"wrist": "11", "exterior_1": "22", "exterior_2": "33"}
LEVELS = 14
"""Largest error of the lossy video on smooth frames; red and blue differ by more than 100."""


@dataclass
class Truth:
    path: Path
    id: str
    joints: np.ndarray
    targets: np.ndarray
    opening: np.ndarray
    wanted: np.ndarray
    pads: np.ndarray
    frames: dict[str, np.ndarray]
    time_ns: np.ndarray


def pads_of(q: np.ndarray) -> np.ndarray:
    """4x4 of the middle of the finger pads: the Franka's flange, then 0.150 m, the gripper not turned."""
    c = np.sqrt(0.5)
    unturned = np.array([[c, -c, 0, 0], [c, c, 0, 0], [0, 0, 1, -0.2104], [0, 0, 0, 1]])
    forward = np.eye(4)
    forward[2, 3] = 0.107 + 0.150
    return motion.panda_pose(q) @ unturned @ forward


def write_mp4(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15, options={"crf": "4", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.time_base = Fraction(1, 15)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def write(
    root: Path, index: int = 0, *, outcome: str = "success", steps: int = 24, faults: tuple[str, ...] = ()
) -> Truth:
    """One episode folder. Faults: ``svo``, ``no_mp4``, ``short_video``, ``time``, ``nan``, ``other_size``."""
    rng = np.random.default_rng([8, index])
    name = f"LAB/{outcome}/2023-07-07/Fri_{index:02d}"
    folder = root / name
    folder.mkdir(parents=True)
    joints, targets = (motion.smooth(rng, steps, 7, motion.PANDA_MIDDLE) for _ in range(2))
    opening, wanted = rng.uniform(0, 1, steps), rng.uniform(0, 1, steps)
    pads = np.stack([pads_of(q) for q in joints])
    back = np.eye(4)
    back[2, 3] = -0.150
    flange = np.stack([motion.euler(p @ back) for p in pads])
    target_flange = np.stack([motion.euler(pads_of(q) @ back) for q in targets])
    milliseconds = 1_688_740_000_000 + np.round(np.arange(steps) * 1000 / 15 + rng.uniform(-2, 2, steps))
    with h5py.File(folder / "trajectory.h5", "w") as file:
        state = "observation/robot_state"
        file[f"{state}/joint_positions"], file[f"{state}/joint_velocities"] = joints, np.gradient(joints, axis=0)
        file[f"{state}/gripper_position"], file[f"{state}/cartesian_position"] = 1 - opening, flange
        file["action/joint_position"], file["action/joint_velocity"] = targets, targets - joints
        file["action/gripper_position"], file["action/cartesian_position"] = 1 - wanted, target_flange
        file["observation/timestamp/control/step_start"] = milliseconds * (2 if "time" in faults else 1)
        if "nan" in faults:
            file["action/joint_position"][4, 2] = np.nan
    metadata = {
        "uuid": f"LAB+{index}",
        "lab": "LAB",
        "current_task": "put the cup away",
        "success": outcome == "success",
    }
    metadata |= {f"{role}_cam_serial": SERIALS[slot] for slot, role in
                 (("wrist", "wrist"), ("exterior_1", "ext1"), ("exterior_2", "ext2"))}  # fmt: skip
    (folder / f"metadata_LAB+{index}.json").write_text(json.dumps(metadata))
    frames = {}
    for number, (slot, serial) in enumerate(SERIALS.items()):
        size = (32, 32) if "other_size" in faults and slot == "wrist" else SIZE
        frames[slot] = np.stack([motion.frame(number, row, size) for row in range(steps)])
        if slot == "exterior_2" and {"svo", "no_mp4"} & set(faults):
            if "svo" in faults:
                (folder / "recordings/SVO").mkdir(parents=True, exist_ok=True)
                (folder / f"recordings/SVO/{serial}.svo").write_bytes(b"SVO")
            continue
        shown = frames[slot][:-3] if "short_video" in faults and slot == "wrist" else frames[slot]
        write_mp4(folder / f"recordings/MP4/{serial}.mp4", shown)
        write_mp4(folder / f"recordings/MP4/{serial}-stereo.mp4", shown[:2])
    time_ns = np.round((milliseconds - milliseconds[0]) * 1e6).astype(np.int64)
    return Truth(folder, name, joints, targets, opening, wanted, pads, frames, time_ns)


def source_of(root: Path, **options: Any) -> DroidSource:
    return FORMAT.open(root, build(DroidOptions, options))  # type: ignore[return-value]


def errors(findings: list[Finding]) -> set[str]:
    return {f.kind for f in findings if f.severity == "error"}


def test_episode_is_what_was_recorded(tmp_path: Path) -> None:
    truth = write(tmp_path)
    assert FORMAT.detect(tmp_path) == "trajectory.h5 with observation/robot_state"
    source = source_of(tmp_path)
    assert source.info.episodes == (truth.id,)
    assert source.info.cameras == dict.fromkeys(SERIALS, SIZE)
    reading = source.read(truth.id)
    assert reading.episode is not None
    assert [f for f in reading.findings if f.severity != "note"] == []
    streams = reading.episode.streams
    for key, joints, opening in (
        ("joint_position", truth.joints, truth.opening),
        ("joint_command", truth.targets, truth.wanted),
    ):
        np.testing.assert_allclose(streams[key], np.column_stack([joints, opening]), atol=1e-9)
    state = np.asarray(streams["state"])
    np.testing.assert_allclose(state[:, :3], truth.pads[:, :3, 3], atol=1e-9)
    np.testing.assert_allclose(rotation_6d_to_matrix(state[:, 3:9]), truth.pads[:, :3, :3], atol=1e-9)
    np.testing.assert_allclose(np.asarray(streams["action"])[5, :3], pads_of(truth.targets[5])[:3, 3], atol=1e-9)
    np.testing.assert_array_equal(streams["time_ns"], truth.time_ns)
    for slot, frames in truth.frames.items():
        got = np.asarray(streams[f"image/{slot}"]).astype(int)
        assert np.abs(got - frames).max() <= LEVELS, slot
        assert np.abs(got[..., ::-1] - frames).max() > 80, "control: exchanged colours would show"
        assert np.abs(got[1:] - frames[:-1]).max() > LEVELS, "control: another row would show"
    assert (reading.episode.language, reading.episode.success) == ("put the cup away", True)
    assert reading.episode.metadata["source"]["uuid"] == "LAB+0"


def test_recorded_flange_gives_the_same_poses(tmp_path: Path) -> None:
    truth = write(tmp_path)
    by_joints, recorded = (source_of(tmp_path, pose=pose).read(truth.id).episode for pose in ("kinematics", "recorded"))
    assert by_joints is not None
    assert recorded is not None
    for key in ("state", "action"):
        np.testing.assert_allclose(np.asarray(recorded.streams[key]), np.asarray(by_joints.streams[key]), atol=1e-6)


def test_episodes_are_accepted_by_a_store(tmp_path: Path) -> None:
    write(tmp_path / "src", 0)
    write(tmp_path / "src", 1, outcome="failure")
    source = source_of(tmp_path / "src")
    info = source.info
    with EpisodeStore.create(
        tmp_path / "set.zarr", info.embodiment, cameras=info.cameras, extra=info.extra, fps=info.fps, codec="jpeg"
    ) as store:
        for name in info.episodes:
            episode = source.read(name).episode
            assert episode is not None
            episode.streams = {k: np.asarray(v) for k, v in episode.streams.items()}
            store.append(episode)
        assert {store.info(i)["success"] for i in range(2)} == {True, False}
    assert source_of(tmp_path / "src", outcome="failure").info.episodes == ("LAB/failure/2023-07-07/Fri_01",)


def test_ranges_of_steps_become_episodes(tmp_path: Path) -> None:
    truth = write(tmp_path)
    other = write(tmp_path, 1)
    prefix = "gs://bucket/r2d2-data-full/" + truth.id
    ranges = {f"{prefix}/recordings/MP4--{prefix}/trajectory.h5": [[2, 9], [12, 13], [14, 40]]}
    file = tmp_path / "keep.json"
    for content in (ranges, {"version": 1, "keep_ranges": ranges}):
        file.write_text(json.dumps(content))
        source = source_of(tmp_path, keep_ranges=str(file))
        assert source.info.episodes == (f"{truth.id}#0", f"{truth.id}#2")
    assert any(f.episode == other.id and f.kind == "keep_ranges" for f in source.info.findings)
    for name, (start, stop) in zip(source.info.episodes, ((2, 9), (14, 24)), strict=True):
        episode = source.read(name).episode
        assert episode is not None
        np.testing.assert_allclose(np.asarray(episode.streams["joint_position"])[:, :7], truth.joints[start:stop])
        got = np.asarray(episode.streams["image/wrist"]).astype(int)
        assert np.abs(got - truth.frames["wrist"][start:stop]).max() <= LEVELS
        assert episode.metadata["source"]["steps"] == [start, stop]
    file.write_text('{"a": 3}')
    with pytest.raises(DataError, match="no filter of steps"):
        source_of(tmp_path, keep_ranges=str(file))


def test_svo_is_told_and_left_out_only_when_asked(tmp_path: Path) -> None:
    truth = write(tmp_path, faults=("svo",))
    with pytest.raises(DataError, match=r"\['exterior_2'\] there are only SVO files.*SDK.*options\.without_svo=true"):
        source_of(tmp_path)
    source = source_of(tmp_path, without_svo=True)
    assert set(source.info.cameras) == {"wrist", "exterior_1"}
    assert source.read(truth.id).episode is not None
    assert any("only SVO files, left out as asked" in f.message for f in source.info.findings)
    assert set(source_of(tmp_path, cameras=["wrist"]).info.cameras) == {"wrist"}


@pytest.mark.parametrize(
    ("fault", "kind", "repair"),
    [
        ("svo", "missing_camera", "missing_camera"),
        ("no_mp4", "missing_camera", "missing_camera"),
        ("short_video", "length", "length"),
        ("time", "rate_drift", "nominal_time"),
    ],
)
def test_fault_is_refused_unless_its_repair_is_chosen(tmp_path: Path, fault: str, kind: str, repair: str) -> None:
    clean, truth = write(tmp_path), write(tmp_path, 1, faults=(fault,))
    source = source_of(tmp_path)
    assert source.read(clean.id).episode is not None
    refused = source.read(truth.id)
    assert refused.episode is None
    assert errors(refused.findings) == {kind}
    episode = source_of(tmp_path, repair=[repair]).read(truth.id).episode
    assert episode is not None
    if repair == "missing_camera":
        assert episode.metadata["absent_cameras"] == ["exterior_2"]
        assert len(episode.streams["image/exterior_2"]) == 24
        told = [f.message for f in refused.findings if f.kind == kind]
        assert ("SVO" in told[0]) == (fault == "svo")
    elif repair == "length":
        assert {len(v) for v in episode.streams.values()} == {21}
    else:
        np.testing.assert_allclose(np.diff(np.asarray(episode.streams["time_ns"])), 1e9 / 15, rtol=1e-6)


def test_other_frame_size_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    truth = write(tmp_path, 1, faults=("other_size",))
    assert errors(source_of(tmp_path).read(truth.id).findings) == {"frame_size"}


def test_instructions_from_the_annotations(tmp_path: Path) -> None:
    truth = write(tmp_path)
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps({"LAB+0": {"language_instruction1": "move the cup", "language_instruction2": "x"}}))
    episode = source_of(tmp_path, language=str(file)).read(truth.id).episode
    assert episode is not None
    assert episode.language == "move the cup"
    with pytest.raises(DataError, match="cannot be read"):
        source_of(tmp_path, language=str(tmp_path / "none.json"))


def test_damage_is_told(tmp_path: Path) -> None:
    truth = write(tmp_path, faults=("nan",))
    with pytest.raises(NonFiniteError, match="'action/joint_position' is not finite at row 4, column 2"):
        source_of(tmp_path).read(truth.id)
    whole = (truth.path / "trajectory.h5").read_bytes()
    source = source_of(tmp_path)
    (truth.path / "trajectory.h5").write_bytes(whole[:3000])
    with pytest.raises(DataError, match=r"cannot be opened|damaged"):
        source.read(truth.id)
    video = truth.path / "recordings/MP4/11.mp4"
    (truth.path / "trajectory.h5").write_bytes(whole)
    video.write_bytes(video.read_bytes()[:200])
    with pytest.raises(DataError, match=r"11\.mp4"):
        source.read(truth.id)
    with pytest.raises(DataError, match="no episode below"):
        source_of(tmp_path / "empty")
    with pytest.raises(ConfigError, match="DROID has no such cameras"):
        source_of(tmp_path, cameras=["front"])
    with pytest.raises(ConfigError, match="no card for DROID"):
        source_of(tmp_path, embodiment="aloha")


def test_folder_and_metadata_may_disagree(tmp_path: Path) -> None:
    truth = write(tmp_path)
    file = next(truth.path.glob("metadata_*.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"success": False}))
    reading = source_of(tmp_path).read(truth.id)
    assert reading.episode is not None
    assert reading.episode.success
    assert any(f.kind == "success" and f.severity == "warning" for f in reading.findings)
