"""The environment: Gymnasium's contract, and an episode as a pure function of its index."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import robopolicy.sim  # noqa: F401 - registers the ids
from robopolicy.errors import ConfigError, SimulationError, UnknownNameError
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.task import Task, load_task


@pytest.fixture(scope="module")
def env():
    return Env("pick_place", "panda")


def hold_action(env):
    state = env.frame().state
    return state.astype(np.float32)


def trace(env, index, steps=12, split="test"):
    """Everything that a short, moving episode shows."""
    observation, info = env.reset(options={"split": split, "index": index})
    rows = [np.concatenate([observation["state"], observation["environment_state"]])]
    action = hold_action(env)
    for i in range(steps):
        action[0] += 0.004
        action[9] = i % 2
        observation, *_ = env.step(action)
        rows.append(np.concatenate([observation["state"], observation["environment_state"]]))
    return np.stack(rows), info["initial_state"]


def test_gymnasium_checker_and_registration():
    made = gymnasium.make("robopolicy/pick_place-ur5e_2f85")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(made.unwrapped, skip_render_check=True)
    made.close()


def test_an_episode_depends_on_nothing_that_ran_before(env):
    first, start = trace(env, 7)
    fresh, fresh_start = trace(Env("pick_place", "panda"), 7)
    run_episode(env, env.task.expert(env), split="train", index=3, max_steps=45)  # ends in mid-grasp
    again, again_start = trace(env, 7)
    assert start == fresh_start == again_start
    assert np.array_equal(first, fresh)
    assert np.array_equal(first, again)
    # control: other indices and other splits are other episodes
    assert not np.array_equal(first, trace(env, 8)[0])
    assert not np.array_equal(first, trace(env, 7, split="val")[0])


def test_expert_result_does_not_depend_on_order(env):
    expert = env.task.expert(env)
    forth = [run_episode(env, expert, split="test", index=i).outcome() for i in (0, 1, 2)]
    back = [run_episode(env, expert, split="test", index=i).outcome() for i in (2, 1, 0)]
    assert forth == back[::-1]
    assert forth[0] != forth[1]


def test_starts_are_spread_and_respect_the_distance(env):
    starts = []
    for index in range(200):
        env.reset(options={"index": index})
        starts.append(list(env.initial_state.values()))
    cube_x, cube_y, yaw, goal_x, goal_y = np.array(starts).T
    assert np.hypot(cube_x - goal_x, cube_y - goal_y).min() >= 0.12
    for values, low, high in ((cube_x, 0.38, 0.62), (cube_y, -0.18, 0.18), (yaw, -np.pi / 4, np.pi / 4)):
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high


def test_reset_without_index_and_with_seed(env):
    env.reset(seed=5)
    by_seed = dict(env.initial_state)
    env.reset(options={"index": 5})
    assert env.initial_state == by_seed
    env.reset()
    assert env.initial_state != by_seed
    with pytest.raises(SimulationError, match="unknown reset options"):
        env.reset(options={"idx": 1})
    with pytest.raises(SimulationError, match="no such split"):
        env.reset(options={"split": "dev"})


def test_time_and_ticks(env):
    env.reset(options={"index": 0})
    assert env.now_ns == 0
    env.servo(env.embodiment.home_position)
    assert env.now_ns == 10_000_000
    assert env.data.time == pytest.approx(0.01)
    env.step(hold_action(env))
    assert env.frame().time_ns == 60_000_000


def test_holding_still_solves_nothing_and_ends_at_the_horizon(env):
    env.reset(options={"index": 1})
    action, done = hold_action(env), False
    start = env.robot_state().position
    for _ in range(env.task.horizon):
        assert not done
        _, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        assert reward == 0.0
    assert truncated
    assert info["termination"] == "timeout"
    assert np.abs(env.robot_state().position - start).max() < 2e-3, "gravity pulls the arm down"


def test_unstable_physics_ends_the_episode_and_says_so(env):
    env.reset(options={"index": 1})
    env.data.qvel[:] = 1e9
    *_, terminated, _, info = env.step(hold_action(env))
    assert terminated
    assert info["termination"] == "unstable"
    env.reset(options={"index": 1})
    env.data.qvel[0] = np.nan
    with pytest.raises(SimulationError, match="unstable"):
        env.servo(env.embodiment.home_position)
    env.reset(options={"index": 1})  # and nothing of it stays
    assert env.step(hold_action(env))[4]["termination"] is None


def test_frame_is_measured_and_consistent(env):
    env.reset(options={"index": 2})
    frame = env.frame()
    assert frame.state.dtype == frame.environment_state.dtype == frame.joint_position.dtype == np.float32
    assert frame.state.shape == (10,)
    assert frame.environment_state.shape == (len(env.task.environment_state_names),)
    assert frame.state[:3] == pytest.approx(env.data.site_xpos[env.scene.tcp_site[""]], abs=1e-5)
    named = dict(zip(env.task.environment_state_names, frame.environment_state, strict=True))
    assert named["cube_position.x"] == pytest.approx(env.initial_state["cube.x"], abs=1e-6)
    assert named["goal_position.y"] == pytest.approx(env.initial_state["goal.y"], abs=1e-6)
    assert named["cube_yaw.sin4"] == pytest.approx(np.sin(4 * env.initial_state["cube.yaw_rad"]), abs=1e-5)


def test_task_protocol_and_its_parameters():
    assert isinstance(load_task("pick_place"), Task)
    assert load_task("pick_place", horizon=9).horizon == 9
    with pytest.raises(ConfigError, match="tolerance_m"):
        load_task("pick_place", tolerance=0.1)
    with pytest.raises(ConfigError, match="min_distance_m"):
        load_task("pick_place", min_distance_m=0.4)
    with pytest.raises(UnknownNameError, match="pick_place"):
        load_task("pick_plaice")
