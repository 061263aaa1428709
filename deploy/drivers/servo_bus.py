"""What the drivers of servo buses share: one read and one write of the whole arm per tick, through the vendor's SDK.

**Liveness.** A bus has no acknowledgement worth the name: nobody answers a sync write. So each tick reads a block that
holds not only position and speed but also the *goal* that the servo believes in, and, where there is one, its clock.
:meth:`read` stamps a state with the time at which its request was sent, and only when every servo answered and has
advanced (what that means is up to the make). A goal that is not the one that was written, five answers in a row, is a
fault: the servo no longer takes goals.

**Misses.** An answer that is lost, late or damaged costs its timeout and nothing else: the state is extrapolated, its
time stands. When nothing at all arrived, the next tick sends no request, so that a late answer is thrown away and never
taken for the answer to a newer question. Half of the last fifty answers missing, or ``timeout_s`` without a state, is a
:class:`DeployError`.

**Torque** is never dropped, not by :meth:`close` either, unless ``torque_off_on_close`` asks for it: an arm that is let
go falls. Whoever wants it limp lowers it first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.drivers.servo_calibration import load_calibration
from robopolicy.deploy.drivers.servo_link import ServoLink
from robopolicy.deploy.drivers.servo_make import Sample, ServoHealth, ServoMake
from robopolicy.deploy.drivers.servo_watch import BusWatch
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.types import RobotState, Setpoint

__all__ = ["ServoBusDriver", "monotonic_ns"]

Vector = NDArray[np.float64]
Steps = NDArray[np.int64]

FIRST_ANSWER_S, PAUSE_S = 1.0, 0.02
MOST_APART_STEPS = 64
HOLD_NEAR = 0.05
"""A last goal this close to where the arm comes to rest is kept: stopping twice must not lower a loaded arm."""


def monotonic_ns() -> int:
    """Nanoseconds of ``CLOCK_MONOTONIC``."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class ServoBusDriver(ServoMake):
    """A :class:`~robopolicy.protocols.RobotDriver` of servos on one serial bus.

    Args:
        card: Embodiment; joints in the order of ``ids``.
        tick_s: Time between two setpoints.
        timeout_s: How long there may be no new state.
        device: Serial device; a path below ``/dev/serial/by-id`` survives a cable that was out.
        calibration: See :func:`~robopolicy.deploy.drivers.servo_calibration.load_calibration`.
        ids: Bus identifiers by joint; those of the calibration, else 1, 2, 3 ...
        baud: Bits per second.
        packet_timeout_s: How long answers may take beyond their own length. USB adapters of FTDI keep bytes for 16 ms
            unless ``/sys/bus/usb-serial/devices/ttyUSB*/latency_timer`` is 1.
        health_period_s: Temperature, voltage and torque of one servo are read this often.
        torque_off_on_close: Let the arm go when the driver is closed.

    Attributes:
        health: joint -> last :class:`ServoHealth`.
        fault_reason: Why :attr:`RobotState.fault` is set, or nothing.
    """

    buffered = False

    def __init__(
        self,
        card: Embodiment,
        *,
        tick_s: float,
        timeout_s: float,
        device: str = "",
        calibration: str | Mapping[str, Any] = "",
        ids: Sequence[int] | None = None,
        baud: int = 1_000_000,
        packet_timeout_s: float = 0.01,
        health_period_s: float = 0.5,
        torque_off_on_close: bool = False,
    ):
        self._card, self._tick_s, self._timeout_s = card, tick_s, timeout_s
        self._device, self._baud, self._packet_timeout_s = device, int(baud), packet_timeout_s
        self._scale = load_calibration(card, calibration, drive_mode_inverts=self.drive_mode_inverts)
        told = [self._scale.ids[name] for name in card.joints.names] if self._scale.ids else None
        self._ids = [int(n) for n in (ids or told or range(1, len(card.joints) + 1))]
        if len(set(self._ids)) != len(card.joints):
            raise DeployError(explain("one bus identifier per joint", given=self._ids, allowed=card.joints.names))
        self._health_ns, self._torque_off = round(health_period_s * 1e9), torque_off_on_close
        self._acceleration = card.joints.limit("max_acceleration")
        self._link: ServoLink | None = None
        self._forget()

    def _forget(self) -> None:
        n = len(self._ids)
        self._position, self._velocity = np.zeros(n), np.zeros(n)
        self._watch, self._asked_ns = BusWatch(self.make, self._timeout_s), 0
        self._quiet = False
        self._next_health_ns, self._turn = 0, 0
        self._samples: list[Sample] = []
        self._sent: Steps | None = None
        self._enabled = self._profiled = self._streaming = self._expecting = False
        self.health: dict[str, ServoHealth] = {}
        self.fault_reason = ""

    # -- the driver -------------------------------------------------------------------------------------------------

    @property
    def embodiment(self) -> Embodiment:
        """Card of the robot behind it."""
        return self._card

    def connect(self, *, fitted: bool = True) -> None:
        """Open the port, find every servo, read them once. Nothing is moved or powered.

        Args:
            fitted: Refuse servos that do not fit the calibration.

        Raises:
            DeployError: no port, a servo that does not answer, or one that does not fit the calibration.
        """
        link = self.open()
        try:
            silent = [n for n in self._ids if not link.ping(n)]
            if silent:
                answered = f"{[n for n in self._ids if n not in silent]} do"
                mend = "supply on? cable between the servos? the right baud rate and ids?"
                raise DeployError(
                    explain(f"{self.make} servos do not answer", given=silent, allowed=answered, mend=mend)
                )
            for joint in range(len(self._ids) if fitted else 0):
                self._check(joint)
            self.first_answer()
        except DeployError:
            self._shut()
            raise

    def open(self, *, claim: bool = True) -> ServoLink:
        """Open the port and nothing else; ``claim``: as its only driver."""
        self._shut()
        self._forget()
        self._link = ServoLink(
            self._sdk(),
            self.make,
            self._ids,
            device=self._device,
            baud=self._baud,
            timeout_s=self._packet_timeout_s,
            claim=claim,
        )
        return self._link

    def first_answer(self) -> list[Sample]:
        """One whole answer of the arm, with patience. -> [J].

        Raises:
            DeployError: there is none.
        """
        until = monotonic_ns() + round(FIRST_ANSWER_S * 1e9)
        while monotonic_ns() < until:
            samples = self._ask()
            if samples is not None:
                self._watch.restart(self._asked_ns)
                self._take(samples)
                return samples
            time.sleep(PAUSE_S)  # late bytes come and are thrown away
        raise DeployError(
            explain(
                "the servos do not answer as one arm",
                given=self._device,
                mend="look at the cables; with FTDI adapters set latency_timer to 1",
            )
        )

    def enable(self) -> None:
        """Goal to where each servo stands, then torque, each verified; then the watchdogs.

        Raises:
            DeployError: a servo that does not take it.
        """
        goals = []
        for joint in range(len(self._ids)):
            self._prepare(joint)
            self._write(joint, self.profile_register, self._profile_bytes(0.0))
            goals.append(self._stands_at(joint))
            self._write(joint, self.goal_register, self._goal_bytes(goals[-1]))
            self._write(joint, self.torque_register, [1])
        self._sent, self._profiled = np.array(goals, np.int64), False
        self._enabled = self._expecting = True
        self.health.clear()
        self.first_answer()
        self._arm()

    def read(self) -> RobotState:
        """Newest state; extrapolated, with the time of the last whole answer, when this one is missing.

        Raises:
            DeployError: the port is gone, too many answers are missing, or no servo has advanced for ``timeout_s``.
        """
        samples = None
        if self._quiet:
            self._quiet = False
        else:
            samples = self._ask()
            if samples is None:
                self._watch.missed()
                self._quiet = self.link.silent
            else:
                self._watch.answered(self._asked_ns, self._advanced(self._samples, samples))
                self._take(samples)
                self._look_after()
        age_s = self._watch.check(monotonic_ns())
        position = self._position if samples is not None else self._position + self._velocity * age_s
        return RobotState(self._watch.seen_ns, position.copy(), self._velocity.copy(), bool(self.fault_reason))

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Write one goal for the whole arm. Trouble of the wire shows in :meth:`read`.

        Raises:
            DeployError: a setpoint that is not finite; nothing is sent.
        """
        position = np.asarray(setpoint.position, float)
        if position.shape != self._position.shape or not np.isfinite(position).all():
            raise DeployError(
                explain("a setpoint that is not a finite vector", given=position, allowed=self._card.joints.names)
            )
        if self._profiled:
            self.link.send(*self.profile_register, [self._profile_bytes(0.0)] * len(self._ids))
            self._profiled = False
        self._sent = self._scale.steps(position)
        self._streaming = self._expecting = True
        self._send_goals()

    def hold(self) -> None:
        """Say the last goal once more; the servos keep it, powered."""
        self._streaming = False
        self._send_goals()

    def stop(self) -> None:
        """Have each servo come to rest by its own profile, at the card's acceleration, and hold there."""
        self._streaming = self._expecting = False
        if self._link is None or not self._samples:
            return
        believed = np.array([s.goal for s in self._samples], float) if self._sent is None else self._sent.astype(float)
        last = self._scale.position(believed)
        rest = self._position + self._velocity * np.abs(self._velocity) / (2.0 * self._acceleration)
        far = np.abs(last - rest) > HOLD_NEAR
        moving = np.abs(self._velocity) > HOLD_NEAR
        if not (far | moving).any():
            self._sent = believed.astype(np.int64)
            self._send_goals()
            return
        self._sent = np.where(far, self._scale.steps(rest), believed).astype(np.int64)
        rated = self._acceleration * np.abs(self._scale.gain)
        self._profiled = True
        data = [self._profile_bytes(a) + self._goal_bytes(int(s)) for a, s in zip(rated, self._sent, strict=True)]
        start, (goal, length) = self.profile_register[0], self.goal_register
        self._link.send(start, goal + length - start, data)

    def close(self) -> None:
        """Stop, hold, let go of the port. Torque stays on unless ``torque_off_on_close``."""
        if self._link is None:
            return
        if self._enabled:
            self.stop()
            try:
                self._disarm()
                if self._torque_off:
                    self.torque_off()
            except DeployError:
                pass  # the bus is dead: there is nobody left to tell
        self._shut()

    def torque_off(self) -> None:
        """Let the arm go. It falls: for calibration and for ``torque_off_on_close`` only.

        Raises:
            DeployError: a servo that does not take it.
        """
        self._enabled = self._streaming = self._expecting = False
        self._sent = None
        for joint in range(len(self._ids)):
            self._write(joint, self.torque_register, [0])

    def present_steps(self) -> Steps | None:
        """[J] encoder steps now; None when an answer is missing."""
        samples = self._ask()
        return None if samples is None else np.array([s.present for s in samples], np.int64)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _take(self, samples: list[Sample]) -> None:
        self._samples = samples
        self._position = self._scale.position(np.array([s.present for s in samples], float))
        self._velocity = self._scale.velocity(np.array([s.speed for s in samples], float))
        names, wrong = self._card.joints.names, np.zeros(len(samples), bool)
        found = [
            f"{n}: {self._trouble(s.error)}" for n, s in zip(names, samples, strict=True) if self._trouble(s.error)
        ]
        if self._expecting and self._sent is not None:
            wrong = np.array([s.goal for s in samples]) != self._sent
            found += [
                f"{n}: {h.trouble or 'torque is gone'}" for n, h in self.health.items() if h.trouble or not h.torque
            ]
        if self._watch.untaken(wrong):
            found.append(f"goals are not taken by {', '.join(n for n, w in zip(names, wrong, strict=True) if w)}")
        if wrong.any() and not self._streaming:
            self._send_goals()
        self.fault_reason = "; ".join(found)

    def _look_after(self) -> None:
        """Now and then one servo's torque, voltage and temperature."""
        now_ns = monotonic_ns()
        if now_ns < self._next_health_ns:
            return
        self._next_health_ns = now_ns + self._health_ns
        joint = self._turn = (self._turn + 1) % len(self._ids)
        found = self.link.glance(self._ids[joint], *self.status_block)
        if found is None:
            self._quiet = True
        else:
            self.health[self._card.joints.names[joint]] = self._status(found)

    def _stands_at(self, joint: int) -> int:
        """Step at which this servo stands; two answers have to agree, for torque will rest on it."""
        steps = [self._decode(self._read(joint, self.block), 0).present for _ in range(2)]
        if abs(steps[0] - steps[1]) > MOST_APART_STEPS:
            name = self._card.joints.names[joint]
            raise DeployError(
                explain(f"servo of {name} is moving", given=steps, mend="hold the arm still, then enable")
            )
        return steps[1]

    def _send_goals(self) -> None:
        if self._sent is not None and self._link is not None:
            self._link.send(*self.goal_register, [self._goal_bytes(int(step)) for step in self._sent])

    @property
    def link(self) -> ServoLink:
        """The open port.

        Raises:
            DeployError: it is not open.
        """
        if self._link is None:
            raise DeployError(explain("the bus is not connected", given=self._device, mend="connect()"))
        return self._link

    @property
    def misses(self) -> int:
        """Requests without a whole answer since :meth:`connect`."""
        return self._watch.misses

    def _ask(self) -> list[Sample] | None:
        self._asked_ns = monotonic_ns()
        try:
            answers = self.link.ask(*self.block)
        except DeployError:
            self._shut()
            raise
        return None if answers is None else [self._decode(data, error) for data, error in answers]

    def _write(self, joint: int, register: tuple[int, int], data: Sequence[int]) -> None:
        self.link.write(self._ids[joint], *register, data, self._trouble)

    def _read(self, joint: int, register: tuple[int, int]) -> list[int]:
        return self.link.read(self._ids[joint], *register)

    def _shut(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link, self._enabled = None, False
