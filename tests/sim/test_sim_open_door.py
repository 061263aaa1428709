"""Task ``open_door`` and its expert."""

import mujoco
import numpy as np
import pytest
from sim_expert_runs import Changed, jaw_open

from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.noise import ActionNoise

ARMS = ("panda", "ur5e_2f85", "xarm7")


@pytest.fixture(scope="module")
def env():
    return Env("open_door", "panda")


@pytest.mark.parametrize("name", ARMS)
def test_expert_opens_with_and_without_noise(name):
    env = Env("open_door", name)
    expert, noise = env.task.expert(env), ActionNoise(position_m=0.004)
    clean = [run_episode(env, expert, split="val", index=i) for i in range(4)]
    noisy = [run_episode(env, expert, split="val", index=i, perturb=noise.on(env.embodiment)) for i in range(4)]
    assert all(r.success_at_end for r in clean + noisy)
    assert all(r.length < 80 for r in clean)
    assert max(r.peak_force_n for r in clean) < 40


def test_it_needs_its_jaw(env):
    open_jaw = Changed(env.task.expert(env), jaw_open)
    results = [run_episode(env, open_jaw, split="val", index=i, max_steps=90) for i in range(3)]
    assert not any(r.success_instant for r in results)


@pytest.mark.parametrize("angle_rad", [0.0, 0.4, 1.2])
def test_handle_and_hinge_are_where_they_are_said_to_be(env, angle_rad):
    for index in range(3):
        env.reset(options={"index": index})
        env.data.joint("door").qpos[0] = angle_rad
        mujoco.mj_forward(env.model, env.data)
        seen = dict(zip(env.task.environment_state_names, env.task.observe(env.data), strict=True))
        bar = env.model.geom("door_handle").size
        top = env.data.geom("door_handle").xpos + np.array([0, 0, bar[1] + bar[0]])
        assert [seen[f"handle_position.{a}"] for a in "xyz"] == pytest.approx(top, abs=1e-6)
        assert [seen[f"hinge_position.{a}"] for a in "xy"] == pytest.approx(
            env.data.joint("door").xanchor[:2], abs=1e-6
        )
        yaw = np.arctan2(seen["door_yaw.sin"], seen["door_yaw.cos"])
        x_axis = env.data.body("door").xmat.reshape(3, 3)[:, 0]
        assert yaw == pytest.approx(np.arctan2(x_axis[1], x_axis[0]), abs=1e-6)
        assert seen["door.angle_rad"] == pytest.approx(angle_rad)


def wait(env, angle_rad, seconds=0.7):
    """Time (s) at which the task is done with the door left at an angle."""
    env.reset(options={"index": 0})
    env.data.joint("door").qpos[0] = angle_rad
    for _ in range(round(seconds * 100)):
        env.servo(env.embodiment.home_position)
        if env.success():
            return env.now_ns / 1e9
    return None


def test_success_is_an_angle_for_half_a_second(env):
    assert wait(env, 0.605) == pytest.approx(0.5)
    assert wait(env, 0.595) is None
    assert wait(env, 0.605, seconds=0.49) is None


def test_a_door_stays_where_it_is_left_and_opens_to_its_stop(env):
    wait(env, 0.3)
    door = env.data.joint("door")
    assert door.qpos[0] == pytest.approx(0.3, abs=1e-4)
    for torque_n_m, moved in ((0.05, False), (0.5, True)):
        before = float(door.qpos[0])
        door.qfrc_applied[0] = torque_n_m
        for _ in range(200):
            env.servo(env.embodiment.home_position)
        assert bool(door.qpos[0] > before + 0.05) is moved
    assert door.qpos[0] == pytest.approx(1.2, abs=0.05)
    door.qfrc_applied[0] = 0.0


def test_goal_opens_the_door(env):
    env.reset(options={"index": 0})
    assert not env.task.success(env.data)
    goal = env.task.goal(env.data)
    env.task.show_goal(env.data)
    assert env.task.success(env.data)
    assert env.data.joint("door").qpos[0] == pytest.approx(goal[0])
