"""Damaged stores: a clear error or exactly the right data, never a crash and never silently wrong data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import data_store_damage
import data_toy
import numpy as np
import pytest

from robopolicy.data import layout
from robopolicy.data.archive import pack
from robopolicy.data.episode import StreamSpec
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, RobopolicyError

CASES = 150


def template(folder: Path, checksums: bool, codec: str = "jpeg") -> Path:
    """A store with every kind of array, several chunks each."""
    extra = {"depth/front": StreamSpec("uint16", (12, 16, 1)), "tag": StreamSpec("int64", (2,))}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("COLUMN_CHUNK_ROWS", 32), ("RECORD_CHUNK_BYTES", 256), ("SHARD_FRAMES", 16)):
            patch.setattr(layout, name, value)
        with data_toy.create(folder / "s.zarr", codec=codec, checksums=checksums, extra=extra) as store:
            episodes = [data_toy.episode(store, i, 25) for i in range(2)]
            for made in episodes:
                rng = np.random.default_rng(4)
                made.streams["depth/front"] = rng.integers(0, 4000, (25, 12, 16, 1), dtype=np.uint16)
                made.streams["tag"] = rng.integers(0, 9, (25, 2))
            store.append_many(episodes)
    return folder / "s.zarr"


def run(path: Path, work: Path, count: int, *options: str) -> list[dict[str, Any]]:
    """Cases in a process of their own, so that a crash is seen."""
    script = Path(__file__).with_name("data_store_damage.py")
    command = [sys.executable, str(script), str(path), str(work), "0", str(count), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-500:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_damage_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    cases = run(template(tmp_path, checksums=True), tmp_path / "work", CASES)
    count = Counter(c["verdict"] for c in cases)
    assert [c for c in cases if c["verdict"] in ("wrong", "escaped")] == []
    assert len(cases) == CASES
    assert count["refused"] > CASES // 3


def test_control_without_checksums_wrong_data_passes(tmp_path: Path) -> None:
    cases = run(template(tmp_path, checksums=False, codec="raw"), tmp_path / "work", CASES, "--no-checksums")
    count = Counter(c["verdict"] for c in cases)
    assert count["wrong"] > 0
    assert count["escaped"] == 0


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 0x10
    path.write_bytes(raw)


@pytest.mark.parametrize("stream", ["image/front", "depth/front", "state", "time_ns"])
def test_every_stream_is_checked(tmp_path: Path, stream: str) -> None:
    path = template(tmp_path, checksums=True, codec="raw")
    flip(sorted((path / "data" / stream).glob("c.*"))[0], 30)
    with pytest.raises(DataError, match="damaged"):
        EpisodeStore.open(path).read(stream)
    findings = list(EpisodeStore.open(path).verify())
    assert {f.stream for f in findings} == {stream}
    assert findings[0].episode == "0"
    assert all(f.severity == "error" for f in findings)


def test_verify_finds_what_no_checksum_covers(tmp_path: Path) -> None:
    """A whole chunk file of another stream in place of this one's: every checksum fits, the episode's SHA-256 not."""
    path = template(tmp_path, checksums=True)
    assert list(EpisodeStore.open(path).verify()) == []
    other = (path / "data/joint_position/c.0.0").read_bytes()
    (path / "data/joint_command/c.0.0").write_bytes(other)
    EpisodeStore.open(path).read("joint_command")
    findings = list(EpisodeStore.open(path).verify())
    assert [f.episode for f in findings] == ["0", "1"]
    assert "not those that were committed" in findings[0].message
    with pytest.raises(DataError, match="no such episode"):
        list(EpisodeStore.open(path).verify([7]))


def test_a_damaged_archive(tmp_path: Path) -> None:
    """Every byte of the directory and of the headers matters; no crash on any of them."""
    path = template(tmp_path, checksums=True)
    archive = pack(path, tmp_path / "s.zarr.zip")
    whole = data_store_damage.contents(archive)
    assert data_store_damage.same(whole, data_store_damage.contents(path))
    raw = archive.read_bytes()
    rng = np.random.default_rng(11)
    directory = raw.rindex(b"PK\x01\x02") - 4000
    places = [*rng.integers(directory, len(raw), 40).tolist(), *rng.integers(0, len(raw), 20).tolist()]
    verdicts: Counter[str] = Counter()
    for place in places:
        damaged = bytearray(raw)
        damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "d.zarr.zip").write_bytes(damaged)
        try:
            read = data_store_damage.contents(tmp_path / "d.zarr.zip")
            verdicts["right" if data_store_damage.same(whole, read) else "wrong"] += 1
        except RobopolicyError:
            verdicts["refused"] += 1
    for length in (0, 10, len(raw) // 2, len(raw) - 1):
        (tmp_path / "d.zarr.zip").write_bytes(raw[:length])
        with pytest.raises(RobopolicyError):
            data_store_damage.contents(tmp_path / "d.zarr.zip")
    assert verdicts["wrong"] == 0
    assert verdicts["refused"] > 10
