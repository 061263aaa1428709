"""Task ``open_drawer``: where its handle is, and how its drawer moves; see also test_sim_furniture."""

import mujoco
import numpy as np
import pytest
from sim_expert_runs import time_when_left

from robopolicy.errors import ConfigError
from robopolicy.sim.env import Env
from robopolicy.sim.task import load_task


@pytest.fixture(scope="module")
def env():
    return Env("open_drawer", "panda")


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


def test_a_drawer_stays_where_it_is_left(env):
    time_when_left(env, "drawer", 0.08)
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
