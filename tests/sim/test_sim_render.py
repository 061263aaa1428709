"""Cameras: what they see, what the cheap profile switches off, what is said where OpenGL is missing."""

import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from robopolicy.errors import EmbodimentError, MissingDependencyError, SimulationError
from robopolicy.sim import gl, render
from robopolicy.sim.env import Env


@pytest.fixture(scope="module")
def env():
    return Env("pick_place", "panda", cameras=("front", "wrist"))


def count(image, channel, others):
    """Pixels in which one colour clearly prevails."""
    image = image.astype(int)
    return int(((image[..., channel] > 90) & (image[..., channel] > 2 * image[..., others].max(axis=-1))).sum())


@pytest.mark.parametrize("name", ["panda", "ur5e_2f85"])
def test_front_camera_sees_cube_and_goal_wherever_they_are(name):
    env = Env("pick_place", name)
    for index in range(12):
        env.reset(options={"index": index})
        image = env.picture("front")
        assert image.shape == (96, 96, 3)
        assert image.dtype == np.uint8
        assert count(image, 0, [1, 2]) >= 12, f"cube of episode {index} is hidden"
        assert count(image, 1, [0, 2]) >= 40, f"goal of episode {index} is hidden"


@pytest.mark.parametrize("name", ["panda", "ur5e_2f85"])
def test_wrist_camera_sees_between_the_fingers(name):
    env = Env("pick_place", name)
    env.reset(options={"index": 0})
    before = env.picture("wrist")
    at = env.data.site_xpos[env.scene.tcp_site[""]]
    env.data.joint("cube").qpos[:3] = at
    mujoco.mj_kinematics(env.model, env.data)
    between = env.picture("wrist")
    red = count(between, 0, [1, 2])
    assert red > 300, "a cube between the fingers fills a good part of the picture"
    assert red > 3 * count(before, 0, [1, 2])


def test_row_0_is_the_top(env):
    env.reset(options={"index": 0})
    image = env.picture("front").astype(int)
    # the floor beyond the table is bluish and at the top, the table is brownish and at the bottom
    assert image[0, 0, 2] > image[0, 0, 0]
    assert image[-1, 0, 0] > image[-1, 0, 2]


def test_frames_hold_the_cameras_asked_for(env):
    observation, _ = env.reset(options={"index": 0})
    assert set(observation["image"]) == {"front", "wrist"}
    assert env.observation_space.contains(observation)
    assert env.frame(cameras=()).image == {}
    assert set(env.frame(cameras=("wrist",)).image) == {"wrist"}
    with pytest.raises(EmbodimentError, match="front"):
        Env("pick_place", "panda", cameras=("frnt",))


def test_pictures_repeat_bit_for_bit_and_another_env_shares_the_context(env):
    env.reset(options={"index": 3})
    first = env.picture("front")
    other = Env("pick_place", "panda")
    other.reset(options={"index": 3})
    assert np.array_equal(other.picture("front"), first)
    other.close()
    assert np.array_equal(env.picture("front"), first)
    env.reset(options={"index": 4})
    assert not np.array_equal(env.picture("front"), first)


def test_fast_profile_is_cheap_and_stock_is_not():
    fast, stock = (Env("pick_place", "panda", render_profile=p) for p in ("fast", "stock"))
    for env in (fast, stock):
        env.picture("wrist")
    assert fast.model.vis.quality.shadowsize == 0
    assert fast.model.vis.quality.offsamples == 0
    assert stock.model.vis.quality.shadowsize > 0
    assert stock.model.vis.quality.offsamples > 0
    for flag in render.FAST_FLAGS:
        assert fast._renderer.flags[flag] == 0
        assert stock._renderer.flags[flag] == 1
    with pytest.raises(SimulationError, match="stock"):
        Env("pick_place", "panda", render_profile="nice")


def test_missing_opengl_names_the_packages(monkeypatch):
    def broken(*_):
        raise OSError("libEGL.so.1: cannot open shared object file")

    monkeypatch.setattr(render, "_context", {})
    monkeypatch.setattr("mujoco.gl_context.GLContext", broken)
    with pytest.raises(MissingDependencyError, match=r"apt-get install .*libegl1 .*libosmesa6") as caught:
        Env("pick_place", "panda").picture("front")
    assert "MUJOCO_GL" in str(caught.value)


def test_backend_is_chosen_before_mujoco_and_the_users_choice_wins():
    code = (
        "import sys, os, robopolicy.sim;"
        "print(os.environ.get('MUJOCO_GL'), 'mujoco' in sys.modules, 'torch' in sys.modules)"
    )

    def run(**extra):
        clean = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"}
        done = subprocess.run([sys.executable, "-c", code], env={**clean, **extra}, capture_output=True, text=True)
        return done.stdout.split()

    assert run() == [gl.available_backends()[0], "False", "False"]
    assert run(MUJOCO_GL="osmesa")[0] == "osmesa"


def longest_gap(env):
    """Rows between red pixels in the middle column of the wrist's picture of a cube held a little low."""
    env.reset(options={"index": 0})
    env.data.joint("cube").qpos[:7] = [*env.data.site_xpos[env.scene.tcp_site[""]], 1, 0, 0, 0]
    mujoco.mj_kinematics(env.model, env.data)
    column = env.picture("wrist")[:, 48].astype(int)
    red = np.flatnonzero((column[:, 0] > 60) & (column[:, 0] > 2 * column[:, 1]))
    return int(np.diff(red).max()), len(red)


def test_near_plane_does_not_cut_what_the_wrist_camera_holds():
    env = Env("pick_place", "panda")
    whole = longest_gap(env)
    assert whole[0] == 1
    assert whole[1] > 20
    # control: a near plane behind the cube's edge opens it up
    env.model.vis.map.znear = 0.09
    assert longest_gap(env) != whole
