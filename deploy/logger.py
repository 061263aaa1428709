"""The logger: writes everything that happens into the black box. Nobody waits for it, and it may die at any time.

``python -m robopolicy.deploy.logger RUN_DIR PARENT_PID`` is started by the supervisor, and again into a new file when
it has died. It runs at low priority, reads the rings of the daemon, and writes MCAP into ``RUN_DIR/blackbox``. A fresh
logger begins with what the rings still hold, so the files of one session overlap rather than leave a hole.

When the disk is full or fails, it stops recording and says so in the status; the arm does not notice.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.deploy import blackbox_json as forms
from robopolicy.deploy.blackbox import BlackBoxFile, Channel, binary_channel, require_mcap
from robopolicy.deploy.blackbox_memory import LastMinute
from robopolicy.deploy.blackbox_run import describe_run, session_of
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig, read_daemon
from robopolicy.deploy.process import ParentWatch, ignore_terminal_signals
from robopolicy.deploy.records import TEXT_BYTES
from robopolicy.deploy.shm import RecordRing, monotonic_ns
from robopolicy.deploy.state_machine import State
from robopolicy.errors import DeployError

__all__ = ["FOLDER", "Logger", "main"]

FOLDER = "blackbox"
POLL_S = 0.01
ORPHAN_S = 4.0
"""How long the logger outlives its supervisor, to see the arm come to rest."""
STATE_HZ = 125.0
"""At most this often a state is also written as JSON; every tick is in the binary channels."""
MARGIN = 4
"""Slots of a ring that may be overwritten while a fresh logger begins."""
FILES = 8
"""A file is closed when it has this share of ``blackbox_max_gb``."""
DUMPS = 16
AFTERMATH_NS = 1_000_000_000
"""The dump of a fault waits this long, so that it also shows what came of it."""

Message = tuple[Channel, int, bytes, int]


class Logger:
    """Drains the rings into files.

    Args:
        bus: Shared memory.
        config: What the daemon runs.
        folder: Where the files go; made when missing.
        session: Name of this life of the daemon.

    Attributes:
        file: What is being written; None when the logger does not record.
        message: Why not.
        lost: Records that were overwritten before they could be read.
    """

    def __init__(self, bus: Bus, config: DaemonConfig, folder: Path, session: str):
        self._bus, self._config, self._folder, self._session = bus, config, folder, session
        self.file: BlackBoxFile | None = None
        self.message = ""
        self.lost = self._files = self._dumps = 0
        self._offset_ns = time.time_ns() - monotonic_ns()
        self._memory = LastMinute()
        self._latched, self._dump_ns = True, 0
        self._flushed_ns = self._told_ns = 0
        self._json_every = max(1, round(1.0 / (config.tick_s * STATE_HZ)))
        self._word = ""
        self._rings = self._sources()
        self._cursors = {name: max(ring.newest - ring.capacity + MARGIN, 0) for name, (ring, _) in self._rings.items()}
        self._open()

    def poll(self) -> None:
        """Write what has come, and flush when it is time."""
        now_ns = monotonic_ns()
        for name, (ring, form) in self._rings.items():
            cursor, newest = self._cursors[name], ring.newest
            self._cursors[name] = newest
            oldest = max(cursor, newest - ring.capacity) + 1
            lost = oldest - cursor - 1
            for number in range(oldest, newest + 1):
                record = ring.read(number)
                lost += record is None
                for message in form(record, number) if record is not None else ():
                    self._write(message)
            if lost:
                self._lose(name, lost, now_ns)
        if self._dump_ns and now_ns >= self._dump_ns:
            self._dump()
        if now_ns - self._flushed_ns >= self._config.deploy.blackbox_chunk_s * 1e9:
            self._flush(now_ns)
        if now_ns - self._told_ns > 200_000_000:
            self._tell(now_ns)

    def close(self) -> None:
        """Write the rest and end the file."""
        self.poll()
        if self._dump_ns:
            self._dump()
        if self.file is not None:
            self._try(self.file.close)
        self.file = None
        self._tell(monotonic_ns())

    def _sources(self) -> dict[str, tuple[RecordRing, Callable[[Any, int], Iterator[Message]]]]:
        """Ring by name, and how one of its records becomes messages."""
        ring = self._bus.ring
        found: dict[str, tuple[RecordRing, Callable[[Any, int], Iterator[Message]]]] = {
            "events": (ring("events"), self._event),
            "mailbox": (self._bus.mailbox.ring, self._chunk),
            "tape": (ring("tape"), self._tape),
            "state": (ring("state"), self._state),
            "frames": (ring("frames"), self._frame),
            "report": (ring("report"), self._report),
            "commands": (ring("commands"), self._command),
        }
        self._tape_channel = binary_channel("/binary/tape", ring("tape").dtype)
        self._state_channel = binary_channel("/binary/state", ring("state").dtype)
        self._chunk_channel = binary_channel("/binary/chunk", self._bus.mailbox.ring.dtype)
        self._frame_dtype = _without_images(ring("frames").dtype)
        self._frame_channel = binary_channel("/binary/frame", self._frame_dtype)
        jpeg = self._config.deploy.blackbox_images == "jpeg"
        self._cameras = {name: forms.camera_channel(name) for name in self._config.cameras if jpeg}
        return found

    def _tape(self, record: np.void, number: int) -> Iterator[Message]:
        yield self._tape_channel, int(record["t_ns"]), record.tobytes(), number

    def _state(self, record: np.void, number: int) -> Iterator[Message]:
        t_ns, state = int(record["t_ns"]), State(int(record["state"]))
        yield self._state_channel, t_ns, record.tobytes(), number
        word = f"{state}{record['mode']}{record['reason']}{record['verdict']}{record['accepted']}"
        if word != self._word or number % self._json_every == 0:
            yield forms.STATE, t_ns, forms.state_json(record), number
        self._word = word
        if state.latched and not self._latched:
            self._dump_ns = monotonic_ns() + AFTERMATH_NS
        self._latched = state.latched

    def _chunk(self, record: np.void, number: int) -> Iterator[Message]:
        t_ns = int(record["t_made_ns"])
        yield self._chunk_channel, t_ns, record.tobytes(), number
        yield forms.CHUNK, t_ns, forms.chunk_json(record, number), number

    def _event(self, record: np.void, number: int) -> Iterator[Message]:
        t_ns = int(record["time_ns"])
        fields = {"number": number, "t_ns": t_ns, "event": forms.plain(record["event"])}
        yield forms.EVENT, t_ns, forms.dumps(fields), number

    def _command(self, record: np.void, number: int) -> Iterator[Message]:
        t_ns = monotonic_ns()
        fields = {"number": 0, "t_ns": t_ns, "event": f"scene: {forms.plain(record['kind'])}", **forms.plain(record)}
        yield forms.EVENT._replace(topic="/command"), t_ns, forms.dumps(fields), number

    def _report(self, record: np.void, number: int) -> Iterator[Message]:
        yield forms.REPORT, int(record["time_ns"]), forms.dumps(forms.plain(record)), number

    def _frame(self, record: np.void, number: int) -> Iterator[Message]:
        t_ns = int(record["time_ns"])
        slim = np.zeros((), self._frame_dtype)
        for name in self._frame_dtype.names or ():
            slim[name] = record[name]
        yield self._frame_channel, t_ns, slim.tobytes(), number
        for name, channel in self._cameras.items():
            blob = forms.image_json(record[f"image/{name}"], name, t_ns + self._offset_ns)
            yield channel, t_ns, blob, number

    def _write(self, message: Message) -> None:
        channel, t_ns, data, number = message
        log_ns = t_ns + self._offset_ns
        self._memory.add(channel, t_ns, log_ns, data, number)
        if self.file is not None:
            self.file.add(channel, log_ns, data, number)

    def _lose(self, name: str, lost: int, now_ns: int) -> None:
        self.lost += lost
        self._write((forms.LOST, now_ns, forms.dumps({"ring": name, "lost": lost, "t_ns": now_ns}), self.lost))

    def _flush(self, now_ns: int) -> None:
        self._flushed_ns = now_ns
        if self.file is None:
            return
        self._try(self.file.flush)
        if self.file is not None and self.file.size > self._most_bytes / FILES:
            self._try(self.file.close)
            if self.file is not None:
                self._open()

    @property
    def _most_bytes(self) -> float:
        return self._config.deploy.blackbox_max_gb * 1e9

    def _open(self) -> None:
        """Begin the next file; the oldest ones make room for it."""
        try:
            require_mcap()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room()
            self.file = BlackBoxFile(self._folder / self._name(), self._about())
            self._files += 1
        except (OSError, DeployError) as error:
            self._stop(error)

    def _about(self) -> dict[str, Any]:
        return describe_run(self._config, session=self._session) | {
            "begins": {name: cursor + 1 for name, cursor in self._cursors.items()}
        }

    def _name(self) -> str:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        return f"{stamp}-{os.getpid()}-{self._files:04d}.mcap"

    def _make_room(self) -> None:
        files = sorted((p for p in self._folder.glob("*.mcap")), key=lambda p: p.stat().st_mtime_ns)
        dumps = [p for p in files if p.name.startswith("fault-")]
        for path in dumps[: max(len(dumps) - DUMPS, 0)]:
            path.unlink()
        kept = [p for p in files if p not in dumps]
        total = sum(p.stat().st_size for p in kept)
        for path in kept:
            if total <= self._most_bytes * (FILES - 1) / FILES:
                return
            total -= path.stat().st_size
            path.unlink()

    def _dump(self) -> None:
        """The last minute before a fault, as a file of its own."""
        self._dump_ns = 0
        with contextlib.suppress(OSError, DeployError):
            # a full disk has been reported by the file that is always written
            require_mcap()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._memory.dump(self._folder / f"fault-{self._name()[:-5]}-{self._dumps:03d}.mcap", self._about())
            self._dumps += 1

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        """Record no more; what is on the disk stays readable up to its last whole chunk."""
        self.message = f"the black box has stopped: {error}"
        print(f"logger: {self.message}", file=sys.stderr, flush=True)
        if self.file is not None:
            self.file.abandon()
        self.file = None

    def _tell(self, now_ns: int) -> None:
        self._told_ns = now_ns
        ring = self._bus.ring("recording")
        record = np.zeros((), ring.dtype)
        record["recording"], record["lost"] = self.file is not None, self.lost
        record["files"], record["dumps"] = self._files, self._dumps
        record["message"] = self.message.encode("utf-8", "replace")[:TEXT_BYTES]
        if self.file is not None:
            record["bytes"], record["records"] = self.file.size, self.file.messages
            record["file"] = self.file.path.name.encode()[:TEXT_BYTES]
        ring.write(record)


def _without_images(dtype: np.dtype[Any]) -> np.dtype[Any]:
    assert dtype.names is not None
    assert dtype.fields is not None
    return np.dtype([(n, dtype.fields[n][0]) for n in dtype.names if not n.startswith("image/")])


def main(argv: list[str] | None = None) -> int:
    """Run until told to end; an orphan still sees the arm come to rest."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    run_dir, parent = Path(arguments[0]), ParentWatch(int(arguments[1]))
    ignore_terminal_signals()
    os.nice(10)
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    bus = Bus.attach({"recording"})
    logger = Logger(bus, read_daemon(run_dir), run_dir / FOLDER, session_of(int(arguments[1])))
    orphan_ns = 0
    while not told and not (orphan_ns and monotonic_ns() > orphan_ns):
        logger.poll()
        bus.heartbeat.beat("logger")
        if parent.lost and not orphan_ns:
            orphan_ns = monotonic_ns() + round(ORPHAN_S * 1e9)
        time.sleep(POLL_S)
    logger.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
