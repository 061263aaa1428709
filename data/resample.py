"""A store at another rate, as a view: rows are computed from neighbours, nothing is copied on disk.

The rule is that of :mod:`robopolicy.resampling`. New rows lie at ``t_0 + j / rate`` within each episode, on the
measured times of the source. Low-dimensional streams are blended once, in RAM, where the source's lie too; pictures
are read from the source by index.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.channels import ChannelGroup
from robopolicy.data.codecs import JpegDecoder, decode_jpeg
from robopolicy.data.frame_cache import FrameReader
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, ShapeError, explain
from robopolicy.resampling import Blend, blend_of, places

__all__ = ["ResampledStore", "Residual", "at_rate"]

RULE = "linear; rotations SLERP; grippers, discrete and pictures last at or before; targets at their reach times"
BLEND_ROWS = 65_536
"""Rows blended at once."""


@dataclass(frozen=True)
class Residual:
    """How far new rows lie from recorded ones, in seconds.

    Attributes:
        from_hz, to_hz: Rates.
        rule: In words.
        nearest_mean_s, nearest_max_s: Distance of a new row from the nearest recorded one.
        age_mean_s, age_max_s: Age of what is held (pictures, grippers): since the last recorded row.
    """

    from_hz: float
    to_hz: float
    rule: str
    nearest_mean_s: float
    nearest_max_s: float
    age_mean_s: float
    age_max_s: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def at_rate(store: EpisodeStore, rate_hz: float | None) -> EpisodeStore | ResampledStore:
    """The store itself where it has that rate already, or a view of it."""
    if rate_hz is None or abs(store.fps / rate_hz - 1) < 1e-6:
        return store
    return ResampledStore(store, rate_hz)


class ResampledStore:
    """What windows and statistics ask of a store, at ``rate_hz``. Everything else is the source's.

    Args:
        source: Open for reading.
        rate_hz: Rows per second of the view, any ratio to the source's.

    Raises:
        DataError: actions that are not absolute targets cannot be put at other times.
    """

    def __init__(self, source: EpisodeStore, rate_hz: float):
        if source.embodiment.action_reference != "absolute":
            raise DataError(
                explain(
                    f"{source.path}: actions that are {source.embodiment.action_reference} cannot be resampled",
                    mend="convert the data with absolute targets, or give the mixture the rate of this store",
                )
            )
        self.source, self.fps = source, float(rate_hz)
        self._columns: dict[str, NDArray[Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    @cached_property
    def _grid(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], Any]:
        """(ends [E], times [N], row before [N], share of the next [N], the same two for targets)."""
        time = self.source.column("time_ns")
        stops = self.source.episode_ends
        starts = np.concatenate([[0], stops[:-1]]).astype(np.int64)
        period, reach, source_reach = 1e9 / self.fps, round(1e9 / self.fps), round(1e9 / self.source.fps)
        parts: list[tuple[Any, ...]] = []
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            own = np.asarray(time[start:stop])
            count = int((own[-1] - own[0]) / period + 1e-6) + 1
            wanted = own[0] + np.round(np.arange(count) * period).astype(np.int64)
            row, share = places(own, wanted)
            target, target_share = places(own + source_reach, wanted + reach)
            parts.append((count, wanted, row + start, share, target + start, target_share))
        counts = [part[0] for part in parts]
        wanted, row, target = (_joined([part[i] for part in parts], np.int64) for i in (1, 2, 4))
        share, target_share = (_joined([part[i] for part in parts], np.float64) for i in (3, 5))
        return np.cumsum(counts, dtype=np.int64), wanted, row, share, (target, target_share)

    @property
    def episode_ends(self) -> NDArray[np.int64]:
        """int64 [E]: row after the last one of each episode."""
        return self._grid[0].copy()

    @property
    def source_rows(self) -> NDArray[np.int64]:
        """int64 [N]: row of the source whose frames each row of the view shows."""
        return self._grid[2]

    @property
    def num_steps(self) -> int:
        """Rows of the view."""
        return len(self._grid[1])

    @property
    def content_hash(self) -> str:
        """That of the source, with the rate."""
        return f"{self.source.content_hash}@{self.fps:g}"

    @cached_property
    def residual(self) -> Residual:
        """Of all rows of the view."""
        _, wanted, row, _, _ = self._grid
        time = self.source.column("time_ns")
        upper = np.minimum(row + 1, len(time) - 1)
        age = (wanted - time[row]) * 1e-9
        nearest = np.minimum(age, np.abs(time[upper] - wanted) * 1e-9)
        numbers = (nearest.mean(), nearest.max(), age.mean(), age.max()) if len(age) else (0.0,) * 4
        return Residual(self.source.fps, self.fps, RULE, *map(float, numbers))

    def info(self, index: int) -> dict[str, Any]:
        """As of the source, with ``start``, ``stop`` and ``length`` in rows of the view."""
        ends = self._grid[0]
        entry = self.source.info(index)
        start = int(ends[index - 1]) if index else 0
        return {**entry, "start": start, "stop": int(ends[index]), "length": int(ends[index]) - start}

    def column(self, stream: str) -> NDArray[Any]:
        """A whole low-dimensional stream at the rate of the view, in RAM, read-only [N, C] or [N]."""
        if stream not in self._columns:
            values = self._resampled(stream)
            values.flags.writeable = False
            self._columns[stream] = values
        return self._columns[stream]

    def read(self, stream: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows of a stream -> [stop - start, ...], a copy."""
        last = self.num_steps if stop is None else stop
        if not 0 <= start <= last <= self.num_steps:
            raise ShapeError(explain("no such rows", given=(start, last), allowed=f"0 to {self.num_steps}"))
        spec = self.source.streams[stream]
        if not spec.image:
            return self.column(stream)[start:last].copy()
        out = np.empty((last - start, *spec.shape), np.uint8)
        self.images(stream.removeprefix("image/")).gather(np.arange(start, last), out)
        return out

    def images(self, camera: str, decode: JpegDecoder = decode_jpeg) -> FrameReader:
        """Random access to frames by row of the view."""
        return _HeldFrames(self.source.images(camera, decode), self._grid[2])

    def _resampled(self, stream: str) -> NDArray[Any]:
        _, wanted, row, share, targets = self._grid
        values = self.source.column(stream)
        if stream == "time_ns":
            return wanted.copy()
        if stream in ("action", "joint_command"):
            row, share = targets
        if values.dtype.kind != "f":
            return values[row]
        blend, out = self._blend(stream), np.empty((len(row), *values.shape[1:]), values.dtype)
        for first in range(0, len(row), BLEND_ROWS):
            part = slice(first, first + BLEND_ROWS)
            after = np.minimum(row[part] + (share[part] > 0), len(values) - 1)
            out[part] = blend.rows(values[row[part]], values[after], share[part])
        return out

    def _blend(self, stream: str) -> Blend:
        card = self.source.embodiment
        groups: dict[str, ChannelGroup] = {
            "state": card.state,
            "action": card.action,
            "joint_position": card.joints,
            "joint_command": card.joints,
        }
        return blend_of(groups[stream], card) if stream in groups else Blend()


def _joined(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)


class _HeldFrames:
    """Frames of the source at the last row at or before each row of the view."""

    def __init__(self, source: FrameReader, row: NDArray[np.int64]):
        self._source, self._row = source, row

    def gather(self, rows: NDArray[np.integer], out: NDArray[np.uint8]) -> None:
        """Frames ``rows`` [n] of the view into ``out`` uint8 [n, H, W, C]."""
        self._source.gather(self._row[rows], out)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames ``start .. stop`` of the view."""
        wanted = self._row[start:stop]
        first, last = (int(wanted[0]), int(wanted[-1]) + 1) if len(wanted) else (0, 0)
        block: NDArray[np.uint8] = self._source.read(first, last)  # type: ignore[attr-defined]
        return block[wanted - first]
