"""One arm on a virtual clock: what becomes motion, what is refused, and how every loss ends."""

import numpy as np
import pytest

from robopolicy.control.clock import VirtualClock
from robopolicy.control.executor import Executor
from robopolicy.control.kinematics import Kinematics
from robopolicy.control.setpoint_check import SetpointCheck
from robopolicy.deploy.arm import Arm
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig, DeployConfig, RobotConfig
from robopolicy.deploy.realtime import control_config, run_loop
from robopolicy.deploy.records import REASONS, REFUSALS, Layout
from robopolicy.deploy.state_machine import State
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError
from robopolicy.types import ActionChunk, RobotState

CARD = load_embodiment("panda")
TICK = round(CARD.tick_s * 1e9)
DT = round(CARD.control_dt_s * 1e9)
START = 10**12
ROBOT = RobotConfig(target="x:y", embodiment="panda")


class FakeDriver:
    """An arm that is where it was told to be, and judges what it is told."""

    buffered = True

    def __init__(self, clock):
        self.clock, self.flags = clock, 0
        self.position, self.velocity = CARD.home_position.copy(), np.zeros(len(CARD.joints))
        self.check = SetpointCheck(CARD)
        self.sent, self.when, self.stops, self.holds = [], [], 0, 0
        self.fault = self.frozen = False
        self.seen = 0

    @property
    def embodiment(self):
        return CARD

    def read(self):
        if self.frozen:
            raise DeployError("the robot's clock stands still")
        return RobotState(self.clock.now_ns(), self.position.copy(), self.velocity.copy(), self.fault)

    def command(self, setpoint, t_ns):
        if not self.sent:
            self.check.restart(self.position)
        self.check.check(setpoint.time_ns, setpoint.position)
        self.velocity = (setpoint.position - self.position) / CARD.tick_s
        self.position = np.array(setpoint.position)
        self.sent.append(setpoint)
        self.when.append(t_ns)

    def connect(self):
        pass

    def enable(self):
        pass

    def close(self):
        self.stop()

    def hold(self):
        self.holds += 1

    def stop(self):
        self.stops += 1


class Rig:
    """Arm, driver, bus and clock, stepped by hand."""

    def __init__(self, **tunables):
        self.config = DeployConfig(**tunables)
        self.clock = VirtualClock(START)
        self.bus = Bus(Layout.of(CARD, cameras=(), chunk_steps=64, state_capacity=4096))
        self.driver = FakeDriver(self.clock)
        control = control_config(DaemonConfig("p", ROBOT, self.config))
        self.executor = Executor(CARD, control)
        self.arm = Arm(CARD, self.executor, self.driver, self.bus, self.config)
        self.home = np.asarray(Kinematics(CARD).tcp_state(CARD.home_position), float)
        self.worker_alive = True

    def step(self, n=1):
        for _ in range(n):
            self.clock.advance_ns(TICK)
            now = self.clock.now_ns()
            if self.worker_alive:
                self.bus.heartbeat.beat("worker", now)
            self.arm.step(now, 0)
        return self.arm.state

    def do(self, *events):
        for event in events:
            self.bus.post_event(event)
            self.step()
        return self.arm.state

    def up(self):
        assert self.do("connect", "arm", "enable") is State.HOLD
        self.step(3)
        return self

    def chunk(self, dx=0.0, *, steps=15, age_ns=0, offset=0.0, **changes):
        """Straight on along x by ``dx`` metres over the chunk, beginning ``offset`` from home."""
        t0 = self.clock.now_ns() - age_ns
        values = np.repeat(self.home[None], steps, axis=0)
        values[:, 0] += offset + dx * np.arange(1, steps + 1) / steps
        fields = {"values": values, "t0_ns": t0, "dt_s": CARD.control_dt_s, "embodiment": CARD.hash, **changes}
        return ActionChunk(**fields)

    def put(self, chunk, epoch=None):
        epoch = self.arm.epoch if epoch is None else epoch
        self.bus.mailbox.put(chunk, epoch=epoch, obs_id=1, t_made_ns=self.clock.now_ns())
        self.step()

    def record(self):
        return self.bus.ring("state").latest()[1]

    def refused(self):
        return {k: int(n) for k, n in zip(REFUSALS, self.record()["refused"], strict=True) if n}

    @property
    def reason(self):
        return REASONS[int(self.record()["reason"])]

    def clean(self):
        return sum(self.driver.check.violations.values()) == 0

    def x(self):
        return float(Kinematics(CARD).tcp_state(self.driver.position)[0]) - self.home[0]


