"""Task ``in_hand_rotate`` and its expert."""

import math

import mujoco
import numpy as np
import pytest
from sim_expert_runs import Changed
from sim_joint_policies import Joints, Recorded

from robopolicy.errors import ConfigError, SimulationError
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.record import DemonstrationRecorder
from robopolicy.sim.task import load_task


@pytest.fixture(scope="module")
def env():
    return Env("in_hand_rotate", "allegro", sensors=("touch",))


class Touches:
    """Which fingertips touched, at every control step."""

    def __init__(self):
        self.rows = []

    def cameras(self, step):
        return ()

    def step(self, frame, chunk, joint_command):
        self.rows.append(np.asarray(frame.sensor["touch"]).mean(axis=0))


def test_expert_turns_both_ways_and_null_and_random_do_not(env):
    expert = env.task.expert(env)
    results, turns = [], []
    for index in range(8):
        results.append(run_episode(env, expert, split="val", index=index))
        turns.append(env.task._turn_rad)
    solved = [r for r in results if r.success_at_end]
    assert len(solved) >= 7  # a free object: which one is dropped depends on the version of the physics
    assert min(turns) < -0.6
    assert max(turns) > 0.6
    assert all(r.missing_setpoints == 0 for r in results)
    assert all(r.metrics["yaw_error_rad"] < 0.2 < r.metrics["turn_rad"] for r in solved)
    still = Joints(env.embodiment, 8, lambda q, rng: q)
    wild = Joints(env.embodiment, 8, lambda q, rng: q + rng.uniform(-0.5, 0.5, len(q)))
    for policy in (still, wild):
        assert not any(run_episode(env, policy, split="val", index=i, max_steps=60).success_at_end for i in range(3))


def test_it_takes_both_fingers(env):
    thumb = [env.embodiment.action.index(f"thj{i}") for i in range(4)]

    def no_thumb(values, embodiment):
        values[:, thumb] = env.start_position[thumb]
        return values

    policy = Changed(env.task.expert(env), no_thumb)
    assert not any(run_episode(env, policy, split="val", index=i, max_steps=80).success_at_end for i in range(4))


def test_a_long_turn_is_made_in_several_strokes():
    env = Env(
        load_task("in_hand_rotate", "allegro", min_turn_rad=2.75, max_turn_rad=2.8), "allegro", sensors=("touch",)
    )
    expert = env.task.expert(env)
    tried = [Touches() for _ in range(4)]
    solved = [run_episode(env, expert, split="val", index=i, record=t).success_at_end for i, t in enumerate(tried)]
    assert sum(solved) >= 3
    touches = tried[solved.index(True)]
    names = list(env.embodiment.sensors) or ["touch_ff", "touch_mf", "touch_rf", "touch_th"]
    force_n = np.array(touches.rows)
    assert force_n.shape[1] == 4, names
    first, middle, ring, thumb = (force_n > 0.05).T
    pinched = middle & thumb
    assert (np.diff(pinched.astype(int)) == 1).sum() >= 2, "pinched at least twice"
    assert not first.any()
    assert not ring.any()
    # control: an expert whose stops are so wide that it never has to let go within the reach of its fingers
    short = Env(
        load_task("in_hand_rotate", "allegro", min_turn_rad=0.6, max_turn_rad=0.7), "allegro", sensors=("touch",)
    )
    touches = Touches()
    run_episode(short, short.task.expert(short), split="val", index=1, record=touches)
    pinched = (np.array(touches.rows)[:, [1, 3]] > 0.05).all(axis=1)
    assert (np.diff(pinched.astype(int)) == 1).sum() == 1


def turned(env, yaw_off_rad=0.0, lean_rad=0.0, lift_m=0.0):
    """The goal's picture, changed; whether it counts, and as what failure."""
    env.reset(options={"split": "val", "index": 1})
    env.task.show_goal(env.data)
    pose = env.data.joint("object").qpos
    goal = math.atan2(*env.task.goal(env.data)[::-1]) + yaw_off_rad
    turn, lean = [math.cos(goal / 2), 0, 0, math.sin(goal / 2)], [math.cos(lean_rad / 2), math.sin(lean_rad / 2), 0, 0]
    mujoco.mju_mulQuat(pose[3:], np.array(turn), np.array(lean))
    pose[2] += lift_m
    return env.task.success(env.data), env.task.failure(env.data)


