"""Meshes of a detailed model change what is seen and nothing else; another robot's meshes are refused."""

from __future__ import annotations

import re

import mujoco
import numpy as np
import pytest
from test_sim_models import place, text_of

from robopolicy.embodiment import load_embodiment
from robopolicy.errors import SimulationError
from robopolicy.sim.meshes import AGREEMENT_M, Comparison, add_visual_meshes, mesh_model
from robopolicy.sim.real_models import REAL_MODELS, find_files, load_real_model

WEDGE = """v 0 0 0
v 0.06 0 0
v 0 0.05 0
v 0 0 0.04
f 1 3 2
f 1 2 4
f 1 4 3
f 2 3 4
"""
POSE = "pos='0.02 -0.01 0.03' quat='0.9 0.1 -0.3 0.2'"


def detailed_xarm7(folder, *, longer_m=0.0):
    """A menagerie of one robot: ours under the names used there, with a wedge on two links and on each finger."""
    text = text_of("xarm7").split("-->")[1]
    text = text.replace('name="tcp"', 'name="link_tcp"').replace('name="hand"', 'name="xarm_gripper_base_link"')
    for ours, theirs in (("finger_left", "right_finger"), ("finger_right", "left_finger")):
        text = text.replace(f'"{ours}"', f'"{theirs}"')
    text = re.sub(r"<(tendon|equality|actuator|sensor)>.*?</\1>", "", text, flags=re.DOTALL)
    text = text.replace('<body name="link4" pos="0.0525 0 0"', f'<body name="link4" pos="{0.0525 + longer_m} 0 0"')
    text = text.replace('type="slide"', 'type="slide" ref="0.042"')  # zero is open there
    for body in ("link2", "link6", "left_finger", "right_finger"):
        wedge = f"<geom type='mesh' mesh='wedge' group='2' contype='0' conaffinity='0' {POSE} rgba='0 0 1 1'/>"
        text = re.sub(rf'(<body name="{body}"[^>]*>)', rf"\1{wedge}", text)
    asset = '<compiler meshdir="assets"/><asset><mesh file="wedge.obj" scale="1 1 0.5"/></asset>'
    text = text.replace('<mujoco model="xarm7">', '<mujoco model="xarm7">' + asset)
    place_of = folder / "ufactory_xarm7"
    (place_of / "assets").mkdir(parents=True)
    (place_of / "xarm7.xml").write_text(text)
    (place_of / "assets" / "wedge.obj").write_text(WEDGE)
    return place_of / "xarm7.xml"


def dressed(name="xarm7"):
    spec = mujoco.MjSpec.from_string(text_of(name))
    return spec, add_visual_meshes(spec, load_embodiment(name))


def names(model, kind, count):
    return [getattr(model, kind)(i).name for i in range(count)]


def vertices(model, data, geom):
    mesh = model.geom_dataid[geom]
    start = model.mesh_vertadr[mesh]
    corners = model.mesh_vert[start : start + model.mesh_vertnum[mesh]]
    return corners @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]


def meshes(model):
    return np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH)


def test_without_a_detailed_model_nothing_changes(monkeypatch, tmp_path):
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path))
    spec, found = dressed()
    assert not found
    assert mesh_model(load_embodiment("xarm7")) is None
    assert meshes(spec.compile()).size == 0
    assert find_files("widowx") is None


def test_meshes_stand_where_they_stand_there_in_every_posture(monkeypatch, tmp_path):
    file = detailed_xarm7(tmp_path)
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path / "none") + ":" + str(tmp_path))
    spec, found = dressed()
    assert found
    ours, theirs = spec.compile(), load_real_model("xarm7", [file]).compile()
    assert len(meshes(ours)) == 4
    assert ours.nmesh == 1
    pair, rng = Comparison(ours, theirs, REAL_MODELS["xarm7"]), np.random.default_rng(3)
    for _ in range(10):
        pair.pose(pair.random(rng))
        mine = {ours.body(ours.geom_bodyid[g]).name: vertices(ours, pair.our_data, g) for g in meshes(ours)}
        there = {theirs.body(theirs.geom_bodyid[g]).name: vertices(theirs, pair.their_data, g) for g in meshes(theirs)}
        for a, b in (("link2",) * 2, ("link6",) * 2, ("finger_left", "right_finger"), ("finger_right", "left_finger")):
            moved = there[b] @ pair.rotation.T + pair.translation
            distance = np.linalg.norm(mine[a][:, None] - moved[None], axis=2).min(axis=1)
            assert distance.max() < 1e-6
    assert np.linalg.norm(mine["link2"][0] - mine["link6"][0]) > 0.05  # control: the places differ


