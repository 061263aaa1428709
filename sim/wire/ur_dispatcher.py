"""Inside a simulated UR controller: safety, the program that ``ur_rtde`` uploads, ``servoj``, and its watchdog.

The uploaded program is not interpreted. It is a loop that reads a command number and its arguments from RTDE input
registers, once per controller cycle, and tells through an output register that it is ready or done; that loop is played
here. Commands known: 0 none, 11 ``servoj``, 15 and 16 stop of speed and servo motion, 31 protective stop, 34 ``stopj``,
35 ``rtde_set_watchdog``, 99 a watchdog's feed, 255 end. Any other is answered as done and does nothing.

``servoj`` is modelled as a first-order lag behind the newest target with time constant ``lookahead + 2 cycles``: 34
ms at the shortest lookahead, which is what people measure. Gain is not modelled. A speed slider below 1 slows the
servo's time: the lag grows and the top speed falls. As on the real one, the servo thread goes on towards the last
target when nothing comes any more, unless the watchdog ends the program; input registers outlive programs and
clients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MODE_IDLE", "MODE_POWER_OFF", "MODE_RUNNING", "PAUSED", "PLAYING", "STOPPED", "UrController"]

Vector = NDArray[np.float64]

STOPPED, PLAYING, PAUSED = 1, 2, 4
"""Runtime states."""
MODE_POWER_OFF, MODE_IDLE, MODE_RUNNING = 3, 5, 7
"""Robot modes."""
NORMAL, PROTECTIVE, EMERGENCY = 1 << 0, 1 << 2, (1 << 6) | (1 << 7)
"""Safety status bits; bit 10 says that the robot stands because of one of them."""
SAFETY_STOPPED = 1 << 10
READY, DONE = 1, 2
JOINTS_RUNNING, JOINTS_WARM = (253,) * 6, (30.0,) * 6
MOST_ACCELERATION = 40.0
"""rad/s^2, UR's documented maximum of servo motion."""


