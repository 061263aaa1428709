"""What is done to an episode between its source and the store: size of frames, encoding, checks. Workers run it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robopolicy.data.audit_checks import CheckPlan, check_canonical
from robopolicy.data.codecs import decode_jpeg, encode_jpeg
from robopolicy.data.convert.frames import FrameSequence
from robopolicy.data.convert.source import Source
from robopolicy.data.convert.transfer import Prepared
from robopolicy.data.episode import EncodedFrames, Episode
from robopolicy.errors import DataError, MissingDependencyError, RobopolicyError, StorageError, explain

__all__ = ["Preparation", "framed", "prepare"]


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
        return Prepared(episode, ready, reading.findings, check_canonical(ready, how.plan))
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
            streams[key] = framed(streams[key], height, width, how.codec)
    metadata: dict[str, Any] = dict(episode.metadata)
    metadata["source"] = {**(metadata.get("source") or {}), "id": name}
    return Episode(streams, episode.language, episode.success, metadata)


def framed(frames: Any, height: int, width: int, codec: str) -> NDArray[Any] | EncodedFrames:
    """Frames of one camera at the size of the store, JPEG files for a ``jpeg`` store.

    They are decoded, resized (Lanczos with the support that shrinking needs) and encoded one at a time. JPEG files of
    the right size are passed on as they are, and so is everything that is not frames, for the store to refuse it.

    Args:
        frames: uint8 [T, H, W, 3], :class:`EncodedFrames` or :class:`FrameSequence`.
        height, width: Of the store.
        codec: ``jpeg`` or ``raw``.

    Raises:
        DataError: not colour frames, or a frame that cannot be decoded.
    """
    same = tuple(frames.shape[1:3]) == (height, width)
    lazy = isinstance(frames, FrameSequence)
    if same and not lazy and (codec == "raw" or isinstance(frames, EncodedFrames)):
        return frames
    if len(frames.shape) != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise DataError(explain("frames have to be uint8 [T, H, W, 3]", given=(str(frames.dtype), frames.shape)))
    each = (_fitted(frame, height, width) for frame in _decoded(frames))
    if codec == "jpeg":
        return EncodedFrames((height, width, 3), tuple(encode_jpeg(frame) for frame in each))
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for place, frame in zip(out, each, strict=True):
        place[...] = frame
    return out


def _decoded(frames: NDArray[Any] | EncodedFrames | FrameSequence) -> Iterator[NDArray[np.uint8]]:
    if not isinstance(frames, EncodedFrames):
        yield from frames
        return
    for blob in frames.blobs:
        frame = np.empty(frames.frame, np.uint8)
        decode_jpeg(blob, frame)
        yield frame


def _fitted(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if frame.shape[:2] == (height, width):
        return np.ascontiguousarray(frame)
    image = Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image)
