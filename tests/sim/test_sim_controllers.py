"""Controllers: derived cards, exact translations, late chunks, and the same task through every one of them."""

import dataclasses

import mujoco
import numpy as np
import pytest

from robopolicy.assess import evaluate
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import ConfigError, EmbodimentError, EmbodimentMismatchError, UnknownNameError
from robopolicy.protocols import PolicySpec
from robopolicy.registry import registry
from robopolicy.rotations import axis_angle_to_matrix, matrix_to_rotation_6d, rotation_6d_to_matrix
from robopolicy.sim.controllers.base import JointTargets, Reference, find_controller, load_controller, robot_of
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.types import ActionChunk

NAMES = ("ee_delta", "ee_pose", "ee_stiffness", "joint_delta", "joint_position", "joint_velocity")
JOINT = ("joint_position", "joint_delta", "joint_velocity")


@pytest.fixture(scope="module")
def panda():
    return load_embodiment("panda")


def random_targets(card, rows=12, seed=0):
    """A smooth random path in the channels of a card of poses, [rows, A], and where it begins, [A]."""
    rng = np.random.default_rng(seed)
    values = np.zeros((rows + 1, len(card.action)))
    position, rotation = card.action.select("ee_position"), card.action.select("ee_rotation")
    values[:, position] = np.array([0.5, 0.0, 0.2]) + np.cumsum(rng.normal(0, 0.01, (rows + 1, 3)), axis=0)
    turns = np.array([np.pi - 0.3, 0.1, 0.2]) + np.cumsum(rng.normal(0, 0.05, (rows + 1, 3)), axis=0)
    values[:, rotation] = matrix_to_rotation_6d(axis_angle_to_matrix(turns))
    values[:, card.action.index("gripper")] = rng.uniform(0, 1, rows + 1)
    return values[1:], values[0]


def chunk_of(card, values, t0_ns=0, **more):
    return ActionChunk(values, t0_ns, card.control_dt_s, card.hash, **more)


def test_every_controller_is_registered_and_makes_a_card_of_its_own(panda):
    assert tuple(registry("controller").names()) == NAMES
    cards = {name: load_controller(name, panda).card for name in NAMES}
    assert len({card.hash for card in cards.values()} | {panda.hash}) == len(NAMES) + 1
    for name, card in cards.items():
        assert card.name == f"panda@{name}"
        assert card.action_space == name
        assert load_embodiment(card.name).hash == card.hash
        assert Embodiment.from_dict(card.to_dict()).hash == card.hash
        assert robot_of(card).hash == panda.hash
        assert "gripper" in card.action.names
        assert (card.action_reference == "absolute") == (name in ("ee_pose", "joint_position", "ee_stiffness"))
        assert (card.state.names, card.joints.names) == (panda.state.names, panda.joints.names)
    assert cards["joint_delta"].action.channels[0].upper == pytest.approx(2.175 / 20)
    assert cards["joint_velocity"].action.channels[0].unit == "rad/s"
    assert len(cards["ee_delta"].action) == 7
    plain = dataclasses.replace(panda, action_space="ee_delta", action_reference="commanded")
    assert plain.action.names == cards["ee_delta"].action.names, "a card may say ee_delta without listing channels"


@pytest.mark.parametrize("name", ["ee_pose", "ee_delta", "ee_stiffness"])
def test_poses_come_back_exactly(panda, name):
    controller = load_controller(name, panda)
    targets, before = random_targets(panda)
    reference = Reference(panda.home_position, before)
    values = controller.from_native(targets, reference)
    back = controller.to_native(chunk_of(controller.card, values), reference)
    assert np.abs(back.values - targets).max() < 1e-9
    assert back.embodiment == controller.native.hash
    if name == "ee_delta":
        other = Reference(panda.home_position, before + np.eye(len(before))[0] * 0.01)
        moved = controller.to_native(chunk_of(controller.card, values), other).values
        assert np.abs(moved - targets).max() > 0.009, "control: counted from another command it ends elsewhere"


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("robot", ["panda", "aloha"])
def test_joints_come_back_exactly(robot, name):
    card = load_embodiment(robot)
    controller = load_controller(name, card)
    rng = np.random.default_rng(1)
    joints = card.home_position
    reference = Reference(joints, joints)
    if robot == "panda":
        targets, _ = random_targets(card, 6)
        targets[:, :3] = [0.45, 0.0, 0.25] + 0.3 * (targets[:, :3] - [0.5, 0.0, 0.2])
    else:
        targets = joints + np.cumsum(rng.normal(0, 0.02, (6, len(joints))), axis=0)
    values = controller.from_native(targets, reference)
    back = controller.to_native(chunk_of(controller.card, values), reference).values
    if robot == "panda":
        env_arm = JointTargets(card)._arm
        reached = np.stack([env_arm.tcp_state(row) for row in back])
        position = np.abs(reached[:, :3] - targets[:, :3]).max()
        turned = rotation_6d_to_matrix(reached[:, 3:9]) - rotation_6d_to_matrix(targets[:, 3:9])
        assert position < 1e-9
        assert np.abs(turned).max() < 1e-9
    else:
        assert np.abs(back - targets).max() < 1e-9
    if name != "joint_position":
        assert np.abs(values[1:, 0] * (card.control_dt_s if "vel" in name else 1) - np.diff(back[:, 0])).max() < 1e-9


