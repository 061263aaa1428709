"""Dynamixel X arms (WidowX, ViperX, Koch) through ``dynamixel-sdk``, protocol 2.0.

These servos have a clock, the realtime tick at register 120, which is in the block of every read: a state is new when
the clock of *every* servo has advanced. They also have a bus watchdog (98): when no instruction has been on the wire
for ``watchdog_s`` they stop where they are, powered, and refuse goals until 0 is written, which :meth:`enable` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from robopolicy.deploy.drivers.servo_bus import ServoBusDriver
from robopolicy.deploy.drivers.servo_link import Sdk
from robopolicy.deploy.drivers.servo_make import Sample, ServoHealth
from robopolicy.deploy.drivers.servo_stop import ServoStop
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.protocols import StopChannel

__all__ = ["DynamixelDriver"]

MODE, SECONDARY, OFFSET, ERROR, WATCHDOG = (11, 1), (12, 1), (20, 4), (70, 1), (98, 1)
POSITION_MODES = {3: "position", 4: "extended position", 5: "current-based position"}
SPEED_UNIT_STEPS_S = 0.229 / 60 * 4096
ACCELERATION_UNIT_STEPS_S2 = 214.577 / 3600 * 4096
WATCHDOG_UNIT_S = 0.02
FASTEST = 32767
ALERT = 0x80
ERRORS = {0x01: "voltage", 0x04: "overheated", 0x08: "encoder", 0x10: "electrical shock", 0x20: "overload"}
REFUSALS = {
    1: "it failed",
    2: "unknown instruction",
    3: "CRC",
    4: "out of range",
    5: "length",
    6: "limit",
    7: "no access",
}


class DynamixelDriver(ServoBusDriver):
    """An arm of X servos; arguments of :class:`~robopolicy.deploy.drivers.servo_bus.ServoBusDriver` and these.

    Args:
        card: The robot.
        watchdog_s: Silence after which the servos stop by themselves, in steps of 20 ms; 0 for none.
        shadows: joint -> identifier of a second servo on the same joint. It has to have the first one's identifier as
            its secondary ID, so that it takes the same instructions; this is checked.
        **options: Of the base class.
    """

    make, drive_mode_inverts = "Dynamixel", False
    block: ClassVar[tuple[int, int]] = (116, 20)
    status_block: ClassVar[tuple[int, int]] = (64, 83)
    goal_register: ClassVar[tuple[int, int]] = (116, 4)
    profile_register: ClassVar[tuple[int, int]] = (108, 8)
    torque_register: ClassVar[tuple[int, int]] = (64, 1)

    def __init__(
        self, card: Embodiment, *, watchdog_s: float = 0.1, shadows: Mapping[str, int] | None = None, **options: Any
    ):
        super().__init__(card, **options)
        self._watchdog = round(watchdog_s / WATCHDOG_UNIT_S)
        if not 0 <= self._watchdog <= 127:
            raise DeployError(explain("bus watchdog out of range", given=watchdog_s, allowed="0 to 2.54 s"))
        self._shadows = dict(shadows or {})
        unknown = sorted(set(self._shadows) - set(card.joints.names))
        if unknown:
            raise DeployError(explain("shadow of no joint", given=unknown, allowed=card.joints.names))

    @staticmethod
    def stop_channel(card: Embodiment, options: Mapping[str, Any]) -> StopChannel:
        """See :class:`~robopolicy.deploy.drivers.servo_stop.ServoStop`; the bus watchdog stops the arm without it."""
        return ServoStop(DynamixelDriver(card, tick_s=card.tick_s, timeout_s=0.2, **options))

    def _sdk(self) -> Sdk:
        try:
            from dynamixel_sdk import GroupSyncRead, GroupSyncWrite, PacketHandler, PortHandler
        except ImportError as error:
            raise DeployError(
                explain("Robotis' SDK is not installed", mend="pip install robopolicy[dynamixel]")
            ) from error
        return Sdk(PortHandler, PacketHandler(2.0), GroupSyncRead, GroupSyncWrite)

    def _decode(self, data: Sequence[int], error: int) -> Sample:
        # goal 116, realtime tick 120, current 126, velocity 128, position 132
        raw = bytes(data)
        goal, clock = int.from_bytes(raw[0:4], "little", signed=True), int.from_bytes(raw[4:6], "little")
        current = int.from_bytes(raw[10:12], "little", signed=True) / 1193
        speed = int.from_bytes(raw[12:16], "little", signed=True) * SPEED_UNIT_STEPS_S
        return Sample(goal, int.from_bytes(raw[16:20], "little", signed=True), speed, current, clock, error)

    def _status(self, data: Sequence[int]) -> ServoHealth:
        # torque 64, hardware error 70, bus watchdog 98, voltage 144, temperature 146
        trouble = ", ".join(name for bit, name in ERRORS.items() if data[6] & bit)
        if data[34] > 127:
            trouble = f"{trouble} bus watchdog expired".strip()
        return ServoHealth(data[0] == 1, (data[80] | data[81] << 8) / 10, float(data[82]), trouble)

    def _goal_bytes(self, step: int) -> list[int]:
        return list(int(step).to_bytes(4, "little", signed=True))

    def _profile_bytes(self, steps_s2: float) -> list[int]:
        # A velocity of 0 means no profile, whatever the acceleration.
        if not steps_s2:
            return [0] * 8
        acceleration = min(max(int(steps_s2 / ACCELERATION_UNIT_STEPS_S2), 1), FASTEST)
        return [*acceleration.to_bytes(4, "little"), *FASTEST.to_bytes(4, "little")]

    def _trouble(self, error: int) -> str:
        if error & ALERT:
            return "hardware error: hold the arm, then reboot this servo or switch its supply off and on"
        return REFUSALS.get(error & 0x7F, "")

    def _check(self, joint: int) -> None:
        number, name = self._ids[joint], self._card.joints.names[joint]
        mode = self._read(joint, MODE)[0]
        if mode not in POSITION_MODES:
            raise DeployError(
                explain(
                    f"servo {number} ({name}) is in another operating mode",
                    given=mode,
                    allowed=POSITION_MODES,
                    mend="set register 11 with torque off",
                )
            )
        offset = int.from_bytes(bytes(self._read(joint, OFFSET)), "little", signed=True)
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
        if name in self._shadows:
            secondary = self.link.read(self._shadows[name], *SECONDARY)[0]
            if secondary != number:
                raise DeployError(
                    explain(
                        f"servo {self._shadows[name]} does not follow servo {number} ({name}): the two would fight",
                        given=f"secondary ID {secondary}",
                        allowed=number,
                        mend="set register 12 of the second servo with torque off",
                    )
                )

    def _prepare(self, joint: int) -> None:
        number = self._ids[joint]
        self._write(joint, WATCHDOG, [0])
        bits = self._read(joint, ERROR)[0]
        if bits:
            raise DeployError(
                explain(
                    f"servo {number} ({self._card.joints.names[joint]}) has a latched hardware error",
                    given=", ".join(name for bit, name in ERRORS.items() if bits & bit) or bits,
                    mend="hold the arm, reboot this servo or switch its supply off and on, then enable again",
                )
            )

    def _arm(self) -> None:
        if self._watchdog:
            for joint in range(len(self._ids)):
                self._write(joint, WATCHDOG, [self._watchdog])
            self.first_answer()

    def _disarm(self) -> None:
        for joint in range(len(self._ids)):
            self._write(joint, WATCHDOG, [0])

    def _advanced(self, before: list[Sample], now: list[Sample]) -> bool:
        return len(before) != len(now) or all(a.clock != b.clock for a, b in zip(before, now, strict=True))
