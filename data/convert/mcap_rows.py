"""One episode of an MCAP recording: samples of every topic brought to the rows of one clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.align import Choice, choose, interpolate, ordered, row_times, slerp
from robopolicy.data.convert.mcap_decode import Frame, frame_of, numbers_of, stamp_of
from robopolicy.data.convert.mcap_map import ImagePart, Part, TopicMap, stamp_stream
from robopolicy.data.convert.mcap_reader import Recording
from robopolicy.data.convert.source import Finding
from robopolicy.data.convert.unify import gripper_opening, pose_channels
from robopolicy.data.episode import EncodedFrames
from robopolicy.errors import DataError, explain

__all__ = ["Aligned", "align_episode"]

CLOCK_LIMIT_NS = 1_000_000_000


@dataclass
class _Track:
    """The samples of one topic."""

    stamps: list[int] = field(default_factory=list)
    logs: list[int] = field(default_factory=list)
    values: dict[Part, list[NDArray[np.float64]]] = field(default_factory=dict)
    order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    times_ns: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass
class Aligned:
    """Rows of one episode.

    Attributes:
        time_ns: int64 [T].
        numbers: Stream -> part -> [T, C].
        frames: Stream -> frames of the rows.
        stamps: Stream of stamps -> int64 [T].
        language: Text found, or None.
        success: Label found, or None.
        report: Per topic: samples, rate, order, delay, ages; JSON.
        findings: What a user should know.
    """

    time_ns: NDArray[np.int64]
    numbers: dict[str, list[NDArray[np.float64]]]
    frames: dict[str, NDArray[Any] | EncodedFrames]
    stamps: dict[str, NDArray[np.int64]]
    language: str | None
    success: bool | None
    report: dict[str, Any]
    findings: list[Finding]


def align_episode(
    recording: Recording,
    topics: TopicMap,
    window: tuple[int, int],
    sizes: dict[str, tuple[int, int]],
    episode: str,
) -> Aligned:
    """Read the messages of a window of log times and make rows of them.

    Args:
        recording: Where from.
        topics: What for.
        window: Log times, first and one past the last.
        sizes: Stream of frames -> (height, width) that its frames must have.
        episode: Id, for messages.

    Raises:
        DataError: a silent topic, no time in common, fields that are missing, frames of another size.
    """
    tracks, texts = _collect(recording, topics, window)
    out = Aligned(np.empty(0, np.int64), {}, {}, {}, texts.get("language"), texts.get("success"), {}, [])
    for name, track in tracks.items():
        _order(name, track, topics, episode, out)
    step_ns = round(1e9 / topics.rate_hz)
    out.time_ns = _clock(tracks, topics, step_ns)
    for stream, section in topics.sections().items():
        out.numbers[stream] = [_rows(tracks, topics, stream, part, step_ns, episode, out) for part in section]
    chosen = {}
    for stream, image in topics.frames().items():
        choice = _choice(tracks, topics, stream, image, step_ns, episode, out)
        chosen[stream] = tracks[image.topic].order[choice.before]
    for stream, frames in _read_frames(recording, topics, window, chosen).items():
        out.frames[stream] = _stacked(stream, frames, chosen[stream], sizes[stream], episode)
    return out


def _collect(
    recording: Recording, topics: TopicMap, window: tuple[int, int]
) -> tuple[dict[str, _Track], dict[str, Any]]:
    """Stamps of every topic and numbers of the low-dimensional ones; frames are not kept."""
    parts: dict[str, list[Part]] = {}
    for section in topics.sections().values():
        for part in section:
            parts.setdefault(part.topic, []).append(part)
    everything: list[Part | ImagePart] = [*(q for s in parts.values() for q in s), *topics.frames().values()]
    stamp_paths = {p.topic: p.stamp for p in everything}
    labels = {k: p for k, p in (("language", topics.language), ("success", topics.success)) if p is not None}
    texts: dict[str, Any] = {}
    timed = {*stamp_paths, *([topics.clock] if topics.clock else [])}
    tracks = {name: _Track(values={p: [] for p in parts.get(name, [])}) for name in timed}
    for received in recording.messages(topics.topics(), *window):
        track = tracks.get(received.topic)
        needed = topics.time == "header" or (track is not None and track.values) or track is None
        message = received.decode() if needed else None
        for key, label in labels.items():
            if label.topic == received.topic:
                texts[key] = _label(key, received.decode(), label.field)
        if track is None:
            continue
        track.stamps.append(_stamp(received, message, topics.time, stamp_paths.get(received.topic, "")))
        track.logs.append(received.log_ns)
        for part, values in track.values.items():
            values.append(numbers_of(message, part))
    return tracks, texts


def _label(key: str, message: Any, path: str) -> Any:
    from robopolicy.data.convert.mcap_decode import field_of

    value = field_of(message, path)
    if key == "language":
        return str(value)
    if not isinstance(value, (bool, int)) or int(value) not in (0, 1):
        raise DataError(explain("the label of success is no truth value", given=value))
    return bool(value)


def _stamp(received: Any, message: Any, time: str, path: str) -> int:
    if time != "header":
        return int(received.log_ns if time == "log" else received.publish_ns)
    stamp = stamp_of(message, path)
    if stamp is None or stamp == 0:
        what = "no time of capture" if stamp is None else "a time of capture that was never set"
        raise DataError(
            explain(
                f"messages of topic {received.topic} have {what}",
                mend="name its field (stamp: path) in the map, or use 'time: log'",
            )
        )
    return stamp


def _order(name: str, track: _Track, topics: TopicMap, episode: str, out: Aligned) -> None:
    """Sort a topic's samples by stamp and say what its clock is like."""
    if not track.stamps:
        raise DataError(explain(f"episode {episode}: topic {name} is silent", mend="leave it out of the map"))
    stamps = np.array(track.stamps, np.int64)
    track.order, backwards = ordered(stamps)
    track.times_ns = stamps[track.order]
    delay = np.array(track.logs, np.int64) - stamps
    seconds = (track.times_ns[-1] - track.times_ns[0]) / 1e9
    out.report[name] = {
        "samples": len(stamps),
        "rate_hz": round((len(track.times_ns) - 1) / seconds, 4) if seconds > 0 else None,
        "longest_gap_s": round(float(np.diff(track.times_ns).max()) / 1e9, 6) if len(track.times_ns) > 1 else None,
        "out_of_order": backwards,
        "same_stamp": len(stamps) - len(track.order),
        "log_minus_stamp_s": {"median": float(np.median(delay)) / 1e9, "max": float(delay.max()) / 1e9},
    }
    if backwards:
        text = f"{backwards} of {len(stamps)} messages of {name} carry an earlier time than the one before; sorted"
        out.findings.append(Finding("time_order", text, "warning", episode, name))
    if topics.time == "header" and abs(np.median(delay)) > CLOCK_LIMIT_NS:
        text = f"times of capture of {name} lie {np.median(delay) / 1e9:.3f} s before those of the log: another clock?"
        out.findings.append(Finding("clock", text, "warning", episode, name))


