"""One file of the black box: MCAP, written chunk by chunk so that whatever happens a readable prefix remains.

Every message of a chunk is on its way to the disk when the chunk is flushed, about once a second; ``fsync`` runs beside
the logger in a thread, because a slow disk must not make it lose records. What the channels hold: docs/blackbox.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robopolicy.data.convert.blackbox_log import DTYPE_ENCODING, PROFILE, RUN, STRUCT_ENCODING, describe_dtype
from robopolicy.errors import DeployError, explain

__all__ = ["BlackBoxFile", "Channel", "binary_channel", "json_channel", "require_mcap"]

CHUNK_BYTES = 1 << 26
"""A chunk that grows beyond this is written before its second is over."""


class Channel(NamedTuple):
    """What one topic holds.

    Attributes:
        topic: Its name.
        encoding: Of the messages.
        schema: Name, encoding and text of the schema.
    """

    topic: str
    encoding: str
    schema: tuple[str, str, bytes]


def binary_channel(topic: str, dtype: np.dtype[Any]) -> Channel:
    """Fixed-size records, described by their schema."""
    name = "robopolicy." + topic.strip("/").replace("/", ".")
    return Channel(topic, STRUCT_ENCODING, (name, DTYPE_ENCODING, describe_dtype(dtype).encode()))


def json_channel(topic: str, properties: Mapping[str, Any], schema: str = "") -> Channel:
    """JSON objects; ``properties`` are those of the JSON schema, ``schema`` is its name."""
    text = json.dumps({"type": "object", "properties": dict(properties)})
    return Channel(topic, "json", (schema or "robopolicy." + topic.strip("/"), "jsonschema", text.encode()))


def require_mcap() -> None:
    """Refuse to go on without the writer.

    Raises:
        DeployError: the package mcap is not there, or cannot end a chunk at a given time.
    """
    try:
        from mcap.writer import Writer
    except ImportError as error:
        raise DeployError(
            explain("the black box needs the package mcap", mend="pip install 'robopolicy[deploy]'")
        ) from error
    if not hasattr(Writer, "flush"):
        raise DeployError(explain("this version of mcap cannot flush", mend="pip install 'mcap>=1.6'"))


class BlackBoxFile:
    """A file that is being written.

    Args:
        path: A new file.
        run: Metadata of the run; values are stored as JSON.

    Attributes:
        messages: Written so far.

    Raises:
        OSError: it cannot be made, here or at any later call; the file is then left as it is.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]):
        from mcap.writer import CompressionType, Writer

        self.path, self.messages = path, 0
        self._stream = path.open("xb")
        self._writer = Writer(self._stream, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD)
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._syncing: threading.Thread | None = None
        self._failure: OSError | None = None
        self._writer.start(PROFILE, "robopolicy")
        self._writer.add_metadata(RUN, {key: json.dumps(value) for key, value in run.items()})
        self.flush()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._stream.tell()

    def add(self, channel: Channel, log_ns: int, data: bytes, number: int) -> None:
        """Put one message into the chunk in progress."""
        identity = self._channels.get(channel.topic)
        if identity is None:
            name, encoding, text = channel.schema
            schema = self._writer.register_schema(name, encoding, text)
            identity = self._writer.register_channel(channel.topic, channel.encoding, schema)
            self._channels[channel.topic] = identity
        self._writer.add_message(identity, log_ns, data, log_ns, number & 0xFFFFFFFF)
        self.messages += 1

    def flush(self) -> None:
        """End the chunk, hand it to the system, and have it brought to the disk meanwhile.

        Raises:
            OSError: the disk is full, or failed since the last call.
        """
        if self._failure is not None:
            raise self._failure
        self._writer.flush()
        if self._syncing is None or not self._syncing.is_alive():
            self._syncing = threading.Thread(target=self._sync, daemon=True)
            self._syncing.start()

    def close(self) -> None:
        """Write summary and footer, wait for the disk, and close."""
        try:
            self._writer.finish()
            self._stream.flush()
            if self._syncing is not None:
                self._syncing.join()
            os.fsync(self._stream.fileno())
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the file as it is."""
        if self._syncing is not None:
            self._syncing.join()
        # What is still buffered finds no room on a full disk; the descriptor is closed all the same.
        with contextlib.suppress(OSError):
            self._stream.close()

    def _sync(self) -> None:
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            self._failure = error
