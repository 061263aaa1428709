"""Variants: the same episodes with noise, latency, other light, cameras and materials.

What a variant changes is drawn per episode from a stream of its own, so an episode begins from the same state in every
variant and ``nominal`` is what it would be if there were no variants. Everything is written into the compiled model in
place and put back at the next reset; nothing is compiled again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.config import build as build_config
from robopolicy.errors import ConfigError, explain
from robopolicy.registry import registry
from robopolicy.rotations import axis_angle_to_matrix, matrix_to_quaternion, quaternion_to_matrix
from robopolicy.seeding import generator
from robopolicy.sim.scene import Scene

__all__ = ["NOMINAL", "Variant", "Variation", "load_variant", "variation_record"]

NOMINAL = "nominal"

_SAVED = (
    *("light_dir", "light_diffuse", "cam_pos", "cam_quat", "cam_fovy", "geom_friction", "geom_rgba"),
    *("body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0"),
)
"""Fields of the model that a variant may change."""


@dataclass(frozen=True)
class Variant:
    """How far things may be off; standard deviations, or ranges of uniform factors.

    Attributes:
        name: Registry name.
        joint_noise_rad: Of every observation, per joint: what the robot says of itself. A gripper is off by as much of
            its opening. The executor's own measurement stays clean.
        joint_bias_rad: The same, constant in an episode.
        environment_noise_m: Of every observation, on privileged channels whose name says ``position``.
        environment_bias_m: The same, constant in an episode.
        environment_noise: Of every observation, on the other privileged channels, in their own unit.
        latency_ms: Added to the latency of every chunk.
        latency_jitter_ms: Of each chunk.
        light_tilt_rad: Of the lights' direction, per axis.
        light_intensity: Factors of all lights.
        light_colour: Largest change of a colour channel of the lights, as a share.
        camera_position_m: Per axis, in the frame of the mount.
        camera_rotation_rad: Per axis.
        camera_fovy_deg: Of the field of view.
        friction: Factors of the friction of everything.
        mass: Factors of the mass of each loose object.
        table_colour: Largest change of a colour channel of the table.
    """

    name: str = NOMINAL
    joint_noise_rad: float = 0.0
    joint_bias_rad: float = 0.0
    environment_noise_m: float = 0.0
    environment_bias_m: float = 0.0
    environment_noise: float = 0.0
    latency_ms: float = 0.0
    latency_jitter_ms: float = 0.0
    light_tilt_rad: float = 0.0
    light_intensity: tuple[float, float] = (1.0, 1.0)
    light_colour: float = 0.0
    camera_position_m: float = 0.0
    camera_rotation_rad: float = 0.0
    camera_fovy_deg: float = 0.0
    friction: tuple[float, float] = (1.0, 1.0)
    mass: tuple[float, float] = (1.0, 1.0)
    table_colour: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "name":
                continue
            if isinstance(value, (int, float)) and not (np.isfinite(value) and value >= 0):
                problems.append(explain(f"{field.name} must be finite and not negative", given=value))
            if isinstance(value, tuple) and not (len(value) == 2 and 0 < value[0] <= value[1] < np.inf):
                problems.append(explain(f"{field.name} is a range of factors", given=value, allowed="0 < low <= high"))
        if problems:
            raise ConfigError(problems)


def load_variant(variant: str | Variant) -> Variant:
    """A variant by its registry name, ``configs/variant/<name>.yaml``.

    Raises:
        UnknownNameError: no such variant.
        ConfigError: a parameter that variants do not have, or a value that makes no sense.
    """
    if isinstance(variant, Variant):
        return variant
    if variant == NOMINAL:
        return Variant()
    parameters = registry("variant").config(variant)
    return build_config(Variant, {"name": variant, **parameters}, where=f"variant '{variant}'")


class Variation:
    """What one episode's variant changes in a scene.

    Args:
        scene: Its model is changed in place.
        environment_state_names: [E] of the task.

    Attributes:
        drawn: What was drawn for the episode, by name, for the record.
    """

    def __init__(self, scene: Scene, environment_state_names: Sequence[str]):
        model = self._model = scene.model
        self._saved = {name: np.array(getattr(model, name)) for name in _SAVED}
        head = model.vis.headlight
        self._headlight = {name: np.array(getattr(head, name)) for name in ("ambient", "diffuse")}
        self._is_position = np.array(["position" in name for name in environment_state_names], bool)
        self._loose = _loose_bodies(model)
        table = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, "table")
        self._table = table if table >= 0 else None
        self._joints = len(scene.actuator)
        self.variant = Variant()
        self._words: tuple[int | str, ...] = ()
        self.drawn: dict[str, float] = {}

    def restore(self) -> None:
        """Put the model back, to the bit."""
        for name, value in self._saved.items():
            getattr(self._model, name)[:] = value
        for name, value in self._headlight.items():
            getattr(self._model.vis.headlight, name)[:] = value
        self.drawn = {}

    def begin(self, variant: Variant, words: tuple[int | str, ...]) -> None:
        """Restore, then draw an episode's changes.

        Args:
            variant: How far things may be off.
            words: What the episode is a function of: task, robot, split, index.
        """
        self.restore()
        self.variant, self._words = variant, words
        if not self.active:
            return
        rng = generator("variant", variant.name, *words)
        self._joint_bias = variant.joint_bias_rad * rng.standard_normal(self._joints)
        self._environment_bias = variant.environment_bias_m * rng.standard_normal(len(self._is_position))
        self._environment_bias[~self._is_position] = 0.0
        self._light(variant, rng)
        self._cameras(variant, rng)
        self._materials(variant, rng)

    @property
    def active(self) -> bool:
        """Whether the episode is anything but nominal."""
        return self.variant.name != NOMINAL

    def seen(
        self, joints: NDArray[np.floating], objects: NDArray[np.float32], now_ns: int
    ) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Measured joints [J] and privileged state [E] as an observation shows them; a function of the instant."""
        rng, variant = generator("variant_seen", self.variant.name, *self._words, now_ns), self.variant
        joints = joints + self._joint_bias + variant.joint_noise_rad * rng.standard_normal(len(joints))
        scale = np.where(self._is_position, variant.environment_noise_m, variant.environment_noise)
        return joints, (objects + self._environment_bias + scale * rng.standard_normal(len(objects))).astype(np.float32)

    def latency_ns(self, call: int) -> int:
        """What is added to the latency of the ``call``-th chunk; never negative."""
        variant = self.variant
        if not variant.latency_ms + variant.latency_jitter_ms:
            return 0
        rng = generator("variant_latency", variant.name, *self._words, call)
        return round(max(0.0, rng.normal(variant.latency_ms, variant.latency_jitter_ms)) * 1e6)

    def _light(self, variant: Variant, rng: np.random.Generator) -> None:
        model = self._model
        intensity = rng.uniform(*variant.light_intensity)
        colour = intensity * (1 + rng.uniform(-1, 1, 3) * variant.light_colour)
        for light in range(model.nlight):
            turn = axis_angle_to_matrix(variant.light_tilt_rad * rng.standard_normal(3))
            model.light_dir[light] = turn @ model.light_dir[light]
        model.light_diffuse[:] = np.clip(model.light_diffuse * colour, 0, 1)
        for name in self._headlight:
            part = getattr(model.vis.headlight, name)
            part[:] = np.clip(part * colour, 0, 1)
        self.drawn["light_intensity"] = float(intensity)

    def _cameras(self, variant: Variant, rng: np.random.Generator) -> None:
        model = self._model
        for camera in range(model.ncam):
            moved = variant.camera_position_m * rng.standard_normal(3)
            turn = axis_angle_to_matrix(variant.camera_rotation_rad * rng.standard_normal(3))
            wider_deg = variant.camera_fovy_deg * rng.standard_normal()
            model.cam_pos[camera] += moved
            model.cam_quat[camera] = matrix_to_quaternion(turn @ quaternion_to_matrix(model.cam_quat[camera]))
            model.cam_fovy[camera] = np.clip(model.cam_fovy[camera] + wider_deg, 5.0, 150.0)
            name = model.camera(camera).name
            self.drawn |= {
                f"camera.{name}.moved_m": float(np.linalg.norm(moved)),
                f"camera.{name}.fovy_deg": float(model.cam_fovy[camera]),
            }

    def _materials(self, variant: Variant, rng: np.random.Generator) -> None:
        model = self._model
        friction = rng.uniform(*variant.friction)
        model.geom_friction[:] *= friction
        self.drawn["friction"] = float(friction)
        for name, bodies, dofs in self._loose:
            factor = rng.uniform(*variant.mass)
            before = float(model.body_subtreemass[bodies[0]])
            for field in ("body_mass", "body_inertia", "body_subtreemass"):
                getattr(model, field)[bodies] *= factor
            model.body_invweight0[bodies] /= factor
            model.dof_invweight0[dofs] /= factor
            model.dof_M0[dofs] *= factor
            model.body_subtreemass[0] += before * (factor - 1)
            self.drawn[f"mass.{name}"] = float(factor)
        tint = rng.uniform(-1, 1, 3) * variant.table_colour
        if self._table is not None:
            model.geom_rgba[self._table, :3] = np.clip(model.geom_rgba[self._table, :3] + tint, 0, 1)


def _loose_bodies(model: mujoco.MjModel) -> list[tuple[str, NDArray[np.intp], NDArray[np.intp]]]:
    """(name, bodies, degrees of freedom) of everything that hangs on a free joint in the world.

    Scaling all masses of such a tree by one factor scales its inertias and weights by it exactly.
    """
    free = [j for j in range(model.njnt) if model.jnt_type[j] == mujoco.mjtJoint.mjJNT_FREE]
    found = []
    for joint in free:
        root = int(model.jnt_bodyid[joint])
        bodies = np.array([b for b in range(model.nbody) if model.body_rootid[b] == root], np.intp)
        dofs = np.array([d for d in range(model.nv) if model.dof_bodyid[d] in bodies], np.intp)
        found.append((model.body(root).name, bodies, dofs))
    return found


def variation_record(variant: Variant, drawn: Mapping[str, float]) -> dict[str, Any]:
    """What a variant drew, for an episode's metadata; nothing for ``nominal``."""
    return {} if variant.name == NOMINAL else {"variant": variant.name, "variation": dict(drawn)}
