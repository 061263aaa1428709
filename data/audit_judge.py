"""From the numbers of single episodes to findings about a whole store."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from robopolicy.data.audit_checks import CheckPlan, check_plan
from robopolicy.data.convert.source import Finding
from robopolicy.data.store import EpisodeStore

__all__ = ["judge"]

Checks = Mapping[str, Mapping[str, Any]]
_MOVED = ("state", "action", "joint_position", "joint_command")
"""Streams of which every channel should move; a reward or an embedding may well stand still."""


def judge(store: EpisodeStore, checks: Checks) -> tuple[list[Finding], dict[str, Any]]:
    """Findings over all episodes, and what is known of every stream.

    Args:
        store: Its statistics cover every committed row, also of runs whose checks are not known.
        checks: Source id -> result of :func:`robopolicy.data.audit_checks.check_canonical`.
    """
    plan = check_plan(store.embodiment, store.fps, store.streams)
    streams = _streams(store, plan, checks)
    findings = [
        *_constants(streams, len(checks)),
        *_units(streams),
        *_clipped(streams),
        *_clocks(store.fps, checks),
        *_lags(store, checks),
        *_idle(checks),
        *_duplicates(checks),
        *_colours(checks),
    ]
    return findings, streams


def _streams(store: EpisodeStore, plan: CheckPlan, checks: Checks) -> dict[str, Any]:
    """Stream -> channel -> range, unit, in how many episodes it never moved, fraction of rows at a limit."""
    still: dict[tuple[str, str], int] = Counter()
    limited: dict[tuple[str, str], float] = defaultdict(float)
    rows = sum(entry["rows"] for entry in checks.values())
    for entry in checks.values():
        for name, channels in entry["constant"].items():
            still.update((name, channel) for channel in channels)
        for name, channels in entry["at_limit"].items():
            for channel, fraction in channels.items():
                limited[name, channel] += fraction * entry["rows"] / max(rows, 1)
    found: dict[str, Any] = {}
    for name, channels in plan.streams.items():
        if not store.num_episodes:
            continue
        statistics = store.statistics(name)
        found[name] = {
            channel.name: {
                "unit": channel.unit,
                "min": float(statistics.min[i]),
                "max": float(statistics.max[i]),
                "mean": float(statistics.mean[i]),
                "std": float(statistics.std[i]),
                "constant_episodes": still[name, channel.name],
                "at_limit": round(limited[name, channel.name], 5),
            }
            for i, channel in enumerate(channels)
        }
    return found


def _constants(streams: Mapping[str, Any], episodes: int) -> list[Finding]:
    findings = []
    for name, channels in streams.items():
        everywhere = [c for c, e in channels.items() if e["min"] == e["max"]]
        inside = [c for c, e in channels.items() if e["constant_episodes"] and c not in everywhere]
        if everywhere:
            text = f"{len(everywhere)} of {len(channels)} channels have one value in all rows: {_some(everywhere)}"
            findings.append(Finding("constant_channel", text, "warning" if name in _MOVED else "note", stream=name))
        if inside:
            worst = max(inside, key=lambda c: channels[c]["constant_episodes"])
            text = (
                f"{len(inside)} of {len(channels)} channels stand still through whole episodes: {_some(inside)}; "
                f"{worst} in {channels[worst]['constant_episodes']} of {episodes}"
            )
            always = channels[worst]["constant_episodes"] == episodes
            severity = "warning" if always and name in _MOVED else "note"
            findings.append(Finding("stuck_channel", text, severity, stream=name))
    return findings


def _units(streams: Mapping[str, Any]) -> list[Finding]:
    """Degrees for radians, millimetres for metres, a gripper that is not between 0 and 1; by range alone."""
    findings = []
    for name, channels in streams.items():
        wide: dict[str, list[str]] = defaultdict(list)
        for channel, entry in channels.items():
            largest = max(abs(entry["min"]), abs(entry["max"]))
            if entry["unit"] == "rad" and largest > 2 * np.pi + 0.1:
                wide["rad"].append(f"{channel} {largest:.4g}")
            elif entry["unit"] == "m" and largest > 10.0:
                wide["m"].append(f"{channel} {largest:.4g}")
            elif entry["unit"] == "normalised" and (entry["min"] < -0.01 or entry["max"] > 1.01):
                wide["normalised"].append(f"{channel} {entry['min']:.4g} to {entry['max']:.4g}")
            elif entry["unit"] in ("", "unknown") and name in ("state", "action") and largest > 2 * np.pi + 0.1:
                wide["unknown"].append(f"{channel} {largest:.4g}")
        words = {
            "rad": ("values beyond 2 pi: degrees, or a joint that winds?", "units", "warning"),
            "m": ("values beyond 10 m: millimetres?", "units", "warning"),
            "normalised": ("outside of 0 (closed) to 1 (open)", "gripper_range", "warning"),
            "unknown": ("unit not stated, values beyond 2 pi: not radians if these are joints", "units", "note"),
        }
        for unit, entries in wide.items():
            text, kind, severity = words[unit]
            findings.append(Finding(kind, f"{_some(entries)}: {text}", severity, stream=name))
    return findings


def _clipped(streams: Mapping[str, Any]) -> list[Finding]:
    findings = []
    for name, channels in streams.items():
        cut = {c: e["at_limit"] for c, e in channels.items() if e["at_limit"] >= 0.01}
        if cut:
            listed = _some([f"{c} {f:.1%}" for c, f in sorted(cut.items(), key=lambda item: -item[1])])
            severity = "warning" if max(cut.values()) >= 0.1 else "note"
            findings.append(Finding("clipped", f"rows at a limit or an extreme value: {listed}", severity, stream=name))
    return findings


def _clocks(fps: float, checks: Checks) -> list[Finding]:
    clocks = {name: entry["time"] for name, entry in checks.items() if entry.get("time")}
    if not clocks:
        return []
    findings = []
    for kind, what, measure, limit in (
        (
            "rate_drift",
            "the period changes from the first to the last third",
            lambda c: _beyond(abs(c["drift"]), c),
            0.02,
        ),
        ("rate", f"the measured rate is not {fps:g} Hz", lambda c: _beyond(abs(c["rate_hz"] / fps - 1), c), 0.02),
        ("jitter", "periods scatter (standard deviation over the nominal period)", lambda c: c["jitter"], 0.2),
    ):
        off = {name: measure(clock) for name, clock in clocks.items() if measure(clock) > limit}
        if off:
            worst = max(off, key=lambda name: off[name])
            text = f"{what} in {len(off)} of {len(clocks)} episodes, most in {worst}: {off[worst]:.1%}"
            findings.append(Finding(kind, text, "warning", episode=worst, stream="time_ns"))
    gaps = {name: clock["gaps"] for name, clock in clocks.items() if clock["gaps"]}
    if gaps:
        worst = max(gaps, key=lambda name: gaps[name])
        text = f"{sum(gaps.values())} periods are longer than 1.5 nominal ones, {gaps[worst]} of them in {worst}"
        findings.append(Finding("gap", text, "note", episode=worst, stream="time_ns"))
    return findings


def _beyond(deviation: float, clock: Mapping[str, float]) -> float:
    """``deviation`` where it is more than jitter explains, otherwise 0."""
    return deviation if deviation > 3.0 * clock["noise"] else 0.0


def _lags(store: EpisodeStore, checks: Checks) -> list[Finding]:
    lags = [entry["lag"] for entry in checks.values() if entry.get("lag", {}).get("correlation", 0.0) > 0.2]
    if not lags:
        return []
    median = float(np.median([lag["rows"] for lag in lags]))
    text = (
        f"the state follows the action by {median:g} rows ({median / store.fps:.3g} s), median of {len(lags)} episodes"
    )
    if median < 0:
        text += ": the action comes after the state it belongs to; a row shift?"
    return [Finding("lag", text, "warning" if median < 0 else "note", stream="action")]


def _idle(checks: Checks) -> list[Finding]:
    idle = {name: entry["idle"] for name, entry in checks.items()}
    if not idle:
        return []
    rows = {name: entry["rows"] for name, entry in checks.items()}
    share = sum(idle[n] * rows[n] for n in idle) / max(sum(rows.values()), 1)
    if share < 0.1:
        return []
    worst = max(idle, key=lambda name: idle[name])
    text = f"in {share:.0%} of all rows nothing moves; most in {worst}: {idle[worst]:.0%}"
    return [Finding("idle", text, "note", episode=worst)]


def _duplicates(checks: Checks) -> list[Finding]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name, entry in checks.items():
        groups[entry["hash"]].append(name)
    return [
        Finding("duplicate_episode", f"same state and action: {_some(names)}", "warning", episode=names[1])
        for names in groups.values()
        if len(names) > 1
    ]


def _colours(checks: Checks) -> list[Finding]:
    """A scene that is much bluer than red in nearly every episode may have its channels swapped. Only a note."""
    blue: dict[str, list[bool]] = defaultdict(list)
    for entry in checks.values():
        for camera, (red, _, cold) in entry.get("colour", {}).items():
            blue[camera].append(cold > 1.15 * red + 2)
    findings = []
    for camera, flags in blue.items():
        if len(flags) >= 3 and np.mean(flags) > 0.9:
            text = f"{sum(flags)} of {len(flags)} frames looked at are more blue than red: BGR, or a blue scene"
            findings.append(Finding("colour_order", text, "note", stream=f"image/{camera}"))
    return findings


def _some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
