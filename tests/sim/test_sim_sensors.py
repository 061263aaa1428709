"""Force and touch histories: names, widths, rate, what they measure, and that they cost nothing unasked."""

import mujoco
import numpy as np
import pytest

from robopolicy.errors import SimulationError
from robopolicy.protocols import PolicySpec
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.sensors import SENSOR_HISTORY, SensorBank, sensor_channels
from robopolicy.types import ActionChunk

ROBOT = "xarm7"


@pytest.fixture(scope="module")
def env():
    return Env("pick_place", ROBOT, sensors=("wrench", "touch"))


class Reader:
    """Holds still and keeps what it is shown."""

    def __init__(self, env, sensors):
        self.spec = PolicySpec(env.embodiment, 2, 1, 1, sensors=sensors)
        self.seen = []

    def act(self, observation, *, rng, prefix=None, goal=None):
        self.seen.append(observation)
        card = self.spec.embodiment
        return ActionChunk(observation.state[-1:], int(observation.time_ns[-1]), card.control_dt_s, card.hash)


def test_channels_are_found_by_name(env):
    wrench, address = sensor_channels(env.model, "wrench")
    assert wrench == tuple(f"wrist_{kind}.{axis}" for kind in ("force", "torque") for axis in "xyz")
    assert len(set(address.tolist())) == 6
    assert sensor_channels(env.model, "touch")[0] == ("touch_left", "touch_right")
    with pytest.raises(SimulationError, match="did you mean 'wrench'"):
        sensor_channels(env.model, "wrnch")
    bare = mujoco.MjModel.from_xml_string("<mujoco><worldbody/></mujoco>")
    with pytest.raises(SimulationError, match="wrist_force and wrist_torque"):
        SensorBank(bare, ("wrench",))


def test_two_arms_have_twelve_channels():
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body name='robot/left'><geom size='.1'/><site name='robot/left.wrist'/></body>"
        "<body name='robot/right'><geom size='.1'/><site name='robot/right.wrist'/></body></worldbody><sensor>"
        + "".join(
            f"<{kind} name='robot/{side}.wrist_{kind}' site='robot/{side}.wrist'/>"
            for side in ("left", "right")
            for kind in ("force", "torque")
        )
        + "</sensor></mujoco>"
    )
    names, address = sensor_channels(model, "wrench")
    assert names[::3] == ("left.wrist_force.x", "left.wrist_torque.x", "right.wrist_force.x", "right.wrist_torque.x")
    assert address.tolist() == list(range(12))


def test_shapes_in_frame_space_and_observation(env):
    observation, _ = env.reset(options={"index": 0})
    assert {k: v.shape for k, v in observation["sensor"].items()} == {
        "wrench": (SENSOR_HISTORY, 6),
        "touch": (SENSOR_HISTORY, 2),
    }
    assert env.observation_space.contains(observation)
    frames = [env.frame(), env.frame()]
    seen = env.observe(frames, sensors=("wrench",))
    assert seen.sensor["wrench"].shape == (2, SENSOR_HISTORY, 6)
    assert seen.sensor["wrench"].dtype == np.float32
    assert set(seen.sensor) == {"wrench"}


def test_the_history_is_the_last_samples_oldest_first_at_500_hz(env):
    env.reset(options={"index": 0})
    first = env.frame().sensor["wrench"]
    assert (first == first[0]).all(), "at the start the whole history is the present"
    wanted, address = [], sensor_channels(env.model, "wrench")[1]
    step = mujoco.mj_step
    position = env.robot_state().position.copy()
    every = round(1 / (500 * env.model.opt.timestep))
    for _tick in range(4):
        position[1] += 0.002
        for _ in range(env._substeps):
            env.data.ctrl[env.scene.actuator] = env.scene.control(position)
            step(env.model, env.data)
            env.sensors.sample(env.data)
            wanted.append(env.data.sensordata[address].copy())
    kept = np.array(wanted[every - 1 :: every][-SENSOR_HISTORY:], np.float32)
    assert np.array_equal(env.frame().sensor["wrench"], kept)
    assert len(np.unique(kept[:, 0])) > 5, "control: the samples differ, so order matters"


def test_a_robot_at_rest_carries_its_hand_and_fingers_feel_what_they_press(env):
    env.reset(options={"index": 0})
    for _ in range(100):
        env.servo(env.start_position)
    frame = env.frame()
    hand = env.model.body_subtreemass[env.model.site_bodyid[env.model.site("robot/wrist").id]]
    rotation = env.data.site_xmat[env.model.site("robot/wrist").id].reshape(3, 3)
    force = rotation @ frame.sensor["wrench"][-1, :3].astype(float)
    assert force == pytest.approx([0, 0, hand * 9.81], abs=0.05), "the wrist carries what is behind it"
    assert frame.sensor["touch"].max() == 0
    expert = env.task.expert(env)
    run_episode(env, expert, split="train", index=0, max_steps=45)
    grasped = env.frame().sensor["touch"]
    assert grasped[-1].min() > 1.0, "both fingers press on the cube"
    assert grasped[-1].max() == pytest.approx(grasped[-1].min(), rel=0.5)


def test_a_policy_that_reads_a_sensor_gets_it_and_the_next_one_does_not():
    env = Env("pick_place", ROBOT)
    reader = Reader(env, ("touch",))
    run_episode(env, reader, split="train", index=0, max_steps=3)
    assert reader.seen[-1].sensor["touch"].shape == (2, SENSOR_HISTORY, 2)
    assert env.frame().sensor.keys() == {"touch"}
    blind = Reader(env, ())
    run_episode(env, blind, split="train", index=0, max_steps=3)
    assert blind.seen[-1].sensor == {}
    assert env.frame().sensor == {}


def test_unasked_sensors_are_not_computed_and_the_motion_is_the_same(env):
    off = int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
    plain = Env("pick_place", ROBOT)
    assert plain.model.opt.disableflags & off
    assert not env.model.opt.disableflags & off
    results = []
    for each in (plain, env):
        run_episode(each, each.task.expert(each), split="train", index=1, max_steps=40)
        results.append((each.data.qpos.copy(), np.abs(each.data.sensordata).max()))
    assert np.array_equal(results[0][0], results[1][0])
    assert results[0][1] == 0 < results[1][1]
