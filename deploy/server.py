"""The policy server: openpi's websocket protocol, so that our client and openpi's can both ask.

It holds a :class:`~robopolicy.protocols.Policy` and nothing of a robot. The event loop only moves frames; reading them,
the policy and writing the reply happen in one thread beside it, one request after another, so pings are answered and
other clients are let in while the policy thinks. What goes wrong with a request is told to that client in a text frame,
without traceback or path, and its connection is closed with code 1011.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from robopolicy.deploy.array_codec import pack, unpack
from robopolicy.deploy.policy_messages import metadata_of, pack_chunk
from robopolicy.deploy.server_config import ServerConfig
from robopolicy.deploy.server_observation import read_request
from robopolicy.deploy.server_warm_up import warm_up
from robopolicy.errors import DeployError, MissingDependencyError, explain
from robopolicy.protocols import Policy

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

__all__ = ["PolicyServer", "ServerThread"]

LOG = logging.getLogger("robopolicy.serve")
PING_INTERVAL_S, PING_TIMEOUT_S = 20.0, 120.0
"""A client whose machine has vanished is let go after these. Long inference does not count: the loop goes on."""

INTERNAL_ERROR = 1011
LONGEST_TEXT = 2000


class PolicyServer:
    """Serves one policy to several clients.

    Args:
        policy: Who decides; called from one thread at a time.
        config: Address, security, limits.

    Raises:
        EndpointError: an address beyond this machine without token and certificate.
        MissingDependencyError: websockets or msgpack is not installed.

    Attributes:
        clients: Connected now.
        answered: Replies sent since the start.
        refused: Requests answered with an error.
    """

    def __init__(self, policy: Policy, config: ServerConfig | None = None):
        self._policy, self._config = policy, config or ServerConfig()
        self._config.check()
        self._tls = self._config.tls()
        self._spec = policy.spec
        self._metadata = pack(metadata_of(policy), self._config.limits)
        self.clients = self.answered = self.refused = 0

    async def serve(self, stop: asyncio.Event, ready: Callable[[str], None] = lambda url: None) -> None:
        """Warm up, listen, and serve until ``stop`` is set.

        Args:
            stop: Set it to end; clients are told that the server goes away.
            ready: Called with the address as soon as clients are let in.

        Raises:
            DeployError: the address cannot be listened on.
        """
        listen = _websocket_serve()
        given = self._config
        pool = ThreadPoolExecutor(1, thread_name_prefix="policy")
        try:
            await asyncio.get_running_loop().run_in_executor(pool, warm_up, self._policy, given.warm_up)
            server = listen(
                lambda connection: self._converse(connection, pool),
                "127.0.0.1" if given.host == "localhost" else given.host,
                given.port,
                process_request=self._admit,
                origins=[None],  # a web page has an origin: no page of a browser on this machine may ask
                compression=None,
                max_size=given.limits.max_bytes,
                max_queue=1,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=PING_TIMEOUT_S,
                close_timeout=2,
                server_header=None,
                ssl=self._tls,
                logger=logging.getLogger("robopolicy.serve.websockets"),
            )
            try:
                async with server as listening:
                    port = listening.sockets[0].getsockname()[1]
                    host = f"[{given.host}]" if ":" in given.host else given.host
                    ready(f"{'wss' if self._tls else 'ws'}://{host}:{port}")
                    await stop.wait()
            except OSError as error:
                where = f"{given.host}:{given.port}"
                mend = "choose another port=, or end the server that has it"
                raise DeployError(explain(f"cannot listen ({error.strerror})", given=where, mend=mend)) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def serve_forever(self, ready: Callable[[str], None] = lambda url: None) -> None:
        """:meth:`serve` in the main thread until SIGINT or SIGTERM."""

        async def until_signalled() -> None:
            stop, loop = asyncio.Event(), asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop.set)
            await self.serve(stop, ready)

        asyncio.run(until_signalled())

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no websocket, and turn away those who may not or cannot come in."""
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if self._config.token is not None:
            shown = request.headers.get_all("Authorization")
            expected = f"Api-Key {self._config.token}"
            if len(shown) != 1 or not hmac.compare_digest(shown[0].encode(), expected.encode()):
                LOG.warning("%s refused: wrong or missing token", _peer(connection))
                return connection.respond(HTTPStatus.UNAUTHORIZED, "a token is needed: Authorization: Api-Key TOKEN\n")
        if self.clients >= self._config.max_clients:
            LOG.warning("%s refused: %d clients already", _peer(connection), self.clients)
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        return None

    async def _converse(self, connection: ServerConnection, pool: ThreadPoolExecutor) -> None:
        from websockets.exceptions import ConnectionClosed

        self.clients += 1
        LOG.info("%s connected", _peer(connection))
        try:
            await connection.send(self._metadata)
            previous_ms = None
            while True:
                frame = await connection.recv()
                begin = time.monotonic()
                try:
                    reply = await self._answer(connection, pool, frame, previous_ms)
                except DeployError as error:
                    await self._complain(connection, str(error))
                    return
                if reply is None:
                    return
                await connection.send(reply)
                self.answered += 1
                previous_ms = (time.monotonic() - begin) * 1e3
        except ConnectionClosed:
            pass
        finally:
            self.clients -= 1
            LOG.info("%s gone", _peer(connection))

    async def _answer(
        self, connection: ServerConnection, pool: ThreadPoolExecutor, frame: str | bytes, previous_ms: float | None
    ) -> bytes | None:
        """The reply; None when the client has left before its turn, whose request is then dropped."""
        if isinstance(frame, str):
            raise DeployError(explain("a text frame", allowed="a binary frame: the msgpack map of an observation"))
        loop = asyncio.get_running_loop()
        turn = loop.run_in_executor(pool, self._infer, frame, time.monotonic(), previous_ms)
        left = loop.create_task(connection.wait_closed())
        try:
            both: set[asyncio.Future[Any]] = {turn, left}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            return turn.result() if turn.done() else None
        finally:
            turn.cancel()
            left.cancel()

    async def _complain(self, connection: ServerConnection, words: str) -> None:
        self.refused += 1
        LOG.warning("%s: %s", _peer(connection), words)
        await connection.send(words[:LONGEST_TEXT])
        await connection.close(INTERNAL_ERROR, "the request was refused; see the text frame before")

    def _infer(self, frame: bytes, arrived: float, previous_ms: float | None) -> bytes:
        """One request, in the policy's thread.

        Raises:
            DeployError: with a message that may be shown to the client.
        """
        queue_ms = (time.monotonic() - arrived) * 1e3
        try:
            request = read_request(unpack(frame, self._config.limits, finite=True), self._spec, self._config.keys)
            begin = time.monotonic()
            extra = {} if request.prefix is None else {"prefix": request.prefix}
            chunk = self._policy.act(request.observation, rng=request.rng, **extra)
            timing = {"infer_ms": (time.monotonic() - begin) * 1e3, "queue_ms": queue_ms}
            if not np.isfinite(chunk.values).all():
                raise DeployError(explain("the policy's chunk is not finite", mend="check the policy's normaliser"))
            if previous_ms is not None:
                timing["prev_total_ms"] = previous_ms
            reply: dict[str, Any] = pack_chunk(chunk, request.obs_id, request.rng)
            return pack({**reply, "server_timing": timing}, self._config.limits)
        except DeployError:
            raise
        except Exception as error:
            # What went wrong inside may hold paths and data: the client gets a number to ask about.
            mark = secrets.token_hex(4)
            LOG.exception("inference failed (%s)", mark)
            mend = f"look for {mark} in the server's log"
            raise DeployError(explain("inference failed", given=type(error).__name__, mend=mend)) from error


class ServerThread:
    """A :class:`PolicyServer` in a thread, for notebooks and tests: ``with ServerThread(policy) as url``.

    Args:
        policy, config: As for :class:`PolicyServer`.

    Attributes:
        server: The server itself.
        url: Its address, while it runs.
    """

    def __init__(self, policy: Policy, config: ServerConfig | None = None):
        self.server = PolicyServer(policy, config or ServerConfig(port=0))
        self.url = ""
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="policy-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await self.server.serve(self._stop, self._announce)

        try:
            asyncio.run(serve())
        except Exception as error:
            self._failure = error
        finally:
            self._ready.set()

    def _announce(self, url: str) -> None:
        self.url = url
        self._ready.set()


def _websocket_serve() -> Any:
    try:
        from websockets.asyncio.server import serve
    except ImportError as error:
        mend = "pip install robopolicy[deploy]"
        raise MissingDependencyError(explain("the policy server needs websockets >= 15", mend=mend)) from error
    return serve


def _peer(connection: ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "a client"
