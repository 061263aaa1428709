"""robomimic's own SequenceDataset reads what was written, with the numbers of the store."""

from __future__ import annotations

import json
import sys

import data_toy
import h5py
import numpy as np
import pytest
from data_demo_files import into_store, robomimic_file

from robopolicy.data.convert.robomimic import FORMAT, RobomimicOptions
from robopolicy.data.episode import StreamSpec
from robopolicy.data.export.robomimic import write
from robopolicy.data.store import EpisodeStore
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, StorageError

LENGTHS = (5, 9, 3, 7, 4, 6)


@pytest.fixture
def store(tmp_path):
    extra = {"source/force": StreamSpec("float32", (3,)), "source/phase": StreamSpec("int64", ())}
    with data_toy.create(tmp_path / "toy.zarr", extra=extra) as made:
        for i, length in enumerate(LENGTHS):
            episode = data_toy.episode(made, i, length)
            episode.streams["source/phase"] = np.arange(length)
            made.append(episode)
    return EpisodeStore.open(tmp_path / "toy.zarr")


def sequences(path, keys, low_dim, rgb, **options):
    """robomimic's data set over the file, as its trainer makes it."""
    import robomimic.utils.obs_utils as observations
    from robomimic.utils.dataset import SequenceDataset

    observations.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": low_dim, "rgb": rgb}})
    wanted = {"obs_keys": keys, "dataset_keys": ("actions", "rewards", "dones"), "hdf5_use_swmr": False}
    return SequenceDataset(hdf5_path=str(path), **wanted, **options)


@pytest.mark.parametrize("cache", [None, "all"])
def test_robomimic_reads_the_same_numbers(tmp_path, store, cache):
    path = tmp_path / "toy.hdf5"
    told = write(store, path)
    assert [f.stream for f in told if f.kind == "not_exported"] == ["source/phase"]
    low_dim = ["state", "object", "joint_position", "source_force"]
    rgb = ["front_image", "wrist_image"]
    data = sequences(path, (*low_dim, *rgb), low_dim, rgb, seq_length=3, frame_stack=2, hdf5_cache_mode=cache)
    assert len(data) == sum(LENGTHS)
    sources = {"state": "state", "object": "environment_state", "joint_position": "joint_position"}
    sources |= {"source_force": "source/force", "front_image": "image/front", "wrist_image": "image/wrist"}
    position = 0
    for i, length in enumerate(LENGTHS):
        info = store.info(i)
        start = info["start"]
        for t in range(0, length, 2):
            item = data[position + t]
            future = np.minimum(t + np.arange(-1, 3), length - 1).clip(0)
            np.testing.assert_array_equal(item["actions"], store.read("action")[start + future])
            for key, stream in sources.items():
                wanted = np.stack([store.read(stream, start + k, start + k + 1)[0] for k in future])
                np.testing.assert_array_equal(item["obs"][key], wanted, err_msg=key)
                later = np.stack(
                    [store.read(stream, start + k, start + k + 1)[0] for k in np.minimum(future + 1, length - 1)]
                )
                np.testing.assert_array_equal(item["next_obs"][key], later, err_msg=key)
            ends = future == length - 1
            np.testing.assert_array_equal(item["dones"].astype(bool), ends)
            np.testing.assert_array_equal(item["rewards"], ends * float(info["success"]))
        position += length
    # Control: the numbers of another episode are not these.
    assert not np.array_equal(data[0]["actions"], store.read("action")[LENGTHS[0] + np.array([0, 0, 1, 2])])


def test_metadata_of_the_file_is_what_robomimic_asks_for(tmp_path, store):
    import robomimic.utils.file_utils as files

    path = tmp_path / "toy.hdf5"
    write(store, path, validation=0.3, seed=4)
    env = files.get_env_metadata_from_dataset(str(path))
    assert env["type"] == 2
    assert Embodiment.from_dict(env["env_kwargs"]["embodiment"]).hash == store.embodiment.hash
    train = files.get_demos_for_filter_key(str(path), "train")
    valid = files.get_demos_for_filter_key(str(path), "valid")
    assert len(valid) == 2
    assert sorted(train + valid) == sorted(f"demo_{i}" for i in range(len(LENGTHS)))
    data = sequences(path, ("state",), ["state"], [], filter_by_attribute="valid")
    assert len(data) == sum(LENGTHS[int(name[5:])] for name in valid)
    with h5py.File(path) as file:
        assert file["data"].attrs["total"] == sum(LENGTHS)
        assert json.loads(file["data"].attrs["action_channels"]) == list(store.embodiment.action.names)
        assert json.loads(file["data/demo_1"].attrs["ep_meta"])["lang"] == "move 1"
        assert file["data/demo_1/obs/front_image"].dtype == np.uint8