def running(**tunables):
    rig = Rig(**tunables).up()
    assert rig.do("start") is State.ALIGNING
    rig.put(rig.chunk(0.06))
    assert rig.arm.state is State.RUNNING
    return rig


def test_nothing_is_sent_before_enable():
    rig = Rig()
    rig.do("connect", "arm")
    rig.step(5)
    assert rig.driver.sent == []
    rig.do("enable")
    assert len(rig.driver.sent) == 1


def test_a_batch_of_events_before_the_first_answer_is_refused_not_fatal():
    rig = Rig()
    for event in ("connect", "arm", "enable"):
        rig.bus.post_event(event)
    assert rig.step() is State.ARMED
    assert b"enable refused" in bytes(rig.record()["message"])
    assert rig.do("enable") is State.HOLD


def test_a_first_chunk_is_followed_from_where_the_stream_stands():
    rig = running()
    # From rest the path begins with the setpoint before the first one that was made from it.
    begin = rig.driver.sent[-1].time_ns - TICK
    rig.step(40)
    assert rig.arm.state is State.RUNNING
    assert rig.clean()
    # The last setpoint sent is one lookahead ahead; the path is 0.06 m over 75 ticks, less the start.
    sent = rig.driver.sent[-1]
    expected = 0.06 * (sent.time_ns - begin) / (15 * DT)
    assert rig.x() == pytest.approx(expected, abs=0.004)
    times = [s.time_ns for s in rig.driver.sent]
    assert set(np.diff(times)) == {TICK}


def test_a_dry_schedule_ends_in_a_planned_stop_and_hold():
    rig = running(dry_grace_s=0.3)
    rig.step(75 + 20)
    assert rig.arm.state is State.RUNNING
    rig.step(60)
    assert rig.arm.state is State.HOLD
    assert rig.reason == "dry"
    assert rig.clean()
    assert np.abs(rig.driver.velocity).max() == 0


def test_a_new_chunk_in_time_keeps_it_running():
    rig = running(dry_grace_s=0.3)
    for _ in range(6):
        rig.step(38)
        rig.put(rig.chunk(0.0, offset=0.03))
    assert rig.arm.state is State.RUNNING
    assert rig.clean()


@pytest.mark.parametrize("event", ["worker_lost", "stop", "pause", "supervisor_lost"])
def test_a_stop_in_motion_is_within_all_limits(event):
    rig = running()
    rig.step(25)
    assert np.abs(rig.driver.velocity).max() > 0.01
    rig.do(event)
    state = rig.step(80)
    assert state is (State.PAUSED if event == "pause" else State.HOLD)
    assert rig.clean()
    assert np.abs(rig.driver.velocity).max() == 0


def test_a_silent_worker_is_noticed():
    rig = running(worker_timeout_s=0.2)
    rig.worker_alive = False
    rig.step(60)
    assert rig.arm.state is State.HOLD
    assert rig.reason == "worker_lost"


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("non_finite", lambda rig: rig.chunk(values=np.full((15, 10), np.nan))),
        ("embodiment", lambda rig: rig.chunk(embodiment="0123456789abcdef")),
        ("dt", lambda rig: rig.chunk(dt_s=0.1)),
        ("stale", lambda rig: rig.chunk(age_ns=3 * 10**9)),
        ("future", lambda rig: rig.chunk(age_ns=-(10**9))),
        ("executor", lambda rig: rig.chunk(offset=0.45)),
    ],
)
def test_a_bad_chunk_is_refused_counted_and_leaves_no_trace(reason, make):
    rig = running()
    good = running()
    rig.step(5)
    good.step(5)
    if reason == "stale":
        rig.arm._intake.begin_epoch()
    rig.put(make(rig))
    good.step()
    rig.step(20)
    good.step(20)
    assert rig.refused() == {reason: 1}
    assert rig.arm.state is State.RUNNING
    np.testing.assert_array_equal(rig.driver.position, good.driver.position)
    assert rig.clean()


def test_an_old_observation_and_an_old_epoch_are_refused():
    rig = running()
    rig.put(rig.chunk(age_ns=DT))
    rig.put(rig.chunk(), epoch=rig.arm.epoch - 1)
    assert rig.refused() == {"old": 1, "epoch": 1}


def test_a_chunk_outside_running_is_refused():
    rig = Rig().up()
    rig.put(rig.chunk(0.06))
    rig.step(30)
    assert rig.refused() == {"not_running": 1}
    assert abs(rig.x()) < 1e-9