def _clock(tracks: dict[str, _Track], topics: TopicMap, step_ns: int) -> NDArray[np.int64]:
    """Rows over the time that every stream covers."""
    first, last = [], []
    streams: dict[str, tuple[Part | ImagePart, ...]] = {s: tuple(p) for s, p in topics.sections().items()}
    streams |= {s: (p,) for s, p in topics.frames().items()}
    for stream, parts in streams.items():
        for part in parts:
            times = tracks[part.topic].times_ns
            early = step_ns if topics.rule_of(stream, part) == "step_end" else 0
            first.append(int(times[0]) - early)
            last.append(int(times[-1]) - early)
    if not topics.clock:
        return row_times(max(first), min(last), topics.rate_hz)
    times = tracks[topics.clock].times_ns
    rows = times[(times >= max(first)) & (times <= min(last))]
    if not len(rows):
        row_times(max(first), min(last), topics.rate_hz)
        raise DataError(explain(f"the clock {topics.clock} has no message while all topics are there"))
    return rows


def _choice(
    tracks: dict[str, _Track],
    topics: TopicMap,
    stream: str,
    part: Part | ImagePart,
    step_ns: int,
    episode: str,
    out: Aligned,
) -> Choice:
    rule = topics.rule_of(stream, part)
    choice = choose(tracks[part.topic].times_ns, out.time_ns, rule, step_ns)
    out.stamps[stamp_stream(part.topic, rule)] = choice.stamp_ns
    ages = choice.age_ns / 1e9
    out.report[part.topic].setdefault("rows", {})[rule] = {
        "age_mean_s": round(float(ages.mean()), 6),
        "age_max_s": round(float(ages.max()), 6),
    }
    limit = part.max_age_s or topics.max_age_s
    stale = int((ages > limit).sum())
    if stale:
        at = int(np.argmax(ages))
        text = (
            f"{stale} of {len(ages)} rows of {stream} would use samples of {part.topic} older than {limit:g} s, "
            f"the worst {ages[at]:.3f} s at row {at}"
        )
        out.findings.append(Finding("gap", text, "error", episode, stream, "stale_samples"))
    return choice


