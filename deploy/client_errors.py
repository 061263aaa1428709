"""What can go wrong between a policy client and its server. All of it is an error for the worker, never for the arm."""

from __future__ import annotations

from robopolicy.errors import DeployError

__all__ = [
    "DeadlineError",
    "PolicyServerError",
    "ReplyError",
    "ServerChangedError",
    "ServerGoneError",
    "ServerRefusedError",
    "ServerSaidError",
]


class PolicyServerError(DeployError):
    """Root: no usable chunk came from the server this time. Asking again later is allowed."""


class DeadlineError(PolicyServerError):
    """The answer was not there in time."""


class ServerGoneError(PolicyServerError):
    """No connection: refused, lost, or waiting for the next attempt."""


class ServerRefusedError(PolicyServerError):
    """The server does not let us in: wrong token, too many clients, not a policy server, wrong certificate."""


class ServerSaidError(PolicyServerError):
    """The server answered with an error of its own."""


class ReplyError(PolicyServerError):
    """A reply that must not become motion."""


class ServerChangedError(PolicyServerError):
    """After a reconnect the server serves something else than before."""
