"""Settings of a policy server's client. No network code: every process of the daemon reads its configuration."""

from __future__ import annotations

from dataclasses import dataclass

from robopolicy.schema import setting

__all__ = ["ClientConfig", "RemoteConfig", "is_remote"]


@dataclass(frozen=True)
class ClientConfig:
    """How a policy server is asked."""

    token_file: str | None = setting("file with the server's token, mode 0600", default=None)
    tls_ca: str | None = setting("certificate authority of the server, PEM; null: the system's", default=None)
    deadline_s: float = setting("a call may take this long, s", default=1.0, gt=0)
    connect_timeout_s: float = setting("connecting may take this long, s", default=5.0, gt=0)
    backoff_s: float = setting("wait after the first failed attempt, doubled each time, s", default=0.1, gt=0)
    backoff_cap_s: float = setting("longest wait between attempts, s", default=5.0, gt=0)
    max_frame_mib: float = setting("largest frame, MiB", default=16.0, gt=0, le=1024)
    seed: int = setting("of the jitter of the waits", default=0, ge=0)


@dataclass(frozen=True)
class RemoteConfig:
    """``deploy.remote``: a policy server in the place of a policy."""

    client: ClientConfig = setting("token, deadlines, waits", default=ClientConfig())
    mapping: str | None = setting("configs/policy_server/<name>.yaml, for servers that are not ours", default=None)


def is_remote(name: str) -> bool:
    """Whether a policy's name is the address of a server."""
    return name.startswith(("ws://", "wss://"))
