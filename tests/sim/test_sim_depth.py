"""Depth and geom ids: units, what is where, one pass for colour and depth."""

import mujoco
import numpy as np
import pytest

from robopolicy.errors import EmbodimentError
from robopolicy.protocols import PolicySpec
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.frame import Modalities
from robopolicy.sim.render import depth_mm
from robopolicy.types import ActionChunk


@pytest.fixture(scope="module")
def env():
    return Env("pick_place", "panda", cameras=("front",), depth=("front", "wrist"), segmentation=("front",))


def test_the_formula_inverts_a_reversed_perspective_buffer():
    near, far = 0.01, 50.0
    metres = np.array([0.01, 0.3, 1.0, 2.345, 40.0])
    buffer = (near * (far - metres) / (metres * (far - near))).astype(np.float32)
    assert depth_mm(buffer, near, far).tolist() == [10, 300, 1000, 2345, 40000]
    assert depth_mm(np.zeros(1, np.float32), near, far) == 0, "nothing drawn"


def test_depth_is_millimetres_to_what_a_ray_hits(env):
    observation, _ = env.reset(options={"index": 0})
    assert env.observation_space.contains(observation)
    depth, ids = observation["depth"]["front"], observation["segmentation"]["front"]
    assert depth.dtype == np.uint16
    assert depth.shape == ids.shape == (96, 96, 1)
    assert ids.dtype == np.int16
    camera = env.embodiment.camera("front")
    number = env.model.camera("front").id
    turn, focal = env.data.cam_xmat[number].reshape(3, 3), camera.intrinsics[0, 0]
    geom = np.zeros((1, 1), np.int32)
    checked = 0
    for row, column in [(20, 40), (40, 48), (60, 30), (80, 70), (50, 90), (30, 20)]:
        local = np.array([(column + 0.5 - 48) / focal, -(row + 0.5 - 48) / focal, -1.0])
        ray = turn @ local
        distance = mujoco.mj_ray(env.model, env.data, env.data.cam_xpos[number], ray, None, 1, -1, geom)
        if ids[row, column, 0] == geom[0, 0]:
            checked += 1
            assert depth[row, column, 0] == pytest.approx(1e3 * distance, abs=2.0), "a ray's parameter is axial depth"
    assert checked >= 5


def test_ids_name_the_geoms_that_are_seen(env):
    env.reset(options={"index": 0})
    frame = env.frame()
    seen = {env.model.geom(int(i)).name for i in np.unique(frame.segmentation["front"]) if i >= 0}
    assert {"table", "cube", "goal", "robot/hand"} <= seen
    cube = frame.segmentation["front"][..., 0] == env.model.geom("cube").id
    colours = frame.image["front"][cube].astype(int)
    assert (colours[:, 0] > colours[:, 1]).all(), "the cube's pixels are red, in the same rows and columns"
    assert not (frame.image["front"][~cube][:, 0].astype(int) > 2 * frame.image["front"][~cube][:, 1]).all()


def test_asking_for_depth_changes_no_colour_and_only_what_is_asked_for_is_drawn(env):
    env.reset(options={"index": 2})
    both = env.frame()
    alone = env.frame(modalities=Modalities(("front",)))
    assert np.array_equal(both.image["front"], alone.image["front"])
    assert alone.depth == alone.segmentation == {}
    assert env.frame(cameras=()).image == {}
    assert set(env.frame(cameras=()).depth) == {"front", "wrist"}
    with pytest.raises(EmbodimentError, match="wrist"):
        Env("pick_place", "panda", depth=("wirst",))


def test_one_update_and_one_pass_serve_colour_and_depth(env, monkeypatch):
    calls = {"update": 0, "render": 0}
    update, render = mujoco.mjv_updateScene, mujoco.mjr_render

    def counted(name, function):
        def run(*arguments):
            calls[name] += 1
            return function(*arguments)

        return run

    monkeypatch.setattr(mujoco, "mjv_updateScene", counted("update", update))
    monkeypatch.setattr(mujoco, "mjr_render", counted("render", render))
    env.frame(modalities=Modalities(("front",), ("front",)))
    assert calls == {"update": 1, "render": 1}
    env.frame(modalities=Modalities(("front",), ("front",), ("front",)))
    assert calls == {"update": 2, "render": 3}, "ids need a pass of their own"


def test_two_scenes_in_one_process_do_not_see_each_others_pictures(env):
    env.reset(options={"index": 0})
    other = Env("pick_place", "panda", cameras=("front",), depth=("front", "wrist"), segmentation=("front",))
    other.reset(options={"index": 1})
    alone, beside = env.frame(), other.frame()
    for _ in range(2):
        again, once_more = env.frame(), other.frame()
        assert np.array_equal(again.image["front"], alone.image["front"])
        assert np.array_equal(again.depth["wrist"], alone.depth["wrist"])
        assert np.array_equal(once_more.image["front"], beside.image["front"])
    assert not np.array_equal(alone.image["front"], beside.image["front"])
    other.close()


def test_a_policy_that_reads_depth_gets_it():
    env, seen = Env("pick_place", "panda"), []

    class Reader:
        spec = PolicySpec(env.embodiment, 2, 1, 1, depth=("wrist",), point_cloud=32)

        def act(self, observation, *, rng, prefix=None, goal=None):
            seen.append(observation)
            card = env.embodiment
            return ActionChunk(observation.state[-1:], int(observation.time_ns[-1]), card.control_dt_s, card.hash)

    run_episode(env, Reader(), split="train", index=0, max_steps=2)
    assert seen[-1].depth["wrist"].shape == (2, 96, 96, 1)
    assert seen[-1].point_cloud.shape == (2, 32, 6)
    assert seen[-1].image == seen[-1].segmentation == {}
