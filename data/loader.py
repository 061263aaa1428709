"""Batches of torch tensors in a given order, gathered in this thread or ahead of time by background threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.windows import WindowDataset
from robopolicy.errors import DataError, explain

if TYPE_CHECKING:
    from robopolicy.types import Batch

__all__ = ["Loader"]


class Loader:
    """Turns an order of windows into batches. The result depends on the order alone, never on ``workers``."""

    def __init__(self, dataset: WindowDataset, batch_size: int, workers: int = 0):
        """Nothing is read yet.

        Args:
            dataset: Windows.
            batch_size: Windows per batch; the last batch of an order may be smaller.
            workers: Background threads that gather ahead (decoding releases the interpreter lock); 0 gathers in the
                calling thread, which is enough once frames are cached.

        Raises:
            DataError: a batch size below 1 or a negative number of workers.
        """
        if batch_size < 1 or workers < 0:
            raise DataError(
                explain("unusable loader", given=(batch_size, workers), allowed="batch_size >= 1, workers >= 0")
            )
        self.dataset, self.batch_size, self.workers = dataset, batch_size, workers

    def num_batches(self, num_windows: int) -> int:
        """Batches that an order of ``num_windows`` windows gives."""
        return -(-num_windows // self.batch_size)

    def batches(self, indices: NDArray[np.integer]) -> Iterator[Batch]:
        """Batches of the windows ``indices`` [n], in that order, as CPU tensors.

        Raises:
            ShapeError, DataError: as :meth:`WindowDataset.gather`.
        """
        parts = [indices[i : i + self.batch_size] for i in range(0, len(indices), self.batch_size)]
        if not self.workers:
            yield from map(self.batch, parts)
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="robopolicy-loader")
        queue: deque[Future[Batch]] = deque()
        try:
            for part in parts:
                queue.append(pool.submit(self.batch, part))
                if len(queue) > 2 * self.workers:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def batch(self, indices: NDArray[np.integer]) -> Batch:
        """One batch of the windows ``indices`` [B]."""
        import torch

        from robopolicy.types import Batch

        arrays = self.dataset.gather(indices)
        language = self.dataset.language_of(indices)
        environment_state = arrays.get("environment_state")
        state = arrays.get("state")
        if state is None:
            state = np.zeros((len(indices), self.dataset.spec.observation_horizon, 0), np.float32)
        return Batch(
            state=torch.from_numpy(state),
            action=torch.from_numpy(arrays["action"]),
            action_mask=torch.from_numpy(arrays["action_mask"]),
            embodiment=self.dataset.store.embodiment.hash,
            image={name: torch.from_numpy(frames) for name, frames in arrays.get("image", {}).items()},
            environment_state=None if environment_state is None else torch.from_numpy(environment_state),
            language=language if any(language) else None,
        )
