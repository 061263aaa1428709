"""Card and MJCF of every simulated robot describe the same machine, and the machine stands, moves and feels."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

import mujoco
import numpy as np
import pytest

import robopolicy.sim  # noqa: F401 - picks the GL backend before mujoco is used
from robopolicy.control.kinematics import Kinematics
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.registry import registry
from robopolicy.rotations import quaternion_to_matrix
from robopolicy.sim.registration import simulated_embodiments

ROBOTS = tuple(simulated_embodiments())
ARMS = [(name, arm.name) for name in ROBOTS for arm in load_embodiment(name).arms if arm.chain]

# kg: panda, Gaz et al. 2019 and the vendor's hand; UR5e and 2F-85, the manuals; the others, the makers' URDF files
PUBLISHED_MASS_KG = {
    "panda": 17.45,
    "ur5e_2f85": 22.625,
    "xarm7": 12.0685,
    "so101": 0.632,
    "aloha": 2 * 3.7419,
    "allegro": 0.9549,
}
TORQUE_N_M = {
    "panda": [87] * 4 + [12] * 3,
    "ur5e_2f85": [150] * 3 + [28] * 3,
    "xarm7": [50] * 2 + [30] * 3 + [20] * 2,
    "so101": [2.94] * 5,
    "aloha": [10, 20, 15, 2, 5, 1] * 2,
    "allegro": [0.7] * 16,
}


def text_of(name: str) -> str:
    package, _, file = str(registry("embodiment").config(name)["simulation"]["model"]).partition(":")
    return resources.files(package).joinpath(file).read_text()


@cache
def model_of(name: str, *, sensors: bool = True) -> mujoco.MjModel:
    """The robot alone, with the options of a scene."""
    text = text_of(name)
    if not sensors:
        text = re.sub(r"<sensor>.*?</sensor>", "", text, flags=re.DOTALL)
    spec = mujoco.MjSpec.from_string(text)
    spec.option.timestep = float(registry("embodiment").config(name)["simulation"]["physics_dt_s"])
    spec.option.cone, spec.option.impratio = mujoco.mjtCone.mjCONE_ELLIPTIC, 10
    spec.worldbody.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_BOX, size=[1, 1, 0.02], pos=[0, 0, -0.02], friction=[1, 0.01, 0.0002]
    )
    return spec.compile()


def channels(card: Embodiment) -> list[str]:
    """Names of the channels that are joints by themselves."""
    grippers = {arm.gripper for arm in card.arms}
    return [name for name in card.joints.names if name not in grippers]


def fingers(card: Embodiment, model: mujoco.MjModel) -> dict[str, list[str]]:
    """Gripper channel -> its joints."""
    known = {model.joint(i).name for i in range(model.njnt)}
    pairs = {a.gripper: [f"{a.prefix}finger_{side}" for side in ("left", "right")] for a in card.arms if a.gripper}
    return {channel: pair if pair[0] in known else [channel] for channel, pair in pairs.items()}


def command(card: Embodiment, model: mujoco.MjModel, position: dict[str, float]) -> dict[str, float]:
    """Channel values -> control values: rad, and the position of one finger."""
    control = dict(position)
    for channel, joints in fingers(card, model).items():
        low, high = model.joint(joints[0]).range
        control[channel] = low + position[channel] * (high - low)
    return control


def place(card: Embodiment, model: mujoco.MjModel, position: dict[str, float]) -> mujoco.MjData:
    """Robot and servos at channel values."""
    data, control = mujoco.MjData(model), command(card, model, position)
    behind = fingers(card, model)
    for name, value in control.items():
        data.ctrl[model.actuator(name).id] = value
        for joint in behind.get(name, [name]):
            data.joint(joint).qpos[0] = value
    mujoco.mj_forward(model, data)
    return data


def base_of(name: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    entry = registry("embodiment").config(name)["simulation"].get("bases", {}).get(arm)
    if entry is None:
        return np.zeros(3), np.eye(3)
    return np.asarray(entry["position_m"], float), quaternion_to_matrix(np.asarray(entry["quaternion"], float))


def largest_tcp_error(name: str, arm: str, model: mujoco.MjModel, count: int) -> tuple[float, float]:
    """Largest distance (m) and rotation-matrix entry between the card's chain and the site, in the world."""
    card = load_embodiment(name)
    kinematics, prefix = Kinematics(card.single_arm(arm)), card.arm(arm).prefix
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    origin, turn = base_of(name, arm)
    site, distance_m, rotation = model.site(prefix + "tcp").id, 0.0, 0.0
    for _ in range(count):
        q = rng.uniform(kinematics.lower, kinematics.upper)
        for link, value in zip(card.arm(arm).chain, q, strict=True):
            data.joint(link.joint).qpos[0] = value
        mujoco.mj_kinematics(model, data)
        p, matrix = kinematics.forward(q)
        distance_m = max(distance_m, float(np.linalg.norm(origin + turn @ p - data.site_xpos[site])))
        rotation = max(rotation, float(np.abs(turn @ matrix - data.site_xmat[site].reshape(3, 3)).max()))
    return distance_m, rotation


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_tcp_of_card_and_model_agree(name, arm):
    model = model_of(name)
    assert max(largest_tcp_error(name, arm, model, 100)) < 1e-6
    spec = mujoco.MjSpec.from_string(text_of(name))  # control: half a millimetre in one link shows
    chain = load_embodiment(name).arm(arm).chain
    link = next(b for b in spec.bodies if any(j.name == chain[3].joint for j in b.joints))
    link.pos = [link.pos[0] + 5e-4, *link.pos[1:]]
    assert largest_tcp_error(name, arm, spec.compile(), 5)[0] > 1e-4


