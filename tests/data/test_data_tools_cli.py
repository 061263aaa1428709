"""Every ``robopolicy data`` tool as a user calls it: output, exit codes, JSON, nothing changed without --yes."""

from __future__ import annotations

import json
from pathlib import Path

import data_toy
import numpy as np
import pytest

from robopolicy.cli.main import main
from robopolicy.data.store import EpisodeStore


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, first in (("a", 0), ("b", 10)):
        with data_toy.create(tmp_path / f"{name}.zarr", codec="jpeg") as store:
            for i in range(first, first + 4):
                store.append(data_toy.episode(store, i, 10 + i))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["data", *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_info(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "info", "a.zarr", "episodes=true")
    assert code == 0
    for words in ("4 episodes, 46 steps at 20 Hz", "toy", "success 2 of 4", "image/front", "12x16x3", "joint_1", "rad"):
        assert words in out
    code, out = run(capsys, "info", "a.zarr", "format=json", "episodes=true")
    about = json.loads(out)
    assert about["robot"]["hash"] == data_toy.embodiment().hash
    assert about["episodes"]["length"] == {"min": 10, "p50": 11.5, "p95": 12.85, "p100": 13, "mean": 11.5}
    assert about["cameras"][0]["codec"] == "jpeg"
    assert about["disk"]["bytes"] == sum(p.stat().st_size for p in (here / "a.zarr").rglob("*") if p.is_file())
    action = next(s for s in about["streams"] if s["name"] == "action")
    column = EpisodeStore.open("a.zarr").column("action")
    assert action["channels"][0]["max"] == pytest.approx(float(column[:, 0].max()))
    assert [row["length"] for row in about["list"]] == [10, 11, 12, 13]


def test_info_reads_no_stream(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (here / "a.zarr/data").rglob("c.*"):
        file.write_bytes(b"")
    assert run(capsys, "info", "a.zarr")[0] == 0
    assert run(capsys, "validate", "a.zarr", "progress=false")[0] == 1  # control: the data really are gone


def test_validate_and_repair(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "validate", "a.zarr", "frames=all", "progress=false")
    assert code == 0
    assert "no errors; checked 4 episodes, 46 rows, 92 frames decoded" in out
    shard = next((here / "a.zarr/data/image/front").glob("c.*"))
    raw = bytearray(shard.read_bytes())
    raw[30] ^= 1
    shard.write_bytes(raw)
    code, out = run(capsys, "validate", "a.zarr", "format=json")
    assert code == 1
    assert json.loads(out)["repairs"] == ["drop_damaged"]
    code, out = run(capsys, "repair", "a.zarr", "progress=false")
    assert code == 1
    assert "episode 0" in out
    code, out = run(capsys, "repair", "a.zarr", "fixed.zarr", "repairs=[drop_damaged]", "progress=false")
    assert code == 0
    assert "3 episodes" in out
    assert run(capsys, "validate", "fixed.zarr", "progress=false")[0] == 0
    code, out = run(capsys, "repair", "a.zarr", "repairs=[drop_damaged]")
    assert code == 2
    assert "OUT" in out


def test_merge_split_filter(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "8 episodes" in run(capsys, "merge", "a.zarr", "b.zarr", "out=both.zarr", "progress=false")[1]
    code, out = run(capsys, "merge", "a.zarr", "b.zarr", "out=both.zarr", "progress=false")
    assert code == 0
    assert "(8 were there before)" in out
    code, out = run(capsys, "filter", "both.zarr", "keep=success and length < 20")
    assert out.startswith("2 of 8 episodes: [1, 3]")
    assert json.loads(run(capsys, "filter", "both.zarr", "keep='move 3' in language", "format=json")[1])[
        "episodes"
    ] == [3]
    code, out = run(capsys, "filter", "both.zarr", "good.zarr", "keep=success and length < 20", "progress=false")
    assert "good.zarr: 2 episodes" in out
    code, out = run(capsys, "filter", "both.zarr", "keep=succes")
    assert code == 2
    assert "did you mean 'success'" in out
    assert "^ column 1" in out
    out = run(capsys, "split", "both.zarr", "out=p", "shares.train=0.75", "shares.val=0.25", "progress=false")[1]
    assert "train.zarr: 6 episodes" in out
    assert "val.zarr: 2 episodes" in out
    assert "true.zarr: 4 episodes" in run(capsys, "split", "both.zarr", "out=q", "by=success", "progress=false")[1]
    assert "yes.zarr: 5" in run(capsys, "split", "both.zarr", "out=r", "where=length > 12", "progress=false")[1]
    assert "x.zarr: 2" in run(capsys, "split", "both.zarr", "out=s", "lists.x=[0,1]", "progress=false")[1]
    for wrong in ("shares.train=much", "lists.x=3", "shares.a=0.7", "nothing.a=1"):
        assert run(capsys, "split", "both.zarr", "out=u", wrong, *(["shares.b=0.7"] * (wrong[-1] == "7")))[0] == 2
    assert not (here / "u").exists()
    code, out = run(capsys, "split", "both.zarr", "out=t", "by=success", "where=success")
    assert code == 2
    assert "one way" in out


def test_delete_needs_yes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in (here / "a.zarr").rglob("*") if p.is_file()}
    code, out = run(capsys, "delete", "a.zarr", "episodes=[1,3]")
    assert code == 1
    assert "add --yes" in out
    assert {p: p.read_bytes() for p in (here / "a.zarr").rglob("*") if p.is_file()} == before
    code, out = run(capsys, "delete", "a.zarr", "episodes=[1,3]", "--yes")
    assert code == 0
    assert "stored=[1,3]" in out
    assert EpisodeStore.open("a.zarr").num_episodes == 2
    assert "deleted  2 episodes" in run(capsys, "info", "a.zarr")[1]
    assert "2 deleted episodes left out" in run(capsys, "compact", "a.zarr", "c.zarr", "progress=false")[1]
    assert run(capsys, "undelete", "a.zarr", "stored=[3]")[0] == 0
    code, out = run(capsys, "delete", "a.zarr", "where=not success", "--yes")
    assert code == 0
    assert EpisodeStore.open("a.zarr").num_episodes == 1
    for wrong in (("episodes=[0]", "--yes"), ("episodes=[7]",), (), ("episodes=[0]", "where=success"), ("--no",)):
        assert run(capsys, "delete", "a.zarr", *wrong)[0] == 2


def test_stats(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "stats", "a.zarr")[1]
    assert "joint_command" in out
    stored = json.loads(run(capsys, "stats", "a.zarr", "stream=action", "format=json")[1])["channels"]
    again = json.loads(run(capsys, "stats", "a.zarr", "stream=action", "format=json", "--recompute")[1])["channels"]
    column = EpisodeStore.open("a.zarr").column("action").astype(float)
    for rows in (stored, again):
        np.testing.assert_allclose([r["mean"] for r in rows], column.mean(axis=0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose([r["q99"] for r in rows], np.quantile(column, 0.99, axis=0), rtol=1e-9)
        assert {r["count"] for r in rows} == {46}
    code, out = run(capsys, "stats", "a.zarr", "stream=actoin")
    assert code == 2
    assert "did you mean 'action'" in out


def test_view(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "view", "a.zarr", "episodes=[0,2]", "progress=false")
    assert code == 0
    assert out.startswith("a.html: ")
    assert (here / "a.html").is_file()
    assert run(capsys, "view", "a.zarr", "where=success", "out=ok.html", "progress=false")[0] == 0
    assert run(capsys, "view", "a.zarr", "where=length > 99")[0] == 2