class UrController:
    """Everything of the controller but its sockets.

    Args:
        period_s: Controller cycle.
        max_velocity: [6] rad/s.
        on_target: Called with each ``servoj`` target [6] rad that arrives at a running program.
        on_end: Called with a reason when a stream of targets ends.

    Attributes:
        ints, doubles: Input registers.
        out_ints: Output registers.
        position, velocity: [6] what the motors are commanded to.
        clock_s: The controller's own time.
        runtime, mode: Runtime state, robot mode.
        protective, emergency: Latched stops.
        ignored: Targets that came while no program ran.
        watchdog_stops: Programs that the watchdog ended.
        rest_after_s: From the last target that arrived until the motors stood, on the controller's clock; 0 while a
            stream goes on.
    """

    def __init__(
        self,
        period_s: float,
        max_velocity: Vector,
        on_target: Callable[[Sequence[float]], None],
        on_end: Callable[[str], None],
    ):
        self._period_s, self._max_velocity = period_s, max_velocity
        self._on_target, self._on_end = on_target, on_end
        self.ints, self.doubles, self.out_ints = [0] * 48, [0.0] * 48, [0] * 48
        self.clock_s, self.ignored, self.watchdog_stops, self.programs = 0.0, 0, 0, 0
        self.mode, self.runtime = MODE_RUNNING, STOPPED
        self.protective = self.emergency = False
        self._watchdog_hz, self._written_ns = 0.0, 0
        self.rest_after_s = self._target_clock_s = 0.0
        self._rate = MOST_ACCELERATION
        self._executing = False
        self._lookahead_s = 0.1
        self.position = self.velocity = np.zeros(6)
        self._target: Vector | None = None
        self.reset(np.zeros(6))

    def reset(self, standing: Vector) -> None:
        """The arm stands at ``standing`` [6] and nothing moves; a program goes on."""
        self.position, self.velocity = standing.copy(), np.zeros(6)
        self._target = None

    @property
    def servoing(self) -> bool:
        """Whether a servo thread runs."""
        return self._target is not None

    @property
    def at_rest(self) -> bool:
        """Whether the motors are commanded to stand."""
        return float(np.abs(self.velocity).max()) < 1e-6

    @property
    def safety_bits(self) -> int:
        """Safety status bits."""
        if self.emergency:
            return EMERGENCY | SAFETY_STOPPED
        return PROTECTIVE | SAFETY_STOPPED if self.protective else NORMAL

    def start(self, source: str, now_ns: int) -> bool:
        """A whole program arrived. -> whether it runs: it needs power and no stop."""
        if self.mode != MODE_RUNNING or self.protective or self.emergency:
            return False
        self.end("another program")
        self.programs += 1
        # Of programs other than the register loop nothing is known; they end at once.
        if "read_input_integer_reg" not in source and "rtde_set_watchdog" not in source:
            return True
        self.runtime, self._executing, self._watchdog_hz, self._written_ns = PLAYING, False, 0.0, now_ns
        self.out_ints[0] = READY
        return True

    def end(self, reason: str, *, deceleration: float = MOST_ACCELERATION) -> None:
        """The program ends, the arm brakes."""
        if self.runtime != STOPPED:
            self.runtime, self._watchdog_hz = STOPPED, 0.0
            self.out_ints[0] = 0
        self._stop_servo(reason, deceleration)

    def halt(self, *, emergency: bool) -> None:
        """A protective or an emergency stop."""
        if self.emergency or (self.protective and not emergency):
            return
        self.protective, self.emergency = self.protective or not emergency, emergency
        self._stop_servo("emergency stop" if emergency else "protective stop", MOST_ACCELERATION)
        if emergency:
            self.end("emergency stop")
        elif self.runtime == PLAYING:
            self.runtime = PAUSED

    def recover(self) -> None:
        """A person cleared the stop; the program is gone, and after an emergency stop the arm is without power."""
        self.protective = self.emergency = False
        self.end("recovered")

    def write(self, names: Sequence[str], values: Sequence[Any], now_ns: int) -> None:
        """An RTDE input packet arrived."""
        for name, value in zip(names, values, strict=True):
            kind, _, index = name.rpartition("_register_")
            if kind == "input_int":
                self.ints[int(index)] = value
                if index == "0":
                    self._written_ns = now_ns
            elif kind == "input_double":
                self.doubles[int(index)] = value
        if "input_int_register_0" in names and self.ints[0] == 11 and "input_double_register_5" in names:
            if self.runtime == PLAYING:
                self._target_clock_s, self.rest_after_s = self.clock_s, 0.0
                self._on_target(self.doubles[:6])
            else:
                self.ignored += 1

    def cycle(self, now_ns: int, scale: float) -> Vector:
        """One cycle. -> [6] what the motors are commanded to.

        Args:
            now_ns: For the watchdog.
            scale: Speed slider, 0..1.
        """
        self.clock_s += self._period_s
        if self.runtime == PLAYING:
            if self._watchdog_hz > 0 and now_ns - self._written_ns > 1e9 / self._watchdog_hz:
                self.watchdog_stops += 1
                self.end("watchdog")
            else:
                self._dispatch()
        self._move(scale)
        if self._target is None and self.at_rest and not self.rest_after_s:
            self.rest_after_s = self.clock_s - self._target_clock_s
        if self.emergency and self.at_rest:
            self.mode = MODE_POWER_OFF
        return self.position

    def outputs(self, scale: float) -> dict[str, Any]:
        """RTDE output variables that are the controller's own; ``scale`` is the speed slider."""
        stop = (7 if self.emergency else 3) if self.emergency or self.protective else 1
        values: dict[str, Any] = {
            "timestamp": self.clock_s,
            "target_q": self.position.tolist(),
            "target_qd": self.velocity.tolist(),
            "robot_mode": self.mode,
            "joint_mode": JOINTS_RUNNING,
            "safety_mode": stop,
            "safety_status": stop,
            "safety_status_bits": self.safety_bits,
            "robot_status_bits": int(self.mode >= MODE_IDLE) | int(self.runtime == PLAYING) << 1,
            "runtime_state": self.runtime,
            "target_speed_fraction": scale,
            "speed_scaling": 1.0,
            "actual_main_voltage": 48.0,
            "actual_robot_voltage": 48.0,
            "joint_temperatures": JOINTS_WARM,
        }
        values["output_int_register_0"] = self.out_ints[0]
        return values

    def _dispatch(self) -> None:
        command = self.ints[0]
        if command == 11:
            self._servo()
            self.out_ints[0] = READY
        elif command in (0, 99):
            self._executing = False
            self.out_ints[0] = READY
        elif command == 255:
            self.end("end of the program")
        elif not self._executing:
            self._executing = True
            self._once(command)
        elif self.servoing or self.at_rest:
            self.out_ints[0] = DONE

    def _once(self, command: int) -> None:
        if command in (15, 16, 34):
            # stops with an argument; they are done when the arm stands
            self._stop_servo("stop", float(np.clip(self.doubles[0], 0.1, MOST_ACCELERATION)))
            if not self.at_rest:
                return
        elif command == 31:
            self.halt(emergency=False)
        elif command == 35:
            self._watchdog_hz = max(self.doubles[0], 0.0)
        self.out_ints[0] = DONE

    def _servo(self) -> None:
        target = np.array(self.doubles[:6])
        if not np.isfinite(target).all():
            self.end("a target that is no number")
            return
        self._target = target
        self._lookahead_s = float(np.clip(self.doubles[9], 0.03, 0.2))

    def _stop_servo(self, reason: str, deceleration: float) -> None:
        if self.servoing:
            self._target = None
            self._on_end(reason)
        self._rate = deceleration

    def _move(self, scale: float) -> None:
        dt = self._period_s
        if self._target is None:
            if self.at_rest:
                self.velocity = np.zeros(6)
                return
            fastest = float(np.abs(self.velocity).max())
            self.velocity = self.velocity * (max(fastest - self._rate * dt, 0.0) / fastest)
        else:
            error = self._target - self.position
            lag_s = self._lookahead_s + 2 * dt
            # not faster than it can brake before the target
            most = np.minimum(self._max_velocity, np.sqrt(2 * MOST_ACCELERATION * np.abs(error)))
            wanted = scale * np.clip(error / lag_s, -most, most)
            slew = MOST_ACCELERATION * dt
            self.velocity = self.velocity + np.clip(wanted - self.velocity, -slew, slew)
        self.position = self.position + self.velocity * dt
