"""Listening sockets and clients of a simulated UR controller; nothing here blocks."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable

from robopolicy.errors import SimulationError, explain

__all__ = ["Listener", "Peer"]

MOST_WAITING = 1 << 18
"""Bytes that may wait for a client that does not read; packets beyond are lost, as in a controller."""


class Peer:
    """One client of one port.

    Args:
        connection: Its socket.
        received: Called with the bytes that came.

    Attributes:
        socket: What to wait for.
        closed: Whether it is gone, or was thrown out.
    """

    def __init__(self, connection: socket.socket, received: Callable[[Peer, bytes], None]):
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket, self._received = connection, received
        self._later: deque[tuple[int, bytes]] = deque()
        self._waiting = b""
        self.buffer = b""
        self.closed = False

    def read(self) -> None:
        """Take what came."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._received(self, data)
        else:
            self.close()

    def send(self, data: bytes, *, due_ns: int = 0) -> None:
        """Send when :meth:`flush` is called at ``due_ns`` or later; what does not fit is lost whole."""
        if data and not self.closed and len(self._waiting) + sum(len(d) for _, d in self._later) < MOST_WAITING:
            self._later.append((due_ns, data))

    def flush(self, now_ns: int) -> None:
        """Write what is due and fits."""
        while self._later and self._later[0][0] <= now_ns:
            self._waiting += self._later.popleft()[1]
        if not self._waiting or self.closed:
            return
        try:
            self._waiting = self._waiting[self.socket.send(self._waiting) :]
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def close(self) -> None:
        """Let go of it."""
        self.closed = True
        self.socket.close()


class Listener:
    """A port and its clients.

    Args:
        host: Address.
        port: Number.
        accepted: Called with each new client.
        received: Called with a client and the bytes that came from it.

    Raises:
        SimulationError: the port is taken, or the address is not one of this machine.
    """

    def __init__(
        self, host: str, port: int, *, accepted: Callable[[Peer], None], received: Callable[[Peer, bytes], None]
    ):
        self._host, self._port, self._accepted, self._received = host, port, accepted, received
        self.peers: list[Peer] = []
        self._socket: socket.socket | None = None
        self.open()

    def open(self) -> None:
        """Take new clients."""
        if self._socket is not None:
            return
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((self._host, self._port))
            made.listen(4)
        except OSError as error:
            made.close()
            raise SimulationError(
                explain(
                    "the simulated controller cannot listen",
                    given=f"{self._host}:{self._port}, {error.strerror}",
                    allowed="a loopback address of its own, 127.0.0.2 and the like",
                    mend="give it another host, or end what listens there",
                )
            ) from error
        made.setblocking(False)
        self._socket = made

    def refuse(self) -> None:
        """Take no new clients; those that are there stay."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def files(self) -> list[tuple[socket.socket, Callable[[], None]]]:
        """What to wait for."""
        self.peers = [peer for peer in self.peers if not peer.closed]
        listening = [] if self._socket is None else [(self._socket, self._accept)]
        return [*listening, *((peer.socket, peer.read) for peer in self.peers)]

    def flush(self, now_ns: int) -> None:
        """Write what is due to every client."""
        for peer in self.peers:
            peer.flush(now_ns)

    def close(self) -> None:
        """Close everything."""
        self.refuse()
        for peer in self.peers:
            peer.close()
        self.peers = []

    def _accept(self) -> None:
        if self._socket is None:
            return
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        peer = Peer(connection, self._received)
        self.peers.append(peer)
        self._accepted(peer)