def _rows(
    tracks: dict[str, _Track], topics: TopicMap, stream: str, part: Part, step_ns: int, episode: str, out: Aligned
) -> NDArray[np.float64]:
    choice = _choice(tracks, topics, stream, part, step_ns, episode, out)
    track = tracks[part.topic]
    samples = np.stack(track.values[part])[track.order]
    if part.pose:
        return pose_channels(interpolate(samples[:, :3], choice), slerp(samples[:, 3:], choice))
    rows = interpolate(samples, choice)
    if part.closed is None or part.opened is None:
        return rows
    return gripper_opening(rows, closed=part.closed, opened=part.opened)


def _read_frames(
    recording: Recording, topics: TopicMap, window: tuple[int, int], chosen: dict[str, NDArray[np.int64]]
) -> dict[str, dict[int, Frame]]:
    """A second pass over the topics of frames, which keeps those that a row uses: ordinal -> frame."""
    parts = topics.frames()
    wanted = {stream: set(ordinals.tolist()) for stream, ordinals in chosen.items()}
    kept: dict[str, dict[int, Frame]] = {stream: {} for stream in parts}
    seen: dict[str, int] = {}
    names = tuple(dict.fromkeys(p.topic for p in parts.values()))
    for received in recording.messages(names, *window) if names else ():
        ordinal = seen.get(received.topic, 0)
        seen[received.topic] = ordinal + 1
        for stream, part in parts.items():
            if part.topic == received.topic and ordinal in wanted[stream]:
                try:
                    kept[stream][ordinal] = frame_of(received.decode(), stream.startswith("depth/"))
                except DataError as error:
                    raise DataError(f"topic {part.topic}, message {ordinal}: {error}") from error
    return kept


def _stacked(
    stream: str, frames: dict[int, Frame], ordinals: NDArray[np.int64], size: tuple[int, int], episode: str
) -> NDArray[Any] | EncodedFrames:
    """JPEG files as they are where all are, else pixels [T, H, W, C]."""
    for ordinal, frame in frames.items():
        if frame.size != size:
            raise DataError(
                explain(
                    f"episode {episode}: message {ordinal} of {stream} is of another size",
                    given=frame.size,
                    allowed=size,
                )
            )
    rows = [frames[i] for i in ordinals.tolist()]
    if all(frame.jpeg for frame in rows):
        return EncodedFrames((*size, 3), tuple(frame.jpeg for frame in rows))
    decoded = {i: frame.decoded() for i, frame in frames.items()}
    return np.stack([decoded[i] for i in ordinals.tolist()])
