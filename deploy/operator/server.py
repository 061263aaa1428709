"""The web server of the operator's page: three files, one stream out, one door to the supervisor.

::

    GET  /  /page.js  /page.css      the page; holds no secret, so it needs none
    GET  /live                       websocket; first message {"token": ...}, then snapshots, log and pictures come,
                                     and {"deadman": STAMP} may go
    GET  /api/state                  one snapshot, with Authorization: Bearer TOKEN
    POST /api/EVENT                  an event for the state machine; ``stop`` without a token, all others with that of
                                     ``operate``

A page that does not read what it is sent misses snapshots; it never makes anybody wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig
from robopolicy.deploy.control_socket import request as ask_supervisor
from robopolicy.deploy.operator.access import Role, Tokens, foreign, security_headers
from robopolicy.deploy.operator.feed import Feed, description
from robopolicy.deploy.operator.pictures import Pictures
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.deploy.state_machine import OPERATOR_EVENTS
from robopolicy.errors import DeployError

__all__ = ["COMMANDS", "OperatorServer"]

COMMANDS = (*OPERATOR_EVENTS, "restart_worker")
FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
LIVE_S, PICTURE_S, STATUS_S = 0.05, 0.125, 0.5
MAX_CLIENTS, MAX_MESSAGE_BYTES, MAX_BODY_BYTES = 8, 1024, 1024
AUTHENTICATE_S, SEND_S, SUPERVISOR_S = 5.0, 5.0, 2.0
UNKNOWN_TOKEN, TOO_MANY = 4401, 4429

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Client:
    """One open page: what it still has to be sent, the newest only.

    Args:
        socket: Its websocket.
        role: What it may do.
    """

    def __init__(self, socket: web.WebSocketResponse, role: Role):
        self.socket, self.role = socket, role
        self._live: str | None = None
        self._pictures: dict[int, bytes] = {}
        self._cursor = 0
        self._wake = asyncio.Event()

    def offer(self, live: str | None, pictures: list[bytes]) -> None:
        """Put the newest in the place of what was not sent yet."""
        self._live = live or self._live
        self._pictures |= {picture[0]: picture for picture in pictures}
        self._wake.set()

    async def write(self, feed: Feed) -> None:
        """Send until the socket closes; a page that takes nothing for a while is let go."""
        while not self.socket.closed:
            await self._wake.wait()
            self._wake.clear()
            live, self._live = self._live, None
            pictures, self._pictures = self._pictures, {}
            async with asyncio.timeout(SEND_S):
                if live is not None:
                    await self.socket.send_str(live)
                if lines := feed.log.since(self._cursor):
                    self._cursor = lines[-1]["n"]
                    await self.socket.send_str(json.dumps({"kind": "log", "lines": lines}))
                for picture in pictures.values():
                    await self.socket.send_bytes(picture)


class OperatorServer:
    """Everything between the rings and the browser.

    Args:
        run_dir: Folder of the daemon, where its control socket is.
        bus: Shared memory; only this process's own heartbeat words are written.
        config: What runs.
        tokens: Who may do what.
    """

    def __init__(self, run_dir: Path, bus: Bus, config: DaemonConfig, tokens: Tokens):
        self._run_dir, self._bus, self._tokens = run_dir, bus, tokens
        self._meta = description(config)
        self._deadman_ns = round(config.deploy.deadman_timeout_s * 1e9)
        self._feed, self._pictures = Feed(bus, config), Pictures(bus)
        self._clients: set[Client] = set()
        self._sockets = 0
        # Stops have a thread of their own: no other request, however slow, is ever before them.
        self._stops = ThreadPoolExecutor(1, "stop")
        self._others, self._drawers = ThreadPoolExecutor(2, "ask"), ThreadPoolExecutor(1, "pictures")
        self._stopping: asyncio.Task[dict[str, Any]] | None = None
        self._status: dict[str, Any] = {}
        self._status_ns = 0

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_BYTES)
        for path in FILES:
            app.router.add_get(path, self._file)
        app.router.add_get("/live", self._live)
        app.router.add_get("/api/state", self._state)
        app.router.add_post("/api/{command}", self._command)
        return app

    async def pump(self, leave: asyncio.Event) -> None:
        """Gather and hand out until told to leave."""
        drawn_s = asked_s = 0.0
        loop = asyncio.get_running_loop()
        jobs: set[asyncio.Task[None]] = set()
        while not leave.is_set():
            begin_s = loop.time()
            self._bus.heartbeat.beat("operator")
            self._feed.poll()
            if self._clients:
                live = json.dumps(self.snapshot())
                for client in self._clients:
                    client.offer(live, [])
                if begin_s - drawn_s >= PICTURE_S and not any(job.get_name() == "draw" for job in jobs):
                    drawn_s = begin_s
                    jobs.add(asyncio.create_task(self._draw(), name="draw"))
            if begin_s - asked_s >= STATUS_S and not any(job.get_name() == "ask" for job in jobs):
                asked_s = begin_s
                jobs.add(asyncio.create_task(self._ask_status(), name="ask"))
            jobs = {job for job in jobs if not job.done()}
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(leave.wait(), max(0.001, begin_s + LIVE_S - loop.time()))
        for job in jobs:
            job.cancel()

    def snapshot(self) -> dict[str, Any]:
        """What is sent to every page."""
        age_ms = (monotonic_ns() - self._status_ns) / 1e6 if self._status_ns else None
        found = {**self._feed.live(), "processes": self._status, "processes_age_ms": age_ms}
        return {name: _finite(value) for name, value in found.items()}

    async def close(self) -> None:
        """Tell every page that this is the end of the run."""
        for client in list(self._clients):
            with contextlib.suppress(ConnectionError, RuntimeError):
                await client.socket.close(code=WSCloseCode.GOING_AWAY, message=b"the daemon has ended")
        for pool in (self._stops, self._others, self._drawers):
            pool.shutdown(wait=False, cancel_futures=True)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = security_headers(request.headers.get("Host", ""))
        if reason := foreign(request.headers):
            return web.json_response({"ok": False, "error": reason}, status=403, headers=headers)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = web.json_response({"ok": False, "error": error.reason}, status=error.status)
        if not response.prepared:
            response.headers.update(headers)
        return response

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name, kind = FILES[request.path]
        text = resources.files("robopolicy.deploy.operator").joinpath(name).read_text("utf-8")
        return web.Response(text=text, content_type=kind, charset="utf-8")

    async def _state(self, request: web.Request) -> web.StreamResponse:
        if self._tokens.role_of(request.headers) is None:
            return _refused(401, "a token is needed; mend: Authorization: Bearer, from operator.token of the run")
        return web.json_response({"ok": True, **self._meta, **self.snapshot()})

    async def _command(self, request: web.Request) -> web.StreamResponse:
        command = request.match_info["command"]
        if command == "stop":
            return _answer(await self._stop())
        role = self._tokens.role_of(request.headers)
        if role is None:
            return _refused(401, f"{command} needs a token; a stop does not")
        if command not in COMMANDS:
            return _refused(404, f"unknown command; allowed: {', '.join(COMMANDS)}")
        if role != "operate":
            return _refused(403, f"this token may look on, and stop; {command} needs that of operator.token")
        return _answer(await self._ask(command, self._others))

    async def _stop(self) -> dict[str, Any]:
        # Whoever presses while a stop is on its way shares its answer: nobody can fill the queue with stops.
        if self._stopping is None or self._stopping.done():
            self._stopping = asyncio.create_task(self._ask("stop", self._stops))
        return await asyncio.shield(self._stopping)

    async def _ask(self, command: str, pool: ThreadPoolExecutor) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            try:
                return {"ok": True, **ask_supervisor(self._run_dir, command, timeout_s=SUPERVISOR_S)}
            except DeployError as error:
                return {"ok": False, "error": str(error)}

        return await asyncio.get_running_loop().run_in_executor(pool, ask)

    async def _ask_status(self) -> None:
        reply = await self._ask("status", self._others)
        if reply["ok"]:
            self._status = {"supervisor": {"pid": reply["pid"], "alive": True, "ready": True}, **reply["processes"]}
            self._status_ns = monotonic_ns()

    async def _draw(self) -> None:
        pictures = await asyncio.get_running_loop().run_in_executor(self._drawers, self._pictures.take)
        for client in self._clients if pictures else ():
            client.offer(None, pictures)

    async def _live(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE_BYTES, heartbeat=5.0, compress=False)
        await socket.prepare(request)
        if self._sockets >= MAX_CLIENTS:
            await socket.close(code=TOO_MANY, message=b"too many pages are open")
            return socket
        self._sockets += 1
        try:
            await self._converse(socket)
        finally:
            self._sockets -= 1
        return socket

    async def _converse(self, socket: web.WebSocketResponse) -> None:
        role = await self._authenticate(socket)
        if role is None:
            await socket.close(code=UNKNOWN_TOKEN, message=b"unknown token")
            return
        await socket.send_str(json.dumps({**self._meta, "role": role}))
        client = Client(socket, role)
        writer = asyncio.create_task(client.write(self._feed))
        self._clients.add(client)
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT or not self._hear(client, message.data):
                    break
        finally:
            self._clients.discard(client)
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, TimeoutError, ConnectionError):
                await writer
            await socket.close(code=WSCloseCode.POLICY_VIOLATION)

    async def _authenticate(self, socket: web.WebSocketResponse) -> Role | None:
        try:
            message = await socket.receive(AUTHENTICATE_S)
        except TimeoutError:
            return None
        first = _parsed(message.data) if message.type is WSMsgType.TEXT else {}
        return self._tokens.role(first.get("token"))

    def _hear(self, client: Client, text: str) -> bool:
        """A message of an open page. -> whether it may stay."""
        stamp = _parsed(text).get("deadman")
        if client.role != "operate" or not isinstance(stamp, str) or not (stamp.isascii() and stamp.isdigit()):
            return False
        # The page sends back the time of the newest snapshot that it has shown: a person who sees an old picture, and
        # a message that was held up on its way, both count as silence.
        shown_ns, now_ns = int(stamp[:20]), monotonic_ns()
        if now_ns - self._deadman_ns <= shown_ns <= now_ns:
            self._bus.heartbeat.beat("deadman", shown_ns)
        return True


def _finite(value: Any) -> Any:
    """As it is, but for numbers that JSON does not know: one NaN must not make the whole page blind."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list) else value


def _parsed(text: str) -> dict[str, Any]:
    """An object of JSON; empty for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _answer(reply: dict[str, Any]) -> web.Response:
    return web.json_response(reply, status=200 if reply["ok"] else 409)


def _refused(status: int, error: str) -> web.Response:
    return web.json_response({"ok": False, "error": error}, status=status)
