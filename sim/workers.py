"""Worker processes that pull episode indices from their parent. Which of them runs an episode never matters.

Children are spawned, single-threaded, and even one worker is a child, so that one and many take the same path. A child
ignores Ctrl-C and ends when its pipe closes: none outlives the parent, however the parent ends. With a server, children
may put questions to the parent while an episode runs; all that wait are answered together.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from robopolicy.errors import ConfigError, RobopolicyError, SimulationError, explain
from robopolicy.sim.inference import InferenceServer, Slot

__all__ = ["map_episodes"]

Initialise = Callable[..., Callable[[int], Any]]
"""Picklable; called once in each worker, returns what runs one index. With a server it is given the worker's slot and a
function that puts a question to the parent."""

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS")


def map_episodes(
    initialise: Initialise, indices: Iterable[int], workers: int, server: InferenceServer | None = None
) -> Generator[tuple[int, Any], None, None]:
    """Run every index in some worker and yield ``(index, result)`` as they finish.

    ``indices`` may be endless: one is taken whenever a worker is free, and closing the iterator ends the workers.

    Raises:
        ConfigError: ``workers`` below 1.
        SimulationError: a worker raised or died; the episode and the cause are named.
    """
    if workers < 1:
        raise ConfigError(explain("at least one worker is needed", given=workers, mend="workers=1"))
    source = iter(indices)
    pool: dict[Connection, _Worker] = {}
    try:
        for index in source:
            worker = _Worker(initialise, None if server is None else Slot())
            pool[worker.connection] = worker
            worker.give(index)
            if len(pool) == workers:
                break
        while pool:
            asking: list[tuple[_Worker, Any]] = []
            for connection in wait(list(pool)):
                assert isinstance(connection, Connection)
                worker = pool[connection]
                question, done = worker.take()
                if question is not None:
                    asking.append((worker, question))
                    continue
                following = next(source, None)
                if following is None:
                    del pool[connection]
                    worker.finish()
                else:
                    worker.give(following)
                yield done
            if asking and server is not None:
                answers = server.answer([(_slot(worker), question) for worker, question in asking])
                for (worker, _), answer in zip(asking, answers, strict=True):
                    worker.send(answer)
    finally:
        for worker in pool.values():
            worker.kill()


class _Worker:
    """The parent's end of one child."""

    def __init__(self, initialise: Initialise, slot: Slot | None):
        self.slot = slot
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_child, args=(theirs, initialise, slot), daemon=True)
        with _single_threaded():
            self.process.start()
        theirs.close()
        self.index = -1

    def give(self, index: int) -> None:
        self.index = index
        self.send(index)

    def send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None

    def take(self) -> tuple[Any, tuple[int, Any]]:
        """(question, -) or (None, (index, result))."""
        try:
            question, result, problem = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._died() from None
        if problem is not None:
            raise SimulationError(f"a worker failed on episode {self.index}: {problem}")
        return question, (self.index, result)

    def _died(self) -> SimulationError:
        self.process.join(5)
        return SimulationError(
            explain(
                f"a worker died on episode {self.index}",
                given=f"exit code {self.process.exitcode}",
                mend="a negative code is the signal that ended it; -9 is mostly a lack of memory: use fewer workers",
            )
        )

    def finish(self) -> None:
        self.connection.close()
        self.process.join(10)
        self.kill()

    def kill(self) -> None:
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(5)
        self.connection.close()


def _slot(worker: _Worker) -> Slot:
    assert worker.slot is not None, "a worker without a slot put a question"
    return worker.slot


def _child(connection: Connection, initialise: Initialise, slot: Slot | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run: Callable[[int], Any] | None = None

    def ask(question: Any) -> Any:
        connection.send((question, None, None))
        return connection.recv()

    while True:
        try:
            index = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if run is None:
                run = initialise() if slot is None else initialise(slot, ask)
                if "torch" in sys.modules:
                    sys.modules["torch"].set_num_threads(1)
            answer: tuple[None, Any, str | None] = (None, run(index), None)
        except Exception as error:
            answer = (None, None, _told(error))
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Children read these variables at import, before any code of ours runs in them."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _told(error: Exception) -> str:
    """An error of ours says how to mend it; where another one comes from has to be seen."""
    text = f"{type(error).__name__}: {error}"
    return text if isinstance(error, RobopolicyError) else f"{text}\n{traceback.format_exc()}"
