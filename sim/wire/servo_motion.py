"""How the servos of a bus move an arm, and how the goals that they are given are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import SimulationError, explain
from robopolicy.sim.plant import Plant
from robopolicy.sim.wire.recorder import WireRecorder

__all__ = ["STEPS", "ServoMotion", "StepScale"]

Vector = NDArray[np.float64]

STEPS = 4096
"""Encoder steps per turn of both makes."""
MIDDLE = 2048
NOMINAL_SPAN = 1252
"""Steps between a closed and an open gripper where no calibration tells: 110 degrees."""
STOP_TOLERANCE = 1.1
REST = 0.02
TINY = 1e-12  # no error at all times no limit at all is not a number
HAND_ZERO_S, HAND_SWEEP_S = 0.8, 1.6


class StepScale:
    """Encoder steps <-> channel units of the card, [J] each.

    Args:
        card: The robot.
        calibration: joint -> {zero_step, sign} for channels in rad, {lower_step, upper_step} for the others; what is
            missing is 2048, +1, and 1252 steps from 2048 on.

    Attributes:
        resolution: [J] channel units per step.
    """

    def __init__(self, card: Embodiment, calibration: Mapping[str, Mapping[str, float]]):
        unknown = set(calibration) - set(card.joints.names)
        if unknown:
            raise SimulationError(explain("calibration of no joint", given=sorted(unknown), allowed=card.joints.names))
        zero, gain = [], []
        for channel in card.joints.channels:
            entry = calibration.get(channel.name, {})
            if channel.unit == "rad":
                zero.append(float(entry.get("zero_step", MIDDLE)))
                gain.append(float(entry.get("sign", 1)) * STEPS / math.tau)
            else:
                lower = float(entry.get("lower_step", MIDDLE))
                upper = float(entry.get("upper_step", lower + NOMINAL_SPAN))
                gain.append((upper - lower) / (channel.upper - channel.lower))
                zero.append(lower - channel.lower * gain[-1])
        self._zero, self.gain = np.array(zero), np.array(gain)
        self.resolution = 1.0 / np.abs(self.gain)

    def steps(self, position: Vector) -> Vector:
        """[J] channel units -> steps, not rounded."""
        return self._zero + position * self.gain

    def value(self, joint: int, step: float) -> float:
        """Steps of one servo -> channel units."""
        return float((step - self._zero[joint]) / self.gain[joint])


class ServoMotion:
    """Torque, goals and the reference that each servo's position loop follows.

    A goal is approached with the time constant ``lag_s`` within the profile's speed and acceleration; a servo without
    torque follows the arm instead of holding it.

    Args:
        card: The robot.
        plant: What is moved.
        scale: Units.
        period_s: Cycle.
        setpoint_s: Time between two goals, by which they are judged.
        lag_s: Time constant of the position loop.
        hand: ``sweep`` or nothing, see :class:`~robopolicy.sim.wire.serial_bus.SerialServoBus`.

    Attributes:
        torque: [J] whether powered.
        torque_dropped: Powered servos that were told to let go.
        unpowered_goals: Goals of a whole arm of which no servo was powered.
    """

    def __init__(
        self,
        card: Embodiment,
        plant: Plant,
        scale: StepScale,
        *,
        period_s: float,
        setpoint_s: float,
        lag_s: float,
        hand: str,
    ):
        if hand not in ("", "sweep"):
            raise SimulationError(explain("unknown hand", given=hand, allowed=["", "sweep"]))
        n = len(card.joints)
        self._plant, self._scale, self._dt = plant, scale, period_s
        self._lag_s, self._hand, self._setpoint_s = max(lag_s, period_s), hand, setpoint_s
        self.recorder = WireRecorder(card, setpoint_s, scale.resolution)
        self._lower, self._upper = card.joints.lower, card.joints.upper
        self._rated_velocity = card.joints.limit("max_velocity")
        self._rated_acceleration = card.joints.limit("max_acceleration")
        self._velocity_limit, self._acceleration_limit = self._rated_velocity.copy(), np.full(n, np.inf)
        self.torque, self._latched = np.zeros(n, bool), np.zeros(n, bool)
        self.goal, self._reference, self._speed = np.zeros(n), np.zeros(n), np.zeros(n)
        self._let_go_ns = 0
        self.stand(np.array(plant.measure()[0], float))
        self.recorder.reset(self._position)

    _last: Vector | None

    def stand(self, standing: Vector) -> None:
        """The arm was put to ``standing`` [J]."""
        self.goal, self._reference = standing.copy(), standing.copy()
        self._speed, self._latched = np.zeros_like(standing), np.zeros(len(standing), bool)
        self._position, self._velocity = standing.copy(), np.zeros_like(standing)
        self._still, self._last = False, None
        self.torque_dropped = self.unpowered_goals = 0

    # -- what the tables say ----------------------------------------------------------------------------------------

    def set_goal(self, joint: int, step: int) -> None:
        """Goal of one servo, in steps."""
        self.goal[joint] = self._scale.value(joint, step)

    def set_profile(self, joint: int, *, steps_s: float, steps_s2: float) -> None:
        """Speed and acceleration of one servo's own motion; 0 for none, which is the rated speed at once."""
        gain = abs(self._scale.gain[joint])
        rated = self._rated_velocity[joint]
        self._velocity_limit[joint] = min(steps_s / gain, rated) if steps_s else rated
        self._acceleration_limit[joint] = steps_s2 / gain if steps_s2 else np.inf

    def latch(self, joint: int) -> None:
        """This servo has protected itself: it no longer follows its goal."""
        self._latched[joint] = True

    def unlatch(self, joint: int) -> None:
        """It was switched off and on, or rebooted."""
        self._latched[joint] = False

    def halt(self, joint: int) -> None:
        """Stop this servo where it stands."""
        self.goal[joint], self._speed[joint] = self._position[joint], 0.0
        self._reference[joint] = self._position[joint]

    def power(self, joint: int, on: bool, now_ns: int, *, told: bool) -> None:
        """Torque of one servo. A goal far from where it stands is a jump as soon as there is torque."""
        if on == self.torque[joint]:
            return
        self.torque[joint] = on
        if not on:
            self.torque_dropped += told
            self._let_go_ns = now_ns
            return
        self._reference[joint], self._speed[joint] = self._position[joint], 0.0
        self.judge([joint], now_ns, whole=False, profiled=False)

    # -- the judgement ----------------------------------------------------------------------------------------------

    def judge(self, joints: Sequence[int], now_ns: int, *, whole: bool, profiled: bool) -> None:
        """Goals of ``joints`` were written: one setpoint of the arm, if any of its servos is powered."""
        if not self.torque[list(joints)].any():
            self.unpowered_goals += whole
            return
        wanted = np.where(self.torque, self.goal, self._position)
        slow = (self._acceleration_limit <= STOP_TOLERANCE * self._rated_acceleration) | ~self.torque
        if profiled and slow.all():
            # The servos' own motion, at a rated acceleration: only where it ends can be wrong.
            self.recorder.restart(None)
            self.recorder.setpoint(wanted, now_ns)
            self.recorder.restart(wanted)
        elif not whole:
            self.recorder.restart(self._position)
            self.recorder.setpoint(wanted, now_ns)
            self.recorder.restart(wanted)
        else:
            self._still = self._last is not None and bool((self._last == wanted).all())
            self.recorder.setpoint(wanted, now_ns)
        self._last = wanted

    # -- motion -----------------------------------------------------------------------------------------------------

    def advance(self, now_ns: int, *, hung: bool, scale: float) -> None:
        """One cycle. ``hung``: the control loops stand and the motors keep what they had."""
        # A stream that came to rest has ended; one that breaks off in motion has holes.
        if self._still and self.recorder.silent_s(now_ns) > 2 * self._setpoint_s:
            self.recorder.restart(self._last)
            self._still = False
        if not hung:
            self._follow(scale)
        free = ~self.torque
        if free.any():
            self._reference = np.where(free, self._position, self._reference)
            self._speed = np.where(free, 0.0, self._speed)
            if self._hand and free.all():
                self._reference = self._by_hand(now_ns)
        self._plant.servo(self._reference)
        position, velocity = self._plant.measure()
        self._position, self._velocity = np.array(position, float), np.array(velocity, float)

    def _follow(self, scale: float) -> None:
        active = self.torque & ~self._latched
        error = np.where(active, self.goal - self._reference, 0.0)
        brake = np.sqrt(2.0 * self._acceleration_limit * np.maximum(np.abs(error), TINY))
        size = np.minimum(np.minimum(np.abs(error) / self._lag_s, brake), self._velocity_limit * scale)
        wanted = np.sign(error) * size
        slew = self._acceleration_limit * self._dt
        self._speed = np.where(active, self._speed + np.clip(wanted - self._speed, -slew, slew), 0.0)
        self._reference = self._reference + self._speed * self._dt

    def _by_hand(self, now_ns: int) -> Vector:
        """Where the hand has the arm: at zero for a while, then from end to end, and again."""
        zero = np.clip(np.zeros_like(self._lower), self._lower, self._upper)
        since = (now_ns - self._let_go_ns) / 1e9 % (HAND_ZERO_S + HAND_SWEEP_S)
        if since < HAND_ZERO_S:
            return zero
        phase = (since - HAND_ZERO_S) / HAND_SWEEP_S * math.tau
        middle, half = (self._lower + self._upper) / 2, (self._upper - self._lower) / 2
        return middle + half * math.sin(phase)

    # -- what is measured -------------------------------------------------------------------------------------------

    def present_step(self, joint: int) -> int:
        """Encoder of one servo."""
        return round(float(self._scale.steps(self._position)[joint]))

    def speed_steps(self, joint: int) -> int:
        """Steps per second of one servo, signed."""
        return round(float(self._velocity[joint] * self._scale.gain[joint]))

    def effort(self, joint: int) -> float:
        """Share of full torque, -1..1, as the position error of a stiff servo would make it."""
        error = self.goal[joint] - self._position[joint] if self.torque[joint] else 0.0
        return float(np.clip(2.0 * error * np.sign(self._scale.gain[joint]), -1.0, 1.0))

    def state(self) -> dict[str, Any]:
        """Plain values for the report."""
        return {
            "at_rest": bool((np.abs(self._velocity) < REST).all()),
            "powered": bool(self.torque.all()),
            "torque": self.torque.tolist(),
            "torque_dropped": self.torque_dropped,
            "unpowered_goals": self.unpowered_goals,
            "target": self.goal.tolist(),
        }
