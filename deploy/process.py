"""What a process of the daemon asks of the operating system: real-time priority, locked memory, death of the parent."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys

__all__ = ["ParentWatch", "become_realtime", "die_with_parent", "ignore_terminal_signals"]

PR_SET_PDEATHSIG = 1
MCL_CURRENT, MCL_FUTURE = 1, 2


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send ``number`` to this process when the thread that started it ends (Linux; else nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def ignore_terminal_signals() -> None:
    """Leave Ctrl-C to the supervisor: an arm must not lose its loop because a key was pressed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class ParentWatch:
    """Notices that the parent is gone, whatever killed it: an orphan is given another parent.

    Args:
        parent: Process id that the parent told us; catches a death before this object was made.
    """

    def __init__(self, parent: int):
        self._parent = parent

    @property
    def lost(self) -> bool:
        """Whether the parent has ended."""
        return os.getppid() != self._parent


def become_realtime(priority: int) -> list[str]:
    """Ask for FIFO scheduling and locked memory, and stop the garbage collector.

    Nothing here is required: what the system refuses is returned as a note, and the loop runs with ordinary priority.

    Args:
        priority: SCHED_FIFO priority 1..99; 0 asks for nothing.

    Returns:
        One line per refusal, with the mend.
    """
    notes = []
    if priority > 0:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        except (OSError, AttributeError) as error:
            notes.append(f"no SCHED_FIFO ({error}); mend: run as root, or set LimitRTPRIO / ulimit -r {priority}")
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.mlockall(MCL_CURRENT | MCL_FUTURE) != 0:
                notes.append(f"no mlockall ({os.strerror(ctypes.get_errno())}); mend: ulimit -l unlimited")
    gc.collect()
    gc.freeze()
    gc.disable()
    return notes
