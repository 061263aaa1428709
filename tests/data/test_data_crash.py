"""Power of the commit: killed, interrupted or refused by the disk at any moment, a store holds whole episodes only."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import data_toy
import numpy as np
import pytest
import zarr

from robopolicy.data import durable, layout, writer
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, StorageError

HERE = Path(__file__).parent
KILLS = int(os.environ.get("ROBOPOLICY_KILLS", "8"))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and shards that an episode overruns, so that crashes also fall between two files of one array."""
    monkeypatch.setattr(layout, "COLUMN_CHUNK_ROWS", 64)
    monkeypatch.setattr(layout, "RECORD_CHUNK_BYTES", 128)
    monkeypatch.setattr(layout, "SHARD_FRAMES", 32)


def start_writer(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "data_kill_writer.py"), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.usefixtures("small_chunks")
def test_kill_at_random_moments(tmp_path: Path) -> None:
    """After each SIGKILL the store holds what was reported, or one more that died before its report, and goes on."""
    path = tmp_path / "s.zarr"
    data_toy.create(path).close()
    rng = np.random.default_rng(2)
    committed = 0
    for _ in range(KILLS):
        process = start_writer(path)
        assert process.stdout is not None
        try:
            assert process.stdout.readline().split() == ["open", str(committed)]
            early = [process.stdout.readline() for _ in range(int(rng.integers(0, 3)))]
            time.sleep(float(rng.uniform(0.0, 0.1)))
        finally:
            process.send_signal(signal.SIGKILL)
            reports = process.stdout.read().splitlines()
            process.wait()
            process.stdout.close()
        whole = early + [line for line in reports if len(line.split()) == 2]
        store = EpisodeStore.open(path)
        assert store.num_episodes - committed - len(whole) in (0, 1)
        committed = store.num_episodes
        data_toy.verify(store, list(range(committed)))
        with EpisodeStore.open(path, mode="a") as again:
            again.append(data_toy.episode(again, committed))
        committed += 1
        data_toy.verify(EpisodeStore.open(path), list(range(committed)))
        assert not list(path.rglob("*" + durable.TEMPORARY_SUFFIX))
    assert committed > KILLS + 2  # control: the writers did commit before they were killed


@pytest.mark.usefixtures("small_chunks")
def test_readers_beside_a_writer_see_whole_episodes(tmp_path: Path) -> None:
    """Ours and zarr-python's view, opened again and again while another process appends."""
    path = tmp_path / "s.zarr"
    data_toy.create(path).close()
    process = start_writer(path)
    seen = set()
    try:
        for _ in range(40):
            store = EpisodeStore.open(path)
            data_toy.verify(store, list(range(store.num_episodes)))
            group = zarr.open_group(str(path), mode="r")
            ends = group["meta/episode_ends"][:]
            rows = int(ends[-1]) if len(ends) else 0
            assert {array.shape[0] for _, array in group["data"].arrays()} == {rows}
            if rows:
                assert group["data/time_ns"][rows - 1] > 0
            seen.add(store.num_episodes)
            if len(seen) >= 6:
                break
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert len(seen) > 2  # control: the store did grow while it was read


class PowerCutError(Exception):
    pass


def cut_power_at(monkeypatch: pytest.MonkeyPatch, step: int, error: Exception) -> list[Path]:
    """The ``step``-th file write leaves half a temporary file and raises ``error``; returns the finished ones."""
    finished: list[Path] = []
    real = durable.write_atomically

    def write(path: Path, parts: list[bytes]) -> None:
        if len(finished) == step:
            path.with_name(path.name + durable.TEMPORARY_SUFFIX).write_bytes(b"half")
            raise error
        real(path, parts)
        finished.append(path)

    monkeypatch.setattr(writer, "write_atomically", write)
    return finished


@pytest.mark.usefixtures("small_chunks")
def test_interrupted_before_every_single_write(tmp_path: Path) -> None:
    """Whatever file an append was at, the old commit stands; only the last one, the root zarr.json, makes it new."""
    path = tmp_path / "s.zarr"
    with data_toy.create(path) as store:
        store.append(data_toy.episode(store, 0))
        store.append(data_toy.episode(store, 1))
    step, finished = 0, [Path()]
    while finished[-1] != path / "zarr.json":
        store = EpisodeStore.open(path, mode="a")
        with pytest.MonkeyPatch.context() as patch:
            finished = cut_power_at(patch, step, PowerCutError())
            try:
                store.append(data_toy.episode(store, 2 + step))  # another one each time, over the remains of the last
            except PowerCutError:
                finished.append(Path())
            patch.setattr(writer, "write_atomically", lambda path, parts: None)  # a dead process finishes nothing
            store.close()
        step += 1
        if finished[-1] == Path():
            data_toy.verify(EpisodeStore.open(path), [0, 1])
    assert step > 12
    data_toy.verify(EpisodeStore.open(path), [0, 1, 1 + step])


