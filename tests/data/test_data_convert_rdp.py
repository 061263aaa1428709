"""RDP data sets: action layouts, tactile and wrench streams, colour order, useless stamps."""

from __future__ import annotations

import numcodecs
import numpy as np
import pytest
from data_replay import open_source, smooth_frames, store_all, write_buffer
from scipy.spatial.transform import Rotation

from robopolicy.data.convert.rdp import FORMAT
from robopolicy.data.convert.recognise import recognise
from robopolicy.errors import DataError

ENDS = (6, 14)
ROWS = ENDS[-1]


def arrays(action: int = 10, seed: int = 0) -> dict[str, np.ndarray]:
    """As post_process_data.py writes them for one arm with two tactile sensors; zeros for the right arm unless used."""
    rng = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {"timestamp": np.float32(1.7e9) + np.arange(ROWS, dtype=np.float32) / 24}
    both = action in (8, 20)
    for side in ("left", "right"):
        used = side == "left" or both
        matrix = Rotation.random(ROWS, random_state=seed + len(side)).as_matrix()
        pose = np.concatenate([rng.normal(size=(ROWS, 3)), matrix[:, :, 0], matrix[:, :, 1]], axis=1)
        values[f"{side}_robot_tcp_pose"] = pose if used else np.zeros((ROWS, 9))
        for key, width in (("tcp_vel", 6), ("tcp_wrench", 6), ("gripper_force", 1)):
            values[f"{side}_robot_{key}"] = rng.normal(size=(ROWS, width)) * used
        values[f"{side}_robot_gripper_width"] = rng.uniform(0, 0.1, (ROWS, 1)) * used
    for key in ("left_gripper1", "left_gripper2"):
        values[f"{key}_marker_offset"] = rng.normal(size=(ROWS, 63, 2))
        values[f"{key}_initial_marker"] = rng.normal(size=(ROWS, 63, 2))
        values[f"{key}_marker_offset_emb"] = rng.normal(size=(ROWS, 15))
        values[f"{key}_img"] = smooth_frames(ROWS, 12, 16, seed + 1)
    for key in ("external_img", "left_wrist_img"):
        values[key] = smooth_frames(ROWS, 12, 16, seed + len(key))
    pose, grip = [{s: values[f"{s}_robot_{k}"] for s in ("left", "right")} for k in ("tcp_pose", "gripper_width")]
    states = {
        4: [pose["left"][:, :3], grip["left"]],
        8: [pose["left"][:, :3], pose["right"][:, :3], grip["left"], grip["right"]],
        10: [pose["left"], grip["left"]],
        20: [pose["left"], pose["right"], grip["left"], grip["right"]],
        19: [pose["left"][:, :3], grip["left"], values["left_gripper2_marker_offset_emb"]],
    }[action]
    state = np.concatenate(states, axis=1)
    target = np.concatenate([state[1:], state[-1:]])
    for end in ENDS:
        target[end - 1] = target[end - 2]
    values["action"] = values["target"] = target
    return {k: v if v.dtype == np.uint8 else v.astype(np.float32) for k, v in values.items()}


def write(path, action: int = 10, **changes):
    values = {**arrays(action), **changes}
    blosc = numcodecs.Blosc("zstd", clevel=3, shuffle=1)
    chunks = {k: (100 if v.ndim == 4 else 10_000, *v.shape[1:]) for k, v in values.items()}
    codecs = {k: blosc for k in values if "marker" not in k}
    return write_buffer(path / "replay_buffer.zarr", values, ENDS, codecs=codecs, chunks=chunks).parent, values


