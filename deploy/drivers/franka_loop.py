"""The process that keeps a Franka's 1 kHz: ``pylibfranka`` in, a socket to the driver out, nothing else in it.

``python -m robopolicy.deploy.drivers.franka_loop FD JSON`` is started by ``franka.py``. Twenty cycles without an answer
are the robot's own limit (``communication_constraints_violation``), so no other Python may share the process. When the
driver's process is gone, the socket tells so within a cycle: the arm brakes and stands.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import sys
from typing import Any

import numpy as np

from robopolicy.deploy.drivers.franka_spline import KnotSpline, RobotClock
from robopolicy.deploy.process import become_realtime
from robopolicy.deploy.shm import monotonic_ns

__all__ = ["ORDER", "STATE", "Loop", "main"]

ORDER = struct.Struct("<cq7d")
"""To the loop: ``S`` setpoint with its time, ``E`` enable, ``H`` end of the stream, ``X`` stop, ``Q`` end."""
STATE = struct.Struct("<cQQ??If21d")
"""From the loop: ``s``, host ns, robot ms, controlling, fault, lost cycles, success rate, q, dq, q_d."""
TEXT = b"e"
CYCLE_S = 0.001


class Loop:
    """Serves one robot.

    Args:
        robot: ``pylibfranka.Robot``.
        library: The module.
        line: Socket to the driver, message by message.
        settings: ``tick_s``, ``publish_s``, ``longest_ratio``, ``max_acceleration``, ``max_jerk``.
    """

    def __init__(self, robot: Any, library: Any, line: socket.socket, settings: dict[str, Any]):
        self._robot, self._library, self._line = robot, library, line
        # the brake is played by a clock that may be faster than the robot's
        ratio = settings["longest_ratio"]
        acceleration, jerk = np.array(settings["max_acceleration"]), np.array(settings["max_jerk"])
        self._spline = KnotSpline(settings["tick_s"], acceleration / ratio**2, jerk / ratio**3)
        self._clock = RobotClock(ratio)
        self._publish_ns, self._published_ns = round(settings["publish_s"] * 1e9), 0
        self._wants_control = self._finishing = self.ended = False
        self._fault, self._lost = False, 0

    def run(self) -> None:
        """Until told to end, with the arm at rest."""
        while not self.ended:
            self._publish(self._robot.read_once(), controlling=False)
            self._obey()
            if self._wants_control and not self.ended:
                self._wants_control = False
                try:
                    self._control()
                except (self._library.ControlException, self._library.CommandException) as error:
                    self._fault = True
                    self.say(str(error))

    def say(self, text: str) -> None:
        """A sentence for the driver."""
        with contextlib.suppress(OSError):
            self._line.send(TEXT + text.encode("utf-8", "replace")[:900])

    def quit(self, *_: Any) -> None:
        """Brake and end; also the handler of SIGTERM."""
        self.ended = self._finishing = True

    def _control(self) -> None:
        """Joint positions at 1 kHz until the stream was stopped and the arm stands."""
        library, state = self._library, self._robot.read_once()
        if state.robot_mode == library.RobotMode.UserStopped:
            self.say("the robot's stop button is pressed; mend: release it, then arm again")
            return
        if state.robot_mode == library.RobotMode.Reflex:
            self._robot.automatic_error_recovery()
        control = self._robot.start_joint_position_control(library.ControllerMode.JointImpedance)
        self._fault = self._finishing = False
        self._clock.begin(monotonic_ns() / 1e9)
        begun = False
        while True:
            state, passed = control.readOnce()
            if not begun:
                self._spline.begin(np.array(state.q_d))
                begun = True
            cycle_s = max(passed.to_sec(), CYCLE_S)
            self._lost += round(cycle_s / CYCLE_S) - 1
            self._obey()
            if self._finishing:
                self._spline.end()
            wanted = self._spline.at(self._clock.advance(cycle_s, monotonic_ns() / 1e9))
            self._fault = self._fault or (self._spline.dry and not self._finishing)
            command = library.JointPositions(wanted.tolist())
            done = (self._finishing or self._spline.dry) and self._spline.at_rest
            command.motion_finished = done
            control.writeOnce(command)
            self._publish(state, controlling=not done)
            if done:
                return

    def _obey(self) -> None:
        while True:
            try:
                data = self._line.recv(ORDER.size + 1)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                return self.quit()
            if len(data) == ORDER.size:
                self._order(*ORDER.unpack(data))

    def _order(self, kind: bytes, time_ns: int, *position: float) -> None:
        if kind == b"S":
            # one that does not continue the stream is left out; the stream then runs dry, which is a fault
            self._spline.put(time_ns / 1e9, np.array(position))
        elif kind == b"E":
            self._wants_control, self._finishing = True, False
        elif kind == b"X":
            self._finishing, self._wants_control = True, False
            self._fault = False
        elif kind == b"Q":
            self.quit()

    def _publish(self, state: Any, *, controlling: bool) -> None:
        now_ns = monotonic_ns()
        if now_ns - self._published_ns < self._publish_ns:
            return
        self._published_ns = now_ns
        stopped = state.robot_mode == self._library.RobotMode.UserStopped
        robot_ms = round(state.time.to_sec() * 1e3)
        rate = float(state.control_command_success_rate)
        record = STATE.pack(
            b"s",
            now_ns,
            robot_ms,
            controlling,
            self._fault or stopped,
            self._lost,
            rate,
            *state.q,
            *state.dq,
            *state.q_d,
        )
        with contextlib.suppress(OSError):  # full: the driver will read the next one
            self._line.send(record)


def main(argv: list[str] | None = None) -> int:
    """Connect, serve, end."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    line, settings = socket.socket(fileno=int(arguments[0])), json.loads(arguments[1])
    line.setblocking(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        import pylibfranka
    except ImportError:
        line.send(TEXT + b"the package of the Franka is missing; mend: pip install robopolicy[franka]")
        return 1
    realtime = pylibfranka.RealtimeConfig
    try:
        enforced = realtime.kEnforce if settings["realtime"] == "enforce" else realtime.kIgnore
        robot = pylibfranka.Robot(settings["address"], enforced)
        loop = Loop(robot, pylibfranka, line, settings)
        signal.signal(signal.SIGTERM, loop.quit)
        for note in become_realtime(settings["priority"]):
            print(f"franka: {note}", file=sys.stderr)
        loop.run()
    except (pylibfranka.FrankaException, RuntimeError) as error:
        with contextlib.suppress(OSError):
            line.send(TEXT + str(error).encode("utf-8", "replace")[:900])
        return 1
    finally:
        line.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
