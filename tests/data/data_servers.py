"""Servers on loopback that a store is read from, and a proxy in front of them that loses, cuts and delays."""

from __future__ import annotations

import contextlib
import html
import logging
import socket
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FileHandler(BaseHTTPRequestHandler):
    """GET and HEAD of the files of a folder, with byte ranges as RFC 9110, section 14, says."""

    protocol_version = "HTTP/1.1"
    folder: Path
    sent: list[int]
    statuses: dict[str, int]
    ranges = True

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.folder / self.path.lstrip("/")
        status = next((s for part, s in self.statuses.items() if part in self.path), 200 if path.is_file() else 404)
        raw = path.read_bytes() if status == 200 else b""
        asked = self.headers.get("Range", "")
        size = len(raw)
        if status == 200 and asked and self.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, size - int(last))
            stop = min(int(last) + 1 if first and last else size, size)
            raw, status = raw[start:stop], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(raw)))
        if body:
            self.sent.append(len(raw))  # before the client can have it
        self.end_headers()
        if body:
            with contextlib.suppress(OSError):
                self.wfile.write(raw)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def _serving(handler: type[FileHandler]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def file_server(folder: Path, ranges: bool = True) -> Iterator[tuple[int, type[FileHandler]]]:
    """-> port, and the handler class with what was sent and the statuses to answer with."""
    handler = type("Handler", (FileHandler,), {"folder": folder, "sent": [], "statuses": {}, "ranges": ranges})
    with _serving(handler) as port:
        yield port, handler


class Proxy:
    """Forwards connections to a port; each new one suffers the next fault of ``faults``, or ``always`` after them.

    Faults: ``("drop", 0)`` closes at once, ``("cut", n)`` closes after n bytes of the answer, ``("silent", 0)`` never
    answers, ``("slow", s)`` waits s seconds before each piece of the answer.
    """

    def __init__(self, port: int):
        self.target, self.faults, self.always = port, deque[tuple[str, float]](), ("", 0.0)
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port = self._listener.getsockname()[1]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            fault = self.faults.popleft() if self.faults else self.always
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(client, fault), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, fault: tuple[str, float]) -> None:
        kind, amount = fault
        with client:
            if kind == "drop":
                return
            if kind == "silent":
                self._stop.wait(30)
                return
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                there = threading.Thread(target=self._pump, args=(client, server, "", 0.0), daemon=True)
                there.start()
                self._pump(server, client, kind, amount)
                for end in (client, server):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                there.join(5)

    def _pump(self, source: socket.socket, sink: socket.socket, kind: str, amount: float) -> None:
        source.settimeout(0.1)
        left = int(amount) if kind == "cut" else -1
        while not self._stop.is_set() and left:
            try:
                piece = source.recv(min(16384, left) if left > 0 else 16384)
            except TimeoutError:
                continue
            except OSError:
                return
            if not piece:
                return
            if kind == "slow":
                time.sleep(amount)
            try:
                sink.sendall(piece)
            except OSError:
                return
            left = left - len(piece) if left > 0 else left


@contextlib.contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    made = Proxy(port)
    try:
        yield made
    finally:
        made.close()


class BucketHandler(FileHandler):
    """What reading needs of the S3 REST API, path style: GetObject with ranges, HeadObject, ListObjectsV2."""

    bucket = ""

    def do_HEAD(self) -> None:
        self._object(body=False)

    def do_GET(self) -> None:
        address = urllib.parse.urlsplit(self.path)
        asked = urllib.parse.parse_qs(address.query)
        if address.path.strip("/") == self.bucket and "list-type" in asked:
            self._listing(asked.get("prefix", [""])[0], asked.get("delimiter", [""])[0])
        else:
            self._object(body=True)

    def _object(self, body: bool) -> None:
        bucket, _, key = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip("/").partition("/")
        self.path = f"/{key}" if bucket == self.bucket else "/no such bucket"
        self._answer(body=body)

    def _listing(self, prefix: str, delimiter: str) -> None:
        sizes = {str(p.relative_to(self.folder)): p.stat().st_size for p in self.folder.rglob("*") if p.is_file()}
        found = {k: size for k, size in sizes.items() if k.startswith(prefix)}
        below: set[str] = set()
        if delimiter:
            ends = {k: k.find(delimiter, len(prefix)) for k in found}
            below = {k[: end + 1] for k, end in ends.items() if end >= 0}
            found = {k: size for k, size in found.items() if ends[k] < 0}
        entries = "".join(
            f"<Contents><Key>{html.escape(k)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
            f'<ETag>"0"</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>'
            for k, size in sorted(found.items())
        )
        folders = "".join(f"<CommonPrefixes><Prefix>{html.escape(k)}</Prefix></CommonPrefixes>" for k in sorted(below))
        answer = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{self.bucket}</Name><Prefix>{html.escape(prefix)}</Prefix>"
            f"<KeyCount>{len(found) + len(below)}</KeyCount><MaxKeys>1000000</MaxKeys><IsTruncated>false</IsTruncated>"
            f"{entries}{folders}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@contextlib.contextmanager
def s3_server(folder: Path, bucket: str) -> Iterator[int]:
    """The files below ``folder`` as a bucket of an S3-compatible server on loopback. -> port."""
    names = {"folder": folder, "bucket": bucket, "sent": [], "statuses": {}}
    with _serving(type("Handler", (BucketHandler,), names)) as port:
        yield port


@contextlib.contextmanager
def moto_server(folder: Path, bucket: str) -> Iterator[int]:
    """The same by moto (``pip install 'moto[server]'``), whose S3 others wrote. -> port."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1", **CREDENTIALS)
        client.create_bucket(Bucket=bucket)
        for path in folder.rglob("*"):
            if path.is_file():
                client.put_object(Bucket=bucket, Key=str(path.relative_to(folder)), Body=path.read_bytes())
        yield port
    finally:
        server.stop()


CREDENTIALS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
"""Of the servers above, which take any."""


def s3_storage(port: int, **more: Any) -> dict[str, Any]:
    """Options of ``EpisodeStore.open`` for the server above."""
    return {"key": "test", "secret": "test", "endpoint_url": f"http://127.0.0.1:{port}", **QUICK, **more}


QUICK = {"wait_s": 0.01, "longest_wait_s": 0.05, "timeout_s": 5.0}
"""Short pauses between attempts."""
