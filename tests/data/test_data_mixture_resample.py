"""Resampling by the stated rule: exact on lines and constant turns, held where it says, equal at equal rates."""

from __future__ import annotations

import dataclasses

import mixture_toy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.data.resample import ResampledStore, at_rate
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DataError
from robopolicy.frames import resize_frames
from robopolicy.resampling import blend_of, places
from robopolicy.rotations import axis_angle_to_matrix, matrix_to_rotation_6d, rotation_6d_to_matrix

PANDA = load_embodiment("panda")


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(0, 1000), st.integers(0, 2**31))
def test_places_are_the_last_row_at_or_before(count: int, wanted: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = np.cumsum(rng.integers(1, 50, count)).astype(np.int64)
    row, share = places(source, np.array([wanted], np.int64))
    inside = source[0] <= wanted <= source[-1]
    brute = max((i for i, t in enumerate(source) if t <= wanted), default=0)
    assert int(row[0]) == brute
    assert 0 <= share[0] < 1
    if inside and brute + 1 < count:
        assert np.isclose(source[brute] + share[0] * (source[brute + 1] - source[brute]), wanted)
    else:
        assert share[0] == 0


def line_store(path, *, rate=20.0, rows=41, turn=0.8):
    """x runs with time, the tool turns about z at ``turn`` rad/s, the gripper closes at 1 s; targets one row ahead."""
    t = np.arange(rows + 1) / rate
    rotation = matrix_to_rotation_6d(axis_angle_to_matrix(t[:, None] * np.array([0, 0, turn])))
    state = np.concatenate([t[:, None] * 0.1, np.zeros((rows + 1, 2)), rotation, (t[:, None] < 1.0)], axis=1)
    card = dataclasses.replace(PANDA, control_hz=rate, setpoint_hz=rate * 5)
    with EpisodeStore.create(path, card, task="line", joints=False, cameras=("front",)) as store:
        from robopolicy.data.episode import Episode

        for begin in (0, 5_000_000_000):
            streams = {
                "state": state[:-1].astype(np.float32),
                "action": state[1:].astype(np.float32),
                "time_ns": begin + np.round(t[:-1] * 1e9).astype(np.int64),
                "image/front": np.broadcast_to(np.arange(rows, dtype=np.uint8)[:, None, None, None], (rows, 96, 96, 3)),
            }
            store.append(Episode(streams))
    return EpisodeStore.open(path)


@pytest.mark.parametrize("rate", [10.0, 40.0, 15.0, 50.0, 7.3])
def test_lines_and_turns_are_exact_at_any_ratio(tmp_path, rate) -> None:
    store = line_store(tmp_path / "line.zarr")
    view = ResampledStore(store, rate)
    t = (view.column("time_ns")[: view.episode_ends[0]] * 1e-9)[:, None]
    state, action = (view.read(n, 0, int(view.episode_ends[0])) for n in ("state", "action"))
    assert np.allclose(np.diff(t[:, 0]), 1 / rate)
    assert t[-1, 0] <= 2.0 < t[-1, 0] + 1 / rate + 1e-9
    np.testing.assert_allclose(state[:, :1], 0.1 * t, atol=1e-6)
    turned = rotation_6d_to_matrix(state[:, 3:9].astype(float))
    np.testing.assert_allclose(turned, axis_angle_to_matrix(t * np.array([0, 0, 0.8])), atol=1e-5)
    reach = np.clip(t + 1 / rate, 0.05, 2.05)  # the first target is reached at 0.05 s, the last at 2.05 s
    np.testing.assert_allclose(action[:, :1], 0.1 * reach, atol=1e-6)
    assert set(np.unique(state[:, 9])) == {0.0, 1.0}, "a gripper is never half-way"
    held = np.floor(t[:, 0] * 20 + 1e-6) / 20 < 1.0 - 1e-9
    assert (state[:, 9] == held).all()
    frames = np.empty((len(t), 96, 96, 3), np.uint8)
    view.images("front").gather(np.arange(len(t)), frames)
    assert (frames[:, 0, 0, 0] == np.floor(t[:, 0] * 20 + 1e-6)).all(), "the last picture at or before"
    assert rate == 10.0 or np.abs(state[:, 0] - np.floor(t[:, 0] * 20 + 1e-6) / 200).max() > 1e-3  # control: not held


def test_slerp_is_not_a_blend_of_numbers() -> None:
    blend = blend_of(PANDA.state, PANDA)
    assert (len(blend.rotations), blend.held) == (1, (9,))
    a, b = np.zeros((2, 10))
    a[3:9] = matrix_to_rotation_6d(np.eye(3))
    b[3:9] = matrix_to_rotation_6d(axis_angle_to_matrix(np.array([0, 0, 2.0])))
    out = blend.rows(a, b, np.array(0.25))
    np.testing.assert_allclose(rotation_6d_to_matrix(out[3:9]), axis_angle_to_matrix(np.array([0, 0, 0.5])), atol=1e-9)
    assert np.abs(out[3:9] - (0.75 * a + 0.25 * b)[3:9]).max() > 0.05


def test_equal_rates_are_the_store_itself(tmp_path) -> None:
    store = line_store(tmp_path / "line.zarr")
    assert at_rate(store, None) is store
    assert at_rate(store, 20.0) is store
    same = ResampledStore(store, 20.0)
    for name in ("state", "action", "time_ns"):
        np.testing.assert_array_equal(same.column(name), store.column(name))
    half = ResampledStore(store, 10.0)
    np.testing.assert_array_equal(
        half.column("state"), np.concatenate([store.read("state", a, a + 41)[::2] for a in (0, 41)])
    )


def test_windows_read_a_view_like_a_store_and_nothing_is_written(tmp_path) -> None:
    store = line_store(tmp_path / "line.zarr")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "line.zarr").rglob("*")}
    view = ResampledStore(store, 10.0)
    windows = WindowDataset(view, WindowSpec(2, 4, environment_state=False, cameras=("front",)))
    assert len(windows) == view.num_steps == 42
    part = windows.gather(np.array([0, 5, 20, 21]))
    np.testing.assert_allclose(np.diff(part["time_ns"][1]), 100_000_000)
    assert part["image"]["front"][:, -1, 0, 0, 0].tolist() == [0, 10, 40, 0]
    assert part["action_mask"][2, :, 0].tolist() == [True, True, False, False], "padding at the end of the episode"
    assert view.info(1)["start"] == 21
    assert view.info(1)["language"] == store.info(1)["language"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "line.zarr").rglob("*")} == before


def test_the_residual_is_recorded(tmp_path) -> None:
    store = line_store(tmp_path / "line.zarr")
    up = ResampledStore(store, 40.0).residual
    assert np.isclose(up.nearest_max_s, 0.025)
    assert np.isclose(up.age_max_s, 0.025)
    down = ResampledStore(store, 10.0).residual
    assert down.age_max_s < 1e-8
    assert {"from_hz": 20.0, "to_hz": 10.0}.items() <= down.to_dict().items()


def test_actions_that_are_no_targets_are_refused(tmp_path) -> None:
    card = dataclasses.replace(PANDA, action_reference="delta")
    mixture_toy.write(tmp_path / "delta.zarr", card)
    with pytest.raises(DataError, match="absolute targets"):
        ResampledStore(EpisodeStore.open(tmp_path / "delta.zarr"), 10.0)


def test_one_resize_for_training_and_for_action() -> None:
    from robopolicy.data.resize import resize_frame

    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 30, 3), dtype=np.uint8)
    small = resize_frames(frames, (8, 12))
    other = np.empty((8, 12, 3), np.uint8)
    resize_frame(frames[1, 2], other)
    assert (small[1, 2] == other).all()
    assert resize_frames(frames, (20, 30)) is frames
