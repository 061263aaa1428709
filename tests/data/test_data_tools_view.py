"""The page: one file without an address in it, whose pictures and numbers are those of the store."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import data_toy
import numpy as np
import pytest
from PIL import Image

from robopolicy.data.episode import StreamSpec
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tools.deletion import delete
from robopolicy.data.view.document import MAX_POINTS, chosen_episodes
from robopolicy.data.view.page import write_view
from robopolicy.data.view.pictures import MAX_SIDE, MIN_FRAMES, kept_rows, sheets
from robopolicy.data.view.recording import write_recording
from robopolicy.errors import CommandError, DataError, MissingDependencyError

VOID = {"meta", "input", "br", "img", "link", "rect", "path", "hr"}


class Page(HTMLParser):
    """Checks nesting, and keeps scripts, attributes and visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.scripts: dict[str, str] = {}
        self.addresses: list[str] = []
        self.text = ""
        self._script: str | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [str(v) for k, v in attrs if k in ("src", "href", "action", "data", "srcset")]
        if tag == "script":
            self._script = given.get("id") or "code"
            self.scripts[self._script] = ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [str(v) for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] += data
        else:
            self.text += data


def filled(path: Path, count: int = 3, rows: int = 15, **options: Any) -> EpisodeStore:
    with data_toy.create(path, **{"codec": "jpeg", **options}) as store:
        for i in range(count):
            episode = data_toy.episode(store, i, rows + i)
            for name, spec in store.streams.items():
                if spec.image and spec.dtype == "uint8":
                    shade = np.linspace(20, 200, rows + i).astype(np.uint8)
                    episode.streams[name] = np.broadcast_to(shade[:, None, None, None], (rows + i, *spec.shape)).copy()
                elif spec.image:
                    episode.streams[name] = np.full((rows + i, *spec.shape), 500 + i, np.uint16)
            episode.language = f"<b>move & {i}</b></script>"
            store.append(episode)
    return EpisodeStore.open(path)


def document(path: Path) -> dict[str, Any]:
    page = Page(path.read_text(encoding="utf-8"))
    return json.loads(page.scripts["document"])


def picture(address: str) -> Image.Image:
    kind, _, data = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr")
    out = write_view(store, tmp_path / "view.html")
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert set(page.scripts) == {"document", "code"}
    assert page.addresses == []
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", text))
    assert "default-src &#x27;none&#x27;" in text
    assert "connect-src" not in text
    for words in ("s.zarr", "toy", "Statistics", "ee_position.x", "provenance"):
        assert words in page.text
    assert "move & 0" not in page.text  # labels come from the document, as text
    assert [p.name for p in tmp_path.iterdir() if p.name != "s.zarr"] == ["view.html"]


