"""Recomputes a recorded run and compares it with what was sent, bit for bit.

The measured states, chunks, events, ages and times of the black box go, on the recorded clock, into the same
:class:`~robopolicy.deploy.arm.Arm` with the same executor and limiter. Every setpoint that comes out, and where the
state machine stands after every tick, must equal the record. A difference means that code, configuration or machine are
not those of the recording, or that something decides which is not recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.native import CONTROL_CORE
from robopolicy.data.convert.blackbox_log import BlackBoxLog
from robopolicy.deploy.arm import Arm
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig
from robopolicy.deploy.realtime import assemble_arm
from robopolicy.deploy.records import Layout
from robopolicy.deploy.replay_inputs import MissingInputError, RecordedInputs
from robopolicy.deploy.state_machine import EVENTS, State
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, RobopolicyError, explain
from robopolicy.schema import build

__all__ = ["Difference", "ReplayReport", "Span", "recompute", "recorded_config", "spans_of"]

STANDING = (State.OFFLINE, State.CONNECTED, State.ARMED)
"""States in which nothing is streamed; whoever leaves them begins anew, so a recomputation may begin there."""

SAME = ("state", "mode", "reason", "seam", "accepted", "clipped", "streamed", "verdict", "epoch", "setpoint")
"""Fields of a tick's state record that have to be equal, beside the calls of the driver."""


@dataclass(frozen=True)
class Difference:
    """The first tick that came out otherwise.

    Attributes:
        tick: Its number in the recording.
        t_ns: When it was due.
        what: Field that differs.
        recorded, recomputed: Its values.
    """

    tick: int
    t_ns: int
    what: str
    recorded: str
    recomputed: str

    def __str__(self) -> str:
        return f"tick {self.tick} ({self.t_ns} ns): {self.what} was {self.recorded}, comes out as {self.recomputed}"


@dataclass(frozen=True)
class Span:
    """Consecutive ticks [start, stop) of a recording that can be recomputed."""

    start: int
    stop: int


@dataclass
class ReplayReport:
    """What a recomputation found.

    Attributes:
        recorded: Ticks in the recording.
        replayed: Ticks recomputed.
        setpoints: Of these, ticks with a setpoint.
        different: Ticks that came out otherwise in any way.
        first: The first of them.
        spans: Stretches recomputed; more than one where records were lost.
        notes: What a reader should know, such as another compiled core.
    """

    recorded: int = 0
    replayed: int = 0
    setpoints: int = 0
    different: int = 0
    first: Difference | None = None
    spans: list[Span] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Something was recomputed and nothing differed."""
        return self.replayed > 0 and self.different == 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self) | {"exact": self.exact}


def recorded_config(log: BlackBoxLog, control: Mapping[str, Any] | None = None) -> DaemonConfig:
    """The daemon's configuration as recorded, with overrides of the executor's."""
    config: DaemonConfig = build(DaemonConfig, log.run["config"], "recorded config")
    return dataclasses.replace(config, control={**config.control, **(control or {})})


def recompute(
    log: BlackBoxLog, *, control: Mapping[str, Any] | None = None, card: Embodiment | None = None
) -> ReplayReport:
    """Recompute everything in a recording that can be.

    Args:
        log: With the binary channels.
        control: Overrides of the executor's configuration, to see what another limit would have done.
        card: In the place of the recorded one.

    Raises:
        DeployError: the recording holds no ticks.
    """
    tape, states = log.records("/binary/tape"), log.records("/binary/state")
    if not len(tape) or not len(states):
        raise DeployError(
            explain("the recording holds no ticks", given=sorted(log.topics), mend="was the arm ever ticked?")
        )
    tape, states = _together(tape, states)
    config, card = recorded_config(log, control), card or log.card
    report = ReplayReport(recorded=len(tape))
    if log.run["control_core"] != CONTROL_CORE:
        report.notes.append(f"recorded with the {log.run['control_core']} core, recomputed with {CONTROL_CORE}")
    inputs = RecordedInputs(log, tape, states)
    for span in spans_of(tape, states):
        _recompute_span(span, inputs, config, card, report)
    if not report.spans:
        report.notes.append("the arm never stood without a stream in this recording: nothing to begin with")
    return report


def spans_of(tape: NDArray[Any], states: NDArray[Any]) -> list[Span]:
    """Stretches without a hole, each from where nothing was streamed, so that nothing before it matters."""
    breaks = np.flatnonzero(np.diff(tape["tick"].astype(np.int64)) != 1) + 1
    spans = []
    for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(tape)], strict=True):
        if int(tape["tick"][start]) == 1:
            spans.append(Span(start, stop))
            continue
        standing = np.flatnonzero(np.isin(states["state"][start:stop], [int(s) for s in STANDING]))
        if len(standing) and start + int(standing[0]) + 1 < stop:
            spans.append(Span(start + int(standing[0]) + 1, stop))
    return spans


def _together(tape: NDArray[Any], states: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ticks that both channels have, by number."""
    _, mine, theirs = np.intersect1d(tape["tick"], states["tick"], assume_unique=True, return_indices=True)
    return tape[mine], states[theirs]


