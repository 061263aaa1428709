"""Card and MJCF of each arm describe the same robot."""

import dataclasses
import re
from importlib import resources

import mujoco
import numpy as np
import pytest

import robopolicy.sim  # noqa: F401 - picks the GL backend before mujoco is used
from robopolicy.control.kinematics import Kinematics
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import SimulationError
from robopolicy.sim.env import Env
from robopolicy.sim.scene import compose, integer_ratio
from robopolicy.sim.task import load_task

ARMS = ("panda", "ur5e_2f85")


def build(name):
    embodiment = load_embodiment(name)
    scene = compose(load_task("pick_place"), embodiment)
    return embodiment, scene, mujoco.MjData(scene.model)


def largest_difference(embodiment, scene, data, count=200):
    """Largest distance (m) and rotation-matrix entry between the card's kinematics and MuJoCo's site."""
    kinematics, rng = Kinematics(embodiment), np.random.default_rng(0)
    arm = [i for i, n in enumerate(embodiment.joints.names) if n != embodiment.gripper]
    position_m = rotation = 0.0
    for _ in range(count):
        q = rng.uniform(embodiment.joints.lower[arm], embodiment.joints.upper[arm])
        data.qpos[scene.joint_qpos] = q
        mujoco.mj_kinematics(scene.model, data)
        position, matrix = kinematics.forward(q)
        position_m = max(position_m, np.linalg.norm(position - data.site_xpos[scene.tcp_site[""]]))
        rotation = max(rotation, np.abs(matrix - data.site_xmat[scene.tcp_site[""]].reshape(3, 3)).max())
    return position_m, rotation


@pytest.mark.parametrize("name", ARMS)
def test_kinematics_of_card_and_mjcf_agree(name):
    embodiment, scene, data = build(name)
    position_m, rotation = largest_difference(embodiment, scene, data)
    assert position_m < 1e-6
    assert rotation < 1e-6
    # control: half a millimetre in one link shows
    links = list(embodiment.chain)
    links[3] = dataclasses.replace(links[3], position_m=tuple(np.add(links[3].position_m, (5e-4, 0, 0))))
    arm = dataclasses.replace(embodiment.arm(), chain=tuple(links))
    wrong = dataclasses.replace(embodiment, arms=(arm,))
    assert largest_difference(wrong, scene, data, 5)[0] > 1e-4


@pytest.mark.parametrize("name", ARMS)
def test_ranges_and_torques_are_those_of_the_card(name):
    embodiment, scene, _ = build(name)
    for channel, joint in zip(embodiment.joints.channels, scene.joint_qpos, strict=False):
        if channel.name == embodiment.gripper:
            continue
        low, high = scene.model.joint("robot/" + channel.name).range
        assert (low, high) == pytest.approx((channel.lower, channel.upper), abs=1e-9)
        assert joint >= 0
    torque = {"panda": [87] * 4 + [12] * 3, "ur5e_2f85": [150] * 3 + [28] * 3}[name]
    assert scene.model.actuator_forcerange[scene.actuator[:-1], 1].tolist() == torque


@pytest.mark.parametrize("name", ARMS)
def test_home_points_down_and_fingers_close_along_tcp_y(name):
    env = Env("pick_place", name)
    rotation = env.data.site_xmat[env.scene.tcp_site[""]].reshape(3, 3)
    assert rotation == pytest.approx(np.diag([1.0, -1.0, -1.0]), abs=1e-5)
    assert env.data.site_xpos[env.scene.tcp_site[""]][2] > 0.15
    fingers = [env.data.geom("robot/finger_" + side).xpos.copy() for side in ("left", "right")]
    apart = rotation.T @ (fingers[0] - fingers[1])
    assert abs(apart[1]) > 0.07
    assert np.abs(apart[[0, 2]]).max() < 1e-6
    # the pads close around the tool centre point
    tip = rotation.T @ (0.5 * (fingers[0] + fingers[1]) - env.data.site_xpos[env.scene.tcp_site[""]])
    assert np.abs(tip[:2]).max() < 1e-4


@pytest.mark.parametrize("name", ARMS)
def test_gripper_channel_is_0_closed_1_open_and_servo_tracks(name):
    env = Env("pick_place", name)
    assert env.robot_state().position[-1] == pytest.approx(1.0, abs=1e-3)
    command = env.embodiment.home_position.copy()
    for i in range(120):  # 0.2 rad in 0.6 s on every arm joint, the jaw closes
        command[:-1] = env.embodiment.home_position[:-1] + 0.2 * min(i / 60, 1.0)
        command[-1] = max(0.0, 1.0 - i / 100)
        env.servo(command)
        if i == 40:
            assert np.abs(env.robot_state().position - command)[:-1].max() < 6e-3, "tracking lags behind"
    assert np.abs(env.robot_state().position - command).max() < 3e-3


@pytest.mark.parametrize("name", ARMS)
def test_no_mesh_and_a_source_in_the_mjcf(name):
    text = resources.files("robopolicy.sim.embodiments").joinpath(f"{name}.xml").read_text()
    assert not re.search(r"<mesh|\.stl|\.obj", text)
    assert "published" in text.split("-->")[0]


def test_rates_that_are_no_multiples_name_both_values():
    odd = dataclasses.replace(load_embodiment("panda"), setpoint_hz=120.0)
    with pytest.raises(SimulationError, match=r"500 Hz / 120 Hz"):
        Env("pick_place", odd)
    assert integer_ratio(500.0, 100.0, what="x") == 5
    with pytest.raises(SimulationError):
        integer_ratio(20.0, 100.0, what="x")
