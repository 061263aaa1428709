"""Validation finds planted damage and names the repair; repair mends a copy and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_toy
import numpy as np
import pytest
from numcodecs.zstd import Zstd

from robopolicy.data.episode import Episode
from robopolicy.data.snapshot import ROOT_FILE, accept_record
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tools import copying
from robopolicy.data.tools.deletion import delete
from robopolicy.data.tools.parts import filter_store
from robopolicy.data.tools.repair import repair
from robopolicy.data.tools.validate import MAX_PER_KIND, Validation, validate
from robopolicy.data.writer import StoreWriter
from robopolicy.errors import CommandError, DataError, StoreNotFoundError


def sane(store: EpisodeStore, index: int, rows: int) -> Episode:
    """An episode inside the ranges of the card."""
    episode = data_toy.episode(store, index, rows)
    for name in ("state", "action", "joint_position", "joint_command"):
        episode.streams[name] = (0.1 + 0.8 * np.random.default_rng(index).random(episode.streams[name].shape)).astype(
            np.float32
        )
    return episode


def filled(path: Path, count: int = 4, **options: Any) -> Path:
    with data_toy.create(path, **{"codec": "jpeg", **options}) as store:
        for i in range(count):
            store.append(sane(store, i, 12 + i))
    return path


def edit_record(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the attributes of the commit record and make its checksum fit, as a careless tool would."""
    document = json.loads((path / ROOT_FILE).read_bytes())
    change(document["attributes"])
    (path / ROOT_FILE).write_text(json.dumps(document))
    accept_record(path)


def edit_column(path: Path, name: str, change: Callable[[np.ndarray], None], dtype: str) -> None:
    """Change values inside a chunk and compress it again with a valid checksum."""
    file = next(p for p in (path / name).iterdir() if p.name.startswith("c."))
    values = np.frombuffer(Zstd().decode(file.read_bytes()), dtype).copy()
    change(values)
    file.write_bytes(bytes(Zstd(level=1, checksum=True).encode(values)))


