"""The record of one episode: strict, plain, and the same after a trip through JSON."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.errors import DataError
from robopolicy.evaluation.result import MEASURED_FIELDS, TERMINATIONS, EpisodeResult

GOOD = {
    "index": 3,
    "split": "test",
    "task": "pick_place",
    "embodiment": "panda",
    "success_once": True,
    "success_at_end": True,
    "length": 74,
    "duration_s": 3.7,
    "termination": "success",
    "inference_ms": [12.5, 11.0],
    "latency_ms": 50.0,
    "ticks": 370,
    "tracking_ticks": 365,
    "missing_setpoints": 0,
    "clipped_ticks": 2,
    "max_seam_velocity_step": 0.8,
    "chunks": 10,
    "initial_state": [0.1, -0.2, 0.3],
    "cpu_s": 1.5,
    "video": None,
    "success_instant": True,
    "peak_force_n": 12.5,
    "metrics": {"overlap": 0.93},
    "lost_attempts": 0,
    "seam_jump_m": 0.004,
    "max_seam_jump_m": 0.02,
}


def test_trip_through_json():
    result = EpisodeResult(**GOOD)
    assert EpisodeResult.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False))) == result
    assert result.to_dict() == GOOD
    assert result.key == ("pick_place", "panda", "test", 3)


def test_numpy_values_become_plain():
    result = EpisodeResult(
        **{
            **GOOD,
            "index": np.int64(3),
            "success_once": np.bool_(True),
            "duration_s": np.float64(3.7),
            "latency_ms": np.float32(50.0),
            "initial_state": np.array([0.1, -0.2, 0.3]),
            "inference_ms": np.array([12.5, 11.0]),
        }
    )
    assert result == EpisodeResult(**GOOD)
    json.dumps(result.to_dict(), allow_nan=False)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EpisodeResult(**GOOD).index = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("index", -1),
        ("index", 1.0),
        ("index", True),
        ("split", ""),
        ("task", 3),
        ("success_once", 1),
        ("success_once", False),  # contradicts success_at_end
        ("length", "74"),
        ("duration_s", float("nan")),
        ("duration_s", -1.0),
        ("termination", "it fell over"),
        ("success_instant", False),  # contradicts success_once
        ("success_instant", 1),
        ("peak_force_n", -0.1),
        ("metrics", {"overlap": float("nan")}),
        ("metrics", {"": 1.0}),
        ("metrics", [1.0]),
        ("inference_ms", [float("inf")]),
        ("inference_ms", "12"),
        ("inference_ms", 12.0),
        ("latency_ms", None),
        ("tracking_ticks", 371),
        ("clipped_ticks", 371),
        ("max_seam_velocity_step", float("nan")),
        ("initial_state", [[0.1], [0.2]]),
        ("initial_state", [float("nan")]),
        ("video", ""),
    ],
)
def test_bad_values_are_refused_by_name(field, value):
    with pytest.raises(DataError, match=field):
        EpisodeResult(**{**GOOD, field: value})


def test_all_problems_at_once():
    with pytest.raises(DataError) as caught:
        EpisodeResult(**{**GOOD, "length": -1, "latency_ms": float("nan"), "task": ""})
    assert all(name in str(caught.value) for name in ("length", "latency_ms", "task"))


def test_termination_success_needs_success():
    bad = {**GOOD, "success_once": False, "success_at_end": False}
    with pytest.raises(DataError, match="without success_once"):
        EpisodeResult(**bad)
    assert EpisodeResult(**{**bad, "termination": "timeout"}).termination == "timeout"
    with pytest.raises(DataError, match="success_at_end without success_once"):
        EpisodeResult(**{**bad, "termination": "timeout", "success_at_end": True})


def test_unknown_and_missing_fields():
    broken = {**GOOD, "sucess_once": True}
    del broken["success_once"]
    with pytest.raises(DataError) as caught:
        EpisodeResult.from_dict(broken)
    message = str(caught.value)
    assert "did you mean 'success_once'?" in message
    assert "missing success_once" in message


def test_records_from_before_a_field_was_added_are_read():
    old = {name: value for name, value in GOOD.items() if name not in ("success_instant", "peak_force_n", "metrics")}
    result = EpisodeResult.from_dict(old)
    assert (result.success_instant, result.peak_force_n, result.metrics) == (None, None, {})


def test_a_task_may_end_an_episode_with_its_own_word():
    change = {"termination": "dropped", "success_once": True, "success_at_end": False}
    assert EpisodeResult(**{**GOOD, **change}).termination == "dropped"


def test_outcome_leaves_out_what_the_machine_decides():
    one = EpisodeResult(**GOOD)
    other = dataclasses.replace(one, inference_ms=[99.0], cpu_s=7.0, video="videos/3.webp")
    assert one != other
    assert one.outcome() == other.outcome()
    assert set(one.to_dict()) - set(one.outcome()) == set(MEASURED_FIELDS)
    assert one.outcome() != dataclasses.replace(one, length=75).outcome()  # control: the seed's part still counts


@settings(max_examples=60, deadline=None)
@given(
    reals=st.lists(st.floats(0, 1e6), min_size=3, max_size=3),
    state=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20),
    termination=st.sampled_from(TERMINATIONS),
)
def test_any_record_survives_json_bit_for_bit(reals, state, termination):
    duration_s, latency_ms, seam = reals
    result = EpisodeResult(
        **{
            **GOOD,
            "duration_s": duration_s,
            "latency_ms": latency_ms,
            "max_seam_velocity_step": seam,
            "initial_state": state,
            "termination": termination,
        }
    )
    assert EpisodeResult.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False))) == result
