"""LeRobot v2.1 and v3.0 as sources: numbers exact, every row with its own frame, contradictions told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lerobot_toy as toy
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recordings import recordings

from robopolicy.data.audit import read_audit
from robopolicy.data.convert.engine import ConversionReport, convert
from robopolicy.data.convert.lerobot_features import camera_key, flat_names
from robopolicy.data.convert.lerobot_files import missing_episodes, spans
from robopolicy.data.convert.recognise import open_source, recognise
from robopolicy.data.convert.video import nearest_frames, probe_video, read_frames
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, EmbodimentError

# An 8-bit picture through 4:2:0 video at crf 10 and one JPEG coding; frames of neighbouring rows are 25 apart.
CLOSE = 6.0


def run(source: Path, out: Path, **options: Any) -> ConversionReport:
    return convert(source, out, **options)


def verify(store: EpisodeStore, episodes: list[int], lengths: list[int], camera: str = "top") -> None:
    assert store.num_episodes == len(episodes)
    for i, (index, rows) in enumerate(zip(episodes, lengths, strict=True)):
        info, wanted = store.info(i), toy.numbers(index, rows)
        assert (info["length"], info["language"]) == (rows, f"task {index % 2}")
        assert info["metadata"]["source"]["id"] == f"episode_{index:06d}"
        start, stop = info["start"], info["stop"]
        np.testing.assert_array_equal(store.read("state", start, stop), wanted["observation.state"])
        np.testing.assert_array_equal(store.read("action", start, stop), wanted["action"])
        np.testing.assert_array_equal(
            store.read("source/observation.effort", start, stop), wanted["observation.effort"]
        )
        times = np.round(np.arange(rows) * 1e9 / toy.FPS).astype(np.int64)
        np.testing.assert_array_equal(store.read("time_ns", start, stop), times)
        shown = store.read(f"image/{camera}", start, stop).astype(float)
        right = np.stack([toy.frame(index, t) for t in range(rows)])
        assert np.abs(shown - right).mean(axis=(1, 2, 3)).max() < CLOSE
        # control: the frames of the next row are not close
        assert np.abs(shown[:-1] - right[1:]).mean(axis=(1, 2, 3)).min() > CLOSE


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libsvtav1"])
def test_v21_with_videos(tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if codec == "libsvtav1":
        monkeypatch.setattr(toy, "HEIGHT", 64)
        monkeypatch.setattr(toy, "WIDTH", 64)
        monkeypatch.setenv("SVT_LOG", "1")
    lengths = [23, 17, 31]
    source = toy.write_v21(tmp_path / "src", lengths, codec=codec, stated_codec="h264")
    assert recognise(source) == "lerobot_v21"
    report = run(source, tmp_path / "o.zarr")
    store = EpisodeStore.open(tmp_path / "o.zarr")
    verify(store, [0, 1, 2], lengths)
    assert store.embodiment.state.names == store.embodiment.action.names == toy.NAMES
    assert not store.embodiment.joints.names, "a card from names alone must not be drivable"
    told = [f.message for f in report.findings if f.kind == "metadata"]
    true = {"libx264": "h264", "mpeg4": "mpeg4", "libsvtav1": "av1"}[codec]
    assert told == ([] if true == "h264" else [f"codec: info.json says h264, episode_000000.mp4 has {true}"])


@pytest.mark.parametrize("image_kind", ["PNG", "JPEG"])
def test_v21_with_images_in_the_table(tmp_path: Path, image_kind: str) -> None:
    source = toy.write_v21(tmp_path / "src", [12, 9], kind="image", image_kind=image_kind)
    run(source, tmp_path / "o.zarr")
    store = EpisodeStore.open(tmp_path / "o.zarr")
    verify(store, [0, 1], [12, 9], camera="image")
    if image_kind == "JPEG":
        blobs = store.images("image").blobs(0, 3)  # type: ignore[attr-defined]
        assert blobs == [toy.png(toy.frame(0, t), "JPEG") for t in range(3)], "JPEG files must not be coded again"


def test_missing_episodes_are_named_and_the_others_converted(tmp_path: Path) -> None:
    source = toy.write_v21(tmp_path / "src", [10, 11, 12, 13, 14, 15], absent=(1, 2, 5), no_video=(3,))
    report = run(source, tmp_path / "o.zarr", workers=2)
    verify(EpisodeStore.open(tmp_path / "o.zarr"), [0, 4], [10, 14])
    (missing,) = [f.message for f in report.findings if f.kind == "missing_episode"]
    assert missing.startswith("4 of 6 episodes are missing")
    assert "1-2, 5" in missing
    assert "no video observation.images.top: 3" in missing
    assert read_audit(tmp_path / "o.zarr")["expected_episodes"] == 6


def test_another_folder_than_the_template_says(tmp_path: Path) -> None:
    source = toy.write_v21(tmp_path / "src", [10], video_folder="video")
    report = run(source, tmp_path / "o.zarr")
    verify(EpisodeStore.open(tmp_path / "o.zarr"), [0], [10])
    assert any(f.kind == "path_template" and "video/" in f.message for f in report.findings)


def test_a_video_that_ends_early_is_refused_or_trimmed(tmp_path: Path) -> None:
    source = toy.write_v21(tmp_path / "src", [20, 10], video_rows={0: 16})
    with pytest.raises(DataError, match=r"episode_000000.*4 of 20 rows have no frame.*repair=\[trim_to_video\]"):
        run(source, tmp_path / "no.zarr")
    report = run(source, tmp_path / "o.zarr", repair=("trim_to_video",))
    store = EpisodeStore.open(tmp_path / "o.zarr")
    assert store.num_steps == 26
    np.testing.assert_array_equal(store.read("state", 0, 16), toy.numbers(0, 20)["observation.state"][:16])
    assert any(f.kind == "missing_frame" and f.repaired for f in report.findings)


def test_a_video_at_another_rate_is_refused_or_matched_by_number(tmp_path: Path) -> None:
    source = toy.write_v21(tmp_path / "src", [20], video_fps=8)
    with pytest.raises(DataError, match=r"runs at 8 Hz, the rows at 10 Hz.*frame_by_index"):
        run(source, tmp_path / "no.zarr")
    run(source, tmp_path / "o.zarr", repair=("frame_by_index",))
    verify(EpisodeStore.open(tmp_path / "o.zarr"), [0], [20])


def test_a_cut_video_and_a_cut_table_name_the_file(tmp_path: Path) -> None:
    source = toy.write_v21(tmp_path / "src", [12, 12, 12])
    video = source / "videos/chunk-000/observation.images.top/episode_000001.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    table = source / "data/chunk-000/episode_000002.parquet"
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"episode_000001\.mp4"):
        run(source, tmp_path / "o.zarr")
    report = run(source, tmp_path / "o.zarr", skip_bad=True)
    assert report.skipped == ("episode_000001", "episode_000002")
    assert "episode_000002.parquet" in report.audit["skipped"]["episode_000002"]["reason"]
    verify(EpisodeStore.open(tmp_path / "o.zarr"), [0], [12])


def test_v30_with_several_episodes_per_file(tmp_path: Path) -> None:
    source = toy.write_v30(tmp_path / "src", [[14, 9, 20], [11, 16]])
    assert recognise(source) == "lerobot_v30"
    run(source, tmp_path / "o.zarr", workers=2)
    verify(EpisodeStore.open(tmp_path / "o.zarr"), [0, 1, 2, 3, 4], [14, 9, 20, 11, 16])


def test_v30_with_all_episodes_in_one_row_group(tmp_path: Path) -> None:
    source = toy.write_v30(tmp_path / "src", [[14, 9, 20]], one_group=True)
    run(source, tmp_path / "o.zarr")
    verify(EpisodeStore.open(tmp_path / "o.zarr"), [0, 1, 2], [14, 9, 20])


def test_v30_whose_times_point_beyond_the_video_is_refused(tmp_path: Path) -> None:
    source = toy.write_v30(tmp_path / "src", [[14, 9]], gap_s=0.5)
    with pytest.raises(DataError, match=r"episode_000001.*rows have no frame"):
        run(source, tmp_path / "o.zarr")
    # an offset below half a period is the rounding of the container, and harmless
    source = toy.write_v30(tmp_path / "near", [[14, 9]], gap_s=0.02)
    run(source, tmp_path / "near.zarr")
    verify(EpisodeStore.open(tmp_path / "near.zarr"), [0, 1], [14, 9])


def test_v30_with_a_missing_file(tmp_path: Path) -> None:
    source = toy.write_v30(tmp_path / "src", [[5, 6], [7], [8]])
    (source / "data/chunk-000/file-001.parquet").unlink()
    report = run(source, tmp_path / "o.zarr")
    verify(EpisodeStore.open(tmp_path / "o.zarr"), [0, 1, 3], [5, 6, 8])
    assert any("1 of 4 episodes are missing (no table: 2)" in f.message for f in report.findings)


def test_channels_are_mapped_to_a_card_by_name_whatever_their_order(tmp_path: Path) -> None:
    import yaml

    from robopolicy.data.convert.unify import generic_card

    channels = [("gripper", "normalised"), ("wrist", "rad"), ("upper", "rad"), ("shoulder", "rad")]
    card = generic_card("mapped", state=channels, action=channels, control_hz=10)
    path = tmp_path / "mapped.yaml"
    path.write_text(yaml.safe_dump(card.to_dict()))
    source = toy.write_v21(tmp_path / "src", [10], kind="")
    with pytest.raises(EmbodimentError, match=r"no name leads to \['upper'\], \['elbow'\] lead nowhere"):
        open_source(source, "lerobot_v21", {"embodiment": str(path)})
    options = {"embodiment": str(path), "channels": {"elbow": "upper"}, "angles": "deg"}
    run(source, tmp_path / "o.zarr", options=options)
    store, wanted = EpisodeStore.open(tmp_path / "o.zarr"), toy.numbers(0, 10)["observation.state"]
    stored = store.embodiment.state.unpack(store.read("state"))
    np.testing.assert_allclose(stored["upper"], np.deg2rad(wanted[:, 1]), rtol=1e-6)
    np.testing.assert_array_equal(stored["gripper"], wanted[:, 3])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "meta/episodes.jsonl").write_text('{"episode_index": 0}\n{"epi'), "line 2 is damaged"),
        (lambda root: (root / "meta/episodes.jsonl").unlink(), "cannot be read"),
        (lambda root: _edit(root, fps=0), "fps has to be"),
        (lambda root: _edit(root, features=None), "lacks a mapping"),
        (lambda root: _edit(root, data_path="data/{what}.parquet"), "cannot be filled in"),
        (lambda root: [p.unlink() for p in root.glob("data/*/*")], "no complete episode"),
    ],
)
def test_damaged_metadata(tmp_path: Path, damage: Any, message: str) -> None:
    source = toy.write_v21(tmp_path / "src", [8, 8], kind="")
    damage(source)
    with pytest.raises(DataError, match=message):
        run(source, tmp_path / "o.zarr", format="lerobot_v21")
    assert not (tmp_path / "o.zarr").exists()


def _edit(root: Path, **entries: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_rows_that_contradict_the_metadata(tmp_path: Path) -> None:
    source = toy.write_v21(tmp_path / "src", [8, 9], kind="")
    path = source / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(path)
    stamps = pa.array((np.arange(9) * 0.13 + 2.0).astype(np.float32))
    table = table.set_column(table.column_names.index("timestamp"), "timestamp", stamps)
    pq.write_table(table.slice(0, 7), path)
    report = run(source, tmp_path / "o.zarr", any_rate=True)
    kinds = {f.kind for f in report.findings if f.episode == "episode_000001"}
    assert {"length", "timestamps"} <= kinds
    store = EpisodeStore.open(tmp_path / "o.zarr")
    np.testing.assert_allclose(np.diff(store.read("time_ns", 8, 15)) * 1e-9, 0.13, atol=1e-6)


def test_empty_cells_are_refused(tmp_path: Path) -> None:
    source = toy.write_v21(tmp_path / "src", [6], kind="")
    path = source / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    cells = table["action"].to_pylist()
    cells[3] = None
    table = table.set_column(table.column_names.index("action"), "action", pa.array(cells, pa.list_(pa.float32())))
    pq.write_table(table, path)
    with pytest.raises(DataError, match="'action' has empty cells"):
        run(source, tmp_path / "o.zarr")


def test_names_and_spans() -> None:
    assert (
        flat_names([["a", "b"]], 2) == flat_names({"motors": ["a", "b"]}, 2) == flat_names(["a", "b"], 2) == ("a", "b")
    )
    assert flat_names(None, 2) == flat_names(["a"], 2) == flat_names(["a", "a"], 2) == ("0", "1")
    assert spans([3, 0, 1, 2, 9]) == "0-3, 9"
    assert camera_key("observation.images.cam_high") == "cam_high"
    assert camera_key("observation.image") == "image"
    assert missing_episodes(2, [0, 1], {0: "", 1: ""}) == []


def test_frames_of_a_video_by_time_and_number(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    toy.video(path, [toy.frame(0, t) for t in range(40)], gop=12)
    video = probe_video(path)
    assert (len(video), video.codec, video.height, video.width) == (40, "h264", toy.HEIGHT, toy.WIDTH)
    np.testing.assert_allclose(video.times_s, np.arange(40) / toy.FPS, atol=1e-4)
    numbers, found = nearest_frames(video, np.array([1.94, 2.0, 2.06, 9.0]), 0.05)
    assert numbers.tolist() == [19, 20, 21, 39]
    assert found.tolist() == [True, True, True, False]
    for wanted in ([0], [37], [3, 3, 4, 20], list(range(40))):
        shown = list(read_frames(video, wanted))
        assert len(shown) == len(wanted)
        for image, number in zip(shown, wanted, strict=True):
            assert np.abs(image.astype(float) - toy.frame(0, number)).mean() < CLOSE
    with pytest.raises(DataError, match="ascending"):
        list(read_frames(video, [5, 4]))


def test_the_recording_of_a_humanoid(tmp_path: Path) -> None:
    """Real data: three of a hundred episodes; numbers exact, frames as PyAV gives them within one JPEG coding."""
    import av

    source = recordings("lerobot_v21_unitree_g1")
    report = run(source, tmp_path / "o.zarr", options={"embodiment": "unitree_g1_inspire"}, image_size=(120, 160))
    store = EpisodeStore.open(tmp_path / "o.zarr")
    assert [store.info(i)["length"] for i in range(3)] == [221, 277, 280]
    (missing,) = [f.message for f in report.findings if f.kind == "missing_episode"]
    assert "97 of 100" in missing
    assert "0-28, 31-58, 60-99" in missing
    for i, index in enumerate((29, 30, 59)):
        table = pq.read_table(source / f"data/chunk-000/episode_{index:06d}.parquet")
        start, stop = store.info(i)["start"], store.info(i)["stop"]
        for stream, key in (("state", "observation.state"), ("action", "action")):
            np.testing.assert_array_equal(store.read(stream, start, stop), np.array(table[key].to_pylist(), np.float32))
    with av.open(str(source / "videos/chunk-000/observation.images.cam_high/episode_000030.mp4")) as container:
        shown = [f.to_image().resize((160, 120), 1) for f, _ in zip(container.decode(video=0), range(30), strict=False)]
    stored = store.read("image/cam_high", 221, 251).astype(float)
    assert np.abs(stored - np.stack([np.asarray(f) for f in shown])).mean(axis=(1, 2, 3)).max() < 1.5
