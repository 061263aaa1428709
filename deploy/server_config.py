"""Configuration of the policy server (``configs/serve.yaml``)."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from robopolicy.deploy.array_codec import FrameLimits
from robopolicy.deploy.endpoint import check_server_endpoint, server_tls
from robopolicy.deploy.server_observation import OPENPI_KEYS
from robopolicy.schema import setting

__all__ = ["ServerConfig"]


@dataclass(frozen=True)
class ServerConfig:
    """How a policy is served.

    Attributes:
        token: Secret that clients show; never part of a configuration file, see
            :func:`~robopolicy.deploy.endpoint.read_token`.
        keys: Where the values stand in maps of openpi's clients.
    """

    host: str = setting("address to listen on", default="127.0.0.1")
    port: int = setting("port; 0: any free one", default=8000, ge=0, le=65535)
    tls_cert: str | None = setting("certificate chain, PEM", default=None)
    tls_key: str | None = setting("its key, PEM", default=None)
    max_clients: int = setting("clients at once", default=16, ge=1, le=1024)
    max_frame_mib: float = setting("largest frame, MiB", default=16.0, gt=0, le=1024)
    warm_up: int = setting("calls before anybody is let in", default=2, ge=0)
    token: str | None = field(default=None, repr=False)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(OPENPI_KEYS))

    @property
    def limits(self) -> FrameLimits:
        """Bounds of a frame."""
        return FrameLimits(max_bytes=round(self.max_frame_mib * 2**20))

    def check(self) -> None:
        """Refuse an address beyond this machine without token and certificate, before a policy is loaded.

        Raises:
            EndpointError: something is missing or does not load.
        """
        check_server_endpoint(self.host, token=self.token, tls_cert=self.tls_cert, tls_key=self.tls_key)
        self.tls()

    def tls(self) -> ssl.SSLContext | None:
        """The server's side of TLS, None without a certificate."""
        return server_tls(self.tls_cert, self.tls_key) if self.tls_cert and self.tls_key else None
