"""An expert of poses on robots that take joint positions, and the noise of their demonstrations."""

import dataclasses

import numpy as np
import pytest

from robopolicy.control.kinematics import Kinematics
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import SimulationError
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.noise import ActionNoise
from robopolicy.sim.tasks.joint_space_expert import JointSpaceExpert
from robopolicy.types import ActionChunk


def by_joints(name):
    return dataclasses.replace(load_embodiment(name), action_space="joint_position", state_space="joint_position")


def test_five_joints_are_enough():
    env = Env("pick_place", "so101")
    expert = env.task.expert(env)
    results = [run_episode(env, expert, split="val", index=i) for i in range(12)]
    assert sum(r.success_at_end for r in results) >= 11
    assert all(r.missing_setpoints == 0 for r in results)


def test_the_same_expert_drives_a_pose_robot_through_its_joints():
    env = Env("pick_place", by_joints("panda"))
    expert = env.task.expert(env)
    assert isinstance(expert, JointSpaceExpert)
    results = [run_episode(env, expert, split="val", index=i) for i in range(4)]
    assert all(r.success_at_end for r in results)


def test_chunks_are_where_the_pose_expert_wants_the_tcp():
    env = Env("pick_place", "so101")
    env.reset(options={"index": 5})
    expert, kinematics = env.task.expert(env), Kinematics(env.embodiment.single_arm())
    first = expert.act(env.observe([env.frame()]))
    assert first.values.shape == (2, 6)
    low, high = env.embodiment.action.lower, env.embodiment.action.upper
    assert ((first.values >= low) & (first.values <= high)).all()
    _, rotation = kinematics.forward(first.values[0, :5])
    assert rotation[2, 2] == pytest.approx(-1.0, abs=1e-3), "straight down"
    again = env.task.expert(env).act(env.observe([env.frame()]))
    assert np.array_equal(first.values, again.values)


def test_a_robot_of_poses_or_of_two_arms_is_refused():
    for card in (load_embodiment("panda"), load_embodiment("aloha")):
        with pytest.raises(SimulationError, match="one arm"):
            JointSpaceExpert(card, lambda pose_card: None)


@pytest.mark.parametrize("name", ["panda", "so101"])
def test_noise_on_joints_moves_the_tcp_as_it_states(name):
    card = by_joints(name)
    kinematics, home = Kinematics(card.single_arm()), card.home_position
    noise = ActionNoise(position_m=0.003, rotation_rad=0.0, low_share=1.0)
    perturb, rng = noise.on(card), np.random.default_rng(0)
    chunk = ActionChunk(home[None], 0, card.control_dt_s, card.hash)
    drawn = np.array([perturb(chunk, rng).values[0] for _ in range(4000)])
    assert np.array_equal(drawn[:, -1], np.full(len(drawn), home[-1])), "the gripper is left alone"
    moved = kinematics.positions(drawn[:, kinematics.arm]) - kinematics.forward(home[kinematics.arm])[0]
    # a fifth of the room is for what five joints cannot do without turning, and for damping
    assert moved.std(axis=0) == pytest.approx([0.003] * 3, rel=0.2)


def test_a_hand_without_an_arm_is_left_alone():
    card = load_embodiment("allegro")
    chunk = ActionChunk(card.home_position[None], 0, card.control_dt_s, card.hash)
    moved = ActionNoise().on(card)(chunk, np.random.default_rng(0))
    assert np.array_equal(moved.values, chunk.values)
