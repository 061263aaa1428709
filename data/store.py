"""The episode store: one zarr v3 group per dataset, appended to one whole episode at a time.

On disk (``S`` 256 frames, chunks of 65,536 rows; file names are zarr's default keys with ``.``)::

    store.zarr/
      zarr.json                    attributes, and every array's metadata inline ("consolidated"): the commit record
      data/<stream>/c.<i>.0        float32 / int64, all episodes concatenated, zstd with checksum
      data/image/<camera>/c.<i>... uint8 [N, H, W, 3], one frame per inner chunk, S per shard; raw or robopolicy.jpeg
      meta/episode_ends/c.<i>      int64 [E], cumulative
      meta/episode_records/c.<i>   uint8 [bytes], one JSON line per episode: length, success, language, metadata, sha256

**The commit point is the replacement of the root zarr.json and nothing else.** It holds the committed shape of every
array, so a reader, ours or zarr-python, sees a whole number of episodes at any moment, and a process killed at any
moment leaves exactly the committed ones. Data files are on the disk before it is replaced; see
:mod:`robopolicy.data.writer`. Each array's own ``zarr.json`` is brought up to date by ``close()``; until then it shows
an earlier commit, never a later one. The group is plain zarr v3 at all times: ``zarr.open_group(path, mode="r")``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import JpegDecoder, decode_jpeg
from robopolicy.data.columns import read_column
from robopolicy.data.durable import WriterLock, storage_errors, sync_folders
from robopolicy.data.episode import Episode, StreamSpec, channel_names, check_episode, stream_specs
from robopolicy.data.layout import (
    COLUMN_CHUNK_ROWS,
    FORMAT,
    IMAGE_CODECS,
    RECORD_CHUNK_BYTES,
    SCHEMA_VERSION,
    SHARD_FRAMES,
    ColumnLayout,
    ImageLayout,
    column_metadata,
    group_metadata,
    image_metadata,
    parse_column,
    parse_image,
    root_metadata,
)
from robopolicy.data.shard import ImageReader
from robopolicy.data.snapshot import ROOT_FILE, Snapshot, json_bytes, read_snapshot, strict_json
from robopolicy.data.statistics import Statistics
from robopolicy.data.writer import ENDS, RECORDS, StoreWriter
from robopolicy.data.zarr_fallback import ZarrImages, read_through_zarr
from robopolicy.embodiment import Camera, Embodiment
from robopolicy.errors import DataError, EmbodimentError, ShapeError, StorageError, UnknownNameError, explain, suggest

__all__ = ["Episode", "EpisodeStore"]


class EpisodeStore:
    """A handle on one store: a snapshot for reading and, in mode ``a``, the only writer. A context manager.

    A reading handle shows the episodes that were committed when it was opened; open again to see more.
    """

    def __init__(self, path: Path, snapshot: Snapshot, writer: StoreWriter | None):
        """Use :meth:`create` or :meth:`open`."""
        self.path = path
        self._snapshot, self._writer = snapshot, writer
        self._columns: dict[str, NDArray[Any]] = {}
        self._readers: dict[tuple[str, JpegDecoder], ImageReader | ZarrImages] = {}
        self._records: list[dict[str, Any]] | None = None

    # -- opening -------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        embodiment: Embodiment,
        *,
        task: str = "",
        cameras: Iterable[str | Camera] = (),
        environment_state: Iterable[str] = (),
        codec: str = "raw",
        fps: float | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> EpisodeStore:
        """Make an empty store and open it for appending.

        Args:
            path: A folder that does not exist yet, or an empty one.
            embodiment: Card of the robot; gives stream widths and camera sizes.
            task: Name of the task.
            cameras: Names of cameras of the card, or :class:`Camera` objects where the recorded size differs from it.
            environment_state: Channel names of the privileged state; none means no such stream.
            codec: ``raw`` (exact) or ``jpeg`` (quality 95, 4:4:4, about a fifth of the bytes).
            fps: Rows per second; the card's ``control_hz`` when not given.
            provenance: Anything JSON about the origin; creation time and software version are added.

        Raises:
            DataError: an unknown codec, or channel names that repeat.
            EmbodimentError: an unknown camera, or a card that does not survive storing.
            StorageError: the path is taken, or the disk refused.
        """
        path = Path(path)
        names = tuple(environment_state)
        if codec not in IMAGE_CODECS:
            raise DataError(explain("unknown image codec", given=repr(codec), allowed=IMAGE_CODECS))
        if len(set(names)) != len(names):
            raise DataError(explain("environment_state names repeat", given=names))
        if Embodiment.from_dict(embodiment.to_dict()).hash != embodiment.hash:
            raise EmbodimentError(
                explain(
                    f"the card of '{embodiment.name}' changes its hash when it is stored",
                    mend="write its numbers as floats, or build it with Embodiment.from_dict",
                )
            )
        chosen = [embodiment.camera(c) if isinstance(c, str) else c for c in cameras]
        sizes = {c.name: (c.height, c.width) for c in chosen}
        specs = stream_specs(embodiment, names, sizes)
        description = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "task": task,
            "fps": float(fps or embodiment.control_hz),
            "embodiment": strict_json(embodiment.to_dict()),
            "embodiment_hash": embodiment.hash,
            "streams": {name: {"dtype": s.dtype, "shape": list(s.shape)} for name, s in specs.items()},
            "environment_state": list(names),
            "cameras": {n: {"height": h, "width": w, "codec": codec} for n, (h, w) in sizes.items()},
        }
        content = hashlib.sha256(json_bytes(description)).hexdigest()
        attributes = {
            **description,
            "provenance": {
                "software": f"robopolicy {metadata.version('robopolicy')}",
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                **strict_json(provenance or {}),
            },
            "committed": {"num_episodes": 0, "num_steps": 0, "content_hash": content},
            "statistics": {},
        }
        _lay_out(path, attributes, _empty_arrays(specs, codec))
        return cls.open(path, mode="a")

    @classmethod
    def open(cls, path: str | Path, mode: str = "r", *, embodiment: Embodiment | None = None) -> EpisodeStore:
        """Open an existing store.

        Args:
            path: The store's folder.
            mode: ``r`` to read what is committed now, ``a`` to append as the only writer.
            embodiment: Card that the caller works with; refused unless the store was made with it.

        Raises:
            StoreNotFoundError: nothing there, or another kind of folder.
            DataError: damaged, or of a newer schema version.
            EmbodimentMismatchError: made for another embodiment.
            StorageError: another writer has it open (mode ``a``).
        """
        path = Path(path)
        if mode not in ("r", "a"):
            raise DataError(explain("unknown mode", given=repr(mode), allowed=("r", "a")))
        snapshot = read_snapshot(path)
        if embodiment is not None:
            embodiment.require_same(snapshot.embodiment, mine="the caller", theirs=f"the store {path}")
        if mode == "r":
            return cls(path, snapshot, None)
        lock = WriterLock(path)
        try:
            writer = StoreWriter(path, read_snapshot(path), lock)
        except BaseException:
            lock.release()
            raise
        return cls(path, writer.snapshot, writer)

    def close(self) -> None:
        """Finish writing and give up the lock; everything appended was durable before. Harmless when done twice."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- description ---------------------------------------------------------------------------------------------

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
        """Name -> dtype and shape without the time axis."""
        entries = self._snapshot.attributes["streams"]
        return {name: StreamSpec(e["dtype"], tuple(e["shape"])) for name, e in entries.items()}

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
        """Committed episodes."""
        return self._snapshot.num_episodes

    @property
    def num_steps(self) -> int:
        """Committed rows."""
        return self._snapshot.num_steps

    @property
    def content_hash(self) -> str:
        """SHA-256 over layout, embodiment and the committed episodes in order: data, labels and metadata."""
        return str(self._snapshot.attributes["committed"]["content_hash"])

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
            lines = self._column(RECORDS).tobytes().splitlines()
            try:
                self._records = [json.loads(line) for line in lines]
            except ValueError as error:
                raise DataError(explain(f"{self.path / RECORDS} is damaged: {error}")) from error
        stop = int(self._column(ENDS)[index])
        record = self._records[index]
        return {**record, "start": stop - record["length"], "stop": stop}

    # -- reading -------------------------------------------------------------------------------------------------

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
            return self.images(stream.removeprefix("image/")).read(start, last)
        return self.column(stream)[start:last].copy()

    def column(self, stream: str) -> NDArray[Any]:
        """A whole low-dimensional stream, resident in RAM, read-only [N, C] or [N].

        Raises:
            UnknownNameError, DataError: as :meth:`read`; also for images.
        """
        if self._spec(stream).image:
            raise DataError(explain(f"'{stream}' is not low-dimensional", mend="use images() or read()"))
        return self._column(f"data/{stream}")

    def images(self, camera: str, decode: JpegDecoder = decode_jpeg) -> ImageReader | ZarrImages:
        """Random access to the frames of a camera: ``read(start, stop)`` and ``gather(rows, out)``.

        Args:
            camera: Name.
            decode: JPEG decoder, see :mod:`robopolicy.data.torch_jpeg` for another.

        Raises:
            UnknownNameError: no such camera.
        """
        if camera not in self.cameras:
            mend = suggest(camera, self.cameras)
            raise UnknownNameError(explain("no such camera", given=repr(camera), allowed=self.cameras, mend=mend))
        if (camera, decode) not in self._readers:
            name = f"data/image/{camera}"
            layout = parse_image(self._snapshot.arrays[name])
            self._readers[camera, decode] = (
                ZarrImages(self.path, name) if layout is None else ImageReader(self.path / name, layout, decode=decode)
            )
        return self._readers[camera, decode]

    # -- writing -------------------------------------------------------------------------------------------------

    def append(self, episode: Episode, *, embodiment: Embodiment | None = None, any_rate: bool = False) -> int:
        """Validate and commit one episode; it is durable and visible when this returns.

        Args:
            episode: Every stream of the store, one row per step.
            embodiment: Card that it was recorded with, checked against the store's.
            any_rate: Accept a measured rate other than ``fps``.

        Returns:
            Index of the episode.

        Raises:
            DataError, ShapeError, NonFiniteError, EmbodimentMismatchError: refused, nothing was written.
            StorageError: opened for reading only, or the disk refused; committed episodes are intact.
        """
        writer = self._require_writer()
        if embodiment is not None:
            self.embodiment.require_same(embodiment, mine=f"the store {self.path}", theirs="the episode")
        index = self.num_episodes
        names = {s: channel_names(s, self.embodiment, self.environment_state_names) for s in self.streams}
        streams = check_episode(episode, index, self.streams, names, None if any_rate else self.fps)
        try:
            writer.append(episode, streams)
        finally:
            self._adopt(writer)
        return index

    def recompute_statistics(self) -> None:
        """Rebuild the statistics of every low-dimensional stream from the data and commit them.

        Raises:
            StorageError, DataError: as :meth:`append` and :meth:`read`.
        """
        writer = self._require_writer()
        writer.recompute_statistics()
        self._adopt(writer)

    # -- inside --------------------------------------------------------------------------------------------------

    def _require_writer(self) -> StoreWriter:
        if self._writer is None:
            raise StorageError(explain(f"{self.path} is open for reading", mend="EpisodeStore.open(path, mode='a')"))
        return self._writer

    def _adopt(self, writer: StoreWriter) -> None:
        self._snapshot = writer.snapshot
        self._columns, self._readers, self._records = {}, {}, None

    def _spec(self, stream: str) -> StreamSpec:
        streams = self.streams
        if stream not in streams:
            mend = suggest(stream, streams)
            raise UnknownNameError(explain("no such stream", given=repr(stream), allowed=list(streams), mend=mend))
        return streams[stream]

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            layout = parse_column(self._snapshot.arrays[name])
            if layout is not None:
                values = read_column(self.path / name, layout, 0, layout.rows)
            else:
                values = read_through_zarr(self.path, name, self._snapshot.arrays[name]["shape"][0])
            values.flags.writeable = False
            self._columns[name] = values
        return self._columns[name]


