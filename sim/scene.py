"""Composes one MuJoCo model out of a task's world, a robot's MJCF and the cameras of its card."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Arm, Camera, Embodiment
from robopolicy.errors import SimulationError, explain
from robopolicy.registry import registry
from robopolicy.sim.meshes import add_visual_meshes
from robopolicy.sim.registration import simulated_embodiments
from robopolicy.sim.task import Task

__all__ = ["MESHES", "RENDER_PROFILES", "ROBOT_PREFIX", "GripperJoints", "Scene", "compose", "integer_ratio"]

ROBOT_PREFIX = "robot/"
"""Of every name of the robot in the composed model."""
RENDER_PROFILES = ("fast", "stock")
"""``fast``: no shadows, no multisampling, no reflection, no sky: about a hundredth of the cost of ``stock``."""


MESHES = ("never", "auto", "always")
"""``auto``: where a detailed model is found."""


@dataclass(frozen=True)
class GripperJoints:
    """The joints behind one gripper channel: two finger slides, or one jaw.

    Attributes:
        channel: Position of the channel in a command vector [J].
        qpos, qvel: Addresses of the joints.
        closed, travel: Joint position at opening 0, and what is added to it at opening 1 (m or rad).
    """

    channel: int
    qpos: tuple[int, ...]
    qvel: tuple[int, ...]
    closed: float
    travel: float

    def opening(self, qpos: NDArray[np.float64]) -> float:
        """0 closed to 1 open, the mean over the fingers; not clipped."""
        return (_mean(qpos, self.qpos) - self.closed) / self.travel


@dataclass(frozen=True)
class Scene:
    """A compiled model and the indices of the robot in it.

    Attributes:
        model: Compiled model.
        embodiment: Card of the robot.
        arm: [n] positions in a command vector [J] of all channels that are joints by themselves.
        joint_qpos, joint_qvel: [n] their addresses in ``qpos`` and ``qvel``.
        measured_qpos, measured_qvel: [J] the same for all channels, a gripper's first finger included.
        actuator: [J] actuator ids in the order of the card's joints, grippers included.
        grippers: What is behind each gripper channel.
        tcp_site: Arm name -> site id of its tool centre point; empty for a hand.
        robot_geoms: Ids of the robot's moving geoms that can touch something.
    """

    model: mujoco.MjModel
    embodiment: Embodiment
    arm: NDArray[np.intp]
    joint_qpos: NDArray[np.intp]
    joint_qvel: NDArray[np.intp]
    measured_qpos: NDArray[np.intp]
    measured_qvel: NDArray[np.intp]
    actuator: NDArray[np.intp]
    grippers: tuple[GripperJoints, ...]
    tcp_site: dict[str, int]
    robot_geoms: frozenset[int]

    def joint_position(self, data: mujoco.MjData) -> NDArray[np.float64]:
        """[J] measured: rad, grippers by opening 0..1."""
        position = data.qpos[self.measured_qpos]
        for gripper in self.grippers:
            position[gripper.channel] = min(max(gripper.opening(data.qpos), 0.0), 1.0)
        return position

    def joint_velocity(self, data: mujoco.MjData) -> NDArray[np.float64]:
        """[J] measured: rad/s, grippers in 1/s."""
        velocity = data.qvel[self.measured_qvel]
        for gripper in self.grippers:
            velocity[gripper.channel] = _mean(data.qvel, gripper.qvel) / gripper.travel
        return velocity

    def place(self, data: mujoco.MjData, position: NDArray[np.floating]) -> None:
        """Put the robot at joint positions [J], without stepping."""
        data.qpos[self.joint_qpos] = position[self.arm]
        for gripper in self.grippers:
            data.qpos[list(gripper.qpos)] = gripper.closed + position[gripper.channel] * gripper.travel

    def control(self, position: NDArray[np.floating]) -> NDArray[np.float64]:
        """[J] command in the units of the actuators: rad, and the position of one finger."""
        target = np.array(position, float)
        for gripper in self.grippers:
            target[gripper.channel] = gripper.closed + target[gripper.channel] * gripper.travel
        return target

    def opening_m(self, data: mujoco.MjData, arm: str = "") -> float:
        """Distance between the fingertips of an arm's gripper, by its joints and the card's width."""
        card = self.embodiment.arm(arm)
        channel = self.embodiment.joints.index(card.gripper)
        gripper = next(g for g in self.grippers if g.channel == channel)
        return gripper.opening(data.qpos) * card.gripper_width_m

    def tcp_position(self, data: mujoco.MjData, arm: str = "") -> NDArray[np.float64]:
        """[3] m in the world, of the pose last computed."""
        return data.site_xpos[self.tcp_site[arm]]


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


def compose(task: Task, embodiment: Embodiment, *, render_profile: str = "fast", meshes: str = "never") -> Scene:
    """Build and compile the scene of a task for a robot.

    Args:
        task: Objects and world.
        embodiment: Robot; its card names the MJCF.
        render_profile: One of :data:`RENDER_PROFILES`.
        meshes: One of :data:`MESHES`: whether the robot wears the meshes of a detailed model found on this machine;
            only pictures change, and cost about ten times more.

    Raises:
        SimulationError: an unknown render profile, a card without simulation entry, MJCF and card that do not fit, or
            no detailed model where one is wanted always.
    """
    if meshes not in MESHES:
        raise SimulationError(explain("no such choice of meshes", given=repr(meshes), allowed=MESHES))
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
    if meshes != "never" and not add_visual_meshes(robot, embodiment) and meshes == "always":
        raise SimulationError(
            explain(
                f"no detailed model of '{embodiment.name}' on this machine",
                mend="set MENAGERIE_ROOT, install a wheel that has it (docs/simulation.md), or meshes='auto'",
            )
        )
    spec = task.model()
    spec.option.timestep = min(float(entry["physics_dt_s"]), task.physics_dt_s or 1.0)
    # the parent's options win when a robot is attached, so those that grasping needs are set here
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10
    spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    spec.attach(robot, frame=spec.worldbody.add_frame(), prefix=ROBOT_PREFIX)
    task.equip(spec)
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
    """On the world, or on a TCP: ``tcp`` of the only arm, ``<arm>.tcp`` of one among several."""
    mounts = {"world": spec.worldbody}
    mounts |= {b.name.removeprefix(ROBOT_PREFIX): b for b in spec.bodies if b.name.endswith("tcp")}
    if camera.mount not in mounts:
        raise SimulationError(explain(f"camera '{camera.name}': no such mount", given=camera.mount, allowed=[*mounts]))
    mounts[camera.mount].add_camera(
        name=camera.name, pos=camera.position_m, quat=camera.quaternion, fovy=camera.fovy_deg
    )


def _index(model: mujoco.MjModel, embodiment: Embodiment) -> Scene:
    names = embodiment.joints.names
    owner = {arm.gripper: arm for arm in embodiment.arms if arm.gripper}
    arm = [name for name in names if name not in owner]
    joints = [model.joint(ROBOT_PREFIX + name) for name in arm]
    moving = model.body_weldid[model.geom_bodyid] != 0
    robot = [i for i in range(model.ngeom) if model.body(model.geom_bodyid[i]).name.startswith(ROBOT_PREFIX)]
    grippers = tuple(_gripper(model, embodiment, owner[name]) for name in names if name in owner)
    places = {name: (int(j.qposadr[0]), int(j.dofadr[0])) for name, j in zip(arm, joints, strict=True)}
    places |= {names[g.channel]: (g.qpos[0], g.qvel[0]) for g in grippers}
    return Scene(
        model=model,
        embodiment=embodiment,
        arm=np.array([names.index(name) for name in arm], np.intp),
        joint_qpos=np.array([j.qposadr[0] for j in joints], np.intp),
        joint_qvel=np.array([j.dofadr[0] for j in joints], np.intp),
        actuator=np.array([model.actuator(ROBOT_PREFIX + name).id for name in names]),
        measured_qpos=np.array([places[name][0] for name in names], np.intp),
        measured_qvel=np.array([places[name][1] for name in names], np.intp),
        grippers=grippers,
        tcp_site={a.name: model.site(f"{ROBOT_PREFIX}{a.prefix}tcp").id for a in embodiment.arms if a.chain},
        robot_geoms=frozenset(i for i in robot if moving[i] and model.geom_contype[i]),
    )


def _gripper(model: mujoco.MjModel, embodiment: Embodiment, arm: Arm) -> GripperJoints:
    """Two slides ``<arm>.finger_left`` and ``<arm>.finger_right``, or one joint named like the channel."""
    known = {model.joint(i).name for i in range(model.njnt)}
    fingers = [f"{ROBOT_PREFIX}{arm.prefix}finger_{side}" for side in ("left", "right")]
    pair = all(finger in known for finger in fingers)
    joints = [model.joint(name) for name in (fingers if pair else [ROBOT_PREFIX + arm.gripper])]
    closed, opened = (float(x) for x in joints[0].range)
    if pair and abs(2 * (opened - closed) - arm.gripper_width_m) > 1e-9:
        raise SimulationError(
            explain(
                "finger travel of the MJCF and gripper width of the card differ",
                given=f"2 x {opened - closed} m, {arm.gripper_width_m} m",
            )
        )
    return GripperJoints(
        channel=embodiment.joints.index(arm.gripper),
        qpos=tuple(int(j.qposadr[0]) for j in joints),
        qvel=tuple(int(j.dofadr[0]) for j in joints),
        closed=closed,
        travel=opened - closed,
    )


def _mean(values: NDArray[np.float64], places: tuple[int, ...]) -> float:
    """Of one or two numbers, at every tick: numpy's own takes ten times as long."""
    if len(places) == 2:
        return float((values[places[0]] + values[places[1]]) / 2)
    return float(values[places[0]])