def test_normalised_actions_invert_with_the_ranges_of_the_file(tmp_path, store):
    path = tmp_path / "toy.hdf5"
    write(store, path, normalise=True, cameras=(), extra=False)
    with h5py.File(path) as file:
        low, high = file["data"].attrs["action_min"], file["data"].attrs["action_max"]
        parts = [file[f"data/demo_{i}/actions"][()] for i in range(len(LENGTHS))]
        assert set(file["data/demo_0/obs"]) == {"state", "object", "joint_position", "joint_command"}
    scaled = np.concatenate(parts)
    assert np.abs(scaled).max() <= 1
    np.testing.assert_allclose(scaled.min(axis=0), -1, atol=1e-6)
    np.testing.assert_allclose((scaled + 1) / 2 * (high - low) + low, store.read("action"), atol=1e-5)
    assert not np.allclose(scaled, store.read("action"), atol=1e-2)


def test_some_episodes_in_another_order(tmp_path, store):
    path = tmp_path / "toy.hdf5"
    write(store, path, episodes=(4, 1), cameras=("wrist",))
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["data/demo_1/actions"], store.read("action", 5, 14))
        assert "front_image" not in file["data/demo_0/obs"]
    for wrong in ((), (99,), (1, 1)):
        with pytest.raises(DataError, match="episodes"):
            write(store, tmp_path / "b.hdf5", episodes=wrong)
    with pytest.raises(DataError, match="no camera"):
        write(store, tmp_path / "b.hdf5", cameras=("top",))
    with pytest.raises(DataError, match="fraction"):
        write(store, tmp_path / "b.hdf5", validation=1.0)


def test_nothing_is_overwritten_or_left_half_written(tmp_path, store, monkeypatch):
    path = tmp_path / "toy.hdf5"
    path.write_text("precious")
    with pytest.raises(StorageError, match="already exists"):
        write(store, path)
    assert path.read_text() == "precious"
    write(store, path, overwrite=True, episodes=(0,))
    module = sys.modules["robopolicy.data.export.robomimic"]

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_masks", full)
    with pytest.raises(StorageError, match="free some space"):
        write(store, tmp_path / "c.hdf5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy.hdf5", "toy.zarr"]


def test_recorded_rewards_and_states_go_back_where_they_came_from(tmp_path):
    source = FORMAT.open(robomimic_file(tmp_path / "a.hdf5"), RobomimicOptions())
    with into_store(source, tmp_path / "a.zarr") as made:
        write(made, tmp_path / "b.hdf5")
    with h5py.File(tmp_path / "a.hdf5") as old, h5py.File(tmp_path / "b.hdf5") as new:
        for number, name in enumerate(("demo_0", "demo_1", "demo_2", "demo_10")):
            for key in ("states", "rewards"):
                written = new[f"data/demo_{number}/{key}"][()]
                np.testing.assert_array_equal(written, old[f"data/{name}/{key}"][()].astype(np.float32))
            for key in ("obs/agentview_image", "next_obs/robot0_eye_in_hand_image", "obs/object"):
                was, written = old[f"data/{name}/{key}"][()], new[f"data/demo_{number}/{key}"][()]
                np.testing.assert_array_equal(written, was.astype(written.dtype))
    back = FORMAT.open(tmp_path / "b.hdf5", RobomimicOptions())
    assert back.info.episodes == ("demo_0", "demo_1", "demo_2", "demo_3")


def test_an_export_converts_back_to_the_same_numbers(tmp_path, store):
    write(store, tmp_path / "a.hdf5")
    source = FORMAT.open(tmp_path / "a.hdf5", RobomimicOptions())
    assert source.info.embodiment.hash == store.embodiment.hash
    with into_store(source, tmp_path / "back.zarr") as back:
        for name in ("state", "action", "environment_state", "image/front", "image/wrist"):
            np.testing.assert_array_equal(back.read(name), store.read(name))
        assert [back.info(i)["language"] for i in range(3)] == [store.info(i)["language"] for i in range(3)]
        assert [back.info(i)["success"] for i in range(4)] == [store.info(i)["success"] for i in range(4)]
    write(store, tmp_path / "b.hdf5", normalise=True)
    assert FORMAT.open(tmp_path / "b.hdf5", RobomimicOptions()).info.embodiment.action_reference == "normalised"