def test_rows_that_are_not_valid_do_nothing(panda):
    for name in ("ee_delta", "joint_delta", "joint_velocity"):
        controller = load_controller(name, panda)
        start = random_targets(panda)[1] if name == "ee_delta" else panda.home_position
        reference = Reference(panda.home_position, start)
        values = np.full((4, len(controller.card.action)), 0.01)
        whole = controller.to_native(chunk_of(controller.card, values[[0, 2, 3]]), reference).values
        values[1] = np.nan
        valid = np.array([True, False, True, True])
        holey = controller.to_native(chunk_of(controller.card, values, valid=valid), reference)
        assert np.array_equal(holey.valid, valid)
        assert np.allclose(holey.values[valid], whole, atol=1e-12)


@pytest.mark.parametrize("name", ["ee_delta", "joint_delta"])
def test_a_late_chunk_is_counted_from_the_command_at_its_observation(name):
    env = Env("pick_place", "panda", controller=name)
    env.reset(options={"index": 0})
    step = np.zeros(len(env.card.action))
    step[0], step[-1] = 0.01, 1.0

    def steps(count):
        for _ in range(count * env.ticks_per_step):
            env.servo(env.tick().setpoint.position)

    env.frame()
    first = env.now_ns
    assert env.submit(chunk_of(env.card, np.tile(step, (8, 1)), first)).accepted
    steps(2)
    env.frame()
    seen, at_observation = env.now_ns, env.commanded().action[0]
    steps(3)  # latency: the old chunk goes on
    at_arrival = env.commanded().action[0]
    assert at_arrival - at_observation == pytest.approx(0.03, abs=1e-6)
    assert env.submit(chunk_of(env.card, np.tile(step, (8, 1)), seen)).accepted
    end = env.executor.schedule.at(seen + 8 * 50_000_000)[0]
    assert end == pytest.approx(at_observation + 0.08, abs=1e-9)
    assert abs(end - (at_arrival + 0.08)) > 0.02, "control: counted from the arrival it would go too far"


def test_steps_go_through_the_controller_and_the_executor_sees_absolute_targets():
    env = Env("pick_place", "panda", controller="ee_delta")
    assert env.action_space.shape == (7,)
    env.reset(options={"index": 0})
    start = env.frame().state
    for _ in range(10):
        _, _, _, _, info = env.step(np.array([0, 0, 0, 0, 0, 0, 1], np.float32))
        assert info["accepted"]
    assert np.abs(env.frame().state - start).max() < 2e-3, "no step, no motion"
    for _ in range(10):
        env.step(np.array([0.005, 0, 0, 0, 0, 0, 1], np.float32))
    for _ in range(6):
        env.step(np.array([0, 0, 0, 0, 0, 0, 1], np.float32))
    assert env.frame().state[0] - start[0] == pytest.approx(0.05, abs=2e-3)
    assert env.executor.embodiment.action_space == "ee_pose"
    assert env.executor.embodiment.hash == env.embodiment.hash
    plain = Env("pick_place", "panda")
    strange = plain.submit(chunk_of(env.card, np.zeros((1, 7))))
    assert (strange.accepted, strange.reason) == (False, "embodiment")


def test_the_expert_reaches_the_goal_through_every_controller():
    for name in NAMES:
        env = Env("pick_place", "panda", controller=name)
        expert = env.task.expert(env)
        result = run_episode(env, expert, split="val", index=0)
        assert result.success_at_end, name
        assert result.embodiment == f"panda@{name}"


@pytest.mark.slow
@pytest.mark.parametrize("robot", ["panda", "ur5e_2f85"])
@pytest.mark.parametrize("name", NAMES)
def test_twenty_episodes_through_every_controller(robot, name):
    env = Env("pick_place", robot, controller=name)
    expert = env.task.expert(env)
    assert sum(run_episode(env, expert, split="val", index=i).success_at_end for i in range(20)) >= 19


class Steps:
    """A policy of steps: down at 2 cm/s. Its card says which controller it needs."""

    def __init__(self, card):
        self.spec, self.seen = PolicySpec(card, 1, 2, 4), []

    def act(self, observation, *, rng, prefix=None, goal=None):
        self.seen.append(observation)
        card = self.spec.embodiment
        values = np.zeros((4, len(card.action)))
        values[:, card.action.index("ee_delta.z")], values[:, -1] = -0.001, 1.0
        return ActionChunk(values, int(observation.time_ns[-1]), card.control_dt_s, card.hash, horizon=2)


