"""One demonstration in memory, and what a store demands of it before a single byte is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, NonFiniteError, ShapeError, explain, suggest

__all__ = ["RATE_TOLERANCE", "Episode", "StreamSpec", "channel_names", "check_episode", "stream_specs"]

RATE_TOLERANCE = 0.05
"""Relative deviation of the measured rate from ``fps`` that is accepted."""


@dataclass
class Episode:
    """One demonstration.

    Attributes:
        streams: Name -> array whose first axis is time; names, dtypes and widths as the store lists them
            (``state``, ``action``, ``time_ns``, ``image/front`` ...).
        language: Instruction, may be empty.
        success: Whether the task was achieved.
        metadata: Anything JSON can hold (seed, index, operator ...).
    """

    streams: dict[str, NDArray[Any]]
    language: str = ""
    success: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamSpec:
    """What one stream looks like.

    Attributes:
        dtype: ``float32``, ``int64`` or ``uint8``.
        shape: Without the time axis: (C,), () or (H, W, 3).
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def image(self) -> bool:
        """Whether rows are frames."""
        return len(self.shape) == 3


def stream_specs(
    embodiment: Embodiment, environment_state: tuple[str, ...], cameras: Mapping[str, tuple[int, int]]
) -> dict[str, StreamSpec]:
    """Every stream of a store.

    Args:
        embodiment: Gives the widths of ``state``, ``action``, ``joint_position`` and ``joint_command``.
        environment_state: Channel names of the privileged state; none means that the stream does not exist.
        cameras: Name -> (height, width).
    """
    joints = StreamSpec("float32", (len(embodiment.joints),))
    specs = {"state": StreamSpec("float32", (len(embodiment.state),))}
    if environment_state:
        specs["environment_state"] = StreamSpec("float32", (len(environment_state),))
    specs["action"] = StreamSpec("float32", (len(embodiment.action),))
    specs["joint_position"] = joints
    specs["joint_command"] = joints
    specs["time_ns"] = StreamSpec("int64", ())
    for name, (height, width) in cameras.items():
        specs[f"image/{name}"] = StreamSpec("uint8", (height, width, 3))
    return specs


def channel_names(stream: str, embodiment: Embodiment, environment_state: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the channels of a low-dimensional stream, () for others."""
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
) -> dict[str, NDArray[Any]]:
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
    streams = {name: _converted(where, name, episode.streams[name], spec) for name, spec in specs.items()}
    lengths = {name: len(values) for name, values in streams.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(explain(f"{where}: streams of unequal lengths", given=lengths, mend="record one row per step"))
    if not next(iter(lengths.values())):
        raise DataError(explain(f"{where} has no rows", mend="record at least one step, or do not append it"))
    for name, values in streams.items():
        if values.dtype.kind == "f":
            _check_finite(where, name, values, names.get(name, ()))
    _check_time(where, streams["time_ns"], fps)
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


def _converted(where: str, name: str, values: Any, spec: StreamSpec) -> NDArray[Any]:
    """``values`` in the stored dtype: any float for float32, any integer for int64, only uint8 for frames."""
    array = np.asarray(values)
    kinds = {"float32": "f", "int64": "iu", "uint8": ""}[spec.dtype]
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
    if not isinstance(episode.language, str) or not isinstance(episode.success, (bool, np.bool_)):
        raise DataError(
            explain(
                f"{where}: language must be text and success a truth value",
                given=(type(episode.language).__name__, type(episode.success).__name__),
            )
        )
    try:
        json.dumps(episode.metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            explain(f"{where}: metadata is not JSON ({error})", mend="keep text, finite numbers, lists and dicts")
        ) from error
