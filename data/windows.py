"""Windows over a store: every step of the chosen episodes is one sample, gathered a whole batch at a time.

A window anchored at step t holds observation rows ``t-To+1 .. t`` and action rows ``t-To+1 .. t-To+Tp``, see
:mod:`robopolicy.types`. Rows outside the episode repeat its first or last row; for actions ``action_mask`` is False
there, before the start as well as beyond the end, so that padding never enters a loss::

    step        0    1    2    3    4           an episode of 5 rows, To = 2, Tp = 4
    anchor 0:  o0 o0 | a0* a0  a1  a2           * masked: one row before the start
    anchor 4:  o3 o4 | a3  a4  a4* a4*          * masked: beyond the end
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.batch_memory import BatchMemory
from robopolicy.data.codecs import JpegDecoder, decode_jpeg
from robopolicy.data.frame_cache import DEFAULT_FILE_BYTES, CacheBudget, FrameTier, default_cache_bytes
from robopolicy.data.frame_stream import stream_of
from robopolicy.data.goal_pictures import EpisodePictures
from robopolicy.data.hindsight import WindowGoals, stream_columns
from robopolicy.data.layout import SHARD_FRAMES
from robopolicy.data.resize import check_image_size
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, ShapeError, UnknownNameError, explain, suggest
from robopolicy.goals import GoalConfig, goal_cameras

if TYPE_CHECKING:
    from robopolicy.types import Batch

__all__ = ["WindowDataset", "WindowSpec"]

_GOALS = "goal_image/"
_Index = NDArray[np.int64]
_GoalPlace = tuple[_Index, _Index, _Index, _Index, _Index]
_Rows = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class WindowSpec:
    """What a policy is shown and asked for.

    Attributes:
        observation_horizon: ``To``, rows of the past including the present.
        prediction_horizon: ``Tp``, action rows, the first of them beside the oldest observation.
        state: Whether ``state`` is read.
        environment_state: Whether ``environment_state`` is read.
        cameras: Cameras that are read.
        image_size: (height, width) that colour and depth are resized to, None for the recorded size.
        depth: Cameras whose depth (``depth/<camera>``, uint16 mm) is read.
        environment_names: Entries of ``environment_state`` that are read, in this order; all of them when empty.
        goal: What goals are made of, see :mod:`robopolicy.data.hindsight`; 0 for no goals.
    """

    observation_horizon: int
    prediction_horizon: int
    state: bool = True
    environment_state: bool = True
    cameras: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    depth: tuple[str, ...] = ()
    environment_names: tuple[str, ...] = ()
    goal: int | GoalConfig = 0

    def __post_init__(self) -> None:
        if self.observation_horizon < 1 or self.prediction_horizon < self.observation_horizon:
            raise ShapeError(
                explain(
                    "a window needs 1 <= observation_horizon <= prediction_horizon",
                    given=(self.observation_horizon, self.prediction_horizon),
                )
            )
        object.__setattr__(self, "cameras", tuple(self.cameras))
        object.__setattr__(self, "depth", tuple(self.depth))
        object.__setattr__(self, "environment_names", tuple(self.environment_names))
        object.__setattr__(self, "image_size", check_image_size(self.image_size))

    @property
    def frame_streams(self) -> tuple[str, ...]:
        """Streams of frames that are observed: ``image/front``, ``depth/front`` ..."""
        return (*(f"image/{c}" for c in self.cameras), *(f"depth/{c}" for c in self.depth))

    @property
    def goal_cameras(self) -> tuple[str, ...]:
        """Cameras whose picture of the goal is read."""
        return goal_cameras(self.goal)

    @property
    def hindsight_streams(self) -> tuple[str, ...]:
        """Streams that pictures of goals are taken from; () where they are recorded ones."""
        hindsight = isinstance(self.goal, GoalConfig) and self.goal.source == "hindsight"
        return tuple(f"image/{c}" for c in self.goal_cameras) if hindsight else ()


class WindowDataset:
    """All windows of some episodes. Low-dimensional streams live in RAM; frames come from the tier that fits.

    With several goals per window the windows are counted through once per goal: ``draw * N + window``.

    A batch is filled in two parts, so that loader processes can take over the second: :meth:`gather_low` writes the
    numbers, and ``frame_tiers[stream].gather(frame_places(indices)[stream], out)`` writes the frames of one stream.
    """

    def __init__(
        self,
        store: EpisodeStore,
        spec: WindowSpec,
        episodes: Iterable[int] | None = None,
        *,
        cache_bytes: int | None = None,
        cache_folder: str | Path | None = None,
        cache_file_bytes: int = DEFAULT_FILE_BYTES,
        decode: JpegDecoder = decode_jpeg,
    ):
        """Index the windows; no frame is read yet.

        Args:
            store: Open for reading, or a view of one at another rate.
            spec: Horizons and streams.
            episodes: Indices of the episodes to use, in the order given; all of them when None.
            cache_bytes: RAM for the frames of all cameras together, 0 for none; see
                :mod:`robopolicy.data.frame_cache`. Default: 4 GiB or half of the free memory.
            cache_folder: Where frames that do not fit into RAM may be kept decoded, as files.
            cache_file_bytes: Cap of that folder; the files unused for longest give way.
            decode: JPEG decoder.

        Raises:
            DataError: no such episode, none at all, or a stream, entry or goal that the store lacks.
            UnknownNameError: a camera that the store lacks.
        """
        self.store, self.spec = store, spec
        self._files: EpisodeStore = store if isinstance(store, EpisodeStore) else store.source
        chosen = np.arange(store.num_episodes) if episodes is None else np.fromiter(episodes, np.int64)
        self.episodes = chosen.astype(np.int64)
        self._check()
        ends = store.episode_ends
        self._starts = np.concatenate([[0], ends[:-1]])[chosen]
        self._lasts = ends[chosen] - 1
        self._bounds = np.cumsum(self._lasts + 1 - self._starts)  # windows up to and including each episode
        self._shift = self._starts - (self._bounds - (self._lasts + 1 - self._starts))  # row minus window
        self._size = int(self._bounds[-1])
        past = -spec.observation_horizon + 1
        self._observation_offsets = np.arange(past, 1)
        self._action_offsets = np.arange(past, past + spec.prediction_horizon)
        self._low = {name: store.column(name) for name in ("state", "environment_state") if getattr(spec, name)}
        if spec.environment_state and spec.environment_names:
            columns = stream_columns(store, spec.environment_names)
            self._low["environment_state"] = np.ascontiguousarray(self._low["environment_state"][:, columns])
        self._goals = WindowGoals(store, spec.goal) if spec.goal else None
        self._draws = 1 if self._goals is None else self._goals.draws
        self._action, self._time = store.column("action"), store.column("time_ns")
        self._language = [str(store.info(e)["language"]) for e in self.episodes.tolist()]
        budget = CacheBudget(
            default_cache_bytes() if cache_bytes is None else cache_bytes,
            None if cache_folder is None else Path(cache_folder),
            cache_file_bytes,
        )
        self.frame_tiers: dict[str, FrameTier] = {name: self._tier(name, budget, decode) for name in spec.frame_streams}
        self.frame_tiers |= self._goal_tiers(budget, decode)
        self._memory, self._layout = BatchMemory(), self.array_layout()

    def __len__(self) -> int:
        return self._size * self._draws

    @property
    def tiers(self) -> dict[str, str]:
        """Stream of each camera (``front``; depth as ``depth/front``) -> where its frames come from, in words."""
        return {name.removeprefix("image/"): tier.label for name, tier in self.frame_tiers.items()}

    @property
    def cached_cameras(self) -> tuple[str, ...]:
        """Cameras whose decoded frames are kept; the others are decoded at every use."""
        return tuple(name for name, tier in self.tiers.items() if tier.startswith("decoded"))

    @property
    def streaming(self) -> bool:
        """Whether some frames are read from the disk at every use, so that a local order is worth something."""
        return "stream" in self.tiers.values()

    @property
    def frame_bytes(self) -> int:
        """What all frames of the windows take when they are decoded."""
        tiers = {id(tier): tier for tier in self.frame_tiers.values() if not isinstance(tier, EpisodePictures)}.values()
        return self._size * sum(int(np.prod(t.frame)) * np.dtype(t.dtype).itemsize for t in tiers)

    @property
    def blocks(self) -> NDArray[np.int64]:
        """int64 [K]: first window of each run of windows whose newest frames lie in the same 256 stored ones."""
        shards = self._newest_rows() // SHARD_FRAMES
        first = np.flatnonzero(np.diff(shards, prepend=-1)).astype(np.int64)
        return np.concatenate([first + draw * self._size for draw in range(self._draws)])

    def fill_cache(self) -> None:
        """Decode all cached cameras now instead of during the first epoch."""
        for tier in self.frame_tiers.values():
            tier.prepare()

    def episode_of(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Episode index of each window [B]."""
        return self.episodes[self._episode(self._window(indices))]

    def places(self, indices: NDArray[np.integer]) -> list[str]:
        """Where each window [B] lies, for people: ``episode 3, step 12``."""
        index = self._window(indices)
        episode = self._episode(index)
        steps = index + self._shift[episode] - self._starts[episode]
        return [f"episode {e}, step {t}" for e, t in zip(self.episodes[episode], steps, strict=True)]

    def language_of(self, indices: NDArray[np.integer]) -> list[str]:
        """Instruction of each window, B of them."""
        return [self._language[e] for e in self._episode(self._window(indices)).tolist()]

    def array_layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Arrays of a batch: name (frames as ``image/front``) -> (shape without B, dtype)."""
        to, tp, width = self.spec.observation_horizon, self.spec.prediction_horizon, self._action.shape[1]
        low = {name: ((to, values.shape[1]), values.dtype) for name, values in self._low.items()}
        layout = {
            **low,
            "action": ((tp, width), self._action.dtype),
            "action_mask": ((tp, width), np.dtype(bool)),
            "time_ns": ((to,), self._time.dtype),
        }
        if self._goals is not None and self._goals.width:
            layout["goal"] = ((self._goals.width,), np.dtype(np.float32))
        steps = {name: 1 if name.startswith(_GOALS) else to for name in self.frame_tiers}
        return layout | {name: ((steps[name], *tier.frame), tier.dtype) for name, tier in self.frame_tiers.items()}

    def gather(self, indices: NDArray[np.integer]) -> dict[str, Any]:
        """A batch of windows, by index 0 .. len - 1 in any order.

        Args:
            indices: int [B].

        Returns:
            ``state`` f32 [B, To, S], ``environment_state`` f32 [B, To, E], ``image`` {camera: uint8 [B, To, H, W, C]},
            ``depth`` {camera: uint16 [B, To, H, W, 1]}, ``action`` f32 [B, Tp, A], ``action_mask`` bool [B, Tp, A],
            ``time_ns`` int64 [B, To], ``goal`` f32 [B, G], ``goal_image`` {camera: uint8 [B, H, W, C]}; the first four
            and the last two as far as the spec asks for them. Fresh arrays that the caller owns.

        Raises:
            ShapeError: an index out of range.
            DataError: a damaged frame, named.
        """
        index = self._window(indices)
        rows = self._rows(index)
        out = self._memory.empty(self._layout, len(index))
        self._gather_low(indices, rows, out)
        for name, places in self._places(indices, index, rows).items():
            tier = self.frame_tiers[name]
            tier.gather(places, out[name].reshape(-1, *tier.frame))
        return _nested(out)

    def gather_low(self, indices: NDArray[np.integer], out: Mapping[str, NDArray[Any]]) -> None:
        """Write everything but frames.

        Args:
            indices: int [B].
            out: As :meth:`array_layout` says, each [B, ...] and contiguous.

        Raises:
            ShapeError: an index out of range.
        """
        self._gather_low(indices, self._rows(self._window(indices)), out)

    def _gather_low(self, indices: NDArray[np.integer], rows: _Rows, out: Mapping[str, NDArray[Any]]) -> None:
        row, start, last = rows
        seen = np.maximum(row + self._observation_offsets, start)
        wanted = row + self._action_offsets
        done = np.minimum(np.maximum(wanted, start), last)
        for name, values in self._low.items():
            np.take(values, seen, axis=0, out=out[name], mode="clip")
        np.take(self._action, done, axis=0, out=out["action"], mode="clip")
        out["action_mask"][...] = (done == wanted)[..., None]
        np.take(self._time, seen, out=out["time_ns"], mode="clip")
        if self._goals is not None and self._goals.width:
            self._goals.gather(*self._goal_place(indices, rows), out["goal"])

    def _goal_place(self, indices: NDArray[np.integer], rows: _Rows) -> _GoalPlace:
        """What decides where goals lie, each [B]; see :meth:`WindowGoals.rows`."""
        draw = np.asarray(indices, np.int64) // self._size
        newest, first, final = (part[:, 0] for part in rows)
        return self.episode_of(indices), newest, first, final, draw

    def frame_places(self, indices: NDArray[np.integer]) -> dict[str, NDArray[np.int64]]:
        """Where the frames of a batch are in their tiers: stream -> int64 [B * To], of pictures of goals [B]."""
        if not self.frame_tiers:
            return {}
        index = self._window(indices)
        return self._places(indices, index, self._rows(index))

    def _places(
        self, indices: NDArray[np.integer], index: NDArray[np.int64], rows: _Rows
    ) -> dict[str, NDArray[np.int64]]:
        row, start, _ = rows
        seen = np.maximum(row + self._observation_offsets, start)
        places = (seen - (row - index[:, None])).ravel()  # a window's place is its newest row's
        stored = self._stored(seen.ravel())
        found = {name: stored if tier.by_row else places for name, tier in self.frame_tiers.items()}
        if self._goals is not None and self.spec.goal_cameras:
            ahead = self._goals.rows(*self._goal_place(indices, rows))
            for name in self._goal_streams:
                tier = self.frame_tiers[name]
                if isinstance(tier, EpisodePictures):
                    found[name] = self._episode(index)
                else:
                    found[name] = self._stored(ahead) if tier.by_row else ahead - (row[:, 0] - index)
        return found

    def to_batch(self, arrays: Mapping[str, NDArray[Any]], indices: NDArray[np.integer]) -> Batch:
        """Arrays as :meth:`array_layout` names them -> tensors that share their memory."""
        import torch

        from robopolicy.types import Batch

        language = self.language_of(indices)
        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        nested = _nested(tensors)
        empty = torch.zeros((len(indices), self.spec.observation_horizon, 0))
        return Batch(
            state=tensors.get("state", empty),
            action=tensors["action"],
            action_mask=tensors["action_mask"],
            embodiment=self.store.embodiment.hash,
            image=nested.get("image", {}),
            depth=nested.get("depth", {}),
            environment_state=tensors.get("environment_state"),
            language=language if any(language) else None,
            goal=tensors.get("goal"),
            goal_image=nested.get("goal_image", {}),
        )

    def _rows(self, index: NDArray[np.int64]) -> _Rows:
        """(newest row, first and last row of the episode) of each window, each [B, 1]."""
        episode = self._episode(index)
        row = index + self._shift[episode]
        return row[:, None], self._starts[episode, None], self._lasts[episode, None]

    def _newest_rows(self) -> NDArray[np.int64]:
        """Stored row of the newest observation of every window."""
        rows = np.arange(self._size) + np.repeat(self._shift, np.diff(self._bounds, prepend=0))
        return self._stored(rows)

    def _stored(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows as readers of the store count them -> rows as they lie in its files, deleted episodes included."""
        if self._files is not self.store:  # a view at another rate shows frames of its source
            rows = self.store.source_rows[rows]  # type: ignore[attr-defined]
        live = self._files.live_rows
        return rows if live is None else live.stored(rows)

    def _episode(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._bounds, index, side="right")

    def _window(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Window 0 .. N - 1 of each index, whichever of its goals."""
        index = np.asarray(indices, np.int64)
        if index.ndim != 1 or (len(index) and (index.min() < 0 or index.max() >= len(self))):
            raise ShapeError(explain("no such window", given=indices, allowed=f"[B], 0 to {len(self) - 1}"))
        return index if self._draws == 1 else index % self._size

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
        for name in (*self.spec.frame_streams, *self.spec.hindsight_streams):
            if name not in store.streams:
                kind, _, camera = name.partition("/")
                known = [s.partition("/")[2] for s in store.streams if s.startswith(f"{kind}/")]
                mend = suggest(camera, known) or "collect with this camera, or take it out of the recipe"
                what = "camera" if kind == "image" else "depth camera"
                raise UnknownNameError(
                    explain(f"{store.path} has no such {what}", given=repr(camera), allowed=known, mend=mend)
                )

    def _tier(self, name: str, budget: CacheBudget, decode: JpegDecoder) -> FrameTier:
        stream = stream_of(self._files, name, decode)
        frame = (*(self.spec.image_size or stream.native[:2]), stream.native[2])
        content = {"store": self._files.content_hash, "stream": name}
        return budget.choose(stream, self._newest_rows(), frame, content)

    @property
    def _goal_streams(self) -> tuple[str, ...]:
        return tuple(f"{_GOALS}{camera}" for camera in self.spec.goal_cameras)

    def _goal_tiers(self, budget: CacheBudget, decode: JpegDecoder) -> dict[str, FrameTier]:
        """Pictures of goals: in hindsight the tier of the camera's frames, which is shared where they are observed."""
        found: dict[str, FrameTier] = {}
        for name, camera in zip(self._goal_streams, self.spec.goal_cameras, strict=True):
            stream = f"image/{camera}"
            if stream in self.spec.hindsight_streams:
                found[name] = self.frame_tiers.get(stream) or self._tier(stream, budget, decode)
            else:
                pictures = EpisodePictures(self.store, camera, self.episodes, self.spec.image_size)
                budget.ram_bytes = max(budget.ram_bytes - pictures.nbytes, 0)
                found[name] = pictures
        return found


def _nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """``image/front`` -> ``image: {front: ...}``; a picture of a goal is one frame, without a time axis."""
    out: dict[str, Any] = {}
    for name, values in arrays.items():
        kind, _, camera = name.partition("/")
        if camera:
            out.setdefault(kind, {})[camera] = values[:, 0] if name.startswith(_GOALS) else values
        else:
            out[name] = values
    return out
