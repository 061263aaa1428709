"""Vendor controllers on their own wire: what a driver talks to when there is no robot.

::

    with WireProcess("robopolicy.sim.wire.feetech:FeetechBus", card="so101") as arm:
        driver = FeetechDriver(card, device=arm.address["device"], ...)
        arm.fault(freeze=True)
        arm.report()["violations"]

Each box runs in a process of its own: the vendor's client libraries busy-wait, and a box in the same process would
starve. Limits are judged here, at the wire, not in the code under test.
"""

from __future__ import annotations

from robopolicy.sim.wire.faults import WireFaults
from robopolicy.sim.wire.process import WireProcess
from robopolicy.sim.wire.recorder import WireRecorder

__all__ = ["WireFaults", "WireProcess", "WireRecorder"]
