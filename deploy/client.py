"""The blocking side of a policy server's client: one request in flight, a deadline on every call.

The connection lives in an event loop in a thread of its own, so that a deadline covers connecting, sending and waiting
alike, whatever the peer does, and pings are answered between calls.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from robopolicy.deploy.array_codec import FrameLimits, pack
from robopolicy.deploy.client_config import ClientConfig
from robopolicy.deploy.client_errors import DeadlineError, PolicyServerError, ServerGoneError
from robopolicy.deploy.client_link import Link
from robopolicy.deploy.endpoint import parse_url, read_token
from robopolicy.deploy.policy_messages import OBS_ID
from robopolicy.errors import DeployError, explain

__all__ = ["PolicyClient"]

T = TypeVar("T")


class PolicyClient:
    """Asks a policy server that speaks openpi's protocol.

    Args:
        url: ``ws://`` on this machine, ``wss://`` elsewhere.
        config: Token file, deadlines, waits.

    Raises:
        EndpointError: an address that may not be asked, or an unusable token file.
    """

    def __init__(self, url: str, config: ClientConfig | None = None):
        self._config = config or ClientConfig()
        self._limits = FrameLimits(max_bytes=round(self._config.max_frame_mib * 2**20))
        token = read_token(self._config.token_file)
        self.url = parse_url(url, token=token)
        self._link = Link(self.url, token, self._config)
        self._turn = threading.Lock()
        self._obs_id = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def metadata(self) -> Any:
        """What the server said first; None before the first connection."""
        return self._link.metadata

    @property
    def counts(self) -> dict[str, int]:
        """``connected``: connections made; ``stale``: replies discarded; ``asked``: requests."""
        return {"connected": self._link.connected, "stale": self._link.stale, "asked": self._obs_id}

    def connect(self, timeout_s: float | None = None) -> Any:
        """Connect, trying again until ``timeout_s`` (``connect_timeout_s``) is over. -> the server's metadata.

        Raises:
            PolicyServerError: no server in that time; at once when it does not let us in or is no policy server.
        """
        limit_s = self._config.connect_timeout_s if timeout_s is None else timeout_s
        until = time.monotonic() + limit_s
        failure: PolicyServerError | None = None
        while (left_s := until - time.monotonic()) > 0:
            try:
                self._run(self._open(left_s), left_s)
                return self.metadata
            except (ServerGoneError, DeadlineError) as error:
                failure = failure or error  # the later ones say that we wait
        raise failure or DeadlineError(explain("no time to connect", given=f"{limit_s} s"))

    def infer(self, observation: Mapping[str, Any], deadline_s: float | None = None) -> dict[str, Any]:
        """One observation, one reply; arrays in it are well-formed and finite, their meaning is not yet checked.

        Args:
            observation: Text keys, values as :func:`~robopolicy.deploy.array_codec.pack` takes them. The number by
                which the reply is known is added.
            deadline_s: In the place of the configured one; covers all, also a reconnect.

        Raises:
            PolicyServerError: no reply in time, no server, or the server's own error.
            FrameError: the observation cannot be sent.
        """
        limit_s = self._config.deadline_s if deadline_s is None else deadline_s
        until = time.monotonic() + limit_s
        if not self._turn.acquire(timeout=limit_s):
            raise DeadlineError(explain("another call is in flight", allowed="one at a time"))
        try:
            self._obs_id += 1
            frame = pack({**observation, OBS_ID: self._obs_id}, self._limits)
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise DeadlineError(explain("the observation was not packed in time", given=f"{len(frame)} bytes"))
            return self._run(self._ask(frame, self._obs_id, left_s), left_s)
        finally:
            self._turn.release()

    def close(self) -> None:
        """Let go of the server; the client can be used again."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._link.close(), loop).result(5.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        self._loop = self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def _open(self, left_s: float) -> None:
        await self._link.open(asyncio.get_running_loop().time() + left_s)

    async def _ask(self, frame: bytes, obs_id: int, left_s: float) -> dict[str, Any]:
        return await self._link.ask(frame, obs_id, asyncio.get_running_loop().time() + left_s)

    def _run(self, work: Coroutine[Any, Any, T], left_s: float) -> T:
        """Carry out ``work`` in the loop's thread; it keeps the deadline itself, a second more is only a safety net."""
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result(left_s + 1.0)
        except TimeoutError:
            future.cancel()
            raise DeadlineError(explain("the client itself was not in time", given=f"{left_s:.1f} s")) from None
        except DeployError:
            raise
        except BaseException:
            future.cancel()
            raise

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = asyncio.new_event_loop()

            def run() -> None:
                asyncio.set_event_loop(loop)
                try:
                    loop.run_forever()
                finally:
                    loop.run_until_complete(loop.shutdown_asyncgens())
                    loop.close()

            self._loop, self._thread = loop, threading.Thread(target=run, name="policy-client", daemon=True)
            self._thread.start()
        return self._loop
