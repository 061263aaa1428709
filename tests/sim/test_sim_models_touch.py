"""What the robots feel: weight at the wrist, pressure at the fingers; and that feeling does not change what happens."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from test_sim_models import ROBOTS, command, model_of, place, text_of

from robopolicy.embodiment import load_embodiment

GRIPPERS = [(name, arm.name) for name in ROBOTS for arm in load_embodiment(name).arms if arm.gripper]
CUBE_M, CUBE_KG = 0.03, 0.05


def prefix_of(name, arm):
    return load_embodiment(name).arm(arm).prefix


@pytest.mark.parametrize("name", ROBOTS)
def test_every_arm_has_its_sensors(name):
    card, model = load_embodiment(name), model_of(name)
    have = {model.sensor(i).name for i in range(model.nsensor)}
    for arm in card.arms:
        want = {arm.prefix + "wrist_force", arm.prefix + "wrist_torque"}
        tips = ("left", "right") if arm.gripper else ("ff", "mf", "rf", "th")
        want |= {f"{arm.prefix}touch_{tip}" for tip in tips}
        assert want <= have


@pytest.mark.parametrize(("name", "arm"), GRIPPERS)
def test_the_wrist_feels_the_weight_beyond_it(name, arm):
    card, model, p = load_embodiment(name), model_of(name), prefix_of(name, arm)
    data = place(card, model, card.home)
    mujoco.mj_step(model, data, 200)
    mujoco.mj_forward(model, data)
    site = model.site(p + "wrist").id
    body = model.site_bodyid[site]
    weight_n = model.body_subtreemass[body] * 9.81
    force = data.site_xmat[site].reshape(3, 3) @ data.sensor(p + "wrist_force").data
    # what the arm does to the hand: it carries the weight, upwards or downwards by the sensor's sign
    assert abs(force[2]) == pytest.approx(weight_n, rel=0.02)
    assert np.abs(force[:2]).max() < 0.02 * weight_n
    # the axes of the sensor are those of the tool centre point
    tcp = data.site_xmat[model.site(p + "tcp").id].reshape(3, 3)
    assert data.site_xmat[site].reshape(3, 3) == pytest.approx(tcp, abs=1e-6)


def with_cube(name, arm):
    """The robot at home and a cube between its open fingers, nothing below it."""
    card, p = load_embodiment(name), prefix_of(name, arm)
    spec = mujoco.MjSpec.from_string(text_of(name))
    spec.option.cone, spec.option.impratio, spec.option.timestep = mujoco.mjtCone.mjCONE_ELLIPTIC, 10, 0.002
    probe = spec.compile()
    home = place(card, probe, card.home)
    site = probe.site(p + "tcp").id
    turn = home.site_xmat[site].reshape(3, 3)
    # a single jaw closes towards the tool centre point, two fingers close around it
    aside = CUBE_M / 2 + 0.001 if p + "finger_left" not in {probe.joint(i).name for i in range(probe.njnt)} else 0.0
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, home.site_xmat[site])
    body = spec.worldbody.add_body(name="cube", pos=home.site_xpos[site] + turn[:, 1] * aside, quat=quaternion)
    body.add_freejoint(name="cube")
    body.add_geom(
        name="cube", type=mujoco.mjtGeom.mjGEOM_BOX, size=[CUBE_M / 2] * 3, mass=CUBE_KG, friction=[1, 0.02, 0.0005],
        condim=4, solref=[0.008, 1],
    )  # fmt: skip
    return card, spec.compile(), p


@pytest.mark.parametrize(("name", "arm"), GRIPPERS)
def test_a_cube_of_three_centimetres_is_held_and_felt_and_let_go(name, arm):
    card, model, p = with_cube(name, arm)
    data = place(card, model, card.home)
    channel, start = card.arm(arm).gripper, data.body("cube").xpos.copy()
    for step in range(300):  # close, while something else holds the cube
        data.ctrl[model.actuator(channel).id] = command(card, model, {**card.home, channel: max(0.0, 1 - step / 200)})[
            channel
        ]
        data.joint("cube").qpos[:3] = start
        data.joint("cube").qvel[:] = 0
        mujoco.mj_step(model, data)
    mujoco.mj_step(model, data, 500)
    mujoco.mj_forward(model, data)
    assert abs(data.body("cube").xpos[2] - start[2]) < 0.006, "the cube slips out"
    left, right = (float(data.sensor(f"{p}touch_{side}").data[0]) for side in ("left", "right"))
    assert left > 2.0
    assert right == pytest.approx(left, rel=0.1)
    data.ctrl[model.actuator(channel).id] = command(card, model, card.home)[channel]
    mujoco.mj_step(model, data, 400)
    assert data.body("cube").xpos[2] < start[2] - 0.1
    assert float(data.sensor(p + "touch_left").data[0]) == 0.0


def test_each_fingertip_of_the_hand_feels_itself():
    card, model = load_embodiment("allegro"), model_of("allegro")
    for finger in ("ff", "mf", "rf", "th"):
        spec = mujoco.MjSpec.from_string(text_of("allegro"))
        home = place(card, model, card.home)
        x, y, z = home.body(finger + "_tip").xpos
        ball = spec.worldbody.add_body(name="ball", pos=[x, y, z + 0.0215])
        ball.add_joint(type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 0, 1])
        ball.add_geom(size=[0.01, 0, 0], mass=0.05)
        pressed = spec.compile()
        data = place(card, pressed, card.home)
        mujoco.mj_step(pressed, data, 300)
        mujoco.mj_forward(pressed, data)
        felt = {f: float(data.sensor(f"touch_{f}").data[0]) for f in ("ff", "mf", "rf", "th")}
        assert felt.pop(finger) > 0.2
        assert max(felt.values()) == 0.0


@pytest.mark.parametrize("name", ROBOTS)
def test_sensors_do_not_change_a_bit_of_the_motion(name):
    card, ends = load_embodiment(name), []
    for sensors in (True, False):
        model = model_of(name, sensors=sensors)
        data, rng = place(card, model, card.home), np.random.default_rng(5)
        for _ in range(20):
            data.ctrl[:] += rng.uniform(-0.02, 0.02, model.nu)
            mujoco.mj_step(model, data, 25)
        ends.append(np.concatenate([data.qpos, data.qvel]))
    assert model.nsensor == 0
    assert (ends[0] == ends[1]).all()
    data.ctrl[0] += 1e-9  # control: the comparison sees the smallest difference
    mujoco.mj_step(model, data)
    assert (ends[0] != np.concatenate([data.qpos, data.qvel])).any()
