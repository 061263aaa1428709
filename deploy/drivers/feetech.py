"""Feetech STS3215 arms (SO-100, SO-101) through ``feetech-servo-sdk``.

These servos have no clock and no watchdog. What shows that one lives is that it answers, that it believes in the goal
that was written last, and that its position changes when its goal does: a joint (the gripper apart, which may hold
something) whose reading has not changed by a single step while its goal went ``stall_rad`` away counts as standing. A
servo that hangs while nothing moves cannot be told from one that holds still. When the process that drives them dies
they go to their last goal, which is at most their lag away, and hold there.

The overload protection latches until the supply was off; the arm is weak until then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from robopolicy.deploy.drivers.servo_bus import ServoBusDriver
from robopolicy.deploy.drivers.servo_link import Sdk
from robopolicy.deploy.drivers.servo_make import Sample, ServoHealth
from robopolicy.deploy.drivers.servo_stop import ServoStop
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.protocols import StopChannel

__all__ = ["FeetechDriver"]

MODEL, OFFSET, LIMITS, SPEED_LIMIT = (3, 2), (31, 2), (9, 4), (46, 2)
MODELS = {777: "STS3215", 2825: "STS3250"}
FOLLOW = 254
"""Acceleration register while goals are streamed: 25400 steps/s^2, more than a card allows."""
ACCELERATION_UNIT = 100
ERRORS = {0x01: "voltage", 0x02: "encoder", 0x04: "overheated", 0x08: "overcurrent", 0x20: "overload"}


class FeetechDriver(ServoBusDriver):
    """An arm of STS servos; arguments of :class:`~robopolicy.deploy.drivers.servo_bus.ServoBusDriver` and these.

    Args:
        card: The robot.
        stall_rad: See above.
        ignore: Error bits that are no fault: ``voltage`` on arms whose supply is meant to be lower.
        **options: Of the base class.
    """

    make, drive_mode_inverts = "Feetech", True
    block: ClassVar[tuple[int, int]] = (42, 20)
    status_block: ClassVar[tuple[int, int]] = (40, 27)
    goal_register: ClassVar[tuple[int, int]] = (42, 2)
    profile_register: ClassVar[tuple[int, int]] = (41, 1)
    torque_register: ClassVar[tuple[int, int]] = (40, 1)

    def __init__(self, card: Embodiment, *, stall_rad: float = 0.1, ignore: Sequence[str] = (), **options: Any):
        super().__init__(card, **options)
        unknown = sorted(set(ignore) - set(ERRORS.values()))
        if unknown:
            raise DeployError(explain("no such error bit", given=unknown, allowed=sorted(ERRORS.values())))
        self._ignored = sum(bit for bit, name in ERRORS.items() if name in ignore)
        turning = np.array([c.unit == "rad" for c in card.joints.channels])
        self._stall_steps = np.where(turning, stall_rad * np.abs(self._scale.gain), np.inf)
        self._stood = np.zeros(0)

    @staticmethod
    def stop_channel(card: Embodiment, options: Mapping[str, Any]) -> StopChannel:
        """See :class:`~robopolicy.deploy.drivers.servo_stop.ServoStop`."""
        return ServoStop(FeetechDriver(card, tick_s=card.tick_s, timeout_s=0.2, **options))

    def _sdk(self) -> Sdk:
        try:
            from scservo_sdk import GroupSyncRead, GroupSyncWrite, PacketHandler, PortHandler
        except ImportError as error:
            raise DeployError(
                explain("Feetech's SDK is not installed", mend="pip install robopolicy[feetech]")
            ) from error
        return Sdk(PortHandler, PacketHandler(0), GroupSyncRead, GroupSyncWrite)

    def _decode(self, data: Sequence[int], error: int) -> Sample:
        # goal 42, time 44, goal speed 46, torque limit 48, lock 55, position 56, speed 58, load 60
        load = _signed(data, 18, 10) / 1000
        return Sample(_signed(data, 0, 15), _signed(data, 14, 15), _signed(data, 16, 15), load, 0, error)

    def _status(self, data: Sequence[int]) -> ServoHealth:
        # torque 40, voltage 62, temperature 63, status 65
        return ServoHealth(data[0] == 1, data[22] / 10, float(data[23]), self._trouble(data[25]))

    def _goal_bytes(self, step: int) -> list[int]:
        value = min(abs(step), 0x7FFF) | (0x8000 if step < 0 else 0)
        return [value & 0xFF, value >> 8]

    def _profile_bytes(self, steps_s2: float) -> list[int]:
        return [min(max(int(steps_s2 / ACCELERATION_UNIT), 1), FOLLOW) if steps_s2 else FOLLOW]

    def _trouble(self, error: int) -> str:
        return ", ".join(name for bit, name in ERRORS.items() if error & ~self._ignored & bit)

    def _check(self, joint: int) -> None:
        number, name = self._ids[joint], self._card.joints.names[joint]
        model = int.from_bytes(bytes(self._read(joint, MODEL)), "little")
        if model not in MODELS:
            raise DeployError(explain(f"servo {number} ({name}) is of another kind", given=model, allowed=MODELS))
        offset = _signed(self._read(joint, OFFSET), 0, 11)
        wanted = self._scale.homing_offset.get(name, offset)
        if offset != wanted:
            raise DeployError(
                explain(
                    f"servo {number} ({name}) was not calibrated with this file: its homing offset differs",
                    given=offset,
                    allowed=wanted,
                    mend="take the file of this arm, or calibrate again",
                )
            )
        limits = bytes(self._read(joint, LIMITS))
        lower, upper = int.from_bytes(limits[:2], "little"), int.from_bytes(limits[2:], "little")
        first, last = self._scale.first_step[joint], self._scale.last_step[joint]
        if upper > lower and (round(first) < lower or round(last) > upper):
            raise DeployError(
                explain(
                    f"servo {number} ({name}) would cut goals off: its own limits are narrower than the calibration",
                    given=[lower, upper],
                    allowed=[round(first), round(last)],
                    mend="calibrate again, or set registers 9 and 11 of this servo",
                )
            )

    def _prepare(self, joint: int) -> None:
        number = self._ids[joint]
        trouble = self._status(self._read(joint, self.status_block)).trouble
        if trouble:
            raise DeployError(
                explain(
                    f"servo {number} ({self._card.joints.names[joint]}) has a latched error",
                    given=trouble,
                    mend="hold the arm, switch its supply off and on, then enable again",
                )
            )
        self._write(joint, SPEED_LIMIT, [0, 0])  # no speed limit of its own

    def _forget(self) -> None:
        super()._forget()
        self._stood = np.zeros(0)

    def _advanced(self, before: list[Sample], now: list[Sample]) -> bool:
        goal = np.array([s.goal for s in now], float)
        present = np.array([s.present for s in now])
        if len(before) != len(now) or len(self._stood) != len(now) or not self._enabled:
            self._stood = goal
            return True
        moved = present != np.array([s.present for s in before])
        self._stood = np.where(moved, goal, self._stood)
        return not (np.abs(goal - self._stood) > self._stall_steps).any()


def _signed(data: Sequence[int], at: int, bit: int) -> int:
    """Sign and magnitude, little-endian, sign in ``bit``."""
    value = data[at] | data[at + 1] << 8
    magnitude = value & ((1 << bit) - 1)
    return -magnitude if value >> bit & 1 else magnitude
