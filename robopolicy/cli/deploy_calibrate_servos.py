"""``robopolicy deploy calibrate-servos``: zero and ends of each servo of an arm, by hand, into a JSON file.

The torque of every servo goes off: HOLD THE ARM. First put it into its zero pose, every joint at 0 of the card and the
gripper closed, then move each joint from stop to stop. Return goes on. The file is for robot.driver.calibration=FILE.
device= is short for robot.driver.device=.

Examples:
  robopolicy deploy calibrate-servos robot=so101 device=/dev/ttyACM0 out=so101.json
  robopolicy deploy calibrate-servos robot=widowx device=/dev/ttyUSB0 out=widowx.json reversed=[elbow]
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robopolicy.cli.arguments import parse
from robopolicy.config import setting
from robopolicy.deploy.config import RobotConfig
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import CommandError, explain
from robopolicy.registry import load_target

__all__ = ["CONFIG", "CalibrateServosConfig", "begin", "survey"]

POLL_S = 0.05
Wait = Callable[[str, Callable[[], object]], None]
"""Says a prompt and calls back, again and again, until the person goes on."""


@dataclass(frozen=True)
class CalibrateServosConfig:
    """Keys of ``robopolicy deploy calibrate-servos``."""

    robot: RobotConfig = setting("a robot of bus servos: so101, widowx, ...")
    out: str = setting("JSON file to write")
    reversed: tuple[str, ...] = setting("joints whose servo counts against the card")


CONFIG = CalibrateServosConfig


def begin(argv: Sequence[str]) -> int:
    """Measure, print, write; returns 0."""
    given = [f"robot.driver.{word}" if word.startswith("device=") else word for word in argv]
    config = parse(CalibrateServosConfig, "deploy_calibrate_servos", given)
    found = survey(config.robot, config.reversed, by_return)
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(out.name + ".part")
    beside.write_text(json.dumps(found, indent=1) + "\n")
    beside.replace(out)
    print(f"calibration: {out}\nuse it: robot.driver.calibration={out}")
    return 0


def survey(robot: RobotConfig, reverse: Sequence[str], wait: Wait) -> dict[str, dict[str, int]]:
    """Let go of the arm and measure it.

    Args:
        robot: Its driver is one of bus servos.
        reverse: See :class:`CalibrateServosConfig`.
        wait: How the person is asked to go on.

    Returns:
        joint -> {zero_step, sign, lower_step, upper_step}.

    Raises:
        CommandError: another kind of driver.
        DeployError: a bus that cannot be reached, or a calibration that cannot be true.
    """
    from robopolicy.deploy.drivers.servo_bus import ServoBusDriver
    from robopolicy.deploy.drivers.servo_survey import ServoSurvey

    kind = load_target(robot.target)
    if not (isinstance(kind, type) and issubclass(kind, ServoBusDriver)):
        raise CommandError(explain("this robot has no bus of servos", given=robot.target, mend="robot=so101"))
    card = load_embodiment(robot.embodiment)
    options = {**robot.driver, "calibration": "nominal"}
    with kind(card, tick_s=card.tick_s, timeout_s=1.0, **options) as driver:
        driver.connect(fitted=False)
        wait("HOLD THE ARM: its torque goes off. Return", lambda: None)
        driver.torque_off()
        measured = ServoSurvey(driver)
        wait("put it into its zero pose, every joint at 0, the gripper closed. Return", measured.look)
        measured.take_zero()
        wait("move every joint from stop to stop. Return when done", measured.look)
        print("\n".join(measured.lines()))
        return measured.result(reverse)


def by_return(prompt: str, poll: Callable[[], object]) -> None:
    """Wait for the Return key; on a terminal show what is read."""
    print(prompt, flush=True)
    while not select.select([sys.stdin], [], [], POLL_S)[0]:
        shown = poll()
        if shown is not None and sys.stdout.isatty():
            print(f"\r{shown!s:<100.100}", end="", flush=True)
    if not os.read(sys.stdin.fileno(), 4096):
        raise CommandError(explain("nobody is there to go on", mend="run it on a terminal"))
    poll()
