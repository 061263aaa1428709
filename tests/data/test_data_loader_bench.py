"""The bench: how a verdict is reached, that all sides read the same frames, and the command itself on a tiny store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from robopolicy.cli.main import main
from robopolicy.data.bench.comparison import Comparison, interleaved
from robopolicy.data.bench.reading import Reference, _zarr_arrays, spec_of
from robopolicy.data.bench.robomimic_peer import write_robomimic
from robopolicy.data.bench.scale import _Scanning
from robopolicy.data.bench.synthetic import camera_frames, many_episodes, synthetic_store
from robopolicy.data.windows import WindowDataset
from robopolicy.errors import DataError
from robopolicy.evaluation.claims import read_claims


def comparison(ours: list[float], theirs: list[float], control: list[float], target: float = 2.0) -> Comparison:
    rates = {"ours": ours, "theirs": theirs, "control": control}
    return Comparison("a", "it is so", target, "ours", "theirs", ("control", "a control"), "samples/s", rates)


def test_a_target_is_reached_only_if_the_control_misses_it() -> None:
    good = comparison([30, 33, 27], [10, 11, 9], [10, 11, 9])
    assert good.reached
    assert good.ratio() == 3.0
    assert good.interval[0] <= 3.0 <= good.interval[1]
    assert not comparison([15, 15, 15], [10, 10, 10], [10, 10, 10]).reached
    assert not comparison([30, 30, 30], [10, 10, 10], [25, 25, 25]).reached  # the control reaches it, too
    one = Comparison("a", "c", 2.0, "x", "y", ("y", "itself"), "u", {"x": [9.0, 9.0], "y": [3.0, 4.5]})
    assert one.control_ratio == 1.5


def test_rounds_take_turns_and_the_first_is_dropped() -> None:
    calls: list[str] = []

    def contender(name: str):
        return lambda number: (calls.append(f"{name}{number}"), float(number))[1]

    rates = interleaved({"a": contender("a"), "b": contender("b")}, 2)
    assert calls == ["b0", "a0", "a1", "b1", "b2", "a2"]
    assert rates == {"a": [1.0, 2.0], "b": [1.0, 2.0]}
    with pytest.raises(DataError, match="nothing to measure"):
        interleaved({}, 0)


def test_all_sides_read_the_same(tmp_path: Path) -> None:
    import h5py

    store = synthetic_store(tmp_path / "raw.zarr", "raw", 2, 20, 16, 24)
    windows = WindowDataset(store, spec_of(store), cache_bytes=0)
    index = np.array([0, 7, 19, 20, 39])
    batch, sliced = windows.gather(index), Reference(store, _zarr_arrays(store)).sliced(index)
    memory = {camera: store.read(f"image/{camera}") for camera in store.cameras}
    taken = Reference(store, memory).vectorised(index)
    for camera in store.cameras:
        np.testing.assert_array_equal(batch["image"][camera], sliced["image"][camera])
        np.testing.assert_array_equal(batch["image"][camera], taken["image"][camera])
    for name, other in (("state", "state"), ("action", "action")):
        np.testing.assert_array_equal(batch[name], sliced[other])
    np.testing.assert_array_equal(batch["action_mask"][..., 0], sliced["mask"])
    write_robomimic(store, tmp_path / "r.hdf5", 2)
    with h5py.File(tmp_path / "r.hdf5") as file:
        assert file["data"].attrs["total"] == 40
        np.testing.assert_array_equal(file["data/demo_1/obs/one_image"][()], memory["one"][20:])
        np.testing.assert_array_equal(file["data/demo_1/actions"][()], store.read("action", 20, 40))
    scanned = _Scanning(store, spec_of(store), cache_bytes=0).gather(index)
    np.testing.assert_array_equal(scanned["action"], batch["action"])


def test_synthetic_frames_are_neither_flat_nor_still() -> None:
    frames = camera_frames(np.random.default_rng(0), 12, 48, 64).astype(float)
    assert frames.std() > 15
    assert 1.5 < (frames[1] - frames[0])[:8].std() / np.sqrt(2) < 3.0  # the noise of the sensor, away from the arm
    assert np.abs(frames[11] - frames[0]).max() > 60  # the arm


def test_many_episodes(tmp_path: Path) -> None:
    store = many_episodes(tmp_path / "m.zarr", 50, 200, 16)
    assert (store.num_episodes, store.num_steps) == (50, 200)
    assert np.diff(store.episode_ends).tolist() == [4] * 49


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["rounds=1", "scale=0.02", "episodes=2", "steps=20", "size=16", "many=20", "many_rows=200"]
    words = ["data", "bench", "synthetic", "only=[reading,scale]", *tiny, "--out", str(tmp_path / "results")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "zarr-python raw" in said
    found = read_claims(tmp_path / "results")
    assert {name.removeprefix("data/") for name in found} == {
        "window_cache_vs_memmap",
        "window_direct_raw_vs_zarr",
        "window_direct_jpeg_vs_zarr",
        "many_episodes_vs_few",
    }
    entry = json.loads((tmp_path / "results/data/many_episodes_vs_few.json").read_text())
    assert entry["command"].startswith("robopolicy data bench synthetic")
    assert {"10 episodes", "20 episodes", "result"} <= set(entry["value"])
    assert main(["data", "bench", "synthetic", "only=[reeding]"]) == 2
    assert "no such part" in capsys.readouterr().err
    store = synthetic_store(tmp_path / "own.zarr", "jpeg", 3, 20, 16, 16)
    assert main(["data", "bench", str(store.path), "only=[reading]", "rounds=1", "scale=0.02", "episodes=2"]) == 0
    assert "zarr-python jpeg" in capsys.readouterr().out
