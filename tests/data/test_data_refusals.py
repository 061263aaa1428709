"""Bad episodes and bad stores: each refused with the culprit and the mend named, and nothing written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_toy
import numpy as np
import pytest

from robopolicy.data.episode import Episode
from robopolicy.data.snapshot import accept_record
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import (
    DataError,
    EmbodimentMismatchError,
    NonFiniteError,
    RobopolicyError,
    ShapeError,
    StorageError,
    StoreNotFoundError,
)


def fingerprint(path: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in path.rglob("*") if p.is_file()}


def rename(old: str, new: str) -> Callable[[Episode], None]:
    return lambda e: e.streams.__setitem__(new, e.streams.pop(old))


def put(stream: str, change: Callable[[np.ndarray], Any]) -> Callable[[Episode], None]:
    return lambda e: e.streams.__setitem__(stream, change(e.streams[stream]))


def poke(stream: str, where: Any, value: float) -> Callable[[Episode], None]:
    return lambda e: e.streams[stream].__setitem__(where, value)


BAD: dict[str, tuple[Callable[[Episode], None], type[RobopolicyError], str]] = {
    "misspelt": (rename("action", "actions"), DataError, r"missing \['action'\].*'action': did you mean 'actions'"),
    "missing camera": (lambda e: e.streams.pop("image/wrist"), DataError, r"missing \['image/wrist'\]"),
    "unknown": (lambda e: e.streams.__setitem__("force", np.zeros(3)), DataError, r"unknown \['force'\]"),
    "length": (put("joint_command", lambda a: a[:-1]), DataError, "unequal lengths"),
    "width": (put("action", lambda a: a[:, :9]), ShapeError, r"'action' has the wrong shape.*allowed: \[N, 10\]"),
    "integers": (put("state", lambda a: a.astype(int)), ShapeError, "'state' has the wrong dtype"),
    "float time": (put("time_ns", lambda a: a * 1.0), ShapeError, "'time_ns' has the wrong dtype"),
    "float image": (put("image/front", lambda a: a / 255), ShapeError, "'image/front' has the wrong dtype.*uint8"),
    "channels first": (put("image/front", lambda a: a.transpose(0, 3, 1, 2)), ShapeError, r"\[N, 12, 16, 3\]"),
    "nan": (
        poke("action", (4, 9), np.nan),
        NonFiniteError,
        r"episode 1: 'action' is not finite at row 4, channel gripper .*nothing was written",
    ),
    "inf": (poke("environment_state", (0, 1), np.inf), NonFiniteError, "row 0, channel cube.y"),
    "overflow": (put("action", lambda a: a.astype(float) * 1e39), NonFiniteError, "channel ee_position.x"),
    "time stands": (lambda e: put("time_ns", lambda t: t - (t > t[5]) * data_toy.PERIOD_NS)(e), DataError, "at row 6"),
    "rate": (put("time_ns", lambda t: t // 2), DataError, r"measured rate.*given: 40 Hz; allowed: 20 Hz within 5%"),
    "empty": (lambda e: e.streams.update({k: v[:0] for k, v in e.streams.items()}), DataError, "has no rows"),
    "metadata": (lambda e: e.metadata.update(x=object()), DataError, "metadata is not JSON"),
    "language": (lambda e: setattr(e, "language", None), DataError, "language must be text"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    made = data_toy.create(tmp_path_factory.mktemp("refusals") / "s.zarr")
    made.append(data_toy.episode(made, 0))
    return made


@pytest.mark.parametrize("case", BAD)
def test_bad_episodes_are_refused_and_nothing_is_written(store: EpisodeStore, case: str) -> None:
    spoil, kind, message = BAD[case]
    bad = data_toy.episode(store, 1)
    spoil(bad)
    before = fingerprint(store.path)
    with pytest.raises(kind, match=message):
        store.append(bad)
    assert fingerprint(store.path) == before
    assert store.num_episodes == 1


def test_the_unspoilt_episode_is_accepted(tmp_path: Path) -> None:
    """Control of the refusals above; and the deviations that are allowed."""
    with data_toy.create(tmp_path / "s.zarr") as store:
        store.append(data_toy.episode(store, 1))
        slow = data_toy.episode(store, 2)
        put("time_ns", lambda t: t // 2)(slow)
        store.append(slow, any_rate=True)
        double = data_toy.episode(store, 3)
        put("action", lambda a: a.astype(np.float64))(double)
        put("time_ns", lambda t: (t * 1.04).astype(np.int64))(double)
        store.append(double)
        store.append(data_toy.episode(store, 4, length=1))
        assert store.num_episodes == 4


def test_another_embodiment_is_refused_with_both_sides_named(store: EpisodeStore) -> None:
    other = data_toy.embodiment("long_toy", reach_m=2.0)
    with pytest.raises(EmbodimentMismatchError, match=r"store .* is for 'toy'.*episode is for 'long_toy'"):
        store.append(data_toy.episode(store, 1), embodiment=other)
    with pytest.raises(EmbodimentMismatchError, match=r"'long_toy'.*store .* is for 'toy'.*differ in.*workspace"):
        EpisodeStore.open(store.path, embodiment=other)
    assert EpisodeStore.open(store.path, embodiment=data_toy.embodiment()).num_episodes == 1


def test_a_card_written_with_whole_numbers_keeps_its_hash(tmp_path: Path) -> None:
    card = data_toy.embodiment()
    whole = dataclasses.replace(card, arms=(dataclasses.replace(card.arm(), tcp=((0, 0, 1), (1, 0, 0, 0))),))
    assert EpisodeStore.create(tmp_path / "s.zarr", whole).embodiment.hash == whole.hash
    assert whole.hash != card.hash


def test_what_is_not_a_store(tmp_path: Path) -> None:
    cases: dict[str, tuple[dict[str, str] | None, str]] = {
        "absent": (None, "given: nothing"),
        "empty": ({}, "a folder with nothing in it"),
        "v2": ({".zgroup": "{}"}, "zarr version 2"),
        "array": ({"zarr.json": '{"node_type": "array", "zarr_format": 3}'}, "not an episode store"),
        "group": ({"zarr.json": '{"node_type": "group", "attributes": {"a": 1}}'}, "convert it"),
    }
    for name, (files, message) in cases.items():
        if files is not None:
            (tmp_path / name).mkdir()
            for file, text in files.items():
                (tmp_path / name / file).write_text(text)
        with pytest.raises(StoreNotFoundError, match=message):
            EpisodeStore.open(tmp_path / name)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreNotFoundError, match="given: a file"):
        EpisodeStore.open(tmp_path / "file")
    with pytest.raises(StorageError, match="already exists"):
        data_toy.create(tmp_path / "v2")
    data_toy.create(tmp_path / "empty").close()  # an empty folder may become a store
    with pytest.raises(DataError, match="unknown mode"):
        EpisodeStore.open(tmp_path / "empty", mode="w")


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    with data_toy.create(tmp_path / "s.zarr", codec="jpeg") as made:
        made.append(data_toy.episode(made, 0))
        made.append(data_toy.episode(made, 1))
    return tmp_path / "s.zarr"


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads((path / "zarr.json").read_text())
    change(document)
    (path / "zarr.json").write_text(json.dumps(document))


def test_a_damaged_commit_record(closed: Path) -> None:
    whole = (closed / "zarr.json").read_text()
    for text in (
        whole[:-200],
        "",
        "null",
        "[1]",
        '{"node_type": "group", "attributes": {"format": "robopolicy.episodes"}}',
    ):
        (closed / "zarr.json").write_text(text)
        with pytest.raises((DataError, StoreNotFoundError), match=r"zarr\.json is damaged|not an episode store"):
            EpisodeStore.open(closed)
    edits: dict[str, Callable[[dict[str, Any]], Any]] = {
        "another schema version.*install a newer": lambda d: d["attributes"].update(schema_version=99),
        "is damaged: KeyError": lambda d: d["attributes"].pop("committed"),
        "card was altered": lambda d: d["attributes"]["embodiment"].update(control_hz=50.0),
        "contradicts itself": lambda d: d["attributes"]["committed"].update(num_steps=7),
    }
    for message, change in edits.items():
        (closed / "zarr.json").write_text(whole)
        edit(closed, change)
        with pytest.raises(DataError, match=message):
            EpisodeStore.open(closed)
    (closed / "zarr.json").write_text(whole)
    assert EpisodeStore.open(closed).num_episodes == 2


@pytest.mark.parametrize("stream", ["action", "time_ns", "image/front"])
@pytest.mark.parametrize("damage", ["cut", "missing", "flipped"])
def test_a_damaged_data_file_is_named(closed: Path, stream: str, damage: str) -> None:
    assert len(EpisodeStore.open(closed).read(stream))  # control
    file = sorted((closed / "data" / stream).glob("c.*"))[0]
    raw = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(raw[: len(raw) // 2])
    else:
        raw[-20 if stream.startswith("image") else len(raw) // 2] ^= 0xFF
        file.write_bytes(raw)
    with pytest.raises(DataError, match=f"{file.name}.*mend"):
        EpisodeStore.open(closed).read(stream)


def test_a_frame_that_is_no_jpeg_is_named(closed: Path) -> None:
    file = closed / "data" / "image" / "wrist" / "c.0.0.0.0"
    raw = bytearray(file.read_bytes())
    raw[:4] = b"\0\0\0\0"
    file.write_bytes(raw)
    with pytest.raises(DataError, match=r"frame 0 does not match its checksum"):
        EpisodeStore.open(closed).read("image/wrist")
    store = EpisodeStore.open(closed, verify=False)
    with pytest.raises(DataError, match=r"frame 0: .*not a readable JPEG"):
        store.read("image/wrist")
    assert len(store.read("image/wrist", 1)) == store.num_steps - 1


def test_missing_statistics_name_the_mend_and_it_works(closed: Path) -> None:
    before = EpisodeStore.open(closed).statistics("action").to_dict()
    edit(closed, lambda d: d["attributes"]["statistics"].pop("action"))
    with pytest.raises(DataError, match=r"zarr\.json does not match its checksum.*accept_record"):
        EpisodeStore.open(closed)
    accept_record(closed)
    with pytest.raises(DataError, match=r"no statistics of 'action'.*recompute_statistics"):
        EpisodeStore.open(closed).statistics("action")
    with EpisodeStore.open(closed, mode="a") as store:
        store.recompute_statistics()
    after = EpisodeStore.open(closed).statistics("action").to_dict()
    for key, value in before.items():
        np.testing.assert_allclose(after[key], value, rtol=1e-12)
