"""Who may do what on the operator's page: tokens, roles, and which requests are a browser's own.

========= ==============================================================================================
role      may
========= ==============================================================================================
(none)    ``stop``, from this machine: a stop is never refused
observe   see everything
operate   send every event of the state machine, and hold the dead-man's key
========= ==============================================================================================

A request that another web site makes a browser send is refused whatever it asks, by its Origin; one that reached us
under a foreign name (DNS rebinding), by its Host.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robopolicy.errors import DeployError, explain

__all__ = ["TOKEN_FILE", "URL_FILE", "Role", "Tokens", "foreign", "page_url", "security_headers"]

TOKEN_FILE, OBSERVER_FILE, URL_FILE = "operator.token", "observer.token", "operator.url"
TOKEN_BYTES = 16
LOCAL = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?", re.ASCII)
"""Names of this machine. The port is the browser's business: a tunnel may end at another one."""

Role = Literal["observe", "operate"]


@dataclass(frozen=True)
class Tokens:
    """The two secrets of a run, 128 bits each.

    Attributes:
        operate: For whoever drives.
        observe: For whoever looks on.
    """

    operate: str
    observe: str

    @classmethod
    def create(cls, run_dir: Path) -> Tokens:
        """New tokens, written into the run folder for this user's eyes only."""
        made = cls(secrets.token_hex(TOKEN_BYTES), secrets.token_hex(TOKEN_BYTES))
        write_private(run_dir / TOKEN_FILE, made.operate)
        write_private(run_dir / OBSERVER_FILE, made.observe)
        return made

    def role(self, token: object) -> Role | None:
        """Whose token it is; None for anything else. Takes as long for a wrong one as for a right one."""
        given = token.encode("utf-8", "replace") if isinstance(token, str) else b""
        operate = hmac.compare_digest(given, self.operate.encode())
        observe = hmac.compare_digest(given, self.observe.encode())
        return "operate" if operate else "observe" if observe else None

    def role_of(self, headers: Mapping[str, str]) -> Role | None:
        """As :meth:`role`, of the header ``Authorization: Bearer TOKEN``."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        return self.role(token.strip()) if scheme.lower() == "bearer" else None


def write_private(path: Path, text: str) -> None:
    """A new file of mode 0600; whatever stood there, a link for example, is replaced and not followed."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text + "\n")


def remove_private(run_dir: Path) -> None:
    """Take the files of this run away: what they say is no longer true."""
    for name in (TOKEN_FILE, OBSERVER_FILE, URL_FILE):
        with contextlib.suppress(OSError):
            (run_dir / name).unlink(missing_ok=True)


def page_url(run_dir: str | Path) -> str:
    """The page of a running daemon, its token in the fragment: that part of an address is never sent or logged.

    Raises:
        DeployError: that daemon serves no page.
    """
    try:
        return (Path(run_dir) / URL_FILE).read_text().strip()
    except OSError as error:
        raise DeployError(
            explain(f"no operator's page in {run_dir} ({error})", mend="start the daemon with deploy.operator.port=0")
        ) from error


def foreign(headers: Mapping[str, str]) -> str:
    """Why a request is not one of our own page or of a local program, or nothing."""
    host = headers.get("Host", "")
    if not LOCAL.fullmatch(host):
        return "the page is served under the name of this machine only; mend: open http://127.0.0.1:PORT"
    origin = headers.get("Origin")
    if origin is not None and origin != f"http://{host}":
        return "another site's page may not ask this one"
    return ""


def security_headers(host: str) -> dict[str, str]:
    """Headers of every answer: nothing from elsewhere, nothing inline, no frame around it, nothing kept.

    Args:
        host: The request's own Host, already found local; older browsers do not count a websocket as ``'self'``.
    """
    live = f" ws://{host}" if LOCAL.fullmatch(host) else ""
    return {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            f"connect-src 'self'{live}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
        "Cache-Control": "no-store",
    }
