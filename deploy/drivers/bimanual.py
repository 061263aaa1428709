"""Two robots of one arm each as one robot with two arms.

Whatever happens to one happens to both: a fault or silence of the left stops the right. Joints find their arm by name:
channel ``left.elbow`` of the card goes to the arm ``left``.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.protocols import Guarded, SpeedScaled, StopChannel
from robopolicy.registry import load_target
from robopolicy.types import RobotState, Setpoint

__all__ = ["BimanualDriver", "BothStopChannels"]


class _Side:
    """One arm: its driver, its card, and where its joints stand in the card of both.

    Args:
        name: ``left`` or ``right``.
        card: Of both arms.
        options: ``target``, and where they differ from nothing ``driver`` and ``embodiment``.
    """

    def __init__(self, name: str, card: Embodiment, options: dict[str, Any]):
        self.name = name
        unknown = sorted(set(options) - {"target", "driver", "embodiment"})
        if unknown or "target" not in options:
            given = unknown or "no target"
            raise DeployError(explain(f"options of the {name} arm", given=given, allowed="target, driver, embodiment"))
        self.kind, self.options = load_target(str(options["target"])), dict(options.get("driver") or {})
        self.card = load_embodiment(options["embodiment"]) if options.get("embodiment") else card.single_arm(name)
        of_both, own = card.joints.names, self.card.joints.names
        wanted = [joint if joint in of_both else f"{name}.{joint}" for joint in own]
        missing = [joint for joint in wanted if joint not in of_both]
        if missing:
            mend = f"the {name} arm's card needs the joints of '{card.name}' without '{name}.'"
            raise DeployError(explain(f"joints of the {name} arm", given=missing, allowed=of_both, mend=mend))
        self.joints: NDArray[np.intp] = np.array([of_both.index(joint) for joint in wanted], np.intp)


class BimanualDriver:
    """A :class:`~robopolicy.protocols.RobotDriver` made of two.

    Args:
        card: Card with two arms named ``left`` and ``right``.
        tick_s: Time between two setpoints, for both.
        timeout_s: How long the clock of either may stand still.
        left: ``target: module:Class``, ``driver: {...}`` its options, ``embodiment: NAME`` its card when that is not
            the card's own arm.
        right: Likewise.

    Raises:
        DeployError: an option that is none, a joint that belongs to no arm, or one arm that keeps setpoints until
            their time and one that does not.
    """

    def __init__(
        self, card: Embodiment, *, tick_s: float, timeout_s: float, left: dict[str, Any], right: dict[str, Any]
    ):
        self._card, self._sides = card, _sides(card, left, right)
        self._drivers = [s.kind(s.card, tick_s=tick_s, timeout_s=timeout_s, **s.options) for s in self._sides]
        kinds = {bool(driver.buffered) for driver in self._drivers}
        if len(kinds) > 1:
            raise DeployError(
                explain("one arm keeps setpoints until their time, the other carries them out at once",
                        given=[s.kind.__name__ for s in self._sides], mend="use two arms of one kind")
            )  # fmt: skip
        self.buffered: bool = kinds.pop()
        self._stopped = False
        self._flags = 0

    @property
    def embodiment(self) -> Embodiment:
        """Card of both arms."""
        return self._card

    @property
    def flags(self) -> int:
        """Flags of the next setpoints."""
        return self._flags

    @flags.setter
    def flags(self, value: int) -> None:
        self._flags = value
        for driver in self._drivers:
            driver.flags = value

    @property
    def speed_scale(self) -> float:
        """Of the slower arm."""
        return min([float(d.speed_scale) for d in self._drivers if isinstance(d, SpeedScaled)], default=1.0)

    def connect(self) -> None:
        """Reach both arms, or neither."""
        self._both_or_none("connect", "close")

    def enable(self) -> None:
        """Power both arms, or neither."""
        self._both_or_none("enable", "stop")
        self._stopped = False

    def read(self) -> RobotState:
        """Both arms; the time is that of the older state.

        Raises:
            DeployError: one of them is silent; both have been stopped.
        """
        states = []
        for side, driver in zip(self._sides, self._drivers, strict=True):
            try:
                states.append(driver.read())
            except DeployError as error:
                self._stop_both()
                raise DeployError(f"{side.name} arm: {error}") from error
        fault = any(state.fault for state in states)
        if fault:
            self._stop_both()
        position, velocity = np.zeros(len(self._card.joints)), np.zeros(len(self._card.joints))
        for side, state in zip(self._sides, states, strict=True):
            position[side.joints], velocity[side.joints] = state.position, state.velocity
        return RobotState(min(state.time_ns for state in states), position, velocity, fault)

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Send each arm its joints; nothing goes to either once one has failed, until both are enabled again.

        Raises:
            DeployError: not finite, of another width, or refused by one of them.
        """
        wanted = np.asarray(setpoint.position, float)
        if wanted.shape != (len(self._card.joints),) or not np.isfinite(wanted).all():
            allowed = f"{len(self._card.joints)} finite numbers"
            raise DeployError(explain("not a setpoint", given=wanted, allowed=allowed))
        if self._stopped:
            return
        for side, driver in zip(self._sides, self._drivers, strict=True):
            try:
                driver.command(Setpoint(setpoint.time_ns, wanted[side.joints]), t_ns)
            except DeployError as error:
                self._stop_both()
                raise DeployError(f"{side.name} arm: {error}") from error

    def hold(self) -> None:
        """Both end their streams."""
        self._each("hold")

    def stop(self) -> None:
        """Both stop, each whatever the other says.

        Raises:
            DeployError: of the first that could not.
        """
        self._stopped = True
        self._each("stop")

    def close(self) -> None:
        """Both stop, hold and are let go of, each whatever the other says.

        Raises:
            DeployError: of the first that could not.
        """
        self._each("close")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def stop_channel(card: Embodiment, options: dict[str, Any]) -> BothStopChannels:
        """Stops both arms, each by its own channel.

        Raises:
            DeployError: one of them has none.
        """
        channels: list[StopChannel] = []
        try:
            for side in _sides(card, options["left"], options["right"]):
                if not isinstance(side.kind, Guarded):
                    mend = "guard it by the hardware emergency stop"
                    raise DeployError(explain(f"the {side.name} arm has no stop channel", mend=mend))
                channels.append(side.kind.stop_channel(side.card, side.options))
        except BaseException:
            BothStopChannels(channels).close()
            raise
        return BothStopChannels(channels)

    def _both_or_none(self, what: str, undo: str) -> None:
        done: list[Any] = []
        for side, driver in zip(self._sides, self._drivers, strict=True):
            try:
                done.append(driver)
                getattr(driver, what)()
            except BaseException as error:
                _all(done, undo, quiet=True)
                if isinstance(error, DeployError):
                    raise DeployError(f"{side.name} arm: {error}") from error
                raise

    def _stop_both(self) -> None:
        """Once, until both are enabled again; the reason is raised by the caller."""
        if not self._stopped:
            self._stopped = True
            _all(self._drivers, "stop", quiet=True)

    def _each(self, what: str) -> None:
        _all(self._drivers, what)


