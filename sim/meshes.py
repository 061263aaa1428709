"""Dresses our mesh-free robots in the meshes of a detailed model, when there is one on this machine.

Only what is seen changes: bodies, joints, actuators, sensors and everything that touches stay ours, and so does every
trajectory. Our shapes move to group 3, which is not drawn; the meshes are in group 2 and touch nothing. Each mesh
stands in our body where it stands in the detailed model at the same posture; before that, both models are compared at
many postures, and one whose tool centre point is more than :data:`AGREEMENT_M` away from ours is refused.
"""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import SimulationError, explain
from robopolicy.sim.real_models import REAL_MODELS, RealModel, find_files, load_real_model

__all__ = ["AGREEMENT_M", "Comparison", "add_visual_meshes", "mesh_model"]

AGREEMENT_M = 1e-3
"""Largest distance between the same point of both models, in any posture, after their bases are put together."""
_FIT_POSTURES = 40


def mesh_model(embodiment: Embodiment) -> mujoco.MjSpec | None:
    """The detailed model of a robot, or None when there is none on this machine.

    Raises:
        SimulationError: files that are there but cannot be read.
    """
    files = find_files(embodiment.name)
    return load_real_model(embodiment.name, files) if files else None


class Comparison:
    """Our model of a robot beside the detailed one, in the same postures.

    Args:
        ours: Compiled model of our MJCF, not attached to a scene.
        theirs: Compiled detailed model.
        real: How the parts of both correspond.

    Raises:
        KeyError: a joint, body or site that one of them does not have.
    """

    def __init__(self, ours: mujoco.MjModel, theirs: mujoco.MjModel, real: RealModel):
        self.ours, self.theirs, self.real = ours, theirs, real
        self.our_data, self.their_data = mujoco.MjData(ours), mujoco.MjData(theirs)
        hinges = [ours.joint(i) for i in range(ours.njnt) if ours.jnt_type[i] == mujoco.mjtJoint.mjJNT_HINGE]
        others = [theirs.joint(real.joints.get(j.name, j.name)) for j in hinges]
        self._our_q = np.array([j.qposadr[0] for j in hinges])
        self._their_q = np.array([j.qposadr[0] for j in others])
        self.range: NDArray[np.float64] = np.array([j.range for j in hinges])
        shift = np.array([j.range.mean() for j in others]) - self.range.mean(axis=1)
        self._shift = shift if real.centred else np.zeros(len(hinges))
        self._sites = [ours.site(name).id for name in real.points]
        sites = {theirs.site(i).name for i in range(theirs.nsite)}
        self._marks = [
            (name in sites, (theirs.site if name in sites else theirs.body)(name).id, np.array(offset))
            for name, offset in real.points.values()
        ]
        self.rotation, self.translation = np.eye(3), np.zeros(3)
        self._align()

    def pose(self, hinges: NDArray[np.float64]) -> None:
        """Put both into one posture. ``hinges`` [n] rad; fingers that slide are open in both."""
        ours, theirs = self.our_data, self.their_data
        slides = self.ours.jnt_type == mujoco.mjtJoint.mjJNT_SLIDE
        ours.qpos[self.ours.jnt_qposadr[slides]] = self.ours.jnt_range[slides, 1]
        for name, value in self.real.open_at.items():
            theirs.joint(name).qpos[0] = value
        ours.qpos[self._our_q] = hinges
        theirs.qpos[self._their_q] = hinges + self._shift
        mujoco.mj_kinematics(self.ours, ours)
        mujoco.mj_kinematics(self.theirs, theirs)

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[p, 3] m of the marked points in our world, and in theirs before the bases are put together."""
        found = []
        for is_site, index, offset in self._marks:
            data = self.their_data
            position = data.site_xpos[index] if is_site else data.xpos[index]
            matrix = (data.site_xmat[index] if is_site else data.xmat[index]).reshape(3, 3)
            found.append(position + matrix @ offset)
        return self.our_data.site_xpos[self._sites].copy(), np.array(found)

    def distance_m(self, hinges: NDArray[np.float64]) -> float:
        """Largest distance between the same points of both in one posture."""
        self.pose(hinges)
        mine, theirs = self.points()
        return float(np.linalg.norm(theirs @ self.rotation.T + self.translation - mine, axis=1).max())

    def random(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """[n] rad within the joint ranges."""
        return rng.uniform(self.range[:, 0], self.range[:, 1])

    def _align(self) -> None:
        """Rigid motion of their world that fits the points best (Kabsch 1976), from postures of its own."""
        rng, mine, theirs = np.random.default_rng(20), [], []
        for _ in range(_FIT_POSTURES):
            self.pose(self.random(rng))
            a, b = self.points()
            mine.append(a)
            theirs.append(b)
        a, b = np.concatenate(mine), np.concatenate(theirs)
        u, _, vt = np.linalg.svd((b - b.mean(axis=0)).T @ (a - a.mean(axis=0)))
        turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
        self.rotation = vt.T @ turn @ u.T
        self.translation = a.mean(axis=0) - self.rotation @ b.mean(axis=0)


def add_visual_meshes(spec: mujoco.MjSpec, embodiment: Embodiment) -> bool:
    """Put the meshes of the detailed model, if there is one, onto the bodies of ``spec``.

    Args:
        spec: Our robot as read from its MJCF, before it is attached to a scene; changed in place.
        embodiment: Its card.

    Returns:
        Whether meshes were found and put on.

    Raises:
        SimulationError: what is there is another robot, or another version of it.
    """
    real_spec = mesh_model(embodiment)
    if real_spec is None:
        return False
    real = REAL_MODELS[embodiment.name]
    try:
        pair = Comparison(spec.compile(), real_spec.compile(), real)
    except (ValueError, KeyError) as error:
        raise SimulationError(
            explain(f"the detailed model of '{embodiment.name}' cannot be used: {error}", mend=_MEND)
        ) from error
    rng = np.random.default_rng(21)
    away_m = max(pair.distance_m(pair.random(rng)) for _ in range(_FIT_POSTURES))
    if away_m > AGREEMENT_M:
        raise SimulationError(
            explain(
                f"the detailed model of '{embodiment.name}' is another robot than ours",
                given=f"{1e3 * away_m:.2f} mm apart",
                allowed=f"at most {1e3 * AGREEMENT_M:g} mm",
                mend=_MEND,
            )
        )
    pair.pose(np.clip(np.zeros(len(pair.range)), *pair.range.T))
    for body in spec.bodies[1:]:
        for source in real.bodies.get(body.name, (body.name,)):
            _dress(spec, body, source, pair, real_spec)
    return True


_MEND = "check MENAGERIE_ROOT, or draw without meshes"


def _dress(spec: mujoco.MjSpec, body: mujoco.MjsBody, source: str, pair: Comparison, real_spec: mujoco.MjSpec) -> None:
    """Put the drawn meshes of one of their bodies onto one of ours, at the posture both are in."""
    model, data = pair.theirs, pair.their_data
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, source)
    if index < 0:
        return
    geoms = [g for g in range(model.ngeom) if model.geom_bodyid[g] == index and _drawn(model, g)]
    for geom in body.geoms if geoms else ():
        if geom.type != mujoco.mjtGeom.mjGEOM_MESH:
            geom.group = 3
    mine = pair.our_data.body(body.name)
    for g in geoms:
        mesh = model.geom_dataid[g]
        # a compiled geom stands at its mesh's centre of mass; the file's own origin is undone from there
        turn = _matrix(model.geom_quat[g]) @ _matrix(model.mesh_quat[mesh]).T
        place = model.geom_pos[g] - turn @ model.mesh_pos[mesh]
        matrix = data.xmat[index].reshape(3, 3)
        world, at = (
            pair.rotation @ matrix @ turn,
            pair.rotation @ (data.xpos[index] + matrix @ place) + pair.translation,
        )
        own = mine.xmat.reshape(3, 3).T
        material = model.geom_matid[g]
        body.add_geom(
            name=f"{body.name}_mesh_{g}",
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=_asset(spec, real_spec.mesh(model.mesh(mesh).name)),
            pos=own @ (at - mine.xpos),
            quat=_quaternion(own @ world),
            rgba=model.mat_rgba[material] if material >= 0 else model.geom_rgba[g],
            group=2,
            contype=0,
            conaffinity=0,
            mass=0,
        )


def _drawn(model: mujoco.MjModel, geom: int) -> bool:
    return bool(model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH and model.geom_group[geom] <= 2)


def _asset(spec: mujoco.MjSpec, mesh: mujoco.MjsMesh) -> str:
    """The name under which ``spec`` has that mesh; added when it has not."""
    name = "mesh_" + mesh.name
    if spec.mesh(name) is None:
        spec.add_mesh(name=name, file=str(Path(mesh.file)), scale=mesh.scale, refpos=mesh.refpos, refquat=mesh.refquat)
    return name


def _matrix(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def _quaternion(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(matrix).ravel())
    return quaternion
