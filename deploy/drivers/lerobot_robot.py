"""Any robot that LeRobot drives, behind its ``Robot`` class: ``connect``, ``get_observation``, ``send_action``.

What has to be known before it is used beside an arm:

* LeRobot's ``connect()`` itself configures the motors, for which several of its robots switch the torque off and on:
  support the arm. Calibration is not started (``calibrate=False``).
* It may import torch, into the real-time process. Prefer a driver of the vendor's bus where there is one.
* It has no clock of the controller. Alive is a robot whose ``get_observation`` returns; one that raises is silent.
* Its calls take as long as the bus does, so a thread makes them, newest action first. Setpoints that came in between
  are skipped and counted: give the robot a ``rate_hz`` that its bus keeps up with.

Joints are found by name. Values are degrees, or -100..100 of the calibrated range, or 0..100 for grippers; a card has
radians and 0..1.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, DeployError, explain
from robopolicy.registry import load_target
from robopolicy.types import RobotState, Setpoint

__all__ = ["JointValue", "LeRobotRobotDriver"]

Vector = NDArray[np.float64]
UNITS = ("degrees", "radians", "range", "percent")
FIRST_S = 5.0


@dataclass(frozen=True)
class JointValue:
    """How one channel of the card is called and counted by the robot.

    Attributes:
        key: In observations and actions.
        unit: ``degrees``; ``radians``; ``range``, -100..100 from the card's lower to its upper bound; or ``percent``,
            0..100 of 0..1.
        sign: 1, or -1 where the robot counts the other way.
        zero: Value of the card, in its unit, where the robot says 0; not for ``range`` and ``percent``.
        lower, upper: Of the card's channel.
    """

    key: str
    unit: str
    sign: float
    zero: float
    lower: float
    upper: float

    def to_card(self, value: float) -> float:
        """The robot's value in the card's unit."""
        if self.unit == "range":
            return self.lower + (self.sign * value + 100.0) / 200.0 * (self.upper - self.lower)
        if self.unit == "percent":
            return value / 100.0 if self.sign > 0 else 1.0 - value / 100.0
        return self.zero + self.sign * (math.radians(value) if self.unit == "degrees" else value)

    def to_robot(self, value: float) -> float:
        """The inverse."""
        if self.unit == "range":
            return self.sign * ((value - self.lower) / (self.upper - self.lower) * 200.0 - 100.0)
        if self.unit == "percent":
            return 100.0 * (value if self.sign > 0 else 1.0 - value)
        turned = self.sign * (value - self.zero)
        return math.degrees(turned) if self.unit == "degrees" else turned


class LeRobotRobotDriver:
    """A :class:`~robopolicy.protocols.RobotDriver` around a LeRobot ``Robot``.

    Args:
        card: The robot.
        tick_s: Time between two setpoints.
        timeout_s: How long no observation may come.
        robot: ``module:Class`` of the ``Robot``.
        config: ``module:Class`` of its configuration.
        settings: Arguments of the configuration: ``port``, ``id``. Without cameras: they would slow down every state.
        joints: By channel of the card: ``{key, unit, sign, zero}``. Without an entry: ``<name>.pos`` in degrees, and
            in percent for a channel without a unit of angle.

    Attributes:
        skipped: Setpoints that were overtaken by a newer one before they could be sent.

    Raises:
        DeployError: a joint that the card does not have, or an unknown unit.
    """

    buffered = False

    def __init__(
        self,
        card: Embodiment,
        *,
        tick_s: float,
        timeout_s: float,
        robot: str,
        config: str,
        settings: dict[str, Any] | None = None,
        joints: dict[str, dict[str, Any]] | None = None,
    ):
        self._card, self._tick_s, self._timeout_s = card, tick_s, timeout_s
        self._robot_target, self._config_target, self._settings = robot, config, dict(settings or {})
        self._values = _joint_values(card, joints or {})
        self._robot: Any = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.flags = 0
        self._forget()

    def _forget(self) -> None:
        self._ended = threading.Event()
        self._fresh = threading.Event()
        self._wanted: Vector | None = None
        self._state: RobotState | None = None
        self._said, self._enabled, self.skipped = "", False, 0

    @property
    def embodiment(self) -> Embodiment:
        """Card of the robot behind it."""
        return self._card

    def connect(self) -> None:
        """Build the robot, have it connect without calibrating, and wait for the first observation.

        Raises:
            DeployError: LeRobot is missing, the robot does not answer, is not calibrated, or has other joints.
        """
        if self._robot is not None:
            return
        self._robot = _made(self._robot_target, self._config_target, self._settings)
        try:
            self._check_names()
            try:
                self._robot.connect(calibrate=False)
            except Exception as error:  # whatever the robot's libraries raise
                mend = "try it with LeRobot's own tools first"
                raise DeployError(explain("the robot does not connect", given=error, mend=mend)) from error
            if not self._robot.is_calibrated:
                raise DeployError(explain("the robot is not calibrated", mend="lerobot-calibrate, with the same id"))
            self._thread = threading.Thread(target=self._run, name="lerobot-robot", daemon=True)
            self._thread.start()
            if not self._fresh.wait(FIRST_S):
                raise DeployError(explain("the robot sends no observation", given=self._said or f"{FIRST_S} s"))
        except BaseException:
            self.close()
            raise

    def enable(self) -> None:
        """LeRobot has switched the motors on; what is asked for is the present pose.

        Raises:
            DeployError: not connected.
        """
        state = self.read()
        with self._lock:
            self._wanted = np.array(state.position)
        self._enabled = True

    def read(self) -> RobotState:
        """Newest observation.

        Raises:
            DeployError: not connected, or none has come for too long.
        """
        state = self._state
        if state is None or self._robot is None:
            raise DeployError(explain("the robot is not connected", mend="call connect() first"))
        silent_s = (monotonic_ns() - state.time_ns) / 1e9
        if silent_s > self._timeout_s:
            given = f"{silent_s:.3f} s {self._said}".rstrip()
            raise DeployError(explain("no observation comes any more", given=given, allowed=f"{self._timeout_s} s"))
        return state

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Hand the newest setpoint to the thread that sends it.

        Raises:
            DeployError: not connected, not finite, or of another width.
        """
        wanted = np.array(setpoint.position, float)
        if wanted.shape != (len(self._card.joints),) or not np.isfinite(wanted).all():
            allowed = f"{len(self._card.joints)} finite numbers"
            raise DeployError(explain("not a setpoint", given=wanted, allowed=allowed))
        if self._robot is None:
            raise DeployError(explain("the robot is not connected", mend="call connect() first"))
        if self._enabled:
            with self._lock:
                self.skipped += self._wanted is not None
                self._wanted = wanted

    def hold(self) -> None:
        """Nothing to say: position servos keep their last target."""

    def stop(self) -> None:
        """The measured position becomes the target; power stays on."""
        if self._enabled and self._state is not None:
            with self._lock:
                self._wanted = np.array(self._state.position)
        self._enabled = False

    def close(self) -> None:
        """Stop, end the thread, disconnect; the torque stays on where the robot's configuration can say so."""
        if self._robot is None:
            return
        self.stop()
        if self._thread is not None:
            time.sleep(min(2 * self._tick_s, 0.1))  # so that the stop is sent
            self._ended.set()
            self._thread.join(5.0)
        robot, self._robot, self._thread = self._robot, None, None
        if robot.is_connected:
            with contextlib.suppress(Exception):  # a bus that is gone cannot be told
                robot.disconnect()
        self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_names(self) -> None:
        keys = {value.key for value in self._values}
        for kind in ("observation_features", "action_features"):
            known = [k for k, v in getattr(self._robot, kind).items() if not isinstance(v, tuple)]
            missing, more = sorted(keys - set(known)), sorted(set(known) - keys)
            if missing or (more and kind == "action_features"):
                given = f"of the card only: {missing}; of the robot only: {more}"
                mend = "driver.joints.NAME.key, or another embodiment"
                raise DeployError(explain(f"{kind} and card differ", given=given, mend=mend))

    def _run(self) -> None:
        """The bus, again and again."""
        ended, robot = self._ended, self._robot
        while not ended.is_set():
            begin = time.monotonic()
            try:
                with self._lock:
                    wanted, self._wanted = self._wanted, None
                if wanted is not None:
                    pairs = zip(self._values, wanted, strict=True)
                    robot.send_action({value.key: value.to_robot(float(x)) for value, x in pairs})
                self._note(robot.get_observation())
                self._said = ""
            except Exception as error:  # whatever the robot's libraries raise: read() says it when it lasts
                self._said = f"{type(error).__name__}: {error}"
            ended.wait(max(self._tick_s / 2 - (time.monotonic() - begin), 0.0))

    def _note(self, observation: dict[str, Any]) -> None:
        now_ns, before = monotonic_ns(), self._state
        position = np.array([value.to_card(float(observation[value.key])) for value in self._values])
        if not np.isfinite(position).all():
            return
        velocity = np.zeros_like(position)
        if before is not None and now_ns > before.time_ns:
            velocity = (position - before.position) / ((now_ns - before.time_ns) / 1e9)
        self._state = RobotState(now_ns, position, velocity)
        self._fresh.set()


