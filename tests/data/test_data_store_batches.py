"""Several episodes in one commit: the same store, all or none."""

from __future__ import annotations

from pathlib import Path

import data_toy
import numpy as np
import pytest

from robopolicy.data import layout, writer
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, NonFiniteError, StorageError


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COLUMN_CHUNK_ROWS", 64), ("RECORD_CHUNK_BYTES", 128), ("SHARD_FRAMES", 32)):
        monkeypatch.setattr(layout, name, value)


def contents(path: Path) -> dict[str, bytes]:
    """All files apart from the one that holds the time of creation."""
    files = {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    del files["zarr.json"]
    return files


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_a_batch_is_the_same_as_one_by_one(tmp_path: Path, codec: str) -> None:
    with data_toy.create(tmp_path / "one", codec=codec) as one:
        assert [one.append(data_toy.episode(one, i)) for i in range(7)] == list(range(7))
    with data_toy.create(tmp_path / "many", codec=codec) as many:
        assert many.append_many([]) == []
        assert many.append_many(data_toy.episode(many, i) for i in range(4)) == [0, 1, 2, 3]
        assert many.append_many([data_toy.episode(many, i) for i in (4, 5, 6)]) == [4, 5, 6]
    one, many = EpisodeStore.open(tmp_path / "one"), EpisodeStore.open(tmp_path / "many")
    assert one.content_hash == many.content_hash
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    for name in ("state", "action"):
        assert one.statistics(name).to_dict() == many.statistics(name).to_dict()
    if codec == "raw":
        data_toy.verify(many, list(range(7)))


def test_one_bad_episode_refuses_the_whole_batch(tmp_path: Path) -> None:
    with data_toy.create(tmp_path / "s") as store:
        store.append(data_toy.episode(store, 0))
        before = contents(tmp_path / "s")
        bad = data_toy.episode(store, 2)
        bad.streams["action"][3, 1] = np.nan
        with pytest.raises(NonFiniteError, match="episode 2: 'action'"):
            store.append_many([data_toy.episode(store, 1), bad])
        assert contents(tmp_path / "s") == before
        assert store.append_many([data_toy.episode(store, 1)]) == [1]  # control: the good one alone is accepted
    data_toy.verify(EpisodeStore.open(tmp_path / "s"), [0, 1])


def test_a_batch_interrupted_before_its_commit_is_gone_as_a_whole(tmp_path: Path) -> None:
    with data_toy.create(tmp_path / "s") as store:
        store.append(data_toy.episode(store, 0))
        real = writer.write_atomically

        def refuse(path: Path, parts: list[bytes]) -> None:
            if path == tmp_path / "s" / "zarr.json":
                raise StorageError("no space")
            real(path, parts)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer, "write_atomically", refuse)
            with pytest.raises(StorageError):
                store.append_many([data_toy.episode(store, i) for i in (1, 2, 3)])
        data_toy.verify(EpisodeStore.open(tmp_path / "s"), [0])
        store.append_many([data_toy.episode(store, i) for i in (4, 5)])
    data_toy.verify(EpisodeStore.open(tmp_path / "s"), [0, 4, 5])


def test_records_are_parsed_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with data_toy.create(tmp_path / "s", cameras=()) as store:
        store.append_many([data_toy.episode(store, i, 3) for i in range(20)])
    store = EpisodeStore.open(tmp_path / "s")
    parsed = []
    from robopolicy.data import contents as module

    real = module.json.loads
    monkeypatch.setattr(module.json, "loads", lambda text: parsed.append(text) or real(text))
    assert store.info(17)["metadata"] == {"index": 17}
    assert store.info(3)["start"] == 9
    assert len(parsed) == 2


def test_stores_of_the_first_schema_are_read_and_appended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No checksum of the record, none of the frames; a store keeps the form it was created with."""
    path = tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr(layout, "SCHEMA_VERSION", 1)
        with data_toy.create(path, checksums=False) as store:
            store.append(data_toy.episode(store, 0))
    assert "checksum" not in EpisodeStore.open(path).attributes
    with EpisodeStore.open(path, mode="a") as store:
        store.append(data_toy.episode(store, 1))
    store = EpisodeStore.open(path)
    assert store.attributes["schema_version"] == 1
    assert "checksum" not in store.attributes
    data_toy.verify(store, [0, 1])
    with data_toy.create(tmp_path / "new") as new:  # control: new stores have both
        assert len(EpisodeStore.open(new.path).attributes["checksum"]) == 64
    with pytest.raises(DataError, match="unknown image codec"):
        data_toy.create(tmp_path / "t", codec="blosc")
