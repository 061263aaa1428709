"""Driver of Universal Robots e-Series arms on ``ur_rtde`` (extra ``ur``).

What that client says is not evidence: its ``servoJ`` returns True towards a frozen controller. Here the controller is
alive while its own time stamp advances, and whether it obeys is seen from the state of its program and its safety
bits; both are read over an RTDE connection of this process. Commands go through ``ur_rtde`` in a child process,
because it waits without deadlines and does not survive a lost connection (see
:mod:`robopolicy.deploy.drivers.ur_control`).

``enable`` uploads the client's control program and arms its watchdog (``rtde_set_watchdog``), which every setpoint
feeds, and :meth:`URDriver.read` between streams. When this process dies, the child brakes the arm; when both die, the
controller ends the program, brakes and holds. A servo stop ends every stream. While the client carries one out it
feeds nothing, so one that takes longer than the watchdog's period ends the program too; ``enable`` starts it again.
"""

from __future__ import annotations

import contextlib
import time
from operator import gt
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.drivers.ur_client import UrControl
from robopolicy.deploy.drivers.ur_control import END, FEED, PLAY, SERVO, STOP, WATCHDOG
from robopolicy.deploy.drivers.ur_dashboard import DashboardLine, DashboardStop
from robopolicy.deploy.drivers.ur_gripper import RobotiqLine
from robopolicy.deploy.drivers.ur_options import (
    TURN_RAD,
    UrOptions,
    arm_joints,
    power_on,
    require_known,
    require_plausible,
    require_remote,
    require_setpoint,
)
from robopolicy.deploy.drivers.ur_state import PLAYING, RUNNING_MODE, RtdeReader, UrState
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.types import RobotState, Setpoint

__all__ = ["URDriver"]

Vector = NDArray[np.float64]

STOPPED_BITS = sum(1 << bit for bit in (2, 3, 4, 5, 6, 7, 8, 9, 10))
"""Protective, recovery, safeguard, system and robot emergency, emergency, violation, fault, stopped for safety."""
ACTIVATION_S, PLAY_S, CALL_S = 1.5, 3.0, 0.5
CLOCK_SLACK_S = 0.5


