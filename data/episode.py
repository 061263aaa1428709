"""One demonstration in memory, and what a store demands of it before a single byte is written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import check_jpeg_size
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, NonFiniteError, ShapeError, explain, suggest

__all__ = [
    "RATE_TOLERANCE",
    "EncodedFrames",
    "Episode",
    "StreamSpec",
    "channel_names",
    "check_episode",
    "joint_streams",
    "stream_specs",
]

RATE_TOLERANCE = 0.05
"""Relative deviation of the measured rate from ``fps`` that is accepted."""


@dataclass(frozen=True)
class EncodedFrames:
    """Frames that are JPEG files already: stored as they are in a ``jpeg`` store, decoded first in a ``raw`` one.

    Attributes:
        frame: (H, W, 3) of every frame.
        blobs: One complete RGB JPEG file per frame.
    """

    frame: tuple[int, int, int]
    blobs: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.blobs)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the decoded frames."""
        return np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, 3)."""
        return (len(self.blobs), *self.frame)


@dataclass
class Episode:
    """One demonstration.

    Attributes:
        streams: Name -> array whose first axis is time; names, dtypes and widths as the store lists them
            (``state``, ``action``, ``time_ns``, ``image/front`` ...). Frames may be :class:`EncodedFrames`.
        language: Instruction, may be empty.
        success: Whether the task was achieved; None where nobody said.
        metadata: Anything JSON can hold (seed, index, operator ...).
    """

    streams: dict[str, NDArray[Any] | EncodedFrames]
    language: str = ""
    success: bool | None = False
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamSpec:
    """What one stream looks like.

    What the embodiment card says of ``state``, ``action`` and the joints is not repeated here; the entries below
    describe streams that the card does not know.

    Attributes:
        dtype: ``float32``, ``int64``, ``uint8`` (frames) or ``uint16`` (depth in mm).
        shape: Without the time axis: (C,), (), (H, W, 3) or, for depth, (H, W, 1).
        channels: Names of the C channels, or ().
        units: Unit of every channel, or ().
        kind: ``joint_velocity``, ``joint_effort``, ``wrench``, ``tactile``, ``reward``, ``embedding`` ...
        frame: ``base``, ``world``, ``camera``, ``tool`` or ``episode_start``, where it matters.
        source: ``commanded``, ``measured`` or ``kinematics``.
    """

    dtype: str
    shape: tuple[int, ...]
    channels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    kind: str = ""
    frame: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise DataError(explain("a stream cannot have this dtype", given=self.dtype, allowed=list(_DTYPES)))
        ranks = {"float32": (1,), "int64": (0, 1), "uint8": (3,), "uint16": (3,)}[self.dtype]
        if len(self.shape) not in ranks:
            raise ShapeError(explain(f"a {self.dtype} stream of this rank", given=self.shape, allowed=f"rank {ranks}"))
        for described in (self.channels, self.units):
            if described and self.shape != (len(described),):
                raise ShapeError(
                    explain("a stream needs one name and unit per channel", given=described, allowed=self.shape)
                )

    @property
    def image(self) -> bool:
        """Whether rows are frames (colour or depth)."""
        return len(self.shape) == 3

    def to_dict(self) -> dict[str, Any]:
        """Plain entries; those that say nothing are left out."""
        entry: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape)}
        entry |= {k: list(v) for k in ("channels", "units") if (v := getattr(self, k))}
        return entry | {k: v for k in ("kind", "frame", "source") if (v := getattr(self, k))}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> StreamSpec:
        """Inverse of :meth:`to_dict`."""
        return cls(
            entry["dtype"],
            tuple(entry["shape"]),
            tuple(entry.get("channels", ())),
            tuple(entry.get("units", ())),
            *(entry.get(k, "") for k in ("kind", "frame", "source")),
        )


_DTYPES = {"float32": "f", "int64": "iu", "uint8": "", "uint16": ""}
"""Stored dtype -> kinds of arrays that are converted to it; frames and depth never are."""


def joint_streams(embodiment: Embodiment) -> dict[str, StreamSpec]:
    """``joint_position`` (measured) and ``joint_command``, for robots that have them recorded."""
    joints = StreamSpec("float32", (len(embodiment.joints),))
    return {"joint_position": joints, "joint_command": joints}


def stream_specs(
    embodiment: Embodiment,
    environment_state: tuple[str, ...],
    cameras: Mapping[str, tuple[int, int]],
    extra: Mapping[str, StreamSpec],
) -> dict[str, StreamSpec]:
    """Every stream of a store.

    Args:
        embodiment: Gives the widths of ``state`` and ``action``.
        environment_state: Channel names of the privileged state; none means that the stream does not exist.
        cameras: Name -> (height, width).
        extra: Further streams, :func:`joint_streams` among them.

    Raises:
        DataError: an extra stream takes a name that is spoken for.
    """
    specs = {"state": StreamSpec("float32", (len(embodiment.state),))}
    if environment_state:
        specs["environment_state"] = StreamSpec("float32", (len(environment_state),))
    specs["action"] = StreamSpec("float32", (len(embodiment.action),))
    last = {"time_ns": StreamSpec("int64", ())}
    last |= {f"image/{name}": StreamSpec("uint8", (height, width, 3)) for name, (height, width) in cameras.items()}
    taken = sorted((specs.keys() | last.keys() | {"environment_state"}) & extra.keys())
    if taken or any(name.startswith("image/") or not _NAME.fullmatch(name) for name in extra):
        raise DataError(
            explain(
                "a further stream cannot have this name",
                given=taken or list(extra),
                allowed="letters, digits, _ - . in parts divided by /; none of the store's own names",
            )
        )
    return {**specs, **extra, **last}


_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)*")


def channel_names(
    stream: str, embodiment: Embodiment, environment_state: tuple[str, ...], spec: StreamSpec | None = None
) -> tuple[str, ...]:
    """Names of the channels of a low-dimensional stream, () for others."""
    if spec is not None and spec.channels:
        return spec.channels
    return {
        "state": embodiment.state.names,
        "action": embodiment.action.names,
        "joint_position": embodiment.joints.names,
        "joint_command": embodiment.joints.names,
        "environment_state": tuple(environment_state),
    }.get(stream, ())


def check_episode(
    episode: Episode,
    index: int,
    specs: Mapping[str, StreamSpec],
    names: Mapping[str, tuple[str, ...]],
    fps: float | None,
) -> dict[str, NDArray[Any] | EncodedFrames]:
    """Refuse an episode that does not fit; otherwise its streams in stored dtypes, in the store's order.

    Args:
        episode: As given to ``append``.
        index: Number that the episode would get, for messages.
        specs: Streams of the store.
        names: Channel names per low-dimensional stream.
        fps: Nominal rate that ``time_ns`` is held to, or None for any.

    Raises:
        DataError: a stream is missing, unknown, empty or of another length; time stands still or runs at another rate.
        ShapeError: wrong width, frame size or dtype.
        NonFiniteError: a NaN or an infinity; the message names episode, stream, row and channel.
    """
    where = f"episode {index}"
    _check_names(episode, where, specs)
    streams: dict[str, NDArray[Any] | EncodedFrames] = {
        name: _converted(where, name, episode.streams[name], spec) for name, spec in specs.items()
    }
    lengths = {name: len(values) for name, values in streams.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(explain(f"{where}: streams of unequal lengths", given=lengths, mend="record one row per step"))
    if not next(iter(lengths.values())):
        raise DataError(explain(f"{where} has no rows", mend="record at least one step, or do not append it"))
    for name, values in streams.items():
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            _check_finite(where, name, values, names.get(name, ()))
    _check_time(where, np.asarray(streams["time_ns"]), fps)
    _check_labels(where, episode)
    return streams


def _check_names(episode: Episode, where: str, specs: Mapping[str, StreamSpec]) -> None:
    missing = [name for name in specs if name not in episode.streams]
    unknown = [name for name in episode.streams if name not in specs]
    if missing:
        hints = [f"'{m}': {h}" for m in missing if (h := suggest(m, unknown))]
        raise DataError(
            explain(
                f"{where}: missing {missing}",
                given=sorted(episode.streams),
                allowed=list(specs),
                mend="; ".join(hints) or "record every stream of the store",
            )
        )
    if unknown:
        raise DataError(
            explain(
                f"{where}: unknown {unknown}",
                allowed=list(specs),
                mend="leave them out, or create a store with that camera or environment_state",
            )
        )


def _converted(where: str, name: str, values: Any, spec: StreamSpec) -> NDArray[Any] | EncodedFrames:
    """``values`` in the stored dtype: any float for float32, any integer for int64, only uint8 for frames."""
    if isinstance(values, EncodedFrames):
        if values.frame != spec.shape or spec.dtype != "uint8":
            raise ShapeError(
                explain(f"{where}: '{name}' has frames of the wrong size", given=values.frame, allowed=spec.shape)
            )
        for blob in values.blobs:
            check_jpeg_size(blob, spec.shape)
        return values
    array = np.asarray(values)
    kinds = _DTYPES[spec.dtype]
    if array.dtype != spec.dtype and array.dtype.kind not in (kinds or " "):
        raise ShapeError(explain(f"{where}: '{name}' has the wrong dtype", given=array.dtype, allowed=spec.dtype))
    if array.ndim != len(spec.shape) + 1 or array.shape[1:] != spec.shape:
        shape = ", ".join(["N", *map(str, spec.shape)])
        raise ShapeError(
            explain(
                f"{where}: '{name}' has the wrong shape",
                given=array.shape,
                allowed=f"[{shape}]",
                mend="check the camera's size in the embodiment card" if spec.image else "pack the channels by name",
            )
        )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, spec.dtype)


def _check_finite(where: str, name: str, values: NDArray[Any], channels: tuple[str, ...]) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    row, column = (int(i) for i in np.argwhere(~finite)[0])
    channel = channels[column] if column < len(channels) else str(column)
    raise NonFiniteError(
        explain(
            f"{where}: '{name}' is not finite at row {row}, channel {channel} ({int((~finite).sum())} values in all)",
            given=values[row, column],
            mend="drop the episode or repair its source; nothing was written",
        )
    )


def _check_time(where: str, time_ns: NDArray[np.int64], fps: float | None) -> None:
    steps = np.diff(time_ns)
    if len(steps) and steps.min() <= 0:
        row = int(np.argmin(steps > 0)) + 1
        raise DataError(
            explain(
                f"{where}: time_ns does not increase at row {row}",
                given=(int(time_ns[row - 1]), int(time_ns[row])),
                mend="store capture times of one monotonic clock",
            )
        )
    if fps is None or not len(steps):
        return
    rate = len(steps) / (float(time_ns[-1] - time_ns[0]) * 1e-9)
    if abs(rate / fps - 1) > RATE_TOLERANCE:
        raise DataError(
            explain(
                f"{where}: measured rate is not the store's",
                given=f"{rate:.4g} Hz",
                allowed=f"{fps:g} Hz within {RATE_TOLERANCE:.0%}",
                mend="resample the episode, create the store with the true fps, or append(..., any_rate=True)",
            )
        )


def _check_labels(where: str, episode: Episode) -> None:
    if not isinstance(episode.language, str) or not isinstance(episode.success, (bool, np.bool_, NoneType)):
        raise DataError(
            explain(
                f"{where}: language must be text and success a truth value or None",
                given=(type(episode.language).__name__, type(episode.success).__name__),
            )
        )
    try:
        json.dumps(episode.metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            explain(f"{where}: metadata is not JSON ({error})", mend="keep text, finite numbers, lists and dicts")
        ) from error
