"""Stores in archives and behind URLs: the same data as from the folder, over good, slow and failing connections."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import data_servers
import data_toy
import numpy as np
import pytest
import zarr

from robopolicy.data import layout
from robopolicy.data.archive import pack
from robopolicy.data.files import lasting_path
from robopolicy.data.jpeg_codec import register_jpeg_codec
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.errors import DataError, StorageError, StoreNotFoundError

register_jpeg_codec()
SPEC = WindowSpec(2, 8, cameras=("front", "wrist"))
EPISODES = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``raw.zarr`` and ``jpeg.zarr``."""
    root = tmp_path_factory.mktemp("remote")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "SHARD_FRAMES", 32)
        patch.setattr(layout, "COLUMN_CHUNK_ROWS", 64)
        for codec in ("raw", "jpeg"):
            with data_toy.create(root / f"{codec}.zarr", codec=codec) as store:
                store.append_many([data_toy.episode(store, i) for i in EPISODES])
    return root


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[int]:
    with data_servers.file_server(folder) as (port, _):
        yield port


@pytest.fixture(scope="module")
def s3(folder: Path) -> Iterator[int]:
    with data_servers.s3_server(folder, "demos") as port:
        yield port


def same_windows(store: EpisodeStore, local: EpisodeStore) -> None:
    assert store.content_hash == local.content_hash
    index = np.random.default_rng(1).integers(0, local.num_steps, 24)
    for budget in (0, 1 << 30):
        one, two = (WindowDataset(s, SPEC, cache_bytes=budget).gather(index) for s in (store, local))
        for name in ("state", "action", "action_mask", "time_ns"):
            np.testing.assert_array_equal(one[name], two[name])
        for camera in SPEC.cameras:
            np.testing.assert_array_equal(one["image"][camera], two["image"][camera])


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_an_archive_is_the_store(folder: Path, tmp_path: Path, codec: str) -> None:
    path = pack(folder / f"{codec}.zarr", tmp_path / "s.zarr.zip")
    again = pack(EpisodeStore.open(folder / f"{codec}.zarr"), tmp_path / "t.zarr.zip")
    assert path.read_bytes() == again.read_bytes()
    store, local = EpisodeStore.open(path), EpisodeStore.open(folder / f"{codec}.zarr")
    same_windows(store, local)
    assert list(store.verify()) == []
    if codec == "raw":
        data_toy.verify(store, EPISODES)
    group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    np.testing.assert_array_equal(group["data/image/front"][40:50], local.read("image/front", 40, 50))
    with pytest.raises(StorageError, match="can only be read"):
        EpisodeStore.open(path, mode="a")
    with pytest.raises(StorageError, match="it exists"):
        pack(local, path)
    with pytest.raises(StorageError, match=r"ending in \.zip"):
        pack(local, tmp_path / "s.tar")
    with pytest.raises(StoreNotFoundError, match="no zipped store"):
        EpisodeStore.open(tmp_path / "none.zarr.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.zarr.zip", "t.zarr.zip"]


