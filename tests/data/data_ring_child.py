"""A process that loads for ever: ``python data_ring_child.py STORE [fork]``; says its workers, then runs until killed.

With ``fork`` it has a child of its own that has inherited its sockets and outlives it.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from robopolicy.data import Loader, WindowDataset, WindowSpec
from robopolicy.data.store import EpisodeStore

# A shell that starts something in the background has it ignore Ctrl-C, and so its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

if __name__ == "__main__":
    windows = WindowDataset(EpisodeStore.open(sys.argv[1]), WindowSpec(2, 8, cameras=("front",)), cache_bytes=0)
    loader = Loader(windows, 4, workers=2)
    batches = loader.batches(np.random.default_rng(0).integers(0, len(windows), 4_000_000))
    next(batches)
    stranger = 0
    if "fork" in sys.argv:
        stranger = os.fork()
        if not stranger:
            time.sleep(60)
            os._exit(0)
    print(*loader._ring.process_ids, stranger, flush=True)
    for number, _ in enumerate(batches):
        if number % 100 == 0:
            print("batch", flush=True)
