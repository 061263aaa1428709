"""Chunks are merged by absolute time, joined smoothly, or refused for a reason that is counted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from robopolicy.control.config import ControlConfig
from robopolicy.control.curve import OVERSHOOT
from robopolicy.control.kinematics import Kinematics
from robopolicy.control.schedule import ChunkSchedule
from robopolicy.control.splice import blend_weight
from robopolicy.embodiment import Embodiment
from robopolicy.rotations import axis_angle_to_matrix, matrix_to_rotation_6d, rotation_6d_to_matrix
from robopolicy.types import ActionChunk

DT_NS = 50_000_000


@pytest.fixture
def base(panda: Embodiment) -> np.ndarray:
    return Kinematics(panda).tcp_state(panda.home_position)


@pytest.fixture
def schedule(panda: Embodiment, base: np.ndarray) -> ChunkSchedule:
    made = ChunkSchedule(panda)
    made.reset(base, 0)
    return made


def chunk(panda: Embodiment, base: np.ndarray, t0_ns: int, offsets: list[float], channel: int = 1) -> ActionChunk:
    """Base pose with ``offsets`` [H] added to one channel."""
    values = np.repeat(base[None], len(offsets), axis=0)
    values[:, channel] += offsets
    return ActionChunk(values, t0_ns, 0.05, panda.hash)


def ramp(start: int, count: int, step: float = 0.01) -> list[float]:
    return [step * (start + i + 1) for i in range(count)]


def test_values_are_reached_at_their_times(schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray) -> None:
    offsets = [0.01, 0.03, 0.02, 0.02, 0.05]
    assert schedule.merge(chunk(panda, base, 0, offsets), 0).accepted
    for i, offset in enumerate(offsets):
        assert schedule.at((i + 1) * DT_NS)[1] == pytest.approx(base[1] + offset, abs=1e-12)
    np.testing.assert_allclose(schedule.at(0), base, atol=1e-12)
    assert schedule.remaining_s(DT_NS) == pytest.approx(0.2)


def test_one_row_chunks_give_the_line_of_a_long_chunk(panda: Embodiment, base: np.ndarray) -> None:
    long, short = ChunkSchedule(panda), ChunkSchedule(panda)
    for made in (long, short):
        made.reset(base, 0)
        assert made.merge(chunk(panda, base, 0, ramp(0, 1)), 0).accepted
    assert long.merge(chunk(panda, base, DT_NS, ramp(1, 9)), DT_NS).accepted
    for i in range(1, 10):
        assert short.merge(chunk(panda, base, i * DT_NS, ramp(i, 1)), i * DT_NS).accepted
        for t in range(i * DT_NS, (i + 1) * DT_NS, 10_000_000):
            np.testing.assert_allclose(short.at(t), long.at(t), atol=1e-12)


def second_difference(path: np.ndarray) -> float:
    return float(np.abs(np.diff(path, 2)).max())


def test_path_has_a_continuous_rate_through_knots_joins_and_tail(
    schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray, rng: np.random.Generator
) -> None:
    times = np.arange(0, 1_200_000_000, 250_000)
    path = []
    for t in times:
        if t in (0, 230_000_000, 410_000_000):
            offsets = (0.02 * np.cumsum(rng.normal(size=16))).tolist()
            assert schedule.merge(chunk(panda, base, int(t) - 60_000_000, offsets), int(t)).accepted
        path.append(schedule.at(int(t)))
    motion = np.array(path)[:, 1]
    # With four times the step, second differences grow sixteenfold where the rate is continuous, fourfold at a kink.
    assert second_difference(motion[::4]) > 12 * second_difference(motion)
    knots = motion[::200]
    kinked = np.interp(np.arange(len(motion)) / 200, np.arange(len(knots)), knots)
    assert second_difference(kinked[::4]) < 6 * second_difference(kinked)


def test_monotone_knots_are_not_overshot(schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray) -> None:
    schedule.merge(chunk(panda, base, 0, [0.0, 0.0, 0.05, 0.05, 0.05]), 0)
    path = np.array([schedule.at(t)[1] for t in range(0, 400_000_000, 1_000_000)]) - base[1]
    # a slope that is too steep by OVERSHOOT / h at both ends of an interval lifts its middle by a quarter of that
    assert path.min() >= -OVERSHOOT / 4
    assert path.max() <= 0.05 + OVERSHOOT / 4


def test_smooth_knots_give_a_continuous_acceleration(
    schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray
) -> None:
    values = 0.02 * np.sin(0.5 * np.arange(1, 13))
    schedule.merge(chunk(panda, base, 0, values.tolist()), 0)

    def bend(step: int) -> float:
        """Largest change of the acceleration from one step to the next, m/s^2."""
        path = np.array([schedule.at(t)[1] for t in range(DT_NS, 9 * DT_NS, step)])
        return float(np.abs(np.diff(path, 3)).max() / (step * 1e-9) ** 2)

    # where acceleration is continuous its change shrinks with the step; the harmonic mean of secants keeps a jump
    assert bend(500_000) < 0.3 * bend(2_000_000)


def test_dry_schedule_comes_to_rest_on_its_last_knot(
    schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray
) -> None:
    schedule.merge(chunk(panda, base, 0, ramp(0, 4)), 0)
    end = 4 * DT_NS
    tail = np.array([schedule.at(end + t)[1] for t in range(0, 200_000_000, 1_000_000)]) - base[1]
    assert tail[0] == pytest.approx(0.04)
    assert tail[150:] == pytest.approx(np.full(50, 0.04), abs=1e-12)
    # The overshoot is that of a stop within the tail: 4/27 of speed times its length.
    assert tail.max() - 0.04 == pytest.approx(0.2 * 0.15 * 4 / 27, rel=1e-3)
    assert np.abs(np.diff(tail, 2)).max() < 2e-5
    assert schedule.settled(end + 150_000_000)
    assert not schedule.settled(end + 149_000_000)


def test_rotation_follows_the_shortest_arc_and_stays_orthonormal(
    schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray
) -> None:
    rotation = panda.action.select("ee_rotation")
    start = rotation_6d_to_matrix(base[rotation])
    axis = np.array([0.6, 0.0, 0.8])
    values = np.repeat(base[None], 8, axis=0)
    angles = 0.1 * np.arange(1, 9)
    values[:, rotation] = matrix_to_rotation_6d(axis_angle_to_matrix(angles[:, None] * axis) @ start)
    values[:, rotation] *= 1.3  # the 6-D form has no length
    assert schedule.merge(ActionChunk(values, 0, 0.05, panda.hash), 0).accepted
    for t in range(0, 400_000_000, 7_000_000):
        columns = schedule.at(t)[rotation].reshape(2, 3)
        np.testing.assert_allclose(columns @ columns.T, np.eye(2), atol=1e-12)
        if t > 2 * DT_NS:  # before that the path is still taking up the speed of the knots
            expected = axis_angle_to_matrix(axis * 0.1 * t / DT_NS) @ start
            np.testing.assert_allclose(columns, expected[:, :2].T, atol=2e-3)


def test_gripper_is_linear(schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray) -> None:
    g = panda.action.index("gripper")
    schedule.merge(chunk(panda, base, 0, [-1.0, -1.0, 0.0], g), 0)
    assert [schedule.at(t)[g] for t in (12_500_000, 75_000_000, 125_000_000)] == pytest.approx([0.75, 0.0, 0.5])


def test_late_chunk_is_dropped_by_time_not_by_count(
    schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray
) -> None:
    """In motion, what is past is past: the old path ends just before the late chunk comes."""
    schedule.merge(chunk(panda, base, 0, ramp(0, 2)), 0)
    report = schedule.merge(chunk(panda, base, 0, ramp(0, 8)), 120_000_000)
    assert report.accepted
    assert report.dropped == 2
    for i in range(5, 8):  # after the catch-up, exactly where it was meant to be
        assert schedule.at((i + 1) * DT_NS)[1] == pytest.approx(base[1] + 0.01 * (i + 1), abs=1e-12)
    path = np.array([schedule.at(t)[1] for t in range(120_000_000, 300_000_000, 1_000_000)])
    assert np.abs(np.diff(path)).max() < 3 * 0.01 / 50  # caught up, not jumped to


def test_cold_chunk_is_followed_from_its_beginning(
    schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray
) -> None:
    """At rest, a chunk whose latency is six steps loses none of its eight knots, and nothing is caught up with."""
    late_ns = 310_000_000
    report = schedule.merge(chunk(panda, base, 0, ramp(0, 8)), late_ns)
    assert (report.accepted, report.dropped) == (True, 0)
    for i in range(8):
        assert schedule.at(late_ns + (i + 1) * DT_NS)[1] == pytest.approx(base[1] + 0.01 * (i + 1), abs=1e-12)
    path = np.array([schedule.at(t)[1] for t in range(late_ns, late_ns + 400_000_000, 1_000_000)])
    assert np.abs(np.diff(path)).max() < 1.6 * 0.01 / 50


def test_a_chunk_after_the_path_has_come_to_rest_is_cold_again(
    schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray
) -> None:
    schedule.merge(chunk(panda, base, 0, ramp(0, 4)), 0)
    made = chunk(panda, base, 4 * DT_NS, ramp(4, 4))
    resting = schedule.end_ns + 200_000_000
    assert schedule.settled(resting)
    report = schedule.merge(made, resting)
    assert (report.accepted, report.dropped) == (True, 0)
    assert schedule.at(resting + 4 * DT_NS)[1] == pytest.approx(base[1] + 0.08, abs=1e-12)


def test_overlap_is_blended_over_four_knots(schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray) -> None:
    schedule.merge(chunk(panda, base, 0, [0.0] * 16), 0)
    now = 4 * DT_NS
    schedule.merge(chunk(panda, base, now, [0.03] * 16), now)
    at_knots = [schedule.at(now + i * DT_NS)[1] - base[1] for i in range(6)]
    weights = blend_weight(np.arange(6) * DT_NS, 4 * DT_NS)
    assert at_knots == pytest.approx(0.03 * weights, abs=1e-12)
    assert weights.tolist() == pytest.approx([0, 10 / 64, 1 / 2, 54 / 64, 1, 1])


def test_without_blend_the_switch_is_at_once(panda: Embodiment, base: np.ndarray) -> None:
    made = ChunkSchedule(panda, ControlConfig(blend_knots=0.0))
    made.reset(base, 0)
    made.merge(chunk(panda, base, 0, [0.0] * 16), 0)
    made.merge(chunk(panda, base, 0, [0.03] * 16), 0)
    assert made.at(DT_NS)[1] - base[1] == pytest.approx(0.03)


def test_invalid_rows_are_not_executed(schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray) -> None:
    made = chunk(panda, base, 0, [0.01, 0.02, 9.0, 0.04, np.nan])
    made = dataclasses.replace(made, valid=np.array([True, True, False, True, False]))
    assert schedule.merge(made, 0).accepted
    assert schedule.at(3 * DT_NS)[1] - base[1] == pytest.approx(0.03, abs=2e-3)
    assert schedule.end_ns == 4 * DT_NS


def test_small_excess_is_clamped_to_the_workspace(panda: Embodiment, schedule: ChunkSchedule, base: np.ndarray) -> None:
    up = panda.workspace[1][2] - base[2]
    steps = np.linspace(0, up + 0.1, 40)[1:].tolist()
    assert schedule.merge(chunk(panda, base, 0, steps, channel=2), 0).accepted
    assert schedule.at(schedule.end_ns)[2] == pytest.approx(panda.workspace[1][2] - 0.001)


def refused_cases(panda: Embodiment, base: np.ndarray) -> dict[str, tuple[ActionChunk, int]]:
    now = 2_000_000_000
    good = chunk(panda, base, now, ramp(0, 8))
    nan = good.values.copy()
    nan[3, 2] = np.nan
    flat, spin = good.values.copy(), good.values.copy()
    flat[2, 3:9] = 0.0
    spin[4:, 3:9] *= -1.0
    spin[4:, 6:9] *= -1.0  # half a turn from one knot to the next
    replace = dataclasses.replace
    return {
        "embodiment": (replace(good, embodiment="someone else"), now),
        "width": (replace(good, values=good.values[:, :9]), now),
        "dt": (replace(good, dt_s=0.1), now),
        "no_valid_rows": (replace(good, valid=np.zeros(8, bool)), now),
        "non_finite": (replace(good, values=nan), now),
        "out_of_order": (replace(good, t0_ns=now - 200_000_000), now),
        "future": (replace(good, t0_ns=now + 60_000_000), now),
        "stale": (good, now + 1_010_000_000),
        "past": (good, now + 450_000_000),
        "bounds": (chunk(panda, base, now, [0.0, 0.9], 2), now),
        "rotation": (replace(good, values=flat), now),
        "rotation ": (replace(good, values=spin), now),
        "jump": (chunk(panda, base, now, [0.3] * 8), now),
    }


@pytest.mark.parametrize(
    "case",
    [
        *("embodiment", "width", "dt", "no_valid_rows", "non_finite", "out_of_order", "future", "stale", "past"),
        *("bounds", "rotation", "rotation ", "jump", "none"),
    ],
)
def test_refused_chunk_changes_nothing_and_is_counted(
    schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray, case: str
) -> None:
    first = chunk(panda, base, 1_900_000_000, ramp(0, 16, 0.002))
    assert schedule.merge(first, 1_900_000_000).accepted
    times = range(1_900_000_000, 2_900_000_000, 30_000_000)
    before = [schedule.at(t) for t in times]
    cases = refused_cases(panda, base) | {"none": (chunk(panda, base, 2_000_000_000, ramp(0, 8)), 2_000_000_000)}
    report = schedule.merge(*cases[case])
    after = [schedule.at(t) for t in times]
    if case == "none":  # control: a chunk in order is taken and does change the path
        assert report.accepted
        assert not np.array_equal(before, after)
        return
    assert (report.accepted, report.reason) == (False, case.strip())
    assert np.array_equal(before, after)
    assert dict(schedule.refused) == {case.strip(): 1}
    assert schedule.accepted == 1


def test_order_is_remembered_when_anchored_and_forgotten_when_reset(
    schedule: ChunkSchedule, panda: Embodiment, base: np.ndarray
) -> None:
    assert schedule.merge(chunk(panda, base, DT_NS, ramp(0, 4)), DT_NS).accepted
    schedule.anchor(base, DT_NS)
    assert schedule.empty
    assert schedule.merge(chunk(panda, base, 0, ramp(0, 4)), DT_NS).reason == "out_of_order"
    schedule.reset(base, DT_NS)
    assert schedule.merge(chunk(panda, base, 0, ramp(0, 4)), DT_NS).accepted
