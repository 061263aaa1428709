"""LeRobot data sets, whatever their version: what their features mean, and how an episode becomes one of the store.

Facts from the v2.1 and v3.0 writers of LeRobot (Apache-2.0, github huggingface/lerobot) and their data: features are
described in ``meta/info.json``; ``names`` is null, a list, a list in a list, or a mapping of lists; ``timestamp`` is
float32 and nominally ``frame_index / fps``; a frame of a video is found by its time. Units, rotation forms and the
reference of actions are not stated anywhere: without a card the channels keep their names and have no unit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.lerobot_features import Feature, blobs_of, camera_key, features_of, numbers_of
from robopolicy.data.convert.lerobot_files import missing_episodes
from robopolicy.data.convert.lerobot_frames import VideoMatcher, contradictions, head, images
from robopolicy.data.convert.lerobot_names import ChannelMap, map_channels
from robopolicy.data.convert.source import Finding, Reading, SourceInfo
from robopolicy.data.convert.unify import generic_card
from robopolicy.data.episode import Episode, StreamSpec
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import DataError, explain, suggest
from robopolicy.schema import setting

__all__ = ["Layout", "LeRobotOptions", "LeRobotSource"]

OWN_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
TIME_TOLERANCE_S = 1e-3
"""Above the rounding of float32 up to four hours; below any deviation that matters."""


@dataclass(frozen=True)
class LeRobotOptions:
    """Options of both LeRobot formats."""

    embodiment: str = setting(
        "card that the channels are mapped to by name; empty: a card made from the names", default=""
    )
    channels: dict[str, str] = setting("name in the source -> channel of the card, beside the known ones", default={})
    angles: Literal["rad", "deg"] = setting("unit of the source's angles, used with a card", default="rad")
    state: str = setting("feature that is the state", default="observation.state")
    action: str = setting("feature that is the action", default="action")
    reference: Literal["absolute", "delta", "normalised"] = setting("what actions refer to", default="absolute")
    cameras: dict[str, str] = setting("feature -> slot of the cameras to keep; empty: all", default={})
    task: str = setting("name of the task, empty for the folder's name", default="")
    repair: tuple[str, ...] = setting("trim_to_video, nearest_frame, frame_by_index", default=())


class Layout(Protocol):
    """Where a version of the format keeps things."""

    root: Path
    info: dict[str, Any]
    findings: list[Finding]

    def episodes(self) -> Sequence[int]:
        """Indices of all episodes that the metadata lists, in order."""
        ...

    def lacking(self, episode: int, videos: Sequence[str]) -> str:
        """What is missing of an episode, empty when all files are there."""
        ...

    def rows(self, episode: int) -> int | None:
        """Rows that the metadata promise."""
        ...

    def tasks(self, episode: int, task_index: NDArray[np.int64] | None) -> list[str]:
        """Its instructions."""
        ...

    def table(self, episode: int, columns: Sequence[str]) -> Any:
        """pyarrow.Table of its rows; DataError when the file is damaged."""
        ...

    def video(self, episode: int, key: str) -> tuple[Path, float]:
        """Video file, and the time in it at which the episode begins, in seconds."""
        ...

    def close(self) -> None:
        """Give up files."""
        ...


class LeRobotSource:
    """An opened LeRobot data set."""

    def __init__(self, layout: Layout, options: LeRobotOptions, version: str):
        """Reads the metadata and the header of one video per camera.

        Raises:
            DataError: no usable episode, no state or action, or a camera that is not there.
            EmbodimentError: names that the card does not have.
        """
        self.layout, self.options = layout, options
        self.fps = float(layout.info["fps"])
        self.features = features_of(layout.info)
        self._video = VideoMatcher(self.fps, frozenset(options.repair))
        findings: list[Finding] = []
        self.cameras = self._choose_cameras(findings)
        videos = [key for key, feature in self.cameras.items() if feature.kind == "video"]
        listed = layout.episodes()
        lacking = {e: layout.lacking(e, videos) for e in listed}
        self._present = {f"episode_{e:06d}": e for e in listed if not lacking[e]}
        expected = int(layout.info.get("total_episodes", len(listed)))
        findings = [*layout.findings, *findings, *missing_episodes(expected, listed, lacking)]
        if not self._present:
            raise DataError(
                explain(f"{layout.root} has no complete episode", given="; ".join(f.message for f in findings))
            )
        sizes = self._sizes(findings)
        card = self._card(findings)
        self.extra = self._extra(findings)
        self.info = SourceInfo(
            embodiment=card,
            fps=self.fps,
            episodes=tuple(self._present),
            task=options.task or layout.root.resolve().name,
            cameras={self.cameras[key].slot: size for key, size in sizes.items()},
            extra={name: spec for name, (_, spec) in self.extra.items()},
            expected_episodes=expected,
            findings=tuple(findings),
            provenance={
                "origin": f"LeRobot {layout.info.get('codebase_version', version)}",
                "robot_type": str(layout.info.get("robot_type")),
                "conventions": {"reference": options.reference, "angles": options.angles if options.embodiment else ""},
            },
        )

    def read(self, episode: str) -> Reading:
        """One episode; frames of video are decoded when the engine asks for them."""
        index = self._present[episode]
        pictures = [key for key, f in self.cameras.items() if f.kind == "image"]
        wanted = [self.options.state, self.options.action, *(key for key, _ in self.extra.values())]
        table = self.layout.table(index, [*wanted, *pictures, *OWN_COLUMNS])
        findings: list[Finding] = []
        promised = self.layout.rows(index)
        if promised is not None and promised != table.num_rows:
            text = f"{episode}: the metadata promise {promised} rows, the table has {table.num_rows}"
            findings.append(Finding("length", text, episode=episode))
        where = f"{self.layout.root}, {episode}"
        numbers = {key: numbers_of(table, self.features[key], where) for key in wanted}
        clock = self._clock(table, episode, findings)
        streams: dict[str, Any] = {
            "state": self._maps[0].apply(numbers[self.options.state], self.options.angles),
            "action": self._maps[1].apply(numbers[self.options.action], self.options.angles),
            "time_ns": np.round(clock * 1e9).astype(np.int64),
        }
        for name, (key, spec) in self.extra.items():
            values = numbers[key].astype(spec.dtype)
            streams[name] = values[:, 0] if spec.shape == () else values
        for key, feature in self.cameras.items():
            if feature.kind == "image":
                streams[f"image/{feature.slot}"] = images(blobs_of(table, key, self.layout.root), feature.size)
        kept = self._video.add(self._files(index), episode, clock, streams, findings)
        if any(f.severity == "error" and not f.repaired for f in findings):
            return Reading(None, findings)
        if kept < len(clock):
            streams = {n: head(values, kept) for n, values in streams.items()}
        task_index = np.asarray(table["task_index"]) if "task_index" in table.column_names else None
        return Reading(self._episode(index, episode, streams, task_index), findings)

    def close(self) -> None:
        """Give up files."""
        self._video.close()
        self.layout.close()

    def _episode(self, index: int, name: str, streams: dict[str, Any], task_index: NDArray[np.int64] | None) -> Episode:
        tasks = self.layout.tasks(index, task_index)
        metadata: dict[str, Any] = {"source": {"id": name, "episode_index": index}}
        if len(tasks) > 1:
            metadata["tasks"] = tasks
        success = streams.get("source/next.success")
        stated = None if success is None else bool(np.any(success))
        return Episode(streams, tasks[0] if tasks else "", stated, metadata)

    def _clock(self, table: Any, episode: str, findings: list[Finding]) -> NDArray[np.float64]:
        """f64 [T] seconds of every row: nominal where the time stamps agree with it, otherwise the stamps."""
        rows = table.num_rows
        names = table.column_names
        frame = np.asarray(table["frame_index"], np.int64) if "frame_index" in names else np.arange(rows)
        if rows and (np.diff(frame) <= 0).any():
            text = f"{episode}: frame_index does not ascend; rows are taken as they stand"
            findings.append(Finding("order", text, episode=episode))
            frame = np.arange(rows)
        nominal = (frame - (frame[0] if rows else 0)) / self.fps
        if "timestamp" not in names:
            return nominal
        stamps = numbers_of(table, Feature("timestamp", "number", (1,), "float32"), episode)[:, 0].astype(np.float64)
        off = float(np.abs(stamps - nominal).max(initial=0.0))
        if off <= TIME_TOLERANCE_S:
            return nominal
        if (np.diff(stamps) <= 0).any():
            text = f"{episode}: time stamps do not ascend; the nominal rate is used"
            findings.append(Finding("timestamps", text, episode=episode, stream="time_ns"))
            return nominal
        text = f"{episode}: time stamps are up to {off:.3g} s from frame_index / fps; they are kept"
        findings.append(Finding("timestamps", text, "note", episode=episode, stream="time_ns"))
        return stamps

    def _choose_cameras(self, findings: list[Finding]) -> dict[str, Feature]:
        found = {key: f for key, f in self.features.items() if f.kind in ("video", "image")}
        if self.options.cameras:
            unknown = [key for key in self.options.cameras if key not in found]
            if unknown:
                mend = suggest(unknown[0], found)
                raise DataError(explain("the source has no such camera", given=unknown, allowed=list(found), mend=mend))
            return {key: found[key].renamed(slot) for key, slot in self.options.cameras.items()}
        kept = {key: f for key, f in found.items() if not f.depth}
        for key in found.keys() - kept.keys():
            findings.append(Finding("skipped_stream", f"{key} is depth coded as video; left out", stream=key))
        slots = [f.slot for f in kept.values()]
        return {
            key: f if slots.count(f.slot) == 1 else f.renamed(camera_key(key, whole=True)) for key, f in kept.items()
        }

    def _sizes(self, findings: list[Finding]) -> dict[str, tuple[int, int]]:
        """Frame sizes; the container is believed, and where info.json contradicts it that is told."""
        first = next(iter(self._present.values()))
        for key, feature in self.cameras.items():
            if feature.kind == "video":
                video = self._video.probe(self.layout.video(first, key)[0])
                self.cameras[key] = feature.sized(video.height, video.width)
                findings += contradictions(key, feature, video, self.fps)
        return {key: feature.size for key, feature in self.cameras.items()}

    def _files(self, index: int) -> dict[str, tuple[Path, float]]:
        """Slot -> (video file, seconds at which the episode begins in it)."""
        return {f.slot: self.layout.video(index, key) for key, f in self.cameras.items() if f.kind == "video"}

    def _card(self, findings: list[Finding]) -> Embodiment:
        for role in ("state", "action"):
            key = getattr(self.options, role)
            if key not in self.features or self.features[key].kind != "number":
                known = [k for k, f in self.features.items() if f.kind == "number" and k not in OWN_COLUMNS]
                raise DataError(
                    explain(f"the source has no {role}", given=key, allowed=known, mend=f"options.{role}=<feature>")
                )
        state, action = self.features[self.options.state], self.features[self.options.action]
        if self.options.embodiment:
            card = load_embodiment(self.options.embodiment)
            given = self.options.channels
            self._maps = (map_channels(card, "state", state, given), map_channels(card, "action", action, given))
            text = f"units are not stated; taken as those of the card '{card.name}', angles in {self.options.angles}"
            findings.append(Finding("convention", text, "note"))
            return card
        self._maps = (ChannelMap.same(state.width), ChannelMap.same(action.width))
        text = (
            "units, and what actions refer to, are not stated; numbers are left as they are (options.embodiment=<card>)"
        )
        findings.append(Finding("convention", text, "note"))
        return generic_card(
            str(self.layout.info.get("robot_type") or self.layout.root.resolve().name),
            state=[(n, "unknown") for n in state.names],
            action=[(n, "unknown") for n in action.names],
            control_hz=self.fps,
            action_reference=self.options.reference,
            description=f"LeRobot recording of {self.layout.info.get('robot_type') or 'an unnamed robot'}",
        )

    def _extra(self, findings: list[Finding]) -> dict[str, tuple[str, StreamSpec]]:
        """Name in the store -> (feature, stream) of every other feature with numbers."""
        extra: dict[str, tuple[str, StreamSpec]] = {}
        for key, feature in self.features.items():
            if key in (*OWN_COLUMNS, self.options.state, self.options.action) or feature.kind in ("video", "image"):
                continue
            if feature.kind != "number":
                findings.append(
                    Finding("skipped_stream", f"{key} is {feature.dtype}, not numbers; left out", stream=key)
                )
                continue
            name = "source/" + re.sub(r"[^A-Za-z0-9_./-]", "_", key).strip("/.-")
            floats = feature.dtype.startswith("float")
            shape: tuple[int, ...] = (feature.width,) if floats or feature.width != 1 else ()
            channels = feature.names if shape else ()
            extra[name] = (key, StreamSpec("float32" if floats else "int64", shape, channels))
        return extra
