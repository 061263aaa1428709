"""The YAML of robots and tunables: complete, true, and refused when wrong."""

import pytest

from robopolicy.cli.deploy import CliConfig
from robopolicy.config import load
from robopolicy.control.executor import Executor
from robopolicy.deploy.config import DaemonConfig, DeployConfig, read_daemon, robot_config, write_daemon
from robopolicy.deploy.realtime import control_config
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError, UnknownNameError
from robopolicy.protocols import RobotDriver
from robopolicy.registry import registry


@pytest.mark.parametrize("name", registry("robot").names())
def test_every_robot_has_a_card_and_a_driver(name):
    robot = robot_config(name)
    assert (robot.rate_hz or load_embodiment(robot.embodiment).setpoint_hz) >= 30
    driver = registry("robot").load(name)
    for method in ("read", "command", "hold", "stop", "embodiment", "__enter__", "__exit__"):
        assert hasattr(driver, method), method
        assert hasattr(RobotDriver, method)


def test_the_default_yaml_states_the_defaults_of_the_code():
    config = load(CliConfig, "deploy", ["policy=p"])
    assert config.deploy == DeployConfig()
    assert config.robot == robot_config("sim_panda")


def test_all_faults_of_a_command_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        load(CliConfig, "deploy", ["policy=p", "deploy.lookahead_tick=3", "deploy.warm_up=-1"])
    assert len(caught.value.problems) == 2
    assert "lookahead_ticks" in str(caught.value)
    with pytest.raises(UnknownNameError, match="sim_panda"):
        robot_config("sim_pandas")


def test_the_run_folder_gives_back_what_was_written(tmp_path):
    config = DaemonConfig("p", robot_config("sim_ur5e_2f85"), control={"velocity_scale": 0.5}, cameras=("front",))
    write_daemon(config, tmp_path)
    assert read_daemon(tmp_path) == config
    assert control_config(config).velocity_scale == 0.5
    # A measured state older than the lead of the executor's clock must not count as stale by itself.
    assert control_config(config).max_state_age_s > config.deploy.lookahead_ticks * config.card.tick_s
    assert Executor(config.card, control_config(config)).config.velocity_scale == 0.5