class BothStopChannels:
    """Two stop channels as one.

    Args:
        channels: Of both arms.
    """

    def __init__(self, channels: list[StopChannel]):
        self._channels = channels

    def stop(self) -> None:
        """Stop every arm, each whatever the other says.

        Raises:
            DeployError: of the first that could not be reached.
        """
        _all(self._channels, "stop")

    def close(self) -> None:
        """Let go of both."""
        _all(self._channels, "close", quiet=True)


def _sides(card: Embodiment, left: dict[str, Any], right: dict[str, Any]) -> list[_Side]:
    names = [arm.name for arm in card.arms]
    if sorted(names) != ["left", "right"]:
        raise DeployError(
            explain(f"'{card.name}' is not a robot of two arms", given=names, allowed="arms named left and right")
        )
    sides = [_Side("left", card, left), _Side("right", card, right)]
    owned = sorted(int(j) for side in sides for j in side.joints)
    if owned != list(range(len(card.joints))):
        free = [n for i, n in enumerate(card.joints.names) if owned.count(i) != 1]
        raise DeployError(explain("joints that belong to no arm or to both", given=free, mend="complete the cards"))
    return sides


def _all(parts: list[Any], what: str, *, quiet: bool = False) -> None:
    """Call a method of every part, whatever the others do, then say what the first complained of."""
    trouble: DeployError | None = None
    for part in parts:
        try:
            getattr(part, what)()
        except DeployError as error:
            trouble = trouble or error
    if trouble is not None and not quiet:
        raise trouble
