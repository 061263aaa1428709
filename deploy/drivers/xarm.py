"""Driver of UFACTORY xArms on the vendor's ``xarm-python-sdk`` (extra ``xarm``).

What the vendor's client is used for, and what not:

* connecting, powering, modes and the encoding of commands are the client's;
* its switch to a Unix socket in /tmp, which any local user could put there, is forbidden, and the default timeout that
  it sets for every socket of the process is put back;
* ``servoJ`` goes out without waiting for the answer, which the client would do for up to two seconds (answers of 190 ms
  are reported): the arm carries out the newest one only and answers prove nothing;
* state comes from the box's report streams, read here without a thread. Alive is a box whose time stamp advances.

The servo mode has no watchdog and no lookahead: the arm goes to each target at its own full speed, so what makes the
motion smooth is the stream of limited setpoints. Not above 250 Hz. Errors are cleared by a person only.
"""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.drivers.xarm_client import SET_STATE, STOPPED, XArmStopChannel, close_client, open_client
from robopolicy.deploy.drivers.xarm_gripper import XArmGripper
from robopolicy.deploy.drivers.xarm_reports import NORMAL, REAL, TIMED, Report, ReportStream, open_report
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.types import RobotState, Setpoint

__all__ = ["XArmDriver"]

Vector = NDArray[np.float64]

MOST_HZ = 250.0
SERVO_JOINT, SERVO_MODE = 29, 1
SEND_S = 0.01
"""A send may wait this long for room; when there is none the box has not read for a long time."""


