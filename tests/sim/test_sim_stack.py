"""Task ``stack`` and its expert."""

import mujoco
import numpy as np
import pytest
from sim_expert_runs import Changed, jaw_open

from robopolicy.errors import ConfigError
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.noise import ActionNoise
from robopolicy.sim.task import load_task
from robopolicy.sim.tasks.tabletop import touching


@pytest.fixture(scope="module")
def env():
    return Env("stack", "panda")


@pytest.mark.parametrize("name", ["panda", "ur5e_2f85", "xarm7"])
def test_expert_stacks_with_and_without_noise(name):
    env = Env("stack", name)
    expert, noise = env.task.expert(env), ActionNoise(position_m=0.004)
    clean = [run_episode(env, expert, split="val", index=i) for i in range(3)]
    noisy = [run_episode(env, expert, split="val", index=i, perturb=noise.on(env.embodiment)) for i in range(3)]
    assert all(r.success_at_end for r in clean + noisy)
    assert all(60 < r.length < 140 for r in clean + noisy)


def test_it_needs_its_jaw(env):
    open_jaw = Changed(env.task.expert(env), jaw_open)
    assert not run_episode(env, open_jaw, split="val", index=0).success_instant


def settle(env, offset, opening=1.0, seconds=1.5):
    """Time (s) at which the task is done with red at an offset from its place on green, None if it is not."""
    env.reset(options={"index": 3})
    env.task.show_goal(env.data)
    env.data.joint("red").qpos[:3] += offset
    command = env.embodiment.home_position.copy()
    for side in ("left", "right"):
        env.data.joint("robot/finger_" + side).qpos[0] = 0.04 * opening
    command[-1] = opening
    env._servo_position = env.scene.control(command)
    for _ in range(round(seconds * 100)):
        env.servo(command)
        if env.success():
            return env.now_ns / 1e9
    return None


def test_success_is_on_top_released_and_still_for_a_second(env):
    assert settle(env, [0, 0, 0.0005]) == pytest.approx(1.0, abs=0.1)
    assert settle(env, [0.015, 0, 0.0005]) is not None
    # controls: each part of the condition on its own
    assert settle(env, [0.019, 0, 0.0005]) is None, "too far from the middle, although it stays there"
    assert settle(env, [0.10, 0, -0.0395]) is None, "beside it"
    assert settle(env, [0, 0, 0.0005], opening=0.3) is None, "jaw not open"
    assert settle(env, [0, 0, 0.0005], seconds=0.9) is None, "not long enough"


def test_a_touched_cube_is_not_released(env):
    env.reset(options={"index": 3})
    red = {env.model.geom("red").id}
    beside = env.scene.tcp_position(env.data) + np.array(
        [0.0, 0.04 + 0.012 + 0.02, 0.0]
    )  # outside the open left finger
    for gap_m, touched in ((-0.001, True), (0.002, False)):
        env.task._red.place(env.data, beside + np.array([0.0, gap_m, 0.0]), 0.0)
        mujoco.mj_forward(env.model, env.data)
        assert touching(env.scene, env.data, red) is touched
    assert not touching(env.scene, env.data, {env.model.geom("table").id})


def test_goal_is_where_red_ends(env):
    expert = env.task.expert(env)
    for index in range(3):
        env.reset(options={"split": "val", "index": index})
        goal = env.task.goal(env.data)
        result = run_episode(env, expert, split="val", index=index)
        assert result.success_at_end
        red = env.frame().environment_state[:3]
        assert np.linalg.norm(red - goal) < 0.015
        env.task.show_goal(env.data)
        assert env.task.observe(env.data)[:3] == pytest.approx(goal, abs=1e-6)
    assert len(env.task.goal_names) == len(goal)


@pytest.mark.parametrize(("yaw_rad", "way"), [(0.7, 1.0), (-0.7, -1.0), (0.9, -1.0)])
def test_it_takes_the_nearer_pair_of_faces(env, yaw_rad, way):
    expert = env.task.expert(env)
    env.reset(options={"index": 1})
    env.task._red.place(env.data, (0.5, 0.0, 0.02), yaw_rad)
    chunk = expert.act(env.observe([env.frame()]))
    cos, sin = chunk.values[0, env.embodiment.action.select("ee_rotation")[:2]]
    assert np.sign(np.arctan2(sin, cos)) == way


def test_a_region_without_room_is_refused():
    with pytest.raises(ConfigError, match="too small"):
        load_task("stack", "panda", region_upper_m=[0.40, -0.10])
