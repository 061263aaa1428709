"""Who may be reached and how: loopback as it is, anything else only with a token and TLS. Also the files of both."""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from robopolicy.errors import DeployError, explain

__all__ = [
    "EndpointError",
    "Url",
    "check_server_endpoint",
    "client_tls",
    "is_loopback",
    "parse_url",
    "read_token",
    "server_tls",
]

SHORTEST_TOKEN = 16
LONGEST_TOKEN = 512


class EndpointError(DeployError):
    """An address, a token or a certificate that is not used."""


@dataclass(frozen=True)
class Url:
    """A checked ``ws://`` or ``wss://`` address.

    Attributes:
        text: As it is given to the websocket library.
        host, port: Its parts.
        secure: ``wss``.
    """

    text: str
    host: str
    port: int
    secure: bool


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and nothing else. A name other than ``localhost`` is not looked up: it is not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path | str | None) -> str | None:
    """The token in a file that only its owner may read.

    Raises:
        EndpointError: no such file, others may read it, or it holds no usable token.
    """
    if path is None:
        return None
    path = Path(path).expanduser()
    mend = f"umask 077; openssl rand -hex 24 > {path.name}"
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            raw = stream.read(LONGEST_TOKEN + 2)
    except OSError as error:
        raise EndpointError(explain("the token file cannot be read", given=error, mend=mend)) from error
    if mode & 0o077:
        raise EndpointError(
            explain("others may read the token file", given=oct(mode), allowed="0o600", mend=f"chmod 600 {path}")
        )
    token = raw.decode("ascii", "replace").strip()
    good = SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN and token.isascii() and all(33 <= ord(c) < 127 for c in token)
    if not good:
        allowed = f"{SHORTEST_TOKEN} to {LONGEST_TOKEN} printable characters without spaces"
        raise EndpointError(
            explain("the token file holds no token", given=f"{len(token)} characters", allowed=allowed, mend=mend)
        )
    return token


def check_server_endpoint(host: str, *, token: str | None, tls_cert: str | None, tls_key: str | None) -> None:
    """Refuse to listen beyond this machine without a token and a certificate.

    Raises:
        EndpointError: something is missing.
    """
    if bool(tls_cert) != bool(tls_key):
        raise EndpointError(explain("a certificate and its key belong together", mend="give tls_cert= and tls_key="))
    missing = [name for name, given in (("token_file", token), ("tls_cert and tls_key", tls_cert)) if not given]
    if missing and not is_loopback(host):
        raise EndpointError(
            explain(
                f"beyond this machine a policy is served with a token and TLS only; missing: {', '.join(missing)}",
                given=f"host={host}",
                allowed="127.0.0.1, ::1, localhost",
                mend="give token_file=, tls_cert= and tls_key=, or tunnel: ssh -L 8000:127.0.0.1:8000 SERVER",
            )
        )


def parse_url(text: str, *, token: str | None) -> Url:
    """A server's address, checked by the same rule from the client's side.

    Raises:
        EndpointError: no websocket address, or one beyond this machine without TLS or without a token.
    """
    allowed = "ws://127.0.0.1:8000, wss://server.example:8000"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise EndpointError(explain(f"not an address ({error})", given=ascii(text)[:200], allowed=allowed)) from error
    odd = parts.username or parts.password or parts.query or parts.fragment
    if parts.scheme not in ("ws", "wss") or not host or odd:
        raise EndpointError(explain("not the address of a policy server", given=ascii(text)[:200], allowed=allowed))
    secure = parts.scheme == "wss"
    if not is_loopback(host) and not (secure and token):
        missing = " and ".join(([] if secure else ["wss://"]) + ([] if token else ["a token"]))
        raise EndpointError(
            explain(
                f"a server on another machine is asked with TLS and a token only; missing: {missing}",
                given=text,
                allowed=allowed,
                mend="use wss:// and token_file=, or tunnel: ssh -L 8000:127.0.0.1:8000 SERVER",
            )
        )
    return Url(text, host, port or (443 if secure else 80), secure)


def server_tls(cert: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or newer with the server's certificate chain.

    Raises:
        EndpointError: files that do not load or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(Path(cert).expanduser(), Path(key).expanduser())
    except (OSError, ssl.SSLError) as error:
        raise EndpointError(explain("the certificate cannot be loaded", given=f"{cert}, {key}: {error}")) from error
    return context


def client_tls(ca: str | None) -> ssl.SSLContext:
    """TLS that verifies the server's name and chain; against ``ca`` alone when it is given.

    Raises:
        EndpointError: ``ca`` does not load.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(Path(ca).expanduser()))
    except (OSError, ssl.SSLError) as error:
        raise EndpointError(explain("the certificate authority cannot be loaded", given=f"{ca}: {error}")) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
