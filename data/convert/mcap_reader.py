"""MCAP files as recordings: topics, and messages in the order of their log time, whole or salvaged.

https://mcap.dev/spec. A recording is one file, or the files of one rosbag2 folder (``metadata.yaml`` beside them).
"""

from __future__ import annotations

import importlib
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.data.convert.mcap_decode import decoder_of
from robopolicy.errors import DataError, MissingDependencyError, RobopolicyError, explain

__all__ = ["MAGIC", "Received", "Recording", "TopicInfo", "find_recordings", "listed_topics"]

MAGIC = b"\x89MCAP0\r\n"
FAR = 2**63 - 1


@dataclass(frozen=True)
class TopicInfo:
    """What a recording says of a topic."""

    schema: str
    encoding: str
    messages: int


@dataclass(frozen=True)
class Received:
    """One message, not decoded yet."""

    topic: str
    log_ns: int
    publish_ns: int
    data: bytes
    decoder: Callable[[bytes], Any]

    def decode(self) -> Any:
        """The message as an object.

        Raises:
            DataError: bytes that do not fit the schema.
        """
        try:
            return self.decoder(self.data)
        except RobopolicyError:
            raise
        except Exception as error:  # decoders of other packages raise what they like on damaged bytes
            raise DataError(
                explain(f"a message of topic {self.topic} at {self.log_ns} ns cannot be decoded: {error!r}")
            ) from error


def find_recordings(path: Path) -> dict[str, tuple[Path, ...]]:
    """Name -> files of every recording at ``path``: one file, a folder of files, or folders of rosbag2."""
    if path.is_file():
        return {path.stem: (path,)}
    files = tuple(sorted(path.glob("*.mcap")))
    if files and (path / "metadata.yaml").is_file():
        return {path.name: files}
    found: dict[str, tuple[Path, ...]] = {file.stem: (file,) for file in files}
    for folder in sorted(p for p in path.iterdir() if (p / "metadata.yaml").is_file()):
        if inside := tuple(sorted(folder.glob("*.mcap"))):
            found[folder.name] = inside
    return found


class Recording:
    """The files of one recording. Files are opened while they are read and not longer."""

    def __init__(self, files: Sequence[Path], salvage: bool = False):
        """Nothing is read yet.

        Args:
            files: In order of time.
            salvage: Read a file whose end is missing as far as it goes.
        """
        self.files, self.salvage = tuple(files), salvage
        self.cut: list[str] = []
        self._decoders: dict[tuple[Path, int], Callable[[bytes], Any]] = {}

    def topics(self) -> dict[str, TopicInfo]:
        """Every topic with its schema, encoding and number of messages.

        Raises:
            DataError: a file that is no MCAP, or cut and not to be salvaged.
        """
        found: dict[str, TopicInfo] = {}
        for file in self.files:
            for channel, schema, count in self._channels(file):
                before = found.get(channel.topic)
                name = schema.name if schema is not None else ""
                total = count + (before.messages if before else 0)
                found[channel.topic] = TopicInfo(name, channel.message_encoding, total)
        return dict(sorted(found.items()))

    def messages(self, topics: Sequence[str], start_ns: int = 0, stop_ns: int = FAR) -> Iterator[Received]:
        """Messages of ``topics`` with ``start_ns <= log time < stop_ns``, file by file, by log time within each.

        Raises:
            DataError: damaged or cut; the file is named.
            MissingDependencyError: a package for the encoding, or mcap itself, is not installed.
        """
        for file in self.files:
            for schema, channel, message in self._guarded(file, self._raw(file, topics, start_ns, stop_ns)):
                key = (file, channel.id)
                if key not in self._decoders:
                    self._decoders[key] = decoder_of(channel.message_encoding, schema)
                yield Received(channel.topic, message.log_time, message.publish_time, message.data, self._decoders[key])

    def _raw(self, file: Path, topics: Sequence[str], start_ns: int, stop_ns: int) -> Iterator[tuple[Any, Any, Any]]:
        reader_module = _mcap("reader")
        with file.open("rb") as stream:
            if not self.salvage or _whole(file):
                _check_summary(stream)
                limit = file.stat().st_size
                reader = reader_module.SeekingReader(stream, validate_crcs=True, record_size_limit=limit)
                summary = reader.get_summary()
                if _indexed(summary):
                    yield from reader.iter_messages(topics=list(topics), starting_at=start_ns, ending_before=stop_ns)
                    return
                stream.seek(0)
            wanted, schemas, channels = set(topics), {}, {}
            records = _mcap("records")
            for record in self._salvaged(file, stream):
                if isinstance(record, records.Schema):
                    schemas[record.id] = record
                elif isinstance(record, records.Channel):
                    channels[record.id] = record
                elif isinstance(record, records.Message) and record.channel_id in channels:
                    channel = channels[record.channel_id]
                    if channel.topic in wanted and start_ns <= record.log_time < stop_ns:
                        yield schemas.get(channel.schema_id), channel, record

    def _salvaged(self, file: Path, stream: Any) -> Iterator[Any]:
        """Records from the beginning to where the file ends; what ends it is kept in ``cut``."""
        records = (
            _mcap("stream_reader")
            .StreamReader(stream, validate_crcs=True, record_size_limit=file.stat().st_size)
            .records
        )
        while True:
            try:
                yield next(records)
            except StopIteration:
                return
            except _broken() as error:
                if not self.salvage:
                    raise
                text = f"{file.name} ends at byte {stream.tell()} ({error!r})"
                if text not in self.cut:
                    self.cut.append(text)
                return

    def _channels(self, file: Path) -> Iterator[tuple[Any, Any, int]]:
        def listing() -> Iterator[tuple[Any, Any, int]]:
            with file.open("rb") as stream:
                summary = None
                if not self.salvage or _whole(file):
                    _check_summary(stream)
                    limit = file.stat().st_size
                    summary = _mcap("reader").SeekingReader(stream, record_size_limit=limit).get_summary()
                if summary is not None and _indexed(summary):
                    counts = summary.statistics.channel_message_counts if summary.statistics else {}
                    for channel in summary.channels.values():
                        yield channel, summary.schemas.get(channel.schema_id), counts.get(channel.id, 0)
                    return
                stream.seek(0)
                yield from self._scan(file, stream)

        return self._guarded(file, listing())

    def _scan(self, file: Path, stream: Any) -> Iterator[tuple[Any, Any, int]]:
        records, schemas, channels = _mcap("records"), {}, {}
        counts: dict[int, int] = {}
        for record in self._salvaged(file, stream):
            if isinstance(record, records.Schema):
                schemas[record.id] = record
            elif isinstance(record, records.Channel):
                channels[record.id] = record
            elif isinstance(record, records.Message):
                counts[record.channel_id] = counts.get(record.channel_id, 0) + 1
        for channel in channels.values():
            yield channel, schemas.get(channel.schema_id), counts.get(channel.id, 0)

    def _guarded(self, file: Path, items: Iterator[Any]) -> Iterator[Any]:
        """The same items; what mcap raises on damaged bytes becomes one DataError."""
        try:
            yield from items
        except _broken() as error:
            mend = "copy the file again; options.cut_file=salvage reads a file whose end is missing as far as it goes"
            raise DataError(explain(f"{file} is damaged or cut: {error!r}", mend=mend)) from error


