"""MCAP recordings: asynchronous topics, mapped by the user's YAML, brought to one clock by a stated rule.

See :mod:`robopolicy.data.convert.align` for the rules and :mod:`robopolicy.data.convert.mcap_map` for the map. What a
row was made from can be checked afterwards: ``stamp_ns/<topic>`` holds the stamp of the sample used in every row, and
``metadata.alignment`` rates, gaps, delays and ages per topic.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robopolicy.data.convert.mcap_decode import field_of, frame_of
from robopolicy.data.convert.mcap_map import Part, TopicMap, read_map, stamp_stream
from robopolicy.data.convert.mcap_reader import FAR, MAGIC, Recording, find_recordings, listed_topics
from robopolicy.data.convert.mcap_rows import Aligned, align_episode
from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.convert.unify import generic_card
from robopolicy.data.episode import Episode, StreamSpec
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import ConfigError, DataError, explain
from robopolicy.schema import setting, to_dict

__all__ = ["FORMAT", "McapOptions", "McapSource"]


@dataclass(frozen=True)
class McapOptions:
    """Options of format ``mcap``."""

    map: str = setting("YAML file that says which topics are what; without it the topics are listed", default="")
    cut_file: Literal["refuse", "salvage"] = setting(
        "a file whose end is missing: refuse it, or read it as far as it goes", default="refuse"
    )
    language: str = setting("instruction where no topic gives one", default="")
    success: bool | None = setting("label where no topic gives one", default=None)


class McapSource:
    """Opened recordings with their map."""

    def __init__(self, path: Path, options: McapOptions):
        """Find recordings and episodes, look at the first frame of every camera.

        Raises:
            DataError: no recording, a damaged one, or topics that it does not have.
            ConfigError: no map, or a wrong one.
        """
        self.path, self.options = path, options
        files = find_recordings(path)
        if not files:
            raise DataError(explain(f"{path} holds no .mcap file"))
        self.recordings = {name: Recording(f, options.cut_file == "salvage") for name, f in files.items()}
        first = next(iter(self.recordings.values()))
        topics = first.topics()
        if not options.map:
            raise ConfigError(
                explain(
                    f"{path} has these topics, and which of them are state, action and images is yours to say:\n"
                    f"{listed_topics(topics)}\n",
                    mend="write a map as configs/format/mcap.yaml shows, and give options.map=FILE",
                )
            )
        map_file = Path(options.map).expanduser()
        self.topics = read_map(map_file)
        unknown = [t for t in self.topics.topics() if t not in topics]
        if unknown:
            raise DataError(
                explain(f"{first.files[0]} has no topics {unknown}", allowed=f"\n{listed_topics(topics)}\n")
            )
        self.card = self._card(map_file.parent)
        self.sizes = self._sizes(first)
        self.windows: dict[str, tuple[str, tuple[int, int]]] = {}
        for name, recording in self.recordings.items():
            for i, window in enumerate(_windows(recording, self.topics)):
                key = name if self.topics.split.by == "file" else f"{name}#{i:04d}"
                self.windows[key] = (name, window)

    def close(self) -> None:
        """Nothing is held open."""

    def _card(self, folder: Path) -> Embodiment:
        m = self.topics
        if not m.embodiment:

            def named(parts: tuple[Part, ...]) -> list[tuple[str, str]]:
                return [(n, u) for p in parts for n, u in zip(p.channel_names, p.units, strict=True)]

            return generic_card(m.robot, state=named(m.state), action=named(m.action), control_hz=m.rate_hz)
        local = folder / m.embodiment
        card = load_embodiment(local if local.is_file() else m.embodiment)
        groups = {"state": card.state, "action": card.action}
        if m.joint_position:
            groups |= {"joint_position": card.joints, "joint_command": card.joints}
        problems = []
        for stream, group in groups.items():
            given = [n for p in m.sections()[stream] for n in p.channel_names]
            if sorted(given) != sorted(group.names):
                wrong = explain(f"'{stream}' does not match card '{card.name}'", given=given, allowed=group.names)
                problems.append(wrong)
        if problems:
            raise ConfigError(problems)
        return card

    def _sizes(self, recording: Recording) -> dict[str, tuple[int, int]]:
        """(height, width) of the first frame of every stream of frames."""
        sizes = {}
        for stream, part in self.topics.frames().items():
            message = next(recording.messages([part.topic]), None)
            if message is None:
                raise DataError(explain(f"{recording.files[0]}: topic {part.topic} is silent"))
            sizes[stream] = frame_of(message.decode(), stream.startswith("depth/")).size
        return sizes

    @property
    def info(self) -> SourceInfo:
        """What the recordings hold."""
        m = self.topics
        extra: dict[str, StreamSpec] = {}
        for name, entry in m.extra.items():
            names = tuple(n for p in entry.parts for n in p.channel_names)
            units = tuple(u for p in entry.parts for u in p.units)
            extra[name] = StreamSpec("float32", (len(names),), names, units, entry.kind, entry.frame)
        for stream, section in m.sections().items():
            extra |= {stamp_stream(p.topic, m.rule_of(stream, p)): StreamSpec("int64", ()) for p in section}
        for stream, image in m.frames().items():
            extra[stamp_stream(image.topic, image.rule)] = StreamSpec("int64", ())
            if stream.startswith("depth/"):
                extra[stream] = StreamSpec("uint16", (*self.sizes[stream], 1), kind="depth")
        findings = []
        if not m.embodiment:
            text = "no embodiment in the map: channels are named as there, on a card that cannot be driven"
            findings.append(Finding("convention", text))
        return SourceInfo(
            embodiment=self.card,
            fps=m.rate_hz,
            episodes=tuple(self.windows),
            task=self.path.stem,
            cameras={slot: self.sizes[f"image/{slot}"] for slot in m.images},
            joints=bool(m.joint_position),
            environment_state=tuple(n for p in m.environment_state for n in p.channel_names),
            extra=extra,
            findings=tuple(findings),
            provenance={"format": "mcap", "map": to_dict(m)},
        )

    def read(self, episode: str) -> Reading:
        """One episode.

        Raises:
            DataError: damaged there, a silent topic, or fields that are missing.
        """
        if episode not in self.windows:
            raise DataError(explain("no such episode", given=repr(episode), allowed=list(self.windows)[:20]))
        name, window = self.windows[episode]
        recording = self.recordings[name]
        rows = align_episode(recording, self.topics, window, self.sizes, episode)
        findings = list(rows.findings)
        findings += [
            Finding("truncated", f"{text}; read as far as it goes", "warning", episode, repaired=True)
            for text in recording.cut
        ]
        metadata = {
            "source": {"id": episode, "files": [f.name for f in recording.files], "log_ns": list(window)},
            "alignment": rows.report,
        }
        if window[1] == FAR:
            metadata["source"].pop("log_ns")
        language = self.options.language if rows.language is None else rows.language
        success = self.options.success if rows.success is None else rows.success
        return Reading(Episode(self._streams(rows), language, success, metadata), findings)

    def _streams(self, rows: Aligned) -> dict[str, Any]:
        streams: dict[str, Any] = {"time_ns": rows.time_ns, **rows.stamps, **rows.frames}
        groups = {"state": self.card.state, "action": self.card.action}
        groups |= {"joint_position": self.card.joints, "joint_command": self.card.joints}
        for stream, parts in rows.numbers.items():
            values = np.concatenate(parts, axis=1)
            if stream in groups:
                given = [n for p in self.topics.sections()[stream] for n in p.channel_names]
                values = values[:, [given.index(n) for n in groups[stream].names]]
            streams[stream] = values.astype(np.float32)
        return streams


def _windows(recording: Recording, topics: TopicMap) -> list[tuple[int, int]]:
    """Windows of log time, one per episode."""
    split = topics.split
    if split.by == "file":
        return [(0, FAR)]
    if split.by == "gap":
        times = sorted(r.log_ns for r in recording.messages([split.topic]))
        limit = split.gap_s * 1e9
        ends = [i + 1 for i in range(len(times) - 1) if times[i + 1] - times[i] > limit]
        edges = [0, *ends, len(times)] if times else [0]
        return [(times[a], times[b - 1] + 1) for a, b in itertools.pairwise(edges)]
    starts, stops = [], []
    for received in recording.messages([split.topic]):
        mark = field_of(received.decode(), split.field)
        if mark == split.start:
            starts.append(received.log_ns)
        elif mark == split.stop:
            stops.append(received.log_ns)
    windows = []
    for i, start in enumerate(starts):
        following = starts[i + 1] if i + 1 < len(starts) else FAR
        after = bisect.bisect_right(stops, start)
        windows.append((start, min(following, stops[after] if after < len(stops) else FAR)))
    return windows


def _detect(path: Path) -> str | None:
    files = find_recordings(path) if path.is_dir() else {path.stem: (path,)} if path.is_file() else {}
    for found in files.values():
        with found[0].open("rb") as stream:
            head = stream.read(64)
            # the daemon's own recordings say what they are, and need no map
            if head.startswith(MAGIC) and b"robopolicy.blackbox" not in head:
                return f"{found[0].name} is an MCAP file"
    return None


FORMAT = Format("mcap", McapOptions, _detect, McapSource)
