"""Task ``open_door``: where its handle is, and how its door moves; see also test_sim_furniture."""

import mujoco
import numpy as np
import pytest
from sim_expert_runs import time_when_left

from robopolicy.sim.env import Env


@pytest.fixture(scope="module")
def env():
    return Env("open_door", "panda")


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


def test_a_door_stays_where_it_is_left_and_opens_to_its_stop(env):
    time_when_left(env, "door", 0.3)
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
