"""A policy of somebody else's library, in a process and an environment of its own, as a policy of this project."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from robopolicy.data.store import EpisodeStore
from robopolicy.embodiment import Embodiment
from robopolicy.errors import SimulationError, explain
from robopolicy.policies.checks import check_observation
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["ProcessPolicy", "export"]


def export(store: str | Path, out: Path) -> Path:
    """The rows of a store as arrays, npz: ``state``, ``environment_state``, ``action``, ``episode_ends``."""
    if not out.is_file():
        with EpisodeStore.open(store) as opened:
            arrays = {name: np.array(opened.column(name)) for name in ("state", "environment_state", "action")}
            ends = np.asarray(opened.episode_ends, np.int64)
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_suffix(".part.npz")
        np.savez(part, **arrays, episode_ends=ends)
        os.replace(part, out)
    return out


class ProcessPolicy:
    """Asks a process for chunks; a context manager that ends it.

    Args:
        command: Of the process; it reads requests (u64 seed, f32 [To, S], f32 [To, E]) and answers f32 [Ta, A].
        embodiment: Card of the data.
        environment_state: Width E.
        horizons: To, Ta.
    """

    def __init__(
        self, command: list[str], embodiment: Embodiment, environment_state: int, horizons: tuple[int, int] = (2, 8)
    ):
        seen, ahead = horizons
        self._spec = PolicySpec(embodiment, seen, ahead, seen - 1 + ahead, environment_state=environment_state)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )

    @property
    def spec(self) -> PolicySpec:
        """Its needs."""
        return self._spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """values [Ta, A].

        Raises:
            SimulationError: the process has ended.
        """
        check_observation(observation, self._spec)
        card, horizon = self._spec.embodiment, self._spec.action_horizon
        seed = int(np.random.default_rng(rng).integers(2**63))
        rows = [np.asarray(v, np.float32) for v in (observation.state, observation.environment_state)]
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        size = 4 * horizon * len(card.action)
        try:
            requests.write(seed.to_bytes(8, "little") + b"".join(row.tobytes() for row in rows))
            requests.flush()
            answer = answers.read(size)
        except BrokenPipeError:
            answer = b""
        if len(answer) != size:
            command = self._process.args
            raise SimulationError(explain("the peer's process ended", given=command, mend="run its command by hand"))
        values = np.frombuffer(answer, np.float32).reshape(horizon, -1).astype(float)
        return ActionChunk(values, int(observation.time_ns[-1]), card.control_dt_s, card.hash, horizon=horizon)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # a request that nobody read
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
