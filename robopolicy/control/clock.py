"""Two clocks with one face: the machine's monotonic clock, and one that a test or a simulation moves by hand."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from typing import Protocol, runtime_checkable

from robopolicy.errors import ConfigError, explain

__all__ = ["Clock", "MonotonicClock", "VirtualClock"]

_CLOCK_MONOTONIC = 1
_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


@runtime_checkable
class Clock(Protocol):
    """Nanoseconds that only grow."""

    def now_ns(self) -> int:
        """Time on this clock."""
        ...

    def sleep_until_ns(self, t_ns: int) -> None:
        """Return at ``t_ns`` or as soon after as possible; at once when it is past."""
        ...


class MonotonicClock:
    """``CLOCK_MONOTONIC``. Sleeps with ``clock_nanosleep(TIMER_ABSTIME)`` where libc has it.

    An absolute sleep does not drift by the time that passes between reading the clock and going to sleep, and the
    call through ctypes gives up the interpreter lock. Elsewhere it falls back to ``time.sleep``.
    """

    def __init__(self) -> None:
        self._nanosleep = _find_nanosleep()

    @property
    def absolute(self) -> bool:
        """Whether sleeps are absolute (Linux) or fall back to ``time.sleep``."""
        return self._nanosleep is not None

    def now_ns(self) -> int:
        """Time on ``CLOCK_MONOTONIC``."""
        return time.monotonic_ns()

    def sleep_until_ns(self, t_ns: int) -> None:
        """Sleep until ``t_ns``; a signal does not end the sleep early.

        Raises:
            OSError: the system refuses the time given.
        """
        if self._nanosleep is None:
            left_ns = t_ns - time.monotonic_ns()
            if left_ns > 0:
                time.sleep(left_ns * 1e-9)
            return
        if t_ns <= time.monotonic_ns():
            return
        until = _Timespec(t_ns // 1_000_000_000, t_ns % 1_000_000_000)
        while True:
            code = self._nanosleep(_CLOCK_MONOTONIC, _TIMER_ABSTIME, ctypes.byref(until), None)
            if code == 0:
                return
            if code != errno.EINTR:
                raise OSError(code, f"clock_nanosleep: {os.strerror(code)}")


class VirtualClock:
    """A clock that stands still until it is told to move; sleeping moves it.

    Args:
        start_ns: First reading.
    """

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = int(start_ns)

    def now_ns(self) -> int:
        """The current reading."""
        return self._now_ns

    def sleep_until_ns(self, t_ns: int) -> None:
        """Jump to ``t_ns``; never back."""
        self._now_ns = max(self._now_ns, int(t_ns))

    def advance_ns(self, duration_ns: int) -> None:
        """Move forward.

        Raises:
            ConfigError: a negative duration.
        """
        if duration_ns < 0:
            raise ConfigError(explain("a clock only moves forward", given=duration_ns, allowed=">= 0"))
        self._now_ns += int(duration_ns)


def _find_nanosleep():  # type: ignore[no-untyped-def]
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None).clock_nanosleep
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Timespec), ctypes.c_void_p)
    function.restype = ctypes.c_int
    return function
