"""push_t: exact overlap, pushes as predicted, two ways by a coin, the condition."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.errors import ConfigError
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.task import load_task
from robopolicy.sim.tasks.push_t_plan import Detours, PushPlanner
from robopolicy.sim.tasks.push_t_shape import Pose, Tee

TEE = Tee(0.03)
PLACE = st.builds(Pose, st.floats(-0.1, 0.1), st.floats(-0.1, 0.1), st.floats(-4, 4))


@pytest.fixture(scope="module")
def env():
    return Env("push_t", "panda")


def covered(tee, pose, points):
    """bool [n]: world points [n, 2] inside the T."""
    c, s = math.cos(pose.yaw), math.sin(pose.yaw)
    body = (points - [pose.x, pose.y]) @ np.array([[c, -s], [s, c]])
    return np.any([(np.abs(body - middle) <= half).all(axis=1) for middle, half in (tee.bar, tee.stem)], axis=0)


def test_centre_of_mass_is_the_origin_and_overlap_has_its_closed_form():
    weights = [4 * half[0] * half[1] for _, half in (TEE.bar, TEE.stem)]
    assert np.allclose(sum(w * box[0] for w, box in zip(weights, (TEE.bar, TEE.stem), strict=True)), 0)
    assert sum(weights) == pytest.approx(TEE.area_m2)
    here, u = Pose(0.4, -0.1, 0.7), TEE.unit_m
    assert TEE.overlap(here, here) == pytest.approx(1)
    assert TEE.overlap(here, Pose(0.6, -0.1, 0.7)) == 0
    for shift in (0.004, 0.011, 0.025):  # across the stem: a strip of width shift is lost from bar and stem
        x, y = here.to_world(np.array([shift, 0.0]))
        assert TEE.overlap(here, Pose(x, y, 0.7)) == pytest.approx(1 - 4 * u * shift / (7 * u * u))


@given(PLACE, PLACE)
def test_overlap_is_symmetric_and_equal_to_a_count_of_points(a, b):
    share = TEE.overlap(a, b)
    assert 0 <= share <= 1 + 1e-12
    assert share == pytest.approx(TEE.overlap(b, a), abs=1e-9)
    centre = np.array([a.x, a.y])
    points = centre + np.random.default_rng(0).uniform(-0.09, 0.09, (20_000, 2))  # the farthest corner is at 81 mm
    counted = (covered(TEE, a, points) & covered(TEE, b, points)).mean() * 0.18**2 / TEE.area_m2
    assert share == pytest.approx(counted, abs=0.05)  # four standard deviations of the count


def planner_for(env, turn_radius_m):
    task = env.task
    lower, upper = (np.array(corner[:2]) for corner in env.embodiment.workspace)
    return PushPlanner(
        task.tee,
        task.target,
        tool_m=0.008,
        turn_radius_m=turn_radius_m,
        region_lower_m=lower,
        region_upper_m=upper,
    )


def test_pushes_end_where_the_plan_says(env):
    """Every first push of five episodes; the control is a plan for a T that turns far more easily."""

    def misses(plan_radius_m):
        found = []
        for index in range(5):
            expert = env.task.expert(env)
            expert._planner = planner_for(env, plan_radius_m)
            seen = {"push": None, "miss_m": None}

            class Watch:
                def cameras(self, step):
                    return ()

                def step(self, frame, chunk, joint_command, expert=expert, seen=seen):
                    if seen["push"] is None:
                        seen["push"] = expert._plan
                    elif expert._plan is not seen["push"] and seen["miss_m"] is None:
                        pose, goal = env.task.pose(env.data), seen["push"].subgoal
                        turn = math.remainder(pose.yaw - goal.yaw, 2 * math.pi)
                        seen["miss_m"] = math.hypot(pose.x - goal.x, pose.y - goal.y, 0.05 * turn)

            run_episode(env, expert, split="val", index=index, record=Watch(), max_steps=150)
            found.append(seen["miss_m"] if seen["miss_m"] is not None else 0.1)
        return float(np.median(found))

    assert misses(env.task.turn_radius_m) < 0.005
    assert misses(0.015) > 0.01


def test_a_coin_decides_between_equal_ways():
    env = Env("push_t_detour", "panda")
    expert, ends = env.task.expert(env), []

    class Last:
        def cameras(self, step):
            return ()

        def step(self, frame, chunk, joint_command):
            self.y = float(frame.state[1])

    for index in range(8):
        watch = Last()
        run_episode(env, expert, split="val", index=index, record=watch, max_steps=11)
        ends.append(watch.y)
    assert min(np.abs(ends)) > 0.025, "nobody goes between"
    assert 1 <= sum(y > 0 for y in ends) <= 7
    # control: with the coin held the side is always the same
    sides = set()
    for index in range(3):
        watch = Last()
        expert._next_ns, expert._coin, expert._plan = 0, True, None
        run_episode(env, expert, split="val", index=index, record=watch, max_steps=11)
        sides.add(watch.y > 0)
    assert len(sides) == 1


def test_the_expert_begins_anew_with_each_episode(env):
    shared, outcomes = env.task.expert(env), []
    for index in (4, 9, 2):
        expert = env.task.expert(env)
        alone = run_episode(env, expert, split="val", index=index, max_steps=60).outcome()
        assert run_episode(env, shared, split="val", index=index, max_steps=60).outcome() == alone
        outcomes.append(alone)
    assert len({str(outcome) for outcome in outcomes}) == 3


def test_detours_keep_clear_of_the_t():
    detours, rng = Detours(TEE, 0.012), np.random.default_rng(0)
    free = [p for p in rng.uniform(-0.15, 0.15, (60, 2)) if not detours.inside(p)]
    blocked = 0
    for start, end in itertools.pairwise(free):
        if detours.free(start, end):
            continue
        blocked += 1
        for length, first in detours.around(start, end):
            assert length < 1
            assert detours.free(start, first)
            assert length > np.linalg.norm(end - start)
    assert blocked > 5


def test_success_is_an_overlap_that_lasts(env):
    for shift_m, done in ((0.0, True), (0.004, True), (0.007, False)):
        env.reset(options={"split": "val", "index": 0})
        target = env.task.target
        env.task.place(env.data, Pose(target.x + shift_m, target.y, target.yaw))
        for tick in range(30):
            env.servo(env.start_position)
            assert env.success() == (done and tick >= 19)
        overlap = env.metrics()["max_overlap"]
        assert overlap == pytest.approx(env.task.tee.overlap(env.task.pose(env.data), target), abs=1e-6)
        assert (overlap >= 0.9) == done


def test_the_figures_begin_anew(env):
    env.reset(options={"split": "val", "index": 0})
    env.task.place(env.data, env.task.target)
    env.servo(env.start_position)
    assert env.metrics()["max_overlap"] > 0.99
    env.reset(options={"split": "val", "index": 1})
    assert env.metrics()["max_overlap"] < 0.6


def test_a_task_that_begins_done_is_refused():
    with pytest.raises(ConfigError, match="largest_overlap"):
        load_task("push_t", "panda", largest_overlap=0.95)
