"""Export to LeRobot v3.0, read again by our own reader, and the engine behind it: whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from robopolicy.data.convert.engine import convert
from robopolicy.data.convert.unify import generic_card
from robopolicy.data.episode import Episode, StreamSpec
from robopolicy.data.export.engine import export, output_formats
from robopolicy.data.export.lerobot_stats import ColumnStats, ImageStats
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError, StorageError, UnknownNameError

FPS, HEIGHT, WIDTH = 12.5, 32, 48
LENGTHS = (25, 9, 40, 16)
FORMAT = "lerobot_v30"
SMALL: dict[str, Any] = {"codec": "h264", "crf": 8}
CLOSE = 6.0


def frame(index: int, row: int) -> np.ndarray:
    """Smooth, and 25 grey levels from that of the next row."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    level = 20 + 25 * (row % 8) + 7 * index
    return np.stack([level + x // 8, level + y // 8, np.full_like(x, level)], -1).clip(0, 255).astype(np.uint8)


def make(path: Path, codec: str = "raw", **changes: Any) -> EpisodeStore:
    channels = [("a", "rad"), ("b", "rad"), ("gripper", "normalised")]
    card = generic_card("exported", state=channels, action=channels, control_hz=FPS)
    extra = {
        "source/next.reward": StreamSpec("float32", (1,), ("reward",)),
        "wrench": StreamSpec("float32", (6,), tuple(f"w{i}" for i in range(6)), kind="wrench"),
        "phase": StreamSpec("int64", ()),
    }
    settings: dict[str, Any] = {"cameras": {"front": (HEIGHT, WIDTH)}, "extra": extra, "task": "exported task"}
    store = EpisodeStore.create(path, card, joints=False, codec=codec, fps=FPS, **{**settings, **changes})
    for i, rows in enumerate(LENGTHS):
        rng = np.random.default_rng(i)
        streams: dict[str, Any] = {
            "state": rng.normal(size=(rows, 3)),
            "action": rng.normal(size=(rows, 3)),
            "time_ns": 10**12 + np.round(np.arange(rows) * 1e9 / FPS).astype(np.int64),
            "image/front": np.stack([frame(i, t) for t in range(rows)]),
            "source/next.reward": rng.normal(size=(rows, 1)),
            "wrench": rng.normal(size=(rows, 6)),
            "phase": np.arange(rows) // 5,
        }
        streams = {k: v for k, v in streams.items() if k in store.streams}
        store.append(Episode(streams, f"task {i % 2}", i == 2, {"operator": f"person {i}"}))
    store.close()
    return EpisodeStore.open(path)


@pytest.mark.parametrize("options", [SMALL, {"frames": "image"}], ids=["video", "image"])
def test_what_was_exported_comes_back(tmp_path: Path, options: dict[str, Any]) -> None:
    store = make(tmp_path / "s.zarr")
    report = export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT, options=options)
    assert (report.episodes, report.steps, report.findings) == (len(LENGTHS), sum(LENGTHS), ())
    convert(tmp_path / "out", tmp_path / "back.zarr", codec="raw")
    back = EpisodeStore.open(tmp_path / "back.zarr")
    assert back.episode_ends.tolist() == store.episode_ends.tolist()
    assert back.fps == FPS
    assert back.embodiment.state.names == store.embodiment.state.names
    pairs = {
        "state": "state",
        "action": "action",
        "source/next.reward": "source/next.reward",
        "wrench": "source/observation.wrench",
        "phase": "source/observation.phase",
    }
    for ours, theirs in pairs.items():
        np.testing.assert_array_equal(back.read(theirs), store.read(ours), err_msg=ours)
    assert [back.info(i)["language"] for i in range(4)] == ["task 0", "task 1", "task 0", "task 1"]
    shown, right = back.read("image/front").astype(float), store.read("image/front").astype(float)
    if options.get("frames") == "image":
        np.testing.assert_array_equal(shown, right)
    else:
        assert np.abs(shown - right).mean(axis=(1, 2, 3)).max() < CLOSE
        for i, end in enumerate(store.episode_ends):  # control: the next row of the same episode is not close
            inside = slice(end - LENGTHS[i], end - 1)
            assert np.abs(shown[inside] - right[inside.start + 1 : end]).mean(axis=(1, 2, 3)).min() > CLOSE
    for i in range(4):
        start, stop = back.info(i)["start"], back.info(i)["stop"]
        times = store.read("time_ns", start, stop)
        np.testing.assert_array_equal(back.read("time_ns", start, stop), times - times[0])


def test_small_file_limits_make_several_files_and_nothing_is_lost(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr")
    options = {**SMALL, "data_file_mb": 0.002, "video_file_mb": 0.001}
    export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT, options=options)
    assert len(list((tmp_path / "out/data").rglob("*.parquet"))) > 1
    assert len(list((tmp_path / "out/videos").rglob("*.mp4"))) > 1
    convert(tmp_path / "out", tmp_path / "back.zarr")
    back = EpisodeStore.open(tmp_path / "back.zarr")
    np.testing.assert_array_equal(back.read("action"), store.read("action"))
    shown, right = back.read("image/front").astype(float), store.read("image/front").astype(float)
    assert np.abs(shown - right).mean(axis=(1, 2, 3)).max() < CLOSE


def test_jpeg_frames_are_exported_as_they_are(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr", codec="jpeg")
    export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT, options={"frames": "image"})
    convert(tmp_path / "out", tmp_path / "back.zarr")
    back = EpisodeStore.open(tmp_path / "back.zarr")
    ours, theirs = (s.images("front").blobs(0, s.num_steps) for s in (store, back))  # type: ignore[attr-defined]
    assert ours == theirs


def test_deleted_episodes_are_not_exported(tmp_path: Path) -> None:
    make(tmp_path / "s.zarr")
    with EpisodeStore.open(tmp_path / "s.zarr", mode="a") as store:
        store.set_tombstones([1])
    export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT, options=SMALL)
    table = pq.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet")
    assert table["length"].to_pylist() == [25, 40, 16]
    assert table["dataset_to_index"].to_pylist() == [25, 65, 81]


