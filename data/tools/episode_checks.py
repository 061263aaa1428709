"""Checks of single stored episodes: readable, unaltered, finite, in time, frames that decode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.contents import StoreContents
from robopolicy.data.convert.source import Finding
from robopolicy.data.episode import RATE_TOLERANCE, EncodedFrames, channel_names
from robopolicy.data.shard import decode_frames
from robopolicy.data.statistics import RunningMoments
from robopolicy.data.tools.reading import EpisodeReader, Streams, episode_digest
from robopolicy.embodiment import ChannelGroup
from robopolicy.errors import DataError
from robopolicy.seeding import generator

__all__ = ["FRAMES", "BlockResult", "check_block", "range_findings"]

FRAMES = ("all", "sample", "none")
"""Which frames are decoded."""
RANGE_SLACK = 1e-3
"""Share of a channel's range by which a value may leave it without being counted."""


@dataclass
class BlockResult:
    """What was found in some episodes, and what is needed to judge the store as a whole.

    Attributes:
        findings: Of single episodes.
        frames: How many were decoded.
        rows: How many were checked.
        moments: Per float32 stream.
        outside: Stream -> rows outside the card's range, int64 [C].
    """

    findings: list[Finding] = field(default_factory=list)
    frames: int = 0
    rows: int = 0
    moments: dict[str, RunningMoments] = field(default_factory=dict)
    outside: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def merge(self, other: BlockResult) -> None:
        """Add those of the episodes that follow."""
        self.findings += other.findings
        self.frames += other.frames
        self.rows += other.rows
        for name, moments in other.moments.items():
            self.moments[name] = self.moments[name].merge(moments) if name in self.moments else moments
        for name, counts in other.outside.items():
            self.outside[name] = self.outside[name] + counts if name in self.outside else counts


def check_block(
    reader: EpisodeReader, records: Mapping[int, Mapping[str, Any]], frames: str, sample: int
) -> BlockResult:
    """Check some episodes of one store.

    Args:
        reader: Of the store.
        records: Index -> record of the episodes to check, in rising order.
        frames: One of :data:`FRAMES`.
        sample: Frames per camera and episode for ``sample``; the first and the last are always among them.
    """
    result = BlockResult()
    store = reader.store
    names = {
        name: channel_names(name, store.embodiment, store.environment_state_names, spec)
        for name, spec in reader.streams.items()
    }
    for index, record in records.items():
        streams, faults = _read(reader, index)
        result.findings += faults
        if not faults and episode_digest(streams) != record["sha256"]:
            message = "the digest of its data is not the one of its record: something was altered"
            result.findings.append(Finding("altered", message, "error", str(index), repair="drop_damaged"))
        result.findings += [f for name, values in streams.items() for f in _finite(index, name, values, names[name])]
        result.findings += _time(index, streams, store.fps)
        result.rows += int(record["length"])
        for name, values in streams.items():
            if isinstance(values, EncodedFrames):
                count, fault = _decode(index, name, values, frames, sample)
                result.frames += count
                result.findings += fault
            elif values.dtype == np.float32 and len(values):
                part = RunningMoments.of(values)
                result.moments[name] = result.moments[name].merge(part) if name in result.moments else part
                _count_outside(result, store, name, values)
    return result


def range_findings(result: BlockResult, store: StoreContents) -> Iterator[Finding]:
    """Channels of state and action that leave the range of the card, as shares of all rows."""
    for name, counts in result.outside.items():
        group = _group(store, name)
        assert group is not None
        for i in np.flatnonzero(counts):
            channel, share = group.channels[int(i)], counts[i] / max(result.rows, 1)
            message = f"'{name}' channel {channel.name} leaves [{channel.lower:g}, {channel.upper:g}] {channel.unit}"
            yield Finding("range", f"{message} in {share:.2%} of the rows", "warning", stream=name)


def _read(reader: EpisodeReader, index: int) -> tuple[Streams, list[Finding]]:
    streams: Streams = {}
    faults = []
    for name in reader.streams:
        try:
            streams[name] = reader.stream(name, index)
        except DataError as error:
            faults.append(Finding("unreadable", str(error), "error", str(index), name, "drop_damaged"))
    return streams, faults


def _finite(index: int, name: str, values: Any, channels: tuple[str, ...]) -> list[Finding]:
    if isinstance(values, EncodedFrames) or values.dtype.kind != "f":
        return []
    wrong = np.argwhere(~np.isfinite(values))
    if not len(wrong):
        return []
    row, column = (int(i) for i in wrong[0])
    channel = channels[column] if column < len(channels) else str(column)
    message = f"'{name}' is not finite at row {row}, channel {channel} ({len(wrong)} values in all)"
    return [Finding("not_finite", message, "error", str(index), name, "drop_damaged")]


def _time(index: int, streams: Streams, fps: float) -> list[Finding]:
    times = streams.get("time_ns")
    if not isinstance(times, np.ndarray) or len(times) < 2:
        return []
    steps = np.diff(times)
    if steps.min() <= 0:
        row = int(np.argmin(steps > 0)) + 1
        message = f"time_ns does not increase at row {row}: {int(times[row - 1])}, {int(times[row])}"
        return [Finding("time", message, "error", str(index), "time_ns", "time")]
    rate = len(steps) / (float(times[-1] - times[0]) * 1e-9)
    if abs(rate / fps - 1) > RATE_TOLERANCE:
        message = f"measured rate {rate:.4g} Hz, the store says {fps:g} Hz"
        return [Finding("rate", message, "warning", str(index), "time_ns")]
    return []


def _decode(index: int, name: str, frames: EncodedFrames, which: str, sample: int) -> tuple[int, list[Finding]]:
    count = len(frames)
    if which == "none" or not count:
        return 0, []
    chosen = np.arange(count)
    if which == "sample" and count > sample:
        inner = generator("validate", index, name).choice(np.arange(1, count - 1), max(sample - 2, 0), replace=False)
        chosen = np.unique(np.concatenate([[0, count - 1], inner]))
    wrong, first = 0, ""
    for i in chosen.tolist():
        try:
            decode_frames(EncodedFrames(frames.frame, (frames.blobs[i],)))
        except DataError as error:
            wrong, first = wrong + 1, first or f"frame {i}: {error}"
    if not wrong:
        return len(chosen), []
    message = f"{wrong} of {len(chosen)} frames of '{name}' cannot be decoded, {first}"
    return len(chosen), [Finding("undecodable_frame", message, "error", str(index), name, "drop_damaged")]


def _group(store: StoreContents, name: str) -> ChannelGroup | None:
    card = store.embodiment
    if name in ("joint_position", "joint_command"):
        return card.joints if len(card.joints) else None
    return {"state": card.state, "action": card.action}.get(name)


def _count_outside(result: BlockResult, store: StoreContents, name: str, values: NDArray[Any]) -> None:
    group = _group(store, name)
    if group is None or len(group) != values.shape[1]:
        return
    slack = RANGE_SLACK * (group.upper - group.lower)
    counts = ((values < group.lower - slack) | (values > group.upper + slack)).sum(axis=0)
    result.outside[name] = result.outside[name] + counts if name in result.outside else counts
