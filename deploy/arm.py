"""One arm at one tick: state machine, chunks, executor, driver. No sleeping, no process: that is ``realtime.py``.

Time. The tick that is due at wall time ``w`` computes the setpoint to be reached at ``w + lookahead``. The executor's
clock therefore leads the wall clock by ``lookahead - 1`` ticks, and actions are reached when they were meant to be. A
robot that carries each setpoint out at once has a lookahead of one tick. The executor's clock is path time
(:mod:`robopolicy.control.pace`): it goes slower before the schedule runs dry and when the robot slows itself down, and
stands still for ticks that an unbuffered robot has missed, so that two setpoints are never more than one tick apart.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.executor import Executor, Tick
from robopolicy.control.pace import Arrivals, Pace
from robopolicy.control.verdict import Limit
from robopolicy.deploy import align
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DeployConfig
from robopolicy.deploy.intake import ChunkIntake
from robopolicy.deploy.outlook import publish_nothing, publish_outlook
from robopolicy.deploy.records import FLAG_MOVING, FLAG_RUNNING
from robopolicy.deploy.state_machine import EVENTS, INTERNAL_EVENTS, Outcome, State, next_state
from robopolicy.deploy.tick_record import TickRecorder
from robopolicy.deploy.watch import Watch
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError
from robopolicy.protocols import RobotDriver, SpeedScaled
from robopolicy.types import ActionChunk, RobotState, Setpoint

__all__ = ["Arm", "StreamingDriver"]

Vector = NDArray[np.float64]
REST_TICKS = 5
KEPT_BACK = Limit.POSITION | Limit.WORKSPACE | Limit.CLEARANCE
"""Limits that a sound policy does not run into for seconds; speed, acceleration and jerk it meets all the time."""


class StreamingDriver(RobotDriver, Protocol):
    """A driver that is told what its setpoints are for; most ignore it.

    Attributes:
        flags: Flags of the next setpoints, see :mod:`robopolicy.deploy.records`.
    """

    flags: int


class Arm:
    """Everything that happens to one arm in one tick.

    Args:
        card: The robot.
        executor: Turns chunks into setpoints.
        driver: The only way to the robot.
        bus: Shared memory.
        config: Tunables.
        tick_s: Time between two setpoints; the card's by default.
        watch: Faults found by comparing what is commanded with what is measured.
        sensors: Whether frames come from a process whose heartbeat says that every source is fresh.

    Attributes:
        state: Where the state machine stands.
        epoch: Number of the present run; chunks of other epochs are refused.
    """

    def __init__(
        self,
        card: Embodiment,
        executor: Executor,
        driver: StreamingDriver,
        bus: Bus,
        config: DeployConfig,
        *,
        tick_s: float | None = None,
        watch: Watch | None = None,
        sensors: bool = False,
    ):
        self._card, self._executor, self._driver, self._bus, self._config = card, executor, driver, bus, config
        self._kinematics = executor.kinematics
        self._tick_s = tick_s or card.tick_s
        self._tick_ns = round(self._tick_s * 1e9)
        self._buffered = driver.buffered
        self._lookahead_ns = (config.lookahead_ticks if self._buffered else 1) * self._tick_ns
        self._pace = Pace(self._tick_s, slowest=config.slowest)
        self._arrivals = Arrivals(card.control_dt_s)
        self._scaled = driver if isinstance(driver, SpeedScaled) else None
        self._sensors = sensors
        self._watchdog = watch or Watch(card, self._tick_s)
        self._acceleration = card.joints.limit("max_acceleration")
        self.state, self.epoch = State.OFFLINE, 0
        self._reason, self._message = "", ""
        self._events = bus.ring("events")
        self._events_done = 0
        self._intake = ChunkIntake(bus.mailbox, card, config)
        self._outlook, self._tells = bus.ring("schedule"), config.between.kind != "naive"
        self._recorder = TickRecorder(bus.ring("state"))
        self._overruns, self._late = 0, False
        self._measured: RobotState | None = None
        self._command: Vector | None = None
        self._step = np.zeros(len(card.joints))
        self._entered_ns = self._holding_since_ns = 0
        self._approaching = False
        self._rest_ticks = 0
        self._braking_fault = False

    @property
    def at_rest(self) -> bool:
        """Whether this process may end without leaving the arm in motion."""
        return not (self.state.moving or self.state in (State.STOPPING, State.PAUSED)) and not self._braking_fault

    def step(self, due_ns: int, late_ns: int) -> None:
        """One tick that was due at ``due_ns`` and began ``late_ns`` later."""
        # Read first: an event may seed the command from the measured pose, which must be of now.
        self._read(due_ns)
        self._obey(due_ns)
        self._watch(due_ns)
        lead_ns = self._path_time(due_ns + self._lookahead_ns - self._tick_ns)
        self._take_chunk(due_ns, lead_ns)
        tick = self._move(due_ns, late_ns, lead_ns) if self.state.streaming or self._braking_fault else None
        if tick is not None:
            self._after(tick, due_ns, lead_ns)
        self._publish(due_ns, late_ns, tick)
        self._late = self._late and late_ns > self._tick_ns

    def event(self, name: str, now_ns: int) -> Outcome:
        """Apply one event. -> what became of it."""
        before = self.state
        if name in ("connect", "enable", "disconnect") and (trouble := self._prepare(name, before)):
            self._message = f"{name} refused: {trouble}"
            return Outcome.REFUSED
        target, outcome = next_state(before, name)
        if outcome is Outcome.CHANGED:
            self.state = target
            self._entered_ns = now_ns
            self._enter(before, name, now_ns)
        elif outcome is Outcome.REFUSED:
            self._message = f"{name} refused in {before.name}"
        return outcome

    @property
    def lag_s(self) -> float:
        """How far the path is behind the wall clock since the stream began."""
        return self._pace.lag_ns / 1e9

    @property
    def buffered(self) -> bool:
        """Whether the robot keeps setpoints until their time."""
        return self._buffered

    def overrun(self, now_ns: int, late_ns: int = 0) -> None:
        """A tick began after its setpoint's time: the robot has had a gap, so stop as planned.

        A robot that keeps no setpoints has waited in the meantime, and so does the path; only after
        ``deploy.longest_wait_s`` it is a stop.
        """
        if not self._late:
            self._overruns += 1
        if not self._buffered and late_ns < self._config.longest_wait_s * 1e9:
            return
        if not self._late:
            self.event("overrun", now_ns)
        self._late = True

    def missed(self, wall_ns: int, ticks: int) -> None:
        """``ticks`` ticks before ``wall_ns`` were not made."""
        self._pace.wait(wall_ns + self._lookahead_ns - self._tick_ns, ticks * self._tick_ns)

    def close(self) -> None:
        """Hold, and let go of the robot."""
        self._driver.close()

    def _prepare(self, event: str, state: State) -> str:
        """What an event asks of the robot itself. -> why it must not happen, or nothing."""
        if next_state(state, event)[1] is not Outcome.CHANGED:
            return ""
        if event == "enable" and (trouble := self._trouble()):
            return trouble
        try:
            if event == "connect":
                self._driver.connect()
            elif event == "enable":
                self._driver.enable()
            else:
                self._driver.close()
                self._measured = None
        except DeployError as error:
            return str(error)
        return ""

    def _path_time(self, wall_ns: int) -> int:
        """Path time at a wall time, one tick after the last."""
        executor = self._executor
        wanted = 1.0
        if self.state is State.RUNNING:
            left_s = executor.remaining_s(self._pace.path_ns(wall_ns))
            wanted = self._arrivals.wanted_rate(wall_ns, left_s)
        scale = 1.0 if self._scaled is None else max(self._scaled.speed_scale, 0.0)
        return self._pace.advance(wall_ns, wanted, scale)

    def _trouble(self) -> str:
        """Why the arm must not be enabled, or nothing."""
        if self._measured is None:
            return "the robot has not answered yet; mend: wait a tick"
        if self._measured.fault:
            return "the robot reports a fault; mend: clear it, then arm"
        finite = np.isfinite(self._measured.position).all()
        return "" if finite else "the measured position is not finite; mend: look at the encoders"

    def _enter(self, before: State, event: str, now_ns: int) -> None:
        """What belongs to a change of state."""
        state = self.state
        if event in INTERNAL_EVENTS and event not in ("aligned", "at_rest"):
            self._reason = event
        elif event in ("stop", "pause", "estop"):
            self._reason = "estop" if event == "estop" else "operator"
        if state is State.HOLD and before is State.ARMED:
            self._reseed()
            self._reason = self._message = ""
        elif state is State.ALIGNING:
            self.epoch += 1
            self._intake.begin_epoch()
            self._approaching = False
            self._reason = self._message = ""
            # The arm stands still under the last command; measured positions would let a loaded gripper open.
            assert self._measured is not None
            standing = self._measured.position if self._command is None else self._command
            self._executor.reset(RobotState(self._measured.time_ns, standing, np.zeros_like(standing)))
            self._arrivals.begin()
        elif state in (State.STOPPING, State.PAUSED):
            self._rest_ticks = 0
            self._executor.request_stop()
            publish_nothing(self._outlook, self.epoch)
        elif state in (State.FAULT, State.ESTOP):
            self.epoch += 1
            self._braking_fault = event == "executor_fault" and before.streaming
            self._rest_ticks = 0
            if not self._braking_fault:
                self._driver.stop()
        elif state in (State.ARMED, State.CONNECTED, State.OFFLINE) and before.streaming:
            self._driver.hold()
        if state is State.ARMED:
            self.epoch += 1
        self._holding_since_ns = now_ns

    def _obey(self, now_ns: int) -> None:
        while self._events_done < self._events.newest:
            self._events_done += 1
            record = self._events.read(self._events_done)
            name = "" if record is None else bytes(record["event"]).decode("ascii", "replace")
            if name in EVENTS:
                self.event(name, now_ns)

    def _read(self, now_ns: int) -> None:
        if self.state is State.OFFLINE:
            return
        try:
            self._measured = self._driver.read()
        except DeployError as error:
            if self.state.streaming or self._measured is None:
                self._message = str(error)
                self.event("robot_lost", now_ns)
            return
        if self._measured.fault and self.state.streaming:
            self._message = "the robot reports a protective stop"
            self.event("robot_fault", now_ns)

    def _watch(self, now_ns: int) -> None:
        """Find out whether somebody has gone silent."""
        if self.state.moving or self.state is State.PAUSED:
            age_s = self._bus.heartbeat.age_s("worker", now_ns)
            if age_s is None or age_s > self._config.worker_timeout_s:
                self.event("worker_lost", now_ns)
        if self._sensors and self.state.moving:
            age_s = self._bus.heartbeat.age_s("sensors", now_ns)
            if age_s is None or age_s > self._config.sensors_timeout_s:
                self.event("sensors_lost", now_ns)
        if self._config.deadman and self.state.moving:
            age_s = self._bus.heartbeat.age_s("deadman", now_ns)
            if age_s is None or age_s > self._config.deadman_timeout_s:
                self.event("deadman_lost", now_ns)
        waiting_s = (now_ns - self._entered_ns) / 1e9
        if self.state is State.ALIGNING and not self._approaching and waiting_s > self._config.first_chunk_timeout_s:
            self.event("no_chunk", now_ns)

    def _take_chunk(self, now_ns: int, lead_ns: int) -> None:
        received = self._intake.take(now_ns, epoch=self.epoch, moving=self.state.moving)
        if received is None:
            return
        chunk, reason = received.chunk(), None
        if self.state is State.ALIGNING:
            reason = self._align(chunk, now_ns, lead_ns)
        if self.state is State.RUNNING:
            reason = self._submit(chunk, lead_ns)
        if reason is None:
            self._intake.accept(received)
        else:
            self._intake.refuse(reason)

    def _submit(self, chunk: ActionChunk, lead_ns: int) -> str | None:
        chunk = dataclasses.replace(chunk, t0_ns=self._pace.path_ns(chunk.t0_ns))
        report = self._executor.submit(chunk, lead_ns)
        if report.accepted:
            self._arrivals.arrived(lead_ns + self._pace.lag_ns)
            if self._tells:
                publish_outlook(
                    self._outlook,
                    self._executor,
                    t_obs_ns=chunk.t0_ns,
                    starts_ns=lead_ns,
                    epoch=self.epoch,
                    lag_ns=self._pace.lag_ns,
                )
            return None
        self._message = f"chunk refused: {report.reason}"
        return "executor"

    def _align(self, chunk: ActionChunk, now_ns: int, lead_ns: int) -> str | None:
        """First chunk of an epoch: run it when it begins near, else go to its first action slowly."""
        if self._approaching:
            return None
        assert self._command is not None
        ahead = chunk.after(lead_ns + self._pace.lag_ns) or chunk
        there = np.asarray(ahead.values[0], float)
        here = self._here()
        metres, radians = align.distance(self._card, here, there)
        if metres <= self._config.align_position_m and radians <= self._config.align_rotation_rad:
            self.event("aligned", now_ns)
            return None
        begins_ns = lead_ns + self._pace.lag_ns
        way = align.approach(self._card, here, there, t0_ns=begins_ns, speed=self._config.align_speed)
        reason = self._submit(way, lead_ns)
        self._approaching = reason is None
        return reason

    def _here(self) -> Vector:
        """The action [A] that keeps the arm where it is commanded to be."""
        assert self._command is not None
        if self._card.action_space == "joint_position":
            return self._command.copy()
        return np.asarray(self._kinematics.tcp_state(self._command), float)

    def _reseed(self) -> None:
        state = self._measured
        assert state is not None
        self._command, self._step = None, np.zeros_like(self._step)
        # Nothing of an earlier stream decides in this one, so a recording can be recomputed from here.
        self._pace.begin()
        self._arrivals = Arrivals(self._card.control_dt_s)
        self._watchdog.begin()
        self._executor.reset(RobotState(state.time_ns, state.position, np.zeros_like(state.position)))

    def _move(self, due_ns: int, late_ns: int, lead_ns: int) -> Tick | None:
        if self._measured is None:
            return None
        measured = self._measured
        if self._pace.lag_ns:
            measured = measured._replace(time_ns=measured.time_ns - self._pace.lag_ns)
        tick = self._executor.tick(measured, lead_ns)
        flags = FLAG_RUNNING if self.state is State.RUNNING else 0
        self._driver.flags = flags | (FLAG_MOVING if self.state is not State.HOLD else 0)
        if not self._buffered or late_ns < self._lookahead_ns:
            self._send(Setpoint(due_ns + self._lookahead_ns, tick.setpoint.position), due_ns + late_ns)
        position = np.asarray(tick.setpoint.position, float)
        step = np.zeros_like(self._step) if self._command is None else (position - self._command) / self._tick_s
        self._velocity_step = float((np.abs(step - self._step) / (self._acceleration * self._tick_s)).max())
        self._rest_ticks = self._rest_ticks + 1 if float(np.abs(step).max()) < 1e-6 else 0
        self._command, self._step = position.copy(), step
        self._compare(tick)
        return tick

    def _send(self, setpoint: Setpoint, now_ns: int) -> None:
        """To the robot. One that does not get there is lost for good: what follows it would be a jump."""
        try:
            self._driver.command(setpoint, now_ns)
        except DeployError as error:
            self._message = str(error)
            self.event("robot_lost", now_ns)

    def _compare(self, tick: Tick) -> None:
        """Commanded against measured; a fault of the limiter follows with the next tick."""
        assert self._measured is not None
        assert self._command is not None
        found = self._watchdog.check(
            self._command, np.asarray(self._measured.position, float), self._driver, bool(tick.verdict.bits & KEPT_BACK)
        )
        if found is not None and self._executor.fault is None:
            self._executor.limiter.trip(*found)

    def _after(self, tick: Tick, now_ns: int, lead_ns: int) -> None:
        """Events that follow from what the executor did."""
        if tick.mode == "fault" and self.state is not State.FAULT:
            self._message = f"executor: {self._executor.fault}"
            self.event("executor_fault", now_ns)
        resting = self._rest_ticks >= REST_TICKS
        if self._braking_fault and resting:
            self._braking_fault = False
            self._driver.hold()
        if self.state is State.STOPPING and resting:
            self.event("at_rest", now_ns)
        if self.state is State.ALIGNING and self._approaching and resting and self._executor.remaining_s(lead_ns) <= 0:
            self._approaching = False
            self.event("aligned", now_ns)
        if tick.mode != "holding" or not resting:
            self._holding_since_ns = now_ns
        elif self.state is State.RUNNING and (now_ns - self._holding_since_ns) / 1e9 > self._config.dry_grace_s:
            self.event("dry", now_ns)

    def _publish(self, due_ns: int, late_ns: int, tick: Tick | None) -> None:
        recorder = self._recorder
        recorder.situation(
            state=self.state,
            epoch=self.epoch,
            reason=self._reason,
            message=self._message,
            events_done=self._events_done,
            overruns=self._overruns,
        )
        recorder.motion(
            tick,
            command=self._command,
            reach_ns=due_ns + self._lookahead_ns,
            velocity_step=0.0 if tick is None else self._velocity_step,
            remaining_s=0.0 if tick is None else self._executor.remaining_s(self._pace.path_ns(due_ns)),
        )
        recorder.measured(self._measured)
        recorder.chunks(self._intake, due_ns)
        recorder.publish(due_ns, late_ns)
        self._bus.heartbeat.beat("realtime")