def test_a_deflated_archive_is_read_too(folder: Path, tmp_path: Path) -> None:
    """As a user's own zip program makes it; slower, the same data."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "s.zarr.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (folder / "raw.zarr").rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(folder / "raw.zarr"))
    data_toy.verify(EpisodeStore.open(tmp_path / "s.zarr.zip"), EPISODES)


@pytest.mark.parametrize("kind", ["memory", "http", "s3"])
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_a_url_is_the_store(folder: Path, web: int, s3: int, kind: str, codec: str) -> None:
    if kind == "memory":
        import fsspec

        fsspec.filesystem("memory").put(str(folder / f"{codec}.zarr"), f"/{codec}.zarr", recursive=True)
    url = {"memory": "memory:/", "http": f"http://127.0.0.1:{web}", "s3": "s3://demos"}[kind] + f"/{codec}.zarr"
    storage = data_servers.s3_storage(s3) if kind == "s3" else {}
    store = EpisodeStore.open(url, storage=storage)
    same_windows(store, EpisodeStore.open(folder / f"{codec}.zarr"))
    assert list(store.verify([2])) == []
    if codec == "raw":
        data_toy.verify(store, EPISODES)
    with pytest.raises(StorageError, match="can only be read"):
        EpisodeStore.open(url, mode="a", storage=storage)
    with pytest.raises(StoreNotFoundError, match="no episode store at"):
        EpisodeStore.open(url + "x", storage=storage)


def test_only_the_bytes_asked_for_travel(folder: Path) -> None:
    size = sum(p.stat().st_size for p in (folder / "raw.zarr/data/image").rglob("c.*"))
    with data_servers.file_server(folder) as (port, handler):
        store = EpisodeStore.open(f"http://127.0.0.1:{port}/raw.zarr")
        handler.sent.clear()
        store.images("front").gather(np.array([50, 3, 50]), np.empty((3, 12, 16, 3), np.uint8))
        assert sum(handler.sent) < 2 * (12 * 16 * 3 + 4) + 2 * (16 * 32 + 4) + 1 < size // 4
        before = len(handler.sent)
        store.images("front").read(33, 60)
        assert len(handler.sent) == before + 1  # the index is known, neighbours come in one piece
        assert store.read("image/front").nbytes <= sum(handler.sent)  # control: the whole stream costs its size


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_failures_on_the_way_are_tried_again(folder: Path, web: int, s3: int, kind: str) -> None:
    with data_servers.proxy(web if kind == "http" else s3) as between:
        between.faults.extend([("drop", 0), ("cut", 700), ("drop", 0), ("cut", 3000), ("cut", 10), ("slow", 0.01)])
        url = f"http://127.0.0.1:{between.port}/raw.zarr" if kind == "http" else "s3://demos/raw.zarr"
        storage = data_servers.s3_storage(between.port) if kind == "s3" else dict(data_servers.QUICK)
        store = EpisodeStore.open(url, storage={**storage, "attempts": 12})
        data_toy.verify(store, EPISODES)
        assert not between.faults  # control: every fault did happen
        between.always = ("slow", 0.005)
        same_windows(EpisodeStore.open(url, storage=storage), EpisodeStore.open(folder / "raw.zarr"))


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_a_dead_connection_ends_in_a_clear_error(web: int, s3: int, kind: str) -> None:
    with data_servers.proxy(web if kind == "http" else s3) as between:
        url = f"http://127.0.0.1:{between.port}/raw.zarr" if kind == "http" else "s3://demos/raw.zarr"
        storage = data_servers.s3_storage(between.port) if kind == "s3" else dict(data_servers.QUICK)
        store = EpisodeStore.open(url, storage={**storage, "attempts": 3})
        between.faults.clear()
        between.always = ("drop", 0)
        with pytest.raises(StorageError, match=r"raw\.zarr/zarr\.json: 3 attempts, the last: \w+: .*mend: check"):
            EpisodeStore.open(url, storage={**storage, "attempts": 3})
        between.always = ("silent", 0)
        with pytest.raises(StorageError, match=r"zarr\.json: 2 attempts, the last: .*[Tt]ime"):
            EpisodeStore.open(url, storage={**storage, "attempts": 2, "timeout_s": 0.3})
        between.always = ("", 0)
        data_toy.verify(store, EPISODES)  # the handle itself goes on once the way is free


def test_what_the_server_refuses_is_not_asked_for_again(folder: Path) -> None:
    with data_servers.file_server(folder) as (port, handler):
        url = f"http://127.0.0.1:{port}/raw.zarr"
        store = EpisodeStore.open(url, storage=data_servers.QUICK)
        handler.statuses["state/c."] = 403
        with pytest.raises(StorageError, match=r"state/c\.\d\.0: 1 attempt, the last"):
            store.read("state")
        handler.statuses["action/c."] = 404
        with pytest.raises(DataError, match=r"action/c\.\d\.0 is missing"):
            store.read("action")
        handler.statuses["image/front"] = 500
        with pytest.raises(StorageError, match=r"image/front/c.*5 attempts"):
            store.read("image/front")
        handler.statuses.clear()
        data_toy.verify(store, EPISODES)  # control: nothing of that was kept


def test_a_server_without_ranges_is_named_as_the_reason(folder: Path) -> None:
    with data_servers.file_server(folder, ranges=False) as (port, _):
        store = EpisodeStore.open(f"http://127.0.0.1:{port}/raw.zarr", storage={**data_servers.QUICK, "attempts": 2})
        assert len(store.read("state")) == store.num_steps
        with pytest.raises(StorageError, match="does the server support ranges"):
            store.read("image/front", 0, 3)


def test_damage_behind_a_url_is_found(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder / "raw.zarr", tmp_path / "s.zarr")
    file = tmp_path / "s.zarr/data/image/front/c.1.0.0.0"
    raw = bytearray(file.read_bytes())
    raw[100] ^= 1
    file.write_bytes(raw)
    with data_servers.file_server(tmp_path) as (port, _):
        store = EpisodeStore.open(f"http://127.0.0.1:{port}/s.zarr")
        with pytest.raises(DataError, match=r"c\.1\.0\.0\.0, frame 0 does not match its checksum"):
            store.read("image/front")
        assert len(EpisodeStore.open(store.path, verify=False).read("image/front")) == store.num_steps  # control


def test_a_forked_child_reads_with_a_connection_of_its_own(web: int) -> None:
    store = EpisodeStore.open(f"http://127.0.0.1:{web}/raw.zarr", storage=data_servers.QUICK)
    wanted = store.read("image/front", 0, 5)
    child = os.fork()
    if not child:
        try:
            os._exit(0 if np.array_equal(store.read("image/front", 0, 5), wanted) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nothing_is_created_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("s3://demos/new.zarr", "https://example.org/new.zarr", tmp_path / "new.zarr.zip"):
        with pytest.raises(StorageError, match="can only be read"):
            data_toy.create(path)
    assert not list(tmp_path.iterdir())


def test_addresses_that_cannot_be_read() -> None:
    with pytest.raises(StorageError, match="cannot be opened: Protocol not known"):
        EpisodeStore.open("nope://x/y.zarr")
    with pytest.raises(StorageError, match="download the archive"):
        EpisodeStore.open("https://example.org/y.zarr.zip")
    with pytest.raises(StorageError, match="1 attempt"):
        EpisodeStore.open("http://127.0.0.1:9/y.zarr", storage={**data_servers.QUICK, "attempts": 1})


def test_a_url_is_kept_for_a_run_that_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert lasting_path(Path("https://host/a/set.zarr")) == "https://host/a/set.zarr"  # a Path has lost one slash
    assert lasting_path("s3://bucket/set.zarr") == "s3://bucket/set.zarr"
    assert lasting_path("set.zarr") == str(tmp_path / "set.zarr")
