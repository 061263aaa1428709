"""Checks of canonical episodes: each planted fault is found, and clean data give no warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.data.audit_checks import CheckPlan, check_canonical, check_plan, state_action_lag
from robopolicy.data.audit_judge import judge
from robopolicy.data.codecs import encode_jpeg
from robopolicy.data.convert.source import Finding
from robopolicy.data.convert.unify import generic_card
from robopolicy.data.episode import EncodedFrames, Episode
from robopolicy.data.store import EpisodeStore

FPS, ROWS = 20.0, 200
CHANNELS = [("joint_a", "rad"), ("joint_b", "rad"), ("x", "m"), ("gripper", "normalised")]


def card() -> Any:
    return generic_card("audited", state=CHANNELS, action=CHANNELS, control_hz=FPS)


def clean(index: int, lag: int = 2) -> Episode:
    """Smooth motion; the state follows the action by ``lag`` rows; the gripper opens and closes."""
    rng = np.random.default_rng([11, index])
    path = np.cumsum(rng.normal(size=(ROWS + 40, 4)), axis=0) * 0.02
    path[:, 3] = 0.5 + 0.4 * np.sin(np.arange(len(path)) / 9.0 + index)
    frames = np.full((ROWS, 8, 8, 3), (120, 110, 100), np.uint8)
    return Episode(
        {
            "state": path[20 : 20 + ROWS],
            "action": path[20 + lag : 20 + lag + ROWS],
            "time_ns": (np.arange(ROWS) * 1e9 / FPS).astype(np.int64),
            "image/front": frames,
        },
        metadata={"source": {"id": f"e{index}"}},
    )


def findings_of(tmp_path: Path, change: Any = None, episodes: int = 4) -> list[Finding]:
    """Findings over a store of episodes that ``change(episode, index)`` has altered."""
    store = EpisodeStore.create(tmp_path / "audited.zarr", card(), joints=False, cameras={"front": (8, 8)})
    plan, checks = check_plan(store.embodiment, FPS, store.streams), {}
    with store:
        for i in range(episodes):
            episode = clean(i)
            if change is not None:
                change(episode, i)
            store.append(episode, any_rate=True)
            checks[f"e{i}"] = check_canonical(episode, plan)
        return judge(store, checks)[0]


def warned(findings: list[Finding]) -> set[str]:
    return {f.kind for f in findings if f.severity != "note"}


def test_clean_episodes_give_no_warning(tmp_path: Path) -> None:
    found = findings_of(tmp_path)
    assert warned(found) == set()
    assert {f.kind for f in found} <= {"lag"}


def stuck(episode: Episode, index: int) -> None:
    episode.streams["state"][:, 1] = 0.1 * index  # type: ignore[index]


def constant(episode: Episode, index: int) -> None:
    episode.streams["state"][:, 1] = 0.25  # type: ignore[index]


def degrees(episode: Episode, index: int) -> None:
    for name in ("state", "action"):
        episode.streams[name][:, 0] = np.rad2deg(episode.streams[name][:, 0])  # type: ignore[index]


def millimetres(episode: Episode, index: int) -> None:
    for name in ("state", "action"):
        episode.streams[name][:, 2] *= 1000.0  # type: ignore[index]


def wide_gripper(episode: Episode, index: int) -> None:
    episode.streams["state"][:, 3] *= 255.0  # type: ignore[index]


def clipped(episode: Episode, index: int) -> None:
    values = episode.streams["action"][:, 0]  # type: ignore[index]
    low, high = np.quantile(values, [0.15, 0.85])
    episode.streams["action"][:, 0] = np.clip(values, low, high)  # type: ignore[index]


def drifting(episode: Episode, index: int) -> None:
    periods = np.linspace(1.0, 1.3, ROWS - 1) / FPS * 1e9
    episode.streams["time_ns"] = np.concatenate([[0], np.cumsum(periods)]).astype(np.int64)


def jittery(episode: Episode, index: int) -> None:
    rng = np.random.default_rng(index)
    periods = rng.uniform(0.3, 1.7, ROWS - 1) / FPS * 1e9
    episode.streams["time_ns"] = np.concatenate([[0], np.cumsum(periods)]).astype(np.int64)


def late_action(episode: Episode, index: int) -> None:
    episode.streams.update({k: clean(index, lag=-2).streams[k] for k in ("state", "action")})


def repeated(episode: Episode, index: int) -> None:
    episode.streams.update({k: clean(0).streams[k] for k in ("state", "action")})


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (stuck, "stuck_channel"),
        (constant, "constant_channel"),
        (degrees, "units"),
        (millimetres, "units"),
        (wide_gripper, "gripper_range"),
        (clipped, "clipped"),
        (drifting, "rate_drift"),
        (jittery, "jitter"),
        (late_action, "lag"),
        (repeated, "duplicate_episode"),
    ],
)
def test_a_planted_fault_is_found_and_no_other(tmp_path: Path, fault: Any, kind: str) -> None:
    allowed = {kind, "rate"} if kind == "rate_drift" else {kind}
    found = warned(findings_of(tmp_path, fault))
    assert kind in found
    assert found <= allowed


def test_swapped_colours_and_idling_are_only_noted(tmp_path: Path) -> None:
    def blue(episode: Episode, index: int) -> None:
        episode.streams["image/front"] = np.full((ROWS, 8, 8, 3), (60, 90, 160), np.uint8)
        for name in ("state", "action"):
            episode.streams[name][100:] = episode.streams[name][100]  # type: ignore[index]

    found = {f.kind: f.severity for f in findings_of(tmp_path, blue)}
    assert found["colour_order"] == found["idle"] == "note"


def test_an_open_or_closed_gripper_is_not_called_clipped() -> None:
    plan = check_plan(card(), FPS, {})
    assert plan.streams == {}
    episode = clean(0)
    episode.streams["state"][:, 3] = np.arange(ROWS) // 50 % 2  # type: ignore[index]
    store_plan = CheckPlan(FPS, check_plan(card(), FPS, _specs()).streams)
    assert "gripper" not in check_canonical(episode, store_plan)["at_limit"].get("state", {})


def _specs() -> dict[str, Any]:
    from robopolicy.data.episode import stream_specs

    return stream_specs(card(), (), {"front": (8, 8)}, {})


@given(lag=st.integers(-2, 15), seed=st.integers(0, 1000))
def test_the_lag_that_was_put_in_is_measured(lag: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = np.cumsum(rng.normal(size=(ROWS + 40, 4)), axis=0)
    plan = check_plan(card(), FPS, _specs())
    measured = state_action_lag(path[20 : 20 + ROWS], path[20 + lag : 20 + lag + ROWS], plan)
    assert measured is not None
    assert measured["rows"] == lag
    unrelated = state_action_lag(path[:ROWS], rng.normal(size=(ROWS, 4)).cumsum(axis=0), plan)
    assert unrelated is not None
    assert unrelated["correlation"] < 0.3 < measured["correlation"]


@given(rows=st.integers(1, 5), seed=st.integers(0, 50))
def test_short_episodes_and_encoded_frames_are_looked_at_without_complaint(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8)
    episode = Episode(
        {
            "state": rng.normal(size=(rows, 4)),
            "action": rng.normal(size=(rows, 4)),
            "time_ns": np.arange(rows, dtype=np.int64) * 50_000_000,
            "image/front": EncodedFrames((8, 8, 3), tuple(encode_jpeg(f) for f in frames)),
        }
    )
    found = check_canonical(episode, check_plan(card(), FPS, _specs()))
    assert found["rows"] == rows
    assert "lag" not in found
    assert len(found["colour"]["front"]) == 3
