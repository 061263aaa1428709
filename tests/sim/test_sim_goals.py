"""Goals of tasks: vector, picture, words; a picture leaves the episode alone and is kept with it."""

import numpy as np
import pytest

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, SimulationError
from robopolicy.sim.collect import collect
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.goal_image import decode_goal_images, encode_goal_images
from robopolicy.sim.task import BaseTask
from robopolicy.sim.tasks.pick_place import INSTRUCTIONS, PickPlace


@pytest.mark.parametrize("task", ["pick_place", "play"])
def test_a_picture_of_the_goal_leaves_the_episode_untouched(task):
    env = Env(task, "panda", split="val")

    def run(camera):
        expert, rows = env.task.expert(env), []

        class Look:
            def cameras(self, step):
                return ()

            def step(self, frame, chunk, joint_command):
                if camera and step_of["n"] % 7 == 0:
                    env.goal_image(camera)
                step_of["n"] += 1
                rows.append(np.concatenate([env.data.qpos, env.data.qvel, env.data.mocap_pos.ravel()]))

        step_of = {"n": 0}
        return run_episode(env, expert, split="val", index=2, record=Look(), max_steps=45).outcome(), np.stack(rows)

    looked, rows = run("front")
    alone, wanted = run(None)
    assert looked == alone
    assert np.array_equal(rows, wanted)


@pytest.mark.parametrize("task", ["pick_place", "play"])
def test_the_picture_shows_the_goal(task):
    import mujoco

    env = Env(task, "panda", split="val")
    env.reset(options={"index": 3})
    now, goal = env.picture("front"), env.goal_image("front")
    assert goal.shape == (96, 96, 3)
    assert goal.dtype == np.uint8
    assert not np.array_equal(now, goal)
    assert np.array_equal(env.picture("front"), now)
    env.task.show_goal(env.data)
    mujoco.mj_forward(env.model, env.data)
    assert np.array_equal(env.picture("front"), goal)
    assert env.task.success(env.data)


@pytest.mark.parametrize(
    ("task", "robot"), [("peg_insert", "panda"), ("peg_insert", "ur5e_2f85"), ("wipe_force", "panda")]
)
def test_the_picture_shows_the_tool_where_it_has_to_be(task, robot):
    import mujoco

    env = Env(task, robot, split="val")
    for index in range(8):
        env.reset(options={"index": index})
        if index == 0:
            now, goal = env.picture("front"), env.goal_image("front")
            assert not np.array_equal(now, goal)
            assert np.array_equal(env.picture("front"), now)
        site, (x, y, yaw) = env.scene.tcp_site[""], env.task._pose
        before = env.data.site_xpos[site].copy()
        env.task.show_goal(env.data)
        mujoco.mj_kinematics(env.model, env.data)
        there, axis = env.data.site_xpos[site], env.data.site_xmat[site].reshape(3, 3)[:, 0]
        np.testing.assert_allclose(there[:2], (x, y), atol=1e-3)
        np.testing.assert_allclose(axis[:2], (np.cos(yaw), np.sin(yaw)), atol=1e-2)
        if task == "peg_insert":
            np.testing.assert_allclose(there, env.task.goal(env.data)[:3], atol=1e-3)
        assert before[2] - there[2] > 0.05  # control: it was not there before


def test_the_goal_vector_is_where_the_cube_ends():
    env = Env("pick_place", "ur5e_2f85", split="val")
    result = run_episode(env, env.task.expert(env), split="val", index=1)
    assert result.success_at_end
    goal = dict(zip(env.task.goal_names, env.task.goal(env.data), strict=True))
    seen = dict(zip(env.task.environment_state_names, env.task.observe(env.data), strict=True))
    assert set(goal) <= set(seen), "a goal speaks of what is observed"
    assert all(abs(goal[n] - seen[n]) < env.task.tolerance_m for n in goal)
    observation = env.observe([env.frame()])
    assert np.array_equal(observation.goal, env.task.goal(env.data))


def test_words_differ_between_episodes_and_not_between_runs():
    env = Env("pick_place", "panda")

    def told(index):
        env.reset(options={"index": index})
        return env.task.language()

    first = [told(i) for i in range(20)]
    assert first == [told(i) for i in range(20)]
    assert set(first) == set(INSTRUCTIONS)


def test_a_task_without_a_picture_says_so():
    class Plain(PickPlace):
        show_goal = BaseTask.show_goal

    env = Env(Plain(), "panda")
    with pytest.raises(SimulationError, match="goal vector"):
        env.goal_image("front")


def test_pictures_are_kept_with_the_episode(tmp_path):
    done = collect("play", "panda", 2, tmp_path / "store", goal_images=("front", "wrist"), workers=1)
    env = Env("play", "panda", split="train")
    with EpisodeStore.open(done.path) as store:
        for number in range(2):
            metadata = store.info(number)["metadata"]
            env.reset(options={"index": metadata["index"]})
            found = decode_goal_images(metadata)
            assert set(found) == {"front", "wrist"}
            for name, picture in found.items():
                assert np.array_equal(picture, env.goal_image(name))
            goal = dict(zip(env.task.goal_names, env.task.goal(env.data).tolist(), strict=True))
            assert metadata["goal"] == goal
        with pytest.raises(DataError, match="top"):
            decode_goal_images(metadata, ["top"])
    with pytest.raises(DataError, match="goal_images"):
        decode_goal_images({"index": 0})
    with pytest.raises(DataError, match="other settings"):
        collect("play", "panda", 3, tmp_path / "store", workers=1)


def test_encoding_keeps_every_bit():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(decode_goal_images({"goal_image": encode_goal_images({"a": picture})})["a"], picture)


def test_free_play_is_collected_without_words(tmp_path):
    settings = {"style": "play", "goals": 2}
    done = collect("play", "ur5e_2f85", 1, tmp_path / "store", task_parameters=settings, workers=1)
    with EpisodeStore.open(done.path) as store:
        info = store.info(0)
        assert info["success"]
        assert info["language"] == ""
        assert not [n for n in store.environment_state_names if n.startswith("wanted")]
        assert "goal" not in info["metadata"]
        assert store.attributes["provenance"]["collect"]["task_parameters"] == settings
