"""Task play: four things, goals over all of them, words for what has to change, and play without resets."""

import numpy as np
import pytest

from robopolicy.errors import ConfigError
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.record import DemonstrationRecorder
from robopolicy.sim.task import load_task
from robopolicy.sim.tasks.play import SUB_GOALS
from robopolicy.sim.tasks.play_scene import LAYOUT
from robopolicy.subject import BaselinePolicy

WORDS = {
    "cube_on_green": ("put the cube on the blue disc", "put the cube on the green disc"),
    "drawer_open": ("close the drawer", "open the drawer"),
    "lamp_on": ("press the button", "press the button"),
    "slider_left": ("move the slider to the right", "move the slider to the left"),
}


@pytest.fixture(scope="module")
def env():
    return Env("play", "panda", split="val")


def start(env, index):
    env.reset(options={"split": "val", "index": index})
    return dict(env.initial_state)


@pytest.mark.parametrize("name", ["panda", "ur5e_2f85"])
def test_expert_solves_and_null_does_not(name):
    env = Env("play", name)
    expert = env.task.expert(env)
    results = [run_episode(env, expert, split="val", index=i) for i in range(12)]
    assert sum(r.success_at_end for r in results) >= 11
    assert {r.metrics["sub_goals_reached"] for r in results if r.success_at_end} == {4.0}
    assert max(r.length for r in results if r.success_at_end) < 350
    assert all(r.missing_setpoints == 0 for r in results)
    null = BaselinePolicy("null")(env)
    idle = [run_episode(env, null, split="val", index=i, max_steps=25) for i in range(8)]
    assert not any(r.success_instant for r in idle)
    assert all(r.metrics["sub_goals_reached"] < 4 for r in idle)


def test_a_goal_differs_from_the_start_and_the_words_say_in_what(env):
    goals, counts = set(), set()
    for index in range(120):
        drawn = start(env, index)
        now, wanted = ([int(drawn[f"{kind}.{n}"]) for n in SUB_GOALS] for kind in ("start", "wanted"))
        differ = [n for n, a, b in zip(SUB_GOALS, now, wanted, strict=True) if a != b]
        assert differ
        told = env.task.language()
        for name, value in zip(SUB_GOALS, wanted, strict=True):
            assert (WORDS[name][value] in told) == (name in differ), (told, differ)
        assert (" and " in told) == (len(differ) > 1)
        goals.add(tuple(wanted))
        counts.add(len(differ))
        assert np.array_equal(env.task.goal(env.data)[:4], np.float32(wanted))
    assert len(goals) == 16
    assert counts == {1, 2, 3, 4}


def test_all_four_have_to_be_as_wanted(env):
    for index in range(6):
        start(env, index)
        assert not env.task.success(env.data)
        env.task.show_goal(env.data)
        assert env.task.success(env.data)
        assert env.metrics() == {"sub_goals_reached": 4.0}
    wanted = dict(zip(env.task.goal_names, env.task.goal(env.data), strict=True))
    kept = env.data.qpos.copy(), env.data.mocap_pos.copy()

    def wrong_cube():
        env.data.joint("cube").qpos[:2] = LAYOUT.discs[1 - int(wanted["cube_on_green"])]

    def wrong_lamp():
        lit = env.model.body("lamp_lit").mocapid[0]
        env.data.mocap_pos[lit, 2] = -0.3 if wanted["lamp_on"] else LAYOUT.lamp[2]

    def half(name, travel_m):
        env.data.joint(name).qpos[0] = travel_m / 2

    for spoil in (
        wrong_cube,
        wrong_lamp,
        lambda: half("drawer", LAYOUT.drawer_travel_m),
        lambda: half("slider", LAYOUT.slider_travel_m),
    ):
        env.data.qpos[:], env.data.mocap_pos[:] = kept
        assert env.task.success(env.data)
        spoil()
        assert not env.task.success(env.data)
        assert env.metrics() == {"sub_goals_reached": 3.0}


def test_the_button_toggles_once_per_press(env):
    start(env, 0)
    cap = env.data.joint("button")

    def lit():
        return env.task.observe(env.data)[env.task.environment_state_names.index("lamp_on")]

    before = lit()
    for depth_m, changes in ((0.006, 0), (0.012, 1), (0.015, 0), (0.006, 0), (0.012, 0), (0.001, 0), (0.012, 1)):
        held = lit()
        cap.qpos[0] = depth_m
        env.task.tick(env.data)
        assert (lit() != held) == bool(changes), depth_m
    assert lit() == before


def test_the_furniture_stays_where_it_is_put(env):
    drawn = start(env, 4)
    for _ in range(100):
        env.servo(env.start_position)
    assert env.data.joint("drawer").qpos[0] == pytest.approx(drawn["drawer_m"], abs=2e-4)
    assert env.data.joint("slider").qpos[0] == pytest.approx(drawn["slider_m"], abs=2e-4)
    assert abs(env.data.joint("button").qpos[0]) < 3e-3
    assert env.data.joint("cube").qpos[:2] == pytest.approx([drawn["cube.x"], drawn["cube.y"]], abs=1e-3)


def test_play_goes_from_goal_to_goal_without_a_reset():
    task = load_task("play", "panda", style="play", goals=3)
    env = Env(task, "panda", split="val")
    expert, recorder = env.task.expert(env), DemonstrationRecorder()
    result = run_episode(env, expert, split="val", index=1, record=recorder)
    assert result.success_at_end
    assert result.metrics == {"goals_reached": 3.0}
    assert env.task.language() == ""
    assert not [n for n in task.environment_state_names if n.startswith("wanted")]
    rows = recorder.streams()["environment_state"]
    assert len(rows) == result.length > 150
    places = [task.environment_state_names.index(n) for n in ("drawer_m", "slider_m", "lamp_on")]
    assert np.abs(np.diff(rows[:, places[:2]], axis=0)).max() < 0.03, "nothing jumps"
    cube = [task.environment_state_names.index(f"cube_position.{a}") for a in "xyz"]
    assert np.abs(np.diff(rows[:, cube], axis=0)).max() < 0.05
    again = run_episode(env, expert, split="val", index=1)
    assert again.outcome() == result.outcome(), "the goals are a function of the index"
    null = run_episode(env, BaselinePolicy("null")(env), split="val", index=1, max_steps=25)
    assert null.metrics == {"goals_reached": 0.0}


def test_an_unknown_style_is_refused():
    with pytest.raises(ConfigError, match="goal"):
        load_task("play", "panda", style="free")
    with pytest.raises(ConfigError, match="goals >= 1"):
        load_task("play", "panda", goals=0)