def _joint_values(card: Embodiment, told: dict[str, dict[str, Any]]) -> list[JointValue]:
    unknown = sorted(set(told) - set(card.joints.names))
    if unknown:
        raise DeployError(explain("no such joints", given=unknown, allowed=card.joints.names))
    values = []
    for channel in card.joints.channels:
        entry = {"key": f"{channel.name}.pos", "unit": "degrees" if channel.unit == "rad" else "percent"}
        entry |= told.get(channel.name, {})
        more = sorted(set(entry) - {"key", "unit", "sign", "zero"})
        if more or entry["unit"] not in UNITS or entry.get("sign", 1) not in (1, -1):
            allowed = f"key, unit ({', '.join(UNITS)}), sign (1, -1), zero"
            raise DeployError(explain(f"joint {channel.name}", given=told.get(channel.name), allowed=allowed))
        sign, zero = float(entry.get("sign", 1)), float(entry.get("zero", 0.0))  # type: ignore[arg-type]
        values.append(JointValue(entry["key"], entry["unit"], sign, zero, channel.lower, channel.upper))
    return values


def _made(robot: str, config: str, settings: dict[str, Any]) -> Any:
    try:
        kind, config_kind = load_target(robot), load_target(config)
    except (ImportError, ConfigError) as error:
        raise DeployError(explain("LeRobot's robot is not found", given=error, mend="pip install lerobot")) from error
    try:
        made = config_kind(**settings)
    except (TypeError, ValueError) as error:
        raise DeployError(explain("settings of LeRobot's robot", given=settings, mend=str(error))) from error
    # Arms fall when their torque goes; where a configuration can keep it, it has to.
    if hasattr(made, "disable_torque_on_disconnect"):
        made.disable_torque_on_disconnect = False
    return kind(made)
