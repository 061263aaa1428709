"""The replay buffer of diffusion_policy, UMI and RDP: ``data/<key>`` [N, ...] and ``meta/episode_ends`` [E].

Every array holds the rows of all episodes one after the other; ``episode_ends`` are cumulative. Layout and rules:
https://github.com/real-stanford/diffusion_policy, ``diffusion_policy/common/replay_buffer.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.source import Finding
from robopolicy.data.convert.zarr_v2 import ArrayHeader, ZarrV2, find_array
from robopolicy.errors import DataError, explain
from robopolicy.schema import setting

__all__ = ["ReplayBuffer", "ReplayOptions", "channel_list", "find_buffer", "regular_time_ns", "usable_stamps"]

ENDS = "meta/episode_ends"
FOLDER_NAMES = ("replay_buffer.zarr", "replay_buffer.zarr.zip", "dataset.zarr.zip", "dataset.zarr")


@dataclass(frozen=True)
class ReplayOptions:
    """Options that every data set of this kind has."""

    length_mismatch: Literal["refuse", "truncate"] = setting(
        "arrays or episode_ends of unequal lengths: refuse, or keep the rows that all of them have", default="refuse"
    )
    language: str = setting("instruction given to every episode; the files have none", default="")
    success: bool | None = setting("label given to every episode; the files have none", default=None)


def find_buffer(path: Path) -> tuple[Path, str] | None:
    """The zarr group at ``path`` or under a usual name inside that folder, as (folder or zip, place within it)."""
    for candidate in (path, *(path / name for name in FOLDER_NAMES)):
        root = find_array(candidate, ENDS)
        if root is not None:
            return candidate, root
    return None


@dataclass
class ReplayBuffer:
    """An open replay buffer, checked.

    Attributes:
        group: The zarr group.
        ends: int64 [E] cumulative, strictly increasing for episodes that have rows.
        arrays: Key -> header of every ``data/*`` array.
        findings: What was found while opening.
        declared: Episodes that the file says it has.
    """

    group: ZarrV2
    ends: NDArray[np.int64]
    arrays: Mapping[str, ArrayHeader]
    findings: list[Finding] = field(default_factory=list)
    declared: int = 0

    @classmethod
    def open(cls, path: Path, options: ReplayOptions) -> ReplayBuffer:
        """Open and compare lengths.

        Raises:
            DataError: nothing of the kind there, ends that decrease, or lengths that differ and no repair chosen.
        """
        found = find_buffer(path)
        if found is None:
            mend = "give the folder or .zarr.zip file that holds data/ and meta/episode_ends (zarr v2)"
            if path.is_file():
                ZarrV2(path).close()  # says what is wrong with a zip file that is cut
            raise DataError(explain(f"{path} is not a replay buffer", mend=mend))
        group = ZarrV2(*found)
        try:
            header = group.header(ENDS)
            if header.dtype.kind not in "iu" or len(header.shape) != 1:
                raise DataError(
                    explain(f"{path}: {ENDS} must be whole numbers [E]", given=(header.dtype, header.shape))
                )
            ends = group.read(ENDS, 0, header.rows).astype(np.int64) if header.rows else np.empty(0, np.int64)
            buffer = cls(group, ends, group.arrays("data"), declared=len(ends))
            buffer._check(path, options)
        except BaseException:
            group.close()
            raise
        return buffer

    def _check(self, path: Path, options: ReplayOptions) -> None:
        steps = np.diff(self.ends, prepend=0)
        if (steps < 0).any():
            bad = int(np.argmax(steps < 0))
            raise DataError(
                explain(
                    f"{path}: {ENDS} decreases at episode {bad}", given=self.ends[max(bad - 1, 0) : bad + 1].tolist()
                )
            )
        if not self.arrays:
            raise DataError(explain(f"{path} has no arrays below data/"))
        total = int(self.ends[-1]) if len(self.ends) else 0
        lengths = {key: header.rows for key, header in self.arrays.items()}
        if all(rows == total for rows in lengths.values()):
            return
        common = min([total, *lengths.values()])
        different = {key: rows for key, rows in lengths.items() if rows != total}
        what = f"{ENDS} ends at row {total}, but arrays have other lengths: {different}"
        if options.length_mismatch == "refuse":
            mend = (
                f"options.length_mismatch=truncate keeps the first {common} rows; see which of the two is right first"
            )
            raise DataError(explain(f"{path}: {what}", mend=mend))
        kept = int(np.searchsorted(self.ends - steps, common, side="left"))
        self.ends = np.minimum(self.ends[:kept], common)
        self._note(
            "length", f"{what}; the first {common} rows were kept, {kept} of {self.declared} episodes", repaired=True
        )

    def _note(self, kind: str, message: str, **more: Any) -> None:
        self.findings.append(Finding(kind, message, **more))

    @property
    def episodes(self) -> tuple[str, ...]:
        """Ids: the index in ``episode_ends``, six digits."""
        return tuple(f"{i:06d}" for i in range(len(self.ends)))

    def close(self) -> None:
        """Close the file."""
        self.group.close()

    def bounds(self, episode: str) -> tuple[int, int]:
        """Rows ``start .. stop`` of an episode.

        Raises:
            DataError: no such id.
        """
        index = int(episode) if episode.isascii() and episode.isdigit() else -1
        if not 0 <= index < len(self.ends):
            raise DataError(
                explain("no such episode", given=repr(episode), allowed=f"000000 to {len(self.ends) - 1:06d}")
            )
        return (int(self.ends[index - 1]) if index else 0), int(self.ends[index])

    def read(self, key: str, episode: str, step: int = 1) -> NDArray[Any]:
        """Every ``step``-th row of ``data/<key>`` of one episode.

        Raises:
            DataError: damaged there.
        """
        start, stop = self.bounds(episode)
        if step == 1 or self.arrays[key].chunks[0] > 1:
            return self.group.read(f"data/{key}", start, stop)[::step]
        rows = [self.group.read(f"data/{key}", row, row + 1) for row in range(start, stop, step)]
        return np.concatenate(rows)

    def faults(self, episode: str, keys: Sequence[str]) -> list[Finding]:
        """Findings that are known before any chunk is decoded: no rows, chunks that are not there."""
        start, stop = self.bounds(episode)
        if start == stop:
            return [Finding("length", "the episode has no rows", "error", episode)]
        found = []
        for key in keys:
            header = self.arrays[key]
            gone = self.group.missing_chunks(f"data/{key}", start, stop, header)
            if gone:
                message = f"{gone} chunks of data/{key} are not in the file; zarr reads its fill value for them"
                found.append(Finding("missing_chunk", message, "error", episode, key, "missing_chunks"))
        return found


def regular_time_ns(rows: int, fps: float) -> NDArray[np.int64]:
    """int64 [rows] at the nominal rate from 0."""
    return np.round(np.arange(rows) * (1e9 / fps)).astype(np.int64)


def usable_stamps(stamps_s: NDArray[Any], fps: float) -> NDArray[np.int64] | None:
    """Seconds as recorded -> int64 ns, or None where their resolution cannot tell two rows apart.

    Seconds since 1970 in float32 step by 128 s; such stamps say nothing.
    """
    stamps = np.asarray(stamps_s).reshape(len(stamps_s), -1)[:, 0]
    if stamps.dtype.kind != "f" or not len(stamps) or not np.isfinite(stamps).all():
        return None
    if np.spacing(np.abs(stamps).max()) > 0.01 / fps:
        return None
    time_ns = np.round(stamps.astype(np.float64) * 1e9).astype(np.int64)
    return time_ns if len(time_ns) < 2 or (np.diff(time_ns) > 0).all() else None


def channel_list(key: str, width: tuple[int, ...]) -> tuple[str, ...]:
    """``key`` for a scalar, else ``key.0``, ``key.1`` ... with one number per axis."""
    if width in ((), (1,)):
        return (key,)
    return tuple(".".join([key, *map(str, index)]) for index in np.ndindex(*width))
