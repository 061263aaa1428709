"""Cards of real robots: kinematics against published poses and a second method, limits, order of channels, refusals."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from robopolicy.cli.list import run as list_command
from robopolicy.control.kinematics import Kinematics
from robopolicy.deploy.config import DaemonConfig, RobotConfig
from robopolicy.embodiment import Arm, Channel, ChannelGroup, Embodiment, load_embodiment
from robopolicy.errors import EmbodimentError, SimulationError
from robopolicy.registry import registry
from robopolicy.rotations import matrix_to_axis_angle

NAMES = registry("embodiment").names()
REQUIRED = {"panda", "ur5e_2f85", "xarm7", "aloha", "so101", "unitree_g1_inspire", "widowx"}
ARMS = [(n, arm.name) for n in NAMES for arm in load_embodiment(n).arms if arm.chain]
PI = math.pi

# Published transforms, parent -> joint (xyz in m, rpy in rad) and axis, as the makers' URDF files have them.
Z, Y, X = (0, 0, 1), (0, 1, 0), (1, 0, 0)
URDF: dict[tuple[str, str], list[tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]]] = {
    ("xarm7", ""): [
        ((0, 0, 0.267), (0, 0, 0), Z),
        ((0, 0, 0), (-PI / 2, 0, 0), Z),
        ((0, -0.293, 0), (PI / 2, 0, 0), Z),
        ((0.0525, 0, 0), (PI / 2, 0, 0), Z),
        ((0.0775, -0.3425, 0), (PI / 2, 0, 0), Z),
        ((0, 0, 0), (PI / 2, 0, 0), Z),
        ((0.076, 0.097, 0), (-PI / 2, 0, 0), Z),
    ],
    ("aloha", "right"): [
        ((0, 0, 0.079), (0, 0, 0), Z),
        ((0, 0, 0.04805), (0, 0, 0), Y),
        ((0.05955, 0, 0.3), (0, 0, 0), Y),
        ((0.2, 0, 0), (0, 0, 0), X),
        ((0.1, 0, 0), (0, 0, 0), Y),
        ((0.069744, 0, 0), (0, 0, 0), X),
    ],
    ("so101", ""): [
        ((0.0207909, -0.0230745, 0.0948817), (-PI, 0, PI / 2), Z),
        ((-0.0303992, -0.0182778, -0.0542), (-PI / 2, -PI / 2, 0), Z),
        ((-0.11257, -0.028, 0), (0, 0, PI / 2), Z),
        ((-0.1349, 0.0052, 0), (0, 0, -PI / 2), Z),
        ((0, -0.0611, 0.0181), (PI / 2, 0, PI), Z),
    ],
    ("unitree_g1_inspire", "left"): [
        ((0.0039563, 0.10022, 0.24778), (0.27931, 5.4949e-05, -0.00019159), Y),
        ((0, 0.038, -0.013831), (-0.27925, 0, 0), X),
        ((0, 0.00624, -0.1032), (0, 0, 0), Z),
        ((0.015783, 0, -0.080518), (0, 0, 0), Y),
        ((0.1, 0.00188791, -0.01), (0, 0, 0), X),
        ((0.038, 0, 0), (0, 0, 0), Y),
        ((0.046, 0, 0), (0, 0, 0), Z),
    ],
}


def elementary(axis: tuple[int, ...], angle: float) -> np.ndarray:
    """Rotation about x, y or z written out, not through quaternions as the code under test does."""
    c, s = math.cos(angle), math.sin(angle)
    return {
        X: np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        Y: np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        Z: np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]),
    }[axis]


def last_joint(links: list[Any], q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pose of the last joint's frame by the URDF's definition of rpy."""
    position, rotation = np.zeros(3), np.eye(3)
    for (xyz, (roll, pitch, yaw), axis), angle in zip(links, q, strict=True):
        position = position + rotation @ np.array(xyz)
        fixed = elementary(Z, yaw) @ elementary(Y, pitch) @ elementary(X, roll)
        rotation = rotation @ fixed @ elementary(axis, angle)
    return position, rotation


def without_tool(card: Embodiment, arm: str) -> Kinematics:
    """Kinematics whose TCP is the last joint itself."""
    one = card.single_arm(arm)
    return Kinematics(dataclasses.replace(one, arms=(dataclasses.replace(one.arms[0], tcp=Arm().tcp),)))


