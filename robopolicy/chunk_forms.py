"""What a chunk says: absolute targets, targets seen from the measured pose, or steps from one target to the next.

With ``b`` the newest measured state and the group law of positions and rotations::

    absolute     a_k
    relative     b^-1 a_k
    increment    k < To: b^-1 a_k     k >= To: a_{k-1}^-1 a_k

A pose is (p, R). ``frame`` says about whose axes it moves: ``base`` p - p', R R'^T, both about the axes of the robot's
base; ``tool`` R'^T (p - p'), R'^T R, the product of SE(3) (relative actions of UMI, Chi et al. 2024, section IV).
Joints are subtracted. Grippers, and channels that are not measured under the same name, stay absolute. Numpy only;
for one robot and the published network see :mod:`robopolicy.models.action_form`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.rotations import matrix_to_rotation_6d, rotation_6d_to_matrix

__all__ = ["CHUNK_FORMS", "CHUNK_FRAMES", "ChunkForm", "pose_prefixes"]

CHUNK_FORMS = ("absolute", "relative", "increment")
CHUNK_FRAMES = ("base", "tool")

Array = NDArray[np.float64]
Pose = tuple[Array, Array]


def pose_prefixes(names: tuple[str, ...]) -> list[str]:
    """What stands before ``ee_position.x`` wherever all nine channels of a pose are there."""
    prefixes = [n.removesuffix("ee_position.x") for n in names if n.endswith("ee_position.x")]
    return [p for p in prefixes if all(n in names for n in _pose_names(p))]


def _pose_names(prefix: str) -> list[str]:
    return [*(f"{prefix}ee_position.{a}" for a in "xyz"), *(f"{prefix}ee_rotation.{i}" for i in range(6))]


class ChunkForm:
    """Physical absolute chunk [..., Tp, A] <-> the same in one of :data:`CHUNK_FORMS`.

    Args:
        embodiment: Names the channels.
        form: One of :data:`CHUNK_FORMS`.
        observation_horizon: To.
        frame: One of :data:`CHUNK_FRAMES`.

    Attributes:
        changed: bool [A], the channels that differ from absolute ones.

    Raises:
        ConfigError: unknown form, actions that are not absolute, or nothing that could be seen from a measured state.
    """

    def __init__(self, embodiment: Embodiment, form: str, observation_horizon: int, frame: str = "base"):
        for what, given, allowed in (("form", form, CHUNK_FORMS), ("frame", frame, CHUNK_FRAMES)):
            if given not in allowed:
                raise ConfigError(explain(f"unknown {what} of a chunk", given=given, allowed=allowed))
        if embodiment.action_reference != "absolute":
            raise ConfigError(
                explain(
                    f"the actions of '{embodiment.name}' are {embodiment.action_reference}, slots hold absolute ones",
                    mend="convert the data with absolute targets first",
                )
            )
        self.form, self.frame, self.horizon = form, frame, observation_horizon
        state, action = embodiment.state, embodiment.action
        grippers = {arm.gripper for arm in embodiment.arms}
        shared = [n for n in action.names if n in state.names and n not in grippers and not n.endswith("gripper")]
        poses = [p for p in pose_prefixes(action.names) if set(_pose_names(p)) <= set(shared)]
        posed = {n for p in poses for n in _pose_names(p)}
        plain = [n for n in shared if n not in posed]
        self._poses = [
            ([action.index(n) for n in _pose_names(p)], [state.index(n) for n in _pose_names(p)]) for p in poses
        ]
        self._plain = ([action.index(n) for n in plain], [state.index(n) for n in plain])
        self.changed = np.zeros(len(action), bool)
        if form != "absolute":
            if not shared:
                raise ConfigError(
                    explain(
                        f"form '{form}' needs action channels that '{embodiment.name}' measures too",
                        given=action.names,
                        allowed=state.names,
                        mend="use form: absolute, or record the same space as state and action",
                    )
                )
            self.changed[[i for columns, _ in self._poses for i in columns] + self._plain[0]] = True

    def encode(self, action: NDArray[Any], newest: NDArray[Any]) -> Array:
        """Absolute [..., Tp, A] and the newest measured state [..., S] -> [..., Tp, A] in the form."""
        action, newest = np.asarray(action, np.float64), np.asarray(newest, np.float64)
        if self.form == "absolute":
            return action.copy()
        out = action.copy()
        columns, measured = self._plain
        path = action[..., columns]
        out[..., columns] = path - self._before(path, newest[..., None, measured], axis=-2)
        for columns, measured in self._poses:
            at = _pose(action[..., columns])
            base = _pose(newest[..., None, measured])
            before = self._before(at[0], base[0], axis=-2), self._before(at[1], base[1], axis=-3)
            out[..., columns] = _flat(self._seen_from(before, at))
        return out

    def decode(self, values: NDArray[Any], newest: NDArray[Any]) -> Array:
        """Inverse of :meth:`encode`; rotations come back orthonormal."""
        values, newest = np.asarray(values, np.float64), np.asarray(newest, np.float64)
        if self.form == "absolute":
            return values.copy()
        out = values.copy()
        columns, measured = self._plain
        steps, base_row = values[..., columns], newest[..., None, measured]
        out[..., columns] = base_row + self._summed(steps)
        for columns, measured in self._poses:
            step, base = _pose(values[..., columns]), _pose(newest[..., None, measured])
            out[..., columns] = _flat(self._walk(base, step))
        return out

    def _before(self, path: Array, base: Array, axis: int) -> Array:
        """What each of the Tp rows along ``axis`` is seen from."""
        first, rows = np.broadcast_to(base, path.shape), path.shape[axis]
        if self.form == "relative" or rows <= self.horizon:
            return first
        early = np.take(first, range(self.horizon), axis=axis)
        late = np.take(path, range(self.horizon - 1, rows - 1), axis=axis)
        return np.concatenate([early, late], axis=axis)

    def _seen_from(self, base: Pose, pose: Pose) -> Pose:
        moved, turned = pose[0] - base[0], base[1]
        if self.frame == "tool":
            return np.einsum("...ji,...j->...i", turned, moved), np.swapaxes(turned, -1, -2) @ pose[1]
        return moved, pose[1] @ np.swapaxes(turned, -1, -2)

    def _then(self, base: Pose, step: Pose) -> Pose:
        if self.frame == "tool":
            return base[0] + np.einsum("...ij,...j->...i", base[1], step[0]), base[1] @ step[1]
        return base[0] + step[0], step[1] @ base[1]

    def _summed(self, steps: Array) -> Array:
        if self.form == "relative":
            return steps
        path = steps.copy()
        path[..., self.horizon - 1 :, :] = path[..., self.horizon - 1 :, :].cumsum(-2)
        return path

    def _walk(self, base: Pose, step: Pose) -> Pose:
        position, rotation = self._then(base, step)
        if self.form == "increment":
            for k in range(self.horizon, position.shape[-2]):
                before = position[..., k - 1, :], rotation[..., k - 1, :, :]
                position[..., k, :], rotation[..., k, :, :] = self._then(
                    before, (step[0][..., k, :], step[1][..., k, :, :])
                )
        return position, rotation


def _pose(nine: Array) -> Pose:
    return nine[..., :3], np.asarray(rotation_6d_to_matrix(nine[..., 3:]), np.float64)


def _flat(pose: Pose) -> Array:
    return np.concatenate([pose[0], matrix_to_rotation_6d(pose[1])], axis=-1)
