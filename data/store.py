"""The episode store: one zarr v3 group per dataset, appended to one whole episode at a time.

On disk (``S`` 256 frames, chunks of 65,536 rows; file names are zarr's default keys with ``.``)::

    store.zarr/
      zarr.json                    attributes, and every array's metadata inline ("consolidated"): the commit record
      data/<stream>/c.<i>.0        float32 / int64, all episodes concatenated, zstd with checksum
      data/image/<camera>/c.<i>... uint8 [N, H, W, 3], one frame per inner chunk, S per shard; raw or robopolicy.jpeg
      data/depth/<camera>/c.<i>... uint16 [N, H, W, 1] in mm, sharded likewise; blosc (zstd, bits shuffled)
      meta/episode_ends/c.<i>      int64 [E], cumulative
      meta/episode_records/c.<i>   uint8 [bytes], one JSON line per episode: length, success, language, metadata, sha256

**The commit point is the replacement of the root zarr.json and nothing else.** It holds the committed shape of every
array, so a reader, ours or zarr-python, sees a whole number of episodes at any moment, and a process killed at any
moment leaves exactly the committed ones. Data files are on the disk before it is replaced; see
:mod:`robopolicy.data.writer`. Each array's own ``zarr.json`` is brought up to date by ``close()``; until then it shows
an earlier commit, never a later one. The group is plain zarr v3 at all times: ``zarr.open_group(path, mode="r")``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from robopolicy.data.contents import StoreContents
from robopolicy.data.creation import create_store
from robopolicy.data.durable import WriterLock
from robopolicy.data.episode import Episode, StreamSpec, channel_names, check_episode, joint_streams
from robopolicy.data.files import Files, LocalFiles, ZipFiles, is_zip, store_url
from robopolicy.data.snapshot import Snapshot, read_snapshot
from robopolicy.data.writer import StoreWriter
from robopolicy.embodiment import Camera, Embodiment
from robopolicy.errors import DataError, StorageError, explain

__all__ = ["Episode", "EpisodeStore"]


class EpisodeStore(StoreContents):
    """A handle on one store: a snapshot for reading and, in mode ``a``, the only writer. A context manager.

    A reading handle shows the episodes that were committed when it was opened; open again to see more.
    """

    def __init__(
        self, path: Path | str, snapshot: Snapshot, files: Files, writer: StoreWriter | None, verify: bool = True
    ):
        """Use :meth:`create` or :meth:`open`."""
        super().__init__(path, snapshot, files, verify)
        self._writer = writer

    @classmethod
    def create(
        cls,
        path: str | Path,
        embodiment: Embodiment,
        *,
        task: str = "",
        cameras: Iterable[str | Camera] | Mapping[str, tuple[int, int]] = (),
        environment_state: Iterable[str] = (),
        joints: bool = True,
        extra: Mapping[str, StreamSpec] | None = None,
        codec: str = "raw",
        fps: float | None = None,
        provenance: Mapping[str, Any] | None = None,
        checksums: bool = True,
    ) -> EpisodeStore:
        """Make an empty store and open it for appending.

        Args:
            path: A folder that does not exist yet, or an empty one.
            embodiment: Card of the robot; gives stream widths and camera sizes.
            task: Name of the task.
            cameras: Names of cameras of the card, :class:`Camera` objects where the recorded size differs from it, or
                name -> (height, width) for cameras that the card does not have.
            environment_state: Channel names of the privileged state; none means no such stream.
            joints: Whether ``joint_position`` and ``joint_command`` are recorded.
            extra: Further streams, name -> what they look like; ``depth/<camera>`` uint16 [H, W, 1] in millimetres and
                masks uint8 [H, W, 1] are compressed without loss.
            codec: Of RGB frames: ``raw`` (exact) or ``jpeg`` (quality 95, 4:4:4, about a fifth of the bytes).
            fps: Rows per second; the card's ``control_hz`` when not given.
            provenance: Anything JSON about the origin; creation time and software version are added.
            checksums: Store a CRC-32C with every frame, checked when it is first read.

        Raises:
            DataError: an unknown codec, or channel names that repeat.
            EmbodimentError: an unknown camera.
            StorageError: the path is taken, or the disk refused.
        """
        if store_url(path) is not None or is_zip(Path(path)):
            mend = "create a folder and upload it, or pack it with robopolicy.data.archive.pack"
            raise StorageError(explain(f"{path} can only be read", mend=mend))
        if isinstance(cameras, Mapping):
            sizes = dict(cameras)
        else:
            cards = [embodiment.camera(c) if isinstance(c, str) else c for c in cameras]
            sizes = {c.name: (c.height, c.width) for c in cards}
        create_store(
            Path(path),
            embodiment,
            task=task,
            cameras=sizes,
            environment_state=tuple(environment_state),
            extra={**(joint_streams(embodiment) if joints else {}), **(extra or {})},
            codec=codec,
            fps=float(fps or embodiment.control_hz),
            provenance=provenance or {},
            checksums=checksums,
        )
        return cls.open(path, mode="a")

    @classmethod
    def open(
        cls,
        path: str | Path,
        mode: str = "r",
        *,
        embodiment: Embodiment | None = None,
        verify: bool = True,
        storage: Mapping[str, Any] | None = None,
    ) -> EpisodeStore:
        """Open an existing store.

        Args:
            path: The store's folder; for reading also an archive ``.zarr.zip`` made by
                :func:`robopolicy.data.archive.pack`, or a URL (``s3://``, ``https://``, ``memory://`` ...).
            mode: ``r`` to read what is committed now, ``a`` to append as the only writer.
            embodiment: Card that the caller works with; refused unless the store was made with it.
            verify: Check the checksum of every frame when it is first read, and that of every shard's index.
            storage: Options of a URL, see :class:`robopolicy.data.remote.RemoteFiles`.

        Raises:
            StoreNotFoundError: nothing there, or another kind of folder.
            DataError: damaged, or of a newer schema version.
            EmbodimentMismatchError: made for another embodiment.
            StorageError: another writer has it open, or it is not a folder (mode ``a``); a server does not answer.
            MissingDependencyError: a URL without the extra ``remote``.
        """
        if mode not in ("r", "a"):
            raise DataError(explain("unknown mode", given=repr(mode), allowed=("r", "a")))
        place, files = _located(path, storage)
        snapshot = read_snapshot(place, files)
        if embodiment is not None:
            embodiment.require_same(snapshot.embodiment, mine="the caller", theirs=f"the store {place}")
        if mode == "r":
            return cls(place, snapshot, files, None, verify)
        if not isinstance(files, LocalFiles):
            mend = "unpack or download it, and append to the folder"
            raise StorageError(explain(f"{place} can only be read", given="mode='a'", mend=mend))
        lock = WriterLock(files.folder)
        try:
            writer = StoreWriter(files.folder, read_snapshot(place, files), lock)
        except BaseException:
            lock.release()
            raise
        return cls(place, writer.snapshot, files, writer, verify)

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
        return self.append_many([episode], embodiment=embodiment, any_rate=any_rate)[0]

    def append_many(
        self, episodes: Iterable[Episode], *, embodiment: Embodiment | None = None, any_rate: bool = False
    ) -> list[int]:
        """Validate several episodes and commit them together: all become visible at once, or none.

        One commit costs some twenty file writes however many episodes it has, so short episodes are appended many
        times faster this way. The resulting store is the same, to the bit. All of them are in memory at once.

        Args:
            episodes: As for :meth:`append`; none at all does nothing.
            embodiment: Card that they were recorded with, checked against the store's.
            any_rate: Accept measured rates other than ``fps``.

        Returns:
            Index of each episode.

        Raises:
            DataError, ShapeError, NonFiniteError, EmbodimentMismatchError: one was refused, nothing was written.
            StorageError: opened for reading only, or the disk refused; committed episodes are intact.
        """
        writer = self._require_writer()
        if embodiment is not None:
            self.embodiment.require_same(embodiment, mine=f"the store {self.path}", theirs="the episode")
        first, specs, fps = self.num_episodes, self.streams, None if any_rate else self.fps
        names = {
            name: channel_names(name, self.embodiment, self.environment_state_names, spec)
            for name, spec in specs.items()
        }
        checked = [(e, check_episode(e, first + i, specs, names, fps)) for i, e in enumerate(episodes)]
        if checked:
            try:
                writer.append(checked)
            finally:
                self._show(writer.snapshot)
        return list(range(first, first + len(checked)))

    def recompute_statistics(self) -> None:
        """Rebuild the statistics of every low-dimensional stream from the data and commit them.

        Raises:
            StorageError, DataError: as :meth:`append` and :meth:`read`.
        """
        writer = self._require_writer()
        writer.recompute_statistics()
        self._show(writer.snapshot)

    def set_tombstones(self, episodes: Iterable[int]) -> None:
        """Hide exactly these episodes from readers; nothing is removed, and an empty list shows all of them again.

        The indices of the others close up, statistics are those of what is left, ``content_hash`` changes. See
        :mod:`robopolicy.data.tombstones`, and :mod:`robopolicy.data.tools.deletion` for deleting by live index.

        Args:
            episodes: *Stored* indices.

        Raises:
            DataError: no such episodes.
            StorageError: opened for reading only, or the disk refused; nothing has changed.
        """
        writer = self._require_writer()
        writer.set_tombstones(sorted({int(i) for i in episodes}))
        self._show(writer.snapshot)

    def _require_writer(self) -> StoreWriter:
        if self._writer is None:
            raise StorageError(explain(f"{self.path} is open for reading", mend="EpisodeStore.open(path, mode='a')"))
        return self._writer


def _located(path: str | Path, storage: Mapping[str, Any] | None) -> tuple[Path | str, Files]:
    """Where a store is, normalised, and access to its files."""
    url = store_url(path)
    if url is not None:
        if url.endswith(".zip"):
            mend = "download the archive, or unpack it on the server"
            raise StorageError(explain(f"{url} cannot be read: archives are mapped from a disk", mend=mend))
        from robopolicy.data.remote import RemoteFiles

        return url, RemoteFiles(url, storage)
    folder = Path(path)
    return folder, ZipFiles.open(folder) if is_zip(folder) else LocalFiles(folder)