def _empty_arrays(specs: Mapping[str, StreamSpec], codec: str) -> dict[str, dict[str, Any]]:
    arrays = {}
    for name, spec in specs.items():
        if spec.image:
            height, width, channels = spec.shape
            image = ImageLayout((height, width, channels), SHARD_FRAMES, codec, 0)
            arrays[f"data/{name}"] = image_metadata(image)
        else:
            arrays[f"data/{name}"] = column_metadata(ColumnLayout(spec.dtype, spec.shape, COLUMN_CHUNK_ROWS, 0))
    arrays[ENDS] = column_metadata(ColumnLayout("int64", (), COLUMN_CHUNK_ROWS, 0))
    arrays[RECORDS] = column_metadata(ColumnLayout("uint8", (), RECORD_CHUNK_BYTES, 0))
    return arrays


def _lay_out(path: Path, attributes: Mapping[str, Any], arrays: Mapping[str, Mapping[str, Any]]) -> None:
    """Build the empty store beside ``path`` and rename it into place: it exists whole or not at all."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StorageError(
            explain(
                f"{path} already exists",
                mend="open it with mode='a' to add episodes, or choose another path",
            )
        )
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent))
        try:
            staging.chmod(0o777 & ~_umask())
            root = root_metadata(attributes, arrays)
            nodes = {"": root, **root["consolidated_metadata"]["metadata"]}
            for name, document in nodes.items():
                folder = staging / name
                folder.mkdir(parents=True, exist_ok=True)
                plain = document if document["node_type"] == "array" or not name else group_metadata()
                (folder / ROOT_FILE).write_bytes(json_bytes(plain))
            os.replace(staging, path)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    sync_folders([path.parent])


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