def flip(file: Path, at: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[at] ^= 0x55
    file.write_bytes(raw)


def errors(answer: Validation) -> set[str]:
    return {f.kind for f in answer.findings if f.severity == "error"}


def shard(path: Path) -> Path:
    return next((path / "data/image/front").glob("c.*"))


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
@pytest.mark.parametrize(("frames", "decoded"), [("all", 108), ("sample", 32), ("none", 0)])
def test_a_sound_store_passes(tmp_path: Path, codec: str, frames: str, decoded: int) -> None:
    path = filled(tmp_path / "s.zarr", codec=codec)
    answer = validate(path, frames=frames, threads=2)
    assert answer.passed
    assert answer.findings == []
    assert (answer.episodes, answer.rows) == (4, 54)
    assert answer.frames == (decoded if codec == "jpeg" else 0)  # raw frames have nothing to decode
    json.dumps(answer.to_dict(), allow_nan=False)


def test_it_goes_on_beside_a_writer_and_after_deleting(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.zarr")
    with EpisodeStore.open(path, "a") as store:
        assert validate(path).passed
        store.append(sane(store, 9, 30))
        assert validate(path).episodes == 5
    delete(path, [0, 2])
    answer = validate(path)
    assert answer.passed
    assert [f.kind for f in answer.findings] == ["tombstones"]
    assert answer.episodes == 3


PLANTS: dict[str, tuple[Callable[[Path], Any], set[str], set[str]]] = {
    "frame flipped": (lambda p: flip(shard(p), 700), {"unreadable"}, {"drop_damaged"}),
    "index flipped": (lambda p: flip(shard(p), -12), {"unreadable"}, {"drop_damaged"}),
    "shard missing": (lambda p: shard(p).unlink(), {"missing_file", "unreadable"}, {"drop_damaged"}),
    "column flipped": (lambda p: flip(p / "data/action/c.0.0", 60), {"unreadable"}, {"drop_damaged"}),
    "number changed": (
        lambda p: edit_column(p, "data/action", lambda v: v.__setitem__(135, 0.5), "f4"),
        {"altered"},
        {"drop_damaged"},
    ),
    "not finite": (
        lambda p: edit_column(p, "data/state", lambda v: v.__setitem__(135, np.nan), "f4"),
        {"altered", "not_finite"},
        {"drop_damaged"},
    ),
    "ends changed": (
        lambda p: edit_column(p, "meta/episode_ends", lambda v: v.__setitem__(1, 24), "i8"),
        {"episode_ends"},
        {"episode_ends"},
    ),
    "ends unreadable": (lambda p: flip(p / "meta/episode_ends/c.0", 15), {"episode_ends"}, {"episode_ends"}),
    "statistics": (
        lambda p: edit_record(p, lambda a: a["statistics"]["action"]["max"].__setitem__(0, 9.0)),
        {"statistics"},
        {"statistics"},
    ),
    "no statistics": (lambda p: edit_record(p, lambda a: a.update(statistics={})), {"statistics"}, {"statistics"}),
}


@pytest.mark.parametrize("name", PLANTS)
def test_planted_damage_is_found_and_mended_on_a_copy(tmp_path: Path, name: str) -> None:
    plant, kinds, repairs = PLANTS[name]
    path = filled(tmp_path / "s.zarr")
    plant(path)
    answer = validate(path, frames="all")
    assert not answer.passed
    assert errors(answer) == kinds
    assert set(answer.repairs) == repairs
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    if len(answer.damaged_episodes) == 4:
        with pytest.raises(DataError, match="every episode"):
            repair(path, tmp_path / "out.zarr", sorted(repairs))
        return
    with pytest.raises(DataError, match="not mended by") as caught:
        repair(path, tmp_path / "out.zarr", sorted({"drop_damaged", "statistics", "time"} - repairs))
    assert all(r in str(caught.value) for r in repairs)
    copied, _ = repair(path, tmp_path / "out.zarr", sorted(repairs), frames="all")
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    assert validate(copied.path, frames="all").passed
    assert copied.episodes == 4 - len(answer.damaged_episodes)
    mended = EpisodeStore.open(copied.path)
    edit = mended.attributes["provenance"]["edits"][-1]
    assert edit["operation"] == "repair"
    assert edit["dropped"] == answer.damaged_episodes
    assert {f["repair"] for f in edit["findings"]} == repairs
    fresh = EpisodeStore.open(filled(tmp_path / "fresh.zarr"))
    kept = [i for i in range(4) if i not in answer.damaged_episodes]
    assert [mended.info(i)["sha256"] for i in range(mended.num_episodes)] == [fresh.info(i)["sha256"] for i in kept]


def test_frames_that_do_not_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG that was broken before it was stored: checksums and digest are true, the picture is not one."""
    for place in ("episode.check_jpeg_size", "writer.check_jpeg_end"):
        monkeypatch.setattr(f"robopolicy.data.{place}", lambda *_: None)
    with data_toy.create(tmp_path / "s.zarr", codec="jpeg") as store:
        for i in range(2):
            episode = sane(store, i, 6)
            if i:
                from robopolicy.data.episode import EncodedFrames

                episode.streams["image/front"] = EncodedFrames(
                    (12, 16, 3), tuple(b"no picture %d" % k for k in range(6))
                )
            store.append(episode)
    monkeypatch.undo()
    answer = validate(tmp_path / "s.zarr")
    assert errors(answer) == {"undecodable_frame"}
    assert answer.damaged_episodes == [1]
    assert validate(tmp_path / "s.zarr", frames="none").passed  # control: only decoding shows it


def test_time_that_stands_still_is_replaced_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robopolicy.data.episode._check_time", lambda *_: None)
    with data_toy.create(tmp_path / "s.zarr", codec="jpeg") as store:
        for i in range(2):
            episode = sane(store, i, 10)
            if i:
                episode.streams["time_ns"][5] = episode.streams["time_ns"][4]
            store.append(episode)
    monkeypatch.undo()
    answer = validate(tmp_path / "s.zarr")
    assert errors(answer) == {"time"}
    copied, _ = repair(tmp_path / "s.zarr", tmp_path / "out.zarr", ["time"])
    times = EpisodeStore.open(copied.path).read("time_ns")[10:]
    assert (np.diff(times) == data_toy.PERIOD_NS).all()
    assert validate(copied.path).passed
    dropped, _ = repair(tmp_path / "s.zarr", tmp_path / "dropped.zarr", ["time", "drop_damaged"])
    assert dropped.episodes == 2  # mended, not dropped


def test_altered_record_is_seen_by_the_content_hash(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.zarr")

    def forge(values: np.ndarray) -> None:
        raw = values.tobytes().replace(b"move 2", b"move 7")
        values[:] = np.frombuffer(raw, np.uint8)

    edit_column(path, "meta/episode_records", forge, "u1")
    assert EpisodeStore.open(path).info(2)["language"] == "move 7"
    assert errors(validate(path)) == {"content_hash"}


def test_array_documents_leftovers_and_unfinished_copies(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.zarr")
    (path / "data/action/zarr.json").write_text("{")
    (path / "data/state/c.0.0.partial").write_bytes(b"half")
    kinds = {f.kind: f.severity for f in validate(path).findings}
    assert kinds == {"array_document": "warning", "leftover": "note"}
    filter_store(path, tmp_path / "out.zarr", "true")
    edit_record(tmp_path / "out.zarr", lambda a: a["provenance"]["plan"].update(episodes=9))
    assert copying.planned_episodes(EpisodeStore.open(tmp_path / "out.zarr")) == 9
    assert "unfinished" in errors(validate(tmp_path / "out.zarr"))


def test_ranges_and_many_findings(tmp_path: Path) -> None:
    with data_toy.create(tmp_path / "s.zarr") as store:
        for i in range(3):
            store.append(data_toy.episode(store, i, 20))
    answer = validate(tmp_path / "s.zarr")
    assert answer.passed  # out of range is a warning
    outside = [f for f in answer.findings if f.kind == "range"]
    assert any("gripper" in f.message and "[0, 1]" in f.message for f in outside)
    assert len(outside) > MAX_PER_KIND
    assert len(answer.shown()) == MAX_PER_KIND + 1


def test_a_damaged_commit_record_is_an_answer_and_no_store_an_error(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.zarr")
    raw = (path / ROOT_FILE).read_text()
    (path / ROOT_FILE).write_text(raw.replace('"joint_1"', '"joint_9"', 1))
    assert errors(validate(path)) == {"commit_record"}
    shutil.rmtree(path)
    with pytest.raises(StoreNotFoundError):
        validate(path)
    with pytest.raises(DataError, match="frames"):
        validate(path, frames="some")


def test_repairs_are_named(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.zarr")
    for wrong in ([], ["everything"]):
        with pytest.raises(CommandError, match="drop_damaged"):
            repair(path, tmp_path / "out.zarr", wrong)
    copied, found = repair(path, tmp_path / "out.zarr", ["statistics"])
    assert found.passed
    assert copied.episodes == 4


def test_the_writer_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation opens nothing for writing."""
    path = filled(tmp_path / "s.zarr")
    monkeypatch.setattr(StoreWriter, "__init__", lambda *_: pytest.fail("opened for writing"))
    for file in path.rglob("*"):
        file.chmod(0o444 if file.is_file() else 0o555)
    try:
        assert validate(path).passed
    finally:
        for folder in [path, *path.rglob("*")]:
            folder.chmod(0o755)