class URDriver:
    """A :class:`~robopolicy.protocols.RobotDriver`, speed-scaled, force-sensing and guarded.

    Args:
        card: Six arm joints, then at most a gripper.
        tick_s: Time between two setpoints, 2 ms or a multiple.
        timeout_s: How long the controller's clock may stand still.
        **options: See :class:`~robopolicy.deploy.drivers.ur_options.UrOptions`; ``address`` is needed.

    Attributes:
        sent, withheld: Setpoints sent; and not sent because no program was there to take them.

    Raises:
        DeployError: a card that is no UR's, or a bad option.
    """

    buffered = False

    def __init__(self, card: Embodiment, *, tick_s: float, timeout_s: float, **options: Any):
        self._card, self._tick_s, self._timeout_s = card, tick_s, timeout_s
        self._options = UrOptions.of(options, tick_s)
        self._arm, self._end = arm_joints(card, self._options.gripper)
        self._most_velocity = (2.0 * card.joints.limit("max_velocity")[self._arm]).tolist()
        self._reader: RtdeReader | None = None
        self._control: UrControl | None = None
        self._gripper: RobotiqLine | None = None
        self.flags = self.sent = self.withheld = 0
        self._wrench = np.zeros(6)
        self._forget()

    def _forget(self) -> None:
        self._enabled = self._streaming = self._delivered = self._fault = False
        self._clock_s, self._advanced_ns, self._fed_ns = -1.0, 0, 0
        self._scale, self._runtime, self._mode, self._failure = 1.0, 0, 0, ""
        self._state: RobotState | None = None
        self._opening = float(self._card.home_position[self._end]) if self._end is not None else 0.0

    @property
    def embodiment(self) -> Embodiment:
        """Card of the robot behind it."""
        return self._card

    @property
    def speed_scale(self) -> float:
        """The controller's own scaling: speed slider times trajectory limiter."""
        return self._scale

    def wrench(self) -> NDArray[np.float64]:
        """[6] ``actual_TCP_force``: N, N m, in the base frame."""
        return self._wrench

    @staticmethod
    def stop_channel(card: Embodiment, options: dict[str, Any]) -> DashboardStop:
        """The dashboard's ``stop``, from any process."""
        return DashboardStop(str(options["address"]))

    def connect(self) -> None:
        """Reach controller and gripper, and look whether the pose can be true.

        Raises:
            DeployError: nobody there, not in remote control, or a pose that no arm has.
        """
        self.close()
        self._forget()
        address = self._options.address
        try:
            self._reader = RtdeReader(address)
            require_known(self._reader.version)
            with contextlib.closing(DashboardLine(address)) as line:
                require_remote(line)
            if self._options.gripper == "robotiq" and self._end is not None:
                speed, force = self._options.gripper_speed, self._options.gripper_force
                self._gripper = RobotiqLine(address, speed=speed, force=force)
            require_plausible(self._reader.wait(2.0).position)
            self._control = UrControl(address)
            self.read()
        except DeployError:
            self.close()
            raise

    def enable(self) -> None:
        """Power on, release the brakes, start the control program and arm its watchdog.

        Raises:
            DeployError: a stop is in force, or something does not start in time.
        """
        reader, control = self._connected()
        self._enabled = self._streaming = self._delivered = False
        self._failure = ""
        if self.read().fault:
            raise DeployError(explain("the controller reports a stop", mend="clear it at the pendant, then enable"))
        if self._mode != RUNNING_MODE:
            power_on(self._options.address, lambda: (reader.poll() or reader.wait(1.0)).mode)
        if self._gripper is not None:
            self._gripper.activate(ACTIVATION_S)
            self._opening = self._gripper.opening
        control.call(PLAY, deadline_s=PLAY_S)
        # last, because it wants to be fed from now on
        control.call(WATCHDOG, self._options.watchdog_hz, deadline_s=2 * CALL_S)
        self._fed_ns = monotonic_ns()
        self._enabled = True
        # no stream may begin before the state says that somebody listens
        until_ns = monotonic_ns() + round(PLAY_S * 1e9)
        while self.read() is not None and self._runtime != PLAYING and monotonic_ns() < until_ns:
            time.sleep(self._tick_s)

    def read(self) -> RobotState:
        """Newest measured state.

        Raises:
            DeployError: not connected, connection lost, or the controller's clock stands still.
        """
        reader, control = self._connected()
        now_ns = monotonic_ns()
        packet, silent_s = reader.poll(), (now_ns - self._advanced_ns) / 1e9
        # neither a clock that goes back nor one that leaps is a clock that advances
        fresh = packet is not None and 0 < packet.clock_s - self._clock_s < silent_s + CLOCK_SLACK_S
        if packet is not None and (fresh or self._state is None) and self._sound(packet):
            self._clock_s, self._advanced_ns, silent_s = packet.clock_s, now_ns, 0.0
            self._state = self._take(packet, now_ns)
        if self._state is None or silent_s > self._timeout_s:
            # a packet that the network acknowledges proves nothing, a clock that advances does
            given = f"{silent_s:.3f} s" if self._state is not None else "no sound packet"
            raise DeployError(explain("the UR's clock stands still", given=given, allowed=f"{self._timeout_s} s"))
        if self._gripper is not None:
            self._gripper.poll()
        control.poll()
        if self._failure:
            raise DeployError(self._failure)
        if self._enabled and not self._streaming:
            self._feed(control, now_ns)
        return self._state

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Send one limited setpoint; while no program can take it, nothing is sent.

        Raises:
            DeployError: another width, a number that is none, or no program to take it.
        """
        require_setpoint(setpoint.position, len(self._card.joints))
        control = self._control
        if control is None or not self._enabled or self._failure:
            return
        self._streaming = True
        if self._fault or self._runtime != PLAYING:
            self.withheld += 1
            if not self._delivered:
                return  # the program has not begun yet, and the stream still stands where it begins
            raise DeployError(
                explain(
                    "the UR's program takes no setpoints", given=f"runtime {self._runtime}", mend="arm and enable again"
                )
            )
        position, options = setpoint.position, self._options
        try:
            if control.busy:
                # the last stream is still being ended; a setpoint must not be lost, so the path waits
                control.wait(CALL_S)
            control.order(SERVO, *position[self._arm].tolist(), self._tick_s, options.lookahead_s, options.gain)
        except DeployError as error:
            self._failure = str(error)
            return
        self.sent += 1
        self._delivered = True
        self._fed_ns = monotonic_ns()
        if self._end is not None:
            self._opening = float(position[self._end])
            if self._gripper is not None:
                self._gripper.command(self._opening)

    def hold(self) -> None:
        """End the stream; the arm keeps the pose under power. Does not wait."""
        self._end_stream()

    def stop(self) -> None:
        """Have the controller brake and hold. Does not wait for it: it may take as long as it takes to brake."""
        self._end_stream()

    def close(self) -> None:
        """Stop, end the program, and let go; the arm holds by its brakes."""
        control, gripper, reader = self._control, self._gripper, self._reader
        if control is not None:
            # what fails here is done by the child when its line closes, or by the watchdog
            with contextlib.suppress(DeployError):
                self.stop()
                control.wait(CALL_S)
                if self._enabled:
                    control.call(END, deadline_s=2 * CALL_S)
            control.close()
        for line in (gripper, reader):
            if line is not None:
                line.close()
        self._control = self._gripper = self._reader = None
        self._enabled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _connected(self) -> tuple[RtdeReader, UrControl]:
        if self._reader is None or self._control is None:
            raise DeployError(explain("the UR is not connected", mend="connect first"))
        return self._reader, self._control

    def _sound(self, packet: UrState) -> bool:
        """Whether a packet can be true; else the one before has to do."""
        fast = any(map(gt, map(abs, packet.velocity), self._most_velocity))
        return packet.finite and max(map(abs, packet.position)) < TURN_RAD and not fast

    def _take(self, packet: UrState, now_ns: int) -> RobotState:
        self._runtime, self._mode = packet.runtime, packet.mode
        # between streams it is enable that starts programs and powers arms
        lost = self._streaming and (packet.runtime != PLAYING or packet.mode != RUNNING_MODE)
        self._fault = bool(packet.safety & STOPPED_BITS) or lost
        self._scale, self._wrench = min(max(packet.scale, 0.0), 1.0), np.array(packet.force)
        position, velocity = np.empty(len(self._card.joints)), np.zeros(len(self._card.joints))
        position[self._arm], velocity[self._arm] = packet.position, packet.velocity
        if self._end is not None:
            position[self._end] = self._opening if self._gripper is None else self._gripper.opening
            velocity[self._end] = 0.0 if self._gripper is None else self._gripper.velocity
        return RobotState(now_ns, position, velocity, self._fault)

    def _feed(self, control: UrControl, now_ns: int) -> None:
        """Between streams the watchdog is fed from here, four times per period."""
        due = now_ns - self._fed_ns > 0.25e9 / self._options.watchdog_hz
        if due and not self._fault and self._runtime == PLAYING and not control.busy:
            self._fed_ns = now_ns
            control.order(FEED)

    def _end_stream(self) -> None:
        control, streaming = self._control, self._streaming
        self._streaming = self._delivered = False
        if control is None or not self._enabled or not streaming or self._fault or self._runtime != PLAYING:
            return
        try:
            control.order(STOP, self._options.deceleration)
            self._fed_ns = monotonic_ns()
        except DeployError as error:
            self._failure = str(error)
