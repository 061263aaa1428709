"""The four ports of an xArm's control box, their connections, and what goes wrong on the way out."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from robopolicy.errors import SimulationError, explain
from robopolicy.sim.wire import xarm_frames as frames
from robopolicy.sim.wire.box import Watch, monotonic_ns
from robopolicy.sim.wire.faults import WireFaults

__all__ = ["COMMAND_PORT", "Client", "Ports"]

COMMAND_PORT = 502
FREE_ADDRESSES = [f"127.42.{i}.{j}" for i in range(1, 21) for j in range(1, 251)]


class Client:
    """One connection and what still has to go out on it."""

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket, self.buffer = connection, b""
        self.queue: deque[tuple[int, bytes]] = deque()


class Ports:
    """Listeners and connections, by the vendor's port numbers whatever the real ones are.

    Args:
        address: Loopback address; empty takes a free one.
        port: Command port, 0 for a free one.
        report_port: Port of the first report, 0 for free ones.
        faults: Faults in force.
        serve: Called with a connection whose ``buffer`` has grown.

    Attributes:
        address: What a driver needs.
        clients: Connections by port number.

    Raises:
        SimulationError: the ports cannot be bound.
    """

    def __init__(self, address: str, port: int, report_port: int, faults: WireFaults, serve: Callable[[Client], None]):
        self._faults, self._serve = faults, serve
        self._listeners = _listen(address, port, report_port)
        host, bound = self._listeners[COMMAND_PORT].getsockname()[:2]
        first = self._listeners[frames.REPORT_TIMED].getsockname()[1]
        self.address: dict[str, Any] = {"address": host}
        if bound != COMMAND_PORT:
            self.address["port"] = bound
        if first != frames.REPORT_TIMED:
            self.address["report_port"] = first
        self.clients: dict[int, list[Client]] = {number: [] for number in self._listeners}

    def files(self) -> list[Watch]:
        """Listeners and connections."""
        found: list[Watch] = [(s, self._acceptor(number, s)) for number, s in self._listeners.items()]
        found += [(c.socket, self._reader(number, c)) for number, group in self.clients.items() for c in group]
        return found

    def close(self) -> None:
        """Close every socket."""
        for group in self.clients.values():
            for client in group:
                client.socket.close()
        for listener in self._listeners.values():
            listener.close()

    def _acceptor(self, number: int, listener: socket.socket) -> Callable[[], None]:
        def accept() -> None:
            connection, _ = listener.accept()
            if self._faults.refuse:
                connection.close()
            else:
                self.clients[number].append(Client(connection))

        return accept

    def _reader(self, number: int, client: Client) -> Callable[[], None]:
        def read() -> None:
            try:
                data = client.socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                self.drop(number, client)
            elif number == COMMAND_PORT:
                client.buffer += data
                self._serve(client)

        return read

    def drop(self, number: int, client: Client) -> None:
        """Close one connection."""
        client.socket.close()
        if client in self.clients[number]:
            self.clients[number].remove(client)

    def send(self, number: int, client: Client, packet: bytes) -> None:
        """Queue a packet, if no fault takes it."""
        goes = self._faults.answer(packet)
        if goes is None:
            return
        if self._faults.disconnect:
            self._faults.disconnect = False
            with contextlib.suppress(OSError):
                client.socket.send(goes[: len(goes) // 2])
            return self.drop(number, client)
        client.queue.append((monotonic_ns() + round(self._faults.delay_s * 1e9), goes))

    def flush(self, now_ns: int) -> None:
        """Send what is due."""
        for number, group in self.clients.items():
            for client in list(group):
                while client.queue and client.queue[0][0] <= now_ns:
                    _, packet = client.queue[0]
                    try:
                        sent = client.socket.send(packet)
                    except BlockingIOError:
                        break
                    except OSError:
                        self.drop(number, client)
                        break
                    client.queue.popleft()
                    if sent < len(packet):
                        client.queue.appendleft((0, packet[sent:]))
                        break


def _listen(address: str, port: int, report_port: int) -> dict[int, socket.socket]:
    """Bind all four ports on one address. -> listener by the vendor's number."""
    distances = {number: number - frames.REPORT_TIMED for number in (30000, 30001, 30003)}
    trouble: OSError | None = None
    for host in [address] if address else FREE_ADDRESSES:
        made: dict[int, socket.socket] = {}
        try:
            made[COMMAND_PORT] = _bound(host, port)
            for number, distance in distances.items():
                first = report_port or (made[frames.REPORT_TIMED].getsockname()[1] if distance else 0)
                made[number] = _bound(host, first + distance)
        except OSError as error:
            trouble = error
            for listener in made.values():
                listener.close()
            if isinstance(error, PermissionError):
                break
            continue
        return made
    assert trouble is not None
    low = "run as root or with CAP_NET_BIND_SERVICE, or give port: 0, which the driver is told with the address"
    mend = low if isinstance(trouble, PermissionError) else "give another address of 127.0.0.0/8"
    raise SimulationError(
        explain("the ports of the xArm cannot be bound", given=f"{address or host}:{port}: {trouble}", mend=mend)
    )


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(8)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