def test_statistics_are_those_of_the_store(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr")
    export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT, options={"frames": "image"})
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    rows = store.read("action").astype(np.float64)
    found = {name: np.array(value) for name, value in stats["action"].items()}
    np.testing.assert_allclose(found["mean"], rows.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found["std"], rows.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["q10"], np.quantile(rows, 0.1, axis=0), rtol=1e-12)
    assert found["count"].tolist() == [len(rows)]
    image = {name: np.array(value) for name, value in stats["observation.images.front"].items()}
    assert image["mean"].shape == (3, 1, 1)
    frames = store.read("image/front") / 255.0
    # lengths below 64 are counted whole
    np.testing.assert_allclose(image["mean"].ravel(), frames.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(image["std"].ravel(), frames.std(axis=(0, 1, 2)), rtol=1e-9)


def test_merged_statistics_equal_those_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, 3)) for n in (5, 1, 40)]
    merged = ColumnStats.of(parts[0]).merged(ColumnStats.of(parts[1])).merged(ColumnStats.of(parts[2])).to_dict()
    whole = ColumnStats.of(np.concatenate(parts)).to_dict()
    for name, value in whole.items():
        np.testing.assert_allclose(merged[name], value, err_msg=name)
    frames = rng.integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
    one, two = ImageStats(10), ImageStats(10)
    list(one.watched(iter(frames[:4])))
    list(two.watched(iter(frames[4:])))
    total = one.merged(two).to_dict()
    np.testing.assert_allclose(np.ravel(total["mean"]), frames.mean(axis=(0, 1, 2)) / 255.0)
    np.testing.assert_allclose(np.ravel(total["max"]), frames.max(axis=(0, 1, 2)) / 255.0)


@pytest.mark.parametrize(
    ("size", "codec", "message"), [((33, 48), "h264", "even size"), ((32, 48), "av1", "too small for AV1")]
)
def test_frames_that_the_codec_cannot_hold(tmp_path: Path, size: tuple[int, int], codec: str, message: str) -> None:
    channels = [("a", "rad")]
    card = generic_card("odd", state=channels, action=channels, control_hz=10)
    with EpisodeStore.create(tmp_path / "s.zarr", card, joints=False, cameras={"c": size}) as store:
        streams = {
            "state": np.zeros((3, 1)),
            "action": np.zeros((3, 1)),
            "time_ns": np.arange(3) * 10**8,
            "image/c": np.zeros((3, *size, 3), np.uint8),
        }
        store.append(Episode(streams))
    with pytest.raises(DataError, match=f"{message}.*frames=image"):
        export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT, options={"codec": codec})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.zarr"]
    export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT, options={"frames": "image"})


def test_depth_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    channels = [("a", "rad")]
    card = generic_card("deep", state=channels, action=channels, control_hz=10)
    extra = {"depth/c": StreamSpec("uint16", (8, 8, 1), units=(), kind="depth")}
    with EpisodeStore.create(tmp_path / "s.zarr", card, joints=False, extra=extra) as store:
        streams = {
            "state": np.zeros((3, 1)),
            "action": np.zeros((3, 1)),
            "time_ns": np.arange(3) * 10**8,
            "depth/c": np.zeros((3, 8, 8, 1), np.uint16),
        }
        store.append(Episode(streams))
    report = export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT)
    assert [(f.kind, f.stream) for f in report.findings] == [("left_out", "depth/c")]
    assert "depth" not in (tmp_path / "out/meta/info.json").read_text()


def test_an_export_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "s.zarr")
    from robopolicy.data.export import lerobot_v30

    def fails(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(lerobot_v30, "write_tasks", fails)
        with pytest.raises(KeyboardInterrupt):
            export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT, options=SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.zarr"]
    (tmp_path / ".exporting.out").mkdir()  # as a killed run leaves it
    (tmp_path / ".exporting.out" / "half").write_text("x")
    export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT, options=SMALL)
    assert not (tmp_path / "out" / "half").exists()
    with pytest.raises(StorageError, match="already exists"):
        export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT, options=SMALL)


def test_refusals(tmp_path: Path) -> None:
    make(tmp_path / "s.zarr")
    assert FORMAT in output_formats()
    with pytest.raises(UnknownNameError, match="lerobot_v30"):
        export(tmp_path / "s.zarr", tmp_path / "out", format="lerobot_v21")
    with pytest.raises(ConfigError, match="did you mean 'codec'"):
        export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT, options={"kodec": "h264"})
    with pytest.raises(ConfigError, match="crf"):
        export(tmp_path / "s.zarr", tmp_path / "out", format=FORMAT, options={"crf": "low"})
    card = generic_card("empty", state=[("a", "rad")], action=[("a", "rad")], control_hz=10)
    EpisodeStore.create(tmp_path / "empty.zarr", card, joints=False).close()
    with pytest.raises(DataError, match="no episodes"):
        export(tmp_path / "empty.zarr", tmp_path / "out", format=FORMAT)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robopolicy.cli.main import main

    make(tmp_path / "s.zarr")
    words = ["data", "export", str(tmp_path / "s.zarr"), str(tmp_path / "out"), f"format={FORMAT}"]
    assert main([*words, "options.codec=h264"]) == 0
    assert "4 episodes, 90 steps" in capsys.readouterr().out
    assert main(["list", "formats"]) == 0
    line = next(text for text in capsys.readouterr().out.splitlines() if FORMAT in text)
    assert "in, out" in line
