"""Task ``open_drawer`` and its expert."""

import mujoco
import numpy as np
import pytest
from sim_expert_runs import Changed, jaw_open

from robopolicy.errors import ConfigError
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.noise import ActionNoise
from robopolicy.sim.task import load_task

ARMS = ("panda", "ur5e_2f85", "xarm7")


@pytest.fixture(scope="module")
def env():
    return Env("open_drawer", "panda")


@pytest.mark.parametrize("name", ARMS)
def test_expert_opens_with_and_without_noise(name):
    env = Env("open_drawer", name)
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


@pytest.mark.parametrize("opening_m", [0.0, 0.07, 0.2])
def test_the_handle_is_where_it_is_said_to_be(env, opening_m):
    for index in range(3):
        env.reset(options={"index": index})
        env.data.joint("drawer").qpos[0] = opening_m
        mujoco.mj_forward(env.model, env.data)
        seen = dict(zip(env.task.environment_state_names, env.task.observe(env.data), strict=True))
        handle = [seen[f"handle_position.{a}"] for a in "xyz"]
        assert handle == pytest.approx(env.data.geom("drawer_handle").xpos, abs=1e-6)
        assert seen["drawer.opening_m"] == pytest.approx(opening_m)
        yaw = np.arctan2(seen["cabinet_yaw.sin"], seen["cabinet_yaw.cos"])
        assert yaw == pytest.approx(env.initial_state["cabinet.yaw_rad"], abs=1e-6)


def wait(env, opening_m, seconds=0.7):
    """Time (s) at which the task is done with the drawer left at an opening."""
    env.reset(options={"index": 0})
    env.data.joint("drawer").qpos[0] = opening_m
    for _ in range(round(seconds * 100)):
        env.servo(env.embodiment.home_position)
        if env.success():
            return env.now_ns / 1e9
    return None


def test_success_is_fifteen_centimetres_for_half_a_second(env):
    assert wait(env, 0.151) == pytest.approx(0.5)
    assert wait(env, 0.149) is None
    assert wait(env, 0.151, seconds=0.49) is None


def test_a_drawer_stays_where_it_is_left(env):
    wait(env, 0.08)
    assert env.data.joint("drawer").qpos[0] == pytest.approx(0.08, abs=1e-4)
    assert abs(env.data.joint("drawer").qvel[0]) < 1e-6
    # and moves when it is pulled by more than its friction
    force = env.data.joint("drawer").qfrc_applied
    for newton, moved in ((1.5, False), (4.0, True)):
        force[0] = newton
        before = float(env.data.joint("drawer").qpos[0])
        for _ in range(30):
            env.servo(env.embodiment.home_position)
        assert bool(env.data.joint("drawer").qpos[0] > before + 0.01) is moved
    force[0] = 0.0


def test_goal_opens_the_drawer(env):
    env.reset(options={"index": 0})
    assert not env.task.success(env.data)
    goal = env.task.goal(env.data)
    env.task.show_goal(env.data)
    assert env.task.success(env.data)
    assert env.data.joint("drawer").qpos[0] == pytest.approx(goal[0])


def test_the_hand_turns_either_way(env):
    """A cabinet turned to one side or the other: the nearer of the two turns that fit the bar."""
    expert, ways = env.task.expert(env), {}
    for index in range(12):
        env.reset(options={"index": index})
        chunk = expert.act(env.observe([env.frame()]))
        cos, sin = chunk.values[0, env.embodiment.action.select("ee_rotation")[:2]]
        ways[np.sign(env.initial_state["cabinet.yaw_rad"])] = np.sign(np.arctan2(sin, cos))
    assert ways == {1.0: -1.0, -1.0: 1.0}


def test_a_place_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="no such place"):
        load_task("open_drawer", "panda", region_upper_m=[0.40, -0.30])
