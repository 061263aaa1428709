"""Whoever dies, nobody hangs and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import data_toy
import numpy as np
import pytest

from robopolicy.data import Loader, WindowDataset, WindowSpec
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError

CHILD = str(Path(__file__).with_name("data_ring_child.py"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ring") / "s.zarr"
    with data_toy.create(made, codec="jpeg") as store:
        store.append(data_toy.episode(store, 0, 80))
    return made


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def eventually(condition: Callable[[], bool], limit_s: float = 20.0) -> bool:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def start(path: Path, *words: str) -> tuple[subprocess.Popen[str], list[int], int]:
    process = subprocess.Popen(
        [sys.executable, CHILD, str(path), *words], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    *workers, stranger = map(int, process.stdout.readline().split())
    return process, workers, stranger


def shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return set(os.listdir(folder)) if folder.is_dir() else set()


def test_kill_9_of_the_parent_leaves_neither_processes_nor_memory(path: Path) -> None:
    before = shared_memory()
    process, workers, _ = start(path)
    assert len(workers) == 2
    assert all(map(alive, workers))  # control: there is something to be left behind
    process.kill()
    process.communicate()
    assert eventually(lambda: not any(map(alive, workers)))
    assert shared_memory() <= before


def test_a_stranger_that_inherited_the_sockets_does_not_keep_the_workers(path: Path) -> None:
    process, workers, stranger = start(path, "fork")
    try:
        process.kill()
        process.wait()
        assert eventually(lambda: not any(map(alive, workers)))
        assert alive(stranger)  # control: it still holds the other ends of the sockets
    finally:
        os.kill(stranger, signal.SIGKILL)
        process.communicate()


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C until it ends: Python drops an interrupt that falls into the callback of a weak reference."""
    for _ in range(15):
        os.kill(process.pid, signal.SIGINT)
        try:
            process.communicate(timeout=3)
        except subprocess.TimeoutExpired:
            continue
        return
    process.kill()
    pytest.fail("fifteen interrupts did not end it")


def test_ctrl_c_is_the_parents_business(path: Path) -> None:
    process, workers, _ = start(path)
    for worker in workers:
        os.kill(worker, signal.SIGINT)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(5)]
    assert lines == ["batch\n"] * 5  # they work on
    assert all(map(alive, workers))
    interrupt(process)
    assert eventually(lambda: not any(map(alive, workers)))


def test_a_dead_worker_is_an_error_and_the_next_iteration_has_new_ones(path: Path) -> None:
    data = WindowDataset(EpisodeStore.open(path), WindowSpec(2, 8, cameras=("front",)), cache_bytes=0)
    order = np.arange(len(data))
    with Loader(data, 4, workers=2) as loader:
        batches = loader.batches(np.tile(order, 50))
        kept = next(batches)
        expected = kept.action.clone()
        first, second = loader._ring.process_ids
        os.kill(first, signal.SIGKILL)
        with pytest.raises(DataError, match=f"loader process died.*{first}.*-9.*workers=0"):
            list(batches)
        assert eventually(lambda: not alive(second))
        assert (kept.action == expected).all()  # the memory outlives the workers
        again = list(loader.batches(order))
        assert not {first, second} & set(loader._ring.process_ids)
    alone = list(Loader(data, 4).batches(order))
    assert len(again) == len(alone)
    assert all((a.image["front"] == b.image["front"]).all() for a, b in zip(again, alone, strict=True))


def test_a_worker_that_cannot_start_is_an_error(path: Path) -> None:
    def decode(blob: bytes | memoryview, out: np.ndarray) -> None:
        """Cannot be imported by another process."""

    spec = WindowSpec(2, 8, cameras=("front",))
    data = WindowDataset(EpisodeStore.open(path), spec, cache_bytes=0, decode=decode)
    with Loader(data, 4, workers=1) as loader, pytest.raises(DataError, match="cannot import the JPEG decoder"):
        list(loader.batches(np.arange(8)))