@pytest.mark.parametrize("name", ROBOTS)
def test_names_ranges_and_torques_are_those_of_card_and_maker(name):
    card, model = load_embodiment(name), model_of(name)
    actuators = [model.actuator(i).name for i in range(model.nu)]
    assert actuators == list(card.joints.names)
    for channel in card.joints.channels:
        if channel.name in channels(card):
            assert model.joint(channel.name).range == pytest.approx((channel.lower, channel.upper), abs=1e-9)
    torque = [float(model.actuator(n).forcerange[1]) for n in channels(card)]
    assert torque == pytest.approx(TORQUE_N_M[name])
    for actuator in range(model.nu):  # a position servo: force = kp (ctrl - q) - kv dq
        gain, bias = model.actuator_gainprm[actuator], model.actuator_biasprm[actuator]
        assert bias[1] == -gain[0] < 0
        assert bias[2] < 0


@pytest.mark.parametrize("name", ROBOTS)
def test_masses_are_published_and_inertias_are_possible(name):
    model = model_of(name)
    assert model.body_subtreemass[0] == pytest.approx(PUBLISHED_MASS_KG[name], rel=0.02)
    heavy = model.body_inertia[model.body_mass > 0]
    assert (heavy > 0).all()
    low, middle, high = np.sort(heavy, axis=1).T
    assert (low + middle >= high * (1 - 1e-9)).all()  # no density of matter has another tensor


@pytest.mark.parametrize("name", ROBOTS)
def test_it_stands_still_and_does_not_sag(name):
    card, model = load_embodiment(name), model_of(name)
    data = place(card, model, card.home)
    assert data.ncon == 0, "parts touch at home"
    sites = [s for i in range(model.nsite) if (s := model.site(i).name).endswith(("tcp", "_tip"))]
    before = np.array([data.site(s).xpos for s in sites])
    mujoco.mj_step(model, data, round(1.0 / model.opt.timestep))
    moved_m = np.linalg.norm([data.site(s).xpos for s in sites] - before, axis=1).max()
    assert moved_m < 2e-3
    assert np.abs(data.qvel).max() < 1e-3
    assert (model.body_gravcomp[model.body_mass > 0][1:] == 1).all()


@pytest.mark.parametrize("name", ROBOTS)
def test_it_follows_a_ramp_and_survives_being_thrown_about(name):
    card, model = load_embodiment(name), model_of(name)
    data = place(card, model, card.home)
    lead_s = {
        model.actuator(i).name: -float(model.actuator_biasprm[i, 2] / model.actuator_gainprm[i, 0])
        for i in range(model.nu)
    }
    steps, names = round(0.5 / model.opt.timestep), channels(card)
    room = {n: 0.1 if card.home[n] + 0.1 < model.joint(n).range[1] else -0.1 for n in names}
    for step in range(1, steps + 1):
        for n in names:
            value = card.home[n] + room[n] * step / steps
            data.ctrl[model.actuator(n).id] = value + lead_s[n] * room[n] / 0.5
        mujoco.mj_step(model, data)
    behind = max(abs(data.joint(n).qpos[0] - card.home[n] - room[n]) for n in names)
    assert behind < 6e-3, "tracking lags behind"
    rng = np.random.default_rng(1)
    for _ in range(20):  # targets that no limiter would let through
        for actuator in range(model.nu):
            low, high = model.joint(
                fingers(card, model).get(model.actuator(actuator).name, [model.actuator(actuator).name])[0]
            ).range
            data.ctrl[actuator] = rng.uniform(low, high)
        mujoco.mj_step(model, data, round(0.1 / model.opt.timestep))
        assert np.isfinite(data.qpos).all()
        assert not data.warning[mujoco.mjtWarning.mjWARN_BADQACC].number


@pytest.mark.parametrize("name", ROBOTS)
def test_neighbours_do_not_touch_but_table_and_objects_do(name):
    card, model = load_embodiment(name), model_of(name)
    kin, aff = model.geom_contype, model.geom_conaffinity
    robot = [i for i in range(model.ngeom) if model.geom(i).name != "table"]
    assert all((kin[i] & 1) or (aff[i] & 1) for i in robot), "an object of the default bits passes through"
    weld, parent = model.body_weldid, model.body_parentid
    for a in robot:
        for b in robot:
            p, q = weld[model.geom_bodyid[a]], weld[model.geom_bodyid[b]]
            if p != q and weld[parent[q]] == p:
                pair = model.geom(a).name, model.geom(b).name
                if "." not in pair[0] or pair[0].split(".")[0] == pair[1].split(".")[0]:
                    assert not kin[a] & aff[b] | kin[b] & aff[a], pair
    if name == "aloha":
        left, right = model.geom("left.finger_left").id, model.geom("right.upper_arm").id
        assert kin[left] & aff[right], "the arms pass through each other"
    if name == "allegro":
        tip, other, palm = (model.geom(n).id for n in ("ff_tip", "th_tip", "palm"))
        assert kin[tip] & aff[other]
        assert kin[tip] & aff[palm] | kin[palm] & aff[tip]
    assert len(card.cameras) >= 1


@pytest.mark.parametrize("name", ROBOTS)
def test_no_mesh_and_a_source_in_the_mjcf(name):
    text = text_of(name)
    assert not re.search(r"<mesh|\.stl|\.obj", text)
    assert "published" in text.split("-->")[0]