def test_numbers_and_pictures_are_those_of_the_store(tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr")
    shown = document(write_view(store, tmp_path / "view.html", [2, 0]))
    assert [e["index"] for e in shown["episodes"]] == [2, 0]
    episode, info = shown["episodes"][0], store.info(2)
    assert episode["language"] == "<b>move & 2</b></script>"
    assert (episode["length"], episode["success"], episode["metadata"]) == (17, False, {"index": 2})
    rows = slice(info["start"], info["stop"])
    for name in ("state", "action", "joint_position", "environment_state"):
        np.testing.assert_allclose(np.array(episode["streams"][name]).T, store.column(name)[rows], rtol=1e-4)
    np.testing.assert_allclose(episode["time"], np.arange(17) * 0.05, atol=1e-4)
    assert {s["name"]: len(s["channels"]) for s in shown["streams"]}["action"] == 10
    camera = episode["cameras"][0]
    assert (camera["camera"], camera["w"], camera["h"], camera["rows"]) == ("front", 16, 12, list(range(17)))
    sheet = np.asarray(picture(camera["images"][0]).convert("L"), float)
    frames = store.read("image/front", rows.start, rows.stop)
    for i in (0, 7, 16):
        x, y = i % camera["columns"] * 16, i // camera["columns"] * 12
        assert abs(sheet[y + 3 : y + 9, x + 3 : x + 13].mean() - frames[i].mean()) < 4
    assert abs(sheet[3:9, 3:13].mean() - frames[16].mean()) > 100  # control: frames differ that much


def test_large_frames_shrink_and_the_budget_is_kept(tmp_path: Path) -> None:
    with data_toy.create(tmp_path / "s.zarr", cameras={"big": (300, 400)}, codec="raw") as store:
        rng = np.random.default_rng(0)
        episode = data_toy.episode(store, 0, 40)
        episode.streams["image/big"] = rng.integers(0, 256, (40, 300, 400, 3), dtype=np.uint8)
        store.append(episode)
    opened = EpisodeStore.open(tmp_path / "s.zarr")
    whole = sheets(opened, "image/big", 0, 40, 10**8)
    assert whole.size == (MAX_SIDE, 168)
    assert whole.rows == list(range(40))
    size = sum(map(len, whole.images))
    half = sheets(opened, "image/big", 0, 40, size // 2)
    assert 15 <= len(half.rows) < 26
    assert sum(map(len, half.images)) <= size // 2 * 1.1
    assert half.rows[0] == 0
    assert half.rows[-1] == 39
    assert len(sheets(opened, "image/big", 0, 40, 0).rows) == MIN_FRAMES
    page = write_view(opened, tmp_path / "small.html", megabytes=0.3)
    assert page.stat().st_size < 0.45e6 < write_view(opened, tmp_path / "large.html").stat().st_size


def test_depth_long_episodes_and_wide_streams(tmp_path: Path) -> None:
    extra = {"depth/front": StreamSpec("uint16", (6, 8, 1)), "embedding": StreamSpec("float32", (200,))}
    store = filled(tmp_path / "s.zarr", 1, MAX_POINTS + 300, cameras=("wrist",), extra=extra)
    shown = document(write_view(store, tmp_path / "view.html"))["episodes"][0]
    assert len(shown["rows"]) == len(shown["streams"]["action"][0]) == MAX_POINTS
    assert (shown["rows"][0], shown["rows"][-1]) == (0, MAX_POINTS + 299)
    assert len(shown["time"]) == MAX_POINTS + 300
    assert "embedding" not in shown["streams"]
    assert [c["camera"] for c in shown["cameras"]] == ["depth/front", "wrist"]


def test_choices(tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr", 3)
    assert chosen_episodes(store, 2) == [0, 2]
    assert kept_rows(100, 10) == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert kept_rows(3, 0) == [0, 1, 2]
    with pytest.raises(CommandError, match="no such episode"):
        write_view(store, tmp_path / "view.html", [3])
    delete(tmp_path / "s.zarr", [1])
    shown = document(write_view(tmp_path / "s.zarr", tmp_path / "view.html"))
    assert [e["metadata"]["index"] for e in shown["episodes"]] == [0, 2]
    data_toy.create(tmp_path / "empty.zarr").close()
    with pytest.raises(DataError, match="no episodes"):
        write_view(tmp_path / "empty.zarr", tmp_path / "empty.html")
    assert not (tmp_path / "empty.html").exists()


def test_findings_of_the_audit_are_shown(tmp_path: Path) -> None:
    with data_toy.create(tmp_path / "s.zarr") as store:
        for i in range(2):
            episode = data_toy.episode(store, i, 8)
            episode.metadata = {"source": {"id": f"ep{i}"}}
            store.append(episode)
    finding = {"kind": "stuck_channel", "message": "gripper never moves", "severity": "warning"}
    audit = {"schema": "robopolicy.audit/1", "episodes": {"ep1": {"findings": [finding], "checks": {}}}}
    (tmp_path / "s.zarr/audit.json").write_text(json.dumps(audit))
    shown = document(write_view(tmp_path / "s.zarr", tmp_path / "view.html"))
    assert [e["findings"] for e in shown["episodes"]] == [[], [finding]]


class FakeRerun(types.ModuleType):
    """Keeps what was logged, by entity."""

    def __init__(self) -> None:
        super().__init__("rerun")
        self.logged: list[tuple[str, Any, Any]] = []
        self.now: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *a, **k: (name, a, k)

    def RecordingStream(self, application: str) -> FakeRerun:
        return self

    def save(self, path: str) -> None:
        Path(path).write_bytes(b"RRF2")

    def flush(self) -> None:
        pass

    def set_time(self, timeline: str, **when: Any) -> None:
        self.now[timeline] = when

    def log(self, entity: str, value: Any, **options: Any) -> None:
        self.logged.append((entity, value, dict(self.now)))


def test_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "s.zarr", 2, 5)
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingDependencyError, match="rerun-sdk"):
        write_recording(store, tmp_path / "a.rrd")
    fake = FakeRerun()
    monkeypatch.setitem(sys.modules, "rerun", fake)
    assert write_recording(store, tmp_path / "a.rrd", [1]).is_file()
    gripper = [value[1][0] for entity, value, _ in fake.logged if entity == "episode_1/action/gripper"]
    np.testing.assert_allclose(gripper, store.column("action")[5:11, -1])
    frames = [(value, now) for entity, value, now in fake.logged if entity == "episode_1/front"]
    assert len(frames) == 6
    assert frames[3][0][0] == "EncodedImage"
    assert frames[3][0][2]["contents"] == store.images("front").blobs(8, 9)[0]
    assert frames[3][1]["time"]["duration"] == pytest.approx(0.15)