def test_only_what_is_drawn_changes(monkeypatch, tmp_path):
    detailed_xarm7(tmp_path)
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path))
    card, ends = load_embodiment("xarm7"), []
    plain, clothed = mujoco.MjSpec.from_string(text_of("xarm7")).compile(), dressed()[0].compile()
    for kind, count in (
        ("joint", plain.njnt),
        ("actuator", plain.nu),
        ("body", plain.nbody),
        ("sensor", plain.nsensor),
    ):
        assert names(plain, kind, count) == names(clothed, kind, count)
    for geom in range(clothed.ngeom):
        wears = clothed.body(clothed.geom_bodyid[geom]).name in ("link2", "link6", "finger_left", "finger_right")
        if clothed.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
            assert clothed.geom_group[geom] == 2
            assert clothed.geom_contype[geom] == clothed.geom_conaffinity[geom] == 0
            assert clothed.geom_rgba[geom].tolist() == [0, 0, 1, 1]
        else:
            assert clothed.geom_group[geom] == (3 if wears else 0)
    assert (plain.body_mass == clothed.body_mass).all()
    assert (plain.body_inertia == clothed.body_inertia).all()
    for model in (plain, clothed):
        data, rng = place(card, model, card.home), np.random.default_rng(5)
        for _ in range(10):
            data.ctrl[:] += rng.uniform(-0.05, 0.05, model.nu)
            mujoco.mj_step(model, data, 20)
        ends.append(np.concatenate([data.qpos, data.qvel]))
    assert (ends[0] == ends[1]).all()


def test_another_robot_is_refused(monkeypatch, tmp_path):
    detailed_xarm7(tmp_path, longer_m=2e-3)
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path))
    with pytest.raises(SimulationError, match=r"another robot than ours.*mm apart.*at most 1 mm.*MENAGERIE_ROOT"):
        dressed()
    (tmp_path / "ufactory_xarm7" / "xarm7.xml").write_text("<mujoco><worldbody/></mujoco>")
    with pytest.raises(SimulationError, match="cannot be used"):
        dressed()
    (tmp_path / "ufactory_xarm7" / "xarm7.xml").write_text("<mujoco")
    with pytest.raises(SimulationError, match="no model of 'xarm7' there"):
        dressed()


@pytest.mark.parametrize("name", sorted(REAL_MODELS))
def test_kinematics_of_the_detailed_model_where_one_is_installed(name):
    files = find_files(name)
    if files is None:
        pytest.skip(f"no detailed model of {name} on this machine: set MENAGERIE_ROOT or install its package")
    real, spec = REAL_MODELS[name], mujoco.MjSpec.from_string(text_of(name))
    theirs = load_real_model(name, files).compile()
    pair, rng = Comparison(spec.compile(), theirs, real), np.random.default_rng(0)
    assert max(pair.distance_m(pair.random(rng)) for _ in range(200)) < AGREEMENT_M
    link = [b for b in spec.bodies if any(j.type == mujoco.mjtJoint.mjJNT_HINGE for j in b.joints)][2]
    link.pos = [*link.pos[:2], link.pos[2] + 2e-3]  # control: two millimetres more show
    pair = Comparison(spec.compile(), theirs, real)
    assert max(pair.distance_m(pair.random(rng)) for _ in range(200)) > AGREEMENT_M
    spec, found = dressed(name)
    assert found
    clothed, wearing = spec.compile(), {b for b, _ in real.bodies.items()}
    assert {clothed.body(clothed.geom_bodyid[g]).name for g in meshes(clothed)} >= wearing
