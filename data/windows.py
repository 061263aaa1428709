"""Windows over a store: every step of the chosen episodes is one sample, gathered a whole batch at a time.

A window anchored at step t holds observation rows ``t-To+1 .. t`` and action rows ``t-To+1 .. t-To+Tp``, see
:mod:`robopolicy.types`. Rows outside the episode repeat its first or last row; for actions ``action_mask`` is False
there, before the start as well as beyond the end, so that padding never enters a loss::

    step        0    1    2    3    4           an episode of 5 rows, To = 2, Tp = 4
    anchor 0:  o0 o0 | a0* a0  a1  a2           * masked: one row before the start
    anchor 4:  o3 o4 | a3  a4  a4* a4*          * masked: beyond the end
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import JpegDecoder, decode_jpeg
from robopolicy.data.frame_cache import FrameCache, FrameReader, default_cache_bytes
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, ShapeError, UnknownNameError, explain, suggest

__all__ = ["WindowDataset", "WindowSpec"]


@dataclass(frozen=True)
class WindowSpec:
    """What a policy is shown and asked for.

    Attributes:
        observation_horizon: ``To``, rows of the past including the present.
        prediction_horizon: ``Tp``, action rows, the first of them beside the oldest observation.
        state: Whether ``state`` is read.
        environment_state: Whether ``environment_state`` is read.
        cameras: Cameras that are read.
    """

    observation_horizon: int
    prediction_horizon: int
    state: bool = True
    environment_state: bool = True
    cameras: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.observation_horizon < 1 or self.prediction_horizon < self.observation_horizon:
            raise ShapeError(
                explain(
                    "a window needs 1 <= observation_horizon <= prediction_horizon",
                    given=(self.observation_horizon, self.prediction_horizon),
                )
            )
        object.__setattr__(self, "cameras", tuple(self.cameras))


class WindowDataset:
    """All windows of some episodes. Low-dimensional streams live in RAM; frames are cached within a budget."""

    def __init__(
        self,
        store: EpisodeStore,
        spec: WindowSpec,
        episodes: Iterable[int] | None = None,
        *,
        cache_bytes: int | None = None,
        decode: JpegDecoder = decode_jpeg,
    ):
        """Index the windows; no frame is read yet.

        Args:
            store: Open for reading.
            spec: Horizons and streams.
            episodes: Indices of the episodes to use, in the order given; all of them when None.
            cache_bytes: Budget for decoded frames of all cameras together, 0 for none. A camera is cached whole or not
                at all, in the order of ``spec.cameras``. Default: 4 GiB or half of the free memory.
            decode: JPEG decoder, see :mod:`robopolicy.data.torch_jpeg` for another.

        Raises:
            DataError: no such episode, none at all, or a stream that the store lacks.
            UnknownNameError: a camera that the store lacks.
        """
        self.store, self.spec = store, spec
        chosen = np.arange(store.num_episodes) if episodes is None else np.fromiter(episodes, np.int64)
        self.episodes = chosen.astype(np.int64)
        self._check()
        ends = store.episode_ends
        starts = np.concatenate([[0], ends[:-1]])[chosen]
        lengths = ends[chosen] - starts
        self._episode = np.repeat(self.episodes, lengths)
        self._start = np.repeat(starts, lengths)
        self._last = np.repeat(ends[chosen] - 1, lengths)
        first = np.repeat(np.cumsum(lengths) - lengths, lengths)
        self._row = np.arange(lengths.sum()) - first + self._start
        self._place = first - self._start
        past = -spec.observation_horizon + 1
        self._observation_offsets = np.arange(past, 1)
        self._action_offsets = np.arange(past, past + spec.prediction_horizon)
        self._low = {name: store.column(name) for name in ("state", "environment_state") if getattr(spec, name)}
        self._action, self._time = store.column("action"), store.column("time_ns")
        self._language = {e: str(store.info(e)["language"]) for e in self.episodes.tolist()}
        self._frames: dict[str, FrameReader] = {}
        self._cached: dict[str, FrameCache] = {}
        self._plan_cache(default_cache_bytes() if cache_bytes is None else cache_bytes, decode)

    def __len__(self) -> int:
        return len(self._row)

    @property
    def cached_cameras(self) -> tuple[str, ...]:
        """Cameras whose decoded frames are kept in RAM; the others are decoded at every use."""
        return tuple(self._cached)

    def fill_cache(self) -> None:
        """Decode all cached cameras now instead of during the first epoch."""
        for cache in self._cached.values():
            cache.fill()

    def episode_of(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Episode index of each window [B]."""
        return self._episode[self._valid(indices)]

    def language_of(self, indices: NDArray[np.integer]) -> list[str]:
        """Instruction of each window, B of them."""
        return [self._language[e] for e in self.episode_of(indices).tolist()]

    def gather(self, indices: NDArray[np.integer]) -> dict[str, Any]:
        """A batch of windows, by index 0 .. len - 1 in any order.

        Args:
            indices: int [B].

        Returns:
            ``state`` f32 [B, To, S], ``environment_state`` f32 [B, To, E], ``image`` {camera: uint8 [B, To, H, W, C]},
            ``action`` f32 [B, Tp, A], ``action_mask`` bool [B, Tp, A], ``time_ns`` int64 [B, To]; the first three
            as far as the spec asks for them. Fresh arrays that the caller owns.

        Raises:
            ShapeError: an index out of range.
            DataError: a damaged frame, named.
        """
        index = self._valid(indices)
        row, start, last = self._row[index, None], self._start[index, None], self._last[index, None]
        seen = np.maximum(row + self._observation_offsets, start)
        wanted = row + self._action_offsets
        done = np.clip(wanted, start, last)
        action = np.take(self._action, done, axis=0)
        mask = np.broadcast_to((done == wanted)[..., None], action.shape).copy()
        batch: dict[str, Any] = {name: np.take(values, seen, axis=0) for name, values in self._low.items()}
        if self.spec.cameras:
            batch["image"] = self._images(seen, self._place[index, None])
        return {**batch, "action": action, "action_mask": mask, "time_ns": np.take(self._time, seen)}

    def _images(self, rows: NDArray[np.int64], shift: NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
        """Frames at ``rows`` [B, To]; ``shift`` [B, 1] turns a row into a place of the cache."""
        images = {}
        for camera in self.spec.cameras:
            frame = self.store.streams[f"image/{camera}"].shape
            flat = np.empty((rows.size, *frame), np.uint8)
            if camera in self._cached:
                self._cached[camera].gather((rows + shift).ravel(), flat)
            else:
                self._frames[camera].gather(rows.ravel(), flat)
            images[camera] = flat.reshape(*rows.shape, *frame)
        return images

    def _valid(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        index = np.asarray(indices, np.int64)
        if index.ndim != 1 or (len(index) and (index.min() < 0 or index.max() >= len(self))):
            raise ShapeError(explain("no such window", given=indices, allowed=f"[B], 0 to {len(self) - 1}"))
        return index

    def _check(self) -> None:
        store = self.store
        if not len(self.episodes):
            raise DataError(explain(f"no episodes to make windows of in {store.path}", mend="collect episodes first"))
        if self.episodes.min() < 0 or self.episodes.max() >= store.num_episodes:
            raise DataError(
                explain("no such episode", given=self.episodes.tolist(), allowed=f"0 to {store.num_episodes - 1}")
            )
        if self.spec.environment_state and "environment_state" not in store.streams:
            raise DataError(
                explain(
                    f"{store.path} has no environment_state",
                    given=list(store.streams),
                    mend="WindowSpec(environment_state=False), or collect with privileged state",
                )
            )
        for camera in self.spec.cameras:
            if camera not in store.cameras:
                mend = suggest(camera, store.cameras) or "collect with this camera, or take it out of the recipe"
                raise UnknownNameError(
                    explain(f"{store.path} has no such camera", given=repr(camera), allowed=store.cameras, mend=mend)
                )

    def _plan_cache(self, budget: int, decode: JpegDecoder) -> None:
        for camera in self.spec.cameras:
            reader = self.store.images(camera, decode)
            frame = self.store.streams[f"image/{camera}"].shape
            size = len(self) * int(np.prod(frame))
            self._frames[camera] = reader
            if size <= budget:
                self._cached[camera] = FrameCache(reader, self._row, frame)
                budget -= size
