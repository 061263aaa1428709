"""What is looked for in every canonical episode: plain numbers about one episode, later put together by ``audit``.

Nothing here judges a single episode, because most faults only show over many: a channel that never moves, a clock that
drifts, degrees where radians are promised. Images are not read, but for the mean colour of one frame per camera.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import decode_jpeg
from robopolicy.data.episode import EncodedFrames, Episode, StreamSpec
from robopolicy.embodiment import Embodiment

__all__ = ["MAX_CHANNELS", "ChannelInfo", "CheckPlan", "check_canonical", "check_plan", "state_action_lag"]

MAX_CHANNELS = 128
"""Wider streams (embeddings) are not looked at channel by channel."""
LAGS = range(-2, 16)
"""Rows by which the state may follow the action; negative means that the action follows the state."""
_STILL = {"m": 2e-4, "rad": 1e-3}
_Array = NDArray[np.float64]


@dataclass(frozen=True)
class ChannelInfo:
    """What a check knows of one channel.

    Attributes:
        name, unit: As on the card.
        lower, upper: Limits; infinite when the card states none worth the name.
    """

    name: str
    unit: str = ""
    lower: float = -np.inf
    upper: float = np.inf


@dataclass(frozen=True)
class CheckPlan:
    """Streams that are looked at, with their channels, and the nominal rate."""

    fps: float
    streams: Mapping[str, tuple[ChannelInfo, ...]]


def check_plan(embodiment: Embodiment, fps: float, streams: Mapping[str, StreamSpec]) -> CheckPlan:
    """The plan for a store with this card and these streams."""
    groups = {
        "state": embodiment.state,
        "action": embodiment.action,
        "joint_position": embodiment.joints,
        "joint_command": embodiment.joints,
    }
    plan: dict[str, tuple[ChannelInfo, ...]] = {}
    for name, spec in streams.items():
        if spec.dtype != "float32" or not spec.shape or not 0 < spec.shape[0] <= MAX_CHANNELS:
            continue
        if name in groups:
            plan[name] = tuple(ChannelInfo(c.name, c.unit, *_limits(c.lower, c.upper)) for c in groups[name].channels)
        else:
            names = spec.channels or tuple(map(str, range(spec.shape[0])))
            units = spec.units or ("",) * len(names)
            plan[name] = tuple(ChannelInfo(n, u) for n, u in zip(names, units, strict=True))
    return CheckPlan(fps, plan)


def _limits(lower: float, upper: float) -> tuple[float, float]:
    return (lower, upper) if max(abs(lower), abs(upper)) < 1e8 else (-np.inf, np.inf)


def check_canonical(episode: Episode, plan: CheckPlan) -> dict[str, Any]:
    """Look at one episode.

    Args:
        episode: As it will be appended.
        plan: Its streams.

    Returns:
        Plain JSON: ``rows``, ``hash`` (of state and action), ``time`` (rate, drift, jitter, gaps), ``constant`` and
        ``at_limit`` per stream (channel -> value, or fraction of rows), ``range`` of the channels with a unit that can
        be judged, ``idle`` (fraction of rows), ``lag`` (rows that the state follows the action), ``colour``.
    """
    numbers: dict[str, _Array] = {}
    for name, channels in plan.streams.items():
        values = episode.streams.get(name)
        if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == len(channels) and len(values):
            numbers[name] = np.asarray(values, np.float64)
    result: dict[str, Any] = {
        "rows": len(next(iter(episode.streams.values()), ())),
        "hash": _hash(numbers),
        "time": _time(np.asarray(episode.streams["time_ns"]), plan.fps) if "time_ns" in episode.streams else {},
        "constant": {},
        "at_limit": {},
    }
    for name, values in numbers.items():
        channels = plan.streams[name]
        if constant := _constant(values, channels):
            result["constant"][name] = constant
        if limited := _at_limit(values, channels):
            result["at_limit"][name] = limited
    result["idle"] = _idle(numbers, plan)
    lag = state_action_lag(numbers.get("state"), numbers.get("action"), plan)
    if lag is not None:
        result["lag"] = lag
    if colour := _colour(episode):
        result["colour"] = colour
    return result


def _hash(numbers: Mapping[str, _Array]) -> str:
    digest = hashlib.sha256()
    for name in ("state", "action"):
        if name in numbers:
            digest.update(numbers[name].astype("<f4").tobytes())
    return digest.hexdigest()[:16]


def _time(time_ns: NDArray[np.int64], fps: float) -> dict[str, float]:
    """Rate over the episode, drift from its first to its last third, jitter and gaps; ``noise`` is how far random
    periods alone would move rate and drift (one standard error, relative).
    """
    steps = np.diff(time_ns).astype(np.float64) * 1e-9
    if not len(steps) or steps.min() <= 0:
        return {}
    third = max(len(steps) // 3, 1)
    return {
        "rate_hz": _short(1.0 / steps.mean()),
        "drift": _short(steps[-third:].mean() / steps[:third].mean() - 1.0),
        "jitter": _short(steps.std() * fps),
        "noise": _short(steps.std() / steps.mean() * np.sqrt(2.0 / third)),
        "gaps": int((steps > 1.5 / fps).sum()),
    }


def _constant(values: _Array, channels: tuple[ChannelInfo, ...]) -> dict[str, float]:
    """Channels that have one value from the first row to the last; a single row says nothing."""
    if len(values) < 2:
        return {}
    still = (values == values[0]).all(axis=0)
    return {channels[i].name: _short(values[0, i]) for i in np.flatnonzero(still)}


def _at_limit(values: _Array, channels: tuple[ChannelInfo, ...]) -> dict[str, float]:
    """Channel -> fraction of rows at or beyond the card's limits; where there are none, at the episode's own extremes.

    The extremes count only for channels with more than eight values, so that a gripper that is open or closed is not
    called clipped.
    """
    found = {}
    lower, upper = np.array([c.lower for c in channels]), np.array([c.upper for c in channels])
    own_low, own_high = values.min(axis=0), values.max(axis=0)
    for i, channel in enumerate(channels):
        column = values[:, i]
        bounded = bool(np.isfinite([lower[i], upper[i]]).all())
        low, high = (lower[i], upper[i]) if bounded else (own_low[i], own_high[i])
        if own_low[i] == own_high[i] or len(np.unique(column)) <= 8:
            continue
        margin = 1e-6 * (high - low)
        fraction = float(((column <= low + margin) | (column >= high - margin)).mean())
        # the extremes themselves are always reached once each
        if fraction > (0.0 if bounded else 0.05 + 2.0 / len(column)):
            found[channel.name] = _short(fraction)
    return found


def _idle(numbers: Mapping[str, _Array], plan: CheckPlan) -> float:
    """Fraction of steps in which neither state nor action moves by more than 1 mrad, 0.2 mm or 0.001 of others."""
    still: NDArray[np.bool_] | None = None
    for name in ("state", "action"):
        if name not in numbers or len(numbers[name]) < 2:
            continue
        thresholds = np.array([_STILL.get(c.unit, 1e-3) for c in plan.streams[name]])
        quiet = np.asarray((np.abs(np.diff(numbers[name], axis=0)) <= thresholds).all(axis=1))
        still = quiet if still is None else still & quiet
    return _short(still.mean()) if still is not None else 0.0


def state_action_lag(state: _Array | None, action: _Array | None, plan: CheckPlan) -> dict[str, float] | None:
    """Rows by which the measured state follows the action, by cross-correlation of their steps.

    Channels are matched by name; each is weighted alike. Positive is what a controller does; negative means that the
    action was taken from the past.

    Args:
        state: [T, S] or None.
        action: [T, A] or None.
        plan: Names of their channels.

    Returns:
        ``rows`` (the best lag) and ``correlation`` there, or None when nothing can be compared.
    """
    if state is None or action is None or len(state) < 4 * len(LAGS):
        return None
    names = {c.name: i for i, c in enumerate(plan.streams["state"])}
    pairs = [(names[c.name], i) for i, c in enumerate(plan.streams["action"]) if c.name in names]
    ds, da = (np.diff(v, axis=0) for v in (state, action))
    moving = [(s, a) for s, a in pairs if ds[:, s].std() > 1e-9 and da[:, a].std() > 1e-9]
    if not moving:
        return None
    s = ds[:, [m[0] for m in moving]]
    a = da[:, [m[1] for m in moving]]
    s, a = ((v - v.mean(axis=0)) / v.std(axis=0) for v in (s, a))
    first, last = -LAGS.start, LAGS.stop - 1
    core = a[first : len(a) - last]
    scores = [float((core * s[first + k : first + k + len(core)]).mean()) for k in LAGS]
    best = int(np.argmax(scores))
    return {"rows": LAGS[best], "correlation": _short(scores[best])}


def _colour(episode: Episode) -> dict[str, list[float]]:
    """Camera -> mean red, green and blue of its middle frame."""
    found = {}
    for name, frames in episode.streams.items():
        if not name.startswith("image/") or not len(frames):
            continue
        middle = len(frames) // 2
        if isinstance(frames, EncodedFrames):
            frame = np.empty(frames.frame, np.uint8)
            decode_jpeg(frames.blobs[middle], frame)
        else:
            frame = frames[middle]
        if frame.shape[-1] == 3:
            found[name.removeprefix("image/")] = [round(float(m), 1) for m in frame.reshape(-1, 3).mean(axis=0)]
    return found


def _short(value: Any) -> float:
    """Six significant digits; what is not finite becomes 0, because the audit is strict JSON."""
    number = float(value)
    return float(f"{number:.6g}") if np.isfinite(number) else 0.0
