"""A robot in a scene on a virtual clock: the lower floor of the environment.

Its measured joints are :meth:`SimulatedRobot.robot_state`, one setpoint tick is :meth:`SimulatedRobot.servo`, what its
sensors see is :meth:`SimulatedRobot.frame`. Setpoints come from whoever drives it, or from chunks through the same
:class:`robopolicy.control.executor.Executor` as on an arm: :meth:`SimulatedRobot.submit`, :meth:`SimulatedRobot.tick`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.control.executor import ControlConfig, Executor, MergeReport, Tick
from robopolicy.control.native import native
from robopolicy.control.robot import RobotKinematics
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import SimulationError, explain
from robopolicy.seeding import generator
from robopolicy.sim.controllers.base import Reference, find_controller
from robopolicy.sim.controllers.steering import commanded, steer
from robopolicy.sim.frame import Frame, Modalities
from robopolicy.sim.goal_image import draw_goal
from robopolicy.sim.look import draw_frame
from robopolicy.sim.point_cloud import PointCloud
from robopolicy.sim.render import CameraRenderer
from robopolicy.sim.scene import compose, integer_ratio
from robopolicy.sim.sensors import SensorBank
from robopolicy.sim.task import BaseTask, Task, load_task
from robopolicy.sim.variants import NOMINAL, Variant, Variation, load_variant, variation_record
from robopolicy.types import ActionChunk, RobotState

__all__ = ["SimulatedRobot"]

_NOTHING = Modalities()

_BAD_ACCELERATION = int(mujoco.mjtWarning.mjWARN_BADQACC)

# MuJoCo's own handler writes a file into the current folder
mujoco.set_mju_user_warning(logging.getLogger(__name__).warning)


class SimulatedRobot:
    """The scene of a task with a robot in it; :class:`robopolicy.sim.env.Env` derives from it and starts its episodes.

    Args:
        task: Registry name, or a task.
        embodiment: Registry name or card.
        controller: Action space of the chunks, None for that of the card.
        modalities: What a frame contains.
        cloud: How point clouds are made.
        sensors: Of :data:`robopolicy.sim.sensors.SENSORS`.
        variant: Noise, latency, light and materials.
        render_profile: ``fast`` or ``stock``.
        meshes: ``never``, ``auto`` or ``always``.
        control: Settings of the executor.

    Raises:
        SimulationError: rates that are not multiples of each other; a scene that does not compile.
    """

    def __init__(
        self,
        task: str | Task,
        embodiment: str | Embodiment,
        *,
        controller: str | None,
        modalities: Modalities,
        cloud: PointCloud,
        sensors: Sequence[str],
        variant: str | Variant,
        render_profile: str,
        meshes: str,
        control: ControlConfig | None,
    ):
        card = load_embodiment(embodiment) if isinstance(embodiment, str) else embodiment
        self.embodiment, self.controller = find_controller(card, controller)
        self.card = self.controller.card if self.controller else self.embodiment
        self.task = load_task(task, self.embodiment.name) if isinstance(task, str) else task
        # First what a card without a simulation ends with, before anything that only a robot with kinematics has.
        self.scene = compose(self.task, self.embodiment, render_profile=render_profile, meshes=meshes)
        self.kinematics = RobotKinematics(self.embodiment)
        self.modalities = _NOTHING if modalities == _NOTHING else modalities.checked(self.embodiment)
        self._cloud, self.render_profile = cloud, render_profile
        self.model, self.data = self.scene.model, mujoco.MjData(self.scene.model)
        self._own_sensors = tuple(sensors)
        self.sensors = SensorBank(self.model, self._own_sensors)
        self.task.bind(self.scene)
        self.start_position = self.embodiment.joints.pack({**self.embodiment.home, **self.task.home(self.embodiment)})
        physics_hz = 1.0 / self.model.opt.timestep
        self._substeps = integer_ratio(physics_hz, self.embodiment.setpoint_hz, what="physics rate / setpoint_hz")
        self.ticks_per_step = integer_ratio(
            self.embodiment.setpoint_hz, self.embodiment.control_hz, what="setpoint_hz / control_hz"
        )
        self.tick_ns = round(1e9 / self.embodiment.setpoint_hz)
        native = self.controller.native if self.controller else self.embodiment
        self.executor = Executor(native, control or ControlConfig())
        self._renderer: CameraRenderer | None = None
        gain, bias = self.model.actuator_gainprm, self.model.actuator_biasprm
        lead_s = np.zeros(len(self.embodiment.joints))
        lead_s[self.scene.arm] = (-bias[self.scene.actuator, 2] / gain[self.scene.actuator, 0])[self.scene.arm]
        self._lead = lead_s / self.model.opt.timestep
        self._places = _as_slice(self.scene.actuator)
        self._width = len(self.embodiment.joints)
        self._servo = self._make_servo()
        self._warnings = self.data.warning.number
        self._steering = steer(self.controller, self.executor, self.scene) if self.controller else None
        self._impedance = self._steering.impedance if self._steering else None
        self._last_tick: Tick | None = None
        self._task_counts = getattr(type(self.task), "tick", None) is not BaseTask.tick
        self._task_fails = getattr(type(self.task), "failure", None) is not BaseTask.failure
        self._hold_ticks = round(self.task.hold_s * self.embodiment.setpoint_hz)
        self.variant = load_variant(variant)
        self._variation: Variation | None = None
        self.initial_state: dict[str, float] = {}
        self._servo_position = np.zeros(len(self.embodiment.joints))
        self._tick = self._held_ticks = 0
        self.failure: str | None = None

    @property
    def now_ns(self) -> int:
        """Simulated time since the start of the episode."""
        return self._tick * self.tick_ns

    def robot_state(self) -> RobotState:
        """Measured joints: rad and rad/s; gripper opening 0..1 and 1/s."""
        if self._servo is None:
            return RobotState(self.now_ns, self.scene.joint_position(self.data), self.scene.joint_velocity(self.data))
        position, velocity = np.empty(self._width), np.empty(self._width)
        self._servo.measure(position, velocity)
        return RobotState(self._tick * self.tick_ns, position, velocity)

    def servo(self, position: NDArray[np.floating]) -> None:
        """Advance one setpoint tick; ``position`` [J] is reached at its end.

        Between two setpoints the reference moves on a straight line, with velocity feed-forward as in industrial joint
        controllers: the PD servo's damping acts on the difference of velocities, so tracking has no lag from it.

        Raises:
            SimulationError: the physics diverged.
        """
        if self._servo is None or self._sensing or self._impedance is not None:
            target = self.scene.control(position)
            self._drive(target)
            self._servo_position = target
            sound = bool(np.isfinite(self.data.qpos).all())
        else:
            sound = self._servo.drive(self._servo_position, np.ascontiguousarray(position, float))
        self._tick += 1
        if not sound or self._warnings[_BAD_ACCELERATION]:
            raise SimulationError(
                explain("the simulation went unstable", given=f"tick {self._tick}", mend="check the setpoints sent")
            )
        task, data = self.task, self.data
        if self._task_counts:
            task.tick(data)
        self._held_ticks = self._held_ticks + 1 if task.success(data) else 0
        if self._task_fails and self.failure is None:
            self.failure = task.failure(data)

    def _make_servo(self) -> Any:
        """:meth:`robot_state` and the physics steps of :meth:`servo` compiled, or None."""
        if native is None or not isinstance(self._places, slice):
            return None
        scene, data = self.scene, self.data
        return native.Servo(
            mujoco.mj_step,
            self.model,
            data,
            data.ctrl,
            data.qpos,
            data.qvel,
            self._places.start,
            self._substeps,
            self._lead,
            scene.measured_qpos.tolist(),
            scene.measured_qvel.tolist(),
            tuple((g.channel, g.qpos, g.qvel, g.closed, g.travel) for g in scene.grippers),
        )

    def _drive(self, target: NDArray[np.float64]) -> None:
        """The physics steps of one setpoint, with sensors sampled or impedance in the place of the servos."""
        step = (target - self._servo_position) / self._substeps
        rows = np.empty((self._substeps + 1, len(step)))
        rows[0], rows[1:] = self._servo_position, step
        np.cumsum(rows, axis=0, out=rows)
        if self._impedance is not None:
            sample = self.sensors.sample if self._sensing else None
            self._impedance.drive(self.data, rows, self.now_ns + self.tick_ns, sample)
            rows = rows[:1]
        rows += step * self._lead
        control, places = self.data.ctrl, self._places
        for row in rows[1:]:
            control[places] = row
            mujoco.mj_step(self.model, self.data)
            if self._sensing:
                self.sensors.sample(self.data)

    def frame(self, cameras: Sequence[str] | None = None, modalities: Modalities | None = None) -> Frame:
        """Sensors now; ``modalities`` replaces what the environment draws, ``cameras`` only its colour pictures."""
        wanted = self.modalities if modalities is None else modalities
        if cameras is not None:
            wanted = dataclasses.replace(wanted, cameras=tuple(cameras))
        joints, objects = self.robot_state().position, self.task.observe(self.data)
        if self._variation is not None and self._variation.active:
            joints, objects = self._variation.seen(joints, objects, self.now_ns)
        drawn = {} if wanted is _NOTHING or wanted == _NOTHING else self._draw(wanted)
        if self._steering is not None:
            self._steering.note(self.now_ns, self._last_tick)
        return Frame(
            state=self.kinematics.tcp_state(joints).astype(np.float32),
            environment_state=objects,
            joint_position=joints.astype(np.float32),
            time_ns=self.now_ns,
            sensor=self.sensors.read() if self._sensing else {},
            goal=self.task.goal(self.data) if self.task.goal_names else None,
            qpos=self.data.qpos.copy() if wanted.qpos else None,
            **drawn,
        )

    def submit(self, chunk: ActionChunk) -> MergeReport:
        """Hand the executor a chunk of :attr:`card` or of the robot's own card, now."""
        if self._steering is None:
            return self.executor.submit(chunk, self.now_ns)
        return self._steering.submit(chunk, self.now_ns)

    def scheduled(self, t0_ns: int, delay_ns: int = 0) -> ActionChunk | None:
        """What is going to be executed after an observation, as actions of :attr:`card`.

        See :meth:`robopolicy.control.executor.Executor.scheduled`. Of a derived card it is translated back from what
        the executor is driven with; a stiffness is then the controller's default.
        """
        if self._steering is None:
            return self.executor.scheduled(t0_ns, delay_ns)
        return self._steering.scheduled(t0_ns, delay_ns)

    def label(self, chunk: ActionChunk) -> ActionChunk:
        """A chunk as actions of :attr:`card`; to be called before it is submitted."""
        return chunk if self._steering is None else self._steering.label(chunk)

    def tick(self) -> Tick:
        """The executor's next decision; hand its setpoint to :meth:`servo`."""
        self._last_tick = self.executor.tick(self.robot_state(), self.now_ns)
        return self._last_tick

    def commanded(self) -> Reference:
        """What is commanded for now, in the channels that the executor is driven with."""
        return commanded(self.executor, self._last_tick)

    def watch(self, sensors: Sequence[str]) -> None:
        """From the next reset on record these sensors, and those that the environment was made with."""
        names = tuple(dict.fromkeys((*self._own_sensors, *sensors)))
        if names != self.sensors.names:
            self.sensors = SensorBank(self.model, names)

    def _draw(self, wanted: Modalities) -> dict[str, Any]:
        """Pictures, depth, masks and cloud; every camera is drawn once."""
        rng = generator("point_cloud", *self.episode, self.now_ns) if wanted.point_cloud else None
        return draw_frame(self.scene, self.data, self._eyes, wanted, self._cloud, rng)

    @property
    def _eyes(self) -> CameraRenderer:
        if self._renderer is None:
            self._renderer = CameraRenderer(self.model, self.render_profile)
        return self._renderer

    def picture(self, camera: str) -> NDArray[np.uint8]:
        """One camera's image, uint8 [H, W, 3]."""
        return self._eyes.render(self.data, self.embodiment.camera(camera))

    def goal_image(self, camera: str) -> NDArray[np.uint8]:
        """The scene with the goal reached, uint8 [H, W, 3]; the episode goes on untouched."""
        return draw_goal(self, camera, self._eyes)

    def goal_images(self, cameras: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
        """:meth:`goal_image` of each camera, as observations hold them."""
        return {name: self.goal_image(name) for name in cameras}

    def metrics(self) -> dict[str, float]:
        """The task's figures of the episode so far."""
        return self.task.metrics()

    def success(self) -> bool:
        """Whether the task's condition has now lasted for its hold time."""
        return self._held_ticks >= self._hold_ticks

    def condition(self) -> bool:
        """Whether the task's condition is true now, however briefly."""
        return self._held_ticks > 0

    @property
    def variation(self) -> dict[str, Any]:
        """What the variant drew for this episode, for its metadata; empty for ``nominal``."""
        return variation_record(self.variant, self._variation.drawn) if self._variation is not None else {}

    def extra_latency_ns(self, call: int) -> int:
        """What the variant adds to the latency of the ``call``-th chunk."""
        return self._variation.latency_ns(call) if self._variation is not None else 0

    def _start(self, split: str, index: int) -> None:
        """Put everything back: model, state, warm start, warnings, clock, executor; then draw the objects' places."""
        self.episode = (self.task.name, self.embodiment.name, split, index)
        if self._variation is None and self.variant.name != NOMINAL:
            self._variation = Variation(self.scene, self.task.environment_state_names)
        if self._variation is not None:
            self._variation.begin(self.variant, self.episode)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qacc_warmstart[:] = 0
        self.scene.place(self.data, self.start_position)
        rng = generator(*self.episode)
        self.initial_state = self.task.reset(self.data, rng)
        self._servo_position = self.scene.control(self.start_position)
        self.data.ctrl[self.scene.actuator] = self._servo_position
        mujoco.mj_forward(self.model, self.data)
        self._sensing = bool(self.sensors)
        self.sensors.begin(self.data)
        self._tick = self._held_ticks = 0
        self.failure = None
        self.executor.reset(self.robot_state())
        self._last_tick = None
        if self._steering is not None:
            self._steering.begin()

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _as_slice(places: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """The same places as a slice if they follow each other: an assignment then takes a third of the time."""
    following = bool((np.diff(places) == 1).all())
    return slice(int(places[0]), int(places[-1]) + 1) if following else places
