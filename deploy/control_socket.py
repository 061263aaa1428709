"""The supervisor's control socket: a Unix socket with mode 0600 in the run folder, one JSON object per line.

Request ``{"command": "start"}``, reply ``{"ok": true, ...}`` or ``{"ok": false, "error": "..."}``. Requests are bounded
in size and checked field by field; nothing that arrives is ever executed or unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from robopolicy.errors import DeployError, explain

__all__ = ["MAX_REQUEST_BYTES", "SOCKET_NAME", "ControlServer", "request"]

SOCKET_NAME = "supervisor.sock"
MAX_REQUEST_BYTES = 64 * 1024
MAX_REPLY_BYTES = 8 * 1024 * 1024
MAX_CLIENTS = 16

Handler = Callable[[dict[str, Any]], dict[str, Any]]


@contextlib.contextmanager
def _short_path(run_dir: Path) -> Iterator[str]:
    """A name of the socket that fits into the 108 bytes of ``sun_path`` however deep the run folder lies."""
    folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET_NAME}" if os.path.isdir("/proc/self/fd") else str(run_dir / SOCKET_NAME)
    finally:
        os.close(folder)


class ControlServer:
    """Accepts clients and answers their requests inside the supervisor's loop; never blocks.

    Args:
        run_dir: Where the socket is made; a stale one is replaced.
        handle: Called with each valid request; its DeployError becomes the reply's ``error``.
    """

    def __init__(self, run_dir: Path, handle: Handler):
        self._path, self._handle = run_dir / SOCKET_NAME, handle
        self._path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            with _short_path(run_dir) as name:
                self._server.bind(name)
        finally:
            os.umask(before)
        self._server.listen(8)
        self._server.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._buffers: dict[socket.socket, bytearray] = {}

    def poll(self, timeout_s: float) -> None:
        """Wait at most ``timeout_s`` and serve what has come."""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._server:
                self._accept()
            elif isinstance(key.fileobj, socket.socket):
                self._serve(key.fileobj)

    def close(self) -> None:
        """Close and remove the socket."""
        for client in list(self._buffers):
            self._drop(client)
        self._selector.close()
        self._server.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        client, _ = self._server.accept()
        if len(self._buffers) >= MAX_CLIENTS:
            client.close()
            return
        client.settimeout(1.0)
        self._buffers[client] = bytearray()
        self._selector.register(client, selectors.EVENT_READ)

    def _serve(self, client: socket.socket) -> None:
        try:
            data = client.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        buffer = self._buffers[client]
        buffer += data
        while (end := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            if not self._reply(client, self._answer(line)):
                return
        if len(buffer) > MAX_REQUEST_BYTES:
            self._reply(client, {"ok": False, "error": f"request longer than {MAX_REQUEST_BYTES} bytes"})
            self._drop(client)

    def _answer(self, line: bytes) -> dict[str, Any]:
        if len(line) > MAX_REQUEST_BYTES:
            return {"ok": False, "error": f"request longer than {MAX_REQUEST_BYTES} bytes"}
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return {"ok": False, "error": "not a line of JSON"}
        if not isinstance(message, dict) or not isinstance(message.get("command"), str):
            return {"ok": False, "error": 'expected an object with a text "command"'}
        try:
            return {"ok": True, **self._handle(message)}
        except DeployError as error:
            return {"ok": False, "error": str(error)}

    def _reply(self, client: socket.socket, reply: dict[str, Any]) -> bool:
        try:
            client.sendall(json.dumps(reply).encode() + b"\n")
        except OSError:
            # The client has gone, or does not read: it must not hold up the supervisor.
            self._drop(client)
            return False
        return True

    def _drop(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        del self._buffers[client]
        client.close()


def request(run_dir: str | Path, command: str, *, timeout_s: float = 10.0, **arguments: Any) -> dict[str, Any]:
    """Send one request to the daemon of ``run_dir`` and return its reply.

    Raises:
        DeployError: no daemon runs there, it does not answer, or it refused.
    """
    run_dir = Path(run_dir)
    message = json.dumps({"command": command, **arguments}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, _short_path(run_dir) as name:
            client.settimeout(timeout_s)
            client.connect(name)
            client.sendall(message)
            received = bytearray()
            while not received.endswith(b"\n"):
                data = client.recv(65536)
                if not data or len(received) > MAX_REPLY_BYTES:
                    raise DeployError(explain("the daemon broke off its reply", given=command))
                received += data
    except OSError as error:
        raise DeployError(
            explain(
                f"no daemon answers in {run_dir} ({error})", mend="start one: robopolicy deploy RUN robot=sim_panda"
            )
        ) from error
    reply: dict[str, Any] = json.loads(received)
    if not reply.pop("ok"):
        raise DeployError(reply["error"])
    return reply