def listed_topics(topics: Mapping[str, TopicInfo]) -> str:
    """Topics for a message: name, schema, encoding, number of messages, one per line."""
    return "\n".join(f"  {n}  {t.schema or '-'} ({t.encoding}), {t.messages} messages" for n, t in topics.items())


def _whole(file: Path) -> bool:
    """Whether the file ends as an MCAP file does."""
    with file.open("rb") as stream:
        stream.seek(0, 2)
        if stream.tell() < 2 * len(MAGIC):
            return False
        stream.seek(-len(MAGIC), 2)
        return stream.read() == MAGIC


def _indexed(summary: Any) -> bool:
    """Whether the summary section names every channel, schema and chunk; each of them is optional there."""
    if summary is None or not summary.chunk_indexes:
        return False
    used = {i for chunk in summary.chunk_indexes for i in chunk.message_index_offsets}
    schemas = {channel.schema_id for channel in summary.channels.values()} - {0}
    return bool(used) and used <= summary.channels.keys() and schemas <= summary.schemas.keys()


def _check_summary(stream: Any) -> None:
    """Compare the checksum of the summary section, without which a damaged index would hide messages.

    The footer is 20 bytes: start of the summary, start of its offsets, CRC-32 of all from the former up to itself.

    Raises:
        ValueError: it differs, or there is no footer.
    """
    size = 9 + 20 + len(MAGIC)
    stream.seek(0, 2)
    end = stream.tell()
    stream.seek(max(end - size, 0))
    tail = stream.read()
    if len(tail) != size or tail[0] != 2 or not tail.endswith(MAGIC):
        raise ValueError("the file does not end as an MCAP file does")
    start, _, wanted = struct.unpack_from("<QQI", tail, 9)
    if start and wanted:
        if start > end - size:
            raise ValueError("the summary begins behind the end")
        stream.seek(start)
        found = zlib.crc32(stream.read(end - size - start) + tail[: 9 + 16])
        if found != wanted:
            raise ValueError("the checksum of the summary section differs")
    stream.seek(0)


def _mcap(module: str) -> Any:
    try:
        return importlib.import_module(f"mcap.{module}")
    except ImportError as error:
        raise MissingDependencyError(
            explain("MCAP files need the package mcap", mend="pip install 'robopolicy[formats]'")
        ) from error


def _broken() -> tuple[type[Exception], ...]:
    """What mcap, struct and the decompressors raise on damaged bytes."""
    found: list[type[Exception]] = [_mcap("exceptions").McapError, ValueError, KeyError, EOFError, OSError]
    found += [struct.error, zlib.error, RuntimeError, MemoryError, OverflowError, AttributeError, IndexError]
    try:
        import zstandard

        found.append(zstandard.ZstdError)
    except ImportError:
        return tuple(found)
    return tuple(found)