def test_success_is_a_yaw_within_the_tolerance_and_upright(env):
    assert turned(env) == (True, None)
    assert turned(env, yaw_off_rad=0.19) == (True, None)
    assert turned(env, yaw_off_rad=-0.19) == (True, None)
    assert turned(env, lean_rad=0.3) == (True, None)
    # controls: each part of the condition on its own
    assert turned(env, yaw_off_rad=0.21) == (False, None)
    assert turned(env, yaw_off_rad=-0.21) == (False, None)
    assert turned(env, yaw_off_rad=math.pi) == (False, None)
    assert turned(env, lean_rad=0.7) == (False, "dropped")
    assert turned(env, lift_m=-0.03) == (False, "dropped")


def test_it_has_to_stay_for_half_a_second(env):
    turned(env)
    times = [env.now_ns / 1e9 for _ in range(60) if (env.servo(env.start_position), env.success())[1]]
    assert times[0] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("push_m_s", "word"), [(0.0, None), (0.8, "dropped")])
def test_an_object_pushed_off_ends_the_episode(env, push_m_s, word):
    env.reset(options={"index": 0})
    env.data.joint("object").qvel[:3] = [0.0, push_m_s, 0.0]
    for _ in range(30):
        _, reward, ended, _, info = env.step(env.start_position)
        if ended:
            break
    assert info["termination"] == word
    assert reward == 0.0


def test_language_goal_and_state_belong_together(env):
    ways = set()
    for index in range(8):
        env.reset(options={"index": index})
        seen = dict(zip(env.task.environment_state_names, env.frame().environment_state, strict=True))
        goal = env.task.goal(env.data)
        assert goal == pytest.approx([seen["goal_yaw.cos"], seen["goal_yaw.sin"]])
        yaw = math.atan2(seen["object_yaw.sin"], seen["object_yaw.cos"])
        turn = math.remainder(math.atan2(goal[1], goal[0]) - yaw, 2 * math.pi)
        assert 0.6 <= abs(turn) <= 2.8
        way = "counter-clockwise" if turn > 0 else "clockwise"
        ways.add(way)
        assert f"degrees {way}," in env.task.language()
        assert f"about {10 * round(math.degrees(abs(turn)) / 10)} degrees" in env.task.language()
    assert ways == {"clockwise", "counter-clockwise"}


def test_recorded_actions_succeed_again_and_not_towards_another_goal(env):
    recorder = DemonstrationRecorder()
    assert run_episode(env, env.task.expert(env), split="val", index=3, record=recorder).success_at_end
    actions = recorder.streams()["action"]
    assert run_episode(env, Recorded(env.embodiment, actions), split="val", index=3).success_at_end
    turns = {}
    for index in range(12):
        env.reset(options={"split": "val", "index": index})
        turns[index] = env.task._turn_rad
    other = next(i for i, turn in turns.items() if abs(turn - turns[3]) > 1.0)
    assert not run_episode(
        env, Recorded(env.embodiment, actions), split="val", index=other, max_steps=60
    ).success_at_end


def test_expert_begins_anew_with_each_episode(env):
    shared = env.task.expert(env)
    run_episode(env, shared, split="train", index=9, max_steps=17)
    after = run_episode(env, shared, split="train", index=4, max_steps=15).outcome()
    alone = run_episode(env, env.task.expert(env), split="train", index=4, max_steps=15).outcome()
    assert after == alone


def test_wrong_parameters_and_robots_are_refused():
    with pytest.raises(ConfigError, match="turn does not fit"):
        load_task("in_hand_rotate", "allegro", min_turn_rad=0.1)
    with pytest.raises(ConfigError, match="turn does not fit"):
        load_task("in_hand_rotate", "allegro", max_turn_rad=3.5)
    with pytest.raises(ConfigError, match="not offered on 'aloha'"):
        load_task("in_hand_rotate", "aloha")
    with pytest.raises(SimulationError, match="cannot be done with 'panda'"):
        Env(load_task("in_hand_rotate"), "panda")
