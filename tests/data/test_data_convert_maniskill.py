"""ManiSkill HDF5 + JSON: T + 1 observations, control modes, depth, failed episodes, planted faults."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from data_demo_files import into_store, maniskill_file, maniskill_values
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from robopolicy.data.convert.maniskill import FORMAT, ManiskillOptions
from robopolicy.errors import DataError, NonFiniteError, ShapeError
from robopolicy.rotations import rotation_6d_to_matrix


def opened(path, **options):
    return FORMAT.open(path, ManiskillOptions(**options))


def gripper(command):
    return np.clip((0.015 + 0.025 * np.clip(command, -1, 1)) / 0.04, 0, 1)


def tool(v, rows):
    """Pose of the tool in the base frame, from poses in the world frame, by scipy."""
    base = Rotation.from_quat(v["panda"][:rows, [4, 5, 6, 3]])
    now = Rotation.from_quat(v["tcp"][:rows, [4, 5, 6, 3]])
    return base.inv().apply(v["tcp"][:rows, :3] - v["panda"][:rows, :3]), base.inv() * now


def test_joint_deltas_pictures_and_failed_episodes(tmp_path):
    source = opened(maniskill_file(tmp_path / "trajectory.h5"))
    info = source.info
    assert info.episodes == ("traj_0", "traj_1", "traj_2")
    assert (info.task, info.fps, info.expected_episodes) == ("PickCube-v1", 20, 3)
    assert info.embodiment.name == "panda"
    assert info.embodiment.action_space == info.embodiment.state_space == "joint_position"
    v = maniskill_values(1)
    streams = source.read("traj_1").episode.streams
    np.testing.assert_allclose(streams["state"][:, :7], v["qpos"][:7, :7])
    np.testing.assert_allclose(streams["state"][:, 7], v["qpos"][:7, 7] / 0.04, atol=1e-6)
    np.testing.assert_allclose(streams["action"][:, :7], v["qpos"][:7, :7] + 0.1 * v["actions"][:, :7], atol=1e-6)
    np.testing.assert_allclose(streams["action"][:, 7], gripper(v["actions"][:, 7]), atol=1e-6)
    with into_store(source, tmp_path / "ms.zarr") as store:
        assert store.num_steps == 21
        assert [store.info(i)["success"] for i in range(3)] == [True, False, True]
        np.testing.assert_array_equal(store.read("image/base_camera", 7, 14), v["rgb"][:7])
        np.testing.assert_array_equal(np.asarray(streams["depth/base_camera"]), v["depth"][:7].astype(np.uint16))
        assert store.streams["depth/base_camera"].dtype == "uint16"
        np.testing.assert_array_equal(store.read("source/obs/agent/qvel", 7, 14), v["qvel"][:7])


def test_joint_positions_are_physical_already(tmp_path):
    source = opened(maniskill_file(tmp_path / "a.h5", mode="pd_joint_pos"))
    action = source.read("traj_0").episode.streams["action"]
    np.testing.assert_array_equal(action[:, :7], maniskill_values(0)["actions"][:, :7])


def test_targets_add_up_where_the_mode_says_so(tmp_path):
    v = maniskill_values(0)
    action = opened(maniskill_file(tmp_path / "a.h5", mode="pd_joint_target_delta_pos")).read("traj_0").episode.streams
    total = v["qpos"][0, :7] + 0.1 * np.cumsum(v["actions"][:, :7].astype(float), axis=0)
    np.testing.assert_allclose(action["action"][:, :7], total, atol=1e-6)
    assert not np.allclose(total, v["qpos"][:7, :7] + 0.1 * v["actions"][:, :7], atol=1e-2)
    v = maniskill_values(0, width=4)
    source = opened(maniskill_file(tmp_path / "b.h5", mode="pd_ee_target_delta_pos", width=4))
    place, _ = tool(v, 7)
    total = place[0] + 0.1 * np.cumsum(v["actions"][:, :3].astype(float), axis=0)
    np.testing.assert_allclose(source.read("traj_0").episode.streams["action"][:, :3], total, atol=1e-6)


def test_tool_deltas_in_the_frame_of_the_base(tmp_path):
    v = maniskill_values(2, width=4)
    source = opened(maniskill_file(tmp_path / "a.h5", mode="pd_ee_delta_pos", width=4))
    streams = source.read("traj_2").episode.streams
    place, turn = tool(v, 7)
    np.testing.assert_allclose(streams["state"][:, :3], place, atol=1e-6)
    np.testing.assert_allclose(rotation_6d_to_matrix(streams["state"][:, 3:9]), turn.as_matrix(), atol=1e-6)
    np.testing.assert_allclose(streams["action"][:, :3], place + 0.1 * v["actions"][:, :3], atol=1e-6)
    np.testing.assert_allclose(streams["action"][:, 3:9], streams["state"][:, 3:9], atol=1e-9)
    assert not np.allclose(streams["state"][:, :3], v["tcp"][:7, :3], atol=1e-2)


def test_rotations_of_the_tool_need_their_scale(tmp_path):
    path = maniskill_file(tmp_path / "a.h5", mode="pd_ee_delta_pose", width=7)
    unsaid = opened(path)
    assert unsaid.info.embodiment.action_reference == "normalised"
    assert "rotation_scale_rad" in next(f.message for f in unsaid.info.findings if f.kind == "convention")
    v = maniskill_values(0, width=7)
    action = opened(path, rotation_scale_rad=-0.1).read("traj_0").episode.streams["action"]
    _, turn = tool(v, 7)
    command = v["actions"][:, 3:6].astype(float)
    command /= np.maximum(np.linalg.norm(command, axis=1, keepdims=True), 1)
    target = (Rotation.from_euler("XYZ", -0.1 * command) * turn).as_matrix()
    np.testing.assert_allclose(rotation_6d_to_matrix(action[:, 3:9]), target, atol=1e-6)
    wrong = (Rotation.from_euler("XYZ", 0.1 * command) * turn).as_matrix()
    assert not np.allclose(target, wrong, atol=1e-3)


@pytest.mark.parametrize(
    ("variant", "options", "words"),
    [
        ({"mode": "pd_joint_vel"}, {}, "pd_joint_vel"),
        ({"states": False}, {}, "robot is not named"),
        ({}, {"robot": "none"}, "options.robot=none"),
        ({}, {"robot": "fetch"}, "'fetch' are not listed"),
        ({"mode": "pd_ee_delta_pos", "width": 4, "states": False}, {"robot": "panda"}, "env_states"),
        ({"width": 7}, {}, "7 actions instead of 8"),
    ],
)
def test_what_is_not_known_stays_as_it_was_and_is_said(tmp_path, variant, options, words):
    path = maniskill_file(tmp_path / "a.h5", **variant)
    source = opened(path, **options)
    assert words in next(f.message for f in source.info.findings if f.severity == "warning")
    streams = source.read("traj_0").episode.streams
    np.testing.assert_array_equal(streams["action"], maniskill_values(0, width=variant.get("width", 8))["actions"])
    assert source.info.embodiment.action_space == "custom"
    into_store(source, tmp_path / "a.zarr").close()


def test_the_robot_may_be_said_by_the_user_or_the_environment(tmp_path):
    path = maniskill_file(tmp_path / "a.h5", states=False, pictures=False)
    assert opened(path, robot="panda").info.embodiment.action_space == "joint_position"
    twin = path.with_suffix(".json")
    about = json.loads(twin.read_text())
    about["env_info"]["env_kwargs"]["robot_uids"] = "panda_wristcam"
    about["env_info"]["env_kwargs"]["sim_config"] = {"control_freq": 10}
    twin.write_text(json.dumps(about))
    info = opened(path).info
    assert info.embodiment.name == "panda"
    assert info.fps == 10
    kept = opened(maniskill_file(tmp_path / "b.h5"), env_states=True).info.extra
    assert kept["source/env_states/articulations/panda"].shape == (31,)


def test_several_control_modes_and_trajectories_that_are_missing(tmp_path):
    path = maniskill_file(tmp_path / "a.h5")
    twin = path.with_suffix(".json")
    about = json.loads(twin.read_text())
    about["episodes"][1]["control_mode"] = "pd_joint_pos"
    twin.write_text(json.dumps(about))
    with pytest.raises(DataError, match="several control modes"):
        opened(path)
    assert opened(path, control_mode="pd_joint_pos").info.episodes == ("traj_1",)
    del about["episodes"][1]
    about["episodes"].append({"episode_id": 9, "control_mode": "pd_joint_delta_pos"})
    twin.write_text(json.dumps(about))
    messages = [f.message for f in opened(path).info.findings if f.kind == "missing_episode"]
    assert any("traj_9" in m for m in messages)
    assert any("traj_1" in m for m in messages)


def _change(key, change):
    def plant(file):
        array = change(file[key][()])
        del file[key]
        if array is not None:
            file[key] = array

    return plant


def _nan(array):
    array[3, 2] = np.nan
    return array


FAULTS = {
    "missing": (_change("traj_1/obs/agent/qpos", lambda a: None), DataError, "qpos.*qvel"),
    "length": (_change("traj_1/obs/agent/qpos", lambda a: a[:-1]), DataError, "qpos.*7.*8 rows"),
    "steps": (_change("traj_1/actions", lambda a: a[:-1]), DataError, "elapsed_steps"),
    "frames": (_change("traj_1/obs/sensor_data/base_camera/rgb", lambda a: a[:-1]), DataError, "rgb.*7"),
    "NaN": (_change("traj_1/actions", _nan), NonFiniteError, "row 3, column 2"),
    "images": (_change("traj_1/obs/sensor_data/base_camera/rgb", lambda a: a / 255.0), ShapeError, "float64"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named(tmp_path, fault):
    plant, kind, words = FAULTS[fault]
    path = maniskill_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        plant(file)
    source = opened(path)
    assert source.read("traj_0").episode is not None
    with pytest.raises(kind, match=words) as raised:
        source.read("traj_1")
    assert "a.h5" in str(raised.value)


def test_json_and_file_that_cannot_be_used(tmp_path):
    path = maniskill_file(tmp_path / "a.h5")
    twin = path.with_suffix(".json")
    good = twin.read_text()
    twin.write_text(good[:40])
    with pytest.raises(DataError, match=r"a\.json is damaged"):
        opened(path)
    twin.unlink()
    assert FORMAT.detect(path) is None
    with pytest.raises(DataError, match=r"a\.json is missing"):
        opened(path)
    twin.write_text(good)
    assert FORMAT.detect(path)
    with h5py.File(path, "a") as file:
        del file["traj_0/obs"]
    with pytest.raises(DataError, match="replay"):
        opened(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="cut"):
        opened(path)


def test_flat_observations_are_kept_as_numbers(tmp_path):
    path = maniskill_file(tmp_path / "a.h5", pictures=False)
    flat = np.arange(8 * 5, dtype=np.float32).reshape(8, 5)
    with h5py.File(path, "a") as file:
        for name in file:
            del file[f"{name}/obs"]
            file[f"{name}/obs"] = flat
    source = opened(path)
    assert "['obs/agent/qpos'] are not recorded" in source.info.findings[0].message
    np.testing.assert_array_equal(source.read("traj_0").episode.streams["state"], flat[:7])
    into_store(source, tmp_path / "a.zarr").close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return maniskill_file(tmp_path_factory.mktemp("whole") / "a.h5", episodes=(0,)).read_bytes()


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 6000), bits=st.binary(min_size=1, max_size=9))
def test_damage_of_the_structure_is_refused_or_harmless(tmp_path_factory, whole, place, bits):
    path = maniskill_file(tmp_path_factory.mktemp("damaged") / "a.h5", episodes=(0,))
    path.write_bytes(whole[:place] + bits + whole[place + len(bits) :])
    FORMAT.detect(path)
    try:
        streams = opened(path).read("traj_0").episode.streams
        lengths = {len(np.asarray(values)) for values in streams.values()}
    except DataError as error:
        assert str(path.parent) in str(error)  # noqa: PT017 - what is read instead is looked at below
        return
    assert len(lengths) == 1
