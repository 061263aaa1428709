"""What can be read from a store: its description, its records, its streams."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import JpegDecoder, decode_jpeg
from robopolicy.data.columns import read_column
from robopolicy.data.episode import StreamSpec
from robopolicy.data.files import DAMAGE, Files
from robopolicy.data.layout import ENDS, RECORDS, ImageLayout, parse_column, parse_image
from robopolicy.data.shard import ImageReader
from robopolicy.data.snapshot import Snapshot
from robopolicy.data.statistics import Statistics
from robopolicy.data.tombstones import FrameSource, LiveImages, LiveRows
from robopolicy.data.zarr_fallback import ZarrImages, read_through_zarr
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, ShapeError, UnknownNameError, explain, suggest

if TYPE_CHECKING:
    from robopolicy.data.convert.source import Finding

__all__ = ["StoreContents"]


class StoreContents:
    """The episodes of one commit. Reading never changes anything on disk."""

    def __init__(self, path: Path | str, snapshot: Snapshot, files: Files, verify: bool = True):
        """Nothing but the commit record has been read yet.

        Args:
            path: The store's folder or archive, or its URL.
            snapshot: Its commit record.
            files: Where its files are.
            verify: Check the checksums of frames.
        """
        self.path = path
        self._files, self._verify = files, verify
        self._show(snapshot)

    def _show(self, snapshot: Snapshot) -> None:
        """Stand on ``snapshot`` from now on and forget what was cached of another."""
        self._snapshot = snapshot
        self._columns: dict[str, NDArray[Any]] = {}
        self._readers: dict[tuple[str, JpegDecoder], FrameSource] = {}
        self._records: list[bytes] | None = None
        self._streams: dict[str, StreamSpec] | None = None
        self._live: LiveRows | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The commit record that this handle stands on."""
        return self._snapshot

    @property
    def files(self) -> Files:
        """Where the bytes are."""
        return self._files

    @property
    def embodiment(self) -> Embodiment:
        """Card of the robot that the data are from."""
        return self._snapshot.embodiment

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self._snapshot.attributes["task"])

    @property
    def fps(self) -> float:
        """Rows per second."""
        return float(self._snapshot.attributes["fps"])

    @property
    def attributes(self) -> dict[str, Any]:
        """All attributes of the root group."""
        return dict(self._snapshot.attributes)

    @property
    def streams(self) -> dict[str, StreamSpec]:
        """Name -> dtype, shape without the time axis, and what else is known of it."""
        if self._streams is None:
            entries = self._snapshot.attributes["streams"]
            self._streams = {name: StreamSpec.from_dict(entry) for name, entry in entries.items()}
        return dict(self._streams)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the recorded cameras."""
        return tuple(self._snapshot.attributes["cameras"])

    @property
    def environment_state_names(self) -> tuple[str, ...]:
        """Channel names of ``environment_state``."""
        return tuple(self._snapshot.attributes["environment_state"])

    @property
    def num_episodes(self) -> int:
        """Committed episodes, deleted ones left out."""
        return self._snapshot.num_episodes - len(self._snapshot.tombstones)

    @property
    def num_steps(self) -> int:
        """Committed rows, those of deleted episodes left out."""
        live = self.live_rows
        return self._snapshot.num_steps if live is None else live.num_steps

    @property
    def tombstones(self) -> tuple[int, ...]:
        """Stored indices of the deleted episodes; empty for nearly every store."""
        return self._snapshot.tombstones

    @property
    def live_rows(self) -> LiveRows | None:
        """Where the rows that readers see are stored; None when nothing was deleted."""
        if self._live is None and self._snapshot.tombstones:
            self._live = LiveRows.of(self._stored_column(ENDS), self._snapshot.tombstones)
        return self._live

    @property
    def content_hash(self) -> str:
        """SHA-256 over layout, embodiment and the committed episodes in order: data, labels and metadata."""
        chain = str(self._snapshot.attributes["committed"]["content_hash"])
        if not self._snapshot.tombstones:
            return chain
        return hashlib.sha256(f"{chain} without {list(self._snapshot.tombstones)}".encode()).hexdigest()

    @property
    def episode_ends(self) -> NDArray[np.int64]:
        """int64 [E]: row after the last one of each episode."""
        return self._column(ENDS).copy()

    def statistics(self, stream: str) -> Statistics:
        """Statistics of a low-dimensional stream over all committed rows.

        Raises:
            UnknownNameError: no such stream.
            DataError: none were stored, or none exist (images, time, empty store).
        """
        spec = self._spec(stream)
        entry = self._snapshot.attributes.get("statistics", {}).get(stream)
        if entry is not None:
            return Statistics.from_dict({k: v for k, v in entry.items() if k != "m2"})
        if spec.dtype != "float32":
            raise DataError(explain(f"no statistics are kept of '{stream}'", given=spec.dtype, allowed="float32"))
        if not self.num_episodes:
            raise DataError(explain(f"{self.path} has no episodes yet", mend="collect episodes first"))
        raise DataError(
            explain(
                f"{self.path} has no statistics of '{stream}'",
                mend="rebuild them: EpisodeStore.open(path, 'a').recompute_statistics()",
            )
        )

    def info(self, index: int) -> dict[str, Any]:
        """One episode: ``start``, ``stop`` (rows), ``length``, ``success``, ``language``, ``metadata``, ``sha256``.

        Raises:
            DataError: no such episode, or damaged records.
        """
        if not 0 <= index < self.num_episodes:
            raise DataError(explain("no such episode", given=index, allowed=f"0 to {self.num_episodes - 1}"))
        if self._records is None:
            self._records = self._column(RECORDS).tobytes().splitlines()
        stored = index if self.live_rows is None else int(self.live_rows.episodes[index])
        stop = int(self._column(ENDS)[index])
        try:
            record = json.loads(self._records[stored].decode())
            return {**record, "start": stop - record["length"], "stop": stop}
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise DataError(explain(f"{self.path}/{RECORDS} is damaged: {error}", mend=DAMAGE)) from error

    def read(self, stream: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows ``start .. stop`` of a stream -> [stop - start, ...], a copy.

        Low-dimensional streams are read once and then stay in RAM; frames are read from disk each time.

        Raises:
            UnknownNameError: no such stream.
            ShapeError: rows that are not committed.
            DataError: a damaged or missing file, named.
        """
        spec = self._spec(stream)
        last = self.num_steps if stop is None else stop
        if not 0 <= start <= last <= self.num_steps:
            raise ShapeError(explain("no such rows", given=(start, last), allowed=f"0 to {self.num_steps}"))
        if spec.image:
            return self.frames(stream).read(start, last)
        return self.column(stream)[start:last].copy()

    def column(self, stream: str) -> NDArray[Any]:
        """A whole low-dimensional stream, resident in RAM, read-only [N, C] or [N].

        Raises:
            UnknownNameError, DataError: as :meth:`read`; also for images.
        """
        if self._spec(stream).image:
            raise DataError(explain(f"'{stream}' is not low-dimensional", mend="use images() or read()"))
        return self._column(f"data/{stream}")

    def images(self, camera: str, decode: JpegDecoder = decode_jpeg) -> FrameSource:
        """Random access to the frames of a camera: ``read(start, stop)`` and ``gather(rows, out)``.

        Args:
            camera: Name.
            decode: JPEG decoder.

        Raises:
            UnknownNameError: no such camera.
        """
        if camera not in self.cameras:
            mend = suggest(camera, self.cameras)
            raise UnknownNameError(explain("no such camera", given=repr(camera), allowed=self.cameras, mend=mend))
        return self.frames(f"image/{camera}", decode)

    def frames(self, stream: str, decode: JpegDecoder = decode_jpeg) -> FrameSource:
        """Random access to any stream of frames: ``image/<camera>``, ``depth/<camera>`` ...; as :meth:`images`.

        Args:
            stream: Name.
            decode: JPEG decoder.

        Raises:
            UnknownNameError: no such stream.
            DataError: it is low-dimensional.
        """
        if not self._spec(stream).image:
            raise DataError(explain(f"'{stream}' has no frames", mend="use column() or read()"))
        if (stream, decode) not in self._readers:
            reader = self.stored_frames(stream, decode)
            live = self.live_rows
            self._readers[stream, decode] = reader if live is None else LiveImages(reader, live)
        return self._readers[stream, decode]

    def stored_frames(self, stream: str, decode: JpegDecoder = decode_jpeg) -> FrameSource:
        """As :meth:`frames`, by stored row, deleted episodes included; a reader of its own."""
        name = f"data/{stream}"
        return _frame_source(self._files, name, parse_image(self._snapshot.arrays[name]), self._verify, decode)

    def verify(self, episodes: Iterable[int] | None = None) -> Iterator[Finding]:
        """Read everything back and compare it with its checksums, see :mod:`robopolicy.data.verification`.

        Args:
            episodes: Stored indices, all when None.

        Yields:
            What is wrong, nothing for a sound store.
        """
        from robopolicy.data.verification import verify_store

        yield from verify_store(self, episodes)

    def _spec(self, stream: str) -> StreamSpec:
        streams = self.streams
        if stream not in streams:
            mend = suggest(stream, streams)
            raise UnknownNameError(explain("no such stream", given=repr(stream), allowed=list(streams), mend=mend))
        return streams[stream]

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            live = None if name == RECORDS else self.live_rows
            if live is None:
                values = self._stored_column(name)
            else:
                values = live.ends if name == ENDS else live.select(self._stored_column(name))
            values.flags.writeable = False
            self._columns[name] = values
        return self._columns[name]

    def _stored_column(self, name: str) -> NDArray[Any]:
        layout = parse_column(self._snapshot.arrays[name])
        if layout is not None:
            return read_column(self._files.within(name), layout, 0, layout.rows)
        return read_through_zarr(self._files, name, self._snapshot.arrays[name]["shape"][0])


def _frame_source(
    files: Files, name: str, layout: ImageLayout | None, verify: bool, decode: JpegDecoder
) -> FrameSource:
    if layout is None:
        return ZarrImages(files, name)
    if files.mapped:
        return ImageReader(files.within(name), layout, verify=verify, decode=decode)
    from robopolicy.data.remote import RemoteFiles
    from robopolicy.data.remote_images import RemoteImages

    assert isinstance(files, RemoteFiles)
    return RemoteImages(files.within(name), layout, verify=verify, decode=decode)
