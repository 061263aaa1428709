"""Replay buffers written from a store: the loader's demands, exact values, frames, both containers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import data_toy
import imagecodecs
import numpy as np
import pytest
import zarr
from data_replay import JPEG2K_KEYS, open_source, store_all
from imagecodecs import numcodecs as image_codecs

from robopolicy.data.convert.diffusion_policy import FORMAT
from robopolicy.data.episode import StreamSpec
from robopolicy.data.export.diffusion_policy import write
from robopolicy.data.export.engine import export
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError, StorageError

EXTRA = {
    "wrench": StreamSpec("float32", (2,), ("fx", "fy"), ("N", "N")),
    "depth/front": StreamSpec("uint16", (4, 6, 1)),
}


@pytest.fixture
def store(tmp_path):
    with data_toy.create(tmp_path / "toy.zarr", extra={"wrench": EXTRA["wrench"]}) as made:
        for i in range(3):
            episode = data_toy.episode(made, i, 5 + 3 * i)
            made.append(episode)
    return EpisodeStore.open(tmp_path / "toy.zarr")


def opened(path: Path):
    image_codecs.register_codecs(verbose=False)
    source = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else path
    return zarr.open_group(source, mode="r", zarr_format=2)


@pytest.mark.parametrize("name", ["out.zarr", "out.zarr.zip"])
def test_every_number_and_frame_is_there_and_the_constructor_would_accept_it(tmp_path, store, name):
    report = export(store.path, tmp_path / name, format="diffusion_policy")
    assert (report.episodes, report.steps) == (3, store.num_steps)
    root = opened(tmp_path / name)
    ends = root["meta/episode_ends"][:]
    assert ends.dtype == np.int64
    np.testing.assert_array_equal(ends, store.episode_ends)
    for key, array in root["data"].arrays():
        assert array.shape[0] == ends[-1], f"ReplayBuffer asserts this of {key}"
    for stream in ("state", "action", "environment_state", "joint_position", "joint_command", "wrench", "time_ns"):
        np.testing.assert_array_equal(root[f"data/{stream}"][:], store.read(stream))
    for camera in store.cameras:
        array = root[f"data/{camera}"]
        assert array.chunks[0] == 1
        np.testing.assert_array_equal(array[:], store.images(camera).read(0, store.num_steps))
    np.testing.assert_allclose(root["data/timestamp"][:], store.read("time_ns") / 1e9)
    assert root["data/action"].attrs["channels"] == list(store.embodiment.action.names)
    labels = root.attrs["robopolicy"]["episodes"]
    assert [e["language"] for e in labels] == [store.info(i)["language"] for i in range(3)]


def test_jpeg2000_frames_are_those_of_the_encoder_and_open_in_the_published_codec(tmp_path, store):
    export(store.path, tmp_path / "out.zarr.zip", format="diffusion_policy", options={"images": "jpeg2k", "level": 50})
    root = opened(tmp_path / "out.zarr.zip")
    frames = store.images("front").read(0, 4)
    wanted = [imagecodecs.jpeg2k_decode(imagecodecs.jpeg2k_encode(f, level=50)) for f in frames]
    np.testing.assert_array_equal(root["data/front"][:4], wanted)
    assert (root["data/front"][:4] != frames).any(), "lossy: an equal result would mean that it was not compressed"
    with zipfile.ZipFile(tmp_path / "out.zarr.zip") as archive:
        codec = json.loads(archive.read("data/front/.zarray"))["compressor"]
        names = archive.namelist()
    assert codec == {"id": "imagecodecs_jpeg2k", "level": 50}, "null for 'verbose' makes the published class fail"
    assert set(codec) <= JPEG2K_KEYS, "the published class is called with these keys"
    full = image_codecs.Jpeg2k(level=50).get_config()
    assert not set(full) <= JPEG2K_KEYS, "what imagecodecs would have written cannot be opened there"
    assert len(names) == len(set(names))


def test_frames_that_are_black_throughout_are_written_too(tmp_path):
    with data_toy.create(tmp_path / "toy.zarr") as made:
        episode = data_toy.episode(made, 0, 4)
        for name in ("image/front", "state"):
            episode.streams[name] = np.zeros_like(episode.streams[name])
        made.append(episode)
    export(tmp_path / "toy.zarr", tmp_path / "out.zarr", format="diffusion_policy")
    assert sorted(p.name for p in (tmp_path / "out.zarr/data/front").glob("[0-9]*"))[0] == "0.0.0.0"
    source = open_source(FORMAT, tmp_path / "out.zarr")
    assert not source.read("000000").findings, "missing chunks would be told"
    source.close()


def test_what_was_exported_is_read_again(tmp_path, store):
    export(store.path, tmp_path / "out.zarr.zip", format="diffusion_policy")
    source = open_source(FORMAT, tmp_path / "out.zarr.zip")
    again, _ = store_all(source, tmp_path / "again.zarr")
    assert again.fps == pytest.approx(store.fps)
    for stream in ("state", "action", "time_ns", "image/front", "image/wrist"):
        np.testing.assert_array_equal(again.read(stream), store.read(stream), err_msg=stream)
    assert again.embodiment.hash == store.embodiment.hash
    assert [again.info(i)["language"] for i in range(3)] == [store.info(i)["language"] for i in range(3)]
    assert [again.info(i)["success"] for i in range(3)] == [store.info(i)["success"] for i in range(3)]
    np.testing.assert_array_equal(again.read("environment_state"), store.read("environment_state"))
    source.close()


def test_names_that_collide_and_wrong_options_are_refused(tmp_path, store):
    with pytest.raises(ConfigError, match="images"):
        export(store.path, tmp_path / "a.zarr", format="diffusion_policy", options={"images": "png"})
    extra = {"front": StreamSpec("float32", (1,))}
    with data_toy.create(tmp_path / "b.zarr", extra=extra) as made:
        made.append(data_toy.episode(made, 0, 3))
    with pytest.raises(DataError, match="one name"):
        export(tmp_path / "b.zarr", tmp_path / "b_out.zarr", format="diffusion_policy")
    assert not (tmp_path / "b_out.zarr").exists()
    export(tmp_path / "b.zarr", tmp_path / "b_out.zarr", format="diffusion_policy", options={"extra": False})
    with pytest.raises(StorageError, match="already exists"):
        export(tmp_path / "b.zarr", tmp_path / "b_out.zarr", format="diffusion_policy")


def test_a_disk_that_refuses_leaves_nothing(tmp_path, store, monkeypatch):
    real, calls = EpisodeStore.read, []

    def full(self, stream, start=0, stop=None):
        calls.append(stream)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return real(self, stream, start, stop)

    monkeypatch.setattr(EpisodeStore, "read", full)
    with pytest.raises(StorageError):
        export(store.path, tmp_path / "out.zarr", format="diffusion_policy")
    assert [p.name for p in tmp_path.iterdir()] == ["toy.zarr"]


def test_depth_is_exact(tmp_path):
    with data_toy.create(tmp_path / "toy.zarr", extra=EXTRA) as made:
        episode = data_toy.episode(made, 0, 4)
        episode.streams["depth/front"] = np.random.default_rng(0).integers(0, 60_000, (4, 4, 6, 1), dtype=np.uint16)
        made.append(episode)
        wanted = episode.streams["depth/front"]
    list(write(EpisodeStore.open(tmp_path / "toy.zarr"), tmp_path / "out.zarr", images="jpeg2k"))
    np.testing.assert_array_equal(opened(tmp_path / "out.zarr")["data/depth_front"][:], wanted)
