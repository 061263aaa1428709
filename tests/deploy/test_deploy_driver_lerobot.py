"""LeRobot's robots behind the driver contract, tried on an object with the interface of LeRobot's ``Robot``."""

import math
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from robopolicy.deploy.driver_check import check_driver, failed
from robopolicy.deploy.drivers.lerobot_robot import LeRobotRobotDriver
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError
from robopolicy.protocols import RobotDriver
from robopolicy.types import Setpoint

CARD = load_embodiment("so101")
NAMES = CARD.joints.names
MADE = []


@dataclass
class FakeConfig:
    port: str
    id: str = "arm"
    disable_torque_on_disconnect: bool = True
    calibrated: bool = True
    more: str = ""


class FakeRobot:
    """A follower in degrees, gripper in percent; ``silent`` makes the bus fail."""

    def __init__(self, config):
        self.config, self.is_connected, self.silent, self.sent, self.calibrate_asked = config, False, False, [], None
        self.values = {f"{n}.pos": math.degrees(CARD.home[n]) for n in NAMES[:-1]} | {"gripper.pos": 100.0}
        self.torque = True
        MADE.append(self)

    @property
    def observation_features(self):
        return {**dict.fromkeys(self.values, float), "front": (480, 640, 3)}

    @property
    def action_features(self):
        more = {self.config.more: float} if self.config.more else {}
        return dict.fromkeys(self.values, float) | more

    @property
    def is_calibrated(self):
        return self.config.calibrated

    def connect(self, calibrate=True):
        if self.config.port == "absent":
            raise ConnectionError("no such port")
        self.calibrate_asked, self.is_connected = calibrate, True

    def get_observation(self):
        if self.silent:
            raise ConnectionError("no status packet")
        return dict(self.values)

    def send_action(self, action):
        if self.silent:
            raise ConnectionError("no status packet")
        self.sent.append(action)
        self.values.update(action)
        return action

    def disconnect(self):
        self.is_connected = False
        self.torque = not self.config.disable_torque_on_disconnect


def options(**changes):
    settings = {"port": "/dev/null", **changes.pop("settings", {})}
    return {"robot": f"{__name__}:FakeRobot", "config": f"{__name__}:FakeConfig", "settings": settings, **changes}


def built(**changes):
    MADE.clear()
    return LeRobotRobotDriver(CARD, tick_s=0.01, timeout_s=0.3, **options(**changes))


def wait(holds, limit_s=10.0):
    until = time.monotonic() + limit_s
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.005)
    return found


def test_it_keeps_the_contract():
    findings = check_driver(LeRobotRobotDriver, CARD, options(), tick_s=0.01, timeout_s=0.5, move=True)
    assert not failed(findings), failed(findings)


def test_degrees_and_percent_are_converted_by_name():
    with built() as driver:
        assert isinstance(driver, RobotDriver)
        driver.connect()
        robot = MADE[0]
        assert robot.calibrate_asked is False
        assert driver.read().position == pytest.approx(CARD.home_position)
        driver.enable()
        wanted = CARD.home_position + np.array([0.1, -0.1, 0.1, -0.1, 0.2, -0.5])
        driver.command(Setpoint(0, wanted), 0)
        assert wait(lambda: driver.read().position == pytest.approx(wanted))
        assert robot.sent[-1]["wrist_roll.pos"] == pytest.approx(math.degrees(wanted[4]))
        assert robot.sent[-1]["gripper.pos"] == pytest.approx(50.0)
        assert set(robot.sent[-1]) == {f"{n}.pos" for n in NAMES}


@pytest.mark.parametrize(
    ("entry", "value", "expected"),
    [
        ({}, 90.0, math.pi / 2),
        ({"sign": -1}, 90.0, -math.pi / 2),
        ({"zero": 0.5}, 90.0, math.pi / 2 + 0.5),
        ({"sign": -1, "zero": 0.5}, 90.0, 0.5 - math.pi / 2),
        ({"unit": "radians", "zero": 0.1}, 0.3, 0.4),
        ({"unit": "range"}, -100.0, -1.91986),
        ({"unit": "range"}, 100.0, 1.91986),
        ({"unit": "range", "sign": -1}, 100.0, -1.91986),
        ({"unit": "percent"}, 25.0, 0.25),
        ({"unit": "percent", "sign": -1}, 25.0, 0.75),
    ],
)
def test_every_unit_goes_there_and_back(entry, value, expected):
    joint = built(joints={"shoulder_pan": entry})._values[0]
    assert joint.to_card(value) == pytest.approx(expected)
    assert joint.to_robot(joint.to_card(value)) == pytest.approx(value)


def test_a_bus_that_fails_is_tolerated_for_a_while_then_it_is_silence():
    with built() as driver:
        driver.connect()
        driver.enable()
        robot = MADE[0]
        robot.silent = True
        with pytest.raises(DeployError, match="no status packet"):
            read_on(driver)
        robot.silent = False
        assert wait(lambda: _reads(driver)), "one bad packet, or many, end nothing for good"


def read_on(driver):
    while True:
        driver.read()
        time.sleep(0.01)


def _reads(driver):
    try:
        return driver.read()
    except DeployError:
        return None


def test_stop_asks_for_the_measured_pose_and_close_keeps_the_torque():
    threads = set(threading.enumerate())
    driver = built()
    driver.connect()
    robot = MADE[0]
    driver.enable()
    driver.command(Setpoint(0, CARD.home_position + 0.05), 0)
    assert wait(lambda: robot.values["elbow_flex.pos"] == pytest.approx(math.degrees(0.23 + 0.05)))
    driver.stop()
    count = len(robot.sent)
    assert wait(lambda: len(robot.sent) > count)
    assert robot.sent[-1]["elbow_flex.pos"] == pytest.approx(math.degrees(0.23 + 0.05), abs=0.5)
    driver.command(Setpoint(0, CARD.home_position), 0)
    driver.close()
    driver.close()
    assert robot.torque
    assert not robot.is_connected
    assert robot.values["elbow_flex.pos"] == pytest.approx(math.degrees(0.23 + 0.05), abs=0.5), "not after a stop"
    assert wait(lambda: set(threading.enumerate()) == threads)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"port": "absent"}}, "no such port"),
        ({"settings": {"calibrated": False}}, "not calibrated"),
        ({"settings": {"more": "wheel.vel"}}, "wheel.vel"),
        ({"settings": {"speed": 3}}, "speed"),
        ({"joints": {"elbow_flex": {"key": "elbow"}}}, "elbow"),
        ({"robot": "lerobot_is_not_here:Robot"}, "pip install lerobot"),
    ],
)
def test_what_is_wrong_is_said_at_connect_and_leaves_nothing(changes, said):
    threads = set(threading.enumerate())
    driver = built(**changes)
    with pytest.raises(DeployError, match=said):
        driver.connect()
    assert set(threading.enumerate()) == threads
    assert not any(robot.is_connected for robot in MADE)
    with pytest.raises(DeployError, match="connect"):
        driver.read()


@pytest.mark.parametrize(
    "joints", [{"elbow": {}}, {"gripper": {"unit": "turns"}}, {"gripper": {"sign": 2}}, {"gripper": {"by": 1}}]
)
def test_options_that_are_none_are_refused(joints):
    with pytest.raises(DeployError, match="joint"):
        built(joints=joints)


def test_the_driver_itself_needs_no_lerobot():
    assert "lerobot" not in sys.modules
