"""Tools on springs in a robot's hand, and what the wrist's wrench tells of the force on them.

The springs are those of a remote centre compliance (Whitney, "Quasi-static assembly of compliantly supported rigid
parts", 1982): between hand and tool, with the hand's own fingers only shown around it. They keep forces low where a
stiff arm meets something stiff, and they hide the contact from the arm's joints: only the wrist's wrench tells of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from robopolicy.sim.scene import Scene

__all__ = ["HIDDEN_GROUP", "Compliance", "ForceGauge", "add_compliant_tool", "tool_load_n"]

Array = NDArray[np.floating]

HIDDEN_GROUP = 4
"""Geoms of this group are drawn in no picture."""


@dataclass(frozen=True)
class Compliance:
    """Springs between hand and tool.

    Attributes:
        aside_n_m: Stiffness across the tool.
        along_n_m: Stiffness along it.
        turn_nm_rad: Stiffness against turning about it.
        travel_m: How far each slide gives way.
    """

    aside_n_m: float = 2500.0
    along_n_m: float = 3000.0
    turn_nm_rad: float = 1.0
    travel_m: float = 0.012


def add_compliant_tool(spec: mujoco.MjSpec, name: str, springs: Compliance, mass_kg: float = 0.05) -> Any:
    """A body ``robot/<name>`` on springs at the TCP, without geoms; its x, y, z axes are the TCP's.

    Args:
        spec: World with the robot in it.
        name: Of the tool.
        springs: Stiffness of its mounting.
        mass_kg: Of what will be added to it; sets the damping to about critical.
    """
    body = spec.body("robot/tcp").add_body(name=f"robot/{name}", gravcomp=1)
    slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
    stiffness = (springs.aside_n_m, springs.aside_n_m, springs.along_n_m)
    for axis, label, newton in zip(np.eye(3).tolist(), "xyz", stiffness, strict=True):
        body.add_joint(
            name=f"robot/{name}_{label}",
            type=slide,
            axis=axis,
            stiffness=newton,
            damping=2 * (newton * mass_kg) ** 0.5,
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            range=[-springs.travel_m, springs.travel_m],
        )
    body.add_joint(
        name=f"robot/{name}_turn",
        type=hinge,
        axis=[0, 0, 1],
        stiffness=springs.turn_nm_rad,
        damping=0.01,
        armature=1e-5,
    )
    return body


def tool_load_n(model: mujoco.MjModel, data: mujoco.MjData, geom: int, wrench: Array) -> float:
    """Sum of the normal forces on a geom, N; ``wrench`` [6] is scratch space."""
    total_n = 0.0
    for i, pair in enumerate(data.contact.geom[: data.ncon].tolist()):
        if geom in pair:
            mujoco.mj_contactForce(model, data, i, wrench)
            total_n += float(wrench[0])
    return total_n


class ForceGauge:
    """The force on the tool from the wrist's wrench, for a hand that points straight down.

    Args:
        scene: Gives the weight of what hangs below the sensor, which the sensor shows too.
        samples: How many of the newest samples are averaged.
    """

    def __init__(self, scene: Scene, samples: int = 5):
        model = scene.model
        body = int(model.site_bodyid[model.site("robot/wrist").id])
        self._weight_n = float(model.body_subtreemass[body]) * float(-model.opt.gravity[2])
        self._samples = samples

    def read(self, wrench: Array, yaw_rad: float) -> Array:
        """[3] N in the base frame: what the surroundings push the tool with.

        Args:
            wrench: [K, 6] at the wrist, oldest first.
            yaw_rad: Direction of the hand's x axis in the plane.
        """
        x, y, z = np.asarray(wrench[-self._samples :, :3], float).mean(axis=0).tolist()
        c, s = np.cos(yaw_rad), np.sin(yaw_rad)
        # the sensor shows the force of the arm on the hand, which balances weight and contact; the hand's z points down
        return np.array([-c * x - s * y, -s * x + c * y, z + self._weight_n])
