"""Commanded against measured, joint by joint: how late the arm is, and how far off once that is taken out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.blackbox_log import BlackBoxLog
from robopolicy.data.convert.blackbox_rows import Motion
from robopolicy.errors import DeployError, explain

__all__ = ["JointDifference", "compare_motion", "lag_s", "table"]

STEP_S = 0.002
LONGEST_LAG_S = 0.6
STILL = 2e-3
"""A joint that moves less than this in all says nothing of lag, in its unit."""
LONGEST_S = 120.0

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class JointDifference:
    """One joint over the streamed part of a recording.

    Attributes:
        joint: Name.
        unit: Of what follows.
        range: Peak to peak of what was commanded.
        lag_ms: By which the measurement follows the command, from cross-correlation; None for a joint that stood still.
        correlation: At that lag; a low one says that the lag means nothing.
        rms, max: Commanded less measured at the same time.
        rms_after_lag: The same once the lag is taken out: what the servo does not follow at all.
    """

    joint: str
    unit: str
    range: float
    lag_ms: float | None
    correlation: float | None
    rms: float
    max: float
    rms_after_lag: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def compare_motion(log: BlackBoxLog) -> list[JointDifference]:
    """Every joint of a recording, over its longest stretch of streaming (two minutes of it at most).

    Raises:
        DeployError: nothing was streamed for as long as half a second.
    """
    motion, card = Motion(log), log.card
    start_ns, stop_ns = _streamed(motion)
    times = np.arange(start_ns, stop_ns, round(STEP_S * 1e9), dtype=np.int64)
    commanded, measured = motion.setpoints(times), motion.measured(times)
    return [
        _joint(channel.name, channel.unit, commanded[:, i], measured[:, i])
        for i, channel in enumerate(card.joints.channels)
    ]


def lag_s(commanded: Vector, measured: Vector, step_s: float = STEP_S) -> tuple[float, float]:
    """By how much ``measured`` [T] follows ``commanded`` [T], from the peak of their normalised cross-correlation.

    Between two samples the peak is that of the parabola through three.

    Returns:
        (lag in s, correlation there).
    """
    most = min(round(LONGEST_LAG_S / step_s), len(commanded) // 3)
    a, scores = commanded[: len(commanded) - most], []
    a = a - a.mean()
    for shift in range(most + 1):
        b = measured[shift : shift + len(a)]
        b = b - b.mean()
        size = float(np.sqrt((a @ a) * (b @ b)))
        scores.append(float(a @ b) / size if size > 0 else 0.0)
    best = int(np.argmax(scores))
    fraction = 0.0
    if 0 < best < most:
        before, here, after = scores[best - 1 : best + 2]
        bend = before - 2 * here + after
        fraction = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return (best + fraction) * step_s, scores[best]


def table(joints: list[JointDifference]) -> str:
    """Lines for a person."""
    lines = [f"{'joint':<14} {'range':>9} {'lag':>9} {'rms':>10} {'max':>10} {'rms w/o lag':>12}"]
    for j in joints:
        lag = "-" if j.lag_ms is None else f"{j.lag_ms:.1f} ms"
        values = f"{j.range:9.4f} {lag:>9} {j.rms:10.5f} {j.max:10.5f} {j.rms_after_lag:12.5f}"
        lines.append(f"{j.joint:<14} {values}  {j.unit}")
    return "\n".join(lines)


def _streamed(motion: Motion) -> tuple[int, int]:
    """Longest stretch without a hole in the setpoints."""
    sent = motion.tape["t_setpoint_ns"][(motion.tape["calls"] & 1) > 0]
    found = (0, 0)
    if len(sent) > 1:
        gaps = np.diff(sent)
        edges = np.concatenate([[0], np.flatnonzero(gaps > 20 * np.median(gaps)) + 1, [len(sent)]])
        pieces = [(int(sent[a]), int(sent[b - 1])) for a, b in pairwise(edges.tolist())]
        found = max(pieces, key=lambda piece: piece[1] - piece[0])
    if found[1] - found[0] < 5e8:
        raise DeployError(
            explain("nothing was streamed long enough to compare", given=f"{(found[1] - found[0]) / 1e9:.2f} s")
        )
    return found[0], min(found[1], found[0] + round(LONGEST_S * 1e9))


def _joint(name: str, unit: str, commanded: Vector, measured: Vector) -> JointDifference:
    error = commanded - measured
    lag: float | None = None
    correlation: float | None = None
    after = error
    if float(np.ptp(commanded)) > STILL and float(np.ptp(measured)) > STILL:
        lag, correlation = lag_s(commanded, measured)
        shift = round(lag / STEP_S)
        after = commanded[: len(commanded) - shift] - measured[shift:]
    return JointDifference(
        joint=name,
        unit=unit,
        range=float(np.ptp(commanded)),
        lag_ms=None if lag is None else lag * 1e3,
        correlation=correlation,
        rms=float(np.sqrt(np.mean(error**2))),
        max=float(np.abs(error).max()),
        rms_after_lag=float(np.sqrt(np.mean(after**2))),
    )
