"""Frames of an episode as sheets of small JPEGs that fit into a page.

**The rule of the size.** Every camera of every episode gets the same share of the page's budget. Frames are scaled
down so that their longer side is at most :data:`MAX_SIDE` pixels. The bytes of a frame are measured on a few of them;
as many frames as fit into the share are kept, evenly spaced, the first and the last among them, never fewer than
:data:`MIN_FRAMES` of an episode that has as many.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robopolicy.data.contents import StoreContents

__all__ = ["MAX_SIDE", "MIN_FRAMES", "QUALITY", "Sheets", "kept_rows", "sheets"]

MAX_SIDE = 224
MIN_FRAMES = 8
MAX_FRAMES = 900
QUALITY = 72
_SHEET_SIDE = 2048
_SAMPLES = 3


@dataclass(frozen=True)
class Sheets:
    """Frames of one camera and one episode.

    Attributes:
        camera: Name.
        size: (width, height) of a frame on a sheet, in pixels.
        columns: Frames beside each other on a sheet.
        per_sheet: Frames on a sheet.
        rows: Row of the episode that each frame shows.
        images: ``data:`` addresses, one per sheet.
    """

    camera: str
    size: tuple[int, int]
    columns: int
    per_sheet: int
    rows: list[int]
    images: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON for the page."""
        return {
            "camera": self.camera,
            "w": self.size[0],
            "h": self.size[1],
            "columns": self.columns,
            "perSheet": self.per_sheet,
            "rows": self.rows,
            "images": self.images,
        }


def sheets(store: StoreContents, stream: str, start: int, stop: int, budget: int) -> Sheets:
    """Rows ``start .. stop`` of a stream of frames, within ``budget`` bytes of base64 where the rule allows.

    Raises:
        DataError: a damaged frame, named.
    """
    height, width, _ = store.streams[stream].shape
    factor = min(1.0, MAX_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    count = stop - start
    probe = np.unique(np.linspace(0, count - 1, min(_SAMPLES, count)).round().astype(int))
    look = _Look(store, stream, start, probe)
    measured = [len(_jpeg(look.small(int(i), size))) for i in probe]
    each = max(1.0, float(np.mean(measured)) * 4 / 3 * 0.9)  # base64; frames on one sheet share a header
    rows = kept_rows(count, int(budget / each))
    columns = max(1, min(_SHEET_SIDE // size[0], math.ceil(math.sqrt(len(rows)))))
    per_sheet = columns * max(1, _SHEET_SIDE // size[1])
    groups = [rows[i : i + per_sheet] for i in range(0, len(rows), per_sheet)]
    images = [_address(_sheet(look, group, size, columns)) for group in groups]
    return Sheets(stream.removeprefix("image/"), size, columns, per_sheet, rows, images)


def kept_rows(count: int, affordable: int) -> list[int]:
    """Evenly spaced rows of an episode, the first and the last among them.

    Args:
        count: Rows of the episode.
        affordable: How many fit into the budget.
    """
    kept = min(count, max(affordable, MIN_FRAMES), MAX_FRAMES)
    return np.unique(np.linspace(0, count - 1, kept).round().astype(int)).tolist()


class _Look:
    """Frames of one episode as small RGB pictures; depth and masks are spread over the greys."""

    def __init__(self, store: StoreContents, stream: str, start: int, probe: NDArray[Any]):
        self.reader, self.start = store.frames(stream), start
        spec = store.streams[stream]
        self.colour = spec.dtype == "uint8" and spec.shape[2] == 3
        self.span = (0.0, 1.0)
        if not self.colour:
            seen = np.concatenate([self._frame(int(i)).ravel() for i in probe])
            inside = seen[seen > 0]
            self.span = (float(inside.min()), float(inside.max())) if len(inside) else (0.0, 1.0)

    def small(self, row: int, size: tuple[int, int]) -> Image.Image:
        frame = self._frame(row)
        if not self.colour:
            low, high = self.span
            grey = np.clip((frame[..., 0].astype(np.float64) - low) / max(high - low, 1e-9), 0, 1) * 255
            frame = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        picture = Image.fromarray(np.ascontiguousarray(frame), "RGB")
        return picture if picture.size == size else picture.resize(size, Image.Resampling.BOX)

    def _frame(self, row: int) -> NDArray[Any]:
        return self.reader.read(self.start + row, self.start + row + 1)[0]


def _sheet(look: _Look, rows: list[int], size: tuple[int, int], columns: int) -> Image.Image:
    width, height = size
    sheet = Image.new("RGB", (width * min(columns, len(rows)), height * math.ceil(len(rows) / columns)))
    for place, picture in _placed(look, rows, size, columns):
        sheet.paste(picture, place)
    return sheet


def _placed(
    look: _Look, rows: list[int], size: tuple[int, int], columns: int
) -> Iterator[tuple[tuple[int, int], Image.Image]]:
    for i, row in enumerate(rows):
        yield (i % columns * size[0], i // columns * size[1]), look.small(row, size)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _address(picture: Image.Image) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(_jpeg(picture)).decode("ascii")
