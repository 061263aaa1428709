"""Try a robot driver against the contract, rule by rule; for drivers of your own before they meet an arm.

Without move=true the driver is connected and read, nothing more. With it the robot is POWERED and one joint moves by
up to 0.1 rad and back: clear the workspace, and keep the hardware emergency stop in your hand. Robots of the registry
whose YAML has a block wire: are tried against their simulated controller, which also tells what arrived there.
Exit code 1 when a rule is broken. How to write a driver: docs/drivers.md

Examples:
  robopolicy check-driver robot=virtual_xarm7 move=true
  robopolicy check-driver my_package.my_arm:MyDriver robot.embodiment=so101 robot.driver.device=/dev/ttyACM0
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from robopolicy.cli.arguments import parse
from robopolicy.config import setting
from robopolicy.deploy.config import RobotConfig
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import CommandError, explain
from robopolicy.registry import load_target

__all__ = ["CONFIG", "CheckDriverConfig", "opened", "run", "run_check"]


@dataclass(frozen=True)
class CheckDriverConfig:
    """Keys of ``robopolicy check-driver``."""

    target: str | None = setting("module:Class of a driver in the place of the robot's own; also the first argument")
    robot: RobotConfig = setting("robopolicy list robots")
    move: bool = setting("consent: power the robot and move one joint a little")
    timeout_s: float = setting("the controller's clock may stand still this long, s", gt=0)


CONFIG = CheckDriverConfig


def run(argv: Sequence[str]) -> int:
    """Check, print the table. Returns 1 when a rule is broken."""
    config = parse(CheckDriverConfig, "check_driver", argv, positional=("target",))
    robot = config.robot
    if config.target is not None:
        robot = replace(robot, target=config.target, wire={}, process="")
    from robopolicy.deploy.driver_check import failed, table

    findings = run_check(robot, move=config.move, timeout_s=config.timeout_s)
    print(table(findings))
    broken = len(failed(findings))
    tried = sum(finding.mark != "-" for finding in findings)
    print(f"\n{robot.target}: {broken} of {tried} rules broken" if broken else f"\n{robot.target}: {tried} rules kept")
    if not config.move:
        print("the rules about power and motion were not tried; move=true tries them")
    return 1 if broken else 0


def run_check(robot: RobotConfig, *, move: bool, timeout_s: float = 0.2) -> list[Any]:
    """Findings about the driver of one robot configuration.

    Raises:
        CommandError: a driver that lives on the daemon's shared memory.
    """
    from robopolicy.deploy.driver_check import check_driver

    card, kind = load_embodiment(robot.embodiment), load_target(robot.target)
    if getattr(kind, "on_bus", False):
        mend = "robopolicy deploy ... episodes=1 tries it as a whole"
        raise CommandError(explain("this driver lives on the daemon's shared memory", given=robot.target, mend=mend))
    tick_s = 1.0 / robot.rate_hz if robot.rate_hz else card.tick_s
    with opened(robot) as (options, witness):
        return check_driver(
            kind, card, options, tick_s=tick_s, timeout_s=timeout_s, move=move, witness=witness, target=robot.target
        )


@contextmanager
def opened(robot: RobotConfig) -> Iterator[tuple[dict[str, Any], Any]]:
    """Options of the driver, and the simulated controller behind it, if the robot has one, while it runs."""
    options = dict(robot.driver)
    if not robot.wire:
        yield options, None
        return
    from robopolicy.sim.wire import WireProcess

    wire = dict(robot.wire)
    with WireProcess(wire.pop("target"), robot.embodiment, **wire) as box:
        yield {**options, **box.address}, box
