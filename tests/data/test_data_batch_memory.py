"""Memory of batches: used again when free, and never while somebody holds a view of it."""

from __future__ import annotations

import threading

import numpy as np
import torch

from robopolicy.data.batch_memory import BatchMemory

LAYOUT = {"image/front": ((2, 64, 64, 3), np.dtype(np.uint8)), "state": ((2, 7), np.dtype(np.float32))}


def test_shapes_and_types() -> None:
    made = BatchMemory().empty(LAYOUT, 5)
    assert made["image/front"].shape == (5, 2, 64, 64, 3)
    assert made["image/front"].dtype == np.uint8
    assert made["state"].shape == (5, 2, 7)
    assert made["state"].dtype == np.float32
    assert all(array.flags.writeable and array.flags.c_contiguous for array in made.values())
    assert BatchMemory().empty(LAYOUT, 0)["image/front"].shape == (0, 2, 64, 64, 3)


def test_memory_is_used_again_only_when_nothing_looks_at_it() -> None:
    memory = BatchMemory()
    first = memory.empty(LAYOUT, 8)["image/front"]
    address = first.ctypes.data
    assert memory.empty(LAYOUT, 8)["image/front"].ctypes.data != address  # the first is still held
    first[...] = 7
    views = [first[3, 1, 5:9, ::2, 0], torch.from_numpy(first)[2:4].flatten(), memoryview(first[1])]
    del first
    while views:
        kept = views.pop()
        others = [memory.empty(LAYOUT, 8)["image/front"] for _ in range(3)]
        for other in others:
            assert other.ctypes.data != address
            other[...] = 0
        assert bool((np.asarray(kept) == 7).all())
        del kept
    assert memory.empty(LAYOUT, 8)["image/front"].ctypes.data == address  # control: now it is free


def test_what_is_kept_is_bounded() -> None:
    memory = BatchMemory()
    held = [memory.empty(LAYOUT, 8) for _ in range(50)]
    del held
    for count in range(8, 60):
        memory.empty(LAYOUT, count)
    kept = [len(pieces) for pieces in memory._free.values()]
    assert len(kept) <= 8
    assert max(kept) <= 8


def test_threads_never_share() -> None:
    memory, wrong = BatchMemory(), []

    def use(number: int) -> None:
        for _ in range(300):
            array = memory.empty(LAYOUT, 4)["image/front"]
            array[...] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert memory._free
