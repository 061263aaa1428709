"""The control socket: private, bounded, and deaf to anything that is not a request."""

import json
import os
import socket
import stat
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.deploy.control_socket import MAX_REQUEST_BYTES, SOCKET_NAME, ControlServer, request
from robopolicy.errors import DeployError


class Served:
    """A server polled by a thread."""

    def __init__(self, run_dir):
        self.run_dir, self.asked = run_dir, []
        self.server = ControlServer(run_dir, self.handle)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def handle(self, message):
        self.asked.append(message)
        if message["command"] == "refuse":
            raise DeployError("refused; mend: do not")
        return {"echo": message.get("value")}

    def _loop(self):
        while not self._stop.is_set():
            self.server.poll(0.01)

    def close(self):
        self._stop.set()
        self._thread.join()
        self.server.close()

    def raw(self, data):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            fd = os.open(self.run_dir, os.O_RDONLY)
            client.connect(f"/proc/self/fd/{fd}/{SOCKET_NAME}")
            os.close(fd)
            client.sendall(data)
            return client.recv(65536)


@pytest.fixture
def served(tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 60)  # longer than a socket's path may be
    deep.mkdir(parents=True)
    it = Served(deep)
    yield it
    it.close()


def test_a_request_is_answered_and_the_socket_is_private(served):
    assert request(served.run_dir, "hello", value=[1, 2]) == {"echo": [1, 2]}
    mode = (served.run_dir / SOCKET_NAME).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_refusal_arrives_as_an_error(served):
    with pytest.raises(DeployError, match="mend: do not"):
        request(served.run_dir, "refuse")


@pytest.mark.parametrize("line", [b"\n", b"{]\n", b"[1]\n", b'{"command": 3}\n', b"\xff\xfe\n", b"[" * 5000 + b"\n"])
def test_what_is_no_request_is_answered_and_not_handled(served, line):
    assert json.loads(served.raw(line))["ok"] is False
    assert served.asked == []
    assert request(served.run_dir, "still", value=1) == {"echo": 1}


def test_an_endless_line_is_cut_off(served):
    reply = json.loads(served.raw(b"x" * (MAX_REQUEST_BYTES + 10)))
    assert "longer than" in reply["error"]
    assert request(served.run_dir, "still") == {"echo": None}


def test_two_requests_in_one_packet_get_two_answers(served):
    reply = served.raw(b'{"command": "a", "value": 1}\n{"command": "b", "value": 2}\n')
    assert reply.startswith(b'{"ok": true, "echo": 1}\n')


@given(st.binary(max_size=200))
@settings(max_examples=40, deadline=None)
def test_no_bytes_break_the_parser(data):
    server = ControlServer.__new__(ControlServer)
    server._handle = lambda message: {}
    assert isinstance(server._answer(data.replace(b"\n", b"")), dict)


def test_without_a_daemon_the_error_says_so(tmp_path):
    with pytest.raises(DeployError, match="no daemon answers"):
        request(tmp_path, "status")
