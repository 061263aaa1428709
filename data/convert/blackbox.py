"""Black boxes of the daemon: every stretch in which the arm followed a policy becomes an episode.

Rows are sensor frames, one per control step; where a run has none, measured positions at ``control_hz``. What is stored
as the action of a row is the *action in effect*: where the executed reference stood one control step later, computed
from the setpoints, which carry the time at which they were to be reached. It is what the arm was told after blending,
slow-down and limiter, not what the network said; the chunks themselves stay in the recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.data.convert.blackbox_log import BlackBoxLog, find_logs, sessions
from robopolicy.data.convert.blackbox_rows import Motion, camera_frames, camera_sizes, running_spans
from robopolicy.data.convert.forward_kinematics import card_vectors
from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.episode import Episode, StreamSpec, joint_streams
from robopolicy.errors import DataError, explain
from robopolicy.schema import setting

__all__ = ["FORMAT", "BlackBoxOptions", "BlackBoxSource"]

TOPICS = ("/binary/tape", "/binary/state", "/binary/frame")


@dataclass(frozen=True)
class BlackBoxOptions:
    """Options of ``format=blackbox``."""

    language: str = setting("instruction of every episode, where the recording has none", default="")
    success: bool | None = setting("label of every episode; null: what the robot itself saw", default=None)
    min_s: float = setting("shorter stretches are left out, s", default=1.0, ge=0)
    only_success: bool = setting("leave out episodes that are not known to have succeeded", default=False)


class BlackBoxSource:
    """A recorded run: a file, or the run folder of a daemon with all its files."""

    def __init__(self, path: Path, options: BlackBoxOptions):
        """Read the ticks of every session.

        Raises:
            DataError: no black box, sessions of different robots, or nothing in it that is an episode.
        """
        self.options = options
        # Frames of cameras stay in the files until an episode is read.
        self.logs = [BlackBoxLog(files, TOPICS) for files in sessions(path)]
        self.card = self.logs[0].card
        for log in self.logs[1:]:
            self.card.require_same(log.card, mine="the first session", theirs=f"session {log.run['session']}")
        self.motions = [Motion(log) for log in self.logs]
        self.spans = {
            f"{session:03d}-{number:04d}": (session, span)
            for session, motion in enumerate(self.motions)
            for number, span in enumerate(running_spans(motion, options.min_s))
        }
        if not self.spans:
            raise DataError(
                explain(
                    "the recording holds no episode",
                    given=f"{len(self.logs)} sessions, none with the arm RUNNING for {options.min_s} s",
                    mend="options.min_s=0 takes the short ones as well",
                )
            )
        self.privileged = max(motion.environment_width for motion in self.motions)
        self.cameras = camera_sizes(self.logs[0])

    @property
    def info(self) -> SourceInfo:
        """What the recording holds."""
        extra = dict(joint_streams(self.card))
        extra["source/setpoint"] = StreamSpec(
            "float32", (len(self.card.joints),), self.card.joints.names, kind="joint_position", source="commanded"
        )
        run = self.logs[0].run
        return SourceInfo(
            embodiment=self.card,
            fps=self.card.control_hz,
            episodes=tuple(self.spans),
            task=str(run["config"]["robot"].get("task", "")),
            cameras=self.cameras,
            environment_state=tuple(f"environment.{i}" for i in range(self.privileged)),
            extra=extra,
            findings=tuple(self._findings()),
            provenance={
                "format": "blackbox",
                "policy": run["policy"],
                "policy_hash": run["policy_hash"],
                "limits_hash": run["limits_hash"],
                "commit": run["commit"],
                "action": "executed reference one control step after the row, from the setpoints",
                "time": "CLOCK_MONOTONIC of the recording machine",
            },
        )

    def read(self, episode: str) -> Reading:
        """One stretch.

        Raises:
            DataError: damaged there.
        """
        session, span = self.spans[episode]
        motion, findings = self.motions[session], []
        rows = motion.rows(span, self.card)
        joints = motion.measured(rows)
        following = motion.setpoints(rows + round(self.card.control_dt_s * 1e9))
        streams: dict[str, Any] = {
            "state": motion.states(rows, span, joints, self.card),
            "action": card_vectors(self.card, following, "action"),
            "time_ns": rows,
            "joint_position": joints,
            "joint_command": following,
            "source/setpoint": motion.setpoints(rows),
        }
        if self.privileged:
            streams["environment_state"] = motion.environment(rows, self.privileged)
        if self.cameras:
            streams |= camera_frames(self.logs[session].paths, self.cameras, motion.wall_ns(rows))
        success = self.options.success if self.options.success is not None else motion.success(span)
        if self.options.only_success and success is not True:
            findings.append(Finding("not_successful", "not known to have succeeded", "error", episode))
        metadata = {"source": {"id": episode, "session": str(self.logs[session].run["session"]), **motion.about(span)}}
        return Reading(Episode(streams, self.options.language, success, metadata), findings)

    def close(self) -> None:
        """Nothing is open."""

    def _findings(self) -> list[Finding]:
        found = [
            Finding("cut_file", f"{name} ends early ({why}); read up to there", "warning")
            for log in self.logs
            for name, why in log.endings.items()
            if why != "complete"
        ]
        if not any(motion.has_frames for motion in self.motions):
            text = "no sensor frames were recorded; rows are measured positions at control_hz"
            found.append(Finding("no_frames", text, "note", stream="state"))
        return found


def _detect(path: Path) -> str | None:
    found = find_logs(path)
    return f"{found[0].name} is a black box of robopolicy deploy" if found else None


FORMAT = Format("blackbox", BlackBoxOptions, _detect, BlackBoxSource)
