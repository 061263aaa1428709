"""The whole way from chunks to setpoints on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from control_panda import panda_card
from test_control_limiter import breaches

from robopolicy.control.config import ControlConfig
from robopolicy.control.executor import Executor, Tick
from robopolicy.control.kinematics import Kinematics
from robopolicy.embodiment import Embodiment
from robopolicy.rotations import geodesic_distance, rotation_6d_to_matrix
from robopolicy.types import ActionChunk, RobotState

TICK_NS = 10_000_000


class Bench:
    """An executor, a clock, and a robot that is always exactly where it was told to be."""

    def __init__(self, embodiment: Embodiment, config: ControlConfig | None = None) -> None:
        self.embodiment = embodiment
        self.executor = Executor(embodiment, config)
        self.kinematics = Kinematics(embodiment)
        self.base = self.kinematics.tcp_state(embodiment.home_position)
        self.now_ns = 0
        self.sent = [embodiment.home_position] * 3
        self.ticks: list[Tick] = []
        self.executor.reset(self.state())

    def state(self) -> RobotState:
        return RobotState(self.now_ns, self.sent[-1], np.zeros(len(self.sent[-1])))

    def path(self, time_s: float) -> np.ndarray:
        """Smooth motion that begins at rest: a figure in the yz plane, the gripper closing at 1 s."""
        value = self.base.copy()
        value[0] += 0.12 * (1 - np.exp(-(time_s**2)))
        value[1] += 0.12 * np.sin(1.5 * time_s) * (1 - np.exp(-(time_s**2)))
        value[2] -= 0.08 * (1 - np.cos(1.2 * time_s))
        value[9] = float(time_s < 1.0)
        return value

    def chunk(self, t0_ns: int, count: int = 16, noise: np.ndarray | None = None) -> ActionChunk:
        values = np.array([self.path(t0_ns * 1e-9 + 0.05 * (i + 1)) for i in range(count)])
        if noise is not None:
            values[:, :3] += noise
        return ActionChunk(values, t0_ns, 0.05, self.embodiment.hash)

    def run(self, ticks: int, each: Callable[[int], None] | None = None) -> None:
        for _ in range(ticks):
            if each is not None:
                each(self.now_ns)
            tick = self.executor.tick(self.state(), self.now_ns)
            self.ticks.append(tick)
            self.sent.append(tick.setpoint.position)
            self.now_ns += TICK_NS

    def breaches(self) -> list[str]:
        limiter, joints = self.executor.limiter, self.embodiment.joints
        limits = (limiter.max_velocity, limiter.max_acceleration, limiter.max_jerk)
        return breaches(np.array(self.sent), joints.lower, joints.upper, *limits, TICK_NS * 1e-9)

    def tcp(self, joints: np.ndarray) -> np.ndarray:
        return self.kinematics.tcp_state(joints)


@pytest.mark.parametrize("every", [1, 8], ids=["one-row chunks", "long chunks"])
def test_setpoints_follow_the_chunks(panda: Embodiment, every: int) -> None:
    bench = Bench(panda)

    def policy(now_ns: int) -> None:
        if now_ns % (every * 50_000_000) == 0:
            assert bench.executor.submit(bench.chunk(now_ns, 1 if every == 1 else 16), now_ns).accepted

    bench.run(300, policy)
    for tick in bench.ticks[20:]:
        reached = bench.tcp(tick.setpoint.position)
        assert tick.mode == "tracking"
        assert np.linalg.norm(reached[:3] - tick.reference[:3]) < 1e-3
        turned = geodesic_distance(rotation_6d_to_matrix(reached[3:9]), rotation_6d_to_matrix(tick.reference[3:9]))
        assert turned < 5e-3
    knots = [t for t in bench.ticks[20:] if t.setpoint.time_ns % 50_000_000 == 0]
    for tick in knots:  # action[t] is reached at time[t] + dt
        intended = bench.path(tick.setpoint.time_ns * 1e-9)
        assert np.linalg.norm(bench.tcp(tick.setpoint.position)[:3] - intended[:3]) < 1.5e-3
    assert bench.breaches() == []
    assert bench.executor.counters.tracking_ticks == 300
    assert bench.executor.counters.seams == bench.executor.counters.accepted == (60 if every == 1 else 8)


def test_dry_schedule_is_a_planned_stop(panda: Embodiment) -> None:
    bench = Bench(panda)
    bench.executor.submit(bench.chunk(0), 0)
    bench.run(200)
    modes = [t.mode for t in bench.ticks]
    order = [m for i, m in enumerate(modes) if i == 0 or m != modes[i - 1]]
    assert order == ["tracking", "stopping", "holding"]
    assert modes.count("tracking") == 80
    assert modes.count("stopping") < 60
    end = bench.tcp(bench.sent[-1])
    assert np.linalg.norm(end[:3] - bench.path(0.8)[:3]) < 2e-4
    assert (bench.sent[-1] == bench.sent[-20]).all()
    assert bench.breaches() == []


def test_before_the_first_chunk_the_arm_holds(panda: Embodiment) -> None:
    bench = Bench(panda)
    bench.run(20)
    assert {t.mode for t in bench.ticks} == {"holding"}
    assert (np.array(bench.sent) == panda.home_position).all()
    assert bench.executor.remaining_s(bench.now_ns) == 0.0


def latencies(rng: np.random.Generator, count: int) -> list[int]:
    delays = rng.uniform(0.05, 0.4, count)
    delays[rng.random(count) < 0.06] = 0.95
    return [int(d * 1e9) for d in delays]


def stream(bench: Bench, rng: np.random.Generator, seconds: float) -> None:
    """One request in flight, noisy chunks of 16, delays U(50, 400) ms with spikes."""
    delays = iter(latencies(rng, 1000))
    flying: list[tuple[int, ActionChunk]] = []

    def policy(now_ns: int) -> None:
        if flying and flying[0][0] <= now_ns:
            bench.executor.submit(flying.pop()[1], now_ns)
        if not flying and now_ns % 50_000_000 == 0:
            noise = np.cumsum(rng.normal(0, 0.002, (16, 3)), axis=0)
            flying.append((now_ns + next(delays), bench.chunk(now_ns, 16, noise)))

    bench.run(int(seconds * 100), policy)


def test_streaming_under_latency_keeps_every_limit(panda: Embodiment, rng: np.random.Generator) -> None:
    bench = Bench(panda)
    stream(bench, rng, 12.0)
    counters = bench.executor.counters
    assert bench.breaches() == []
    assert counters.ticks == 1200
    assert counters.accepted > 25
    assert counters.max_seam_velocity_step <= 1.0
    assert bench.executor.fault is None
    assert [t.setpoint.time_ns for t in bench.ticks] == [TICK_NS * (i + 1) for i in range(1200)]


def test_seams_are_far_softer_than_a_queue_of_actions(panda: Embodiment, rng: np.random.Generator) -> None:
    """Control: the same chunks, the newest simply replacing the queue and interpolated linearly."""
    bench = Bench(panda)
    taken: list[ActionChunk] = []
    submit = bench.executor.submit

    def recording(chunk: ActionChunk, now_ns: int) -> object:
        report = submit(chunk, now_ns)
        if report.accepted:
            taken.append(chunk)
            arrival.append(now_ns)
        return report

    arrival: list[int] = []
    bench.executor.submit = recording  # type: ignore[method-assign, assignment]
    stream(bench, rng, 8.0)
    times = np.arange(len(bench.ticks)) * TICK_NS + TICK_NS
    newest = np.searchsorted(arrival, times - TICK_NS, side="right") - 1
    start = int(np.argmax(newest >= 0))
    queue = np.array([taken[k].at(int(t))[:3] for k, t in zip(newest[start:], times[start:], strict=True)])
    ours = np.array([bench.tcp(p)[:3] for p in bench.sent[3:]])[start:]
    seam = np.flatnonzero(np.diff(newest[start:]))[1:]

    def steps(path: np.ndarray) -> np.ndarray:
        return np.linalg.norm(np.diff(path, 2, axis=0), axis=1)[seam - 1]

    assert steps(queue).max() > 10 * steps(ours).max()


def test_requested_stop_brakes_holds_and_refuses(panda: Embodiment) -> None:
    bench = Bench(panda)
    bench.executor.submit(bench.chunk(0), 0)
    bench.run(60)
    bench.executor.request_stop()
    assert bench.executor.remaining_s(bench.now_ns) == 0.0
    bench.run(80)
    modes = [t.mode for t in bench.ticks[60:]]
    assert modes[0] == "stopping"
    assert modes[-1] == "holding"
    assert bench.executor.submit(bench.chunk(bench.now_ns), bench.now_ns).reason == "stopped"
    where = bench.sent[-1]
    bench.executor.resume()
    bench.run(30)
    assert (bench.sent[-1] == where).all()  # the old chunk is not taken up again
    assert bench.executor.submit(bench.chunk(500_000_000), bench.now_ns).reason in ("past", "stale")
    assert bench.breaches() == []


def test_fault_is_latched_until_reset(panda: Embodiment) -> None:
    bench = Bench(panda)
    bench.executor.submit(bench.chunk(0), 0)
    bench.run(50)
    tick = bench.executor.tick(RobotState(bench.now_ns, bench.sent[-1] * np.nan, np.zeros(8)), bench.now_ns)
    bench.sent.append(tick.setpoint.position)
    bench.now_ns += TICK_NS
    assert tick.mode == "fault"
    assert "finite" in str(bench.executor.fault)
    bench.run(80)
    assert bench.ticks[-1].mode == "fault"
    assert (bench.sent[-1] == bench.sent[-2]).all()
    assert bench.executor.submit(bench.chunk(bench.now_ns), bench.now_ns).reason == "fault"
    bench.executor.resume()
    assert bench.executor.fault is not None
    bench.executor.reset(bench.state())
    bench.run(5)
    assert bench.ticks[-1].mode == "holding"
    assert bench.breaches() == []
    assert bench.executor.counters.refused == {"fault": 1}


def test_non_finite_chunk_is_refused_without_a_fault(panda: Embodiment) -> None:
    bench = Bench(panda)
    bench.executor.submit(bench.chunk(0), 0)
    bench.run(20)
    bad = bench.chunk(bench.now_ns, noise=np.full((16, 3), np.nan))
    assert bench.executor.submit(bad, bench.now_ns).reason == "non_finite"
    bench.run(20)
    assert bench.executor.fault is None
    assert bench.ticks[-1].mode == "tracking"


def test_late_tick_samples_once_and_never_bursts(panda: Embodiment) -> None:
    bench = Bench(panda)
    bench.executor.submit(bench.chunk(0), 0)
    bench.run(40)
    bench.now_ns += 7 * TICK_NS
    bench.run(60)
    assert bench.executor.counters.late_ticks == 1
    assert bench.executor.counters.ticks == 100
    assert bench.breaches() == []  # by the nominal tick, as the robot sees them


def test_clock_that_goes_back_is_a_fault(panda: Embodiment) -> None:
    bench = Bench(panda)
    bench.run(10)
    bench.now_ns -= 3 * TICK_NS
    bench.run(1)
    assert bench.ticks[-1].mode == "fault"
    assert "clock" in str(bench.executor.fault)


def test_reset_reseeds_from_the_measurement_or_the_command(panda: Embodiment) -> None:
    sagged = panda.home_position - 0.01
    for reseed, expected in (("measured", sagged), ("command", panda.home_position)):
        bench = Bench(panda, ControlConfig(reseed=reseed))
        bench.run(3)
        bench.executor.reset(RobotState(bench.now_ns, sagged, np.zeros(8)))
        np.testing.assert_array_equal(bench.executor.command, expected)


def test_unreachable_target_ends_in_holding(panda: Embodiment) -> None:
    bench = Bench(panda, ControlConfig(settle_timeout_s=1.0, reject_jump_m=10.0))
    values = np.repeat(bench.base[None], 16, axis=0)
    values[:, :3] = np.linspace(bench.base[:3], [0.75, 0.45, 0.8], 17)[1:]  # a corner beyond the arm's reach
    assert bench.executor.submit(ActionChunk(values, 0, 0.05, panda.hash), 0).accepted
    bench.run(400)
    assert np.linalg.norm(bench.tcp(bench.sent[-1])[:3] - values[-1, :3]) > 0.01
    assert bench.ticks[-1].mode == "holding"
    assert (bench.sent[-1] == bench.sent[-10]).all()
    assert bench.breaches() == []


def test_joint_space_skips_inverse_kinematics(joint_panda: Embodiment, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(joint_panda)
    monkeypatch.setattr(Kinematics, "solve", lambda *a, **k: pytest.fail("joint targets need no inverse kinematics"))
    home = joint_panda.home_position
    swing = 0.08 * (1 - np.cos(np.arange(1, 17) * np.pi / 16))
    values = home - swing[:, None] * np.array([1, 0, 1, 0, 1, 0, 1, 1.0])
    assert bench.executor.submit(ActionChunk(values, 0, 0.05, joint_panda.hash), 0).accepted
    bench.run(150)
    np.testing.assert_allclose(bench.sent[-1], values[-1], atol=1e-9)
    assert bench.breaches() == []


def test_same_input_gives_the_same_setpoints_bit_for_bit(panda: Embodiment) -> None:
    runs = []
    for _ in range(2):
        bench = Bench(panda)
        stream(bench, np.random.default_rng(5), 3.0)
        runs.append(np.array(bench.sent))
    assert (runs[0] == runs[1]).all()


def test_other_setpoint_rates_keep_the_limits() -> None:
    card = panda_card(setpoint_hz=500.0)
    bench = Bench(Embodiment.from_dict(card))
    state = bench.state()
    bench.executor.submit(bench.chunk(0), 0)
    sent = list(bench.sent)
    for i in range(600):
        state = RobotState(i * 2_000_000, sent[-1], np.zeros(8))
        sent.append(bench.executor.tick(state, i * 2_000_000).setpoint.position)
    limiter, joints = bench.executor.limiter, bench.embodiment.joints
    limits = (limiter.max_velocity, limiter.max_acceleration, limiter.max_jerk)
    assert breaches(np.array(sent), joints.lower, joints.upper, *limits, 0.002) == []
    assert np.linalg.norm(bench.tcp(sent[-1])[:3] - bench.path(0.8)[:3]) < 2e-4
