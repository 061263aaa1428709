"""Point clouds: on the surfaces they show, cropped, thinned, and a pure function of the instant."""

import dataclasses

import mujoco
import numpy as np
import pytest

from robopolicy.errors import ConfigError, EmbodimentError
from robopolicy.sim.env import Env
from robopolicy.sim.look import mount_pose
from robopolicy.sim.point_cloud import PointCloud, camera_pose, farthest_points, unproject


@pytest.fixture(scope="module")
def env():
    return Env("pick_place", "panda", point_cloud=256)


def off_the_cube_m(env, points):
    """[N] distance of points from the cube's surface."""
    cube = env.data.body("cube")
    local = np.abs((points - cube.xpos) @ cube.xmat.reshape(3, 3))
    half = env.task.cube_size_m / 2
    outside = np.linalg.norm(np.maximum(local - half, 0), axis=1)
    return np.where((local <= half).all(axis=1), (half - local).min(axis=1), outside)


def cube_points(env, name, camera):
    """Pixels of one camera that show the cube, unprojected as if ``camera`` had taken them."""
    env.reset(options={"index": 1})
    if name == "wrist":
        env.data.joint("cube").qpos[:3] = env.data.site_xpos[env.scene.tcp_site[""]] - [0, 0, 0.08]
        mujoco.mj_forward(env.model, env.data)
    view = env._eyes.look(env.data, env.embodiment.camera(name), depth=True, segmentation=True)
    on_cube = view.segmentation.ravel() == env.model.geom("cube").id
    pose = camera_pose(camera, mount_pose(env.scene, env.data, camera))
    return unproject(view.depth, camera, pose)[on_cube]


@pytest.mark.parametrize("name", ["front", "wrist"])
def test_points_of_a_cube_lie_on_its_faces(env, name):
    camera = env.embodiment.camera(name)
    points = cube_points(env, name, camera)
    assert len(points) > 40
    assert off_the_cube_m(env, points).max() < 0.002
    # control: wrong intrinsics, and a camera that is not where the card says
    wide = dataclasses.replace(camera, fovy_deg=camera.fovy_deg * 1.05)
    assert off_the_cube_m(env, cube_points(env, name, wide)).max() > 0.002
    moved = dataclasses.replace(camera, position_m=tuple(np.add(camera.position_m, [0, 0.01, 0])))
    assert off_the_cube_m(env, cube_points(env, name, moved)).max() > 0.002


def test_the_cloud_is_cropped_coloured_and_shows_cube_and_goal(env):
    observation, _ = env.reset(options={"index": 0})
    cloud = observation["point_cloud"]
    assert cloud.shape == (256, 6)
    assert cloud.dtype == np.float32
    lower, upper = np.array(env.embodiment.workspace)
    assert (cloud[:, :3] >= lower - 0.05).all()
    assert (cloud[:, :3] <= upper + 0.05).all()
    assert cloud[:, 3:].min() >= 0
    assert cloud[:, 3:].max() <= 1
    red = (cloud[:, 3] > 0.35) & (cloud[:, 3] > 2 * cloud[:, 4])
    assert off_the_cube_m(env, cloud[red, :3]).max() < 0.003
    assert red.sum() >= 2
    assert len(np.unique(cloud[:, :3], axis=0)) == 256


def test_it_depends_on_the_instant_only(env):
    env.reset(options={"index": 3})
    first = env.frame().point_cloud
    assert np.array_equal(env.frame().point_cloud, first), "drawing twice draws the same"
    env.reset(options={"index": 4})
    other = env.frame().point_cloud
    env.reset(options={"index": 3})
    assert np.array_equal(env.frame().point_cloud, first)
    assert not np.array_equal(other, first)
    env.servo(env.start_position)
    assert not np.array_equal(env.frame().point_cloud, first), "control: another instant draws other points"


def test_farthest_points_cover_more_than_random_ones():
    rng = np.random.default_rng(0)
    crowd = np.concatenate([rng.normal(0, 0.01, (900, 3)), rng.uniform(-1, 1, (100, 3))])

    def uncovered(chosen):
        return np.linalg.norm(crowd[:, None] - crowd[None, chosen], axis=2).min(axis=1).max()

    chosen = farthest_points(crowd, 40)
    assert len(set(chosen.tolist())) == 40
    assert uncovered(chosen) < 0.8 * uncovered(rng.choice(1000, 40, replace=False))


def test_few_points_are_repeated_and_none_are_zeros():
    for sampling in ("farthest", "random"):
        tiny = PointCloud(400, ("front",), (0.3, -0.2, 0.01), (0.7, 0.2, 0.06), sampling)
        env = Env("pick_place", "panda", point_cloud=tiny)
        env.reset(options={"index": 0})
        cloud = env.frame().point_cloud
        assert cloud.shape == (400, 6)
        assert 10 < len(np.unique(cloud, axis=0)) < 400
    nowhere = dataclasses.replace(tiny, lower_m=(5.0, 5.0, 5.0), upper_m=(6.0, 6.0, 6.0))
    assert not Env("pick_place", "panda", point_cloud=nowhere).frame().point_cloud.any()
    many = dataclasses.replace(tiny, points=16)
    assert len(np.unique(Env("pick_place", "panda", point_cloud=many).frame().point_cloud, axis=0)) == 16


def test_refusals():
    card = Env("pick_place", "panda").embodiment
    with pytest.raises(ConfigError, match="at least one point"):
        PointCloud(0)
    with pytest.raises(ConfigError, match="farthest"):
        PointCloud(8, sampling="nearest")
    with pytest.raises(EmbodimentError, match="front"):
        PointCloud(8, ("frnt",)).of(card)
    blind = dataclasses.replace(card, cameras=(card.camera("wrist"),))
    with pytest.raises(ConfigError, match="no camera in the world"):
        PointCloud(8).of(blind)