def test_a_policy_of_a_derived_card_is_evaluated_without_being_told_the_controller():
    policy = Steps(load_embodiment("panda@ee_delta"))
    report = evaluate(policy, "pick_place", episodes=range(1), split="val")
    assert report["header"]["embodiment"] == "panda@ee_delta"
    heights = [float(o.state[-1, 2]) for o in policy.seen]
    steps = np.diff(heights[2:20]) / 2
    assert steps.mean() == pytest.approx(-0.001, rel=0.1)
    assert policy.seen[0].embodiment == policy.spec.embodiment.hash
    env = Env("pick_place", "panda", controller="joint_delta")
    with pytest.raises(EmbodimentMismatchError, match="ee_delta"):
        run_episode(env, policy, split="val", index=0)


def test_episodes_begin_the_same_under_every_controller():
    starts = []
    for name in (None, "joint_delta"):
        env = Env("pick_place", "panda", controller=name)
        env.reset(options={"split": "val", "index": 3})
        starts.append((dict(env.initial_state), env.data.qpos.copy()))
    assert starts[0][0] == starts[1][0]
    assert np.array_equal(starts[0][1], starts[1][1])


def test_refusals(panda):
    with pytest.raises(UnknownNameError, match="did you mean 'ee_delta'"):
        load_controller("ee_delt", panda)
    with pytest.raises(ConfigError, match="speed_m_s"):
        load_controller("ee_delta", panda, speed=1.0)
    with pytest.raises(EmbodimentError, match="robots of one arm"):
        load_controller("ee_pose", load_embodiment("aloha"))
    with pytest.raises(ConfigError, match="another controller"):
        find_controller(load_embodiment("panda@ee_delta"), "joint_delta")
    changed = load_controller("ee_delta", panda, speed_m_s=0.5).card
    with pytest.raises(EmbodimentMismatchError, match="custom_action"):
        find_controller(changed, None)
    with pytest.raises(EmbodimentError, match="absolute targets"):
        load_controller("joint_delta", load_embodiment("panda@ee_delta"))


# ------------------------------------------------------------------------------------------------------ impedance
def pushed_m(stiffness, force_n=10.0):
    """How far a force along x moves the TCP that is told to stand still, for a stiffness or the position servos."""
    controller = "ee_stiffness" if stiffness else None
    env = Env("pick_place", "panda", controller=controller)
    env.reset(options={"index": 0})
    action = env.frame().state.astype(np.float32)
    if stiffness:
        action = np.concatenate([action, stiffness]).astype(np.float32)
    body = env.model.site_bodyid[env.scene.tcp_site[""]]
    places = []
    for push in (0.0, force_n):
        env.data.xfrc_applied[body, 0] = push
        for _ in range(30):
            env.step(action)
        places.append(env.data.site_xpos[env.scene.tcp_site[""]].copy())
    return places[1] - places[0]


def test_a_force_moves_the_tcp_by_force_over_stiffness():
    soft, stiff, servo = pushed_m((500.0, 100.0)), pushed_m((2500.0, 150.0)), pushed_m(None)
    assert soft[0] == pytest.approx(10 / 500, rel=0.1)
    assert stiff[0] == pytest.approx(10 / 2500, rel=0.1)
    assert np.abs(soft[1:]).max() < 0.15 * soft[0], "and along the force only"
    assert abs(servo[0]) < 0.5 * stiff[0], "control: position servos hardly give way"


def test_stiffness_is_clipped_to_the_card_and_follows_the_chunk_in_time(panda):
    controller = load_controller("ee_stiffness", panda)
    targets, before = random_targets(panda, 3)
    values = controller.from_native(targets, Reference(panda.home_position, before))
    values[:, -2:] = [[10, 1], [1000, 50], [1e6, 1e6]]
    assert controller.stiffness(chunk_of(controller.card, values)).tolist() == [[50, 5], [1000, 50], [3000, 200]]
    env = Env("pick_place", "panda", controller="ee_stiffness")
    env.reset(options={"index": 0})
    state = env.frame().state
    rows = np.array([[*state, 100, 10], [*state, 200, 20]])
    assert env.submit(chunk_of(env.card, rows, 0)).accepted
    assert env._impedance.stiffness(50_000_000) == pytest.approx([100, 10])
    assert env._impedance.stiffness(75_000_000) == pytest.approx([150, 15])
    assert env._impedance.stiffness(900_000_000) == pytest.approx([200, 20])
    env.reset(options={"index": 0})
    assert env._impedance.stiffness(0) == pytest.approx([2500, 150]), "an episode begins with the default"


def test_torques_stay_within_the_motors(panda):
    env = Env("pick_place", "panda", controller="ee_stiffness")
    env.reset(options={"index": 0})
    env.data.qpos[env.scene.joint_qpos[5]] += 0.8  # far off what is commanded
    mujoco.mj_forward(env.model, env.data)
    env.servo(env.start_position)
    limit = env.model.actuator_forcerange[env.scene.actuator[env.scene.arm], 1]
    force = np.abs(env.data.actuator_force[env.scene.actuator[env.scene.arm]])
    assert (force <= limit + 1e-9).all()
    assert force.max() > 0.5 * limit[np.argmax(force)], "control: it does pull hard"
