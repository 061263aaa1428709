"""One trajectory of RoboMIND: rows that belong together, joints in the card's order, poses, frames, what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.forward_kinematics import (
    card_vectors,
    check_pose,
    is_stuck,
    tcp_poses,
)
from robopolicy.data.convert.hdf5_episode import Hdf5File, nominal_time_ns
from robopolicy.data.convert.robomind_images import EpisodeImages
from robopolicy.data.convert.robomind_language import Language
from robopolicy.data.convert.robomind_layouts import Pose, resolve_key
from robopolicy.data.convert.robomind_plan import Place, Plan, frame_stride
from robopolicy.data.convert.source import Finding, Reading
from robopolicy.data.convert.unify import gripper_opening, pose_channels, rotation_matrix
from robopolicy.data.episode import RATE_TOLERANCE, Episode
from robopolicy.errors import DataError, explain

__all__ = ["EpisodeReader"]

Array = NDArray[np.float64]
_GRIPPER_MARGIN = 0.05
_FAR_M = 0.01


@dataclass
class _Rows:
    """Which rows of the joints and of the frames make the rows of the episode."""

    state: NDArray[np.intp]
    action: NDArray[np.intp]
    frame: NDArray[np.intp]
    time_ns: NDArray[np.int64]


class EpisodeReader:
    """Reads episodes after a plan."""

    def __init__(self, plan: Plan, language: Language):
        """See :class:`Plan` and :class:`robopolicy.data.convert.robomind_language.Language`."""
        self.plan, self.language = plan, language
        order = plan.layout.channels
        self._order = [order.index(name) for name in plan.card.joints.names]

    def read(self, episode: str, place: Place) -> Reading:
        """One episode; findings of severity ``error`` that were not repaired leave it out.

        Raises:
            DataError: the file is damaged or lacks an array of its layout.
        """
        findings: list[Finding] = []
        with Hdf5File(place.file) as file:
            images = EpisodeImages.read(file, self.plan, episode, findings)
            measured = self._raw(file, self.plan.layout.state_root)
            commanded = (
                measured
                if self.plan.action_root == self.plan.layout.state_root
                else self._raw(file, self.plan.action_root)
            )
            rows = self._rows(file, episode, min(len(measured), len(commanded)), images, findings)
            if rows is None:
                return Reading(None, findings)
            streams: dict[str, Any] = {"time_ns": rows.time_ns}
            streams |= self._vectors(file, episode, measured[rows.state], commanded[rows.action], rows, findings)
            for kind, keys in self.plan.layout.further.items():
                columns = [file.vectors(f"{self.plan.layout.state_root}/{key}") for key in keys]
                shortest = min(len(values) for values in columns)
                if shortest <= rows.state[-1]:
                    raise DataError(explain(f"{place.file}: '{kind}' is shorter than the joints", given=shortest))
                streams[kind] = np.concatenate([values[rows.state] for values in columns], axis=1)
            streams |= images.streams(rows.frame)
            own_text = _own_text(file)
        if any(f.severity == "error" and not f.repaired for f in findings):
            return Reading(None, findings)
        text, notes = self.language.of(place.task, place.key)
        text = text or own_text
        source = {"id": episode, "layout": self.plan.layout.name, "task": place.task, "split": place.split}
        metadata: dict[str, Any] = {"source": source, **notes}
        if images.absent:
            metadata["absent_cameras"] = sorted(images.absent)
        return Reading(Episode(streams, text, place.success, metadata), findings)

    def _raw(self, file: Hdf5File, root: str) -> Array:
        """Joints as recorded [T, columns]; simulated arrays of unequal lengths are cut to the shortest."""
        parts = [
            file.vectors(resolve_key(file, f"{root}/{part.key}"), len(part.channels)) for part in self.plan.layout.parts
        ]
        rows = min(len(part) for part in parts)
        if not self.plan.layout.time and any(len(part) != rows for part in parts):
            lengths = {part.key: len(values) for part, values in zip(self.plan.layout.parts, parts, strict=True)}
            raise DataError(explain(f"{file.path}: joints of unequal lengths", given=lengths))
        return np.concatenate([part[:rows] for part in parts], axis=1)

    def _rows(
        self, file: Hdf5File, episode: str, joints: int, images: EpisodeImages, findings: list[Finding]
    ) -> _Rows | None:
        plan, lengths = self.plan, images.lengths
        frames = min(lengths.values(), default=joints)
        if plan.layout.time:
            stride = plan.stride or frame_stride(file, plan.layout, frames, joints)
            count = min(frames, -(-joints // stride))
            met = sorted(set(lengths.values()))
            message = f"{stride} rows of joints per frame, from the first; {joints} rows, frames {met}"
            findings.append(Finding("convention", message, "note", episode))
        else:
            stride, count = 1, min(frames, joints)
            if set(lengths.values()) - {joints}:
                findings.append(
                    Finding(
                        "length",
                        f"{joints} rows of joints, frames {dict(sorted(lengths.items()))}; the repair keeps {count}",
                        "error", episode, repair="length", repaired="length" in plan.repair,
                    )
                )  # fmt: skip
        base, ahead = np.arange(count), plan.rows_ahead
        kept = base[: max(count - ahead, 0)]
        if len(kept) < 2:
            findings.append(Finding("length", f"only {count} rows; an action needs {ahead + 2}", "error", episode))
            return None
        time_ns = self._time(file, episode, kept * stride, findings)
        return _Rows(kept * stride, (kept + ahead) * stride, kept, time_ns)

    def _time(self, file: Hdf5File, episode: str, rows: NDArray[np.intp], findings: list[Finding]) -> NDArray[np.int64]:
        plan = self.plan
        nominal = nominal_time_ns(len(rows), plan.fps)
        if not plan.layout.time:
            return nominal
        seconds = file.vectors(plan.layout.time, 1)[:, 0]
        if len(seconds) <= rows[-1]:
            rows = rows // max(1, -(-int(rows[-1] + 1) // len(seconds)))  # one time per frame
        time_ns = np.round((seconds[np.minimum(rows, len(seconds) - 1)] - seconds[0]) * 1e9).astype(np.int64)
        steps = np.diff(time_ns)
        rate = len(steps) / max(float(time_ns[-1] - time_ns[0]) * 1e-9, 1e-12)
        if (steps > 0).all() and abs(rate / plan.fps - 1) <= RATE_TOLERANCE:
            return time_ns
        findings.append(
            Finding(
                "rate_drift",
                f"simulated time runs at {rate:.4g} Hz ({plan.fps:.4g} expected), least step {steps.min() / 1e9:.4g} s",
                "error", episode, plan.layout.time, repair="nominal_time", repaired="nominal_time" in plan.repair,
            )
        )  # fmt: skip
        return nominal

    def _vectors(
        self, file: Hdf5File, episode: str, measured: Array, commanded: Array, rows: _Rows, findings: list[Finding]
    ) -> dict[str, Array]:
        plan, card = self.plan, self.plan.card
        state = self._opened(measured, "state", episode, findings)[:, self._order]
        action = self._opened(commanded, "action", episode, findings)[:, self._order]
        streams = {"source/state": measured, "source/action": commanded}
        recorded: dict[str, dict[str, tuple[Array, Array]]] = {"state": {}, "action": {}}
        columns = []
        for pose in plan.layout.poses:
            values = self._pose(file, pose)
            if len(values) <= rows.action[-1]:
                raise DataError(explain(f"{file.path}: '{pose.key}' is shorter than the joints", given=len(values)))
            position, rotation = self._checked(pose, values[rows.state], state, episode, findings)
            columns.append(pose_channels(position, rotation))
            recorded["state"][pose.arm] = position, rotation
            if plan.pose == "recorded" and plan.action_root == plan.layout.state_root:
                recorded["action"][pose.arm] = self._checked(pose, values[rows.action], action, episode, None)
        if columns:
            streams["source/end_effector"] = np.concatenate(columns, axis=1)
        use = recorded if plan.pose == "recorded" else {"state": None, "action": None}
        streams["state"] = card_vectors(card, state, "state", use["state"])
        streams["action"] = card_vectors(card, action, "action", use["action"])
        if card.state_space != "joint_position":
            streams |= {"joint_position": state, "joint_command": action}
        return streams

    def _opened(self, values: Array, kind: str, episode: str, findings: list[Finding]) -> Array:
        """Grippers to 0 closed and 1 open; values beyond the two ends say that these are not the ends."""
        layout, out = self.plan.layout, values.copy()
        for column in layout.grippers:
            closed, opened = self.plan.grippers[kind]
            low, high = sorted((closed, opened))
            margin = _GRIPPER_MARGIN * (high - low)
            least, most = float(values[:, column].min()), float(values[:, column].max())
            if least < low - margin or most > high + margin:
                option = "gripper" if kind == "state" else "command_gripper"
                message = (
                    f"{layout.channels[column]} is {least:.4g} to {most:.4g}, expected {low:g} to {high:g}: "
                    f"give options.{option}=[closed,open]"
                )
                findings.append(Finding("units", message, "error", episode, kind))
            out[:, column] = gripper_opening(values[:, column], closed=closed, opened=opened)
        return out

    def _pose(self, file: Hdf5File, pose: Pose) -> Array:
        values = file.vectors(resolve_key(file, f"{self.plan.layout.state_root}/{pose.key}"))
        width = 6 if pose.form == "euler_xyz" else 7
        if values.shape[1] < pose.first + width:
            raise DataError(
                explain(
                    f"{file.path}: '{pose.key}' is too narrow", given=values.shape, allowed=f">= {pose.first + width}"
                )
            )
        return values[:, pose.first : pose.first + width]

    def _checked(
        self, pose: Pose, values: Array, joints: Array, episode: str, findings: list[Finding] | None
    ) -> tuple[Array, Array]:
        """The pose as recorded, or by forward kinematics where it is stuck and that repair was chosen."""
        card, arm = self.plan.card, self.plan.card.arm(pose.arm)
        moving = [i for i, n in enumerate(card.joints.names) if n.startswith(arm.prefix) and n not in arm.end_effector]
        stuck = is_stuck(values, joints[:, moving])
        repaired = stuck and bool(arm.chain) and "stuck_ee" in self.plan.repair
        if stuck and findings is not None:
            span, moved = float(np.ptp(values, axis=0).max()), float(np.ptp(joints[:, moving], axis=0).max())
            mend = "the repair recomputes the card's tool point from the joints"
            if not arm.chain:
                mend = f"'{card.name}' has no chain to recompute it; options.end_effector=false leaves it out"
            findings.append(
                Finding(
                    "stuck_channel",
                    f"{pose.key} stands still (range {span:.2g} in all) while joints move {moved:.3g} rad; {mend}",
                    "error", episode, "source/end_effector", repair="stuck_ee" if arm.chain else "", repaired=repaired,
                )
            )  # fmt: skip
        kinematic = tcp_poses(card, pose.arm, joints) if arm.chain else None
        if repaired and kinematic is not None:
            return kinematic
        if kinematic is not None and not stuck and findings is not None and pose.frame == "base":
            check = check_pose(values[:, :3], kinematic[0])
            if check.distance_m > _FAR_M:
                message = (
                    f"{pose.key} is {check.distance_m:.3f} m (sd {check.spread_m:.3f}) from the card's tool point: "
                    "recorded with another tool or base"
                )
                findings.append(Finding("convention", message, "note", episode, "source/end_effector"))
        return values[:, :3], rotation_matrix(values[:, 3:], pose.form)


def _own_text(file: Hdf5File) -> str:
    """The instruction inside the file, which some releases have."""
    if "language_raw" not in file:
        return ""
    found = file.read("language_raw").reshape(-1)
    first = found[0] if len(found) else ""
    return first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)