@pytest.mark.usefixtures("small_chunks")
def test_control_committing_before_the_data_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control of the test above: a writer that dies after replacing the root zarr.json first fails the check."""
    path = tmp_path / "s.zarr"
    with data_toy.create(path) as store:
        store.append(data_toy.episode(store, 0))
    store = EpisodeStore.open(path, mode="a")
    real = durable.write_atomically
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_atomically", lambda p, parts: real(p, parts) if p == path / "zarr.json" else None)
        store.append(data_toy.episode(store, 1))
        store.close()
    with pytest.raises((DataError, AssertionError)):
        data_toy.verify(EpisodeStore.open(path), [0, 1])


def test_full_disk_leaves_the_committed_episodes_and_a_usable_writer(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with data_toy.create(path) as store:
        store.append(data_toy.episode(store, 0))
        for step in (0, 3, 9):
            with pytest.MonkeyPatch.context() as patch:
                refusal = StorageError("cannot write: No space left on device")
                cut_power_at(patch, step, refusal)
                with pytest.raises(StorageError, match="No space left"):
                    store.append(data_toy.episode(store, 1))
            data_toy.verify(store, [0])
            data_toy.verify(EpisodeStore.open(path), [0])
        store.append(data_toy.episode(store, 1))
    data_toy.verify(EpisodeStore.open(path), [0, 1])


def test_enospc_of_the_operating_system_becomes_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "s.zarr"
    store = data_toy.create(path)
    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*free some space.*intact") as caught:
        store.append(data_toy.episode(store, 0))
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert not list(path.rglob("*" + durable.TEMPORARY_SUFFIX))
    store.append(data_toy.episode(store, 0))
    store.close()
    data_toy.verify(EpisodeStore.open(path), [0])


def test_a_real_refusal_of_the_kernel(tmp_path: Path) -> None:
    """A file-size limit makes write(2) fail for real: EFBIG instead of ENOSPC, by the same way through the code."""
    path = tmp_path / "s.zarr"
    store = data_toy.create(path, cameras=("front",))
    store.append(data_toy.episode(store, 0))
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with pytest.raises(StorageError, match="File too large"):
            store.append(data_toy.episode(store, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    data_toy.verify(EpisodeStore.open(path), [0])
    store.append(data_toy.episode(store, 1))
    store.close()
    data_toy.verify(EpisodeStore.open(path), [0, 1])


def test_a_second_writer_is_refused_and_the_kernel_frees_the_lock_of_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with data_toy.create(path), pytest.raises(StorageError, match="another process or another open handle"):
        EpisodeStore.open(path, mode="a")
    process = start_writer(path)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        with pytest.raises(StorageError, match="close that writer first"):
            EpisodeStore.open(path, mode="a")
        EpisodeStore.open(path, mode="r")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    EpisodeStore.open(path, mode="a").close()


def test_a_forked_child_neither_writes_nor_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    store = data_toy.create(path)
    ready, answer = os.pipe()
    wait, go = os.pipe()
    child = os.fork()
    if not child:
        try:
            store.append(data_toy.episode(store, 0))
            verdict = b"wrote"
        except StorageError as error:
            verdict = b"refused" if "parent process" in str(error) else b"other"
        os.write(answer, verdict)
        os.close(go)
        os.read(wait, 1)
        os._exit(0)
    try:
        assert os.read(ready, 10) == b"refused"
        store.append(data_toy.episode(store, 0))  # control: the parent still may
        store.close()
        EpisodeStore.open(path, mode="a").close()  # while the child lives on
    finally:
        os.close(go)
        os.waitpid(child, 0)
        for descriptor in (ready, answer, wait):
            os.close(descriptor)


def test_interrupted_inside_the_commit_the_handle_refuses_to_guess(tmp_path: Path) -> None:
    """Ctrl-C between the rename and its bookkeeping: the episode is committed, and must not be overwritten."""
    path = tmp_path / "s.zarr"
    store = data_toy.create(path)
    real = durable.write_atomically

    def write(file: Path, parts: list[bytes]) -> None:
        real(file, parts)
        if file == path / "zarr.json":
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "write_atomically", write)
        with pytest.raises(KeyboardInterrupt):
            store.append(data_toy.episode(store, 0))
    with pytest.raises(StorageError, match=r"interrupted inside a commit.*open the store again"):
        store.append(data_toy.episode(store, 1))
    store.close()
    with EpisodeStore.open(path, mode="a") as again:
        data_toy.verify(again, [0])
        again.append(data_toy.episode(again, 1))
    data_toy.verify(EpisodeStore.open(path), [0, 1])
