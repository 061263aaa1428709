"""ALOHA / ACT HDF5: channels, the shift of real data, compressed rows in both colour orders, planted faults."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from data_demo_files import aloha_folder, aloha_values, into_store

from robopolicy.data.convert.aloha import FORMAT, AlohaOptions
from robopolicy.data.episode import EncodedFrames
from robopolicy.data.shard import decode_frames
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DataError, NonFiniteError, ShapeError


def opened(path, **options):
    return FORMAT.open(path, AlohaOptions(**options))


def test_two_arms_by_the_names_of_the_card(tmp_path):
    folder = aloha_folder(tmp_path / "sim_transfer")
    source = opened(folder, task="transfer the cube")
    assert source.info.episodes == ("episode_0", "episode_1", "episode_10")
    assert source.info.embodiment.hash == load_embodiment("aloha").hash
    assert next(f.kind for f in source.info.findings) == "missing_episode"
    with into_store(source, tmp_path / "aloha.zarr") as store:
        names = store.embodiment.state.names
        assert (names[0], names[6], names[7], names[13]) == (
            "left.waist",
            "left.gripper",
            "right.waist",
            "right.gripper",
        )
        for i, seed in enumerate((0, 1, 10)):
            v, span = aloha_values(seed), (8 * i, 8 * i + 8)
            np.testing.assert_array_equal(store.read("state", *span), v["qpos"].astype(np.float32))
            np.testing.assert_array_equal(store.read("action", *span), v["action"].astype(np.float32))
            np.testing.assert_array_equal(store.read("source/qvel", *span), v["qvel"].astype(np.float32))
            np.testing.assert_array_equal(store.read("image/cam_high", *span), v["cam_high"])
        assert store.info(0)["language"] == "transfer the cube"
        assert not store.info(0)["success"]
    assert opened(folder / "episode_1.hdf5", assume_success=True).read("episode_1").episode.success


@pytest.mark.parametrize(
    ("shift", "sim", "late"),
    [("none", False, 0), ("back", False, 1), ("back", True, 1), ("auto", False, 1), ("auto", True, 0)],
)
def test_the_shift_is_that_of_act_s_loader(tmp_path, shift, sim, late):
    source = opened(aloha_folder(tmp_path / "set", sim=sim), shift=shift)
    streams, v = source.read("episode_1").episode.streams, aloha_values(1)
    np.testing.assert_array_equal(streams["state"], v["qpos"][late:])
    np.testing.assert_array_equal(streams["action"], v["action"][: 8 - late])
    np.testing.assert_array_equal(np.asarray(streams["image/cam_high"]), v["cam_high"][late:])
    np.testing.assert_array_equal(streams["source/action"], v["action"][late:])
    assert {len(values) for values in streams.values()} == {8 - late}
    said = [f.message for f in source.info.findings if f.kind == "convention"]
    assert bool(said) == (shift == "none" and not sim)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_compressed_rows_need_to_know_the_colour_order(tmp_path, order):
    folder = aloha_folder(tmp_path / "set", compressed=order)
    with pytest.raises(DataError, match="colour order"):
        opened(folder)
    streams = opened(folder, compressed_colour=order).read("episode_0").episode.streams
    frames = streams["image/cam_high"]
    assert isinstance(frames, EncodedFrames) == (order == "rgb")
    decoded = decode_frames(frames) if order == "rgb" else np.asarray(frames)
    was = aloha_values(0)["cam_high"].astype(int)
    assert np.abs(decoded - was).mean() < 4
    assert np.abs(decoded[..., ::-1] - was).mean() > 10
    into_store(opened(folder, compressed_colour=order), tmp_path / "set.zarr", codec="jpeg").close()


def test_a_single_card_is_not_aloha(tmp_path):
    with pytest.raises(DataError, match="panda"):
        opened(aloha_folder(tmp_path / "set"), card="panda")


def _change(key, change):
    def plant(file):
        array = change(file[key][()])
        del file[key]
        if array is not None:
            file[key] = array

    return plant


def _nan(array):
    array[5, 13] = np.inf
    return array


FAULTS = {
    "missing": (_change("action", lambda a: None), DataError, "action.*observations"),
    "length": (_change("observations/qvel", lambda a: a[:-1]), DataError, "qvel.*7"),
    "frames": (_change("observations/images/cam_high", lambda a: a[:-1]), DataError, "cam_high.*7"),
    "infinity": (_change("observations/qpos", _nan), NonFiniteError, "row 5, column 13"),
    "images": (_change("observations/images/cam_high", lambda a: a.astype(np.uint16)), ShapeError, "uint16"),
    "size": (_change("observations/images/cam_high", lambda a: a[:, :-1]), DataError, "another size"),
    "width": (_change("action", lambda a: a[:, :7]), ShapeError, "14"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named(tmp_path, fault):
    plant, kind, words = FAULTS[fault]
    folder = aloha_folder(tmp_path / "set", episodes=(0, 1))
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        plant(file)
    source = opened(folder)
    assert source.read("episode_0").episode is not None
    with pytest.raises(kind, match=words) as raised:
        source.read("episode_1")
    assert "episode_1.hdf5" in str(raised.value)


def test_a_missing_camera_is_a_finding(tmp_path):
    folder = aloha_folder(tmp_path / "set", episodes=(0, 1))
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        del file["observations/images/cam_high"]
    reading = opened(folder).read("episode_1")
    assert reading.episode is None
    assert [(f.kind, f.severity) for f in reading.findings] == [("missing_camera", "error")]


def test_cut_files_and_cut_frames(tmp_path):
    folder = aloha_folder(tmp_path / "set", episodes=(0, 1), compressed="rgb")
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        rows = file["observations/images/cam_high"][()]
        rows[3, 200:] = 0
        file["observations/images/cam_high"][...] = rows
    source = opened(folder, compressed_colour="rgb")
    with pytest.raises(DataError, match=r"row 3.*cut"):
        source.read("episode_1")
    path = folder / "episode_1.hdf5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cut"):
        source.read("episode_1")
    assert FORMAT.detect(folder)
    assert FORMAT.detect(path) is None
