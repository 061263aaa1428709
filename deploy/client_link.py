"""One websocket to a policy server, as coroutines: connect with back-off, ask by turns, discard what comes too late."""

from __future__ import annotations

import asyncio
import random
from functools import cache
from typing import TYPE_CHECKING, Any

from robopolicy.deploy.array_codec import FrameLimits, unpack
from robopolicy.deploy.array_errors import FrameError, shown
from robopolicy.deploy.client_config import ClientConfig
from robopolicy.deploy.client_errors import (
    DeadlineError,
    ReplyError,
    ServerChangedError,
    ServerGoneError,
    ServerRefusedError,
    ServerSaidError,
)
from robopolicy.deploy.endpoint import Url, client_tls
from robopolicy.deploy.policy_messages import OBS_ID
from robopolicy.errors import MissingDependencyError, explain

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

__all__ = ["Link"]

MOST_STALE = 16
"""Replies of other requests that one call passes over; a server that sends more is not answering us."""

LONGEST_WORDS = 300


class Link:
    """The connection; all methods belong to one event loop.

    Args:
        url: Checked address.
        token: Shown in the handshake.
        config: Deadlines and waits.

    Attributes:
        metadata: What the server said first; None before.
        connected: How often a connection was made.
        stale: Replies discarded because they answered another request.
        wait_s: From the last failed attempt to the next one.
    """

    def __init__(self, url: Url, token: str | None, config: ClientConfig):
        self._url, self._token, self._config = url, token, config
        self._limits = FrameLimits(max_bytes=round(config.max_frame_mib * 2**20))
        self._tls = client_tls(config.tls_ca) if url.secure else None
        self._random = random.Random(config.seed)
        self._socket: ClientConnection | None = None
        self._owed = 0
        self._failures = 0
        self._not_before = 0.0
        self._greeting: bytes | None = None
        self.metadata: Any = None
        self.connected = self.stale = 0
        self.wait_s = 0.0

    async def open(self, until: float) -> None:
        """Connect if there is no connection; waits for its turn after failures. ``until`` is of the loop's clock.

        Raises:
            PolicyServerError: no connection before ``until``.
        """
        if self._socket is not None:
            return
        loop = asyncio.get_running_loop()
        if self._not_before > loop.time():
            if self._not_before >= until:
                await asyncio.sleep(max(until - loop.time(), 0.0))
                raise ServerGoneError(
                    explain(
                        "the policy server is away",
                        given=self._url.text,
                        mend=f"the next attempt is in {max(self._not_before - loop.time(), 0):.1f} s",
                    )
                )
            await asyncio.sleep(self._not_before - loop.time())
        try:
            await self._connect(min(until, loop.time() + self._config.connect_timeout_s))
        except BaseException:
            longest = min(self._config.backoff_cap_s, self._config.backoff_s * 2 ** min(self._failures, 30))
            self.wait_s = longest * (0.5 + 0.5 * self._random.random())
            self._failures, self._not_before = self._failures + 1, loop.time() + self.wait_s
            raise
        self._failures, self._not_before = 0, 0.0

    async def _connect(self, until: float) -> None:
        socket = await self._handshake(until)
        try:
            async with asyncio.timeout_at(until):
                greeting = await socket.recv()
            if isinstance(greeting, str):
                raise _said(greeting)
            if self._greeting is not None and greeting != self._greeting:
                mend = "start the client anew: what is served now was not checked against the robot"
                raise ServerChangedError(explain("the server's metadata have changed", given=self._url.text, mend=mend))
            self.metadata = unpack(greeting, self._limits, finite=True)
        except BaseException as error:
            _abort(socket)
            raise _translated(error, f"metadata of {self._url.text}") from error
        self._greeting = bytes(greeting)
        self._socket, self._owed = socket, 0
        self.connected += 1

    async def _handshake(self, until: float) -> ClientConnection:
        connect, exceptions = _websockets()
        headers = {} if self._token is None else {"Authorization": f"Api-Key {self._token}"}
        try:
            async with asyncio.timeout_at(until):
                found: ClientConnection = await connect(
                    self._url.text,
                    additional_headers=headers,
                    compression=None,
                    max_size=self._limits.max_bytes,
                    max_queue=MOST_STALE,
                    open_timeout=None,
                    ping_interval=None,  # the deadline of a call says whether the server is there
                    close_timeout=0.5,
                    proxy=None,
                    user_agent_header=None,
                    ssl=self._tls,
                )
                return found
        except exceptions.InvalidStatus as error:
            status = error.response.status_code
            mends = {401: "give the server's token: token_file=", 503: "end another client, or raise max_clients="}
            raise ServerRefusedError(
                explain("the server does not let us in", given=f"HTTP {status}", mend=mends.get(status))
            ) from error
        except BaseException as error:
            raise _translated(error, self._url.text) from error

    async def ask(self, frame: bytes, obs_id: int, until: float) -> dict[str, Any]:
        """Send a request and wait for its reply.

        A connection that turns out to be dead before the request is sent is made anew once, within the deadline.

        Raises:
            PolicyServerError: no reply to this request before ``until``. After a missed deadline the connection is
                kept, and the late reply is discarded by the next call.
        """
        fresh = self._socket is None
        await self.open(until)
        try:
            await self._settle(until)
            await self._send(frame, until)
        except ServerGoneError:
            if fresh:
                raise
            await self.open(until)
            await self._send(frame, until)
        for _ in range(MOST_STALE):
            reply = await self._receive(until)
            echoed = reply.get(OBS_ID)
            if echoed is None or echoed == obs_id:
                return reply
            self.stale += 1
        self.drop()
        raise ReplyError(explain("the server answers other requests than ours", given=f"{MOST_STALE} replies"))

    async def _settle(self, until: float) -> None:
        """Take the replies that are still owed to earlier calls, and whatever else has come unasked."""
        while self._owed:
            try:
                await self._receive(until)
            except DeadlineError:
                self.drop()  # two calls long without an answer: begin anew
                raise
            self.stale += 1
        socket = self._socket
        while socket is not None and self._socket is socket:
            try:
                async with asyncio.timeout(0):
                    await socket.recv()
            except TimeoutError:
                return
            except Exception as error:
                self.drop()
                raise _translated(error, self._url.text) from error
            self.stale += 1

    async def _send(self, frame: bytes, until: float) -> None:
        socket = self._socket
        assert socket is not None
        try:
            async with asyncio.timeout_at(until):
                await socket.send(frame)
        except BaseException as error:
            self.drop()  # half a frame may be out
            raise _translated(error, f"sending to {self._url.text}") from error
        self._owed += 1

    async def _receive(self, until: float) -> dict[str, Any]:
        socket = self._socket
        assert socket is not None
        try:
            async with asyncio.timeout_at(until):
                frame = await socket.recv()
        except TimeoutError as error:
            raise _translated(error, self._url.text) from error
        except BaseException as error:
            self.drop()
            raise _translated(error, self._url.text) from error
        try:
            if isinstance(frame, str):
                raise _said(frame)
            reply = unpack(frame, self._limits, finite=True)
        except FrameError as error:
            self.drop()
            raise ReplyError(explain("the server's reply was refused", given=str(error))) from error
        except ServerSaidError:
            self.drop()
            raise
        if not isinstance(reply, dict):
            self.drop()
            raise ReplyError(explain("the server's reply is no map", given=type(reply).__name__))
        self._owed = max(self._owed - 1, 0)
        return reply

    def drop(self) -> None:
        """Give the connection up at once."""
        socket, self._socket, self._owed = self._socket, None, 0
        if socket is not None:
            _abort(socket)

    async def close(self) -> None:
        """Say goodbye, briefly."""
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()


