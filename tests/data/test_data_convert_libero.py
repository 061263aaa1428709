"""LIBERO HDF5: pairing of rows, upright images, actions, language, planted faults."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from data_demo_files import BASE, demo_values, into_store, libero_file, robomimic_file
from scipy.spatial.transform import Rotation

from robopolicy.data.convert import robomimic
from robopolicy.data.convert.libero import FORMAT, LiberoOptions
from robopolicy.errors import DataError, NonFiniteError, ShapeError
from robopolicy.rotations import rotation_6d_to_matrix


def opened(path, **options):
    return FORMAT.open(path, LiberoOptions(**options))


def check(streams, seed, late=1, based=True):
    """State and action against robosuite's rule; action ``late`` rows after the observation."""
    v = demo_values(seed)
    rows = len(v["actions"])
    seen, did = slice(0, rows - late), v["actions"][late:]
    origin, axes = BASE if based else (np.zeros(3), np.eye(3))
    now = Rotation.from_quat(v["xyzw"][seen])
    goal = v["position"][seen] + 0.05 * did[:, :3]
    target = (Rotation.from_rotvec(0.5 * did[:, 3:6]) * now).as_matrix()
    for values, place, turn in (
        (streams["state"], v["position"][seen], now.as_matrix()),
        (streams["action"], goal, target),
    ):
        np.testing.assert_allclose(values[:, :3], (place - origin) @ axes, atol=1e-7)
        np.testing.assert_allclose(rotation_6d_to_matrix(values[:, 3:9]), axes.T @ turn, atol=1e-7)
    np.testing.assert_allclose(streams["state"][:, 9], v["fingers"][seen, 0] / 0.04)
    np.testing.assert_allclose(streams["action"][:, 9], (1 - did[:, 6]) / 2)


def test_actions_are_paired_with_what_they_were_decided_from(tmp_path):
    path = libero_file(tmp_path / "put_demo.hdf5")
    source = opened(path)
    assert source.info.episodes == ("demo_0", "demo_1")
    reading = source.read("demo_1")
    check(reading.episode.streams, 1)
    assert reading.episode.language == "put the bowl on the plate"
    assert reading.episode.success
    assert source.info.task == "put_the_bowl_on_the_plate"
    as_recorded = opened(path, pairing="recorded").read("demo_1").episode.streams
    check(as_recorded, 1, late=0)
    with pytest.raises(AssertionError):
        check(as_recorded, 1, late=1)
    check(opened(path, frame="world").read("demo_0").episode.streams, 0, based=False)
    with into_store(source, tmp_path / "libero.zarr") as store:
        assert store.num_steps == 2 * 8
        np.testing.assert_array_equal(
            store.read("source/obs/joint_states", 0, 8), demo_values(0)["joints"][:8].astype(np.float32)
        )
        np.testing.assert_array_equal(store.read("source/rewards", 0, 8)[:, 0], [0] * 7 + [1])


@pytest.mark.parametrize(
    ("convention", "flip", "turn"),
    [
        ("opengl", "auto", np.s_[:, ::-1]),
        ("opencv", "auto", np.s_[:]),
        ("opengl", "none", np.s_[:]),
        ("opengl", "rotate_180", np.s_[:, ::-1, ::-1]),
    ],
)
def test_images_become_upright(tmp_path, convention, flip, turn):
    source = opened(libero_file(tmp_path / "a.hdf5", convention=convention), flip=flip)
    frames = np.asarray(source.read("demo_0").episode.streams["image/agentview"])
    was = demo_values(0)["agentview"][:8]
    np.testing.assert_array_equal(frames, was[turn])
    assert not np.array_equal(was, was[:, ::-1])
    assert not np.array_equal(was[:, ::-1], was[:, ::-1, ::-1])


def test_an_unknown_image_convention_is_not_guessed(tmp_path):
    path = libero_file(tmp_path / "a.hdf5", convention="vulkan")
    with pytest.raises(DataError, match="vulkan"):
        opened(path)
    opened(path, flip="none")


def test_a_suite_of_tasks_keeps_their_instructions(tmp_path):
    libero_file(tmp_path / "a_demo.hdf5", demos=(0,))
    other = libero_file(tmp_path / "b_demo.hdf5", demos=(1,))
    with h5py.File(other, "a") as file:
        file["data"].attrs["problem_info"] = json.dumps({"language_instruction": ["open", "the", "drawer"]})
    third = libero_file(tmp_path / "c_demo.hdf5", demos=(1,))
    with h5py.File(third, "a") as file:
        del file["data"].attrs["problem_info"]
    source = opened(tmp_path)
    assert source.info.episodes == ("a_demo:demo_0", "b_demo:demo_1", "c_demo:demo_1")
    said = [source.read(name).episode.language for name in source.info.episodes]
    assert said == ["put the bowl on the plate", "open the drawer", "Put the bowl on the plate"]
    check(source.read("b_demo:demo_1").episode.streams, 1)


def test_libero_and_robomimic_do_not_take_each_other_s_files(tmp_path):
    one, two = libero_file(tmp_path / "a.hdf5"), robomimic_file(tmp_path / "b.hdf5")
    assert FORMAT.detect(one)
    assert FORMAT.detect(two) is None
    assert robomimic.FORMAT.detect(two)
    assert robomimic.FORMAT.detect(one) is None


def test_files_without_a_controller_take_the_default_and_say_so(tmp_path):
    path = libero_file(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        env = json.loads(file["data"].attrs["env_args"])
        del env["env_kwargs"]["controller_configs"]
        file["data"].attrs["env_args"] = json.dumps(env)
    source = opened(path)
    assert any("no controller" in f.message for f in source.info.findings)
    check(source.read("demo_0").episode.streams, 0)
    source.close()
    with h5py.File(path, "a") as file:
        env["env_kwargs"]["controller_configs"] = {"type": "IK_POSE"}
        file["data"].attrs["env_args"] = json.dumps(env)
    with pytest.raises(DataError, match="IK_POSE"):
        opened(path)


def _change(key, change):
    def plant(file):
        array = change(file[key][()])
        del file[key]
        if array is not None:
            file[key] = array

    return plant


def _nan(array):
    array[2, 0] = np.nan
    return array


FAULTS = {
    "missing": (_change("data/demo_1/obs/ee_ori", lambda a: None), DataError, "ee_ori.*ee_pos"),
    "length": (_change("data/demo_1/obs/gripper_states", lambda a: a[:-1]), DataError, "gripper_states.*8"),
    "frames": (_change("data/demo_1/obs/agentview_rgb", lambda a: a[:-1]), DataError, "agentview_rgb.*8"),
    "NaN": (_change("data/demo_1/obs/ee_pos", _nan), NonFiniteError, "row 2, column 0"),
    "images": (_change("data/demo_1/obs/agentview_rgb", lambda a: a.astype(float)), ShapeError, "float64"),
    "width": (_change("data/demo_1/actions", lambda a: a[:, :4]), ShapeError, "actions"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named(tmp_path, fault):
    plant, kind, words = FAULTS[fault]
    path = libero_file(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        plant(file)
    source = opened(path)
    check(source.read("demo_0").episode.streams, 0)
    with pytest.raises(kind, match=words):
        source.read("demo_1")


def test_a_cut_file_is_refused(tmp_path):
    path = libero_file(tmp_path / "a.hdf5")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="cut"):
        opened(path)
    assert FORMAT.detect(path) is None
