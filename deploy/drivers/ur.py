"""Driver of Universal Robots e-Series arms on the vendor community's ``ur_rtde`` (extra ``ur``).

What the client says is not evidence: its ``servoJ`` returns True towards a frozen controller. Here the controller is
alive while its own time stamp advances; whether it obeys is seen from the state of its program and its safety bits.

``enable`` uploads the client's control program and arms its watchdog (``rtde_set_watchdog``), which every setpoint
feeds, and :meth:`URDriver.read` between streams. When this process dies, the controller ends the program, brakes and
holds. A servo stop ends every stream. While the client carries one out, it feeds nothing, so one that takes longer
than the watchdog's period ends the program too; ``enable`` starts it again.
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.drivers.ur_client import CALL_S, PLAYING, UrClient
from robopolicy.deploy.drivers.ur_dashboard import DashboardLine, DashboardStop, controller_version
from robopolicy.deploy.drivers.ur_gripper import RobotiqLine
from robopolicy.deploy.drivers.ur_options import UrOptions, arm_joints, power_on, require_plausible
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.types import RobotState, Setpoint

__all__ = ["URDriver"]

Vector = NDArray[np.float64]

STOPPED_BITS = sum(1 << bit for bit in (2, 3, 4, 5, 6, 7, 8, 9, 10))
"""Protective, recovery, safeguard, system and robot emergency, emergency, violation, fault, stopped for safety."""
RUNNING_MODE = 7
ACTIVATION_S = 2.0


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
        self._limit = 2.0 * card.joints.limit("max_velocity")[self._arm]
        self._client: UrClient | None = None
        self._gripper: RobotiqLine | None = None
        self.flags = self.sent = self.withheld = 0
        self._wrench = np.zeros(6)
        self._forget()

    def _forget(self) -> None:
        self._enabled = self._streaming = self._fault = False
        self._clock_s, self._advanced_ns, self._fed_ns = -1.0, 0, 0
        self._scale, self._runtime, self._failure = 1.0, 0, ""
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
        major, minor, *_ = controller_version(address)
        if (major, minor) < (5, 6) or major > 5:
            given = f"PolyScope {major}.{minor}"
            raise DeployError(explain("a controller this driver does not know", given=given, allowed="PolyScope 5.6+"))
        line = DashboardLine(address)
        try:
            if "true" not in line.ask("is in remote control").lower():
                raise DeployError(explain("the arm is in local control", mend="switch the pendant to remote control"))
        finally:
            line.close()
        try:
            self._client = UrClient(address, rate_hz=500.0)
            if self._options.gripper == "robotiq" and self._end is not None:
                speed, force = self._options.gripper_speed, self._options.gripper_force
                self._gripper = RobotiqLine(address, speed=speed, force=force)
            require_plausible(self._client.receive.getActualQ())
            self.read()
        except DeployError:
            self.close()
            raise

    def enable(self) -> None:
        """Power on, release the brakes, start the control program and arm its watchdog.

        Raises:
            DeployError: a stop is in force, or something does not start in time.
        """
        client = self._connected()
        self._enabled = self._streaming = False
        self._failure = ""
        if self.read().fault:
            raise DeployError(explain("the controller reports a stop", mend="clear it at the pendant, then enable"))
        if client.receive.getRobotMode() != RUNNING_MODE:
            power_on(self._options.address, lambda: int(client.receive.getRobotMode()) == RUNNING_MODE)
        if self._gripper is not None:
            self._gripper.activate(ACTIVATION_S)
            self._opening = self._gripper.opening
        client.play()
        # last, because it wants to be fed from now on
        client.deputy.call("watchdog", lambda: client.control.setWatchdog(self._options.watchdog_hz), 2 * CALL_S)
        self._fed_ns = monotonic_ns()
        self._enabled = True
        self.read()

    def read(self) -> RobotState:
        """Newest measured state.

        Raises:
            DeployError: not connected, connection lost, or the controller's clock stands still.
        """
        client, now_ns = self._connected(), monotonic_ns()
        receive = client.receive
        if not receive.isConnected():
            raise DeployError(explain("the UR controller closed the connection", mend="connect again"))
        clock_s = receive.getTimestamp()
        if clock_s > self._clock_s:
            state = self._take(receive, now_ns)
            if state is not None:
                self._clock_s, self._advanced_ns, self._state = clock_s, now_ns, state
        elif clock_s < self._clock_s:
            raise DeployError(explain("the UR controller has been restarted", mend="connect again"))
        silent_s = (now_ns - self._advanced_ns) / 1e9
        if self._state is None or silent_s > self._timeout_s:
            # a packet that the network acknowledges proves nothing, a clock that advances does
            given = f"{silent_s:.3f} s" if self._state is not None else "no sound packet"
            raise DeployError(explain("the UR's clock stands still", given=given, allowed=f"{self._timeout_s} s"))
        if self._gripper is not None:
            self._gripper.poll()
        if self._failure:
            raise DeployError(self._failure)
        if self._enabled and not self._streaming:
            self._feed(client, now_ns)
        return self._state

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Send one limited setpoint; while no program can take it, nothing is sent."""
        client = self._client
        if client is None or not self._enabled:
            return
        if client.deputy.busy:
            # the last stream is still being ended; a setpoint must not be lost, so the path waits
            try:
                client.deputy.wait(CALL_S)
            except DeployError as error:
                self._failure = str(error)
                return
        self._streaming = True
        if self._fault or self._runtime != PLAYING or not client.control.isConnected():
            self.withheld += 1
            return
        position, options = setpoint.position, self._options
        try:
            client.control.servoJ(position[self._arm].tolist(), 0, 0, self._tick_s, options.lookahead_s, options.gain)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            self._failure = explain("the UR client refused a setpoint", given=error, mend="connect again")
            return
        self.sent += 1
        self._fed_ns = monotonic_ns()
        if self._end is not None:
            self._opening = float(position[self._end])
            if self._gripper is not None:
                self._gripper.command(self._opening)

    def hold(self) -> None:
        """End the stream; the arm keeps the pose under power. Does not wait."""
        self._end_stream(wait_s=0.0)

    def stop(self) -> None:
        """Have the controller brake, and wait for it for half a second at most; it holds afterwards."""
        self._end_stream(wait_s=CALL_S)

    def close(self) -> None:
        """Stop, end the program, and let go; the arm holds by its brakes."""
        client, gripper = self._client, self._gripper
        if client is not None:
            self.stop()
            if client.receive is not None and not client.deputy.busy and client.playing and self._enabled:
                # else the watchdog ends it
                with contextlib.suppress(DeployError):
                    client.deputy.call("end of the program", client.control.stopScript, 2 * CALL_S)
            client.close()
        if gripper is not None:
            gripper.close()
        self._client = self._gripper = None
        self._enabled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _connected(self) -> UrClient:
        if self._client is None:
            raise DeployError(explain("the UR is not connected", mend="connect first"))
        return self._client

    def _take(self, receive: Any, now_ns: int) -> RobotState | None:
        """The newest packet; None when it cannot be true and the one before has to do."""
        arm, speed = np.array(receive.getActualQ()), np.array(receive.getActualQd())
        sound = arm.shape == speed.shape == (6,) and np.isfinite(arm).all() and np.isfinite(speed).all()
        if not sound or np.abs(arm).max() > 6.4 or (np.abs(speed) > self._limit).any():
            return None
        bits, self._runtime = receive.getSafetyStatusBits(), receive.getRuntimeState()
        lost = self._enabled and self._streaming and self._runtime != PLAYING
        powered = not self._enabled or receive.getRobotMode() == RUNNING_MODE
        self._fault = bool(bits & STOPPED_BITS) or lost or not powered
        scale = receive.getSpeedScaling() * receive.getTargetSpeedFraction()
        self._scale = min(max(scale, 0.0), 1.0) if np.isfinite(scale) else 0.0
        force = np.array(receive.getActualTCPForce())
        if force.shape == (6,) and np.isfinite(force).all():
            self._wrench = force
        position, velocity = np.empty(len(self._card.joints)), np.zeros(len(self._card.joints))
        position[self._arm], velocity[self._arm] = arm, speed
        if self._end is not None:
            position[self._end] = self._opening if self._gripper is None else self._gripper.opening
            velocity[self._end] = 0.0 if self._gripper is None else self._gripper.velocity
        return RobotState(now_ns, position, velocity, self._fault)

    def _feed(self, client: UrClient, now_ns: int) -> None:
        """Between streams the watchdog is fed from here, four times per period."""
        due = now_ns - self._fed_ns > 0.25e9 / self._options.watchdog_hz
        if due and not self._fault and not client.deputy.busy and client.playing:
            self._fed_ns = now_ns
            client.deputy.start("feed", client.control.kickWatchdog)

    def _end_stream(self, *, wait_s: float) -> None:
        client, self._streaming = self._client, False
        if client is None or client.receive is None or client.control is None or not self._enabled:
            return
        try:
            if client.deputy.busy:
                client.deputy.wait(wait_s)
            if client.playing and not self._fault:
                client.deputy.start("servo stop", lambda: client.control.servoStop(self._options.deceleration))
                self._fed_ns = monotonic_ns()
                if wait_s:
                    client.deputy.wait(wait_s)
        except (DeployError, RuntimeError) as error:
            self._failure = str(error)
