"""robomimic HDF5: actions against robosuite's formulae written anew, masks, variants, planted faults."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from data_demo_files import BASE, MODEL, OSC, demo_values, into_store, robomimic_file
from scipy.spatial.transform import Rotation

from robopolicy.data.convert.robomimic import FORMAT, RobomimicOptions
from robopolicy.data.convert.robosuite import base_pose
from robopolicy.errors import DataError, NonFiniteError, ShapeError
from robopolicy.rotations import rotation_6d_to_matrix


def opened(path, **options):
    return FORMAT.open(path, RobomimicOptions(**options))


def expected(seed: int, *, based: bool = True, absolute: bool = False):
    """Pose measured and commanded by robosuite's rule, in the base frame if wanted: positions, rotations."""
    v = demo_values(seed)
    origin, axes = BASE if based else (np.zeros(3), np.eye(3))
    now = Rotation.from_quat(v["xyzw"])
    if absolute:
        goal, turned = v["actions"][:, :3], Rotation.from_rotvec(v["actions"][:, 3:6])
    else:
        goal = v["position"] + 0.05 * v["actions"][:, :3]
        turned = Rotation.from_rotvec(0.5 * v["actions"][:, 3:6]) * now
    return (
        (v["position"] - origin) @ axes,
        axes.T @ now.as_matrix(),
        (goal - origin) @ axes,
        axes.T @ turned.as_matrix(),
    )


def check(streams, seed, **how):
    v = demo_values(seed)
    position, rotation, goal, target = expected(seed, **how)
    for values, place, turn in ((streams["state"], position, rotation), (streams["action"], goal, target)):
        np.testing.assert_allclose(values[:, :3], place, atol=1e-9)
        np.testing.assert_allclose(rotation_6d_to_matrix(values[:, 3:9]), turn, atol=1e-9)
    np.testing.assert_allclose(streams["state"][:, 9], v["fingers"][:, 0] / 0.04)
    np.testing.assert_allclose(streams["action"][:, 9], (1 - v["actions"][:, 6]) / 2)


def test_deltas_become_absolute_targets_in_the_frame_of_the_base(tmp_path):
    source = opened(robomimic_file(tmp_path / "a.hdf5"))
    info = source.info
    assert info.episodes == ("demo_0", "demo_1", "demo_2", "demo_10")
    assert dict(info.cameras) == {"agentview": (12, 12), "robot0_eye_in_hand": (12, 12)}
    assert len(info.environment_state) == 10
    assert info.embodiment.action_space == info.embodiment.state_space == "ee_pose"
    for seed in (0, 1, 2, 10):
        reading = source.read(f"demo_{seed}")
        check(reading.episode.streams, seed)
        assert reading.episode.success
    streams = source.read("demo_1").episode.streams
    v = demo_values(1)
    np.testing.assert_array_equal(streams["source/action"], v["actions"])
    np.testing.assert_array_equal(streams["environment_state"], v["object"])
    np.testing.assert_array_equal(np.asarray(streams["image/agentview"]), v["agentview"])
    with pytest.raises(AssertionError):
        check(streams, 2)
    with pytest.raises(AssertionError):
        check(streams, 1, based=False)
    with into_store(source, tmp_path / "a.zarr") as store:
        assert store.num_steps == 4 * 9
        np.testing.assert_array_equal(store.read("source/states", 9, 18), v["states"].astype(np.float32))
        np.testing.assert_array_equal(store.read("source/rewards", 9, 18)[:, 0], v["rewards"])


def test_without_a_model_poses_stay_in_the_world_frame_and_that_is_said(tmp_path):
    source = opened(robomimic_file(tmp_path / "a.hdf5", model=None, images=False))
    check(source.read("demo_10").episode.streams, 10, based=False)
    assert [f.severity for f in source.info.findings] == ["note", "warning"]
    assert not source.info.cameras
    with pytest.raises(DataError, match="keeps no model"):
        opened(tmp_path / "a.hdf5", frame="base")
    check(opened(robomimic_file(tmp_path / "b.hdf5"), frame="world").read("demo_0").episode.streams, 0, based=False)


def test_the_base_is_found_through_the_bodies_above_it():
    origin, axes = base_pose(MODEL)
    np.testing.assert_allclose(origin, BASE[0], atol=1e-12)
    np.testing.assert_allclose(axes, BASE[1], atol=1e-12)
    assert base_pose("<mujoco/>") is None
    assert base_pose("no xml") is None