class XArmDriver:
    """A :class:`~robopolicy.protocols.RobotDriver` of an xArm 5, 6, 7 or Lite 6.

    Args:
        card: Its joints of the chain in the order of the arm, with or without a gripper.
        tick_s: Time between two setpoints, 4 ms or more.
        timeout_s: How long the box's clock may stand still.
        address: Of the control box.
        port: Command port; another than 502 only for a simulated box.
        report_port: First report port; likewise.
        report: ``timed`` (port 30000, newer firmware), ``real`` (30003), or ``auto`` for the better that answers.
        gripper: ``xarm`` for the xArm Gripper, ``none`` when the card's gripper channel shall only be mirrored.

    Attributes:
        sent, dropped: Setpoints sent; and not sent for want of power or room.

    Raises:
        DeployError: more than 250 setpoints a second, or a card that cannot be an xArm.
    """

    buffered = False

    def __init__(
        self,
        card: Embodiment,
        *,
        tick_s: float,
        timeout_s: float,
        address: str,
        port: int = 502,
        report_port: int = TIMED,
        report: str = "auto",
        gripper: str = "none",
    ):
        names = card.joints.names
        self._arm = [names.index(link.joint) for link in card.chain]
        self._end = names.index(card.gripper) if card.gripper else None
        if not 5 <= len(self._arm) <= 7 or len(names) - len(self._arm) - (self._end is not None):
            raise DeployError(
                explain(f"the card '{card.name}' is no xArm", given=names, allowed="5 to 7 joints, a gripper")
            )
        if tick_s < 1.0 / MOST_HZ - 1e-9:
            raise DeployError(
                explain("too many setpoints", given=f"{1 / tick_s:.0f} Hz", allowed="250 Hz", mend="rate_hz: 250")
            )
        if gripper not in ("none", "xarm") or report not in ("auto", "timed", "real"):
            given = f"gripper={gripper}, report={report}"
            raise DeployError(
                explain("unknown option", given=given, allowed="gripper none, xarm; report auto, timed, real")
            )
        self._card, self._timeout_s = card, timeout_s
        self._address, self._port, self._report_port, self._kind = address, port, report_port, report
        self._wants_gripper = gripper == "xarm" and self._end is not None
        self._gripper: XArmGripper | None = None
        self._client: Any = None
        self._line: Any = None
        self._stream: ReportStream | None = None
        self._errors: ReportStream | None = None
        self.flags = 0
        self._forget()

    def _forget(self) -> None:
        self._enabled = self._streaming = False
        self._clock, self._advanced_ns = -1, 0
        self._opening, self.sent, self.dropped = 0.0, 0, 0
        self._before: tuple[int, Vector] | None = None
        self._velocity: Vector = np.zeros(len(self._arm))

    @property
    def embodiment(self) -> Embodiment:
        """Card of the robot behind it."""
        return self._card

    def connect(self) -> None:
        """Open commands and reports, and wait for the first report.

        Raises:
            DeployError: no package, no box, another arm.
        """
        if self._client is not None:
            return
        self._client = open_client(self._address, self._port)
        try:
            axes = int(self._client.axis)
            if axes != len(self._arm):
                given, allowed = f"{axes} joints", f"{len(self._arm)} of '{self._card.name}'"
                raise DeployError(explain("another arm answers", given=given, allowed=allowed, mend="embodiment: NAME"))
            # the client has no public way to send without waiting
            self._line = self._client._arm.arm_cmd
            self._line.arm_port.com.settimeout(SEND_S)
            self._stream = self._open_stream()
            self._errors = open_report(self._address, self._report_port, NORMAL)
            until_ns = monotonic_ns() + 2_000_000_000
            while self._stream.poll() is None or self._errors.poll() is None:
                waits = self._stream if self._stream.newest is None else self._errors
                if monotonic_ns() > until_ns or waits.closed:
                    raise DeployError(explain("the xArm sends no report", mend="restart the control box"))
                waits.wait(0.1)
            self._clock = self._stream.newest.clock if self._stream.newest else -1
            self._advanced_ns = monotonic_ns()
            if self._wants_gripper:
                self._gripper = XArmGripper(open_client(self._address, self._port))
                self._opening = self._gripper.opening
            elif self._end is not None:
                self._opening = float(self._card.home_position[self._end])
        except BaseException:
            self.close()
            raise

    def enable(self) -> None:
        """Power the joints under the present pose and enter servo mode.

        Raises:
            DeployError: an error is latched, or the box does not enter the mode.
        """
        client, stream = self._connected()
        code, found = client.get_err_warn_code()
        if code == 0 and found[0]:
            raise DeployError(
                explain(f"the xArm holds error C{found[0]}", mend="clear it in UFACTORY Studio, then arm again")
            )
        client.motion_enable(True)
        client.set_mode(SERVO_MODE)
        client.set_state(0)
        if self._gripper is not None:
            self._gripper.enable()
        until = time.monotonic() + 2.0
        while True:
            report = stream.poll()
            if report is not None and report.mode == SERVO_MODE and report.state < STOPPED:
                break
            if time.monotonic() > until or stream.closed:
                told = "nothing" if report is None else f"mode {report.mode}, state {report.state}"
                raise DeployError(
                    explain(
                        "the xArm does not enter servo mode", given=told, mend="look at its error in UFACTORY Studio"
                    )
                )
            stream.wait(0.05)
        self._enabled = True

    def read(self) -> RobotState:
        """Newest report.

        Raises:
            DeployError: not connected, the stream has ended, or the box's clock stands still.
        """
        _, stream = self._connected()
        report, now_ns = stream.poll(), monotonic_ns()
        assert report is not None
        if report.clock != self._clock:
            self._note(report, now_ns)
        silent_s = (now_ns - self._advanced_ns) / 1e9
        if silent_s > self._timeout_s or stream.closed:
            what = "the xArm has closed its reports" if stream.closed else "the xArm's clock stands still"
            raise DeployError(explain(what, given=f"{silent_s:.3f} s", allowed=f"{self._timeout_s} s"))
        told = self._errors.poll() if self._errors is not None else None
        stopped = self._streaming and (report.state >= STOPPED or report.mode != SERVO_MODE)
        fault = stopped or bool(told is not None and told.error)
        position, velocity = np.zeros(len(self._card.joints)), np.zeros(len(self._card.joints))
        position[self._arm], velocity[self._arm] = report.position[: len(self._arm)], self._velocity
        if self._end is not None:
            position[self._end] = self._opening if self._gripper is None else self._gripper.opening
        return RobotState(self._advanced_ns, position, velocity, fault)

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Send one target, without waiting for its answer.

        Raises:
            DeployError: not connected, not finite, or of another width.
        """
        self._connected()
        wanted = np.asarray(setpoint.position, float)
        if wanted.shape != (len(self._card.joints),) or not np.isfinite(wanted).all():
            raise DeployError(
                explain("not a setpoint", given=wanted, allowed=f"{len(self._card.joints)} finite numbers")
            )
        if not self._enabled:
            self.dropped += 1
            return
        if self._end is not None:
            if self._gripper is None:
                self._opening = float(wanted[self._end])
            else:
                self._gripper.go(float(wanted[self._end]))
        self._streaming = True
        values = np.zeros(10, "<f4")
        values[: len(self._arm)] = wanted[self._arm]
        self._send(SERVO_JOINT, values.tobytes())

    def hold(self) -> None:
        """Nothing to say: the arm keeps its last target, powered."""
        self._streaming = False

    def stop(self) -> None:
        """``set_state(4)``: the box brakes by its own ramp and holds; powered until somebody switches it off."""
        if self._line is not None:
            self._send(SET_STATE, bytes([STOPPED]))
        self._enabled = self._streaming = False

    def close(self) -> None:
        """Stop, and close every connection."""
        if self._client is None:
            return
        with contextlib.suppress(OSError):
            self.stop()
        if self._gripper is not None:
            self._gripper.close()
        for stream in (self._stream, self._errors):
            if stream is not None:
                stream.close()
        close_client(self._client)
        self._client = self._line = self._stream = self._errors = self._gripper = None
        self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def stop_channel(card: Embodiment, options: dict[str, Any]) -> XArmStopChannel:
        """A connection of its own that can stop the arm."""
        return XArmStopChannel(options["address"], int(options.get("port", 502)))

    def _open_stream(self) -> ReportStream:
        if self._kind != "real":
            try:
                stream = open_report(self._address, self._report_port, TIMED)
                stream.wait(0.5)
                if self._kind == "timed" or stream.poll() is not None:
                    return stream
                stream.close()
            except DeployError:
                if self._kind == "timed":
                    raise
        return open_report(self._address, self._report_port, REAL)

    def _connected(self) -> tuple[Any, ReportStream]:
        if self._client is None or self._stream is None:
            raise DeployError(explain("the xArm is not connected", mend="call connect() first"))
        return self._client, self._stream

    def _note(self, report: Report, now_ns: int) -> None:
        """A report whose clock has advanced."""
        joints = report.position[: len(self._arm)]
        if report.velocity is not None:
            self._velocity = report.velocity[: len(self._arm)]
        elif self._before is not None and now_ns > self._before[0]:
            self._velocity = (joints - self._before[1]) / ((now_ns - self._before[0]) / 1e9)
        self._before = (now_ns, joints)
        self._clock, self._advanced_ns = report.clock, now_ns

    def _send(self, function: int, payload: bytes) -> None:
        # -1 says that the socket is gone or full; read() finds that out by itself
        sent = self._line.send_modbus_request(function, payload, len(payload))
        self.sent += sent != -1
        self.dropped += sent == -1