def test_one_arm_with_whole_poses(tmp_path):
    path, values = write(tmp_path / "peel_v3_zarr")
    assert recognise(path) == "rdp"
    source = open_source(FORMAT, path)
    store, readings = store_all(source, tmp_path / "out.zarr")
    assert (store.embodiment.action_space, store.fps, store.task) == ("ee_pose", 24.0, "peel_v3_zarr")
    state = np.concatenate([values["left_robot_tcp_pose"], values["left_robot_gripper_width"] * 10], axis=1)
    np.testing.assert_allclose(store.read("state"), state, atol=1e-6)
    wanted = values["action"].copy()
    wanted[:, 9] *= 10
    np.testing.assert_allclose(store.read("action"), wanted, atol=1e-6)
    np.testing.assert_array_equal(store.read("source/action"), values["action"])
    np.testing.assert_array_equal(store.read("left_robot_tcp_wrench"), values["left_robot_tcp_wrench"])
    spec = store.streams["left_robot_tcp_wrench"]
    assert (spec.kind, spec.units, spec.channels[3]) == ("wrench", ("N",) * 3 + ("N.m",) * 3, "torque.x")
    for key in ("left_gripper1_marker_offset", "left_gripper2_marker_offset_emb"):
        np.testing.assert_array_equal(store.read(key), values[key].reshape(ROWS, -1))
        assert store.streams[key].kind == "tactile"
    assert not [k for k in store.streams if k.startswith("right_robot")]
    assert {f.kind for r in readings for f in r.findings} == {"rate_drift"}, "float32 seconds since 1970"
    assert np.diff(readings[0].episode.streams["time_ns"])[0] == round(1e9 / 24)
    source.close()


def test_realsense_images_are_blue_first_and_tactile_images_are_not(tmp_path):
    path, values = write(tmp_path / "set")
    source = open_source(FORMAT, path)
    streams = source.read("000001").episode.streams
    np.testing.assert_array_equal(streams["image/external"], values["external_img"][6:, ..., ::-1])
    np.testing.assert_array_equal(streams["image/left_wrist"], values["left_wrist_img"][6:, ..., ::-1])
    np.testing.assert_array_equal(streams["image/left_gripper1"], values["left_gripper1_img"][6:])
    assert (streams["image/external"] != values["external_img"][6:]).any()
    source.close()
    source = open_source(FORMAT, path, realsense_colour="rgb")
    streams = source.read("000001").episode.streams
    np.testing.assert_array_equal(streams["image/external"], values["external_img"][6:])
    source.close()


@pytest.mark.parametrize("width", [4, 8, 10, 19, 20])
def test_every_layout_of_the_action_puts_each_gripper_behind_its_arm(tmp_path, width):
    path, values = write(tmp_path / "set", width)
    source = open_source(FORMAT, path)
    store, _ = store_all(source, tmp_path / "out.zarr")
    card, action, raw = store.embodiment, store.read("action"), values["action"]
    arms = ("left", "right") if width in (8, 20) else ("",)
    pose = 9 if width in (10, 20) else 3
    for i, arm in enumerate(arms):
        prefix = f"{arm}." if arm else ""
        at = [card.action.index(f"{prefix}ee_position.{a}") for a in "xyz"]
        np.testing.assert_allclose(action[:, at], raw[:, pose * i : pose * i + 3], atol=1e-6)
        grip = raw[:, pose * len(arms) + i] * 10
        np.testing.assert_allclose(action[:, card.action.index(f"{prefix}gripper")], grip, atol=1e-6)
    if width == 19:
        np.testing.assert_array_equal(action[:, card.action.select("marker_embedding")], raw[:, 4:])
    assert (card.action_space == "custom") == (width in (4, 8, 19))
    assert any(f.kind == "convention" for f in source.info.findings) == (width in (4, 8, 19))
    source.close()


def test_next_pose_completes_a_translation_and_agrees_with_it(tmp_path):
    path, values = write(tmp_path / "set", 4)
    source = open_source(FORMAT, path, action="next_pose")
    store, _ = store_all(source, tmp_path / "out.zarr")
    assert store.embodiment.action_space == "ee_pose"
    action = store.read("action")
    np.testing.assert_allclose(action[:5, :3], values["action"][:5, :3], atol=1e-6)
    np.testing.assert_allclose(action[:5, 3:9], values["left_robot_tcp_pose"][1:6, 3:], atol=1e-6)
    source.close()


def test_widths_that_rdp_has_not_are_refused(tmp_path):
    path = write_buffer(tmp_path / "a.zarr", {**arrays(), "action": np.zeros((ROWS, 7), np.float32)}, ENDS)
    with pytest.raises(DataError, match="width that RDP has not"):
        open_source(FORMAT, path)
    path, _ = write(tmp_path / "b", left_robot_tcp_pose=np.zeros((ROWS, 6), np.float32))
    with pytest.raises(DataError, match="left_robot_tcp_pose"):
        open_source(FORMAT, path)