def random_posture(kinematics: Kinematics, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(kinematics.lower, kinematics.upper)


def test_the_required_cards_are_there_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(NAMES) >= REQUIRED
    assert list_command(["embodiments"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in NAMES)


@pytest.mark.parametrize(("name", "arm"), sorted(URDF))
def test_chain_equals_the_published_transforms(name: str, arm: str) -> None:
    rng = np.random.default_rng(1)
    kinematics = without_tool(load_embodiment(name), arm)
    for _ in range(20):
        q = random_posture(kinematics, rng)
        for mine, published in zip(kinematics.forward(q), last_joint(URDF[name, arm], q), strict=True):
            np.testing.assert_allclose(mine, published, atol=1e-12)
    wrong = [
        ((*xyz[:2], xyz[2] + 1e-4), rpy, axis) if i == 2 else (xyz, rpy, axis)
        for i, (xyz, rpy, axis) in enumerate(URDF[name, arm])
    ]
    assert np.abs(kinematics.forward(q)[0] - last_joint(wrong, q)[0]).max() > 1e-5


@pytest.mark.parametrize(
    ("name", "arm", "position_m"),
    [
        ("aloha", "left", (0.536494, 0.0, 0.42705)),  # Interbotix, M of vx300s
        ("widowx", "", (0.458325, 0.0, 0.36065)),  # Interbotix, M of wx250s
        ("xarm7", "", (0.206, 0.0, 0.1205 - 0.172)),  # UFACTORY: flange at (206, 0, 120.5) mm, tool 172 mm, down
        ("panda_2f85", "", (0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.107 - 0.150)),
        ("franka_fr3_dual", "right", (0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.2104)),
    ],
)
def test_pose_with_all_joints_at_zero_is_the_published_one(name: str, arm: str, position_m: tuple[float, ...]) -> None:
    kinematics = Kinematics(load_embodiment(name).single_arm(arm))
    np.testing.assert_allclose(kinematics.forward(np.zeros(len(kinematics.arm)))[0], position_m, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_tien_kung_arm_hangs_and_has_its_published_length(side: str) -> None:
    card = load_embodiment("tienkung_gello")
    kinematics = Kinematics(card.single_arm(side))
    position, rotation = kinematics.forward(np.zeros(7))
    shoulder = np.array([-0.024, 0.233182658, 0.45192305]) * ([1, 1, 1] if side == "left" else [1, -1, 1])
    assert np.linalg.norm(position - shoulder) == pytest.approx(0.253 + 0.2355 + 0.1115, abs=1e-6)
    assert rotation[2, 2] < -0.9, "the hand points down"
    assert np.sign(position[1]) == (1 if side == "left" else -1)


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_jacobian_is_the_derivative_on_every_arm(name: str, arm: str) -> None:
    kinematics = Kinematics(load_embodiment(name).single_arm(arm))
    q, step = random_posture(kinematics, np.random.default_rng(2)), 1e-6
    columns = []
    for i in range(len(q)):
        ahead, behind = q.copy(), q.copy()
        ahead[i] += step
        behind[i] -= step
        (p1, r1), (p0, r0) = kinematics.forward(ahead), kinematics.forward(behind)
        columns.append(np.concatenate([p1 - p0, matrix_to_axis_angle(r1 @ r0.T)]) / (2 * step))
    np.testing.assert_allclose(kinematics.jacobian(q), np.array(columns).T, atol=1e-7)
    assert np.abs(kinematics.jacobian(q + 0.01) - np.array(columns).T).max() > 1e-4, "control: another posture"


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_poses_of_many_equal_those_of_one(name: str, arm: str) -> None:
    kinematics = Kinematics(load_embodiment(name).single_arm(arm))
    many = np.stack([random_posture(kinematics, np.random.default_rng(i)) for i in range(8)])
    positions, rotations = kinematics.poses(many)
    for q, position, rotation in zip(many, positions, rotations, strict=True):
        np.testing.assert_allclose(kinematics.forward(q)[0], position, atol=1e-12)
        np.testing.assert_allclose(kinematics.forward(q)[1], rotation, atol=1e-12)


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_every_arm_with_a_chain_has_a_state_and_a_home_in_its_box(name: str, arm: str) -> None:
    card = load_embodiment(name).single_arm(arm)
    kinematics = Kinematics(card)
    joints = card.home_position.copy()
    joints[kinematics.end] = np.linspace(0.1, 0.2, len(kinematics.end))
    named = card.state.unpack(kinematics.tcp_state(joints))
    position = np.array([named[f"ee_position.{a}"] for a in "xyz"])
    np.testing.assert_allclose(position, kinematics.forward(kinematics.home)[0], atol=1e-12)
    assert [named[n] for n in card.arm().end_effector] == pytest.approx(joints[kinematics.end])
    lower, upper = np.array(card.workspace)
    assert (position > lower).all()
    assert (position < upper).all()
    assert np.abs([lower, upper]).max() < kinematics.reach_m[0] + 0.5, "a box near what the arm can reach"
    solution = kinematics.solve(kinematics.home + 0.05, *kinematics.forward(kinematics.home), iterations=200)
    assert solution.position_error_m < 1e-3


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_the_tool_axis_leaves_the_gripper_along_z(name: str, arm: str) -> None:
    """A push of the wrist's last metre: the TCP lies in front of the last joint, in direction +z of the tool."""
    card = load_embodiment(name)
    full = Kinematics(card.single_arm(arm))
    q = random_posture(full, np.random.default_rng(3))
    position, rotation = full.forward(q)
    assert (position - without_tool(card, arm).forward(q)[0]) @ rotation[:, 2] > 0.05


def test_order_of_channels_is_that_of_the_known_data_sets() -> None:
    arm = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]
    assert load_embodiment("aloha").state.names == tuple(f"{s}.{j}" for s in ("left", "right") for j in arm)
    so101 = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
    assert load_embodiment("so101").action.names == so101
    for name in ("xarm7", "widowx"):
        card = load_embodiment(name)
        assert (card.state_space, card.action_space, card.action.names[-1]) == ("ee_pose", "ee_pose", "gripper")


def test_g1_is_in_the_order_of_its_recordings() -> None:
    recorded = [
        *(f"k{s}{j}" for s in ("Left", "Right") for j in ("ShoulderPitch", "ShoulderRoll", "ShoulderYaw", "Elbow",
                                                          "WristRoll", "WristPitch", "WristYaw")),
        *(f"k{s}Hand{j}" for s in ("Left", "Right") for j in ("Pinky", "Ring", "Middle", "Index", "ThumbBend",
                                                              "ThumbRotation")),
    ]  # fmt: skip
    plain = [name.lower().removeprefix("k") for name in recorded]
    card = load_embodiment("unitree_g1_inspire")
    assert [n.replace(".", "").replace("_", "") for n in card.state.names] == plain
    assert len(card.arm("left").hand) == 6
    assert card.single_arm("left").state.names[:2] == ("ee_position.x", "ee_position.y")


@pytest.mark.parametrize("name", NAMES)
def test_hash_does_not_depend_on_how_numbers_are_written(name: str) -> None:
    card, written = load_embodiment(name), registry("embodiment").config(name)
    floats = json.loads(json.dumps(written), parse_int=float) | {"cameras": written.get("cameras", [])}
    assert Embodiment.from_dict(floats).hash == card.hash


def test_grippers_open_from_zero_to_one() -> None:
    for name in NAMES:
        card = load_embodiment(name)
        for arm in card.arms:
            if arm.gripper:
                channel = card.joints.channels[card.joints.index(arm.gripper)]
                assert (channel.lower, channel.upper, channel.unit) == (0.0, 1.0, "normalised"), name


def test_kinematics_of_several_arms_ask_for_one() -> None:
    with pytest.raises(EmbodimentError, match=r"'aloha' has 2; given: \['left', 'right'\].*single_arm"):
        Kinematics(load_embodiment("aloha"))
    with pytest.raises(EmbodimentError, match="not known: its card has no chain"):
        Kinematics(load_embodiment("agilex_cobot_magic").single_arm("left"))


def test_an_arm_may_carry_nothing() -> None:
    card = load_embodiment("xarm7")
    bare = dataclasses.replace(
        card,
        joints=ChannelGroup(tuple(c for c in card.joints.channels if c.name != "gripper")),
        arms=(dataclasses.replace(card.arms[0], gripper=""),),
        home={},
    )
    kinematics = Kinematics(bare)
    assert len(kinematics.tcp_state(np.zeros(7))) == 9
    np.testing.assert_allclose(kinematics.home, (kinematics.lower + kinematics.upper) / 2)
    with pytest.raises(EmbodimentError, match="no gripper"):
        _ = kinematics.gripper


def test_state_of_a_joint_card_is_its_joints() -> None:
    kinematics = Kinematics(load_embodiment("so101"))
    joints = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    np.testing.assert_array_equal(kinematics.tcp_state(joints), joints)
    assert kinematics.gripper == 5
    described = dataclasses.replace(
        load_embodiment("xarm7"), state_space="custom", custom_state=ChannelGroup((Channel("a", "m", 0, 1),))
    )
    with pytest.raises(EmbodimentError, match="described by its data only"):
        Kinematics(described).tcp_state(np.zeros(8))


@pytest.mark.parametrize("name", ["unitree_g1_inspire", "widowx", "agilex_cobot_magic"])
def test_simulating_a_card_without_simulation_names_the_mend(name: str) -> None:
    from robopolicy.sim.env import Env
    from robopolicy.sim.registration import simulated_embodiments
    from robopolicy.sim.task import load_task

    known = "allegro, aloha, panda, so101, ur5e_2f85, xarm7"
    with pytest.raises(SimulationError, match=rf"no 'simulation' entry; allowed: {known}; mend: add simulation"):
        Env(load_task("pick_place"), name)
    assert simulated_embodiments() == ["allegro", "aloha", "panda", "so101", "ur5e_2f85", "xarm7"]


@pytest.mark.parametrize(
    ("name", "reason"), [("unitree_g1_inspire", "an arm has no "), ("allegro", "an arm has no chain")]
)
def test_deploying_a_card_that_cannot_be_driven_names_the_mend(name: str, reason: str) -> None:
    robot = RobotConfig("robopolicy.deploy.drivers.sim:SimArm", embodiment=name)
    with pytest.raises(EmbodimentError, match=rf"cannot be deployed; given: .*{reason}.*mend: give the robot"):
        DaemonConfig("module:policy", robot)
    assert DaemonConfig("module:policy", dataclasses.replace(robot, embodiment="aloha")).card.name == "aloha"
