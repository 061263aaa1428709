"""Pictures of the goals of episodes: as text in the metadata of an episode, and as frames that windows read.

In a store a picture of the goal is episode-level data: ``metadata["goal_image"]``, camera -> PNG as base64 text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.resize import resize_frame
from robopolicy.data.shared_block import SharedBlock
from robopolicy.errors import DataError, explain

__all__ = ["GOAL_IMAGE", "EpisodePictures", "decode_goal_images", "encode_goal_images"]

GOAL_IMAGE = "goal_image"
"""Key in the metadata of an episode."""


def encode_goal_images(images: Mapping[str, NDArray[np.uint8]]) -> dict[str, str]:
    """Pictures by camera, uint8 [H, W, 3] -> PNG as base64 text, without loss."""
    from PIL import Image

    found = {}
    for camera, picture in images.items():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG", optimize=False)
        found[camera] = base64.b64encode(buffer.getvalue()).decode("ascii")
    return found


def decode_goal_images(metadata: Mapping[str, Any], cameras: Sequence[str] = ()) -> dict[str, NDArray[np.uint8]]:
    """Inverse of :func:`encode_goal_images`, from the metadata of an episode.

    Args:
        metadata: ``store.info(i)["metadata"]``.
        cameras: Which; all that there are by default.

    Raises:
        DataError: no such picture in the episode.
    """
    from PIL import Image

    stored = metadata.get(GOAL_IMAGE, {})
    missing = [c for c in cameras if c not in stored]
    if missing or not stored:
        raise DataError(
            explain(
                "the episode has no picture of its goal",
                given=missing or None,
                allowed=list(stored) or "none was recorded",
                mend="collect with goal_images=[front], or take the last frame of a successful episode",
            )
        )
    wanted = cameras or list(stored)
    return {c: np.array(Image.open(io.BytesIO(base64.b64decode(stored[c]))).convert("RGB")) for c in wanted}


class EpisodePictures:
    """One camera's picture of the goal of each of some episodes, decoded in memory: a tier whose places are episodes.

    Args:
        store: Open for reading, or a view of one at another rate.
        camera: Of the store's card.
        episodes: Indices, place 0 .. E - 1.
        image_size: (height, width) handed out, None for that of the camera.

    Raises:
        DataError: an episode without such a picture, or with one of another size, named.
        EmbodimentError: no such camera.
    """

    label = "decoded goals"
    by_row = False

    def __init__(self, store: Any, camera: str, episodes: NDArray[np.int64], image_size: tuple[int, int] | None = None):
        view = store.embodiment.camera(camera)
        native = (view.height, view.width, 3)
        self._open(len(episodes), (*(image_size or native[:2]), 3))
        for place, index in enumerate(episodes.tolist()):
            try:
                picture = decode_goal_images(store.info(index)["metadata"], (camera,))[camera]
            except DataError as error:
                raise DataError(f"{store.path}, episode {index}: {error}") from error
            if picture.shape != native:
                raise DataError(
                    explain(
                        f"{store.path}, episode {index}: the picture of the goal is not one of camera '{camera}'",
                        given=picture.shape,
                        allowed=native,
                        mend="record it in the camera's size",
                    )
                )
            if picture.shape == self.frame:
                self._frames[place] = picture
            else:
                resize_frame(picture, self._frames[place])

    def _open(self, count: int, frame: tuple[int, ...], fd: int | None = None) -> None:
        self.frame, self.dtype = frame, np.dtype(np.uint8)
        size = count * int(np.prod(frame))
        self.block = SharedBlock(size) if fd is None else SharedBlock(size, fd)
        self._frames: NDArray[np.uint8] = self.block.array((count, *frame), self.dtype)

    @property
    def nbytes(self) -> int:
        """Memory that the pictures take."""
        return int(self._frames.nbytes)

    def gather(self, places: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Pictures of the episodes at ``places`` [n] into ``out`` uint8 [n, h, w, 3]."""
        np.take(self._frames, places, axis=0, out=out, mode="clip")

    gather_filled = gather

    def prepare(self) -> None:
        """Nothing to do."""

    def describe(self) -> tuple[dict[str, Any], list[int]]:
        """JSON and descriptors for another process."""
        entry = {"tier": self.label, "fd": self.block.fd, "count": len(self._frames), "frame": list(self.frame)}
        return entry, [self.block.fd]

    @classmethod
    def open(cls, entry: Mapping[str, Any]) -> EpisodePictures:
        """The same memory in another process."""
        made = cls.__new__(cls)
        made._open(entry["count"], tuple(entry["frame"]), entry["fd"])
        return made
