"""Everything that can be checked of a store, with a repair named where there is one. Changes nothing.

It reads one commit, so a writer may go on meanwhile. Memory is one chunk of each low-dimensional array and one episode
per thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.contents import StoreContents
from robopolicy.data.convert.source import Finding
from robopolicy.data.statistics import Statistics
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tombstones import LiveRows
from robopolicy.data.tools.episode_checks import FRAMES, BlockResult, check_block, range_findings
from robopolicy.data.tools.reading import EpisodeReader, RowReader
from robopolicy.data.tools.structure import Skeleton, check_skeleton, check_structure
from robopolicy.errors import DataError, explain

__all__ = ["MAX_PER_KIND", "Validation", "validate"]

MAX_PER_KIND = 20
"""Findings of one kind that are listed; the others are counted."""
_BLOCK = 16
_ORDER = {"error": 0, "warning": 1, "note": 2}


@dataclass
class Validation:
    """The answer.

    Attributes:
        path: Of the store.
        findings: Errors first.
        episodes, rows, frames: Checked episodes and rows, decoded frames.
    """

    path: str
    findings: list[Finding] = field(default_factory=list)
    episodes: int = 0
    rows: int = 0
    frames: int = 0

    @property
    def passed(self) -> bool:
        """Whether there is no error; warnings and notes may be there."""
        return not any(f.severity == "error" for f in self.findings)

    @property
    def damaged_episodes(self) -> list[int]:
        """Indices of the episodes with an error."""
        return sorted({int(f.episode) for f in self.findings if f.severity == "error" and f.episode})

    @property
    def repairs(self) -> list[str]:
        """Names of the repairs that the errors name."""
        return sorted({f.repair for f in self.findings if f.severity == "error" and f.repair})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        counts = Counter(f.severity for f in self.findings)
        return {
            "store": self.path,
            "passed": self.passed,
            "checked": {"episodes": self.episodes, "rows": self.rows, "frames": self.frames},
            "counts": {name: counts[name] for name in _ORDER},
            "repairs": self.repairs,
            "findings": [asdict(f) for f in self.findings],
        }

    def shown(self) -> list[Finding]:
        """The findings with at most :data:`MAX_PER_KIND` of a kind, the rest of it as a number."""
        kept: list[Finding] = []
        count = Counter[tuple[str, str]]()
        for finding in self.findings:
            kind = (finding.kind, finding.severity)
            count[kind] += 1
            if count[kind] <= MAX_PER_KIND:
                kept.append(finding)
        for (kind_name, severity), number in count.items():
            if number > MAX_PER_KIND:
                kept.append(Finding(kind_name, f"and {number - MAX_PER_KIND} more of this kind", severity))
        return kept


def validate(
    path: str | Path,
    *,
    frames: str = "sample",
    sample: int = 4,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Validation:
    """Check structure, checksums, digests of every episode, frames, time, ranges and statistics.

    Args:
        path: Of the store.
        frames: Which frames are decoded: ``all``, ``sample`` or ``none``. Their stored bytes are always hashed.
        sample: Frames per camera and episode with ``frames=sample``.
        threads: Blocks of episodes that are checked side by side.
        progress: Called with (episodes done, episodes in all).

    Raises:
        StoreNotFoundError: nothing there, or something else. A damaged store is an answer, not an error.
        DataError: an unknown choice of frames.
    """
    if frames not in FRAMES:
        raise DataError(explain("unknown choice of frames", given=frames, allowed=FRAMES))
    answer = Validation(str(path))
    try:
        store = EpisodeStore.open(path)
    except DataError as error:
        answer.findings.append(Finding("commit_record", str(error), "error"))
        return answer
    snapshot = store.snapshot
    answer.findings += check_structure(store, snapshot)
    skeleton = Skeleton(snapshot, RowReader(store))
    answer.findings += check_skeleton(skeleton, snapshot)
    if skeleton.records is not None and skeleton.spans is not None:
        result = _check_episodes(store, skeleton, (frames, sample, threads), progress)
        answer.findings += [*result.findings, *range_findings(result, store), *_statistics(store, result)]
        answer.episodes, answer.rows, answer.frames = store.num_episodes, result.rows, result.frames
    answer.findings.sort(key=lambda f: _ORDER[f.severity])
    return answer


def _check_episodes(
    store: StoreContents,
    skeleton: Skeleton,
    how: tuple[str, int, int],
    progress: Callable[[int, int], None] | None,
) -> BlockResult:
    frames, sample, threads = how
    spans, records = skeleton.spans, skeleton.records
    assert spans is not None
    assert records is not None
    live = LiveRows.of(spans[:, 1], store.tombstones).episodes
    count, done, whole = len(live), 0, BlockResult()

    def check(first: int) -> tuple[int, BlockResult]:
        some = range(first, min(first + _BLOCK * 8, count))
        reader = EpisodeReader(store, spans[live], [])
        return len(some), check_block(reader, {i: records[int(live[i])] for i in some}, frames, sample)

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for checked, result in pool.map(check, range(0, count, _BLOCK * 8)):
            whole.merge(result)
            done += checked
            if progress is not None:
                progress(done, count)
    return whole


def _statistics(store: StoreContents, result: BlockResult) -> Iterator[Finding]:
    """Stored statistics against the data; they must be those of exactly these rows."""
    if any(f.severity == "error" and f.kind in ("unreadable", "not_finite", "altered") for f in result.findings):
        message = "statistics were not compared: there are damaged episodes"
        yield Finding("statistics", message, "note")
        return
    for name, moments in result.moments.items():
        try:
            stored = store.statistics(name)
        except DataError as error:
            yield Finding("statistics", str(error), "error", stream=name, repair="statistics")
            continue
        differ = _differences(stored, moments.statistics(np.stack([moments.min, moments.max])))
        if differ:
            message = f"stored statistics of '{name}' are not those of the data: {', '.join(differ)}"
            yield Finding("statistics", message, "error", stream=name, repair="statistics")


def _differences(stored: Statistics, found: Statistics) -> list[str]:
    differ = [] if stored.count == found.count else [f"count {stored.count}, found {found.count}"]
    if stored.min.shape != found.min.shape:
        return [*differ, f"width {stored.min.shape}, found {found.min.shape}"]
    scale = np.maximum(np.abs(found.min), np.abs(found.max)) + 1e-12
    for key, tolerance in (("min", 0.0), ("max", 0.0), ("mean", 1e-9), ("std", 1e-6)):
        a, b = getattr(stored, key), getattr(found, key)
        if not (np.abs(a - b) <= tolerance * scale).all():
            i = int(np.argmax(~(np.abs(a - b) <= tolerance * scale)))
            differ.append(f"{key} of channel {i} {a[i]:.6g}, found {b[i]:.6g}")
    inside = (stored.q01 >= found.min) & (stored.q99 <= found.max) & (stored.q01 <= stored.q99)
    return differ if inside.all() else [*differ, "quantiles outside of the data"]
