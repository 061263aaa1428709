"""What differs between makes of bus servos: tables, what they say of themselves, how one sees that they live."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from robopolicy.deploy.drivers.servo_link import Sdk

__all__ = ["Sample", "ServoHealth", "ServoMake"]


class Sample(NamedTuple):
    """What one servo answered.

    Attributes:
        goal, present: Steps; ``goal`` is the one that the servo believes in.
        speed: Steps per second.
        load: Share of full torque or current, -1..1.
        clock: Its own clock in its own unit, or 0.
        error: Error bits of the answer.
    """

    goal: int
    present: int
    speed: float
    load: float
    clock: int
    error: int


class ServoHealth(NamedTuple):
    """What is read of one servo now and then.

    Attributes:
        torque: Whether it is powered.
        voltage_v: Supply.
        temperature_c: Inside.
        trouble: What it complains of, or nothing.
    """

    torque: bool
    voltage_v: float
    temperature_c: float
    trouble: str


class ServoMake(ABC):
    """One make of servos. Registers are (address, bytes).

    Attributes:
        make: Its name.
        drive_mode_inverts: See :func:`~robopolicy.deploy.drivers.servo_calibration.load_calibration`.
        block: What is read of every servo at every tick.
        status_block: What is read of one servo now and then.
        goal_register, profile_register, torque_register: Goal; profile, which ends where the goal begins or before it;
            torque.
    """

    make: ClassVar[str]
    drive_mode_inverts: ClassVar[bool]
    block: ClassVar[tuple[int, int]]
    status_block: ClassVar[tuple[int, int]]
    goal_register: ClassVar[tuple[int, int]]
    profile_register: ClassVar[tuple[int, int]]
    torque_register: ClassVar[tuple[int, int]]

    @abstractmethod
    def _sdk(self) -> Sdk:
        """The vendor's SDK.

        Raises:
            DeployError: it is not installed; names the extra.
        """

    @abstractmethod
    def _decode(self, data: Sequence[int], error: int) -> Sample:
        """One servo's block."""

    @abstractmethod
    def _status(self, data: Sequence[int]) -> ServoHealth:
        """One servo's status block."""

    @abstractmethod
    def _goal_bytes(self, step: int) -> list[int]:
        """A goal as it stands in the table."""

    @abstractmethod
    def _profile_bytes(self, steps_s2: float) -> list[int]:
        """Profile registers for a motion of the servo's own at that acceleration; 0: follow goals at once."""

    @abstractmethod
    def _trouble(self, error: int) -> str:
        """Error bits of an answer in words, or nothing."""

    @abstractmethod
    def _check(self, joint: int) -> None:
        """At connect: the right kind of servo, with the memory that the calibration was made with."""

    @abstractmethod
    def _prepare(self, joint: int) -> None:
        """At enable, before torque: modes, old errors, watchdogs off."""

    @abstractmethod
    def _advanced(self, before: list[Sample], now: list[Sample]) -> bool:
        """Whether these answers show servos that live."""

    def _arm(self) -> None:  # noqa: B027 - not every make has a watchdog
        """At enable, after torque: the servos' own watchdogs on."""

    def _disarm(self) -> None:  # noqa: B027
        """At close: the servos' own watchdogs off, or they would trip."""