def _recompute_span(
    span: Span, inputs: RecordedInputs, config: DaemonConfig, card: Embodiment, report: ReplayReport
) -> None:
    bus = Bus(Layout.of(card, cameras=(), chunk_steps=inputs.chunk_steps, state_capacity=64))
    try:
        inputs.begin(span.start)
        driver = inputs.driver(card)
        arm = assemble_arm(config, card, driver, inputs.bus(bus))  # type: ignore[arg-type]
        _place(arm, span.start, inputs)
        stop = span.start
        try:
            for index in range(span.start, span.stop):
                _tick(arm, index, inputs)
                stop = index + 1
                newest = bus.ring("state").latest()
                assert newest is not None
                _compare(index, inputs, driver, newest[1], report)
        except MissingInputError as error:
            report.notes.append(str(error))
        except RobopolicyError as error:
            report.notes.append(f"tick {int(inputs.tape['tick'][stop])} cannot be computed: {error}")
            report.different += 1
        report.spans.append(Span(span.start, stop))
    finally:
        bus.close()


def _place(arm: Arm, start: int, inputs: RecordedInputs) -> None:
    """Bring a fresh arm to where the recorded one stood before the span; nothing was streamed there."""
    if start == 0 and int(inputs.tape["tick"][0]) == 1:
        return
    before = inputs.states[start - 1]
    arm.state, arm.epoch = State(int(before["state"])), int(before["epoch"])
    vars(arm).update(_events_done=int(before["events_done"]), _reason=inputs.reason(start - 1))


def _tick(arm: Arm, index: int, inputs: RecordedInputs) -> None:
    inputs.index = index
    record = inputs.tape[index]
    if record["overrun_ns"]:
        arm.overrun(int(record["overrun_ns"]), int(record["overrun_late_ns"]))
    if record["missed_ticks"]:
        arm.missed(int(record["missed_wall_ns"]), int(record["missed_ticks"]))
    if record["leave"]:
        arm.event(EVENTS[int(record["leave"]) - 1], int(record["leave_ns"]))
    arm.step(int(record["t_ns"]), int(record["late_ns"]))


def _compare(index: int, inputs: RecordedInputs, driver: Any, state: np.void, report: ReplayReport) -> None:
    record = inputs.tape[index]
    report.replayed += 1
    report.setpoints += bool(record["calls"] & 1)
    found = next(_differences(record, inputs.states[index], driver, state), None)
    if found is None:
        return
    report.different += 1
    if report.first is None:
        what, was, comes = found
        report.first = Difference(int(record["tick"]), int(record["t_ns"]), what, str(was), str(comes))


def _differences(record: np.void, before: np.void, driver: Any, state: np.void) -> Iterator[tuple[str, Any, Any]]:
    calls, setpoint, t_setpoint_ns, flags = driver.taken()
    if calls != int(record["calls"]):
        yield "calls of the driver", int(record["calls"]), calls
    if calls & 1:
        # bytes, so that -0.0 and 0.0, or two NaNs, are told apart as the wire would
        if setpoint.tobytes() != record["setpoint"].tobytes():
            yield "setpoint", record["setpoint"].tolist(), setpoint.tolist()
        if (t_setpoint_ns, flags) != (int(record["t_setpoint_ns"]), int(record["flags"])):
            yield "time and flags of the setpoint", (record["t_setpoint_ns"], record["flags"]), (t_setpoint_ns, flags)
    for name in SAME:
        if before[name].tobytes() != state[name].tobytes() and not (name == "setpoint" and not before["streamed"]):
            yield name, before[name], state[name]


def logs_of(path: Path, topics: tuple[str, ...]) -> list[BlackBoxLog]:
    """The sessions of a path with the topics named."""
    from robopolicy.data.convert.blackbox_log import sessions

    return [BlackBoxLog(files, topics) for files in sessions(path)]