def test_a_far_first_action_is_approached_slowly():
    rig = Rig(align_position_m=0.05).up()
    rig.do("start")
    rig.put(rig.chunk(0.0, offset=-0.12))
    assert rig.arm.state is State.ALIGNING
    speeds, before = [], rig.x()
    while rig.arm.state is State.ALIGNING and len(speeds) < 400:
        rig.step()
        speeds.append(abs(rig.x() - before) / CARD.tick_s)
        before = rig.x()
    assert rig.arm.state is State.RUNNING
    assert rig.x() == pytest.approx(-0.12, abs=0.005)
    assert max(speeds) < 0.115
    assert rig.clean()


def test_without_a_first_chunk_it_goes_back_to_hold():
    rig = Rig(first_chunk_timeout_s=0.5).up()
    rig.do("start")
    rig.step(80)
    assert rig.arm.state is State.HOLD
    assert rig.reason == "no_chunk"


@pytest.mark.parametrize("trouble", ["fault", "frozen"])
def test_robot_trouble_latches_and_the_old_chunk_is_never_resumed(trouble):
    rig = running()
    rig.step(10)
    old = rig.chunk(0.06)
    old_epoch = rig.arm.epoch
    setattr(rig.driver, trouble, True)
    assert rig.step() is State.FAULT
    sent = len(rig.driver.sent)
    rig.step(10)
    assert len(rig.driver.sent) == sent
    assert rig.driver.stops >= 1
    assert rig.do("start") is State.FAULT
    setattr(rig.driver, trouble, False)
    rig.step(10)
    assert rig.do("enable") is State.FAULT
    where = rig.driver.position.copy()
    assert rig.do("arm") is State.ARMED
    assert rig.do("enable") is State.HOLD
    assert rig.do("start") is State.ALIGNING
    rig.put(old, epoch=old_epoch)
    rig.step(30)
    assert rig.arm.state is State.ALIGNING
    assert rig.refused()["epoch"] == 1
    np.testing.assert_allclose(rig.driver.position, where, atol=1e-9)


def test_estop_is_latched_from_motion():
    rig = running()
    assert rig.do("estop") is State.ESTOP
    assert rig.driver.stops == 1
    assert rig.do("enable", "start", "resume") is State.ESTOP
    assert rig.do("arm") is State.ARMED


def test_a_robot_in_fault_is_not_enabled():
    rig = Rig()
    rig.driver.fault = True
    assert rig.do("connect", "arm", "enable") is State.ARMED
    rig.driver.fault = False
    assert rig.do("enable") is State.HOLD


def test_the_loop_keeps_its_grid_and_leaves_at_rest():
    rig = running()
    ticks = []
    rig.arm.step, inner = lambda due, late: (ticks.append(due), inner(due, late))[1], rig.arm.step
    run_loop(
        rig.arm,
        rig.clock,
        tick_ns=TICK,
        lookahead_ticks=5,
        should_leave=lambda now: "stop" if len(ticks) > 30 else "",
    )
    assert set(np.diff(ticks)) == {TICK}
    assert rig.arm.state is State.HOLD
    assert rig.clean()


def test_an_overrun_sends_no_burst_and_stops_within_all_limits():
    rig = running()
    rig.step(20)
    ticks = []

    class Sleepy(VirtualClock):
        def sleep_until_ns(self, t_ns):
            super().sleep_until_ns(t_ns)
            if len(ticks) == 10:
                self.advance_ns(8 * TICK + 123)

    clock = Sleepy(rig.clock.now_ns())
    rig.driver.clock = clock

    def beat(now):
        rig.bus.heartbeat.beat("worker", now)
        return "stop" if len(ticks) > 60 else ""

    rig.arm.step, inner = lambda due, late: (ticks.append(due), inner(due, late))[1], rig.arm.step
    run_loop(rig.arm, clock, tick_ns=TICK, lookahead_ticks=rig.config.lookahead_ticks, should_leave=beat)
    assert set(np.diff(ticks)) == {TICK}  # every tick of the grid is computed
    gaps = np.diff([s.time_ns for s in rig.driver.sent]) // TICK
    assert gaps.max() == 9 - rig.config.lookahead_ticks + 1  # those whose time had passed were not sent
    assert (gaps == 1).sum() == len(gaps) - 1
    assert all(s.time_ns > sent for s, sent in zip(rig.driver.sent, rig.driver.when, strict=True))
    assert rig.arm.state is State.HOLD
    assert rig.reason == "overrun"
    assert int(rig.record()["overruns"]) == 1
    assert rig.clean()