def _abort(socket: ClientConnection) -> None:
    socket.transport.abort()


def _said(words: str) -> ServerSaidError:
    brief = ascii(words.strip()[:LONGEST_WORDS])[1:-1][: 2 * LONGEST_WORDS]
    return ServerSaidError(explain("the policy server reports an error", given=brief))


def _translated(error: BaseException, what: str) -> BaseException:
    """The error of the library or the system in our words; cancellation and our own stay as they are."""
    _, exceptions = _websockets()
    if isinstance(error, FrameError):
        return ReplyError(explain("the server's metadata were refused", given=str(error)))
    if isinstance(error, TimeoutError):
        mend = "raise deadline_s, or look whether the server is overloaded"
        return DeadlineError(explain("no answer from the policy server in time", given=what, mend=mend))
    if isinstance(error, exceptions.ConnectionClosed):
        given = f"{what}: {shown(str(error))}"
        return ServerGoneError(explain("the policy server has closed the connection", given=given))
    if isinstance(error, OSError):
        import ssl

        if isinstance(error, ssl.SSLError):
            mend = "give the certificate authority of the server: tls_ca="
            return ServerRefusedError(
                explain("the server's certificate was refused", given=shown(str(error)), mend=mend)
            )
        mend = "start it: robopolicy serve RUN"
        return ServerGoneError(explain("no policy server", given=f"{what} ({error.strerror or error})", mend=mend))
    if isinstance(error, (exceptions.WebSocketException, EOFError, ValueError)):
        return ServerRefusedError(explain("this is not a policy server", given=f"{what}: {shown(str(error))}"))
    return error


@cache
def _websockets() -> tuple[Any, Any]:
    try:
        from websockets import exceptions
        from websockets.asyncio.client import connect
    except ImportError as error:
        mend = "pip install robopolicy[deploy]"
        raise MissingDependencyError(explain("the policy client needs websockets >= 15", mend=mend)) from error

    class Direct(connect):
        """Follows no redirection: the token is for the address that the user gave."""

        def process_redirect(self, exc: Exception) -> Exception | str:
            return exc

    return Direct, exceptions
