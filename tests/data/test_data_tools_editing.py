"""Merge, split, filter, delete, compact: the source stays as it is, the copy is the same bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import data_toy
import numpy as np
import pytest

from robopolicy.data.contents import StoreContents
from robopolicy.data.episode import StreamSpec
from robopolicy.data.shard import encode_frames
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tools import copying
from robopolicy.data.tools.deletion import compact, delete, doomed, undelete
from robopolicy.data.tools.merge import differences, merge, store_names
from robopolicy.data.tools.parts import by_field, by_shares, filter_store, split_store
from robopolicy.data.tools.reading import EpisodeReader, episode_digest
from robopolicy.errors import CommandError, DataError, StorageError


def filled(path: Path, first: int = 0, count: int = 4, **options: Any) -> Path:
    with data_toy.create(path, **options) as store:
        for i in range(first, first + count):
            store.append(data_toy.episode(store, i, 10 + i))
    return path


def tree(path: Path) -> dict[str, str]:
    files = [p for p in path.rglob("*") if p.is_file()]
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def digests(store: StoreContents) -> list[str]:
    return [store.info(i)["sha256"] for i in range(store.num_episodes)]


DEPTH = {"depth/front": StreamSpec("uint16", (6, 5, 1)), "tactile/left": StreamSpec("float32", (3,), ("a", "b", "c"))}


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_merge_copies_stored_bytes(tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = filled(tmp_path / "a.zarr", codec=codec), filled(tmp_path / "b.zarr", 10, codec=codec)
    before = tree(a), tree(b)
    monkeypatch.setattr(copying, "BATCH_BYTES", 5_000)  # several commits
    encoded = []
    monkeypatch.setattr("robopolicy.data.shard.encode_jpeg", lambda *x: encoded.append(x))
    copied = merge([a, b], tmp_path / "both.zarr")
    assert not encoded
    assert (tree(a), tree(b)) == before
    both = EpisodeStore.open(copied.path)
    first, second = EpisodeStore.open(a), EpisodeStore.open(b)
    assert digests(both) == digests(first) + digests(second)
    assert both.info(5)["metadata"]["source"] == {"store": "b.zarr", "episode": 1}
    ours, theirs = EpisodeReader(both), EpisodeReader(second)
    assert episode_digest(ours.read(5).streams) == episode_digest(theirs.read(1).streams) == digests(both)[5]
    np.testing.assert_array_equal(both.read("image/wrist")[-13:], second.read("image/wrist")[-13:])
    again = merge([a, b], tmp_path / "again.zarr")
    assert EpisodeStore.open(again.path).content_hash == both.content_hash
    turned = merge([b, a], tmp_path / "turned.zarr")
    assert EpisodeStore.open(turned.path).content_hash != both.content_hash  # control: order counts


def test_depth_and_further_streams_are_copied(tmp_path: Path) -> None:
    with data_toy.create(tmp_path / "a.zarr", extra=DEPTH, codec="jpeg") as store:
        rng = np.random.default_rng(0)
        for i in range(3):
            episode = data_toy.episode(store, i, 8)
            episode.streams["depth/front"] = rng.integers(0, 4000, (8, 6, 5, 1), dtype=np.uint16)
            store.append(episode)
    copied = filter_store(tmp_path / "a.zarr", tmp_path / "out.zarr", "index != 1")
    a, out = EpisodeStore.open(tmp_path / "a.zarr"), EpisodeStore.open(copied.path)
    assert out.streams == a.streams
    assert digests(out) == [digests(a)[0], digests(a)[2]]
    np.testing.assert_array_equal(out.read("depth/front", 8, 16), a.read("depth/front", 16, 24))


def test_merge_names_every_difference(tmp_path: Path) -> None:
    a = filled(tmp_path / "a.zarr", count=1)
    other = EpisodeStore.create(
        tmp_path / "b.zarr", data_toy.embodiment("tin", 0.5), cameras={"front": (8, 8)}, codec="jpeg", fps=10
    )
    other.close()
    found = "\n".join(differences(EpisodeStore.open(a), EpisodeStore.open(tmp_path / "b.zarr")))
    for word in ("embodiment", "'toy'", "'tin'", "fps: 20, 10", "environment_state", "image/front", "codec", "absent"):
        assert word in found
    with pytest.raises(DataError, match="cannot be merged") as caught:
        merge([a, tmp_path / "b.zarr"], tmp_path / "out.zarr")
    assert all(line in str(caught.value) for line in found.splitlines())
    assert not (tmp_path / "out.zarr").exists()
    assert differences(EpisodeStore.open(a), EpisodeStore.open(a)) == []  # control


def test_duplicates(tmp_path: Path) -> None:
    a, b = filled(tmp_path / "a.zarr"), filled(tmp_path / "b.zarr", 2)
    with pytest.raises(DataError, match="2 episodes are there more than once"):
        merge([a, b], tmp_path / "out.zarr")
    assert merge([a, b], tmp_path / "dropped.zarr", duplicates="drop").episodes == 6
    assert merge([a, b], tmp_path / "kept.zarr", duplicates="keep").episodes == 8
    with pytest.raises(DataError, match="two stores"):
        merge([a], tmp_path / "one.zarr")


def test_store_names_tell_paths_apart() -> None:
    assert store_names([Path("/x/a.zarr"), Path("/x/b.zarr")]) == ["a.zarr", "b.zarr"]
    assert store_names([Path("/x/a.zarr"), Path("/y/a.zarr"), Path("/y/b.zarr")]) == ["x/a.zarr", "y/a.zarr", "b.zarr"]


def test_an_interrupted_copy_goes_on_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = filled(tmp_path / "a.zarr"), filled(tmp_path / "b.zarr", 10)
    monkeypatch.setattr(copying, "BATCH_BYTES", 1)
    out = tmp_path / "out.zarr"

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge([a, b], out, progress=stop)
    half = EpisodeStore.open(out)
    assert half.num_episodes == 3
    assert copying.planned_episodes(half) == 8
    with pytest.raises(StorageError, match="other episodes"):
        merge([b, a], out)
    with pytest.raises(StorageError, match="already exists"):
        filter_store(a, out, "success")
    with pytest.raises(StorageError, match="no copy"):
        filter_store(a, b, "success")
    moved = tmp_path / "elsewhere" / "a.zarr"
    moved.parent.mkdir()
    a.rename(moved)
    copied = merge([moved, b], out)
    assert (copied.episodes, copied.resumed) == (8, 3)
    assert merge([moved, b], out).resumed == 8
    whole = EpisodeStore.open(merge([moved, b], tmp_path / "whole.zarr").path)
    assert EpisodeStore.open(out).content_hash == whole.content_hash
    assert copying.planned_episodes(EpisodeStore.open(out)) is None


def test_a_damaged_source_is_refused_by_name(tmp_path: Path) -> None:
    a, b = filled(tmp_path / "a.zarr", checksums=False), filled(tmp_path / "b.zarr", 10, checksums=False)
    shard = next((b / "data/image/front").glob("c.*"))
    raw = bytearray(shard.read_bytes())
    raw[100] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(DataError, match=r"episode 0 of .*b\.zarr is not what was committed"):
        merge([a, b], tmp_path / "out.zarr")


def test_filter_and_split(tmp_path: Path) -> None:
    a = filled(tmp_path / "a.zarr", count=10)
    before = tree(a)
    good = EpisodeStore.open(filter_store(a, tmp_path / "good.zarr", "success and length > 13").path)
    assert [good.info(i)["metadata"]["index"] for i in range(good.num_episodes)] == [5, 7, 9]
    assert good.attributes["provenance"]["edits"][0]["keep"] == "success and length > 13"
    with pytest.raises(DataError, match="no episode"):
        filter_store(a, tmp_path / "none.zarr", "length > 1000")
    store = EpisodeStore.open(a)
    parts = by_shares(10, {"train": 0.8, "val": 0.2}, seed=1)
    made = split_store(a, tmp_path / "parts", parts)
    assert sorted(parts["train"] + parts["val"]) == list(range(10))
    assert {n: c.episodes for n, c in made.items()} == {"train": 8, "val": 2}
    val = EpisodeStore.open(tmp_path / "parts/val.zarr")
    assert digests(val) == [digests(store)[i] for i in parts["val"]]
    assert by_field(store, "success") == {"false": [0, 2, 4, 6, 8], "true": [1, 3, 5, 7, 9]}
    assert len(by_field(store, "language")) == 10
    assert by_field(store, "metadata.index")["3"] == [3]
    for wrong in ("metadata.nobody", "success and length", "sucess"):
        with pytest.raises(CommandError):
            by_field(store, wrong)
    with pytest.raises(CommandError, match="more than once"):
        split_store(a, tmp_path / "x", {"a": [1], "b": [1]})
    with pytest.raises(CommandError, match="name"):
        split_store(a, tmp_path / "x", {"../up": [1]})
    assert tree(a) == before


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.6}, {"a": 0.0}, {"a": -0.1}, {}, {"a": float("nan")}])
def test_shares_that_make_no_sense(shares: dict[str, float]) -> None:
    with pytest.raises(CommandError):
        by_shares(10, shares, 0)


@pytest.mark.parametrize("count", [2, 3, 7, 100])
def test_shares_are_whole_and_disjoint(count: int) -> None:
    parts = by_shares(count, {"a": 0.9, "b": 0.1}, 3)
    assert sorted(parts["a"] + parts["b"]) == list(range(count))
    assert len(parts["b"]) == max(1, round(count * 0.1))
    assert by_shares(count, {"a": 0.9, "b": 0.1}, 3) == parts
    assert len(by_shares(count, {"a": 0.5}, 3)["a"]) == round(count * 0.5)


def test_delete_hides_undelete_shows_compact_leaves_out(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.zarr", count=6)
    whole, data = EpisodeStore.open(path), tree(path / "data")
    assert [row["stored"] for row in doomed(whole, [4, 1])] == [1, 4]
    assert tree(path / "data") == data
    delete(path, [4, 1], expected=whole.content_hash)
    with pytest.raises(CommandError, match="changed in the meantime"):
        delete(path, [0], expected=whole.content_hash)
    assert [row["stored"] for row in delete(path, [3])] == [5]  # live 3 of [0, 2, 3, 5]
    store = EpisodeStore.open(path)
    assert [store.info(i)["metadata"]["index"] for i in range(store.num_episodes)] == [0, 2, 3]
    made = EpisodeStore.open(compact(path, tmp_path / "c.zarr").path)
    assert digests(made) == digests(store)
    assert made.info(1) == store.info(1)
    assert made.tombstones == ()
    with data_toy.create(tmp_path / "fresh.zarr") as fresh:
        for i in (0, 2, 3):
            fresh.append(data_toy.episode(fresh, i, 10 + i))
    assert made.content_hash == fresh.content_hash  # as if the deleted ones had never been there
    assert made.attributes["provenance"]["edits"][-1]["left_out"] == [1, 4, 5]
    assert {k: v for k, v in tree(path / "data").items() if not k.endswith("zarr.json")} == {
        k: v for k, v in data.items() if not k.endswith("zarr.json")
    }
    assert undelete(path, [4]) == [4]
    assert undelete(path) == [1, 5]
    assert EpisodeStore.open(path).content_hash == whole.content_hash


@pytest.mark.parametrize("wrong", [[], [9], [-1], [1, 1], [0, 1, 2, 3]])
def test_deleting_nonsense_changes_nothing(tmp_path: Path, wrong: list[int]) -> None:
    path = filled(tmp_path / "a.zarr")
    before = EpisodeStore.open(path).content_hash
    with pytest.raises(CommandError):
        delete(path, wrong)
    with pytest.raises(CommandError, match="not deleted"):
        undelete(path, [2])
    assert EpisodeStore.open(path).content_hash == before
    with EpisodeStore.open(path, "a"), pytest.raises(StorageError, match="being written"):
        delete(path, [0])


def test_encoding_again_would_change_the_bytes(tmp_path: Path) -> None:
    """Control of the copies above: decoded and encoded once more, a JPEG is another file."""
    a = EpisodeStore.open(filled(tmp_path / "a.zarr", count=1, codec="jpeg"))
    stored = EpisodeReader(a).read(0).streams["image/front"]
    assert list(stored.blobs) != encode_frames(a.read("image/front"), "jpeg")