def test_absolute_commands_are_taken_as_they_are(tmp_path):
    source = opened(robomimic_file(tmp_path / "a.hdf5", controller={**OSC, "control_delta": False}))
    check(source.read("demo_2").episode.streams, 2, absolute=True)


def test_the_controllers_of_robosuite_1_5(tmp_path):
    part = {k: v for k, v in OSC.items() if k != "control_delta"} | {"input_type": "delta", "input_ref_frame": "world"}
    source = opened(robomimic_file(tmp_path / "a.hdf5", controller={"type": "BASIC", "body_parts": {"right": part}}))
    check(source.read("demo_0").episode.streams, 0)
    part["input_ref_frame"] = "base"
    config = {"type": "BASIC", "body_parts": {"right": part}}
    v, (origin, axes) = demo_values(0), BASE
    action = opened(robomimic_file(tmp_path / "b.hdf5", controller=config)).read("demo_0").episode.streams["action"]
    np.testing.assert_allclose(action[:, :3], (v["position"] - origin) @ axes + 0.05 * v["actions"][:, :3], atol=1e-9)
    unknown = opened(robomimic_file(tmp_path / "c.hdf5", controller=config, model=None))
    assert unknown.info.embodiment.action_reference == "normalised"


def test_a_rotation_of_zero_keeps_the_goal_before(tmp_path):
    path = robomimic_file(tmp_path / "a.hdf5", demos=(0,), model=None)
    with h5py.File(path, "a") as file:
        file["data/demo_0/actions"][3:5, 3:6] = 0
        file["data/demo_0/actions"][0, 3:6] = 0
    action = opened(path).read("demo_0").episode.streams["action"]
    np.testing.assert_array_equal(action[3:5, 3:9], action[[2, 2], 3:9])
    measured = Rotation.from_quat(demo_values(0)["xyzw"]).as_matrix()
    np.testing.assert_allclose(rotation_6d_to_matrix(action[0, 3:9]), measured[0], atol=1e-9)
    assert not np.allclose(rotation_6d_to_matrix(action[3, 3:9]), measured[3], atol=1e-2)


def test_joint_commands(tmp_path):
    controller = {**OSC, "type": "JOINT_POSITION", "output_max": 0.1, "output_min": -0.1}
    path = robomimic_file(tmp_path / "a.hdf5", demos=(0, 1), controller=controller)
    assert opened(path).info.embodiment.action_reference == "normalised"
    rng = np.random.default_rng(5)
    commands = rng.uniform(-1.2, 1.2, (9, 8))
    with h5py.File(path, "a") as file:
        for demo in ("demo_0", "demo_1"):
            del file[f"data/{demo}/actions"]
            file[f"data/{demo}/actions"] = commands
    source = opened(path)
    reading = source.read("demo_1")
    streams = reading.episode.streams
    assert source.info.embodiment.action_space == "joint_position"
    np.testing.assert_allclose(streams["state"][:, :7], demo_values(1)["joints"])
    target = demo_values(1)["joints"] + 0.1 * np.clip(commands[:, :7], -1, 1)
    np.testing.assert_allclose(streams["action"][:, :7], target)
    outside = int((np.abs(commands[:, :7]) > 1).sum())
    assert [f.message.split()[0] for f in reading.findings if f.kind == "clipped"] == [str(outside)]


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ({"controller": None}, "controller is None"),
        ({"controller": {"type": "JOINT_VELOCITY"}}, "JOINT_VELOCITY"),
        ({"kind": 2}, "not one of robosuite"),
        ({"robots": ("Panda", "Panda")}, "2 robots"),
        ({"robots": ("Sawyer",)}, "gripper of Sawyer"),
    ],
)
def test_what_is_not_known_stays_as_it_was_and_is_said(tmp_path, variant, words):
    source = opened(robomimic_file(tmp_path / "a.hdf5", **variant))
    assert words in next(f.message for f in source.info.findings if f.severity == "warning")
    card = source.info.embodiment
    assert card.action_space == "custom"
    assert card.action_reference == "normalised"
    assert card.state.names[0] == "robot0_eef_pos.0"
    np.testing.assert_array_equal(source.read("demo_0").episode.streams["action"], demo_values(0)["actions"])
    into_store(source, tmp_path / "a.zarr").close()


