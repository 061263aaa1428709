"""Options of the UR driver, checked before anything moves."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.drivers.ur_dashboard import DashboardLine
from robopolicy.deploy.drivers.ur_state import RUNNING_MODE
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain

__all__ = [
    "TURN_RAD",
    "UrOptions",
    "arm_joints",
    "power_on",
    "require_known",
    "require_plausible",
    "require_remote",
    "require_setpoint",
]

GRIPPERS = ("robotiq", "none")
POWER_S = 2.5
POWER_OFF_MODE, IDLE_MODE = 3, 5
TURN_RAD = 2 * math.pi + 0.1


@dataclass(frozen=True)
class UrOptions:
    """The block ``driver:`` of a UR's YAML.

    Attributes:
        address: Of the controller.
        gripper: ``robotiq`` (URCap), or ``none``: the card's gripper channel is only mirrored.
        lookahead_s: ``servoj``'s smoothing, 0.03 to 0.2. Setpoints are smooth already, so it only adds lag; more of it
            forgives a loop that is late.
        gain: ``servoj``'s gain, 100 to 2000.
        deceleration: Of a servo stop, m/s^2 at the tool.
        watchdog_hz: Setpoints must come at least as often, or the controller ends its program.
        gripper_speed, gripper_force: Registers SPE and FOR, 0 to 255.
    """

    address: str = ""
    gripper: str = "none"
    lookahead_s: float = 0.05
    gain: float = 300.0
    deceleration: float = 10.0
    watchdog_hz: float = 10.0
    gripper_speed: int = 255
    gripper_force: int = 100

    @classmethod
    def of(cls, given: dict[str, Any], tick_s: float) -> UrOptions:
        """Check them.

        Raises:
            DeployError: an unknown option or a value out of range.
        """
        unknown = sorted(set(given) - set(cls.__dataclass_fields__))
        if unknown:
            raise DeployError(explain("unknown options", given=unknown, allowed=list(cls.__dataclass_fields__)))
        made = cls(**given)
        ticks = tick_s / 0.002
        wrong = {
            "address is empty": not made.address,
            f"gripper must be one of {GRIPPERS}": made.gripper not in GRIPPERS,
            "lookahead_s must be 0.03 to 0.2": not 0.03 <= made.lookahead_s <= 0.2,
            "gain must be 100 to 2000": not 100 <= made.gain <= 2000,
            "deceleration must be above 0": not made.deceleration > 0,
            "watchdog_hz must be 1 to 100": not 1 <= made.watchdog_hz <= 100,
            "gripper_speed and gripper_force are bytes": not (
                0 <= made.gripper_speed <= 255 and 0 <= made.gripper_force <= 255
            ),
            "the rate must be 500 Hz divided by an integer": ticks < 1 - 1e-6 or abs(ticks - round(ticks)) > 1e-6,
        }
        if any(wrong.values()):
            problems = "; ".join(text for text, holds in wrong.items() if holds)
            raise DeployError(explain("a UR cannot be driven like this", given=given, allowed=problems))
        return made


def arm_joints(card: Embodiment, gripper: str) -> tuple[list[int], int | None]:
    """Where the six joints and the gripper stand in a command vector.

    Raises:
        DeployError: another number of joints, or a gripper that the card does not have.
    """
    names = card.joints.names
    arm = [names.index(link.joint) for link in card.chain]
    end = names.index(card.gripper) if card.gripper else None
    if len(arm) != 6 or len(names) != 6 + (end is not None) or (gripper != "none" and end is None):
        allowed = "six joints of a chain, and a gripper channel if there is a gripper"
        raise DeployError(
            explain(f"the card '{card.name}' is no UR with gripper '{gripper}'", given=names, allowed=allowed)
        )
    return arm, end


def require_plausible(position: Sequence[float]) -> None:
    """Refuse a pose that stands for "nothing known yet"; followed, it has driven arms into their own base.

    Raises:
        DeployError: all zeros, not finite, or more than a turn.
    """
    if len(position) == 6 and all(math.isfinite(q) and abs(q) < TURN_RAD for q in position) and any(position):
        return
    raise DeployError(
        explain(
            "the controller reports no pose of a real arm",
            given=[round(float(q), 4) for q in position],
            allowed="six finite angles within a turn, not all exactly 0",
            mend="wait until it has booted; an arm that truly stands at all zeros: move a joint by hand",
        )
    )


def require_setpoint(position: NDArray[np.floating[Any]], joints: int) -> None:
    """Refuse what is no setpoint.

    Raises:
        DeployError: another width than [J], or a number that is none.
    """
    if position.shape != (joints,) or not math.isfinite(position.sum()):
        raise DeployError(explain("this is no setpoint", given=position, allowed=f"{joints} finite numbers"))


def require_known(version: tuple[int, int, int, int]) -> None:
    """Refuse a controller of another generation.

    Raises:
        DeployError: not PolyScope 5.6 or a later 5.
    """
    if version[0] != 5 or version[1] < 6:
        given = "PolyScope {}.{}.{}.{}".format(*version)
        raise DeployError(explain("a controller that this driver does not know", given=given, allowed="5.6 to 5.x"))


def require_remote(line: DashboardLine) -> None:
    """Refuse an arm that only its pendant may command.

    Raises:
        DeployError: local control.
    """
    if "true" not in line.ask("is in remote control").lower():
        raise DeployError(explain("the arm is in local control", mend="switch the pendant to remote control"))


def power_on(address: str, mode: Callable[[], int]) -> None:
    """Power on, then release the brakes, over the dashboard; the arm clicks and may sag by a fraction of a degree.

    Args:
        address: Of the controller.
        mode: Its robot mode now.

    Raises:
        DeployError: not within 2.5 s. A cold arm takes longer; the next call goes on where this one ended.
    """
    with contextlib.closing(DashboardLine(address)) as line:
        until, asked = time.monotonic() + POWER_S, 0
        line.ask("close safety popup")
        while (now := mode()) != RUNNING_MODE:
            if time.monotonic() > until:
                given = line.ask("robotmode")
                raise DeployError(
                    explain("the arm is not powered yet", given=given, mend="enable again in some seconds")
                )
            if now != asked and now in (POWER_OFF_MODE, IDLE_MODE):
                line.ask("power on" if now == POWER_OFF_MODE else "brake release")
                asked = now
            time.sleep(0.02)
