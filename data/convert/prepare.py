"""What is done to an episode between its source and the store: size of frames, encoding, checks. Workers run it."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robopolicy.data.audit_checks import CheckPlan, check_canonical
from robopolicy.data.convert.source import Source
from robopolicy.data.convert.transfer import Prepared
from robopolicy.data.episode import EncodedFrames, Episode
from robopolicy.data.shard import decode_frames, encode_frames
from robopolicy.errors import DataError, MissingDependencyError, RobopolicyError, StorageError, explain

__all__ = ["Preparation", "prepare", "resized"]


@dataclass(frozen=True)
class Preparation:
    """How every episode of a conversion is prepared.

    Attributes:
        cameras: Slot -> (height, width) in the store.
        codec: Of the store, ``raw`` or ``jpeg``.
        state_order, action_order: Positions in the source's vector of each channel of the store, None for the same.
        plan: What the checks have to know.
    """

    cameras: Mapping[str, tuple[int, int]]
    codec: str
    plan: CheckPlan
    state_order: tuple[int, ...] | None = None
    action_order: tuple[int, ...] | None = None


def prepare(source: Source, episode: str, how: Preparation) -> Prepared:
    """Read one episode and bring it into the form that is appended; what is wrong with it is told, not raised.

    Raises:
        MissingDependencyError, StorageError, MemoryError: not the episode's fault.
    """
    try:
        reading = source.read(episode)
        if reading.episode is None:
            return Prepared(episode, None, reading.findings)
        ready = _prepared(reading.episode, episode, how)
        checks = check_canonical(ready, how.plan)
        for name in how.cameras:
            frames = ready.streams.get(f"image/{name}")
            if how.codec == "jpeg" and isinstance(frames, np.ndarray):
                height, width = frames.shape[1:3]
                ready.streams[f"image/{name}"] = EncodedFrames((height, width, 3), tuple(encode_frames(frames, "jpeg")))
        return Prepared(episode, ready, reading.findings, checks)
    except (MissingDependencyError, StorageError, MemoryError):
        raise
    except RobopolicyError as error:
        return Prepared(episode, None, error=str(error))
    except Exception as error:
        # A converter of another package may raise anything; the user has to know which episode it was.
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({place.filename.rpartition('/')[2]}:{place.lineno})"
        return Prepared(episode, None, error=text)


def _prepared(episode: Episode, name: str, how: Preparation) -> Episode:
    streams = dict(episode.streams)
    for key, order in (("state", how.state_order), ("action", how.action_order)):
        if order is not None and key in streams:
            streams[key] = np.asarray(streams[key])[:, list(order)]
    for camera, (height, width) in how.cameras.items():
        key = f"image/{camera}"
        if key in streams:
            streams[key] = resized(streams[key], height, width)
    metadata: dict[str, Any] = dict(episode.metadata)
    metadata["source"] = {**(metadata.get("source") or {}), "id": name}
    return Episode(streams, episode.language, bool(episode.success), metadata)


def resized(frames: NDArray[Any] | EncodedFrames, height: int, width: int) -> NDArray[Any] | EncodedFrames:
    """Frames [T, H, W, 3] at another size, Lanczos with the support that shrinking needs; unchanged at the same size.

    Raises:
        DataError: not colour frames, or a frame that cannot be decoded.
    """
    if tuple(frames.shape[1:3]) == (height, width):
        return frames
    if isinstance(frames, EncodedFrames):
        frames = decode_frames(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise DataError(explain("only colour frames can be resized", given=(frames.dtype, frames.shape)))
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for frame, place in zip(frames, out, strict=True):
        place[...] = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))
    return out
