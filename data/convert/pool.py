"""Worker processes of a conversion, and how one process collects their episodes in the order of the source."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from robopolicy.data.convert.plan import Request
from robopolicy.data.convert.transfer import Prepared, receive
from robopolicy.data.durable import storage_errors
from robopolicy.errors import DataError, MissingDependencyError, RobopolicyError, StorageError, explain

__all__ = ["WorkerPool"]

_IN_FLIGHT = 2
"""Episodes per worker that are being read or wait for their turn; bounds memory and spool."""


class _Worker:
    """One child process with the ids that it was given and has not answered."""

    def __init__(self, number: int, spool: Path):
        self.number, self.held = number, deque[str]()
        self.begun = ""
        self.cpu_s, self._buffer = 0.0, b""
        self.log = spool / f"worker-{number}.log"
        # One thread each, because there is one process per core; the search path of this process, for others' formats.
        environment = {
            **os.environ,
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        with storage_errors(self.log), self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "robopolicy.data.convert.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input: IO[bytes] = self.process.stdin
        self.output: IO[bytes] = self.process.stdout

    def tell(self, entry: dict[str, Any]) -> None:
        """One line to the child; a dead one is noticed by its answers."""
        try:
            self.input.write(json.dumps(entry).encode() + b"\n")
            self.input.flush()
        except (BrokenPipeError, OSError):
            return

    def answers(self) -> list[dict[str, Any]] | None:
        """Whole lines that have arrived; None when the child has gone."""
        chunk = os.read(self.output.fileno(), 1 << 16)
        if not chunk:
            return None
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        """End the child, at once if it is still busy."""
        for pipe in (self.input, self.output):
            try:
                pipe.close()
            except OSError:
                continue
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class WorkerPool:
    """Reads episodes in several processes. A context manager; leaving it ends them and removes the spool."""

    def __init__(self, request: Request, workers: int, spool: Path, *, replace_dead: bool = False):
        """Nothing is started yet.

        Args:
            request: What every worker opens.
            workers: How many.
            spool: Folder for episodes on their way, removed first if a killed run left it.
            replace_dead: Start another worker where one died, and report its episode as unreadable, instead of ending.
        """
        self.request, self.count, self.spool, self.replace_dead = request, workers, spool, replace_dead
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._spent_s, self._serial = 0.0, 0

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the workers, as of their last answers."""
        return self._spent_s + sum(worker.cpu_s for worker in self._workers)

    def __enter__(self) -> Self:
        with storage_errors(self.spool):
            shutil.rmtree(self.spool, ignore_errors=True)
            self.spool.mkdir(parents=True)
        try:
            for _ in range(self.count):
                self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def prepared(self, episodes: Sequence[str]) -> Iterator[Prepared]:
        """The episodes in the given order, each read by whichever worker is free.

        Raises:
            DataError: a worker died; the message names its episode.
            RobopolicyError: a worker could not open the source.
        """
        waiting, order = deque(episodes), deque(episodes)
        files: dict[str, Path] = {}
        failed: dict[str, str] = {}
        done: set[str] = set()
        while order:
            self._hand_out(waiting, len(order) - len(waiting), files)
            while order and order[0] not in done and order[0] not in failed:
                self._collect(done, failed)
            name = order.popleft()
            if name in failed:
                yield Prepared(name, None, error=failed.pop(name))
                continue
            done.discard(name)
            path = files.pop(name)
            result = receive(path)
            path.unlink()
            # the workers go on while the caller commits
            self._hand_out(waiting, len(order) - len(waiting), files)
            yield result

    def _hand_out(self, waiting: deque[str], in_flight: int, files: dict[str, Path]) -> None:
        while waiting and in_flight < _IN_FLIGHT * self.count:
            worker = min(self._workers, key=lambda w: len(w.held))
            name = waiting.popleft()
            self._give(worker, name, files)
            in_flight += 1

    def _give(self, worker: _Worker, name: str, files: dict[str, Path]) -> None:
        if name not in files:
            files[name] = self.spool / f"{self._serial}.episode"
            self._serial += 1
        self._files = files
        worker.held.append(name)
        worker.tell({"id": name, "file": str(files[name])})

    def _collect(self, done: set[str], failed: dict[str, str]) -> None:
        """Wait for answers of any worker."""
        for key, _ in self._selector.select():
            worker: _Worker = key.data
            answers = worker.answers()
            if answers is None:
                self._buried(worker, failed)
                continue
            for entry in answers:
                if "fatal" in entry:
                    raise _same_kind(entry, worker.held[0] if worker.held else "")
                if "begun" in entry:
                    worker.begun = entry["begun"]
                elif "id" in entry:
                    worker.held.remove(entry["id"])
                    worker.begun, worker.cpu_s = "", entry["cpu_s"]
                    done.add(entry["id"])

    def _buried(self, worker: _Worker, failed: dict[str, str]) -> None:
        """A worker has died: name its episode, and go on with another worker if that is wanted."""
        self._selector.unregister(worker.output)
        self._workers.remove(worker)
        self._spent_s += worker.cpu_s
        code = worker.process.wait()
        held = list(worker.held)
        victim = worker.begun or (held[0] if held else "")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        last = worker.log.read_bytes()[-400:].decode("utf-8", "replace").strip().splitlines()
        worker.end()
        what = f"the process that read episode '{victim}' died" if worker.begun else "a worker process died"
        text = explain(
            what,
            given=how + (f": {last[-1]}" if last else ""),
            mend="run again to continue; if it dies there again, that episode is broken: skip_bad=true",
        )
        if not self.replace_dead or not worker.begun:
            raise DataError(text)
        failed[victim] = text
        fresh = self._start()
        for name in held:
            if name != victim:
                self._give(fresh, name, self._files)

    def _start(self) -> _Worker:
        worker = _Worker(self._serial, self.spool)
        self._serial += 1
        self._workers.append(worker)
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        worker.tell(self.request.to_dict())
        return worker

    def _end(self) -> None:
        for worker in self._workers:
            self._spent_s += worker.cpu_s
            worker.end()
        self._workers = []
        self._selector.close()
        shutil.rmtree(self.spool, ignore_errors=True)


def _same_kind(entry: dict[str, Any], episode: str) -> RobopolicyError:
    """The worker's last words as an error of the kind that the same fault has in a single process."""
    kinds: dict[str, type[RobopolicyError]] = {
        "MissingDependencyError": MissingDependencyError,
        "StorageError": StorageError,
    }
    where = f"episode '{episode}': " if episode else ""
    if entry["kind"] in kinds:
        return kinds[entry["kind"]](f"{where}{entry['fatal']}")
    return DataError(f"{where}{entry['kind']}: {entry['fatal']}")
