"""Composes one MuJoCo model out of a task's world, a robot's MJCF and the cameras of its card."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Camera, Embodiment
from robopolicy.errors import SimulationError, explain
from robopolicy.registry import registry
from robopolicy.sim.registration import simulated_embodiments
from robopolicy.sim.task import Task

__all__ = ["RENDER_PROFILES", "Scene", "compose", "integer_ratio"]

ROBOT_PREFIX = "robot/"
RENDER_PROFILES = ("fast", "stock")
"""``fast``: no shadows, no multisampling, no reflection, no sky: about a hundredth of the cost of ``stock``."""


@dataclass(frozen=True)
class Scene:
    """A compiled model and the indices of the robot in it.

    Attributes:
        model: Compiled model.
        joint_qpos, joint_qvel: [n] addresses of the arm joints in ``qpos`` and ``qvel``, in the card's order.
        actuator: [J] actuator ids in the order of the card's joints, gripper included.
        finger_qpos, finger_qvel: [2] addresses of the two finger slides.
        finger_travel_m: Travel of one finger.
        tcp_site: Site id of the tool centre point.
    """

    model: mujoco.MjModel
    joint_qpos: NDArray[np.intp]
    joint_qvel: NDArray[np.intp]
    actuator: NDArray[np.intp]
    finger_qpos: NDArray[np.intp]
    finger_qvel: NDArray[np.intp]
    finger_travel_m: float
    tcp_site: int


def integer_ratio(fast_hz: float, slow_hz: float, *, what: str) -> int:
    """``fast_hz / slow_hz`` as an integer.

    Raises:
        SimulationError: the ratio is not a whole number; both values are named.
    """
    ratio = fast_hz / slow_hz
    if ratio < 1 - 1e-9 or abs(ratio - round(ratio)) > 1e-6:
        raise SimulationError(
            explain(
                f"{what} must be an integer",
                given=f"{fast_hz:g} Hz / {slow_hz:g} Hz = {ratio:g}",
                mend="choose rates where the faster is a whole multiple of the slower",
            )
        )
    return round(ratio)


def compose(task: Task, embodiment: Embodiment, *, render_profile: str = "fast") -> Scene:
    """Build and compile the scene of a task for a robot.

    Raises:
        SimulationError: an unknown render profile, a card without simulation entry, or MJCF and card that do not fit.
    """
    if render_profile not in RENDER_PROFILES:
        raise SimulationError(explain("no such render profile", given=repr(render_profile), allowed=RENDER_PROFILES))
    entry = registry("embodiment").config(embodiment.name).get("simulation")
    if not entry:
        raise SimulationError(
            explain(
                f"the card of '{embodiment.name}' has no 'simulation' entry",
                allowed=simulated_embodiments(),
                mend="add simulation: {model: 'package:file.xml', physics_dt_s: 0.002} to its YAML",
            )
        )
    package, _, file = str(entry["model"]).partition(":")
    robot = mujoco.MjSpec.from_string(resources.files(package).joinpath(file).read_text())
    spec = task.model()
    spec.option.timestep = float(entry["physics_dt_s"])
    # the parent's options win when a robot is attached, so those that grasping needs are set here
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10
    spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    spec.attach(robot, frame=spec.worldbody.add_frame(), prefix=ROBOT_PREFIX)
    for camera in embodiment.cameras:
        _add_camera(spec, camera)
    # the near plane is a share of the extent; a wrist camera has things before it at four centimetres
    spec.stat.extent, spec.visual.map.znear = 1.0, 0.01
    if render_profile == "fast":
        spec.visual.quality.shadowsize = 0
        spec.visual.quality.offsamples = 0
    spec.visual.global_.offwidth = max((c.width for c in embodiment.cameras), default=96)
    spec.visual.global_.offheight = max((c.height for c in embodiment.cameras), default=96)
    try:
        return _index(spec.compile(), embodiment)
    except (ValueError, KeyError) as error:
        raise SimulationError(explain(f"the scene of '{embodiment.name}' does not compile", given=error)) from error


def _add_camera(spec: mujoco.MjSpec, camera: Camera) -> None:
    mounts = {"world": spec.worldbody, "tcp": spec.body(ROBOT_PREFIX + "tcp")}
    if camera.mount not in mounts:
        raise SimulationError(explain(f"camera '{camera.name}': no such mount", given=camera.mount, allowed=[*mounts]))
    mounts[camera.mount].add_camera(
        name=camera.name, pos=camera.position_m, quat=camera.quaternion, fovy=camera.fovy_deg
    )


def _index(model: mujoco.MjModel, embodiment: Embodiment) -> Scene:
    arm = [name for name in embodiment.joints.names if name != embodiment.gripper]
    joints = [model.joint(ROBOT_PREFIX + name) for name in arm]
    fingers = [model.joint(ROBOT_PREFIX + name) for name in ("finger_left", "finger_right")]
    travel_m = float(fingers[0].range[1])
    if abs(2 * travel_m - embodiment.gripper_width_m) > 1e-9:
        raise SimulationError(
            explain(
                "finger travel of the MJCF and gripper width of the card differ",
                given=f"2 x {travel_m} m, {embodiment.gripper_width_m} m",
            )
        )
    return Scene(
        model=model,
        joint_qpos=np.array([j.qposadr[0] for j in joints]),
        joint_qvel=np.array([j.dofadr[0] for j in joints]),
        actuator=np.array([model.actuator(ROBOT_PREFIX + name).id for name in embodiment.joints.names]),
        finger_qpos=np.array([f.qposadr[0] for f in fingers]),
        finger_qvel=np.array([f.dofadr[0] for f in fingers]),
        finger_travel_m=travel_m,
        tcp_site=model.site(ROBOT_PREFIX + "tcp").id,
    )
