"""The contract of drivers: kept by those that can run here, and each rule breaks for a driver that breaks it."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from robopolicy.cli.check_driver import run, run_check
from robopolicy.cli.main import main
from robopolicy.deploy.config import RobotConfig, robot_config
from robopolicy.deploy.driver_check import check_driver, failed
from robopolicy.deploy.driver_rules import heavy_imports
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import CommandError
from robopolicy.registry import load_target, registry
from robopolicy.types import RobotState

CARD = load_embodiment("so101")
DOC = Path(__file__).resolve().parents[2] / "docs" / "drivers.md"
WIRED = [name for name in registry("robot").names() if robot_config(name).wire]


def worked_example():
    """The class of docs/drivers.md, as it stands there."""
    code = re.search(r"```python\n(.*?)```", DOC.read_text(), re.S).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 50
    space = {}
    exec(compile(code, str(DOC), "exec"), space)
    return space["MyDriver"]


MY = worked_example()


def check(kind, **options):
    return check_driver(kind, CARD, options, tick_s=0.01, move=True)


def broken(kind):
    return {finding.rule for finding in failed(check(kind))}


def test_the_worked_example_keeps_every_rule():
    findings = check(MY)
    assert not failed(findings), failed(findings)
    assert sum(finding.mark == "ok" for finding in findings) >= 15


class NoClock(MY):
    def read(self):
        return RobotState(1, *super().read()[1:])


class TakesNaN(MY):
    def command(self, setpoint, t_ns):
        if np.isfinite(setpoint.position).all():
            super().command(setpoint, t_ns)


class Deaf(MY):
    def command(self, setpoint, t_ns):
        super().command(setpoint, t_ns)
        self._open()["position"] = self.embodiment.home_position.copy()


class Wanders(MY):
    def hold(self):
        self._open()["position"][0] += 0.0
        self.drift = True

    def read(self):
        state = super().read()
        if getattr(self, "drift", False):
            self._open()["position"][1] += 0.05
        return state


class ConnectsEarly(MY):
    def __init__(self, card, **rest):
        super().__init__(card, **rest)
        self.connect()


class ReadsOn(MY):
    def close(self):
        pass


class Goes(MY):
    def read(self):
        return RobotState(monotonic_ns(), np.full(len(self.embodiment.joints), 9.0), super().read().velocity)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (NoClock, "time stamps"),
        (TakesNaN, "not finite"),
        (Deaf, "small move"),
        (Wanders, "hold()"),
        (ConnectsEarly, "before connect()"),
        (ReadsOn, "closes, twice"),
        (Goes, "reads finite"),
    ],
)
def test_a_driver_that_breaks_a_rule_is_found(kind, rule, monkeypatch):
    monkeypatch.setattr("robopolicy.deploy.driver_rules.MOVE_S", 0.3)
    assert any(rule in found for found in broken(kind)), broken(kind)


def test_without_consent_nothing_is_powered_or_sent():
    calls = []

    class Watched(MY):
        def enable(self):
            calls.append("enable")

        def command(self, setpoint, t_ns):
            calls.append("command")

    findings = check_driver(Watched, CARD, {}, tick_s=0.01, move=False)
    assert not calls
    assert not failed(findings)
    assert sum(finding.detail == "needs move=true" for finding in findings) >= 6


@pytest.mark.parametrize("name", WIRED)
def test_every_robot_with_a_simulated_controller_keeps_the_contract(name, monkeypatch):
    kind = load_target(robot_config(name).target)
    for package in {"XArmDriver": ("xarm",)}.get(kind.__name__, ()):
        pytest.importorskip(package)
    monkeypatch.setattr("robopolicy.deploy.driver_rules.MOVE_S", 1.0)
    findings = run_check(robot_config(name), move=True)
    assert not failed(findings), failed(findings)


@pytest.mark.parametrize("name", registry("robot").names())
def test_no_driver_brings_a_heavy_module(name):
    robot = robot_config(name)
    assert heavy_imports(robot.target) == []


def test_heavy_imports_are_seen(tmp_path, monkeypatch):
    (tmp_path / "heavy_one.py").write_text("import zarr\nclass Driver: ...\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert heavy_imports("heavy_one:Driver") == ["zarr"]


def test_the_command_prints_a_table_and_tells_the_exit_code(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", DOC.read_text(), re.S).group(1)
    (tmp_path / "my_arm.py").write_text(code)
    (tmp_path / "bad_arm.py").write_text(code.replace('self._open()["position"].copy()', "np.full(6, np.nan)"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["robot.embodiment=so101", "robot.driver={}"]
    assert run(["my_arm:MyDriver", *arguments]) == 0
    assert "move=true tries them" in capsys.readouterr().out
    assert run(["bad_arm:MyDriver", *arguments]) == 1
    assert "FAILED" in capsys.readouterr().out
    for name in ("my_arm", "bad_arm"):
        sys.modules.pop(name, None)
    assert main(["check-driver", "--help"]) == 0


def test_a_driver_on_shared_memory_is_not_tried():
    with pytest.raises(CommandError, match="shared memory"):
        run_check(robot_config("sim_panda"), move=False)
    # an option that is missing is a finding, not a traceback
    xarm = RobotConfig(target="robopolicy.deploy.drivers.xarm:XArmDriver", embodiment="xarm7")
    assert "address" in failed(run_check(xarm, move=False))[0].detail