def test_a_gripper_that_the_user_describes(tmp_path):
    source = opened(robomimic_file(tmp_path / "a.hdf5", robots=("Sawyer",)), gripper_range=(0.0, 0.04))
    check(source.read("demo_0").episode.streams, 0)


def test_masks_folders_and_detection(tmp_path):
    masks = {"train": ["demo_10", "demo_1"], "ghost": ["demo_77"]}
    path = robomimic_file(tmp_path / "a.hdf5", masks=masks)
    assert opened(path, filter="train").info.episodes == ("demo_1", "demo_10")
    with pytest.raises(DataError, match="demo_77"):
        opened(path, filter="ghost")
    with pytest.raises(DataError, match=r"valid.*ghost"):
        opened(path, filter="valid")
    folder = tmp_path / "many"
    folder.mkdir()
    robomimic_file(folder / "x.hdf5", demos=(0,))
    robomimic_file(folder / "y.hdf5", demos=(1,))
    source = opened(folder)
    assert source.info.episodes == ("x:demo_0", "y:demo_1")
    check(source.read("y:demo_1").episode.streams, 1)
    robomimic_file(folder / "z.hdf5", demos=(1,), robots=("Sawyer",))
    with pytest.raises(DataError, match="another environment"):
        opened(folder)
    assert FORMAT.detect(path)
    assert FORMAT.detect(tmp_path / "absent") is None
    (tmp_path / "text.hdf5").write_text("hello")
    assert FORMAT.detect(tmp_path / "text.hdf5") is None


def _replace(key, change):
    def plant(file):
        array = change(file[key][()])
        del file[key]
        if array is not None:
            file[key] = array

    return plant


def _nan(array):
    array[4, 1] = np.nan
    return array


FAULTS = {
    "missing obs": (_replace("data/demo_1/obs/robot0_eef_pos", lambda a: None), DataError, "robot0_eef_quat"),
    "another length": (_replace("data/demo_1/obs/object", lambda a: a[:-1]), DataError, "obs/object.*8"),
    "fewer frames": (_replace("data/demo_1/obs/agentview_image", lambda a: a[:-2]), DataError, "agentview_image.*7"),
    "NaN": (_replace("data/demo_1/actions", _nan), NonFiniteError, "row 4, column 1"),
    "NaN in obs": (_replace("data/demo_1/obs/robot0_eef_pos", _nan), NonFiniteError, "row 4, column 1"),
    "float images": (
        _replace("data/demo_1/obs/agentview_image", lambda a: a.astype(np.float32) / 255),
        ShapeError,
        "float32",
    ),
    "channels first": (
        _replace("data/demo_1/obs/agentview_image", lambda a: a.transpose(0, 3, 1, 2)),
        ShapeError,
        "last",
    ),
    "narrow actions": (_replace("data/demo_1/actions", lambda a: a[:, :6]), ShapeError, "actions"),
    "text": (_replace("data/demo_1/actions", lambda a: np.array([b"x"] * 9)), ShapeError, "no numbers"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named(tmp_path, fault):
    plant, kind, words = FAULTS[fault]
    path = robomimic_file(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        plant(file)
    source = opened(path)
    check(source.read("demo_0").episode.streams, 0)
    with pytest.raises(kind, match=words) as raised:
        source.read("demo_1")
    assert "a.hdf5" in str(raised.value)


def test_without_observations_the_message_says_what_there_is(tmp_path):
    path = robomimic_file(tmp_path / "a.hdf5", demos=(0,))
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs/robot0_gripper_qpos"]
    with pytest.raises(DataError, match=r"robot0_gripper_qpos.*robot0_eef_pos"):
        opened(path)
    assert opened(path, convention="none").info.embodiment.action_space == "custom"
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs"]
    with pytest.raises(DataError, match="dataset_states_to_obs"):
        opened(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_a_cut_file_is_refused(tmp_path, keep):
    path = robomimic_file(tmp_path / "a.hdf5")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(DataError, match=r"a\.hdf5.*cut"):
        opened(path)


def test_totals_that_do_not_agree_are_said(tmp_path):
    path = robomimic_file(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file["data"].attrs["total"] = 99
        file["data/demo_2"].attrs["num_samples"] = 8
    source = opened(path)
    assert any("99" in f.message for f in source.info.findings if f.kind == "length")
    with pytest.raises(DataError, match="num_samples"):
        source.read("demo_2")
